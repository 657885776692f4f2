"""Random damage to every file that a probing set is read from: an input error or a result, nothing else."""

from __future__ import annotations

import gzip
import io
import pickle
import random
import struct
import tarfile
import time
import zipfile

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
import scipy.io
from PIL import Image
from probe_help import picture, png, save, tiny_broden, tiny_index_masks, tiny_panoptic

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
    if kind == "colours":
        return _colours(folder)
    folder.mkdir()
    if kind in PUBLISHED:
        name, data = PUBLISHED[kind]()
        (folder / name).write_bytes(data)
        return str(folder), [folder / name]
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


def _colours(folder):
    """Masks in colours beside the photos, and a list of the colours."""
    for number in range(4):
        save(folder / f"{number}.png", picture(24, 16, number))
        mask = np.zeros((16, 24, 3), np.uint8)
        mask[:8] = 1, 37, 91
        save(folder / f"{number}_mask.png", mask)
    (folder / "class_dict.csv").write_text("name,r,g,b\nvoid,0,0,0\nsky,1,37,91\n")
    return str(folder), [folder / "class_dict.csv", *folder.glob("*_mask.png")]


def _written(write):
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def _zip_of(stream):
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, image in enumerate(_IMAGES):
            archive.writestr(f"{number}.png", png(image))


def _tar_of(stream, mode="w"):
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for number, image in enumerate(_IMAGES):
            member = tarfile.TarInfo(f"{number}.png")
            member.size = len(png(image))
            archive.addfile(member, io.BytesIO(png(image)))


def _table():
    return pa.table({"image": [{"bytes": png(image), "path": "x.png"} for image in _IMAGES]})


def _arrow_of(stream):
    with pa.ipc.new_stream(stream, _table().schema) as writer:
        writer.write_table(_table(), max_chunksize=2)


def _idx_of():
    greys = np.ascontiguousarray(_IMAGES[..., 0])
    return b"\0\0\x08\x03" + struct.pack(">III", *greys.shape) + greys.tobytes()


PUBLISHED = {
    "zip": lambda: ("a.zip", _written(_zip_of)),
    "tar": lambda: ("a.tar", _written(_tar_of)),
    "tgz": lambda: ("a.tar.gz", _written(lambda stream: _tar_of(stream, "w:gz"))),
    "parquet": lambda: ("a.parquet", _written(lambda stream: pq.write_table(_table(), stream))),
    "arrow": lambda: ("a.arrow", _written(_arrow_of)),
    "npy": lambda: ("a.npy", _written(lambda stream: np.save(stream, _IMAGES))),
    "idx": lambda: ("train-images-idx3-ubyte", _idx_of()),
    "idx.gz": lambda: ("train-images-idx3-ubyte.gz", gzip.compress(_idx_of())),
    "stl": lambda: ("train_X.bin", bytes(3 * 3 * 96 * 96)),
    "mat": lambda: (
        "train_32x32.mat",
        _written(lambda stream: scipy.io.savemat(stream, {"X": _IMAGES.transpose(1, 2, 3, 0)})),
    ),
    "deep": lambda: ("0.tif", _written(lambda s: Image.fromarray(_IMAGES[0, ..., 0] * 9.0).save(s, "TIFF"))),
}


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
@pytest.mark.parametrize(
    "kind", ["broden", "panoptic", "index", "colours", "cifar", "npz", "npz packed", "h5", *PUBLISHED]
)
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
            refused += probe.masks_problem is not None or bool(probe.skipped)
        except InputError as error:
            refused += 1
            assert error.what.strip()  # noqa: PT017
        file.unlink()
        file.write_bytes(originals[file])
    load_probe(spec)
    assert refused > (
        10 if kind not in ("stl", "idx", "npy", "deep", "arrow") else 3
    )  # most bytes are pixels
    assert time.monotonic() - begin < 60
