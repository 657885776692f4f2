"""The best formula of at most three concepts, guaranteed, by tables of pairs and bounds.

With `N` and `X` the pixels of concepts inside and outside the unit's mask, and `T` those of two concepts
together, every formula of two is known exactly: `|a OR b| = a + b - T`, `|a AND b| = T`, `|a AND NOT b| = a -
T`. For a third concept `c` only `t = |a AND b AND c|` is unknown, inside and outside, and it cannot leave

    max(0, T_ac + T_bc - c, T_ab + T_ac - a, T_ab + T_bc - b) <= t <= min(T_ab, T_ac, T_bc).

The pixels `x = |F AND c|` of `c` in a formula `F` of two follow: `T_ac + T_bc - t` of `a OR b`, `t` of `a AND
b`, `T_ac - t` of `a AND NOT b`. `IoU = tp / (A + fp)` rises with `tp` and falls with `fp`, so it is bounded
at a corner: for `F OR c` and `F AND NOT c` the least `x` inside and the most outside, for `F AND c` the other
way round. Pairs are visited by a bound over all `c`, until none exceeds the best formula; what is left is
counted exactly, cell by cell.

The unit's pixels that count, `A`, grow with the categories of a formula, so those of fewer concepts bound it:
all of this holds under every normaliser.

Longer formulas: no function of the labels at all exceeds the IoU of the cells taken in the order of the share
that lies in the unit's mask (`ceiling`).

Formulas, ties and what counts as one formula are those of the beam search. Source: the idea of bounding what
is left to add is that of La Rosa, Gilpin and Capobianco (2023) and their package
`compositional_explanations`; tables of pairs and corners are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags

from concept_monitor_cli.functional.compositional.cells import LabelCells
from concept_monitor_cli.functional.compositional.formulas import OPERATORS, Explanation, Formula
from concept_monitor_cli.functional.dissection import (
    IoUCounts,
    Normaliser,
    category_bits,
)

Floats = NDArray[np.float64]
Index = NDArray[np.intp]

OR, AND, NOT = range(3)
# Which formulas of two are joined with a third concept, and how. `(a AND NOT b) AND c` is `(a AND c) AND NOT
# b`; where the order of the last two says nothing, only ascending ones are looked at.
_STEPS = ((OR, OR), (OR, AND), (OR, NOT), (AND, OR), (AND, AND), (AND, NOT), (NOT, OR), (NOT, NOT))
_SYMMETRIC = {(OR, OR), (AND, AND), (NOT, NOT)}
# The longest formulas that are searched so.
LONGEST = 3
# Numbers that are held at a time, of bounds and of pixels that are counted.
_BLOCK, _COUNTED = 1 << 15, 1 << 23


@dataclass(frozen=True)
class Proof:
    """The best formulas of at most one, two and three concepts.

    Attributes:
        best: by the number of concepts, less one; empty for a unit that meets no label. Of three concepts the
            best that was found.
        ceiling: no formula of as many concepts as the last one may have has a higher IoU: that of the last
            one where it is proved the best.
        looked: formulas of three that a bound was computed for, or that were counted.
    """

    best: list[Explanation]
    ceiling: float
    looked: int


class PairTables:
    """What the searches of all units of a layer share.

    Args:
        cells: see `search_formulas`.
        counts: see there.
        normaliser: see there.
    """

    def __init__(self, cells: LabelCells, counts: IoUCounts, normaliser: Normaliser) -> None:
        self.cells, self.counts, self.normaliser = cells, counts, normaliser
        self.labels = np.flatnonzero(counts.label_area)
        self.members = csr_matrix(cells.members[:, self.labels])
        self.together = _joint(self.members, cells.sizes)
        bits, self.code = np.unique(category_bits(counts.label_categories)[self.labels], return_inverse=True)
        if normaliser == "none":
            bits, self.code = bits[:1], np.zeros_like(self.code)
        joined = bits[:, None, None] | bits[:, None] | bits
        self._met = (counts.groups & joined[..., None]) != 0

    def areas(self, unit: int) -> Floats:
        """The unit's pixels that count against three categories: (D, D, D); (1, 1, 1) without normaliser."""
        counts = self.counts
        if self.normaliser == "none":
            return np.full(self._met.shape[:3], float(counts.area[unit]))
        of_group = (counts.area_by_image if self.normaliser == "category" else counts.area_by_mask)[unit]
        areas: Floats = (self._met @ of_group).astype(np.float64)
        return areas

    def prove(
        self,
        unit: int,
        known: Explanation | None = None,
        *,
        length: int = LONGEST,
        most: int | None = None,
    ) -> Proof:
        """Search one unit.

        Args:
            unit: which.
            known: a formula of at most `length` that another search found: the better it is, the less is left
                to look at.
            length: most concepts, 1 to 3.
            most: formulas of three that a bound is computed for at most; all by default.

        Raises:
            ValueError: another length.
        """
        if not 1 <= length <= LONGEST:
            raise ValueError(f"formulas of 1 to {LONGEST} concepts can be proved the best, not of {length}")
        with np.errstate(divide="ignore"):  # as in `ceiling`
            return _Unit(self, unit).prove(known, length, most)


