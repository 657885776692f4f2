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

Among hundreds of kinds some are over the limit by luck. False discoveries are controlled at 5 % within a
layer, so among units that know nothing at most one layer of twenty has a call at all. Kinds over the limit
are therefore simulated again with other seeds, which had no part in choosing them: a kind is wrong where so
many of its new layers have a call that luck gives it with a probability below 5 % divided by the number of
kinds looked at again (Bonferroni). The exit code is 1 where a kind is wrong.

The second table has planted units: how many are called, and how many get the planted label.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from concept_monitor_cli.lenses import Findings
from concept_monitor_cli.lenses.base import Detector
from concept_monitor_cli.lenses.names.clip_dissect import ClipDissect
from concept_monitor_cli.lenses.names.compositional import Compositional
from concept_monitor_cli.lenses.names.network_dissection import NetworkDissection
from concept_monitor_cli.options import SIMILARITIES
from scripts.blind_worlds import MaskWorld, World, blind, found, planted, random_world

DENSE, COMPOSITIONAL = "dense", "compositional"
ALLOWED_SHARE, ALLOWED_MORE = 0.05, 2
WORDS = 60
# Kinds of layers that are over the limit are looked at again with so many other seeds.
AGAIN = 10
# Probability with which one kind is called wrong though all is well.
LUCK = 0.05


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
        with_calls: layers with a unit that is called.
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
    with_calls: int
    tested: int
    low: int

    @property
    def over(self) -> bool:
        """Whether more are called than is allowed, in a layer or in all of them."""
        return self.most > _limit(self.units) or self.called > _limit(self.units * self.layers)

    @property
    def luck(self) -> float:
        """Probability that so many layers have a call where one of twenty does: that of each exact test."""
        return _more_than(self.with_calls - 1, self.layers)

    @property
    def over_by_luck(self) -> float:
        """Probability that it is over the limit though one layer of twenty has a call, a single one."""
        return _more_than(math.floor(_limit(self.units * self.layers)), self.layers)

    def __add__(self, other: Cell) -> Cell:
        """Both as one, of the same kind."""
        sums = (
            getattr(self, name) + getattr(other, name)
            for name in ("layers", "called", "with_calls", "tested", "low")
        )
        layers, called, with_calls, tested, low = sums
        kind = (self.detector, self.images, self.copies, self.units, self.fires)
        return Cell(*kind, layers, called, max(self.most, other.most), with_calls, tested, low)


@dataclass(frozen=True)
class Again:
    """A kind of layer that is over the limit, and the same with other seeds.

    Attributes:
        first: over the limit.
        fresh: layers that had no part in choosing it.
        kinds: that are looked at again.
    """

    first: Cell
    fresh: Cell
    kinds: int

    @property
    def wrong(self) -> bool:
        """Whether luck does not explain the calls of the new layers."""
        return self.fresh.luck < LUCK / self.kinds


def _more_than(count: int, layers: int) -> float:
    """Probability that of so many layers more than `count` have a call where one of twenty does."""
    from scipy.stats import binom  # takes a second

    return float(binom.sf(count, layers, ALLOWED_SHARE))


def _limit(units: int) -> float:
    return ALLOWED_SHARE * units + ALLOWED_MORE


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


def looked_at_again(cells: list[Cell], size: Size, *, seed: int = 0, again: int = AGAIN) -> list[Again]:
    """The kinds that are over the limit, with other seeds."""
    over = [cell for cell in cells if cell.over]
    found = []
    for cell in over:
        fires = None if cell.fires == DENSE else int(cell.fires)
        one = replace(size, images=(cell.images,), copies=(cell.copies,), units=(cell.units,), fires=(fires,))
        fresh = [
            each
            for number in range(1, again + 1)
            for each in blind_cells(one, [cell.detector], seed=seed + 1000 * number)
            if each.detector == cell.detector
        ]
        found.append(Again(cell, sum(fresh[1:], fresh[0]), len(over)))
    return found


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
    with_calls = sum(count > 0 for count in called)
    counts = (sum(called), max(called), with_calls, len(p), int((p <= 0.05).sum()))
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


def summary(cells: list[Cell], again: list[Again]) -> str:
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
    by_luck = sum(cell.over_by_luck for cell in cells)
    over = sum(cell.over for cell in cells)
    lines += [
        "",
        f"{over} of {len(cells)} kinds of layers are over the limit; luck alone: about {by_luck:.1f}.",
    ]
    for each in again:
        cell, fresh = each.first, each.fresh
        lines.append(
            f"- {cell.detector}: {cell.images} images, {cell.copies} copies, layers of {cell.units}, fires "
            f"on {cell.fires}: {cell.called} of {cell.units * cell.layers} called in {cell.layers} layers, "
            f"at most {cell.most} in one. With other seeds {fresh.with_calls} of {fresh.layers} layers have "
            f"a call (p = {fresh.luck:.2g}), {fresh.called} of {fresh.units * fresh.layers} units: "
            + ("WRONG" if each.wrong else "luck")
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
    """Print both tables; 1 where a kind of layer is wrong."""
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
    again = looked_at_again(cells, size, seed=options.seed)
    print(summary(cells, again), flush=True)
    print()
    print(power_table(list(powers(size, detectors, seed=options.seed))))
    print(f"\n{time.process_time() - start:.0f} s of processor time")
    return int(any(each.wrong for each in again))


if __name__ == "__main__":
    raise SystemExit(main())
