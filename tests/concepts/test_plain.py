"""Coded names of known data sets, and words that stay as they are."""

from __future__ import annotations

import pytest

from concept_monitor_cli.concepts.plain import is_unlabelled, plain_names, problem_with


@pytest.mark.parametrize(
    ("names", "plain"),
    [
        ("lfleg car_fliplate person_lebrow", "left front leg|car front license plate|person left eyebrow"),
        ("wheel_4 engine_1", "wheel|engine"),
        ("part_1 part_2", "part|part"),
        ("area_51", "area 51"),
        ("rear lfleg", "right ear|left front leg"),
        ("rear front", "rear|front"),
        ("diningtable tvmonitor aeroplane", "dining table|tv monitor|aeroplane"),
        ("wall-brick sky-other-merged window-blind floor-wood", "brick wall|sky|window blind|wood floor"),
        ("/a/apartment_building/outdoor", "outdoor apartment building"),
        ("brewery-outdoor", "outdoor brewery"),
        ("n02085620-Chihuahua n02085782_Japanese_spaniel", "Chihuahua|Japanese spaniel"),
        ("AnnualCrop HerbaceousVegetation Forest", "Annual Crop|Herbaceous Vegetation|Forest"),
        ("AnnualCrop HerbaceousVegetation dog", "AnnualCrop|HerbaceousVegetation|dog"),
        ("dining-table jack-o'-lantern", "dining-table|jack-o'-lantern"),
    ],
)
def test_plain(names: str, plain: str) -> None:
    assert plain_names(names.split()) == plain.split("|")


def test_broden_suffixes_go_by_category() -> None:
    assert plain_names(["blue-c", "street-s", "t-s", "blue-c"], ["color", "scene", "object", ""]) == [
        "blue",
        "street",
        "t-s",
        "blue-c",
    ]


@pytest.mark.parametrize(
    "name", ["", "background", "_background_", "__ignore__", "Void", " Unlabelled", "bg"]
)
def test_unlabelled(name: str) -> None:
    assert is_unlabelled(name)


@pytest.mark.parametrize("name", ["back", "ignorance", "other", "sky"])
def test_labelled(name: str) -> None:
    assert not is_unlabelled(name)


@pytest.mark.parametrize("word", ["dog", "AC/DC", "3D", "50% off", "R&B", "🐶", "狗", "rock 'n' roll"])
def test_words(word: str) -> None:
    assert problem_with(word) is None
