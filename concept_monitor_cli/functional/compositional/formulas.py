"""Formulas of concepts, in one form for all that mean the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Operator = Literal["OR", "AND", "AND NOT"]
OPERATORS: tuple[Operator, ...] = ("OR", "AND", "AND NOT")


@dataclass(frozen=True)
class Formula:
    """A formula in its canonical form: one operator over concepts and at most one formula of the other
    operator.

    Made by `Formula.of` and `extended`, which keep it canonical.

    Attributes:
        operator: `OR` or `AND`; empty for a single concept.
        inner: the formula of the other operator that is one of the operands, if any.
        concepts: indices of the concepts among the operands, ascending.
        negated: indices of the concepts after `NOT`, ascending (only of `AND`).
    """

    operator: Literal["", "OR", "AND"]
    inner: Formula | None
    concepts: tuple[int, ...]
    negated: tuple[int, ...] = ()

    @staticmethod
    def of(concept: int) -> Formula:
        """The formula of a single concept."""
        return Formula("", None, (concept,))

    def extended(self, operator: Operator, concept: int) -> Formula:
        """This formula with `OR c`, `AND c` or `AND NOT c`.

        Raises:
            ValueError: the concept is in the formula already.
        """
        if concept in self.names:
            raise ValueError(f"concept {concept} is in the formula already")
        joint: Literal["OR", "AND"] = "OR" if operator == "OR" else "AND"
        base = self if self.operator in ("", joint) else Formula(joint, self, ())
        if operator == "AND NOT":
            return Formula(joint, base.inner, base.concepts, tuple(sorted((*base.negated, concept))))
        return Formula(joint, base.inner, tuple(sorted((*base.concepts, concept))), base.negated)

    @cached_property
    def names(self) -> frozenset[int]:
        """The concepts that it names."""
        inner: frozenset[int] = frozenset() if self.inner is None else self.inner.names
        return inner.union(self.concepts, self.negated)

    @property
    def length(self) -> int:
        """How many concepts it names."""
        return len(self.names)

    @cached_property
    def key(self) -> tuple[Any, ...]:
        """Total order of formulas: length, operator, inner formula, concepts, negated concepts."""
        inner: tuple[Any, ...] = () if self.inner is None else self.inner.key
        return (self.length, ("", "OR", "AND").index(self.operator), inner, self.concepts, self.negated)

    def evaluate(self, mask: Callable[[int], NDArray[np.bool_]]) -> NDArray[np.bool_]:
        """Where the formula holds, from the mask of each concept (booleans of any one shape)."""
        join = np.logical_or if self.operator == "OR" else np.logical_and
        terms = [] if self.inner is None else [self.inner.evaluate(mask)]
        terms += [mask(concept) for concept in self.concepts]
        terms += [~mask(concept) for concept in self.negated]
        holds: NDArray[np.bool_] = np.array(terms[0], dtype=bool)
        for term in terms[1:]:
            join(holds, term, out=holds)
        return holds

    def text(self, names: Sequence[str]) -> str:
        """The formula in words, such as `(water OR river) AND NOT blue`."""
        terms = [] if self.inner is None else [f"({self.inner.text(names)})"]
        terms += [names[concept] for concept in self.concepts]
        terms += [f"NOT {names[concept]}" for concept in self.negated]
        return f" {self.operator} ".join(terms)

    def __str__(self) -> str:
        return self.text(_Numbers())


@dataclass(frozen=True)
class Explanation:
    """A formula with its exact overlap with a unit's mask.

    Attributes:
        formula: the formula.
        iou: intersection over union.
        intersection: pixels in both.
        formula_area: pixels of the formula in all images.
        unit_area: pixels of the unit that count under the normaliser.
    """

    formula: Formula
    iou: float
    intersection: int
    formula_area: int
    unit_area: int


class _Numbers(Sequence[str]):
    """Names for formulas whose concepts have only numbers."""

    def __getitem__(self, index: Any) -> Any:
        return f"c{index}"

    def __len__(self) -> int:
        return 0