def ceiling(cells: LabelCells, unit: int, area: float) -> float:
    """An IoU that no formula of the labels exceeds, of any length.

    A formula is a set of cells. Of all sets the best takes the cells in the order of their pixels inside for
    each one outside, as long as that raises the IoU.

    Args:
        cells: of the layer.
        unit: which of its units.
        area: the least number of the unit's pixels that can count.
    """
    start, stop = cells.inside.indptr[unit : unit + 2]
    inside = cells.inside.data[start:stop].astype(np.float64)
    outside = cells.sizes[cells.inside.indices[start:stop]] - inside
    order = np.argsort(outside / inside, kind="stable")
    tp, fp = np.cumsum(inside[order]), np.cumsum(outside[order])
    # Of labels without a category no pixel counts, under two of the normalisers.
    with np.errstate(divide="ignore"):
        return float((tp / (area + fp)).max(initial=0.0))


def _joint(members: csr_matrix, pixels: NDArray[Any]) -> Floats:
    """Pixels of every two labels together: (K, K)."""
    return np.asarray((members.T @ diags(pixels.astype(np.float64)) @ members).toarray(), dtype=np.float64)


def _just_above(numbers: Floats) -> Floats:
    """A little more: what is compared with it was rounded."""
    above: Floats = numbers + 1e-9 * np.abs(numbers)
    return above


@dataclass(frozen=True)
class _Pairs:
    """Formulas of two concepts of one kind: parallel arrays; places among the unit's labels."""

    kind: int
    a: Index
    b: Index
    inside: Floats
    outside: Floats
    area: Floats

    def take(self, rows: NDArray[Any]) -> _Pairs:
        return _Pairs(
            self.kind, self.a[rows], self.b[rows], self.inside[rows], self.outside[rows], self.area[rows]
        )


