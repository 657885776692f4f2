"""A classifier whose units are known, dissected for real.

Every image shows one of six things: a bright patch at a place of its own. A hidden unit answers to one patch
(unit `u` to thing `u % 6`), and the classifier adds up the units of each class. The encoder is a table that
knows what each image shows, nearly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np
import torch
from PIL import Image

from concept_monitor_cli.options import DissectOptions
from concept_monitor_cli.stories.dissect import dissect

CLASSES = ("bird", "cat", "dog", "frog", "ship", "truck")
OTHERS = tuple(f"word {number}" for number in range(34))
WORDS = (*OTHERS[:10], *CLASSES, *OTHERS[10:])
SIDE, DIM, EACH, HIDDEN = 12, 24, 40, 18
FACTORY = f"""
import torch

def network(num_classes=6):
    return torch.nn.Sequential(
        torch.nn.Flatten(),
        torch.nn.Linear({3 * SIDE * SIDE}, {HIDDEN}),
        torch.nn.ReLU(),
        torch.nn.Linear({HIDDEN}, 6),
    )
"""


def patch(thing: int) -> torch.Tensor:
    mask = torch.zeros(3, SIDE, SIDE)
    row, column = divmod(thing, 3)
    mask[:, row * 6 + 1 : row * 6 + 5, column * 4 : column * 4 + 4] = 1.0
    return mask.flatten() / mask.sum()


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.stack([patch(unit % 6) for unit in range(HIDDEN)])
    strength = 1 + torch.rand(HIDDEN, generator=generator)
    belongs = torch.arange(6)[:, None] == torch.arange(HIDDEN) % 6
    out = torch.where(belongs, strength, 0.2 * torch.rand(6, HIDDEN, generator=generator) - 0.2)
    return {
        "1.weight": hidden,
        "1.bias": torch.full((HIDDEN,), 0.2),
        "3.weight": out,
        "3.bias": torch.zeros(6),
    }


def write_photos(folder: Path, each: int, seed: int) -> dict[str, int]:
    """A folder per class; returns what each image shows, by its name, in the natural order."""
    rng, shown = np.random.default_rng(seed), {}
    for thing, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            pixels = rng.integers(0, 110, (SIDE, SIDE, 3))
            mask = patch(thing).reshape(3, SIDE, SIDE).permute(1, 2, 0).numpy() > 0
            pixels = np.where(mask, pixels + rng.integers(110, 145), pixels)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{number:03d}.png")
            shown[f"{name}/{number:03d}.png"] = thing
    return shown


def write_embeddings(path: Path, shown: Mapping[str, int], seed: int) -> None:
    rng = np.random.default_rng(100)
    texts = rng.normal(size=(len(WORDS), DIM))
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    rng = np.random.default_rng(seed)
    places = [WORDS.index(CLASSES[thing]) for thing in shown.values()]
    images = texts[places] + 0.15 * rng.normal(size=(len(shown), DIM))
    with h5py.File(path, "w") as file:
        file["images"], file["texts"] = images.astype(np.float32), texts.astype(np.float32)
        file.create_dataset("concepts", data=list(WORDS), dtype=h5py.string_dtype())


def make_world(root: Path, epochs: Sequence[int] = (0, 1)) -> Path:
    """Photos, encoder, words, checkpoints and their run in `root / "run"`."""
    shown = write_photos(root / "photos", EACH, seed=0)
    write_embeddings(root / "embeddings.h5", shown, seed=1)
    (root / "words.txt").write_text("\n".join(WORDS) + "\n")
    (root / "network.py").write_text(FACTORY)
    (root / "ckpts").mkdir()
    for epoch in epochs:
        torch.save({"state_dict": weights(epoch), "epoch": epoch}, root / "ckpts" / f"epoch_{epoch}.pth")
    dissect(dissect_options(root))
    return root


def dissect_options(root: Path, **more: object) -> DissectOptions:
    settings: dict[str, object] = {
        "checkpoints": (str(root / "ckpts"),),
        "layers": ("2", "3"),
        "model": f"{root / 'network.py'}:network",
        "input_size": SIDE,
        "crop": 1.0,
        "mean": (0.5,) * 3,
        "std": (0.25,) * 3,
        "probe": str(root / "photos"),
        "concepts": str(root / "words.txt"),
        "encoder": f"embeddings:{root / 'embeddings.h5'}",
        "similarity": "wpmi",
        "out": root / "run",
        "cache_dir": root / "cache",
        "device": "cpu",
    }
    return DissectOptions(**{**settings, **more})  # type: ignore[arg-type]
