"""Word and class lists, folders of masks, deep greys, embeddings of any content: read or refused."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from concept_monitor_cli.concepts import load_concepts
from concept_monitor_cli.concepts.plain import problem_with
from concept_monitor_cli.encoders import PrecomputedEncoder
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.probe import load_probe
from concept_monitor_cli.probe.classes import CLASS_LISTS, read_classes

_WORDS = ["dog", "great_white_shark", "n01440764", "/a/abbey", "background", "void", "object", "é", "狗"]
_SIGNS = [
    ",",
    ";",
    ":",
    "\t",
    "\n",
    "\r\n",
    '"',
    "'",
    "[",
    "]",
    "{",
    "}",
    "(",
    ")",
    "# ",
    "- ",
    "|",
    "=",
    "->",
]
_NUMBERS = ["0", "1", "2", "255", "-1", "1e9", "0.5", "99999999999999999999"]
_OTHERS = [
    "\0",
    "\u200b",
    "\x0c",
    "names:",
    "sep=;",
    "concept",
    "name",
    "Unnamed: 0",
    "null",
    "<b>",
    "\\",
    "%",
]
TEXT = st.one_of(
    st.lists(st.sampled_from([*_WORDS, *_SIGNS, *_NUMBERS, *_OTHERS, " "]), max_size=40).map("".join),
    st.text(max_size=80),
)
_HEADERS = [
    "concept",
    "name",
    "label",
    "class",
    "Class Name",
    "category",
    "id",
    "index",
    "r",
    "g",
    "b",
    "count",
    "",
]
TABLE = st.tuples(
    st.sampled_from([",", ";", "\t", "|"]),
    st.lists(st.sampled_from(_HEADERS), min_size=1, max_size=5),
    st.lists(st.lists(st.sampled_from([*_WORDS, *_NUMBERS, "", '"a', "a,b"]), max_size=6), max_size=6),
).map(lambda parts: "\n".join(parts[0].join(row) for row in [parts[1], *parts[2]]))


def _words(folder: Path, suffix: str, text: str) -> None:
    path = folder / f"words.{suffix}"
    path.write_bytes(text.encode("utf-8", "replace"))
    found = load_concepts(path)
    assert len(found)
    assert all(problem_with(word) is None and word == " ".join(word.split()) for word in found.concepts)


def words(draw: Any, folder: Path) -> None:
    _words(folder, draw(st.sampled_from(["txt", "json", "yaml", "jsonl", "py", "md", "names"])), draw(TEXT))


def tables(draw: Any, folder: Path) -> None:
    _words(folder, draw(st.sampled_from(["csv", "tsv", "txt"])), draw(TABLE))


def classes(draw: Any, folder: Path) -> None:
    path = folder / draw(st.sampled_from(CLASS_LISTS))
    path.write_bytes(draw(st.one_of(TEXT, TABLE)).encode("utf-8", "replace"))
    found = read_classes(path)
    assert found is None or (found.labels and not {label.number for label in found.labels} & found.unlabelled)


def _small(draw: Any, kind: str) -> np.ndarray:
    shape = (draw(st.integers(1, 9)), draw(st.integers(1, 9)))
    shape = (8, 8) if draw(st.booleans()) else shape
    values = draw(st.lists(st.integers(0, 255), min_size=1, max_size=4))
    flat = np.array(values, np.uint8)[np.arange(shape[0] * shape[1]) * len(values) // (shape[0] * shape[1])]
    grey: np.ndarray = flat.reshape(shape)
    return grey if kind == "grey" else np.dstack([grey, grey * 37, grey * 91])


_FOLDERS = [
    "images",
    "masks",
    "JPEGImages",
    "SegmentationClass",
    "labels",
    "train",
    "train_masks",
    "a",
    "a/masks",
    "",
]
_NAMES = ["0", "1", "2", "0_mask", "1_mask", "0.jpg", "mask_0", "x_0_y", "x_1_y", "0_gtFine_labelIds", "_"]


def layouts(draw: Any, folder: Path) -> None:
    """Folders in which photos, masks and other files lie in any order."""
    for _ in range(draw(st.integers(1, 7))):
        ending = draw(st.sampled_from([".png", ".jpg", ".tif", ".gif", ".bmp", ".heic", ""]))
        path = folder / draw(st.sampled_from(_FOLDERS)) / (draw(st.sampled_from(_NAMES)) + ending)
        path.parent.mkdir(parents=True, exist_ok=True)
        if draw(st.integers(0, 9)) == 0 or not ending or ending == ".heic":
            path.write_bytes(draw(st.binary(max_size=60)))
        else:
            Image.fromarray(_small(draw, draw(st.sampled_from(["grey", "colour"])))).save(path)
    if draw(st.booleans()):
        name = draw(st.sampled_from(["classes.txt", "class_dict.csv", "classes.csv"]))
        (folder / name).write_text(
            draw(
                st.sampled_from(
                    ["background\nsky\n", "name,r,g,b\na,0,0,0\nb,1,37,91\n", "index,name\n0,a\n1,b"]
                )
            )
        )
    _read(folder)


def greys(draw: Any, folder: Path) -> None:
    """Greys of any depth, size and content, with and without a range."""
    numbers = st.one_of(
        st.integers(-(2**31), 2**31 - 1), st.floats(width=32), st.sampled_from([0, 1, 255, 4095, 65535])
    )
    for number in range(draw(st.integers(1, 3))):
        values = draw(st.lists(numbers, min_size=1, max_size=9))
        dtype = draw(st.sampled_from([np.uint8, np.uint16, np.int32, np.float32]))
        with np.errstate(all="ignore"):
            array = (
                np.nan_to_num(np.array([values], np.float64)) if dtype != np.float32 else np.array([values])
            )
            Image.fromarray(array.astype(dtype)).save(folder / f"{number}.tif")
    given_range = draw(st.sampled_from([None, (0.0, 1.0), (-1000.0, 400.0), (0.0, 1e-30)]))
    _read(folder, grey_range=given_range)


_IDS = [
    "0.png",
    "1.png",
    "a/2.png",
    "./0.png",
    "/x/1.png",
    "C:\\a\\2.png",
    "0",
    "1",
    "2",
    "",
    ".",
    "é",
    "\udce9.png",
]


def embeddings(draw: Any, folder: Path) -> None:
    """Files of embeddings whose names fit the images, contradict them, or are no names."""
    names = draw(st.lists(st.one_of(st.sampled_from(_IDS), st.text(max_size=6)), max_size=5))
    rows = len(names) if draw(st.booleans()) else draw(st.integers(0, 4))
    path = folder / "e.h5"
    with h5py.File(path, "w") as file:
        file["images"] = np.eye(max(rows, 1), 3)[:rows] + 1
        file["texts"] = np.eye(2, 3)
        file["concepts"] = ["red", "dog"]
        dataset = draw(st.sampled_from(["ids", "paths", "filenames", "image_id", "other"]))
        kind = draw(st.integers(0, 3))
        if kind == 0:
            file[dataset] = np.arange(len(names))
        elif kind == 1:
            file[dataset] = np.zeros((len(names), 2))
        else:
            file[dataset] = [
                name.encode("utf-8", "surrogateescape").replace(b"\0", b"") or b"x" for name in names
            ]
    images = draw(
        st.lists(st.sampled_from(["0.png", "1.png", "a/2.png", "b/2.png"]), min_size=1, unique=True)
    )
    encoder = PrecomputedEncoder(path)
    encoder.order(images)
    assert len(encoder.images(len(images), images)) == len(images)


def _read(folder: Path, **options: Any) -> None:
    probe = load_probe(str(folder), **options)
    for index in range(len(probe)):
        with contextlib.suppress(InputError):  # an image that cannot be decoded
            probe.image(index)
        if probe.annotations is not None:
            probe.annotations.image(index)


READERS: dict[str, Callable[[Any, Path], None]] = {
    "words": words,
    "tables": tables,
    "classes": classes,
    "layouts": layouts,
    "greys": greys,
    "embeddings": embeddings,
}


def fuzz(kind: str, examples: int) -> None:
    @settings(
        max_examples=int(os.environ.get("CMON_FUZZ_EXAMPLES", examples)),
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def read(data: st.DataObject) -> None:
        with tempfile.TemporaryDirectory() as outside:
            folder = Path(outside, "inside")
            folder.mkdir()
            began = time.process_time()
            with contextlib.suppress(InputError):
                READERS[kind](data.draw, folder)
            assert time.process_time() - began < 20
            assert [path.name for path in Path(outside).iterdir()] == ["inside"]

    read()


@pytest.mark.parametrize("kind", READERS)
def test_anything_is_read_or_refused(kind: str) -> None:
    fuzz(kind, 50)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", READERS)
def test_10_000_of_each_are_read_or_refused(kind: str) -> None:
    fuzz(kind, 10_000)
