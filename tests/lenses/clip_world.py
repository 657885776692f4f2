"""A small world for CLIP-Dissect without files: embeddings of images and words, recorded activations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from concept_monitor_cli.concepts import ConceptSet
from concept_monitor_cli.functional.groups import ImageGroups
from concept_monitor_cli.functional.similarity import ConceptActivations
from concept_monitor_cli.functional.topk import dead_units
from concept_monitor_cli.lenses import Findings
from concept_monitor_cli.lenses.names.clip_dissect import ClipDissect
from concept_monitor_cli.store import Entry, Store
from concept_monitor_cli.study import Context


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
    texts = rng.normal(size=(m, 48))
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    photos = 0.25 * texts[rng.integers(0, min(10, m), n // copies)] + rng.normal(size=(n // copies, 48)) / 7
    of = rng.permutation(np.repeat(np.arange(n // copies), copies))
    images = photos[of] + (0.02 * rng.normal(size=(n, 48)) / 7 if copies > 1 else 0)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    given = (torch.from_numpy(each).float() for each in (images, texts))
    return make_world(root, *given, ImageGroups.read(of), seed=seed), rng


def found(world: World, detector: ClipDissect, Q: Tensor, name: str = "layer") -> Findings:
    """What the detector says of activations `(N, C)`."""
    key = world.store.key("activations", name=name, seed=world.seed)
    arrays = {"pooled": Q.float().numpy(), "live": (~dead_units(Q)).numpy()}
    entry: Entry = world.store.put(key, arrays, {"notes": []})
    with entry:
        return detector.find(entry, world, matrix=True)
