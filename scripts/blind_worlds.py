"""Simulated probing sets and layers, without files and networks.

Photos have content (embeddings near a word; objects, colours and scenes), and every photo is there once or
several times. Units answer to a concept (`planted`), or to the photo and not to what is on it (`blind`).
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from concept_monitor_cli.concepts import ConceptSet
from concept_monitor_cli.functional.dissection import UnitMasks
from concept_monitor_cli.functional.groups import ImageGroups
from concept_monitor_cli.functional.similarity import ConceptActivations
from concept_monitor_cli.functional.topk import dead_units
from concept_monitor_cli.lenses import Findings
from concept_monitor_cli.lenses.base import Detector
from concept_monitor_cli.probe.annotations import ImageLabels
from concept_monitor_cli.store import Entry, Store
from concept_monitor_cli.study import Context

SIDE = 14  # of label maps and unit masks
OBJECTS, COLORS, SCENES = 12, 5, 6
DIMENSIONS, KINDS_OF_PHOTOS = 48, 10


# -- Words: embeddings and activations -----------------------------------------------------------------------


class _Images:
    """As many images as a probing set has."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count


class World(Context):
    """A context whose embeddings and groups are given."""

    @property
    def digests(self) -> dict[str, str]:
        """Of the one world of its store."""
        return {"world": "given"}


def make_world(root: Path, images: Tensor, texts: Tensor, groups: ImageGroups, *, seed: int = 0) -> World:
    """The context of these embeddings; words are `w0`, `w1`, ..."""
    concepts = ConceptSet.clean("words", [f"w{m}" for m in range(len(texts))], ["object"] * len(texts))
    world = World(Store(root), _Images(len(images)), None, concepts, None, seed=seed)  # type: ignore[arg-type]
    world.__dict__.update(
        groups=groups,
        image_embeddings=images,
        text_embeddings=texts,
        activations=ConceptActivations.from_embeddings(images, texts),
    )
    return world


