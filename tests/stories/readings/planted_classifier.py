"""A classifier whose units are known: noise at first, then two units for each class, which its head reads."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TypeVar

import h5py
import numpy as np
import torch
from PIL import Image
from planted_training import CONCEPTS, SIDE, patch

from concept_monitor_cli.options import DissectOptions
from concept_monitor_cli.stories.dissect import dissect

EACH, WIDE, EPOCHS = 24, 12, 2
CLASSES = len(CONCEPTS)
SORTED = sorted(CONCEPTS)

Options = TypeVar("Options")


def asked(kind: type[Options], root: Path, /, **more: object) -> Options:
    """The options of a command that looks at the dissected classifier in a folder."""
    given: dict[str, object] = {
        "out": root / "run",
        "cache_dir": root / "cache",
        "model": f"{root / 'network.py'}:network",
        "device": "cpu",
        "plot_formats": (),
    }
    return kind(**{**given, **more})


NETWORK = """
import torch
from torch import nn

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear({pixels}, {wide})
        self.second = nn.Linear({wide}, {wide})
        self.stage1, self.stage2 = nn.ReLU(), nn.ReLU(inplace=True)
        self.head = nn.Linear({wide}, {classes})

    def forward(self, x):
        return self.head(self.stage2(self.second(self.stage1(self.first(x.flatten(1))))))

def network(num_classes={classes}):
    return Network()
"""


def state(epoch: int) -> dict[str, torch.Tensor]:
    """Nothing but noise at epoch 0; then unit `u` sees concept `u % 6`, and the head reads it."""
    generator = torch.Generator().manual_seed(epoch)
    noise = torch.rand(WIDE, 3 * SIDE * SIDE, generator=generator) / (3 * SIDE * SIDE)
    seen = torch.stack([patch(unit % CLASSES) for unit in range(WIDE)])
    same = torch.tensor([[float(a % CLASSES == b % CLASSES) for b in range(WIDE)] for a in range(WIDE)])
    head = torch.tensor([[float(name == CONCEPTS[b % CLASSES]) for b in range(WIDE)] for name in SORTED])
    mixed = torch.rand(WIDE, WIDE, generator=generator) - 0.3
    return {
        "first.weight": seen if epoch else noise,
        "first.bias": torch.full((WIDE,), -0.3 if epoch else 0.0),
        "second.weight": same if epoch else mixed,
        "second.bias": torch.full((WIDE,), -0.1),
        "head.weight": head - 0.1,
        "head.bias": torch.zeros(CLASSES),
    }


def dissected_classifier(root: Path) -> Path:
    """Photos in a folder for each concept, one of them twice, and a dissected training of two epochs."""
    rng = np.random.default_rng(0)
    for concept, name in enumerate(CONCEPTS):
        folder = root / "photos" / name
        folder.mkdir(parents=True)
        mask = patch(concept).reshape(3, SIDE, SIDE).permute(1, 2, 0).numpy() > 0
        for number in range(EACH):
            pixels = rng.integers(0, 110, (SIDE, SIDE, 3))
            pixels = np.where(mask, pixels + rng.integers(40, 140), pixels)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:03d}.png")
    shutil.copy(root / "photos/car/000.png", root / "photos/car/copy.png")
    texts = np.linalg.qr(rng.normal(size=(8, 8)))[0][:CLASSES]
    shown = [name for name in SORTED for _ in range(EACH + (name == "car"))]
    with h5py.File(root / "embeddings.h5", "w") as file:
        embedded = texts[[CONCEPTS.index(name) for name in shown]]
        file["images"] = (embedded + 0.2 * rng.normal(size=embedded.shape)).astype("f4")
        file["texts"] = texts.astype("f4")
        file.create_dataset("concepts", data=list(CONCEPTS), dtype=h5py.string_dtype())
    (root / "words.txt").write_text("\n".join(CONCEPTS) + "\n")
    (root / "network.py").write_text(NETWORK.format(pixels=3 * SIDE * SIDE, wide=WIDE, classes=CLASSES))
    (root / "ckpts").mkdir()
    for epoch in range(EPOCHS):
        torch.save({"state_dict": state(epoch), "epoch": epoch}, root / "ckpts" / f"epoch_{epoch}.pth")
    dissect(
        DissectOptions(
            checkpoints=(str(root / "ckpts"),),
            layers=("stage1", "stage2"),
            model=f"{root / 'network.py'}:network",
            input_size=SIDE,
            crop=1.0,
            mean=(0.0,) * 3,
            std=(1.0,) * 3,
            probe=str(root / "photos"),
            concepts=str(root / "words.txt"),
            encoder=f"embeddings:{root / 'embeddings.h5'}",
            floors=False,
            out=root / "run",
            cache_dir=root / "cache",
            device="cpu",
        )
    )
    return root
