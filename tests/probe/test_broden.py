"""Broden directories: a tiny one whose every pixel is known, and a real one."""

from __future__ import annotations

import csv
from collections import Counter

import numpy as np
import pytest
from natural_order import load_probe
from PIL import Image
from probe_help import INDEX, MAPS, Told, coded, map_of, picture, save, tiny_broden, write_csv

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.probe.broden import read_labels


def _names(probe, indices):
    return [probe.annotations.labels[index].name for index in indices]


def test_labels(tmp_path):
    probe = load_probe(str(tiny_broden(tmp_path)))
    labels = probe.annotations.labels
    assert [(label.index, label.number, label.name, label.category) for label in labels] == [
        (0, 1, "orange", "color"),
        (1, 2, "house", "object"),
        (2, 3, "window", "part"),
        (3, 300, "street", "scene"),
        (4, 5, "striped", "texture"),
        (5, 6, "orange", "object"),
    ]
    assert labels[1].categories == ("object", "part")
    assert labels[2].categories == ("part", "object")
    assert probe.annotations.categories == ("color", "object", "part", "scene", "texture")
    # the fruit and the colour stay apart
    assert probe.concepts.concepts == ("orange", "house", "window", "street", "striped", "orange")
    assert probe.concepts.categories == ("color", "object", "part", "scene", "texture", "object")


def test_images_in_the_order_of_the_index(tmp_path):
    probe = load_probe(str(tiny_broden(tmp_path)))
    assert probe.ids == ("set/b.png", "set/a.png", "set/c.png")
    assert probe.has_masks
    assert probe.annotations.mask_size == (2, 4)
    np.testing.assert_array_equal(np.asarray(probe.image(1)), picture(8, 4, 0))


def test_every_pixel(tmp_path):
    probe = load_probe(str(tiny_broden(tmp_path)))
    number = {0: -1} | {label.number: label.index for label in probe.annotations.labels}
    b, a, c = (probe.annotations.image(index) for index in range(3))
    assert [m.tolist() for m in a.maps] == [
        [[number[value] for value in row] for row in MAPS[name].tolist()]
        for name in ("a_color.png", "a_object.png", "a_part_1.png", "a_part_2.png")
    ]
    assert all(m.dtype == np.int32 for m in a.maps)
    assert (a.scalars, a.categories) == ((), ("color", "object", "part"))
    # a mask without labels carries no category; 0 is no label of the whole image either
    assert (b.maps, _names(probe, b.scalars), b.categories) == (
        (),
        ["street", "striped"],
        ("scene", "texture"),
    )
    assert (c.maps, c.scalars, c.categories) == ((), (), ())


def test_masks_by_label(tmp_path):
    probe = load_probe(str(tiny_broden(tmp_path)))
    b, a, _ = (probe.annotations.image(index) for index in range(3))
    masks = a.masks((2, 4))
    assert list(masks) == [0, 1, 2, 5]
    # the house is in an object and in a part map: each pixel once
    assert masks[1].tolist() == [[True] * 4, [True] * 4]
    assert masks[2].tolist() == [[False, True, False, False]] * 2
    assert {index: mask.all() for index, mask in b.masks((2, 4)).items()} == {3: True, 4: True}


def test_a_labels_category_is_the_one_where_it_covers_most(tmp_path):
    tiny_broden(tmp_path)
    write_csv(
        tmp_path / "c_object.csv",
        "code,number,name,frequency,coverage",
        [(1, 2, "house", 2, 0.1), (2, 3, "w", 1, 9)],
    )
    write_csv(
        tmp_path / "c_part.csv",
        "code,number,name,frequency,coverage",
        [(1, 2, "house", 1, 5.5), (2, 3, "w", 2, 1)],
    )
    categories = {label.name: label.categories for label in read_labels(tmp_path)}
    assert categories["house"] == ("part", "object")  # coverage beats the counts in brackets
    assert categories["window"] == ("object", "part")
    assert categories["striped"] == ("texture",)


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("object;part", "object"),
        ("object(1);part(1)", "object"),
        ("part(2);object(3)", "object"),
        ("part", "part"),
    ],
)
def test_ties_go_to_the_first_named(tmp_path, cell, expected):
    write_csv(tmp_path / "label.csv", "number,name,category", [(1, "x", cell)])
    assert read_labels(tmp_path)[0].category == expected


