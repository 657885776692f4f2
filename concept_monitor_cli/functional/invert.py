"""Which formula of concepts tells the images that excite a unit from the others? INVERT, for whole layers.

A formula is a set of images: those on which one concept is, or two (AND), at least one of two (OR), or one
without another (AND NOT). Its area under the curve is the probability that an image of the set excites the
unit more than another image does; `NOT (...)` has one minus that. All formulas of at most two concepts are
tried, from two products of matrices: with `r` the ranks of a unit's activations, ties averaged, and `L` the
presence of the concepts,

    S_i = r' L_i,   S_ij = r' (L_i L_j)
    AND: S_ij, n_ij     OR: S_i + S_j - S_ij, n_i + n_j - n_ij     AND NOT: S_i - S_ij, n_i - n_ij
    AUC = (S - n (n + 1) / 2) / (n (N - n))

An image on which nobody looked for a concept does not count for formulas with it, so ranks are taken among
the images on which all concepts of a formula are known.

Source: INVERT (Bykov et al., NeurIPS 2023).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional._blocks import spans
from concept_monitor_cli.functional.ranks import average_ranks

#: A formula is tried where it holds on this many images, and on no larger share of those that count. The
#: publication has no lower limit: then a set of one image wins.
FEWEST, LARGEST_SHARE = 10, 0.5
#: Pairs are tried of at most this many concepts: every one is a number for every unit and pair.
MOST_CONCEPTS = 512

SINGLE, OR, AND, AND_NOT = range(4)
_WORDS = {OR: "OR", AND: "AND", AND_NOT: "AND NOT"}
_UNITS = 32


@dataclass(frozen=True)
class PresenceFormula:
    """One or two concepts and what joins them.

    Attributes:
        first: a concept's number.
        second: of the other; -1 for none.
        operator: `SINGLE`, `OR`, `AND` or `AND_NOT`.
        negated: whether it is the images without that are meant.
    """

    first: int
    second: int = -1
    operator: int = SINGLE
    negated: bool = False

    def text(self, names: tuple[str, ...]) -> str:
        """Such as `dog AND NOT grass`, `NOT (dog OR cat)`."""
        if self.operator == SINGLE:
            return f"NOT {names[self.first]}" if self.negated else names[self.first]
        both = f"{names[self.first]} {_WORDS[self.operator]} {names[self.second]}"
        return f"NOT ({both})" if self.negated else both

    def holds(self, present: Tensor) -> Tensor:
        """On which images it is: `(N,)` 1, 0, or NaN where one of its concepts is not known.

        Args:
            present: `(N, M)`, 1, 0 or NaN.
        """
        one = present[:, self.first].double()
        other = torch.zeros_like(one) if self.second < 0 else present[:, self.second].double()
        if self.operator == OR:
            found = torch.where(one.isnan() | other.isnan(), torch.nan, torch.maximum(one, other))
        elif self.operator == AND:
            found = one * other
        elif self.operator == AND_NOT:
            found = one * (1 - other)
        else:
            found = one
        return 1 - found if self.negated else found


@dataclass(frozen=True)
class _Block:
    """Formulas that are known on the same images.

    Attributes:
        rows: `(n,)`, these images.
        first: `(a,)`, concepts.
        second: `(b,)`, concepts; empty where the formulas are single concepts.
        left: `(n, a)` float64, presence.
        right: `(n, b)` float64.
        place: `(F,)`, of each formula, in `(a, b)` flattened, or in `(a,)`.
        operator: `(F,)`.
        swapped: `(F,)` bool, whether the second concept comes first (AND NOT only).
        shown: `(F,)` float64, on how many of the images it is.
    """

    rows: Tensor
    first: Tensor
    second: Tensor
    left: Tensor
    right: Tensor
    place: Tensor
    operator: Tensor
    swapped: Tensor
    shown: Tensor

    @cached_property
    def _on_host(self) -> dict[str, NDArray[Any]]:
        """What one formula after another is looked up in."""
        names = ("place", "operator", "swapped", "shown")
        table = torch.stack([getattr(self, name).long() for name in names]).cpu().numpy()
        concepts = {"first": self.first.cpu().numpy(), "second": self.second.cpu().numpy()}
        return {**concepts, **dict(zip(names, table, strict=True))}

    def formula(self, number: int, *, negated: bool) -> PresenceFormula:
        """The formula of that number."""
        host = self._on_host
        first, second, place = host["first"], host["second"], int(host["place"][number])
        if host["operator"][number] == SINGLE:
            return PresenceFormula(int(first[place]), negated=negated)
        one, other = int(first[place // len(second)]), int(second[place % len(second)])
        if host["swapped"][number]:
            one, other = other, one
        return PresenceFormula(one, other, int(host["operator"][number]), negated)

    def holds_on(self, number: int) -> int:
        """On how many images the formula of that number is."""
        return int(self._on_host["shown"][number])

    def rank_sums(self, ranks: Tensor) -> Tensor:
        """The sum of the ranks of the images of every formula: `(C, F)` float64."""
        singles = ranks.T @ self.left
        if not len(self.second):
            return singles[:, self.place]
        other = ranks.T @ self.right
        width = len(self.second)
        both = torch.stack([(self.left * column[:, None]).T @ self.right for column in ranks.T]).flatten(1)
        of_first, of_second = singles[:, self.place // width], other[:, self.place % width]
        both = both[:, self.place]
        alone = torch.where(self.swapped, of_second, of_first) - both
        joined = of_first + of_second - both
        return torch.where(self.operator == AND, both, torch.where(self.operator == OR, joined, alone))


@dataclass(frozen=True)
class BestFormulas:
    """The best formula of every unit.

    Attributes:
        formulas: `C`; `None` for a unit that is the same on all images that count, or if none can be tried.
        auc: `(C,)` float64, of the formula; NaN without one.
        z: `(C,)` float64, how many standard deviations its rank sum is from chance; -inf without one.
        shown: `(C,)` int64, on how many images it is.
        counted: `(C,)` int64, of how many.
    """

    formulas: list[PresenceFormula | None]
    auc: Tensor
    z: Tensor
    shown: Tensor
    counted: Tensor


class FormulaTable:
    """All formulas that are tried, made from the presence of the concepts alone.

    Args:
        present: `(N, M)`, 1, 0, or NaN where nobody looked; activations are to lie where it lies.
        pairs: also try two concepts.
        fewest: images that a formula must hold on.
        largest_share: of the images that count, that it may hold on.
    """

    def __init__(
        self,
        present: Tensor,
        *,
        pairs: bool = True,
        fewest: int = FEWEST,
        largest_share: float = LARGEST_SHARE,
    ) -> None:
        if present.ndim != 2 or 0 in present.shape:
            raise InputError(f"presence of shape {tuple(present.shape)}: need (images, concepts)")
        self.present = present
        self._fewest, self._share = fewest, largest_share
        known = ~present.isnan()
        often = (present.nan_to_num(0.0) > 0).sum(0) >= fewest
        groups = _alike(known, torch.nonzero(often)[:, 0])
        self.blocks = [block for rows, own in groups if (block := self._singles(rows, own)) is not None]
        self.n_singles = sum(len(block.place) for block in self.blocks)
        if pairs:
            for number, (rows, own) in enumerate(groups):
                for others_rows, others in groups[number:]:
                    block = self._pairs(rows & others_rows, own, others)
                    if block is not None:
                        self.blocks.append(block)

    @property
    def n_formulas(self) -> int:
        """How many are tried, a formula and its negation counting once."""
        return sum(len(block.place) for block in self.blocks)

    @torch.no_grad()
    def best(self, Q: Tensor) -> BestFormulas:
        """The formula of every unit with the highest AUC, its negation included.

        Of level ones the shorter, then the first.

        Args:
            Q: `(N, C)`, without NaN.
        """
        units = Q.shape[1]
        auc = torch.full((units,), 0.5, dtype=torch.float64, device=Q.device)
        z = torch.full_like(auc, -math.inf)
        where = torch.full((units, 2), -1, dtype=torch.int64, device=Q.device)
        for number, block in enumerate(self.blocks):
            for part, area, score in self._scores(block, Q):
                found = (area - 0.5).abs().argmax(1, keepdim=True)
                own = area.gather(1, found)[:, 0]
                better = (own - 0.5).abs() > (auc[part] - 0.5).abs() + 1e-12
                auc[part] = torch.where(better, own, auc[part])
                z[part] = torch.where(better, score.gather(1, found)[:, 0].abs(), z[part])
                where[part, 0] = torch.where(better, number, where[part, 0])
                where[part, 1] = torch.where(better, found[:, 0], where[part, 1])
        formulas: list[PresenceFormula | None] = []
        shown, counted = torch.zeros(2, units, dtype=torch.int64)
        below = (auc < 0.5).tolist()
        for unit, (number, place) in enumerate(where.tolist()):
            if number < 0:
                formulas.append(None)
                continue
            block, negated = self.blocks[number], below[unit]
            formulas.append(block.formula(place, negated=negated))
            counted[unit] = len(block.rows)
            holds = block.holds_on(place)
            shown[unit] = len(block.rows) - holds if negated else holds
        shown, counted = shown.to(Q.device), counted.to(Q.device)
        known = where[:, 0] >= 0
        auc = torch.where(known, torch.maximum(auc, 1 - auc), torch.nan)
        return BestFormulas(formulas, auc, z, shown, counted)

    @torch.no_grad()
    def singles(self, Q: Tensor) -> tuple[Tensor, Tensor]:
        """Of every concept alone: AUC and `z`, `(C, M)` float64 each; NaN for one that is not tried."""
        shape = (Q.shape[1], self.present.shape[1])
        auc, z = torch.full((2, *shape), torch.nan, dtype=torch.float64, device=Q.device)
        for block in self.blocks:
            if not len(block.second):
                columns = block.first[block.place]
                for part, area, score in self._scores(block, Q):
                    auc[part, columns], z[part, columns] = area, score
        return auc, z

    def _scores(self, block: _Block, Q: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """AUC and `z` of all formulas of a block, `(u, F)` each, some units at a time."""
        n, shown = len(block.rows), block.shown
        for part in spans(Q.shape[1], _UNITS):
            ranks = average_ranks(Q[block.rows, part])
            sums = block.rank_sums(ranks)
            area = (sums - shown * (shown + 1) / 2) / (shown * (n - shown))
            # Of a rank sum under the hypothesis that the set is a random one of its size; with ties.
            of_ranks = ((ranks - (n + 1) / 2) ** 2).sum(0)
            deviation = (shown * (n - shown) / (n * (n - 1)) * of_ranks[:, None]).sqrt()
            away = sums - shown * (n + 1) / 2
            yield part, area, torch.where(deviation > 0, away / deviation.clamp_min(1e-30), 0.0)

    def _singles(self, rows: Tensor, own: Tensor) -> _Block | None:
        images = torch.nonzero(rows)[:, 0]
        left = self.present[images][:, own].double()
        shown = left.sum(0)
        place = torch.nonzero(self._allowed(shown, len(images)))[:, 0]
        if not len(place):
            return None
        nothing = place.new_empty(0)
        operator = torch.full_like(place, SINGLE)
        empty = left.new_empty(len(images), 0)
        no = torch.zeros_like(place, dtype=torch.bool)
        return _Block(images, own, nothing, left, empty, place, operator, no, shown[place])

    def _pairs(self, rows: Tensor, own: Tensor, others: Tensor) -> _Block | None:
        images = torch.nonzero(rows)[:, 0]
        n = len(images)
        if n * self._share < self._fewest:
            return None
        left, right = (self.present[images][:, some].double() for some in (own, others))
        one, other = left.sum(0)[:, None], right.sum(0)[None]
        both = left.T @ right
        # Each pair once, and no formula that holds on the same images as one of its concepts.
        differ = own[:, None] < others[None] if torch.equal(own, others) else torch.ones_like(both) > 0
        apart, overlap = differ & (both < one) & (both < other), differ & (both > 0)
        found = []
        for operator, swapped, shown, distinct in (
            (OR, False, one + other - both, apart),
            (AND, False, both, apart),
            (AND_NOT, False, one - both, overlap),
            (AND_NOT, True, other - both, overlap),
        ):
            place = torch.nonzero((distinct & self._allowed(shown, n)).flatten())[:, 0]
            found.append(
                (
                    place,
                    torch.full_like(place, operator),
                    torch.full_like(place, swapped, dtype=torch.bool),
                    shown.expand_as(both).flatten()[place],
                )
            )
        place, operators, swap, holds = (torch.cat(parts) for parts in zip(*found, strict=True))
        if not len(place):
            return None
        return _Block(images, own, others, left, right, place, operators, swap, holds)

    def _allowed(self, shown: Tensor, n: int) -> Tensor:
        return (shown >= self._fewest) & (shown <= self._share * n)


def _alike(known: Tensor, concepts: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Concepts that are known on the same images: `(N,)` bool and their numbers, by their first concept."""
    groups: dict[bytes, list[int]] = {}
    on_host = known.cpu().numpy()
    for concept in concepts.tolist():
        groups.setdefault(on_host[:, concept].tobytes(), []).append(concept)
    return [(known[:, own[0]], torch.tensor(own, device=known.device)) for own in groups.values()]


def mann_whitney(z: Tensor, tried: int) -> Tensor:
    """Two-sided p-value of the best of some formulas by the normal approximation, times their number.

        p = min(1, tried * erfc(|z| / sqrt 2))

    Images are taken for independent of each other. The correction allows for any dependence between formulas.

    Args:
        z: `(C,)`.
        tried: formulas.

    Source: Mann & Whitney 1947; Bonferroni.
    """
    return (torch.erfc(z.double().abs() / math.sqrt(2)) * max(1, tried)).clamp_max(1.0)
