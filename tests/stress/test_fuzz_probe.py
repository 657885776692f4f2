"""Damaged containers, masks and class lists: a probing set or an `InputError`, in little time."""

from __future__ import annotations

import contextlib
import gzip
import io
import struct
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from PIL import Image

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.probe import load_probe

from .test_fuzz import damaged

_SIDE = 8


def _picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (_SIDE, _SIDE, 3), dtype=np.uint8)


def _encoded(array: np.ndarray, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind)
    return stream.getvalue()


_PHOTOS = [_encoded(_picture(seed)) for seed in range(3)]


def _archive(kind: str) -> bytes:
    stream = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed:
            for number, data in enumerate(_PHOTOS):
                packed.writestr(f"{number}.png", data)
    else:
        with tarfile.open(fileobj=stream, mode="w:gz" if kind == "tgz" else "w") as archive:
            for number, data in enumerate(_PHOTOS):
                member = tarfile.TarInfo(f"{number}.png")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def _table(kind: str) -> bytes:
    table = pa.table({"image": [{"bytes": data, "path": "x.png"} for data in _PHOTOS], "label": [1, 2, 3]})
    stream = io.BytesIO()
    if kind == "parquet":
        pq.write_table(table, stream)
    else:
        open_writer = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
        with open_writer(stream, table.schema) as writer:
            writer.write_table(table)
    return stream.getvalue()


def _array(kind: str) -> bytes:
    images = np.stack([_picture(seed) for seed in range(3)])
    stream = io.BytesIO()
    if kind == "npy":
        np.save(stream, images)
    else:
        scipy.io.savemat(stream, {"X": images.transpose(1, 2, 3, 0)}, do_compression=kind == "packed")
    return stream.getvalue()


_IDX = b"\0\0\x08\x03" + struct.pack(">III", 3, _SIDE, _SIDE) + bytes(range(192))
CONTAINERS: list[tuple[str, bytes]] = [
    ("a.zip", _archive("zip")),
    ("a.tar", _archive("tar")),
    ("a.tar.gz", _archive("tgz")),
    ("a.parquet", _table("parquet")),
    ("a.arrow", _table("stream")),
    ("b.arrow", _table("file")),
    ("a.npy", _array("npy")),
    ("train_32x32.mat", _array("plain")),
    ("test_32x32.mat", _array("packed")),
    ("train-images-idx3-ubyte", _IDX),
    ("train-images-idx3-ubyte.gz", gzip.compress(_IDX)),
    ("train_X.bin", bytes(3 * 96 * 96)),
    ("0.tif", _encoded((_picture(0)[..., 0] * 9.0).astype(np.float32), "TIFF")),
    ("0.png", _encoded(_picture(0)[..., 0].astype(np.uint16) * 16)),
    ("0.pgm", b"P5 4 2 4095\n" + bytes(range(16))),
    ("0", _PHOTOS[0]),
]

_INDEX = np.zeros((_SIDE, _SIDE), np.uint8)
_INDEX[:4] = 1
_COLOURS = np.dstack([_INDEX, _INDEX * 37, _INDEX * 91])
MASKS: list[tuple[str, bytes]] = [
    ("masks/0.png", _encoded(_INDEX)),
    ("masks/0.png", _encoded(_COLOURS)),
    ("masks/0.tif", _encoded(_INDEX, "TIFF")),
    ("masks/0.gif", _encoded(_INDEX, "GIF")),
    ("classes.txt", b"background\nsky\n"),
    ("classes.txt", b"0: background\n1: sky\n255: void\n"),
    ("classes.csv", b"index,name,category\n0,background,\n1,sky,object\n"),
    ("class_dict.csv", b"name,r,g,b\nvoid,0,0,0\nsky,1,37,91\n"),
    ("label_colors.txt", b"0 0 0\tVoid\n1 37 91\tSky\n"),
    ("labelmap.txt", b"# label:color_rgb:parts:actions\nbackground:0,0,0::\nsky:1,37,91::\n"),
    ("id2label.json", b'{"0": "background", "1": "sky"}'),
    ("config.json", b'{"labels": [{"name": "void"}, {"name": "x--sky", "readable": "Sky"}]}'),
    ("objectInfo150.csv", b"Idx,Ratio,Train,Val,Stuff,Name\n1,0.1,1,1,1,sky;heaven\n"),
]


def read_container(folder: Path, which: int, data: bytes) -> None:
    path = folder / CONTAINERS[which][0]
    path.write_bytes(data)
    for spec in (path, folder):
        _read(spec)


def read_masks(folder: Path, which: int, data: bytes) -> None:
    name = MASKS[which][0]
    for number in range(3):
        for place, content in (("images", _PHOTOS[number]), ("masks", _encoded(_INDEX))):
            (folder / place).mkdir(exist_ok=True)
            (folder / place / f"{number}.png").write_bytes(content)
    if name.startswith("masks"):
        (folder / "masks" / "0.png").unlink()
        (folder / "classes.txt").write_text("background\nsky\n")
    (folder / name).write_bytes(data)
    _read(folder)


def _read(spec: Path) -> None:
    probe = load_probe(str(spec))
    for index in range(min(len(probe), 5)):
        with contextlib.suppress(InputError):  # an image of its own that cannot be read
            probe.image(index)
        if probe.annotations is not None:
            probe.annotations.image(index)


READERS: dict[str, tuple[Callable[[Path, int, bytes], None], list[tuple[str, bytes]]]] = {
    "containers": (read_container, CONTAINERS),
    "masks": (read_masks, MASKS),
}


def fuzz(kind: str, examples: int) -> None:
    reader, seeds = READERS[kind]

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(damaged([data for _, data in seeds]))
    def read(example: tuple[int, bytes]) -> None:
        with tempfile.TemporaryDirectory() as outside:
            folder = Path(outside, "inside")
            folder.mkdir()
            began = time.monotonic()
            with contextlib.suppress(InputError):
                reader(folder, *example)
            assert time.monotonic() - began < 20
            assert [path.name for path in Path(outside).iterdir()] == ["inside"]

    read()


@pytest.mark.parametrize("which", range(len(CONTAINERS)))
def test_containers_themselves_are_read(which: int, tmp_path: Path) -> None:
    read_container(tmp_path, which, CONTAINERS[which][1])


@pytest.mark.parametrize("which", range(len(MASKS)))
def test_masks_themselves_are_used(which: int, tmp_path: Path) -> None:
    read_masks(tmp_path, which, MASKS[which][1])
    if which != 1:  # colours, and a list that has none
        assert load_probe(str(tmp_path)).has_masks


@pytest.mark.parametrize("kind", READERS)
def test_fuzzed_files_are_read_or_refused(kind: str) -> None:
    fuzz(kind, 100)


@pytest.mark.slow
@pytest.mark.parametrize("kind", READERS)
def test_10_000_fuzzed_files_are_read_or_refused(kind: str) -> None:
    fuzz(kind, 5000)