@pytest.mark.parametrize(
    ("name", "category", "shown"),
    [
        ("blue-c", "color", "blue"),
        ("street-s", "scene", "street"),
        ("t-s", "object", "t-s"),
        ("x-c", "scene", "x-c"),
        ("bow-window-s", "object(1);scene(9)", "bow-window"),
    ],
)
def test_suffixes(tmp_path, name, category, shown):
    write_csv(tmp_path / "label.csv", "number,name,category", [(1, name, category)])
    assert read_labels(tmp_path)[0].name == shown


def test_limit_and_subset_keep_labels_with_their_images(tmp_path):
    probe = load_probe(str(tiny_broden(tmp_path)))
    by_id = {name: probe.annotations.image(index) for index, name in enumerate(probe.ids)}
    some = load_probe(str(tmp_path), limit=2, seed=1)
    for chosen in (some, probe.subset([2, 1])):
        for index, name in enumerate(chosen.ids):
            assert chosen.annotations.image(index).categories == by_id[name].categories
            assert chosen.annotations.image(index).scalars == by_id[name].scalars


def test_kept_labels_are_the_same(tmp_path):
    probe = load_probe(str(tiny_broden(tmp_path)))
    kept = probe.annotations.keeping(2)
    first = kept.image(1)
    assert kept.image(1) is first
    kept.image(0)
    kept.image(2)
    assert kept.image(1) is not first
    assert probe.annotations.image(1) is not probe.annotations.image(1)


def test_the_digest_follows_masks_labels_and_order(tmp_path):
    annotations = load_probe(str(tiny_broden(tmp_path))).annotations
    same = load_probe(str(tmp_path)).annotations
    assert same.digest == annotations.digest
    assert annotations.subset([1, 0, 2]).digest != annotations.digest
    save(tmp_path / "images" / "set" / "a_color.png", coded(map_of([[1, 1, 0, 0], [0, 0, 0, 1]])))
    assert load_probe(str(tmp_path)).annotations.digest != annotations.digest


# -- bad input -----------------------------------------------------------------------------------------------


def _row(**cells):
    row = dict.fromkeys(INDEX.split(","), "") | {"image": "set/a.png", "ih": 4, "iw": 8, "sh": 2, "sw": 4}
    return [(row | cells)[name] for name in INDEX.split(",")]


@pytest.mark.parametrize(
    "cells",
    [
        {"image": "../secret.png"},
        {"image": "/etc/passwd"},
        {"image": "set/../../secret.png"},
        {"image": "C:\\secret.png"},
        {"image": "..\\secret.png"},
        {"image": ""},
        {"image": "a\0b"},
        {"object": "../secret.png"},
        {"object": "set/a_object.png;/etc/passwd"},
    ],
)
def test_paths_that_leave_the_folder_are_refused(tmp_path, cells):
    tiny_broden(tmp_path, index_rows=[_row(**cells)])
    with pytest.raises(InputError, match="leads out of the folder"):
        load_probe(str(tmp_path))


def test_missing_images_are_named_and_counted(tmp_path):
    tiny_broden(tmp_path)
    for name in "ac":
        (tmp_path / "images" / "set" / f"{name}.png").unlink()
    with pytest.raises(InputError, match=r"2 of 3 images are missing, the first is .*set/a\.png") as caught:
        load_probe(str(tmp_path))
    assert caught.value.where.endswith("index.csv")


def test_missing_masks_are_named_and_counted(tmp_path):
    tiny_broden(tmp_path)
    (tmp_path / "images" / "set" / "a_part_2.png").unlink()
    told = Told()
    probe = load_probe(str(tmp_path), progress=told)
    assert probe.ids == ("set/b.png", "set/c.png")
    assert [(each.id, each.reason) for each in probe.skipped] == [
        ("set/a.png", "a mask is missing: a_part_2.png")
    ]
    assert "1 image left out, the first: set/a.png (a mask is missing: a_part_2.png)" in told.warnings[0]
    for name in ("a_part_1.png", "a_color.png"):
        (tmp_path / "images" / "set" / name).unlink()
    with pytest.raises(InputError, match=r"3 of 5 masks are missing, the first is .*a_color\.png"):
        load_probe(str(tmp_path))


