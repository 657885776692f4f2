"""Are units that know nothing called interpretable, and are those that know something?

    python scripts/check_blind_units.py                # about a minute
    python scripts/check_blind_units.py --size full    # about twenty minutes of one core

Simulated layers, without files and networks. Photos have content (embeddings near a word; objects, colours
and scenes), every photo is there 1, 2 or 5 times, and units answer to the photo and not to what is on it: on
all photos (`dense`; for detectors that count pixels, a third of them), or on 3, 8 or 30. Per detector
(clip-dissect with each similarity, network-dissection with each label rule, compositional) and kind of layer:

- `called`: units called interpretable. A kind of layer is over the limit where one layer has more than 5 %
  + 2 of them, or all its layers together have;
- `p <= .05`: share of the units with a p-value of at most .05, which chance gives to 5 %.

The second table has planted units: how many are called, and how many get the planted label.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
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
from concept_monitor_cli.lenses.names.clip_dissect import ClipDissect
from concept_monitor_cli.lenses.names.compositional import Compositional
from concept_monitor_cli.lenses.names.network_dissection import NetworkDissection
from concept_monitor_cli.options import SIMILARITIES
from concept_monitor_cli.probe.annotations import ImageLabels
from concept_monitor_cli.store import Entry, Store
from concept_monitor_cli.study import Context

DENSE, COMPOSITIONAL = "dense", "compositional"
ALLOWED_SHARE, ALLOWED_MORE = 0.05, 2
SIDE = 14  # of label maps and unit masks
OBJECTS, COLORS, SCENES = 12, 5, 6
WORDS, DIMENSIONS, KINDS_OF_PHOTOS = 60, 48, 10


@dataclass(frozen=True)
class Size:
    """What a check goes through.

    Attributes:
        images: of the probing sets, copies included.
        copies: of every photo.
        units: of the layers.
        fires: on how many photos; `None` for all (mask detectors: a third).
        at_least: units in all layers of one kind together; small layers are repeated.
        searches: most images times units of a layer that `compositional` searches, three layers of a kind at
            most: it takes a hundred times as long as the others.
        planted: layers with planted units, of each number of images and copies.
        most_layers: of one kind.
    """

    images: tuple[int, ...]
    copies: tuple[int, ...]
    units: tuple[int, ...]
    fires: tuple[int | None, ...]
    at_least: int
    searches: int
    planted: int
    most_layers: int = 10

    def repeats(self, detector: str, images: int, units: int) -> int:
        """How many layers of so many units."""
        wanted = min(self.most_layers, max(1, -(-self.at_least // units)))
        if detector != COMPOSITIONAL:
            return wanted
        return min(3, wanted) if images * units <= self.searches else 0


SIZES = {
    "tiny": Size((40,), (2,), (6,), (None, 3), 6, 1_000, 1),
    "quick": Size((30, 120), (1, 2, 5), (1, 16), (None, 3, 8), 16, 500, 1),
    "full": Size((30, 120, 600), (1, 2, 5), (1, 3, 32, 512), (None, 3, 8, 30), 64, 4_000, 3),
}


@dataclass(frozen=True)
class Cell:
    """Layers of one kind, through one detector.

    Attributes:
        detector: with its similarity or label rule.
        images: of the probing set.
        copies: of every photo.
        units: of a layer.
        fires: photos on which a unit fires, or `dense`.
        layers: of this kind.
        called: units called interpretable, in all layers.
        most: in the layer with most of them.
        tested: units with a p-value.
        low: of these, with a p-value of at most .05.
    """

    detector: str
    images: int
    copies: int
    units: int
    fires: str
    layers: int
    called: int
    most: int
    tested: int
    low: int

    @property
    def over(self) -> bool:
        """Whether more are called than is allowed, in a layer or in all of them."""
        return self.most > _limit(self.units) or self.called > _limit(self.units * self.layers)


def _limit(units: int) -> float:
    return ALLOWED_SHARE * units + ALLOWED_MORE


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


# -- The two checks ------------------------------------------------------------------------------------------


def by_words() -> dict[str, Detector]:
    """The detectors that look through words."""
    return {f"clip-dissect, {name}": ClipDissect(name, stability=False) for name in SIMILARITIES}


def by_masks() -> dict[str, Detector]:
    """The detectors that count pixels."""
    return {
        "network-dissection, supported": NetworkDissection(stability=False),
        "network-dissection, iou": NetworkDissection(rule="iou", stability=False),
        COMPOSITIONAL: Compositional(stability=False),
    }


def blind_cells(size: Size, detectors: list[str], *, seed: int = 0) -> Iterator[Cell]:
    """Every kind of layer of blind units through every detector."""
    words, masks = (_chosen(all_of, detectors) for all_of in (by_words(), by_masks()))
    for images in size.images:
        for copies in size.copies:
            repeats = size.repeats("any", images, min(size.units))
            with tempfile.TemporaryDirectory() as folder:
                worlds = _Worlds(Path(folder), images, copies, seed, repeats)
                for units in size.units:
                    for fires in size.fires:
                        if fires is not None and fires >= images // copies:
                            continue
                        kind = (images, copies, units, fires)
                        for name, detector in {**words, **masks}.items():
                            if number := size.repeats(name, images, units):
                                yield _cell(name, detector, worlds, kind, number)


@dataclass
class _Worlds:
    """The simulated sets of one size, made when first asked for."""

    root: Path
    images: int
    copies: int
    seed: int
    count: int

    @cached_property
    def of_words(self) -> list[World]:
        return [
            random_world(self.root / f"words{k}", self.images, WORDS, copies=self.copies, seed=self._seed(k))[
                0
            ]
            for k in range(self.count)
        ]

    @cached_property
    def of_masks(self) -> list[MaskWorld]:
        return [
            MaskWorld(self.root / f"masks{k}", self.images, copies=self.copies, seed=self._seed(k))
            for k in range(self.count)
        ]

    def _seed(self, number: int) -> int:
        return self.seed * 1000 + number


def _cell(
    name: str, detector: Detector, worlds: _Worlds, kind: tuple[int, int, int, int | None], repeats: int
) -> Cell:
    images, copies, units, fires = kind
    called, p_values = [], []
    for number in range(repeats):
        label = f"{images}-{copies}-{units}-{fires}-{number}"
        if isinstance(detector, ClipDissect):
            world = worlds.of_words[number]
            rng = np.random.default_rng([worlds.seed, number, units, fires or 0])
            findings = found(world, detector, blind(world, rng, units, fires), label)
        else:
            masked = worlds.of_masks[number]
            masked.rng = np.random.default_rng([worlds.seed, number, units, fires or 0])
            findings = masked.found(detector, masked.blind(units, fires), label)
        called.append(int(findings.interpretable.sum()))
        p_values.append(findings.p_values[np.isfinite(findings.p_values)])
    p = np.concatenate(p_values)
    what = DENSE if fires is None else str(fires)
    counts = (sum(called), max(called), len(p), int((p <= 0.05).sum()))
    return Cell(name, images, copies, units, what, repeats, *counts)


@dataclass(frozen=True)
class Power:
    """Planted units beside as many blind ones, through one detector."""

    detector: str
    images: int
    copies: int
    units: int
    called: float
    right: float
    blind_called: float


def powers(size: Size, detectors: list[str], *, units: int = 16, seed: int = 0) -> Iterator[Power]:
    """How many planted units are called and named."""
    words, masks = (_chosen(all_of, detectors) for all_of in (by_words(), by_masks()))
    for images in size.images:
        for copies in size.copies:
            for name, detector in {**words, **masks}.items():
                shares = []
                with tempfile.TemporaryDirectory() as folder:
                    for number in range(size.planted):
                        root = Path(folder) / str(number)
                        of = _planted_in_masks if name in masks else _planted_in_words
                        shares.append(of(root, detector, images, copies, units, seed * 1000 + number))
                yield Power(name, images, copies, units, *np.mean(shares, axis=0).tolist())


def _planted_in_words(
    root: Path, detector: Detector, images: int, copies: int, units: int, seed: int
) -> tuple[float, float, float]:
    world, rng = random_world(root, images, WORDS, copies=copies, seed=seed)
    Q, concepts = planted(world, rng, units)
    findings = found(world, detector, torch.cat([Q, blind(world, rng, units)], 1))
    right = [name == f"w{m}" for name, m in zip(findings.concepts[:units, 0], concepts, strict=True)]
    return _shares(findings, units, right)


def _planted_in_masks(
    root: Path, detector: Detector, images: int, copies: int, units: int, seed: int
) -> tuple[float, float, float]:
    world = MaskWorld(root, images, copies=copies, seed=seed)
    masks, names = world.planted(units)
    findings = world.found(detector, np.concatenate([masks, world.blind(units, None)], axis=1), "planted")
    right = [name in concept for name, concept in zip(names, findings.concepts[:units, 0], strict=True)]
    return _shares(findings, units, right)


def _shares(findings: Findings, units: int, right: list[bool]) -> tuple[float, float, float]:
    known, unknown = findings.interpretable[:units], findings.interpretable[units:]
    return float(known.mean()), float(np.mean(right)), float(unknown.mean())


def _chosen(detectors: dict[str, Detector], wanted: list[str]) -> dict[str, Detector]:
    return {name: each for name, each in detectors.items() if any(part in name for part in wanted)}


# -- What is printed -----------------------------------------------------------------------------------------


def summary(cells: list[Cell]) -> str:
    """Per detector and number of copies, as a Markdown table, and the cells over the limit by name."""
    lines = ["| detector | copies | layers | units | called | layers over 5 % + 2 | p <= .05 |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    for name in dict.fromkeys(cell.detector for cell in cells):
        for copies in dict.fromkeys(cell.copies for cell in cells):
            here = [cell for cell in cells if (cell.detector, cell.copies) == (name, copies)]
            layers, units = (
                sum(cell.layers for cell in here),
                sum(cell.layers * cell.units for cell in here),
            )
            called, tested = sum(cell.called for cell in here), sum(cell.tested for cell in here)
            over = sum(cell.most > _limit(cell.units) for cell in here)
            low = f"{100 * sum(cell.low for cell in here) / tested:.1f} %" if tested else ""
            share = f"{called} ({100 * called / max(1, units):.2f} %)"
            lines.append(f"| {name} | {copies} | {layers} | {units:,} | {share} | {over} | {low} |")
    over_limit = [cell for cell in cells if cell.over]
    lines += ["", f"{len(over_limit)} of {len(cells)} kinds of layers are over the limit."]
    for cell in over_limit:
        lines.append(
            f"- {cell.detector}: {cell.images} images, {cell.copies} copies, layers of {cell.units}, fires "
            f"on {cell.fires}: {cell.called} of {cell.units * cell.layers} called in {cell.layers} layers, "
            f"at most {cell.most} in one"
        )
    return "\n".join(lines)


def power_table(rows: list[Power]) -> str:
    """As Markdown."""
    lines = [
        "| detector | images | copies | planted units called | label right | blind units beside called |"
    ]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for row in rows:
        shares = " | ".join(f"{100 * share:.0f} %" for share in (row.called, row.right, row.blind_called))
        lines.append(f"| {row.detector} | {row.images} | {row.copies} | {shares} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Print both tables; 1 where a cell is over the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="quick")
    parser.add_argument("--detector", default="clip,network,compositional", help="parts of their names")
    parser.add_argument("--images", help="a comma list, instead of the size's")
    parser.add_argument("--units", help="a comma list, instead of the size's")
    parser.add_argument("--most-layers", type=int, help="of one kind, instead of the size's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where to write every cell")
    options = parser.parse_args(arguments)
    size = SIZES[options.size]
    for name in ("images", "units"):
        if getattr(options, name):
            numbers = tuple(int(part) for part in getattr(options, name).split(","))
            size = replace(size, **{name: numbers})
    if options.most_layers:
        size = replace(size, most_layers=options.most_layers)
    detectors = options.detector.split(",")
    torch.set_num_threads(1)
    start, cells = time.process_time(), []
    for cell in blind_cells(size, detectors, seed=options.seed):
        cells.append(cell)
        if options.json:
            options.json.write_text(json.dumps([asdict(each) for each in cells]))
    print(summary(cells), flush=True)
    print()
    print(power_table(list(powers(size, detectors, seed=options.seed))))
    print(f"\n{time.process_time() - start:.0f} s of processor time")
    return int(any(cell.over for cell in cells))


if __name__ == "__main__":
    raise SystemExit(main())