class _Unit:
    """One unit's tables. Its labels are in an order of their own: those that it meets most come first."""

    def __init__(self, tables: PairTables, unit: int) -> None:
        self.tables, self.unit = tables, unit
        inside = tables.cells.inside
        start, stop = inside.indptr[unit : unit + 2]
        self.cell, self.pixels = inside.indices[start:stop], inside.data[start:stop]
        met = tables.counts.intersection[unit][tables.labels] > 0
        # By their pixels inside; those that the unit does not meet come last.
        self.order = np.argsort(-tables.counts.intersection[unit][tables.labels], kind="stable")
        self.positive = int(met.sum())
        # Labels that the unit does not meet stand only after NOT.
        self.inside = _joint(tables.members[self.cell], self.pixels)[np.ix_(self.order, self.order)]
        self.outside = tables.together[np.ix_(self.order, self.order)] - self.inside
        self.n, self.x = np.diag(self.inside).copy(), np.diag(self.outside).copy()
        # After NOT, labels come in the order of their pixels outside.
        self.by_outside = np.argsort(-self.x, kind="stable")
        self.columns = {
            False: (np.arange(self.positive), self.inside, self.outside),
            True: (self.by_outside, self.inside[:, self.by_outside], self.outside[:, self.by_outside]),
        }
        self.code = tables.code[self.order]
        self.areas = tables.areas(unit)
        self.best: Explanation | None = None

    # -- What is known exactly ---------------------------------------------------------------------------

    def prove(self, known: Explanation | None, length: int, most: int | None) -> Proof:
        if not self.positive:
            return Proof([], 0.0, 0)
        best = [self._single()]
        if length == 1:
            return Proof(best, best[0].iou, 0)
        pairs = [self._pairs(kind) for kind in (OR, AND, NOT)]
        for each in pairs:
            self._best_pair(each)
        best.append(self._first())
        if length == 2:
            return Proof(best, best[1].iou, 0)
        if known is not None:
            self._offer(known)
        looked, above = self._triples(pairs, most)
        best.append(self._first())
        return Proof(best, max(above, best[-1].iou), looked)

    def _first(self) -> Explanation:
        assert self.best is not None
        return self.best

    def _offer(self, each: Explanation) -> None:
        if self.best is None or (-each.iou, each.formula.key) < (-self.best.iou, self.best.formula.key):
            self.best = each

    def _explained(self, formula: Formula, inside: float, outside: float, area: float) -> Explanation:
        iou = float(np.float64(inside) / np.float64(area + outside))
        return Explanation(formula, iou, int(inside), int(inside + outside), int(area))

    def _label(self, place: Any) -> int:
        return int(self.tables.labels[self.order[place]])

    def _single(self) -> Explanation:
        area = self.areas[self.code, self.code, self.code]
        iou = self.n / (area + self.x)
        for place in np.flatnonzero(iou == iou.max()):
            formula = Formula.of(self._label(place))
            self._offer(self._explained(formula, self.n[place], self.x[place], area[place]))
        return self._first()

    def _pairs(self, kind: int) -> _Pairs:
        """All formulas of two concepts of one kind that meet the unit."""
        p, n, x, inside, outside = self.positive, self.n, self.x, self.inside, self.outside
        if kind == NOT:
            shared = n[:p, None] - inside[:p]
            shared[np.arange(p), np.arange(p)] = 0
            a, b = np.nonzero(shared > 0)
            found, other = shared[a, b], x[a] - outside[a, b]
        else:
            a, b = np.triu_indices(p, 1)
            found, other = inside[a, b], outside[a, b]
            if kind == OR:
                found, other = n[a] + n[b] - found, x[a] + x[b] - other
            else:
                some = found > 0
                a, b, found, other = a[some], b[some], found[some], other[some]
        return _Pairs(kind, a, b, found, other, self.areas[self.code[a], self.code[b], self.code[b]])

    def _best_pair(self, pairs: _Pairs) -> None:
        iou = pairs.inside / (pairs.area + pairs.outside)
        if not len(iou) or iou.max() < self._first().iou:
            return
        for row in np.flatnonzero(iou == iou.max()):
            formula = Formula.of(self._label(pairs.a[row])).extended(
                OPERATORS[pairs.kind], self._label(pairs.b[row])
            )
            self._offer(self._explained(formula, pairs.inside[row], pairs.outside[row], pairs.area[row]))

    # -- A third concept ---------------------------------------------------------------------------------

    def _wins(self, bound: Floats) -> NDArray[np.bool_]:
        """Whether a formula of three with such a bound may be better than the best one."""
        first = self._first()
        # Of equals the shorter is taken; of two of three concepts the lower key.
        return bound >= first.iou if first.formula.length == 3 else bound > first.iou

    def _above(self, pairs: _Pairs, operator: int) -> Floats:
        """A bound over all third concepts of each pair."""
        if operator == OR:
            most = np.minimum(pairs.inside + self.n.max(), float(self.pixels.sum()))
            bound: Floats = most / (pairs.area + pairs.outside)
        elif operator == AND:
            bound = pairs.inside / pairs.area
        else:
            bound = pairs.inside / (pairs.area + np.maximum(pairs.outside - self.x.max(), 0))
        return bound

    def _triples(self, pairs: list[_Pairs], most: int | None) -> tuple[int, float]:
        """Look at every formula of three that can be the best one.

        Returns:
            how many were looked at, and a bound of those that were not.
        """
        looked, above, left = 0, 0.0, []
        for kind, operator in _STEPS:
            bound = self._above(pairs[kind], operator)
            rows = np.flatnonzero(self._wins(bound))
            left.append((kind, operator, rows[np.argsort(-bound[rows], kind="stable")], bound))
        # The steps that promise most come first: the best formula is found early, and less is left.
        left.sort(key=lambda each: -float(each[3][each[2][0]]) if len(each[2]) else 0.0)
        for kind, operator, rows, bound in left:
            known, columns = None, np.zeros(0, dtype=np.intp)
            while True:
                if known is not self._first():  # so less is left
                    known = self._first()
                    rows = rows[self._wins(bound[rows])]
                    columns = self._useful(pairs[kind].take(rows), operator)
                    rows, columns = rows[columns > 0], columns[columns > 0]
                if not len(rows):
                    break
                # Of pairs with few third concepts many are looked at together.
                size = np.maximum.accumulate(columns) * np.arange(1, len(rows) + 1)
                count = max(1, int(np.searchsorted(size, _BLOCK, side="right")))
                most_columns = int(columns[:count].max())
                if most is not None and looked + count * most_columns > most:
                    above = max(above, float(bound[rows[0]]))
                    break
                looked += count * most_columns
                looked += self._count(pairs[kind].take(rows[:count]), operator, most_columns)
                rows, columns = rows[count:], columns[count:]
        return looked, above

    def _useful(self, pairs: _Pairs, operator: int) -> Index:
        """How many third concepts, in their order, may make a formula of each of these pairs the best one."""
        least = self._first().iou
        if operator == NOT:
            # The pixels that must go outside.
            need = pairs.area + pairs.outside - pairs.inside / least
            return np.searchsorted(-self.x[self.by_outside], _just_above(-need), side="right")
        need = least * pairs.area if operator == AND else least * (pairs.area + pairs.outside) - pairs.inside
        return np.searchsorted(-self.n[: self.positive], _just_above(-need), side="right")

    def _overlap(self, pairs: _Pairs, table: Floats, joint: Floats, third: Index, *, low: bool) -> Floats:
        """The least, or most, pixels of third concepts in formulas of two: (pairs, columns).

        Args:
            pairs: the formulas.
            table: pixels of every two concepts together.
            joint: the same, a column for each third concept and perhaps more.
            third: (columns,).
            low: the least.
        """
        a, b, single = pairs.a, pairs.b, np.diag(table)
        ab, ac, bc = table[a, b][:, None], joint[a, : len(third)], joint[b, : len(third)]
        if low == (pairs.kind == AND):
            shared = np.maximum(ac + bc - single[third], ab + ac - single[a][:, None])
            np.maximum(shared, ab + bc - single[b][:, None], out=shared)
            np.maximum(shared, 0, out=shared)
        else:
            shared = np.minimum(ac, bc)
            np.minimum(shared, ab, out=shared)
        if pairs.kind == AND:
            return shared
        return (ac + bc if pairs.kind == OR else ac) - shared

    def _count(self, pairs: _Pairs, operator: int, columns: int) -> int:
        """Bound some third concepts of some formulas of two, and count what can win.

        Returns:
            how many were counted.
        """
        low = operator != AND
        order, joint_inside, joint_outside = self.columns[operator == NOT]
        place = order[:columns]
        inside = self._overlap(pairs, self.inside, joint_inside, place, low=low)
        outside = self._overlap(pairs, self.outside, joint_outside, place, low=not low)
        found, other = self._joined(pairs, operator, inside, outside, place)
        if self.tables.normaliser == "none":
            area: Any = pairs.area[:, None]
        else:
            codes = self.code
            area = self.areas[codes[pairs.a][:, None], codes[pairs.b][:, None], codes[place]]
        bound = found / (area + other)
        row, third = np.nonzero(self._wins(bound))
        candidate, value = place[third], bound[row, third]
        distinct = (candidate != pairs.a[row]) & (candidate != pairs.b[row]) & (value > 0)
        if (pairs.kind, operator) in _SYMMETRIC:
            distinct &= candidate > pairs.b[row]
        row, candidate, value = row[distinct], candidate[distinct], value[distinct]
        order = np.argsort(-value, kind="stable")
        row, candidate, value = row[order], candidate[order], value[order]
        done, size = 0, 16
        while done < len(row):
            end = done + int(self._wins(value[done : done + size]).sum())
            if end == done:
                break
            self._settle(pairs.take(row[done:end]), operator, candidate[done:end])
            done, size = end, min(2 * size, max(16, _COUNTED // max(1, len(self.tables.cells.sizes))))
        return done

    def _joined(
        self, pairs: _Pairs, operator: int, inside: Floats, outside: Floats, third: Any
    ) -> tuple[Floats, Floats]:
        """Pixels of formulas of three inside and outside, from those of their third concept in the two."""
        one, other = pairs.inside, pairs.outside
        if inside.ndim == 2:
            one, other = one[:, None], other[:, None]
        if operator == AND:
            return inside, outside
        if operator == NOT:
            return one - inside, other - outside
        return one + self.n[third] - inside, other + self.x[third] - outside

    def _settle(self, pairs: _Pairs, operator: int, third: Index) -> None:
        """Count some formulas of three exactly, and keep the best."""
        tables, places = self.tables, [pairs.a, pairs.b, third]
        own, number = np.unique(np.concatenate(places), return_inverse=True)
        members = tables.members[:, self.order[own]].T.toarray().astype(bool)
        first, second, last = (members[each] for each in np.split(number, 3))
        both = first | second if pairs.kind == OR else first & (second if pairs.kind == AND else ~second)
        both &= last
        inside = both[:, self.cell] @ self.pixels.astype(np.float64)
        outside = both @ tables.cells.sizes.astype(np.float64) - inside
        found, other = self._joined(pairs, operator, inside, outside, third)
        area = self.areas[self.code[pairs.a], self.code[pairs.b], self.code[third]]
        iou = found / (area + other)
        for row in np.flatnonzero((iou == iou.max()) & self._wins(iou)):
            formula = (
                Formula.of(self._label(pairs.a[row]))
                .extended(OPERATORS[pairs.kind], self._label(pairs.b[row]))
                .extended(OPERATORS[operator], self._label(third[row]))
            )
            self._offer(self._explained(formula, found[row], other[row], area[row]))