def test_a_mask_that_goes_missing_later(tmp_path):
    probe = load_probe(str(tiny_broden(tmp_path)))
    (tmp_path / "images" / "set" / "a_part_2.png").unlink()
    with pytest.raises(InputError, match="a mask is missing"):
        probe.annotations.image(1)


@pytest.mark.parametrize("shape", [(3, 4), (4, 2), (224, 224)])
def test_masks_of_the_wrong_size(tmp_path, shape):
    probe = load_probe(str(tiny_broden(tmp_path)))
    save(tmp_path / "images" / "set" / "a_color.png", coded(np.zeros(shape, np.int64)))
    with pytest.raises(InputError, match=r"not 2 x 4"):
        probe.annotations.image(1)


@pytest.mark.parametrize("number", [4, 7, 256, 65535])
def test_label_numbers_outside_label_csv(tmp_path, number):
    probe = load_probe(str(tiny_broden(tmp_path)))
    path = save(tmp_path / "images" / "set" / "a_color.png", coded(map_of([[1, 0, 0, 0], [0, 0, 0, number]])))
    with pytest.raises(InputError, match=rf"label number {number}, which label\.csv does not have") as caught:
        probe.annotations.image(1)
    assert caught.value.where == str(path)


def test_label_numbers_of_whole_images_outside_label_csv(tmp_path):
    tiny_broden(tmp_path, index_rows=[_row(scene="300"), _row(image="set/b.png", scene="301")])
    with pytest.raises(InputError, match=r"label number 301 is not in label\.csv") as caught:
        load_probe(str(tmp_path))
    assert caught.value.where.endswith("line 3")


def test_masks_that_are_no_label_maps(tmp_path):
    probe = load_probe(str(tiny_broden(tmp_path)))
    path = tmp_path / "images" / "set" / "a_color.png"
    for data in (b"", b"hello", path.read_bytes()[:40]):
        path.write_bytes(data)
        with pytest.raises(InputError, match="a mask is damaged"):
            probe.annotations.image(1)
    Image.new("CMYK", (4, 2)).save(path.with_suffix(".jpg"))
    path.write_bytes(path.with_suffix(".jpg").read_bytes())
    with pytest.raises(InputError, match="a mask is damaged"):
        probe.annotations.image(1)
    save(path, coded(map_of([[1 << 16, 0, 0, 0], [0, 0, 0, 0]])))
    with pytest.raises(InputError, match="blue channel"):
        probe.annotations.image(1)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("index.csv", "", "no column image"),
        ("index.csv", "image,split\nx,y\n", "no column ih"),
        ("index.csv", INDEX + "\n", "names no images"),
        ("index.csv", INDEX + "\nset/a.png,train\n", "2 cells instead of 12"),
        ("index.csv", INDEX + '\n"set/a.png,train', "not a readable CSV"),
        ("index.csv", INDEX + "\nset/a.png,t,4,8,two,4,,,,,,\n", "sh 'two'"),
        ("index.csv", INDEX + "\nset/a.png,t,4,8,0,4,,,,,,\n", "masks of 0 x 4"),
        ("index.csv", INDEX + "\nset/a.png,t,4,8,99999,4,,,,,,\n", "masks of 99999 x 4"),
        ("index.csv", INDEX + "\nset/a.png,t,4,8,2,4,,,,,,\nset/b.png,t,4,8,3,4,,,,,,\n", "several sizes"),
        ("index.csv", INDEX + "\nset/a.png,t,4,8,2,4,,,,,,\nset/a.png,t,4,8,2,4,,,,,,\n", "twice"),
        ("index.csv", INDEX + "\nset/a.png,t,4,8,2,4,,,,," + "9" * 5000 + ",\n", "too long"),
        ("index.csv", INDEX + ",image\n", "same name"),
        ("label.csv", "number,name\n1,x\n", "no column category"),
        ("label.csv", "number,name,category\n", "no labels"),
        ("label.csv", "number,name,category\none,x,object\n", "number 'one'"),
        ("label.csv", "number,name,category\n-1,x,object\n", "number '-1'"),
        ("label.csv", "number,name,category\n0,x,object\n", "outside 1..65535"),
        ("label.csv", "number,name,category\n65536,x,object\n", "outside 1..65535"),
        ("label.csv", "number,name,category\n1,x,object\n1,y,object\n", "twice"),
        ("label.csv", "number,name,category\n1,x,object(\n", "malformed category"),
        ("label.csv", "number,name,category\n1, ,object\n", "no name"),
        ("label.csv", "number,name,category\n1,-c,color\n", "no name"),
        ("c_color.csv", "number,coverage\n1,much\n", "coverage 'much'"),
        ("category.csv", "first\n1\n", "no column name"),
    ],
)
def test_malformed_files(tmp_path, file, text, message):
    tiny_broden(tmp_path)
    (tmp_path / file).write_text(text)
    with pytest.raises(InputError, match=message):
        load_probe(str(tmp_path))


