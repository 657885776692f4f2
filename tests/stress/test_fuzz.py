"""Damaged and strange files: a result or an `InputError`, in little time, and nothing outside is touched."""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import io
import pickle
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from late import Late
from PIL import Image
from safetensors.torch import save

from concept_monitor_cli.checkpoints import find_checkpoints, load_checkpoint
from concept_monitor_cli.cli.config import find_config
from concept_monitor_cli.concepts import load_concepts
from concept_monitor_cli.encoders import load_encoder
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.probe import load_probe

dcp = Late("torch.distributed.checkpoint")

_TOKENS = [b"../../x", b"/etc/passwd", b"\0", b"\n", b'"', b",", b";", b"[" * 300, b"{", b"=", b"\xff\xfe"]
_TOKENS += [b"-1", b"999999999999999999999", b"1e999", b"nan", b"'''", b"<script>", b"a" * 5000, b"\xf0\x9f"]


def _torch_file(legacy: bool, *, protocol: int = 2, **beside: Any) -> bytes:
    buffer = io.BytesIO()
    state = {"conv.weight": torch.ones(2, 3), "bn.num_batches_tracked": torch.tensor(1)}
    torch.save(
        {"state_dict": state, "epoch": 3, **beside},
        buffer,
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=not legacy,
    )
    return buffer.getvalue()


def _files_with_objects() -> list[bytes]:
    """Checkpoints with objects of unknown classes, arrays and whole networks beside the weights."""
    network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    beside = {
        "partial": functools.partial(torch.optim.SGD, lr=0.1),
        "args": argparse.Namespace(lr=0.1, loss=torch.nn.NLLLoss(weight=torch.ones(3))),
        "arrays": [np.arange(3.0), np.float32(1), np.random.RandomState(0)],
        "counts": collections.Counter("aab"),
    }
    files = [
        _torch_file(legacy, protocol=protocol, **beside) for legacy in (False, True) for protocol in (2, 4)
    ]
    return [
        *files,
        pickle.dumps({"model": network, **beside}, 4),
        pickle.dumps({"model": network, **beside}, 0),
    ]


def _broden_files() -> dict[str, bytes]:
    image, mask = io.BytesIO(), io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(image, "PNG")
    Image.fromarray(np.full((4, 4, 3), (1, 0, 0), np.uint8)).save(mask, "PNG")
    return {
        "index.csv": b"image,split,ih,iw,sh,sw,color,object,part,material,scene,texture\n"
        b"a.png,train,8,8,4,4,a_m.png,,,,1,\n",
        "label.csv": b"number,name,category,frequency,coverage,syns\n1,red,color(1),1,1,\n",
        "category.csv": b"name,first,last,count,frequency\ncolor,1,1,1,1\n",
        "images/a.png": image.getvalue(),
        "images/a_m.png": mask.getvalue(),
    }


def _array_files() -> list[bytes]:
    """Images as `.npz`, plain and packed, and as `.h5`; embeddings."""
    images = np.arange(3 * 4 * 4 * 3, dtype=np.uint8).reshape(3, 4, 4, 3)
    found = []
    for save_arrays in (np.savez, np.savez_compressed):
        buffer = io.BytesIO()
        save_arrays(buffer, images=images)
        found.append(buffer.getvalue())
    for arrays in ({"images": images}, {"images": np.ones((2, 3)), "texts": np.ones((2, 3))}):
        buffer = io.BytesIO()
        with h5py.File(buffer, "w") as file:
            for name, values in arrays.items():
                file[name] = values
            if "texts" in arrays:
                file["concepts"] = ["red", "dog"]
        found.append(buffer.getvalue())
    return found


