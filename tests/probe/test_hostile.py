"""Random damage to every file that a probing set is read from: an input error or a result, nothing else."""

from __future__ import annotations

import pickle
import random
import time

import h5py
import numpy as np
import pytest
from probe_help import picture, tiny_broden, tiny_index_masks, tiny_panoptic

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.probe import load_probe

_IMAGES = np.stack([picture(seed=seed) for seed in range(5)])
_TOKENS = (
    *(b"../", b"/etc/passwd", b";", b",", b'"', b"\n", b"\0", b"999999999999", b"-1", b"1e9", b"(", b")"),
    *(b"{", b"[", b"null", b"\xff\xfe", b"a" * 300, b"\\u0000", b"NaN"),
)


def _make(kind, folder):
    """What to give to `load_probe`, and the files to damage."""
    if kind == "broden":
        tiny_broden(folder)
        return str(folder), [*folder.glob("*.csv"), *folder.rglob("*_*.png")]
    if kind == "panoptic":
        (json_file,) = tiny_panoptic(folder).rglob("*.json")
        return str(folder), [json_file, json_file, *folder.rglob("*.png")]
    if kind == "index":
        tiny_index_masks(folder)
        return str(folder), [folder / "classes.txt", *folder.rglob("*.png")]
    folder.mkdir()
    if kind == "cifar":
        for name in ("train", "test"):
            (folder / name).write_bytes(pickle.dumps({b"data": np.zeros((2, 3072), np.uint8)}, 2))
        return f"cifar100:{folder}", [folder / "train"]
    path = folder / f"x.{kind.split()[0]}"
    if kind == "h5":
        with h5py.File(path, "w") as file:
            file["images"] = _IMAGES
    else:
        (np.savez_compressed if "packed" in kind else np.savez)(path, images=_IMAGES)
    return str(path), [path]


def _damaged(data, chance):
    data = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 5, 20])):
        place, what = chance.randrange(len(data) + 1), chance.random()
        if what < 0.4 and data:
            data[place % len(data)] = chance.randrange(256)
        elif what < 0.6:
            data[place:place] = chance.choice(_TOKENS)
        elif what < 0.8:
            del data[place : place + chance.randrange(1, 50)]
        elif what < 0.85:
            data = data[:place]
        else:
            data[place:place] = data[: chance.randrange(1, 100)]
    return bytes(data)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["broden", "panoptic", "index", "cifar", "npz", "npz packed", "h5"])
def test_damage(tmp_path, kind):
    chance = random.Random(0)
    spec, files = _make(kind, tmp_path / "set")
    originals = {file: file.read_bytes() for file in files}
    refused, begin = 0, time.monotonic()
    for _ in range(50):
        file = chance.choice(files)
        file.unlink()  # HDF5 would go on with the file that it has open
        file.write_bytes(_damaged(originals[file], chance))
        try:
            probe = load_probe(spec)
            for index in range(len(probe)):
                probe.image(index)
                if probe.annotations is not None:
                    probe.annotations.image(index)
        except InputError as error:
            refused += 1
            assert error.what.strip()  # noqa: PT017
        file.unlink()
        file.write_bytes(originals[file])
    load_probe(spec)
    assert refused > 10
    assert time.monotonic() - begin < 60