def random_world(
    root: Path, n: int, m: int, *, copies: int = 1, seed: int = 0
) -> tuple[World, np.random.Generator]:
    """Photos of ten kinds, each `copies` times with small differences, in any order."""
    rng = np.random.default_rng(seed)
    texts = rng.normal(size=(m, DIMENSIONS))
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    kinds = min(KINDS_OF_PHOTOS, m)
    photos = (
        0.25 * texts[rng.integers(0, kinds, n // copies)] + rng.normal(size=(n // copies, DIMENSIONS)) / 7
    )
    of = rng.permutation(np.repeat(np.arange(n // copies), copies))
    images = photos[of] + (0.02 * rng.normal(size=(n, DIMENSIONS)) / 7 if copies > 1 else 0)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    given = (torch.from_numpy(each).float() for each in (images, texts))
    return make_world(root, *given, ImageGroups.read(of), seed=seed), rng


def found(
    world: World, detector: Detector, Q: Tensor, name: str = "layer", *, matrix: bool = True
) -> Findings:
    """What the detector says of activations `(N, C)`."""
    key = world.store.key("activations", name=name, seed=world.seed)
    arrays = {"pooled": Q.float().numpy(), "live": (~dead_units(Q)).numpy()}
    entry: Entry = world.store.put(key, arrays, {"notes": []})
    with entry:
        return detector.find(entry, world, matrix=matrix)


def planted(
    world: World, rng: np.random.Generator, units: int, strength: float = 4.0
) -> tuple[Tensor, list[int]]:
    """Units that answer to how much of a concept is in an image."""
    concepts = rng.choice(len(world.concepts), units, replace=units > len(world.concepts))
    P = (world.image_embeddings @ world.text_embeddings[concepts].T).numpy()
    signal = (P - P.mean(0)) / P.std(0)
    return torch.from_numpy(strength * signal + rng.normal(size=signal.shape)).float(), concepts.tolist()


def blind(world: World, rng: np.random.Generator, units: int, fires: int | None = None) -> Tensor:
    """Units that answer to the photo and not to what is on it; all, or only some photos."""
    groups = world.groups
    values = rng.normal(size=(groups.n_groups, units))
    if fires is not None:
        fires = min(fires, groups.n_groups)
        values = np.zeros_like(values)
        for unit in range(units):
            on = rng.choice(groups.n_groups, fires, replace=False)
            values[on, unit] = 0.1 + rng.exponential(size=fires)
    Q = values[groups.of]
    return torch.from_numpy(np.where(Q != 0, Q + 0.01 * rng.random(Q.shape), 0.0)).float()


# -- Pixels: labels and masks --------------------------------------------------------------------------------


class _Labels(list[ImageLabels]):
    """Labels of simulated photos."""

    size = (SIDE, SIDE)
    names = (
        *(f"object {k}" for k in range(OBJECTS)),
        *(f"color {k}" for k in range(COLORS)),
        *(f"scene {k}" for k in range(SCENES)),
    )
    categories = ("object",) * OBJECTS + ("color",) * COLORS + ("scene",) * SCENES
    digest = "simulated"

    @cached_property
    def category_numbers(self) -> NDArray[np.int64]:
        """The category of each label."""
        return np.repeat(np.arange(3), (OBJECTS, COLORS, SCENES))


class MaskWorld(Context):
    """Photos with objects, colours and scenes, each `copies` times in any order.

    Args:
        root: of its store.
        images: copies included.
        copies: of every photo.
        seed: of everything.
    """

    def __init__(self, root: Path, images: int, *, copies: int = 1, seed: int = 0) -> None:
        super().__init__(Store(root), _Images(images), None, None, None, seed=seed)  # type: ignore[arg-type]
        rng = self.rng = np.random.default_rng(seed)
        photos = images // copies
        self.objects = np.full((photos, SIDE, SIDE), -1, dtype=np.int32)
        self.colors = np.kron(rng.integers(0, COLORS, (photos, 2, 2)), np.ones((7, 7), dtype=np.int32))
        labels = []
        for i in range(photos):
            for _ in range(3):
                top, left = rng.integers(0, SIDE - 4, 2)
                height, width = rng.integers(2, 7, 2)
                label = min(int(rng.zipf(1.5)) - 1, OBJECTS - 1)
                self.objects[i, top : top + height, left : left + width] = label
            scenes = (OBJECTS + COLORS + int(rng.integers(0, SCENES)),) if rng.random() < 0.5 else ()
            maps = (self.objects[i], (self.colors[i] + OBJECTS).astype(np.int32))
            labels.append(ImageLabels(maps, scenes, ("color", "object", *(["scene"] if scenes else []))))
        self.photo = rng.permutation(np.repeat(np.arange(photos), copies))
        self.__dict__.update(
            groups=ImageGroups.read(self.photo), labels=_Labels(labels[photo] for photo in self.photo)
        )

    def blind(self, units: int, fires: int | None) -> NDArray[np.bool_]:
        """Units with a patch on random photos, a third of them by default: (photos, units, side, side)."""
        photos = len(self.objects)
        masks = np.zeros((photos, units, SIDE, SIDE), dtype=bool)
        for unit in range(units):
            for i in self.rng.choice(photos, min(photos, fires or max(1, photos // 3)), replace=False):
                size = self.rng.integers(1, 6)
                top, left = self.rng.integers(0, SIDE - size + 1, 2)
                masks[i, unit, top : top + size, left : left + size] = True
        return masks

    def planted(self, units: int) -> tuple[NDArray[np.bool_], list[str]]:
        """Units that fire on four fifths of the pixels of an object or colour, and those labels."""
        frequent = [k for k in range(OBJECTS) if (self.objects == k).any((1, 2)).sum() >= 3]
        given = [("object", k) for k in frequent] + [("color", k) for k in range(COLORS)]
        chosen = [given[unit % len(given)] for unit in range(units)]
        parts = [(self.objects if kind == "object" else self.colors) == k for kind, k in chosen]
        masks = np.stack(parts, axis=1)
        return masks & (self.rng.random(masks.shape) < 0.8), [f"{kind} {k}" for kind, k in chosen]

    def found(self, detector: Detector, masks: NDArray[np.bool_], name: str) -> Findings:
        """What the detector says of units with these masks on the photos."""
        units = UnitMasks.from_dense(masks[self.photo])
        arrays: dict[str, Any] = {
            each: getattr(units, each) for each in ("image", "unit", "offsets", "edges")
        }
        arrays["live"] = np.ones(masks.shape[1], dtype=bool)
        meta = {"n_images": len(self.photo), "n_units": masks.shape[1], "size": [SIDE, SIDE], "notes": []}
        with self.store.put(self.store.key("masks", name=name), arrays, meta) as entry:
            return detector.find(entry, self)