@functools.cache
def _distributed_files() -> dict[str, bytes]:
    """A folder of torch.distributed.checkpoint."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = {"conv.weight": torch.ones(2, 3), "bn.num_batches_tracked": torch.tensor(1)}
        dcp.save({"model": state, "epoch": 3}, checkpoint_id=folder)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


BRODEN = _broden_files()
SEEDS: dict[str, list[bytes]] = {
    "checkpoint": [
        _torch_file(False),
        _torch_file(True),
        pickle.dumps({"state_dict": {"a": [1, 2]}, "epoch": 1}),
        save({"conv.weight": torch.ones(2, 3)}),
        b"",
        b"PK\x03\x04",
        *_files_with_objects(),
    ],
    "concepts": [
        b"red\ngreen\n\nblue\n",
        "Stra\u00dfe\r\n\u65e5\u672c\n".encode("utf-16"),
        b"concept,category\nred,color\n",
    ],
    "config": [b'layer = "layer4"\n[dissect]\ntop-concepts = 3\n', b"[a.b.c]\nx = [1, [2]]\n", b"seed = 1\n"],
    "arrays": _array_files(),
    "broden": [BRODEN["index.csv"], BRODEN["label.csv"], BRODEN["category.csv"], BRODEN["images/a_m.png"]],
}


def seeds_of(kind: str) -> list[bytes]:
    """What the reader of one kind of file is given whole, or damaged."""
    return list(_distributed_files().values()) if kind == "distributed" else SEEDS[kind]


@st.composite
def damaged(draw: Any, seeds: list[bytes]) -> tuple[int, bytes]:
    """One of the seeds with some damage, or anything at all."""
    which = draw(st.integers(0, len(seeds) - 1))
    if draw(st.integers(0, 9)) == 0:
        return which, draw(st.binary(max_size=400))
    data = bytearray(seeds[which])
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, len(data)))
        kind = draw(st.integers(0, 3))
        if kind == 0 and data:
            data[place % len(data)] = draw(st.integers(0, 255))
        elif kind == 1:
            data[place:place] = draw(st.sampled_from(_TOKENS))
        elif kind == 2:
            del data[place : place + draw(st.integers(1, 60))]
        else:
            data = data[:place]
    return which, bytes(data)


def read_checkpoint(folder: Path, which: int, data: bytes) -> None:
    name = "x_3.safetensors" if which == 3 else "x_3.pth"
    (folder / name).write_bytes(data)
    for file in find_checkpoints(folder):
        for lazy in (True, False):
            load_checkpoint(file.path, lazy=lazy)


def read_concepts(folder: Path, which: int, data: bytes) -> None:
    path = folder / ("words.csv" if which == 2 else "words.txt")
    path.write_bytes(data)
    assert len(load_concepts(str(path)).concepts) > 0


def read_config(folder: Path, which: int, data: bytes) -> None:
    (folder / "cmon.toml").write_bytes(data)
    find_config(folder / "cmon.toml")


def read_broden(folder: Path, which: int, data: bytes) -> None:
    names = ["index.csv", "label.csv", "category.csv", "images/a_m.png"]
    (folder / "images").mkdir()
    for name, content in {**BRODEN, names[which]: data}.items():
        (folder / name).write_bytes(content)
    probe = load_probe(str(folder))
    for i in range(len(probe)):
        probe.image(i)
        # A set of which no mask is left is used for its images, and keeps why there are none.
        assert (probe.annotations is None) == (probe.masks_problem is not None)
        if probe.annotations is not None:
            probe.annotations.image(i)


def read_arrays(folder: Path, which: int, data: bytes) -> None:
    path = folder / ("a.npz" if which < 2 else "a.h5")
    path.write_bytes(data)
    if which == 3:
        encoder = load_encoder(f"embeddings:{path}")
        encoder.text(["red"])
        return
    probe = load_probe(str(path))
    for i in range(min(len(probe), 5)):
        probe.image(i)


def read_distributed(folder: Path, which: int, data: bytes) -> None:
    step = folder / "step_3"
    step.mkdir()
    for number, (name, content) in enumerate(_distributed_files().items()):
        (step / name).write_bytes(data if number == which else content)
    for file in find_checkpoints(folder):
        for lazy in (True, False):
            load_checkpoint(file.path, lazy=lazy)


READERS: dict[str, Callable[[Path, int, bytes], None]] = {
    "checkpoint": read_checkpoint,
    "concepts": read_concepts,
    "config": read_config,
    "broden": read_broden,
    "arrays": read_arrays,
    "distributed": read_distributed,
}


def fuzz(kind: str, examples: int) -> None:
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(damaged(seeds_of(kind)))
    def read(example: tuple[int, bytes]) -> None:
        with tempfile.TemporaryDirectory() as outside:
            folder = Path(outside, "inside")
            folder.mkdir()
            began = time.monotonic()
            with contextlib.suppress(InputError):
                READERS[kind](folder, *example)
            assert time.monotonic() - began < 20
            assert [path.name for path in Path(outside).iterdir()] == ["inside"]

    read()


@pytest.mark.parametrize("kind", READERS)
def test_seeds_themselves_are_read(kind: str, tmp_path: Path) -> None:
    READERS[kind](tmp_path, 0, seeds_of(kind)[0])


@pytest.mark.parametrize(
    "data", [b"\x80", b"\x1f\x8b", b"\xfd7zXZ\0", b"BZh9", b"\x80\x02", b"PK", b"\0" * 600]
)
def test_found_by_fuzzing(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(InputError):
        read_checkpoint(tmp_path, 0, data)


@pytest.mark.parametrize("kind", READERS)
def test_fuzzed_files_are_read_or_refused(kind: str) -> None:
    fuzz(kind, 60)


@pytest.mark.slow
@pytest.mark.parametrize("kind", READERS)
def test_12_000_fuzzed_files_are_read_or_refused(kind: str) -> None:
    fuzz(kind, 2000)
