"""A network whose units are known, and photos whose labels are known in part.

Every photo shows one of six things, a bright patch at a place of its own. Its scene is called after it, but
one photo in five has none. Every other photo has a texture, "fur" or not, which no unit knows.
"""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

import h5py
import numpy as np
import torch
from PIL import Image

from concept_monitor_cli.options import DissectOptions
from concept_monitor_cli.probe.images import content_digest
from concept_monitor_cli.stories.dissect import dissect

THINGS = ("bird", "cat", "dog", "frog", "ship", "truck")
OTHERS = tuple(f"word {number}" for number in range(20))
WORDS = (*OTHERS[:9], *THINGS, "fur", *OTHERS[9:])
SIDE, DIM, PHOTOS = 12, 24, 240
# What each unit responds to; the last one is dead.
RESPONDS = (*((thing,) for thing in range(6)), (0, 1), (2, 3), (4, 5), (1, 3, 5), ())
UNITS = len(RESPONDS)
FACTORY = f"""
import torch

def network(num_classes={UNITS}):
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear({3 * SIDE * SIDE}, {UNITS}), torch.nn.ReLU()
    )
"""


def _written() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the photos show, their scenes and textures, as they are made."""
    things = np.random.default_rng(0).permutation(np.arange(PHOTOS) % 6)
    scene = np.where(np.arange(PHOTOS) % 5 == 0, -1, things)
    fur = np.random.default_rng(1).random(PHOTOS) < 0.3
    return things, scene, np.where(np.arange(PHOTOS) % 2 == 0, fur.astype(int), -1)


@cache
def _files() -> tuple[tuple[bytes, ...], np.ndarray]:
    """The photos as PNG files in the order of their content, as a probing set has them; and that order."""
    rng, made = np.random.default_rng(2), []
    for thing in _written()[0]:
        pixels = rng.integers(0, 110, (SIDE, SIDE, 3))
        bright = patch(int(thing)).permute(1, 2, 0).numpy() > 0
        pixels = np.where(bright, pixels + rng.integers(110, 145), pixels)
        file = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "PNG")
        made.append(file.getvalue())
    order = np.array(sorted(range(PHOTOS), key=lambda number: content_digest(made[number])))
    return tuple(made[number] for number in order), order


def shown() -> np.ndarray:
    """What each photo shows, `(PHOTOS,)`, in the order of the probing set."""
    return _written()[0][_files()[1]]


def scenes() -> np.ndarray:
    """The scene of each photo; -1 where nobody named it."""
    return _written()[1][_files()[1]]


def furry() -> np.ndarray:
    """1 or 0; -1 where nobody named the texture."""
    return _written()[2][_files()[1]]


def patch(thing: int) -> torch.Tensor:
    mask = torch.zeros(3, SIDE, SIDE)
    row, column = divmod(thing, 3)
    mask[:, row * 6 + 1 : row * 6 + 5, column * 4 : column * 4 + 4] = 1.0
    return mask


def write_photos(root: Path) -> None:
    """A Broden directory: scenes and textures as labels of whole images."""
    (root / "images").mkdir(parents=True)
    lines = ["image,split,ih,iw,sh,sw,color,object,part,material,scene,texture"]
    photos = zip(_files()[0], scenes(), furry(), strict=True)
    for number, (file, scene, fur) in enumerate(photos):
        (root / "images" / f"{number:03d}.png").write_bytes(file)
        texture = {1: "7", 0: "8", -1: ""}[int(fur)]
        scene_label = "" if scene < 0 else str(scene + 1)
        lines.append(f"{number:03d}.png,train,{SIDE},{SIDE},{SIDE},{SIDE},,,,,{scene_label},{texture}")
    (root / "index.csv").write_text("\n".join(lines) + "\n")
    names = [*((name, "scene") for name in THINGS), ("fur", "texture"), ("bare", "texture")]
    labels = [f"{number},{name},{kind}" for number, (name, kind) in enumerate(names, start=1)]
    (root / "label.csv").write_text("number,name,category\n" + "\n".join(labels) + "\n")
    (root / "category.csv").write_text("name\nscene\ntexture\n")


def write_embeddings(path: Path) -> None:
    """An encoder that sees what each photo shows, nearly."""
    texts = np.random.default_rng(3).normal(size=(len(WORDS), DIM))
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    places = [WORDS.index(THINGS[thing]) for thing in shown()]
    images = texts[places] + 0.12 * np.random.default_rng(5).normal(size=(PHOTOS, DIM))
    with h5py.File(path, "w") as file:
        file["images"], file["texts"] = images.astype(np.float32), texts.astype(np.float32)
        file.create_dataset("concepts", data=list(WORDS), dtype=h5py.string_dtype())


def weights() -> dict[str, torch.Tensor]:
    rows = [
        sum((patch(thing).flatten() for thing in things), torch.zeros(3 * SIDE**2)) for things in RESPONDS
    ]
    bias = torch.zeros(UNITS)
    bias[-1] = -1.0
    return {"1.weight": torch.stack(rows) / 48, "1.bias": bias}


FIELD = f"""
import torch

def network(num_classes={UNITS}):
    layer = torch.nn.Conv2d(3, {UNITS}, {SIDE}, padding=1)
    return torch.nn.Sequential(layer, torch.nn.ReLU(), torch.nn.Flatten())
"""


def dissect_by_masks(root: Path, detectors: tuple[str, ...] = ("network-dissection",)) -> Path:
    """The same units as filters, whose maps are of 3 x 3 places, named by the labels, without an encoder."""
    (root / "field.py").write_text(FIELD)
    (root / "fields").mkdir()
    own = weights()
    state = {"0.weight": own["1.weight"].reshape(UNITS, 3, SIDE, SIDE), "0.bias": own["1.bias"]}
    torch.save({"state_dict": state, "epoch": 1}, root / "fields" / "epoch_1.pth")
    dissect(
        DissectOptions(
            checkpoints=(str(root / "fields"),),
            layers=("1",),
            model=f"{root / 'field.py'}:network",
            detectors=detectors,
            label_rule="iou",  # each label is on whole photos, of which a mask meets few
            length=2,
            floors=False,
            stability=False,
            input_size=SIDE,
            mean=(0.0,) * 3,
            std=(1.0,) * 3,
            probe=str(root / "photos"),
            out=root / "masks",
            cache_dir=root / "cache",
            device="cpu",
        )
    )
    return root / "masks"


def make_labelled_world(root: Path) -> Path:
    """Photos, encoder, words, a checkpoint and its run in `root / "run"`."""
    write_photos(root / "photos")
    write_embeddings(root / "embeddings.h5")
    (root / "words.txt").write_text("\n".join(WORDS) + "\n")
    (root / "network.py").write_text(FACTORY)
    (root / "ckpts").mkdir()
    torch.save({"state_dict": weights(), "epoch": 1}, root / "ckpts" / "epoch_1.pth")
    dissect(
        DissectOptions(
            checkpoints=(str(root / "ckpts"),),
            layers=("2",),
            model=f"{root / 'network.py'}:network",
            input_size=SIDE,
            mean=(0.0,) * 3,
            std=(1.0,) * 3,
            probe=str(root / "photos"),
            concepts=str(root / "words.txt"),
            encoder=f"embeddings:{root / 'embeddings.h5'}",
            similarity="wpmi",
            out=root / "run",
            cache_dir=root / "cache",
            device="cpu",
        )
    )
    return root
