"""What numbers in masks mean: decided from the set and its list, and said."""

from __future__ import annotations

import numpy as np
import pytest
from natural_order import load_probe
from PIL import Image
from probe_help import Told, picture, save, tiny_broden, tiny_panoptic

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.probe import masked
from concept_monitor_cli.probe.classes import read_classes
from concept_monitor_cli.store import Store

W, H = 40, 32


def _regions(values, where=None):
    """A mask of vertical stripes of these numbers; the last one only in the place that `where` gives."""
    mask = np.zeros((H, W), dtype=np.int64)
    for place, value in enumerate(values):
        mask[:, place * W // len(values) : (place + 1) * W // len(values)] = value
    if where is not None:
        value, region = where
        mask[region] = value
    return mask


def _folder(tmp_path, masks, classes="background\nsky\n", name="classes.txt", mode=None):
    for number, mask in enumerate(masks):
        save(tmp_path / "images" / f"{number}.jpg", picture(W, H, number))
        image = Image.fromarray(np.asarray(mask, dtype=np.uint8 if np.max(mask) < 256 else np.uint16))
        path = tmp_path / "masks" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        (image if mode is None else image.convert(mode)).save(path)
    if classes is not None:
        (tmp_path / name).write_text(classes)
    return tmp_path


def _covered(probe, index=0):
    names = {label.index: label.name for label in probe.annotations.labels}
    masks = probe.annotations.image(index).masks((112, 112))
    return {names[label]: round(float(mask.mean()), 1) for label, mask in masks.items()}


def _load(folder):
    told = Told()
    return load_probe(str(folder), progress=told), told


BORDER = (slice(14, 16), slice(None))  # two rows between regions
CORNER = (slice(0, 2), slice(0, 2))


@pytest.mark.parametrize(
    ("masks", "classes", "covered", "said"),
    [
        # binary masks, whatever their foreground is called
        ([[0, 255]], "background\nlesion\n", {"lesion": 0.5}, "255 is taken for 'lesion'"),
        ([[0, 1]], "background\nlesion\n", {"lesion": 0.5}, None),
        ([[0, 128]], "background\nlesion\n", {"lesion": 0.5}, "128 is taken for 'lesion'"),
        ([[0, 255]], "lesion\n", {"lesion": 0.5}, "255 is taken for 'lesion'"),
        ([[0, 1]], "lesion\n", {"lesion": 0.5}, "1 is taken for 'lesion'"),
        ([[0, 255]], "left\nright\n", {"left": 0.5, "right": 0.5}, "255 is taken for 'right'"),
        ([[0, 255], [0, 0]], "background\nlesion\n", {"lesion": 0.5}, "255 is taken for 'lesion'"),
        # numbers spread over 0..255 so that they can be seen
        ([[0, 127, 255]], "background\nsky\nroad\n", {"sky": 0.3, "road": 0.3}, "taken for 0, 1, 2"),
        ([[0, 128, 255]], "background\nsky\nroad\n", {"sky": 0.3, "road": 0.3}, "taken for 0, 1, 2"),
        # numbers without a list that are void by their shape, their share or by custom
        ([[0, 1, 2, 255]], "background\nsky\nroad\n", {"sky": 0.2, "road": 0.2}, "number 255, which"),
        # what the list has is a class, also 255
        ([[0, 255]], "index,name\n0,sky\n255,road\n", {"sky": 0.5, "road": 0.5}, None),
        ([[0, 255]], "index,name\n1,lesion\n", {"lesion": 0.5}, "255 is taken for 'lesion'"),
    ],
)
def test_numbers(tmp_path, masks, classes, covered, said):
    name = "classes.csv" if classes.startswith("index") else "classes.txt"
    probe, told = _load(_folder(tmp_path, [_regions(mask) for mask in masks], classes, name))
    assert probe.masks_problem is None
    assert _covered(probe) == covered
    assert all(said is not None or "has no line" in note for note in told.notices)
    assert said is None or any(said in note for note in told.notices)


def test_fifteen_classes_and_a_border_of_255(tmp_path):
    masks = [_regions(range(15), (255, BORDER)) for _ in range(3)]
    names = "background\n" + "".join(f"class{number}\n" for number in range(1, 15))
    probe, told = _load(_folder(tmp_path, masks, names))
    assert len(_covered(probe)) == 14
    assert "number 255, which classes.txt does not name, is taken as unlabelled" in told.notices[0]
    assert "a border" in told.notices[0]


def test_a_border_of_any_number_is_void(tmp_path):
    """SegNet's CamVid: 11 classes, 0 to 10, and 11 between them."""
    probe, told = _load(_folder(tmp_path, [_regions([0, 1, 2], (7, BORDER))] * 3, "a\nb\nc\n"))
    assert set(_covered(probe)) == {"a", "b", "c"}
    assert any("number 7" in note and "a border" in note for note in told.notices)


def test_a_rare_number_is_void_and_a_common_one_is_not(tmp_path):
    rare = _folder(tmp_path / "rare", [_regions([0, 1], (9, CORNER))] * 3)
    assert _covered(_load(rare)[0]) == {"sky": 0.5}
    common, told = _load(_folder(tmp_path / "common", [_regions([0, 1, 9])] * 3))
    assert common.annotations is None
    assert "3 of 3 masks hold label number 9" in common.masks_problem.what
    assert "label number 9" in told.warnings[0]


@pytest.mark.parametrize("values", [[1, 2, 3], [0, 1, 2, 3]])
def test_a_list_that_is_one_line_short(tmp_path, values):
    probe, _ = _load(_folder(tmp_path, [_regions(values)] * 2, "sky\ngrass\nroad\n"))
    assert probe.annotations is None
    assert "one line short" in probe.masks_problem.hint


def test_a_list_without_background_is_said_even_where_all_numbers_fit(tmp_path):
    probe, told = _load(_folder(tmp_path, [_regions([0, 1, 2])] * 2, "sky\ngrass\nroad\n"))
    assert set(_covered(probe)) == {"sky", "grass", "road"}
    assert "classes.txt has no line for background: number 0 is taken for 'sky'" in told.notices[0]


def test_masks_without_any_class_of_the_list(tmp_path):
    probe, _ = _load(_folder(tmp_path, [_regions([0, 255])] * 2, "background\nsky\ngrass\nroad\n"))
    assert probe.annotations is None
    assert "no mask holds a class" in probe.masks_problem.what


def test_smoothed_binary_masks(tmp_path):
    mask = _regions([0, 255])
    mask[:, W // 2] = np.linspace(1, 254, H)
    probe, told = _load(_folder(tmp_path, [mask] * 3, "background\nlesion\n"))
    assert _covered(probe) == {"lesion": 0.5}
    assert "numbers between them are unlabelled" in told.notices[0]


def test_one_bad_mask_leaves_out_its_image(tmp_path):
    folder = _folder(tmp_path, [_regions([0, 1])] * 5)
    save(folder / "masks" / "1.png", np.zeros((W, H), np.uint8))
    (folder / "masks" / "3.png").write_bytes(b"x")
    probe, told = _load(folder)
    assert probe.ids == ("0.jpg", "2.jpg", "4.jpg")
    assert [each.id for each in probe.skipped] == ["1.jpg", "3.jpg"]
    assert (
        "2 images without a usable mask are left out, the first: 1.jpg (a mask is 40 x 32" in told.warnings[0]
    )
    assert [_covered(probe, index) for index in range(3)] == [{"sky": 0.5}] * 3


def test_mostly_bad_masks_are_not_used(tmp_path):
    folder = _folder(tmp_path, [_regions([0, 1])] * 4)
    for number in range(3):
        (folder / "masks" / f"{number}.png").write_bytes(b"x")
    probe, told = _load(folder)
    assert len(probe) == 4
    assert probe.annotations is None
    assert "3 of 4 masks: a mask is damaged" in probe.masks_problem.what
    assert "masks of" in told.warnings[0]


def test_masks_without_a_class_list_are_not_used(tmp_path):
    probe, told = _load(_folder(tmp_path, [_regions([0, 255])] * 2, None))
    assert len(probe) == 2
    assert (probe.annotations, probe.concepts) == (None, None)
    assert probe.masks_problem.what == "masks without a class list"
    assert "the masks are not used" in told.notices[0]


# -- how the numbers are stored ------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [None, "P", "RGB", "RGBA", "LA", "I;16", "1"])
def test_numbers_in_any_kind_of_pixels(tmp_path, mode):
    values = [0, 255] if mode == "1" else [0, 1]
    probe, _ = _load(_folder(tmp_path, [_regions(values)] * 2, mode=mode))
    assert _covered(probe) == {"sky": 0.5}


@pytest.mark.parametrize("ending", ["tif", "bmp", "gif"])
def test_masks_in_other_formats(tmp_path, ending):
    folder = _folder(tmp_path, [_regions([0, 1])] * 2)
    for path in (folder / "masks").iterdir():
        Image.open(path).save(path.with_suffix(f".{ending}"))
        path.unlink()
    assert _covered(_load(folder)[0]) == {"sky": 0.5}


def test_numbers_in_the_red_channel(tmp_path):
    folder = _folder(tmp_path, [_regions([0, 1])] * 2)
    for path in (folder / "masks").iterdir():
        red = np.asarray(Image.open(path))
        save(path, np.dstack([red, 0 * red, 0 * red]))
    assert _covered(_load(folder)[0]) == {"sky": 0.5}


COLOURS = {"void": (0, 0, 0), "sky": (1, 37, 91), "road": (255, 74, 182)}


def _coloured(tmp_path, name, text, palette=False):
    folder = _folder(tmp_path, [_regions([0, 1, 2])] * 2, None)
    for path in (folder / "masks").iterdir():
        colours = np.array([*COLOURS.values()], dtype=np.uint8)[np.asarray(Image.open(path))]
        image = Image.fromarray(colours)
        (image.convert("P", palette=Image.Palette.ADAPTIVE) if palette else image).save(path)
    (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("palette", [False, True])
@pytest.mark.parametrize(
    ("name", "line", "head"),
    [
        ("class_dict.csv", "{0},{1},{2},{3}", "name,r,g,b\n"),
        ("class_dict.csv", "{1}, {2}, {3}, {0}", "r, g, b, name\n"),
        ("label_colors.txt", "{1} {2} {3}\t{0}", ""),
        ("labelmap.txt", "{0}:{1},{2},{3}::", "# label:color_rgb:parts:actions\n"),
    ],
)
def test_colours(tmp_path, name, line, head, palette):
    text = head + "\n".join(line.format(label, *colour) for label, colour in COLOURS.items())
    probe, _ = _load(_coloured(tmp_path, name, text, palette))
    assert _covered(probe) == {"sky": 0.3, "road": 0.3}


def test_colours_without_a_line_or_a_list(tmp_path):
    probe, _ = _load(_coloured(tmp_path / "line", "class_dict.csv", "name,r,g,b\nvoid,0,0,0\nsky,1,37,91\n"))
    assert "the colour 255 74 182" in probe.masks_problem.what
    probe, _ = _load(_coloured(tmp_path / "list", "classes.txt", "void\nsky\nroad\n"))
    assert "RGB pixels, not class numbers" in probe.masks_problem.what
    assert "class_dict.csv" in probe.masks_problem.hint


# -- class lists ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.txt", "background\nsky\n\nroad\n"),
        ("classes.txt", "# of mine\nbackground\nsky\n\nroad\n"),
        ("classes.txt", "0 background\n1 sky\n3 road\n"),
        ("labels.txt", "0: background\n1: sky\n3: road\n"),
        ("labels.txt", "3\troad\n1\tsky\n0\tvoid\n"),
        ("class_names.txt", "__ignore__\n_background_\nsky\nvoid\nroad\n"),
        ("classes.txt", "background 0\nsky 1\nvoid 2\nroad 3\n"),
        ("classes.txt", '"background"\n"sky",\n""\n"road"\n'),
        ("classes.txt", "[0] background\n[1] sky\n[3] road\n"),
        ("classes.txt", "0 - none\n1 - sky\n3 - road\n"),
        ("classes.txt", "class 0: background\nclass 1: sky\nclass 3: road\n"),
        ("classes.txt", "background,sky,void,road\n"),
        ("classes.txt", "{0: 'background', 1: 'sky', 3: 'road'}"),
        ("classes.txt", "['background', 'sky', 'void', 'road']"),
        ("class_list.txt", "0 -> background\n1 -> sky\n3 -> road\n"),
        ("_classes.csv", "Pixel Value, Class\n0, background\n1, sky\n3, road\n"),
        ("classes.csv", "value;class\n0;background\n1;sky\n3;road\n"),
        ("object150_info.csv", "Idx,Ratio,Train,Val,Stuff,Name\n1,0.1,1,1,1,sky;heaven\n3,1,1,1,0,road\n"),
        ("classes.csv", "index,name,category\n3,road,object\n1,sky,\n"),
        (
            "objectInfo150.csv",
            "Idx,Ratio,Train,Val,Stuff,Name\n1,0.1,1,1,1,sky;heaven\n3,0.1,1,1,0,road;route\n",
        ),
        (
            "objectInfo150.txt",
            "Idx\tRatio\tTrain\tVal\tName\n1\t0.1\t1\t1\tsky, heaven\n3\t0.1\t1\t1\troad\n",
        ),
        ("id2label.json", '{"0": "background", "1": "sky", "3": "road"}'),
        ("classes.json", '{"sky": 1, "road": 3}'),
        ("classes.json", '["background", "sky", "", "road"]'),
        (
            "config_v1.2.json",
            '{"labels": [{"name": "v", "readable": "void"}, {"name": "a--sky", "readable": "sky"},'
            '{"name": "x", "readable": ""}, {"name": "road"}]}',
        ),
    ],
)
def test_class_lists(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    classes = read_classes(tmp_path / name)
    assert [
        (label.number, label.name) for label in sorted(classes.labels, key=lambda label: label.number)
    ] == [
        (1, "sky"),
        (3, "road"),
    ]


@pytest.mark.parametrize("text", ["type 1\ntype 2\ntype 3\n", "route 66\nbus 7\n", "3D print\n2D print\n"])
def test_numbers_that_belong_to_names(tmp_path, text):
    (tmp_path / "classes.txt").write_text(text)
    assert [label.name for label in read_classes(tmp_path / "classes.txt").labels] == text.splitlines()


def test_a_list_that_counts_from_one_beside_masks_that_count_from_zero(tmp_path):
    text = "1. background\n2. sky\n3. road\n"
    _, told = _load(_folder(tmp_path / "zero", [_regions([0, 1, 2])] * 2, text))
    assert "numbers its classes from 1 to 3" in told.notices[0]
    _, told = _load(_folder(tmp_path / "one", [_regions([1, 2, 3])] * 2, text))
    assert told.notices == []


def test_a_photo_among_masks_of_colours_is_one_sentence(tmp_path):
    folder = _coloured(tmp_path, "class_dict.csv", "name,r,g,b\nvoid,0,0,0\nsky,1,37,91\nroad,255,74,182\n")
    mask = folder / "masks" / "0.png"
    pixels = np.asarray(Image.open(mask).convert("RGB")).copy()
    pixels[0, :20] = picture(20, 1, 3)[0]
    Image.fromarray(pixels).save(mask)
    _, told = _load(folder)
    strange = [note for note in told.notices if "class_dict.csv does not name" in note]
    assert len(strange) == 1
    assert "and 19 others" in strange[0]


def test_another_config_is_no_class_list(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["x"]}')
    assert read_classes(tmp_path / "config.json") is None


@pytest.mark.parametrize("text", ["", "{", "5", '{"a": "b"}', '{"0": 5, "1": "x"}', "[" * 100_000, "[null]"])
def test_class_lists_that_are_no_json(tmp_path, text):
    (tmp_path / "classes.json").write_text(text)
    with pytest.raises(InputError, match="class list"):
        read_classes(tmp_path / "classes.json")


# -- what was found is kept ----------------------------------------------------------------------------------


def test_masks_are_decoded_once_for_one_store(tmp_path, monkeypatch):
    folder = _folder(tmp_path / "set", [_regions([0, 255])] * 5, "background\nlesion\n")
    save(folder / "masks" / "1.png", np.zeros((W, H), np.uint8))
    store = Store(tmp_path / "store")
    first = load_probe(str(folder), store=store)
    decoded: list[object] = []
    monkeypatch.setattr(masked, "open_mask", lambda *a, **k: decoded.append(a))
    told = Told()
    again = load_probe(str(folder), store=store, progress=told)
    assert decoded == []
    assert (again.ids, again.skipped) == (first.ids, first.skipped)
    assert "255 is taken for 'lesion'" in told.notices[0]
    monkeypatch.undo()
    assert _covered(again) == _covered(first) == {"lesion": 0.5}
    for change in (
        lambda: (folder / "classes.txt").write_text("background\nother\n"),
        lambda: save(folder / "masks" / "0.png", np.zeros((W, H), np.uint8)),
        lambda: save(folder / "images" / "2.jpg", picture(H, W)),
    ):
        change()
        fresh, kept = load_probe(str(folder)), load_probe(str(folder), store=store)
        assert (fresh.ids, fresh.skipped) == (kept.ids, kept.skipped)
        assert fresh.masks_problem is None or kept.masks_problem.what == fresh.masks_problem.what


def test_panoptic_and_broden_are_kept_too(tmp_path):
    store = Store(tmp_path / "store")
    for make in (tiny_panoptic, tiny_broden):
        folder = make(tmp_path / make.__name__)
        probes = [load_probe(str(folder), store=kept) for kept in (None, store, store)]
        assert len({probe.annotations.digest for probe in probes}) == 1
