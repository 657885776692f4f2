"""COCO panoptic folders and folders of index PNGs."""

from __future__ import annotations

import json

import numpy as np
import pytest
from natural_order import load_probe
from PIL import Image
from probe_help import Told, coded, picture, save, tiny_index_masks, tiny_panoptic

from concept_monitor_cli.errors import InputError

SIDE = 112


def _coverage(probe, index):
    names = {label.index: label.name for label in probe.annotations.labels}
    masks = probe.annotations.image(index).masks((SIDE, SIDE))
    return {names[label]: mask.mean() for label, mask in masks.items()}


# -- COCO panoptic -------------------------------------------------------------------------------------------


def test_panoptic(tmp_path):
    probe = load_probe(str(tiny_panoptic(tmp_path)))
    assert probe.ids == ("000000000000.jpg", "000000000001.jpg")
    assert [(label.name, label.category) for label in probe.annotations.labels] == [
        ("person", "thing"),
        ("wall", "stuff"),
        ("wood wall", "stuff"),
        ("sky", "stuff"),
    ]
    assert probe.annotations.mask_size == (SIDE, SIDE)
    for index in range(2):
        assert _coverage(probe, index) == {"person": 0.25, "sky": 0.5}
        labels = probe.annotations.image(index)
        assert labels.categories == ("stuff", "thing")
        (label_map,) = labels.maps
        assert (label_map[:56] == 3).all()
        assert (label_map[56:, :56] == 0).all()
        assert (label_map[56:, 56:] == -1).all()


def test_panoptic_by_its_json_file(tmp_path):
    tiny_panoptic(tmp_path)
    spec = tmp_path / "annotations" / "panoptic_val2017.json"
    assert load_probe(str(spec)).digest == load_probe(str(tmp_path)).digest


def test_panoptic_laid_out_flat(tmp_path):
    tiny_panoptic(tmp_path / "coco")
    flat = tmp_path / "flat"
    flat.mkdir()
    (tmp_path / "coco" / "val2017").rename(flat / "images")
    (tmp_path / "coco" / "annotations" / "panoptic_val2017").rename(flat / "masks")
    (tmp_path / "coco" / "annotations" / "panoptic_val2017.json").rename(flat / "mine.json")
    assert len(load_probe(str(flat))) == 2


def test_names_that_would_meet_stay_long(tmp_path):
    path = tiny_panoptic(tmp_path) / "annotations" / "panoptic_val2017.json"
    data = json.loads(path.read_text())
    data["categories"].append({"id": 9, "name": "sky-stuff", "isthing": 0})
    path.write_text(json.dumps(data))
    names = [label.name for label in load_probe(str(tmp_path)).annotations.labels]
    assert {"sky-other-merged", "sky-stuff", "wall"} <= set(names)


def test_several_panoptic_files_must_be_told_apart(tmp_path):
    tiny_panoptic(tmp_path)
    (tmp_path / "annotations" / "panoptic_train2017.json").write_text("{}")
    with pytest.raises(InputError, match="2 panoptic JSON files"):
        load_probe(str(tmp_path))


