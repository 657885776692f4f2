"""Data sets laid out as they are published: which images are probed, and whether their masks are used."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from probe_help import Told, picture, save, tiny_broden, tiny_panoptic

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.probe import load_probe
from concept_monitor_cli.probe.labelmaps import looks_like_map
from concept_monitor_cli.probe.layouts import pair

W, H = 48, 36
NUMBERS = range(4)


def _photo(path: Path, number: int = 0) -> None:
    save(path, picture(W, H, number))


def _mask(path: Path, values=(0, 1), colours: bool = False) -> None:
    mask = np.full((H, W), values[0], dtype=np.uint16 if max(values) > 255 or colours else np.uint8)
    mask[:, W // 2 :] = values[1]
    if len(values) > 2:
        mask[: H // 3] = values[2]
    save(path, np.dstack([mask, mask * 37 % 256, mask * 91 % 256]).astype(np.uint8) if colours else mask)


def voc(top: Path, name: str = "VOC2012") -> None:
    for k in NUMBERS:
        _photo(top / name / "JPEGImages" / f"2007_{k}.jpg", k)
        for folder in ("SegmentationClass", "SegmentationObject"):
            _mask(top / name / folder / f"2007_{k}.png", (0, 1 + k, 255))


def cityscapes(top: Path) -> None:
    for k in NUMBERS:
        stem = f"train/aachen/aachen_{k:06d}_000019"
        _photo(top / "leftImg8bit" / f"{stem}_leftImg8bit.png", k)
        _mask(top / "gtFine" / f"{stem}_gtFine_labelIds.png", (7, 26, 0))
        _mask(top / "gtFine" / f"{stem}_gtFine_instanceIds.png", (7000, 26001))
        _mask(top / "gtFine" / f"{stem}_gtFine_color.png", (7, 26), colours=True)


def ade(top: Path) -> None:
    for k in NUMBERS:
        split = ("training", "validation")[k % 2]
        _photo(top / "images" / split / f"ADE_{k}.jpg", k)
        _mask(top / "annotations" / split / f"ADE_{k}.png", (1, 3, 0))
    (top / "objectInfo150.txt").write_text("Idx\tName\n1\twall\n2\tbuilding\n3\tsky\n")


def ade_full(top: Path) -> None:
    for k in NUMBERS:
        stem = f"images/ADE/training/home/attic/ADE_train_{k:08d}"
        _photo(top / f"{stem}.jpg", k)
        for ending in ("_seg", "_parts_1"):
            _mask(top / f"{stem}{ending}.png", (1, 3), colours=True)


def pets(top: Path) -> None:
    for k in NUMBERS:
        _photo(top / "images" / f"cat_{k}.jpg", k)
        _mask(top / "annotations" / "trimaps" / f"cat_{k}.png", (1, 2, 3))
        (top / "annotations" / "trimaps" / f"._cat_{k}.png").write_bytes(b"\0\5\x16\7")


def kaggle_camvid(top: Path) -> None:
    for k in NUMBERS:
        split = ("train", "val")[k % 2]
        _photo(top / split / f"f{k}.png", k)
        _mask(top / f"{split}_labels" / f"f{k}_L.png", (1, 2), colours=True)
    (top / "class_dict.csv").write_text("name,r,g,b\nsky,1,37,91\nroad,2,74,182\n")


def segnet_camvid(top: Path) -> None:
    for k in NUMBERS:
        _photo(top / "train" / f"f{k}.png", k)
        _mask(top / "trainannot" / f"f{k}.png")
    (top / "classes.txt").write_text("background\nsky\n")


def mapillary(top: Path) -> None:
    for k in NUMBERS:
        _photo(top / "training" / "images" / f"{k}.jpg", k)
        _mask(top / "training" / "labels" / f"{k}.png")
        _mask(top / "training" / "instances" / f"{k}.png", (256, 513))
    labels = [{"name": "void", "readable": "Void"}, {"name": "bird", "readable": "Bird"}]
    (top / "config.json").write_text(json.dumps({"labels": labels}))


def bdd(top: Path) -> None:
    for k in NUMBERS:
        _photo(top / "images" / "10k" / "train" / f"{k}-x.jpg", k)
        _mask(top / "labels" / "sem_seg" / "masks" / "train" / f"{k}-x.png", (0, 13, 255))


def celeba(top: Path) -> None:
    for k in NUMBERS:
        _photo(top / "CelebA-HQ-img" / f"{k}.jpg", k)
        for part in ("skin", "hair"):
            _mask(top / "CelebAMask-HQ-mask-anno" / "0" / f"{k:05d}_{part}.png", (0, 255))


def coco_stuff(top: Path) -> None:
    for k in NUMBERS:
        _photo(top / "val2017" / f"{k:012d}.jpg", k)
        _mask(top / "stuffthingmaps" / "val2017" / f"{k:012d}.png", (3, 120, 255))
    (top / "annotations").mkdir()
    (top / "annotations" / "instances_val2017.json").write_text('{"images": []}')


def sbd(top: Path) -> None:
    for k in NUMBERS:
        _photo(top / "img" / f"{k}.jpg", k)
    (top / "cls").mkdir()
    (top / "cls" / "0.mat").write_bytes(b"x")


def pascal_context(top: Path) -> None:
    for k in NUMBERS:
        _photo(top / "JPEGImages" / f"{k}.jpg", k)
        _mask(top / "SegmentationClassContext" / f"{k}.png", (1, 30))


def flat_suffixes(top: Path) -> None:
    for k in NUMBERS:
        _photo(top / f"benign ({k}).png", k)
        _mask(top / f"benign ({k})_mask.png", (0, 255))
    (top / "classes.txt").write_text("background\nlesion\n")


def train_and_masks(top: Path) -> None:
    for k in NUMBERS:
        _photo(top / "train" / f"{k}.jpg", k)
        _mask(top / "masks" / f"{k}_mask.gif")
    (top / "classes.txt").write_text("background\ncar\n")


def deepglobe(top: Path) -> None:
    for k in NUMBERS:
        _photo(top / "train" / f"{k}_sat.jpg", k)
        _mask(top / "train" / f"{k}_mask.png", (1, 2), colours=True)
    (top / "class_dict.csv").write_text("name,r,g,b\nurban_land,1,37,91\nwater,2,74,182\n")


def jpg_png(top: Path) -> None:
    for k in NUMBERS:
        _photo(top / "images" / f"{k}.jpg", k)
        _mask(top / "masks" / f"{k}.jpg.png")
    (top / "classes.txt").write_text("background\nsky\n")


def same_names(top: Path) -> None:
    for k in NUMBERS:
        _photo(top / "images" / f"{k}.png", k)
        _mask(top / "masks" / f"{k}.png")
    (top / "classes.txt").write_text("background\nsky\n")


def prefixes(top: Path) -> None:
    for k in NUMBERS:
        _photo(top / "images" / f"image_{k}.jpg", k)
        _mask(top / "masks" / f"mask_{k}.png")
    (top / "classes.txt").write_text("background\nsky\n")


def _blob(k: int) -> np.ndarray:
    """A disc, as masks of organs and animals are."""
    y, x = np.ogrid[:H, :W]
    return np.where((y - 16 - k) ** 2 + (x - 20 - k) ** 2 < 120, 255, 0).astype(np.uint8)


def jpeg_masks(top: Path) -> None:
    """Kvasir-SEG: masks in JPEG, of nearly black and nearly white."""
    for k in NUMBERS:
        _photo(top / "images" / f"c{k}.jpg", k)
        path = top / "masks" / f"c{k}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(_blob(k)).save(path, quality=85)
    (top / "classes.txt").write_text("background\npolyp\n")


def jpeg_drawings(top: Path) -> None:
    """Oxford flowers: segmentations in few colours, in JPEG."""
    for k in NUMBERS:
        _photo(top / "jpg" / f"image_{k:05d}.jpg", k)
        path = top / "segmim" / f"segmim_{k:05d}.jpg"
        path.parent.mkdir(exist_ok=True)
        drawn = np.zeros((H, W, 3), np.uint8)
        drawn[:, : W // 3], drawn[:, W // 3 :] = (20, 20, 200), (200, 40, 40)
        Image.fromarray(drawn).save(path, quality=85)


def a_folder_for_each_photo(top: Path) -> None:
    """The nuclei of the Data Science Bowl 2018: several masks of a photo in a folder for each."""
    for k in range(10):
        _photo(top / f"id{k}" / "images" / f"id{k}.png", k)
        for cell in range(2):
            _mask(top / f"id{k}" / "masks" / f"cell{k}{cell}.png", (0, 255))


def kitti(top: Path) -> None:
    for k in NUMBERS:
        _photo(top / "image_2" / f"{k:06d}_10.png", k)
        _mask(top / "semantic" / f"{k:06d}_10.png", (7, 26))
        _mask(top / "semantic_rgb" / f"{k:06d}_10.png", (7, 26), colours=True)
    (top / "classes.csv").write_text("index,name\n7,road\n26,car\n")


def one_rest(top: Path) -> None:
    """Whatever stands after the photos' names, the same in all masks."""
    for k in NUMBERS:
        _photo(top / "images" / f"c{k}.jpg", k)
        _mask(top / "masks" / f"c{k}_groundtruth_v2.png")
    (top / "classes.txt").write_text("background\nsky\n")


