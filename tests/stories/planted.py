"""A study with known answers: labelled patches have colours of their own, and units see these."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from PIL import Image

from concept_monitor_cli.lenses.names.compositional import LENGTHS
from concept_monitor_cli.lenses.names.network_dissection import BY_CATEGORY
from concept_monitor_cli.options import DissectOptions
from concept_monitor_cli.run import TABLES

OBJECTS = ("ball", "cup", "lamp", "boat", "shoe", "drum", "leaf")
SCENES = ("street", "kitchen")
COLORS = ("dark", "light")
LABELS = (
    [(10 + i, name, "object(1)") for i, name in enumerate(OBJECTS)]
    + [(300 + i, f"{name}-s", "scene(1)") for i, name in enumerate(SCENES)]
    + [(500 + i, f"{name}-c", "color(1)") for i, name in enumerate(COLORS)]
)
IMAGES, SIDE, MASK = 60, 32, 16
# Units 0 .. 6 see one object each, unit 7 sees nothing at all, the rest are random.
UNITS, DEAD = 32, 7

NETWORK = """
import torch
from torch import nn

class Planted(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 32, 2, stride=2)
        self.act = nn.ReLU()
        self.head = nn.Linear(32, 4)

    def forward(self, x):
        return self.head(self.act(self.patch(x)).mean((2, 3)))

def make():
    return Planted()
"""


def corner(k: int) -> np.ndarray:
    """The colour of an object: a corner of the cube of colours."""
    return np.array([255 * (k >> bit & 1) for bit in range(3)], dtype=np.uint8)


def write_broden(root: Path) -> None:
    rng = np.random.default_rng(0)
    rows: list[tuple[Any, ...]] = []
    (root / "images").mkdir(parents=True)
    for i in range(IMAGES):
        pixels = rng.integers(96, 160, (SIDE, SIDE, 3), dtype=np.uint8)
        objects = np.zeros((MASK, MASK), dtype=int)
        # Every object is in two images, on 15 of 256 pixels: 30 of the 76 positions that a unit may fire on.
        for k in range(len(OBJECTS)):
            if i in (3 * k, 3 * k + 30):
                top, left = (int(v) for v in rng.integers(0, MASK - 7, 2))
                objects[top : top + 3, left : left + 5] = 10 + k
                pixels[2 * top : 2 * top + 6, 2 * left : 2 * left + 10] = corner(k)
        colors = rng.choice([0, 500, 501], (4, 4)).repeat(4, 0).repeat(4, 1)
        Image.fromarray(pixels).save(root / "images" / f"{i:03d}.png")
        for name, numbers in (("object", objects), ("color", colors)):
            coded = np.stack([numbers & 255, numbers >> 8, 0 * numbers], axis=-1).astype(np.uint8)
            Image.fromarray(coded).save(root / "images" / f"{i:03d}_{name}.png")
        parts = (f"{i:03d}_color.png", f"{i:03d}_object.png", "", "", str(300 + i % 2), "")
        rows.append((f"{i:03d}.png", "train", SIDE, SIDE, MASK, MASK, *parts))
    kinds = ["color", "object", "part", "material", "scene", "texture"]
    header = ["image", "split", "ih", "iw", "sh", "sw", *kinds]
    _write_csv(root / "index.csv", header, rows)
    header = ["number", "name", "category", "frequency", "coverage", "syns"]
    _write_csv(root / "label.csv", header, [(*label, 1, 1.0, "") for label in LABELS])
    rows = [(kind, 1, 1, 1, 1) for kind in kinds]
    _write_csv(root / "category.csv", ["name", "first", "last", "count", "frequency"], rows)


def _write_csv(path: Path, header: list[str], rows: list[tuple[Any, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def planted_weights(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(UNITS, 3, 2, 2, generator=generator)
    bias = 0.1 * torch.randn(UNITS, generator=generator)
    for k in range(len(OBJECTS)):
        sign = torch.from_numpy(corner(k).astype(np.float32)) / 127.5 - 1
        # Over 2 x 2 pixels in -1..1: 3 at the colour itself, at most 1 at another corner.
        weight[k] = sign[:, None, None] / 4
        bias[k] = -2.0
    weight[DEAD], bias[DEAD] = 0.0, -1.0
    return {
        "patch.weight": weight,
        "patch.bias": bias,
        "head.weight": torch.zeros(4, UNITS),
        "head.bias": torch.zeros(4),
    }


@dataclass
class Planted:
    """The files of the study."""

    root: Path

    def options(self, *detectors: Any, out: str = "out", **more: Any) -> DissectOptions:
        values: dict[str, Any] = {
            "checkpoints": (str(self.root / "ckpts"),),
            "layers": ("act",),
            "detectors": detectors,
            "model": f"{self.root / 'network.py'}:make",
            "input_size": SIDE,
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "interpolation": "nearest",
            "probe": str(self.root / "broden"),
            "encoder": f"embeddings:{self.root / 'embeddings.h5'}",
            "out": self.root / out,
            "cache_dir": self.root / "cache",
            "device": "cpu",
        }
        return DissectOptions(**{**values, **more})

    def table(self, detector: str, out: str = "out", epoch: int = 0) -> Any:
        path = self.root / out / "tables" / f"epoch_{epoch:04d}" / f"act.{detector}.csv"
        _, _, more = detector.partition(".")
        schemas = {**TABLES, LENGTHS.name: LENGTHS, BY_CATEGORY.name: BY_CATEGORY}
        return schemas[more or "concepts"].read_csv(path)


def make_planted(root: Path) -> Planted:
    write_broden(root / "broden")
    (root / "network.py").write_text(NETWORK)
    (root / "ckpts").mkdir()
    torch.save({"state_dict": planted_weights(), "epoch": 0}, root / "ckpts" / "epoch_0.pth")
    rng = np.random.default_rng(1)
    words = [name.removesuffix("-s").removesuffix("-c") for _, name, _ in LABELS]
    with h5py.File(root / "embeddings.h5", "w") as file:
        file["images"] = rng.normal(size=(IMAGES, 16)).astype(np.float32)
        file["texts"] = rng.normal(size=(len(words), 16)).astype(np.float32)
        file.create_dataset("concepts", data=words, dtype=h5py.string_dtype())
    return Planted(root)