def _panoptic_with(tmp_path, change):
    path = tiny_panoptic(tmp_path) / "annotations" / "panoptic_val2017.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    return str(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("categories"), "not a COCO panoptic"),
        (lambda d: d.update(images=5), "not a COCO panoptic"),
        (lambda d: d["images"][0].update(id=[]), "not a COCO panoptic"),
        (lambda d: d["annotations"][0].update(segments_info=None), "not a COCO panoptic"),
        (lambda d: d.update(annotations=[]), "no annotations"),
        (lambda d: d["annotations"][0].update(image_id=99), "unknown image"),
        (lambda d: d["annotations"][0]["segments_info"][0].update(category_id=99), "category 99"),
        (lambda d: d["images"][1].update(file_name="../../etc/passwd"), "leads out of the folder"),
        (lambda d: d["annotations"][1].update(file_name="/etc/passwd"), "leads out of the folder"),
        (lambda d: d["images"][1].update(file_name="gone.jpg"), "1 of 2 images are missing"),
        (lambda d: d["annotations"][1].update(file_name="gone.png"), "1 of 2 masks are missing"),
        (lambda d: d["annotations"][0].update(file_name="x" * 5000), "masks are missing"),
        (lambda d: d["annotations"][0].update(file_name="\ud800.png"), "masks are missing"),
    ],
)
def test_malformed_panoptic_files(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        load_probe(_panoptic_with(tmp_path, change))


@pytest.mark.parametrize("text", ["", "[]", "5", '{"categories": ', "[" * 100_000, '"\xff'])
def test_panoptic_files_that_are_no_such_json(tmp_path, text):
    path = tiny_panoptic(tmp_path) / "annotations" / "panoptic_val2017.json"
    path.write_text(text)
    with pytest.raises(InputError, match="not a COCO panoptic"):
        load_probe(str(tmp_path))


def test_segments_that_are_not_listed(tmp_path):
    probe = load_probe(_panoptic_with(tmp_path, lambda d: d["annotations"][0]["segments_info"].pop()))
    assert probe.annotations is None
    assert "segment 258" in probe.masks_problem.what


def test_panoptic_masks_of_another_frame(tmp_path):
    probe = load_probe(str(tiny_panoptic(tmp_path)))
    save(tmp_path / "annotations/panoptic_val2017/000000000000.png", coded(np.zeros((30, 20), np.int64)))
    with pytest.raises(InputError, match=r"a mask is 30 x 20 .*, its image 20 x 30"):
        probe.annotations.image(0)


# -- index PNGs ----------------------------------------------------------------------------------------------


def test_index_masks(tmp_path):
    told = Told()
    probe = load_probe(str(tiny_index_masks(tmp_path)), progress=told)
    assert probe.ids == ("seq1/frame2.jpg", "seq1/frame10.jpg")
    assert [(label.number, label.name) for label in probe.annotations.labels] == [(1, "road"), (3, "sky")]
    assert probe.concepts.categories == ("object", "object")
    for index in range(2):
        assert _coverage(probe, index) == {"road": pytest.approx(0.25, abs=0.02), "sky": 0.5}
    (void,) = told.notices
    assert "number 255, which classes.txt does not name, is taken as unlabelled: 0.3%" in void


@pytest.mark.parametrize("scale", [0.5, 2, 3])
def test_masks_of_another_resolution_are_fine(tmp_path, scale):
    probe = load_probe(str(tiny_index_masks(tmp_path)))
    path = tmp_path / "masks" / "seq1" / "frame2.png"
    mask = Image.open(path)
    mask.resize((int(24 * scale), int(16 * scale)), Image.Resampling.NEAREST).save(path)
    assert _coverage(probe, 0)["sky"] == 0.5


def test_masks_of_another_frame_are_not(tmp_path):
    probe = load_probe(str(tiny_index_masks(tmp_path)))
    save(tmp_path / "masks" / "seq1" / "frame2.png", np.zeros((24, 16), np.uint8))
    with pytest.raises(InputError, match=r"a mask is 24 x 16 .*, its image 16 x 24"):
        probe.annotations.image(0)


def test_numbers_that_are_not_listed(tmp_path):
    told = Told()
    probe = load_probe(str(tiny_index_masks(tmp_path, classes="background\nroad\n")), progress=told)
    assert len(probe) == 2
    assert (probe.annotations, probe.concepts, probe.has_masks) == (None, None, False)
    assert "2 of 2 masks hold label number 3 (50% of all pixels)" in probe.masks_problem.what
    assert "label number 3" in told.warnings[0]


def test_colour_coded_masks_are_refused(tmp_path):
    probe = load_probe(str(tiny_index_masks(tmp_path)))
    save(tmp_path / "masks" / "seq1" / "frame2.png", picture(24, 16))
    with pytest.raises(InputError, match="not class numbers"):
        probe.annotations.image(0)


def test_camvid(tmp_path):
    """fastai's layout: `labels/` with `_P` after the name, `codes.txt` from 0 on."""
    tiny_index_masks(tmp_path)
    (tmp_path / "masks").rename(tmp_path / "labels")
    for path in (tmp_path / "labels" / "seq1").iterdir():
        path.rename(path.with_name(path.stem + "_P.png"))
    (tmp_path / "classes.txt").unlink()
    (tmp_path / "codes.txt").write_text("Animal\nArchway\nVoid\nSky\n\n")
    probe = load_probe(str(tmp_path))
    assert set(_coverage(probe, 0)) == {"Animal", "Archway", "Sky"}


def test_ade20k(tmp_path):
    """`annotations/` and `objectInfo150.txt`, where 0 is unlabelled without being listed."""
    tiny_index_masks(tmp_path)
    (tmp_path / "masks").rename(tmp_path / "annotations")
    (tmp_path / "classes.txt").unlink()
    text = (
        "Idx\tRatio\tTrain\tVal\tName\n1\t0.1\t2\t2\twall, walls\n2\t0.1\t2\t2\tbuilding\n3\t0.1\t2\t2\tsky\n"
    )
    (tmp_path / "objectInfo150.txt").write_text(text)
    probe = load_probe(str(tmp_path))
    assert probe.concepts.concepts == ("wall", "building", "sky")
    assert set(_coverage(probe, 0)) == {"wall", "sky"}


def test_pascal_voc(tmp_path):
    """No class list of its own, and most images without a mask."""
    told = Told()
    tiny_index_masks(tmp_path)
    (tmp_path / "images").rename(tmp_path / "JPEGImages")
    (tmp_path / "masks").rename(tmp_path / "SegmentationClass")
    (tmp_path / "classes.txt").unlink()
    save(tmp_path / "JPEGImages" / "more.jpg", picture())
    probe = load_probe(str(tmp_path), progress=told)
    assert len(probe) == 2
    assert len(probe.concepts) == 20
    assert set(_coverage(probe, 0)) == {"aeroplane", "bird"}
    assert "read with Pascal VOC's classes" in told.notices[0]
    assert "1 image without a mask is left out" in told.notices[1]


def test_a_class_table_with_categories(tmp_path):
    tiny_index_masks(tmp_path)
    (tmp_path / "classes.txt").unlink()
    (tmp_path / "classes.csv").write_text("index,name,category\n3,sky,scene\n1,road,\n255,frame,part\n")
    probe = load_probe(str(tmp_path))
    assert [(label.name, label.category) for label in probe.annotations.labels] == [
        ("sky", "scene"),
        ("road", "object"),
        ("frame", "part"),
    ]
    assert "frame" in _coverage(probe, 1)  # 255 is a class where it is listed as one


def test_images_without_a_mask_are_counted(tmp_path):
    told = Told()
    save(tiny_index_masks(tmp_path) / "images" / "more.jpg", picture())
    probe = load_probe(str(tmp_path), progress=told)
    assert len(probe) == 2
    assert [(each.id, each.reason) for each in probe.skipped] == [("more.jpg", "it has no mask")]
    assert "1 image without a mask is left out, the first: more.jpg" in told.warnings[0]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("classes.txt", "\nbackground\nVOID\n", "names no class"),
        ("classes.csv", "a,b\n1,2\n", "needs the columns"),
        ("classes.csv", "index,name\none,x\n", "malformed class list"),
        ("classes.csv", "index,name\n1,x\n1,y\n", "twice"),
        ("classes.csv", "index,name\n-1,x\n", "negative"),
        ("classes.csv", "index,name\n1\n", "malformed class list"),
        ("classes.csv", "index,name\n" + "9" * 5000 + ",x\n", "malformed class list"),
    ],
)
def test_malformed_class_lists(tmp_path, name, text, message):
    (tiny_index_masks(tmp_path) / "classes.txt").unlink()
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        load_probe(str(tmp_path))


def test_a_class_list_that_is_no_text(tmp_path):
    (tiny_index_masks(tmp_path) / "classes.txt").write_bytes(b"\xff\xfe\0")
    with pytest.raises(InputError, match="not a readable class list"):
        load_probe(str(tmp_path))