def roboflow(top: Path) -> None:
    for k in NUMBERS:
        _photo(top / "train" / f"{k}_jpg.rf.0a.jpg", k)
        _mask(top / "train" / f"{k}_jpg.rf.0a_mask.png")
    (top / "train" / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, sky\n")


LAYOUTS = [
    # the layout, how many images, how many classes (None: masks are not used), a word that is said
    (voc, 4, 20, "VOC2012/, which is used"),
    (cityscapes, 4, 28, "read with the classes of Cityscapes"),
    (ade, 4, 3, None),
    (ade_full, 4, None, "8 files are not probed"),
    (pets, 4, 1, "1 is 'pet', 2 (background) and 3 (border) unlabelled"),
    (jpeg_masks, 4, 1, "255 is taken for 'polyp'"),
    (jpeg_drawings, 4, None, "4 files are not probed"),
    (a_folder_for_each_photo, 10, None, "20 files are not probed"),
    (kitti, 4, 2, None),
    (one_rest, 4, 1, None),
    (kaggle_camvid, 4, 2, None),
    (segnet_camvid, 4, 1, None),
    (mapillary, 4, 1, "training/, which is used"),
    (bdd, 4, 19, None),
    (celeba, 4, None, "8 files are not probed"),
    (coco_stuff, 4, None, "4 files are not probed"),
    (sbd, 4, None, None),
    (pascal_context, 4, None, "4 files are not probed"),
    (flat_suffixes, 4, 1, "255 is taken for 'lesion'"),
    (train_and_masks, 4, 1, None),
    (deepglobe, 4, 2, None),
    (jpg_png, 4, 1, None),
    (same_names, 4, 1, None),
    (prefixes, 4, 1, None),
    (tiny_broden, 3, 6, None),
    (tiny_panoptic, 2, 4, None),
]


@pytest.mark.parametrize(
    ("make", "images", "classes", "said"), LAYOUTS, ids=[layout[0].__name__ for layout in LAYOUTS]
)
@pytest.mark.parametrize("above", [False, True])
def test_layouts(tmp_path, make, images, classes, said, above):
    folder = tmp_path / "the set"
    make(folder)
    told = Told()
    probe = load_probe(str(tmp_path if above else folder), progress=told)
    assert len(probe) == images
    for index in range(images):  # photos, not masks
        assert not looks_like_map(probe.image(index)) or make is tiny_broden
    if classes is None:
        assert probe.annotations is None
    else:
        assert len(probe.annotations.labels) == classes
        assert any(probe.annotations.image(index).categories for index in range(images))
    assert said is None or any(said in message for message in told.notices + told.warnings)


def test_a_class_list_of_roboflow(tmp_path):
    roboflow(tmp_path)
    probe = load_probe(str(tmp_path / "train"))
    assert [label.name for label in probe.annotations.labels] == ["sky"]


def test_a_rest_that_differs_or_names_no_classes_pairs_nothing():
    photos = ["c0.jpg", "c1.jpg"]
    assert pair(photos, ["c0_v1.png", "c1_v1.png"]) == [("c0.jpg", "c0_v1.png"), ("c1.jpg", "c1_v1.png")]
    assert pair(photos, ["segc0.png", "segc1.png"]) == [("c0.jpg", "segc0.png"), ("c1.jpg", "segc1.png")]
    assert pair(photos, ["c0_v1.png", "c1_v2.png"]) == []
    assert pair(photos, ["c0_depth16.png", "c1_depth16.png"]) == []


def test_jpeg_masks_with_greys_are_not_used(tmp_path):
    jpeg_masks(tmp_path)
    for k in NUMBERS:
        grey = np.linspace(0, 255, W).astype(np.uint8)
        Image.fromarray(np.tile(np.where(grey > 127, 255, grey // 2), (H, 1))).save(
            tmp_path / "masks" / f"c{k}.jpg"
        )
    probe = load_probe(str(tmp_path))
    assert probe.annotations is None


def test_several_data_sets_below_are_named(tmp_path):
    for name in ("VOC2007", "VOC2012"):
        voc(tmp_path, name)
    with pytest.raises(InputError, match="2 data sets with masks: VOC2007/, VOC2012/") as error:
        load_probe(str(tmp_path))
    assert f"--probe {tmp_path / 'VOC2007'}" in error.value.hint


def test_photos_beside_a_data_set_are_probed_with_it_and_masks_are_not(tmp_path):
    voc(tmp_path)
    _photo(tmp_path / "mine.jpg", 77)
    told = Told()
    probe = load_probe(str(tmp_path), progress=told)
    assert len(probe) == 5
    assert "--probe" in told.notices[0]
    assert "8 files are not probed" in told.warnings[0]


def test_a_folder_of_masks_alone_is_refused(tmp_path):
    voc(tmp_path)
    with pytest.raises(InputError, match="4 images look like label maps, and none"):
        load_probe(str(tmp_path / "VOC2012" / "SegmentationClass"))


# -- what is no label map ------------------------------------------------------------------------------------


def _all_probed(folder):
    told = Told()
    probe = load_probe(str(folder), progress=told)
    assert (told.warnings, probe.skipped) == ([], ())
    return len(probe)


def test_photos_of_one_name_in_folders_of_classes(tmp_path):
    for label in ("cat", "dog", "bird"):
        for k in NUMBERS:
            _photo(tmp_path / label / f"{k}.png", k)
    assert _all_probed(tmp_path) == 12


def test_drawings_in_few_colours(tmp_path):
    """Omniglot and MNIST as files: few colours, and nothing else to probe."""
    for label in range(3):
        for k in NUMBERS:
            _mask(tmp_path / "train" / str(label) / f"{k}.png", (0, 255))
    assert _all_probed(tmp_path) == 12


def test_photos_with_names_of_masks(tmp_path):
    for k in NUMBERS:
        _photo(tmp_path / "labels" / f"{k}.png", k)
        _photo(tmp_path / "pictures" / f"{k}.jpg", k)
        _photo(tmp_path / "pictures" / f"{k}_mask.png", k + 50)
    assert _all_probed(tmp_path) == 12


def test_quantised_photos(tmp_path):
    for k in NUMBERS:
        _photo(tmp_path / f"{k}.png", k)
        Image.open(tmp_path / f"{k}.png").convert("P").save(tmp_path / f"{k}.png")
    assert _all_probed(tmp_path) == 4


def test_label_maps_are_not_looked_for_among_jpegs(tmp_path, monkeypatch):
    """A folder of JPEG files costs no more than it did: none is opened to see what it is, but for a sample of
    those whose folder speaks of masks."""
    for k in range(20):
        _photo(tmp_path / f"{k}.jpg", k)
        _photo(tmp_path / "masks" / f"{k}.jpg", k + 20)
    opened: list[str] = []
    real = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: opened.append(self.parent.name) or real(self))
    assert len(load_probe(str(tmp_path))) == 40
    assert opened.count("masks") == 20 + 12
    assert len(opened) == 40 + 12


# -- pairs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("photo", "mask"),
    [
        ("a/0.jpg", "a/0.png"),
        ("0.jpg", "0.jpg.png"),
        ("0.jpg", "0_L.png"),
        ("0.jpg", "0_MASK.png"),
        ("x_leftImg8bit.png", "x_gtFine_labelIds.png"),
        ("7_sat.jpg", "7_mask.png"),
        ("train/0.jpg", "sem_seg/train/0.png"),
        ("image_3.jpg", "mask_3.png"),
        ("ISIC_0.jpg", "ISIC_0_segmentation.png"),
        ("21_training.tif", "21_manual1.gif"),
    ],
)
def test_pairs(photo, mask):
    assert pair([photo], [mask]) == [(photo, mask)]


def test_masks_of_other_photos_are_no_pairs():
    assert pair(["train/0.jpg", "val/0.jpg"], ["train/0.png"]) == [("train/0.jpg", "train/0.png")]
    assert pair(["0.jpg"], ["a/0.png", "b/0.png"]) == []
    assert pair(["1.jpg"], ["11.png"]) == []
    both = ["x_gtFine_color.png", "x_gtFine_labelTrainIds.png", "x_gtFine_labelIds.png"]
    assert pair(["x_leftImg8bit.png"], both) == [("x_leftImg8bit.png", "x_gtFine_labelIds.png")]