@pytest.mark.parametrize("file", ["index.csv", "label.csv", "category.csv"])
def test_files_that_are_no_text(tmp_path, file):
    tiny_broden(tmp_path)
    (tmp_path / file).write_bytes(b"image\xff\xfe\0")
    with pytest.raises(InputError, match="not a readable CSV"):
        load_probe(str(tmp_path))


def test_a_missing_label_file(tmp_path):
    (tiny_broden(tmp_path) / "label.csv").unlink()
    with pytest.raises(InputError, match=r"label\.csv is missing"):
        load_probe(str(tmp_path))


def test_hostile_cells_take_no_time(tmp_path):
    tiny_broden(tmp_path)
    write_csv(tmp_path / "label.csv", "number,name,category", [(1, "x", "a" + " " * 100_000 + "(")])
    with pytest.raises(InputError, match="malformed category"):
        load_probe(str(tmp_path))


# -- the real thing ------------------------------------------------------------------------------------------


def test_real_labels_against_a_literal_reading(minibroden):
    """The files' own statistics (how many images carry a label in a category) against ours."""
    probe = load_probe(str(minibroden))
    assert len(probe) == 598
    assert probe.annotations.mask_size == (112, 112)
    seen: Counter[int] = Counter()
    covered: Counter[int] = Counter()
    for index in range(len(probe)):
        labels = probe.annotations.image(index)
        # The statistics count a label once per map, so twice where two parts overlap.
        for label_map in labels.maps:
            values, counts = np.unique(label_map[label_map >= 0], return_counts=True)
            seen.update(values.tolist())
            covered.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        seen.update(labels.scalars)
        covered.update(dict.fromkeys(labels.scalars, 112**2))
    with (minibroden / "label.csv").open(encoding="utf-8", newline="") as file:
        rows = {int(row["number"]): row for row in csv.DictReader(file)}
    single = [label for label in probe.annotations.labels if len(label.categories) == 1]
    assert len(single) > 150
    for label in single:
        row = rows[label.number]
        assert seen[label.index] == int(row["frequency"]), label
        assert covered[label.index] / 112**2 == pytest.approx(float(row["coverage"]), abs=6e-6), label


def test_real_colours_are_where_the_picture_says(minibroden):
    """Masks and pixels line up: black pixels are darker than white ones, in every image that has both."""
    probe = load_probe(str(minibroden), limit=60, seed=0)
    index = {label.name: label.index for label in probe.annotations.labels if label.category == "color"}
    compared = 0
    for number in range(len(probe)):
        masks = probe.annotations.image(number).masks((112, 112))
        if index["black"] in masks and index["white"] in masks:
            grey = np.asarray(probe.image(number).convert("L").resize((112, 112)))
            assert grey[masks[index["black"]]].mean() + 50 < grey[masks[index["white"]]].mean()
            compared += 1
    assert compared > 5
