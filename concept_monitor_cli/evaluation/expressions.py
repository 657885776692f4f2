"""Labels of several concepts, read as they are printed: formulas, weighted sums, and weighted formulas.

What is judged is the text that a reader sees: `(water OR river) AND NOT blue` is true of an image or not, and
`0.6 dog + 0.3 snow - 0.2 grass` says how active a unit is on it. Names of concepts are looked for as they
are, the longest first, so that they may hold brackets and the words `OR` and `AND`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from concept_monitor_cli.wording import sum_terms

Operator = Literal["OR", "AND"]


@dataclass(frozen=True)
class Name:
    """A concept."""

    name: str

    @property
    def names(self) -> tuple[str, ...]:
        """The concepts."""
        return (self.name,)

    def holds(self, of: Callable[[str], Tensor]) -> Tensor:
        """Where it is."""
        return of(self.name)


@dataclass(frozen=True)
class Not:
    """What is not."""

    inner: Expression

    @property
    def names(self) -> tuple[str, ...]:
        """The concepts."""
        return self.inner.names

    def holds(self, of: Callable[[str], Tensor]) -> Tensor:
        """Where it is."""
        return 1 - self.inner.holds(of)


@dataclass(frozen=True)
class Joined:
    """Several that hold together, or of which one does."""

    operator: Operator
    parts: tuple[Expression, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The concepts, each once."""
        return tuple(dict.fromkeys(name for part in self.parts for name in part.names))

    def holds(self, of: Callable[[str], Tensor]) -> Tensor:
        """Where it is: 1, 0, or NaN where one of its concepts is not known."""
        found = torch.stack([part.holds(of) for part in self.parts])
        joined = found.amax(0) if self.operator == "OR" else found.amin(0)
        return joined.masked_fill(found.isnan().any(0), torch.nan)


Expression = Name | Not | Joined


class Reader:
    """Reads texts of labels.

    Args:
        names: of all concepts that a text may name.
    """

    def __init__(self, names: Sequence[str]) -> None:
        longest = sorted({name for name in names if name}, key=lambda name: (-len(name), name))
        self._by_start: dict[str, list[str]] = {}
        for name in longest:
            self._by_start.setdefault(name[0], []).append(name)

    def formula(self, text: str) -> Expression | None:
        """A formula of concepts; `None` where the text is none."""
        found = self._joined(text, 0)
        return found[0] if found is not None and found[1] == len(text) else None

    def sum(self, text: str) -> tuple[tuple[float, str], ...] | None:
        """Weights and concepts of a sum; `None` where the text is none."""
        terms = self.sum_of_formulas(text)
        if terms is None:
            return None
        named = tuple((weight, each.name) for weight, each in terms if isinstance(each, Name))
        return named if len(named) == len(terms) else None

    def sum_of_formulas(self, text: str) -> tuple[tuple[float, Expression], ...] | None:
        """Weights and formulas of a sum, as `3.1 (dog OR cat) - 0.8 sky`; `None` where the text is none."""
        read: list[Expression] = []

        def term(of: str, at: int) -> str | None:
            found = self._operand(of, at, (" + ", " - "))
            if found is None:
                return None
            read.append(found[0])
            return of[at : found[1]]

        terms = sum_terms(text, term)
        return None if terms is None else tuple(zip((weight for weight, _ in terms), read, strict=True))

    def _name(self, text: str, at: int, before: tuple[str, ...]) -> str | None:
        """The longest concept that begins here, and ends the text or stands before one of these."""
        for name in self._by_start.get(text[at : at + 1], ()):
            end = at + len(name)
            if text.startswith(name, at) and (end == len(text) or text.startswith(before, end)):
                return name
        return None

    def _joined(self, text: str, at: int) -> tuple[Expression, int] | None:
        """An expression that begins here, and where it ends."""
        first = self._operand(text, at)
        if first is None:
            return None
        part, at = first
        parts, operator = [part], ""
        for word in ("OR", "AND"):
            if text.startswith(f" {word} ", at):
                operator = word
        while operator and text.startswith(f" {operator} ", at):
            more = self._operand(text, at + len(operator) + 2)
            if more is None:
                return None
            part, at = more
            parts.append(part)
        if len(parts) == 1:
            return parts[0], at
        return Joined("OR" if operator == "OR" else "AND", tuple(parts)), at

    def _operand(
        self, text: str, at: int, before: tuple[str, ...] = (")", " OR ", " AND ")
    ) -> tuple[Expression, int] | None:
        name = self._name(text, at, before)
        if name is not None:
            return Name(name), at + len(name)
        if text.startswith("NOT ", at):
            inner = self._operand(text, at + 4)
            return None if inner is None else (Not(inner[0]), inner[1])
        if text.startswith("(", at):
            inner = self._joined(text, at + 1)
            if inner is not None and text.startswith(")", inner[1]):
                return inner[0], inner[1] + 1
        return None
