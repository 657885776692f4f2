"""The search over formulas: by beam, and with a proof where there is one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from concept_monitor_cli.functional.compositional.cells import LabelCells, cut_images
from concept_monitor_cli.functional.compositional.formulas import OPERATORS, Explanation, Formula
from concept_monitor_cli.functional.compositional.optimal import LONGEST, PairTables, ceiling
from concept_monitor_cli.functional.dissection import (
    ImageLabels,
    IntArray,
    IoUCounts,
    Normaliser,
    UnitMasks,
    category_bits,
    check_normaliser,
)
from concept_monitor_cli.functional.groups import ImageGroups

# Mu and Andreas 2020; their paper's beam (the published code has 5) and the tool's default length.
BEAM = 10
LENGTH = 3

SearchKind = Literal["auto", "optimal", "beam"]
# What `auto` looks at before it takes the beam's word: bounds of formulas of three, for a unit. A number of
# steps and no time, or the result would hang on the machine.
MOST_LOOKS = 2_000_000


@dataclass(frozen=True)
class SearchResult:
    """What the search finds for one unit.

    Attributes:
        best: entry `n - 1` is the best formula of *at most* n concepts, so that the IoU never falls along it;
            empty for a unit that meets no label.
        beam: the best formulas of any length that were found, best first; the first is `best[-1]`.
        ceilings: of each entry of `best`, an IoU that no formula of as many concepts exceeds: its own where
            it is proved to be the best one.
    """

    best: list[Explanation]
    beam: list[Explanation]
    ceilings: list[float]

    @property
    def gaps(self) -> list[float]:
        """By how much a formula of as many concepts could be better at most; 0 where none is."""
        return [max(0.0, high - each.iou) for high, each in zip(self.ceilings, self.best, strict=True)]


def compositional(
    cells: LabelCells,
    counts: IoUCounts,
    *,
    length: int = LENGTH,
    beam: int = BEAM,
    normaliser: Normaliser = "none",
    search: SearchKind = "auto",
    units: Iterable[int] | None = None,
) -> list[list[Explanation]]:
    """Of each unit the best formula for every length, from `search_formulas`.

    Returns:
        for each unit `SearchResult.best`.
    """
    return [
        each.best
        for each in search_formulas(
            cells, counts, length=length, beam=beam, normaliser=normaliser, search=search, units=units
        )
    ]


def search_formulas(
    cells: LabelCells,
    counts: IoUCounts,
    *,
    length: int = LENGTH,
    beam: int = BEAM,
    normaliser: Normaliser = "none",
    search: SearchKind = "auto",
    units: Iterable[int] | None = None,
) -> list[SearchResult]:
    """The best formula of each unit for every length up to `length`.

    With `length=1` this is Network Dissection's best concept under the same normaliser. The normalisers carry
    over to formulas by their categories, those of all concepts that it names: `category` counts the unit's
    pixels in images that carry a label of any of them, `mask` in images in which any of them occurs under the
    mask, `none` (this literature's) in all images.

    Args:
        cells: from a `CellCounter`.
        counts: from `iou_counts` over the same images and masks.
        length: longest formula.
        beam: formulas kept after each step.
        normaliser: see above.
        search: `optimal`: after the beam, all formulas of at most three concepts, of which the best is
            guaranteed (`PairTables`); of longer ones the beam's, and no proof. `auto`: the same for units
            where it takes at most `MOST_LOOKS` bounds; of the others the beam's. `beam`: the beam's.
        units: which units, in this order; all of them by default.

    Returns:
        for each unit what was found.

    Raises:
        ValueError: counts of other cells, a length or beam below 1, an unknown normaliser or search.
    """
    check_normaliser(normaliser)
    if length < 1 or beam < 1:
        raise ValueError(f"length and beam must be at least 1, not {length} and {beam}")
    if search not in ("auto", "optimal", "beam"):
        raise ValueError(f"unknown search {search!r}, expected auto, optimal or beam")
    by_beam = _Search(cells, counts, length, beam, normaliser)
    chosen = range(cells.inside.shape[0]) if units is None else units
    found = [by_beam.explain(int(unit)) for unit in chosen]
    labels = int((counts.label_area > 0).sum())
    if search == "beam" or (search == "auto" and labels**2 > MOST_LOOKS):
        return found
    tables = PairTables(cells, counts, normaliser)
    most = MOST_LOOKS if search == "auto" else None
    chosen = range(cells.inside.shape[0]) if units is None else units
    return [_proved(each, tables, int(unit), beam, most) for each, unit in zip(found, chosen, strict=True)]


def _proved(found: SearchResult, tables: PairTables, unit: int, beam: int, most: int | None) -> SearchResult:
    """What the beam found, with the best formulas of at most three concepts and what is known of longer
    ones."""
    if not found.best:
        return found
    length = min(LONGEST, len(found.best))
    proof = tables.prove(unit, found.best[length - 1], length=length, most=most)

    def order(each: Explanation) -> tuple[float, tuple[object, ...]]:
        return -each.iou, each.formula.key

    best = [min(each, proof.best[min(place, length - 1)], key=order) for place, each in enumerate(found.best)]
    last = best[length - 1].iou
    exact = [each.iou for each in best[: length - 1]]
    exact.append(max(last, min(proof.ceiling, found.ceilings[length - 1])))
    pool = {each.formula: each for each in [*proof.best, *found.beam]}
    return SearchResult(best, sorted(pool.values(), key=order)[:beam], [*exact, *found.ceilings[length:]])


def supported_formulas(
    labels: Iterable[ImageLabels],
    parts: Sequence[tuple[UnitMasks, Sequence[Explanation | None]]],
    groups: ImageGroups | None = None,
) -> list[NDArray[np.float64]]:
    """The part of each formula's IoU that does not hang on one image, as `dissection.supported_iou`.

    A search over formulas finds many that meet a unit in one or two images by luck. One pass over the labels.

    Args:
        labels: the labels of each image that the masks cover, in the same order.
        parts: sets of masks over these images, each with the formula of each unit, None where it has none.
        groups: of the images; the images of a group count as one.

    Returns:
        for each set of masks (C,); 0 where there is no formula.

    Raises:
        ValueError: another number of images or units, masks of different sizes.
    """
    for masks, best in parts:
        if len(best) != masks.n_units:
            raise ValueError(f"formulas of {len(best)} units, masks of {masks.n_units}")
    luckiest = [np.zeros(masks.n_units, dtype=np.int64) for masks, _ in parts]
    of_group = [np.zeros(masks.n_units, dtype=np.int64) for masks, _ in parts]
    for _, cut, places, last in cut_images(labels, [masks for masks, _ in parts], groups):
        for (masks, best), highest, added, (first, stop) in zip(
            parts, luckiest, of_group, places, strict=True
        ):
            inside = cut.inside(masks, first, stop)
            for unit, pixels in zip(masks.unit[first:stop], inside, strict=True):
                each = best[unit]
                if each is not None:
                    added[unit] += int(pixels[each.formula.evaluate(cut.mask)].sum())
            if last:
                np.maximum(highest, added, out=highest)
                added[:] = 0
    return [_without(best, highest) for (_, best), highest in zip(parts, luckiest, strict=True)]


def _without(best: Sequence[Explanation | None], luckiest: IntArray) -> NDArray[np.float64]:
    shared = np.array([each.intersection if each else 1 for each in best], dtype=np.int64)
    ious: NDArray[np.float64] = np.array([each.iou if each else 0.0 for each in best])
    return ious * (1 - luckiest / shared)


class _Search:
    """What all units of a layer share: sizes of formulas and of every concept inside them."""

    def __init__(
        self, cells: LabelCells, counts: IoUCounts, length: int, beam: int, normaliser: Normaliser
    ) -> None:
        self.cells, self.counts = cells, counts
        self.length, self.beam = length, beam
        members = cells.members
        self.transposed = csr_matrix(members.T)
        if counts.intersection.shape != (cells.inside.shape[0], cells.n_labels) or not np.array_equal(
            self.transposed @ cells.sizes, counts.label_area
        ):
            raise ValueError("the counts and the cells are not of the same images and labels")
        self.label_area = counts.label_area
        self.label_bits = category_bits(counts.label_categories)
        self.distinct_bits, self.bits_column = np.unique(self.label_bits, return_inverse=True)
        self.normaliser: Normaliser = normaliser
        # Beams of different units share formulas; 64 MB of them are remembered.
        self.everywhere = lru_cache(maxsize=max(1024, (1 << 26) // (8 * max(1, cells.n_labels))))(
            self._everywhere
        )

    def _everywhere(self, formula: Formula) -> tuple[int, IntArray]:
        """Pixels of the formula, and of each concept inside it: int and (M,)."""
        sizes = np.where(self._holds(formula), self.cells.sizes, 0)
        return int(sizes.sum()), self.transposed @ sizes

    def _holds(self, formula: Formula) -> NDArray[np.bool_]:
        """In which cells the formula holds: (S,)."""

        def mask(concept: int) -> NDArray[np.bool_]:
            row = np.zeros(len(self.cells.sizes), dtype=bool)
            start, stop = self.transposed.indptr[concept : concept + 2]
            row[self.transposed.indices[start:stop]] = True
            return row

        return formula.evaluate(mask)

    def _bits(self, formula: Formula) -> int:
        return int(np.bitwise_or.reduce(self.label_bits[list(formula.names)]))

    def explain(self, unit: int) -> SearchResult:
        mine = _Unit(self, unit)
        beam = self._best({}, mine.singles())
        expanded: set[Formula] = set()
        best = [beam[0]] if beam else []
        while beam and len(best) < self.length:
            # Extensions of a formula that was expanded before lost against this beam already: a beam only
            # improves.
            fresh = [each.formula for each in beam if each.formula not in expanded]
            expanded.update(fresh)
            beam = self._best({each.formula: each for each in beam}, mine.extensions(fresh))
            best.append(beam[0])
        return SearchResult(best, beam, self._ceilings(mine, best))

    def _ceilings(self, mine: _Unit, best: list[Explanation]) -> list[float]:
        """What is known without a proof: the best single concept, and a bound for any formula."""
        if not best:
            return []
        least = int(mine.areas_of(0)[np.flatnonzero(mine.intersection)].min())
        any_formula = max(ceiling(self.cells, mine.unit, least), best[-1].iou)
        return [best[0].iou, *(any_formula for _ in best[1:])]

    def _best(self, kept: dict[Formula, Explanation], found: _Candidates) -> list[Explanation]:
        """The `beam` best among those kept and found, best first."""
        pool = dict(kept)
        scores = found.iou
        # A formula of n concepts is found at most n times, by the concept that came last. So the beam's worth
        # of distinct formulas is among this many, and equals of the last of them.
        enough = self.beam * self.length
        if len(scores) > enough:
            floor = np.partition(scores, len(scores) - enough)[len(scores) - enough]
            rows = np.flatnonzero(scores >= floor)
        else:
            rows = np.arange(len(scores))
        for row in rows:
            each = found.explanation(int(row))
            pool.setdefault(each.formula, each)
        return sorted(pool.values(), key=lambda each: (-each.iou, each.formula.key))[: self.beam]


@dataclass(frozen=True)
class _Candidates:
    """Extensions by concept: parallel arrays; `parents` empty for single concepts."""

    parents: list[Formula]
    parent: IntArray
    operator: IntArray
    concept: IntArray
    intersection: IntArray
    formula_area: IntArray
    unit_area: IntArray

    @cached_property
    def iou(self) -> NDArray[np.float64]:
        # Never 0 / 0: only candidates that share a pixel with the unit are made.
        return self.intersection / (self.unit_area + self.formula_area - self.intersection)

    def explanation(self, row: int) -> Explanation:
        concept = int(self.concept[row])
        if self.parents:
            formula = self.parents[self.parent[row]].extended(OPERATORS[self.operator[row]], concept)
        else:
            formula = Formula.of(concept)
        return Explanation(
            formula,
            float(self.iou[row]),
            int(self.intersection[row]),
            int(self.formula_area[row]),
            int(self.unit_area[row]),
        )


class _Unit:
    """One unit's side of the search: its pixels by cell."""

    def __init__(self, search: _Search, unit: int) -> None:
        self.search, self.unit = search, unit
        inside = search.cells.inside
        start, stop = inside.indptr[unit : unit + 2]
        self.cell, self.pixels = inside.indices[start:stop], inside.data[start:stop]
        self.transposed = csr_matrix(search.cells.members[self.cell].T)
        counts = search.counts
        self.intersection = counts.intersection[unit]
        self.area = int(counts.area[unit])
        areas = counts.area_by_image if search.normaliser == "category" else counts.area_by_mask
        self.group_areas = areas[unit]

    def areas_of(self, bits: int) -> IntArray:
        """The pixels that count against a formula of these categories joined with each concept: (M,)."""
        search = self.search
        if search.normaliser == "none":
            return np.full(len(search.label_bits), self.area, dtype=np.int64)
        met = (search.counts.groups & (search.distinct_bits | bits)[:, None]) != 0
        areas: IntArray = (met @ self.group_areas)[search.bits_column]
        return areas

    def singles(self) -> _Candidates:
        concept = np.flatnonzero(self.intersection)
        none = np.zeros(len(concept), dtype=np.int64)
        return _Candidates(
            [], none, none, concept,
            self.intersection[concept], self.search.label_area[concept], self.areas_of(0)[concept],
        )  # fmt: skip

    def extensions(self, parents: list[Formula]) -> _Candidates:
        """All extensions of these formulas that mean something new and meet the unit."""
        search, labels = self.search, len(self.search.label_area)
        shape = (len(parents), len(OPERATORS), labels)
        shared, area = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        counted, new = np.zeros(shape, dtype=np.int64), np.ones(shape, dtype=bool)
        for i, formula in enumerate(parents):
            holds = formula.evaluate(self._mask)
            pixels = np.where(holds, self.pixels, 0)
            here, each_here = int(pixels.sum()), self.transposed @ pixels
            size, each = search.everywhere(formula)
            shared[i] = here + self.intersection - each_here, each_here, here - each_here
            area[i] = size + search.label_area - each, each, size - each
            new[i] = area[i] != size
            new[i][:, list(formula.names)] = False
            counted[i] = self.areas_of(search._bits(formula))
        chosen = np.nonzero(new & (shared > 0))
        parent, operator, concept = chosen
        return _Candidates(parents, parent, operator, concept, shared[chosen], area[chosen], counted[chosen])

    def _mask(self, concept: int) -> NDArray[np.bool_]:
        row = np.zeros(len(self.cell), dtype=bool)
        start, stop = self.transposed.indptr[concept : concept + 2]
        row[self.transposed.indices[start:stop]] = True
        return row
