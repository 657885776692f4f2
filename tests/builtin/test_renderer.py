"""The renderer: the same bytes every time, and masks that agree with what is drawn."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from concept_monitor_cli.builtin import BY_CATEGORY, VOCABULARY, Rendering, render
from concept_monitor_cli.builtin.paints import SHADES, name_colours
from concept_monitor_cli.builtin.renderer import CYCLE, SIZE, subject_of
from concept_monitor_cli.builtin.vocabulary import INDEX

# The objects on which each part is drawn.
OWNERS: dict[str, tuple[str, ...]] = {
    "wheel": ("car", "bicycle"),
    "window": ("house", "car", "airplane", "windmill", "lighthouse"),
    "sail": ("boat",),
    "roof": ("house", "windmill", "lighthouse"),
    "door": ("house", "windmill", "lighthouse", "tent"),
    "blade": ("windmill",),
    "wing": ("airplane", "bird"),
    "trunk": ("tree",),
    "petal": ("flower",),
    "leg": ("table",),
    "hull": ("boat",),
    "chimney": ("house",),
    "basket": ("balloon",),
}

SEED = 31


@pytest.fixture(scope="module")
def cycle() -> list[Rendering]:
    """One cycle: every word of every category is a subject."""
    return [render(index, SEED) for index in range(len(CYCLE))]


def _digest(pictures: list[Rendering]) -> str:
    digest = hashlib.sha256()
    for picture in pictures:
        digest.update(picture.image.tobytes())
        for name in sorted(picture.maps):
            digest.update(picture.maps[name].tobytes())
        digest.update("|".join(picture.captions).encode())
    return digest.hexdigest()


def test_vocabulary_has_six_categories_and_no_word_twice() -> None:
    assert list(BY_CATEGORY) == ["color", "texture", "material", "part", "object", "scene"]
    words = [word for word, _ in VOCABULARY]
    assert len(set(words)) == len(words)
    assert set(OWNERS) == set(BY_CATEGORY["part"])


def test_same_picture_in_another_process_and_in_any_order(cycle: list[Rendering]) -> None:
    code = (
        "import hashlib\n"
        "from concept_monitor_cli.builtin import render\n"
        f"print(hashlib.sha256(b''.join(render(i, {SEED}).image.tobytes() for i in (9, 4, 0))).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = hashlib.sha256(b"".join(cycle[i].image.tobytes() for i in (9, 4, 0))).hexdigest()
    assert other.stdout.strip() == here
    assert _digest([render(i, SEED) for i in range(5)]) == _digest(cycle[:5])
    assert _digest([render(0, SEED + 1)]) != _digest(cycle[:1])


def test_shapes_and_types(cycle: list[Rendering]) -> None:
    for picture in cycle:
        assert picture.image.shape == (SIZE, SIZE, 3)
        assert picture.image.dtype == np.uint8
        assert set(picture.maps) == {"color", "texture", "material", "part", "object"}
        for category, labels in picture.maps.items():
            assert labels.shape == (SIZE, SIZE)
            present = {VOCABULARY[i][1] for i in np.unique(labels) if i >= 0}
            assert present <= {category}


def test_each_cycle_shows_every_subject(cycle: list[Rendering]) -> None:
    assert sorted(picture.subject for picture in cycle) == sorted(CYCLE)
    assert [picture.subject for picture in cycle] == [subject_of(i, SEED) for i in range(len(CYCLE))]
    for picture in cycle:
        assert picture.coverage()[INDEX[picture.subject]] > 0, picture.subject
        assert picture.subject in picture.captions


def test_every_shade_has_its_own_name() -> None:
    for name, shades in SHADES.items():
        for shade in shades:
            # the variation that `paints.shade` allows
            corners = np.array([[c + d for c in shade] for d in (-7, 0, 7)]).clip(0, 255).astype(np.uint8)
            assert {VOCABULARY[i][0] for i in name_colours(corners)} == {name}


def test_colour_masks_agree_with_the_picture(cycle: list[Rendering]) -> None:
    agree = inside = 0
    for picture in cycle:
        labels = picture.maps["color"]
        assert (labels >= 0).all()
        # pixels whose neighbourhood has one colour name: no edge was smoothed there
        centre = labels[1:-1, 1:-1]
        same = np.ones(centre.shape, bool)
        for dy in range(3):
            for dx in range(3):
                same &= labels[dy : dy + SIZE - 2, dx : dx + SIZE - 2] == centre
        named = name_colours(picture.image)[1:-1, 1:-1]
        agree += int((named == centre)[same].sum())
        inside += int(same.sum())
    assert inside > 0.5 * len(cycle) * SIZE * SIZE
    assert agree / inside > 0.99


def test_parts_lie_on_their_objects(cycle: list[Rendering]) -> None:
    seen = set()
    for picture in cycle:
        parts, objects = picture.maps["part"], picture.maps["object"]
        for part in np.unique(parts[(parts >= 0) & (objects >= 0)]):
            owners = {VOCABULARY[i][0] for i in np.unique(objects[parts == part]) if i >= 0}
            assert owners <= set(OWNERS[VOCABULARY[part][0]])
            seen.add(VOCABULARY[part][0])
    assert len(seen) >= 10


def test_a_plain_object_is_where_its_mask_says() -> None:
    """Before an even ground, the object's mask is what differs from the ground, up to smoothed edges."""
    checked = 0
    for index in range(60):
        picture = render(index, SEED, "car")
        objects = picture.maps["object"]
        ground = picture.image[objects < 0]
        if picture.scene is not None or len(np.unique(ground.reshape(-1, 3), axis=0)) > 400:
            continue
        values, counts = np.unique(ground, axis=0, return_counts=True)
        even = values[counts.argmax()]
        if counts.max() < 0.9 * len(ground):
            continue
        background = (picture.image == even).all(axis=-1)
        # one pixel on either side of an edge is smoothed
        assert (background != (objects < 0)).mean() < 0.06
        checked += 1
    assert checked >= 5


def test_scene_is_a_word_or_nothing(cycle: list[Rendering]) -> None:
    for picture in cycle:
        assert picture.scene is None or picture.scene in BY_CATEGORY["scene"]
        if picture.subject in BY_CATEGORY["scene"]:
            assert picture.scene == picture.subject


def test_unknown_subject() -> None:
    with pytest.raises(ValueError, match="zebra"):
        render(0, 0, "zebra")
