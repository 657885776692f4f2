"""A training whose units have known histories, dissected for real.

Every image shows one of six things: a bright patch at a place of its own, among noise. The network is one
linear layer, so a unit's weights say what it detects; the encoder is a table that knows what each image shows.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from concept_monitor_cli.options import DissectOptions
from concept_monitor_cli.pipeline import dissect

CONCEPTS = ("red", "striped", "wood", "wheel", "car", "street")
CATEGORIES = ("color", "texture", "material", "part", "object", "scene")
IMAGES_EACH = 50
UNITS = 18
EPOCHS = 6
_SIDE = 12
# What unit 0 .. 3 are; the others detect concept `unit % 6` throughout.
SWITCHES, STAYS, NOISE, DEAD = 0, 1, 2, 3

_FACTORY = """
import torch

def network(num_classes=2):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * {side} * {side}, {units}))
"""


def patch(concept: int) -> Tensor:
    """Weights that respond to a concept's patch."""
    mask = torch.zeros(3, _SIDE, _SIDE)
    row, column = divmod(concept, 3)
    mask[:, row * 6 + 1 : row * 6 + 5, column * 4 : column * 4 + 4] = 1.0
    return mask.flatten() / mask.sum()


def weights(epoch: int) -> dict[str, Tensor]:
    """The checkpoint of an epoch."""
    generator = torch.Generator().manual_seed(epoch)
    trembling = 0.05 / (3 * _SIDE * _SIDE) ** 0.5
    rows = torch.stack([patch(unit % 6) for unit in range(UNITS)])
    rows = rows + trembling * 0.02 * torch.randn(rows.shape, generator=generator)
    rows[SWITCHES] = patch(0 if epoch < 3 else 4)
    outside = (torch.stack([patch(c) for c in range(6)]).sum(0) == 0).float()
    rows[NOISE] = outside * torch.randn(rows.shape[1], generator=generator) / outside.sum()
    rows[DEAD] = 0
    return {"1.weight": rows, "1.bias": torch.zeros(UNITS)}


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, their embeddings, words and the network's code."""
    root = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)
    shown = np.repeat(np.arange(6), IMAGES_EACH)
    rng.shuffle(shown)
    (root / "photos").mkdir()
    for number, concept in enumerate(shown):
        pixels = rng.integers(0, 110, (_SIDE, _SIDE, 3))
        mask = patch(int(concept)).reshape(3, _SIDE, _SIDE).permute(1, 2, 0).numpy() > 0
        pixels = np.where(mask, pixels + rng.integers(60, 140), pixels)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / "photos" / f"{number:03d}.png")
    texts = np.linalg.qr(rng.normal(size=(8, 8)))[0][:6]
    images = texts[shown] + 0.25 * rng.normal(size=(len(shown), 8))
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    with h5py.File(root / "embeddings.h5", "w") as file:
        file["images"], file["texts"] = images.astype(np.float32), texts.astype(np.float32)
        file.create_dataset("concepts", data=list(CONCEPTS), dtype=h5py.string_dtype())
    lines = [f"{name},{kind}" for name, kind in zip(CONCEPTS, CATEGORIES, strict=True)]
    (root / "words.csv").write_text("concept,category\n" + "\n".join(lines) + "\n")
    (root / "network.py").write_text(_FACTORY.format(side=_SIDE, units=UNITS))
    return root


Dissected = Callable[..., Path]


@pytest.fixture(scope="session")
def dissected(world: Path) -> Dissected:
    """Dissect checkpoints (epoch -> state dict) into a run of some name; gives the run folder."""

    def make(name: str, checkpoints: dict[int, dict[str, Tensor]]) -> Path:
        folder = world / f"{name}-ckpts"
        folder.mkdir()
        for epoch, state in checkpoints.items():
            torch.save({"state_dict": state, "epoch": epoch}, folder / f"epoch_{epoch}.pth")
        dissect(
            DissectOptions(
                checkpoints=(str(folder),),
                layers=("1",),
                model=f"{world / 'network.py'}:network",
                input_size=_SIDE,
                crop=1.0,
                mean=(0.5,) * 3,
                std=(0.25,) * 3,
                probe=str(world / "photos"),
                concepts=str(world / "words.csv"),
                encoder=f"embeddings:{world / 'embeddings.h5'}",
                out=world / name,
                cache_dir=world / "cache",
                device="cpu",
            )
        )
        return world / name

    return make


@pytest.fixture(scope="session")
def cache(world: Path) -> Path:
    """The store of all runs here."""
    return world / "cache"


@pytest.fixture(scope="session")
def training(dissected: Dissected) -> Path:
    """The run with the known histories."""
    return dissected("training", {epoch: weights(epoch) for epoch in range(EPOCHS)})
