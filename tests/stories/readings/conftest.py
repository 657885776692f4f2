"""A training whose units have known histories, dissected for real.

The images and the network are those of `planted_training`; the encoder is a table that knows what each image
shows.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))

from planted_classifier import dissected_classifier
from planted_training import (
    CATEGORIES,
    CONCEPTS,
    EPOCHS,
    FACTORY,
    IMAGES_EACH,
    SIDE,
    UNITS,
    patch,
    weights,
)

from concept_monitor_cli.options import DissectOptions
from concept_monitor_cli.stories.dissect import dissect


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, their embeddings, words and the network's code."""
    root = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)
    shown = np.repeat(np.arange(6), IMAGES_EACH)
    rng.shuffle(shown)
    (root / "photos").mkdir()
    for number, concept in enumerate(shown):
        pixels = rng.integers(0, 110, (SIDE, SIDE, 3))
        mask = patch(int(concept)).reshape(3, SIDE, SIDE).permute(1, 2, 0).numpy() > 0
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
    (root / "network.py").write_text(FACTORY.format(side=SIDE, units=UNITS))
    return root


Dissected = Callable[..., Path]


@pytest.fixture(scope="session")
def dissected(world: Path) -> Dissected:
    """Dissect checkpoints (epoch -> state dict) into a run of some name; gives the run folder."""

    def make(
        name: str, checkpoints: dict[int, dict[str, Tensor]], accuracy: Mapping[int, float] | None = None
    ) -> Path:
        folder = world / f"{name}-ckpts"
        folder.mkdir()
        for epoch, state in checkpoints.items():
            content: dict[str, object] = {"state_dict": state, "epoch": epoch}
            if accuracy is not None:
                content["test_acc"] = accuracy[epoch]
            torch.save(content, folder / f"epoch_{epoch}.pth")
        dissect(
            DissectOptions(
                checkpoints=(str(folder),),
                layers=("1",),
                model=f"{world / 'network.py'}:network",
                input_size=SIDE,
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


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dissected training of a classifier whose units are known; see `planted_classifier`."""
    return dissected_classifier(tmp_path_factory.mktemp("classifier"))


@pytest.fixture
def world_of(training: Path, cache: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The planted run and its cache, to be changed."""
    shutil.copytree(training, tmp_path / "run")
    shutil.copytree(cache, tmp_path / "cache")
    return tmp_path / "run", tmp_path / "cache"
