"""What a measure is: it judges the labels of one layer at one epoch.

A new measure is one file: a subclass of `Measure` with `@register_measure`. Whatever it concludes comes out
as a `Verdict`, so tables and figures know nothing of the kind of measure.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from concept_monitor_cli.errors import InputError

if TYPE_CHECKING:
    from concept_monitor_cli.evaluation.subject import Subject
    from concept_monitor_cli.options import EvaluateOptions


@dataclass(frozen=True)
class Value:
    """One number that says how good labels are.

    Attributes:
        metric: what is measured.
        value: the number; NaN where it cannot be had.
        chance: what labels drawn at random give on average; NaN where that is not known.
        count: how many units, images or pairs are behind it.
    """

    metric: str
    value: float
    chance: float
    count: int


@dataclass(frozen=True)
class Verdict:
    """What a measure says of the labels of one layer at one epoch.

    Attributes:
        values: rows of `evaluation.csv`.
        tables: further tables, name -> column -> values; each has a schema of that name, whose columns
            `epoch`, `checkpoint`, `layer`, `detector` and `similarity` are filled in later.
        notices: what the user should know, each one sentence.
    """

    values: tuple[Value, ...] = ()
    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notices: tuple[str, ...] = ()


class Measure(ABC):
    """Judges labels.

    Attributes:
        name: as in the tables and on the command line.
        by_default: whether it is taken where the user names no measure.
        in_grid: whether `--grid` takes it where the user names no measure.
        every_similarity: whether it judges all similarities where the user names none; otherwise only that of
            the run.
    """

    name: ClassVar[str]
    by_default: ClassVar[bool] = True
    in_grid: ClassVar[bool] = False
    every_similarity: ClassVar[bool] = False

    @classmethod
    def from_options(cls, options: EvaluateOptions) -> Measure:
        """The measure as the options ask for it."""
        return cls()

    @classmethod
    def taken(cls, options: EvaluateOptions) -> bool:
        """Whether it is taken where the user names no measure."""
        return cls.by_default

    def unfit(self, subject: Subject) -> InputError | None:
        """Why it has nothing to say of these labels; `None` where it has.

        The error is returned, not raised: it stops the command only where the user asked for this measure by
        name and it fits no layer at all.
        """
        return None

    @abstractmethod
    def judge(self, subject: Subject) -> Verdict:
        """Judge the labels of one layer at one epoch."""


_MEASURES: dict[str, type[Measure]] = {}


def register_measure(cls: type[Measure]) -> type[Measure]:
    """Make a measure known under its `name`."""
    _MEASURES[cls.name] = cls
    return cls


def list_measures() -> tuple[str, ...]:
    """The names of all measures, in the order in which they are shown."""
    return tuple(_MEASURES)


def make_measures(names: tuple[str, ...], options: EvaluateOptions) -> list[Measure]:
    """The measures of these names; those that are taken by default where there are none.

    Raises:
        InputError: there is none of such a name.
    """
    for name in names:
        if name not in _MEASURES:
            raise InputError(
                f"there is no measure {name!r}",
                where="--measure",
                hint=f"choose from {', '.join(_MEASURES)}",
            )

    def wanted(kind: type[Measure]) -> bool:
        if names:
            return kind.name in names
        return kind.in_grid if options.grid else kind.taken(options)

    return [kind.from_options(options) for kind in _MEASURES.values() if wanted(kind)]
