"""Rows of given embeddings belong to images by name, where the file names them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from concept_monitor_cli.encoders import PrecomputedEncoder
from concept_monitor_cli.encoders.image_names import ImageNames
from concept_monitor_cli.errors import InputError

IDS = ["a/0.jpg", "a/1.jpg", "a/2.jpg", "b/10.jpg"]


@pytest.mark.parametrize(
    "change",
    [
        lambda name: name,
        lambda name: f"./{name}",
        lambda name: f"/data/photos/{name}",
        lambda name: name.replace("/", "\\"),
        lambda name: name.removesuffix(".jpg"),
        lambda name: f"/data/{name.removesuffix('.jpg')}",
        lambda name: name.rpartition("/")[2],
        lambda name: name.rpartition("/")[2].removesuffix(".jpg"),
    ],
)
def test_every_way_of_naming_an_image(change: Any) -> None:
    order = [3, 1, 0, 2]
    names = ImageNames([change(IDS[place]) for place in order], "ids", "e.h5", 4)
    assert names.rows(IDS) == [order.index(place) for place in range(4)]
    assert names.rows(IDS[1:3]) == [order.index(1), order.index(2)]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["x/0.jpg", "x/1.jpg", "x/2.jpg", "x/3.jpg"], "1 of 4 probing images are not in it"),
        (["a/0.jpg", "a/0.jpg", "a/1.jpg", "a/2.jpg", "b/10.jpg"], "'a/0.jpg' stands there several times"),
    ],
)
def test_a_contradiction_is_an_error(names: list[str], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        ImageNames(names, "ids", "e.h5", len(names)).rows(IDS)


def test_folders_tell_names_without_ending_apart() -> None:
    assert ImageNames(["b/0", "a/0"], "ids", "e.h5", 2).rows(["a/0.jpg", "b/0.jpg"]) == [1, 0]


def test_a_missing_name_is_not_called_a_double_one() -> None:
    """File names alone stand in both folders; what is wrong is that a path is missing."""
    with pytest.raises(InputError, match="1 of 2 probing images are not in it, such as 'b/0"):
        ImageNames(["a/0.jpg", "c/0.jpg"], "ids", "e.h5", 2).rows(["a/0.jpg", "b/0.jpg"])


def test_file_names_that_several_folders_have_decide_nothing() -> None:
    with pytest.raises(InputError, match="several times"):
        ImageNames(["0.jpg", "0.jpg"], "ids", "e.h5", 2).rows(["a/0.jpg", "b/0.jpg"])


def write(path: Path, **more: Any) -> PrecomputedEncoder:
    with h5py.File(path, "w") as file:
        file["images"] = np.eye(4)
        file["texts"] = np.eye(4)[:1]
        file["concepts"] = ["great_white_shark"]
        for name, value in more.items():
            file[name] = value
    return PrecomputedEncoder(path)


def test_rows_by_name_and_by_place(tmp_path: Path) -> None:
    by_place = write(tmp_path / "place.h5")
    assert (by_place.images(4, IDS) == np.eye(4)).all()
    said, digest = by_place.order(IDS)
    assert digest == ""
    assert "row i is taken for the i-th probing image in natural order, a/0.jpg, a/1.jpg" in said
    turned = write(tmp_path / "paths.h5", paths=[f"/data/{name}" for name in IDS[::-1]])
    assert (turned.images(4, IDS) == np.eye(4)[::-1]).all()
    assert "matched to the images by their `paths`" in turned.order(IDS)[0]
    assert turned.order(IDS)[1] != turned.order(IDS[::-1])[1]
    assert (write(tmp_path / "numbers.h5", ids=[10, 2, 1, 0]).images(4, IDS) == np.eye(4)[::-1]).all()
    with pytest.raises(InputError, match="4 images but 3 names in `ids`"):
        write(tmp_path / "short.h5", ids=IDS[:3])
    assert by_place.text(["great white shark"]).shape == (1, 4)


def test_a_name_that_ends_with_a_slash_is_no_internal_error() -> None:
    with pytest.raises(InputError, match=re.escape("'0.png' stands there several times")):
        ImageNames(["0.png", "0.png", "0\\"], "ids", "e.h5", 3).rows(["0.png"])
