"""Which number in the names is the epoch? Judged over all names of a folder at once.

Names that differ in their numbers only make a pattern, `net_*_*`. At each of its places stands a column of
numbers: one that is the same everywhere tells nothing, one that differs from file to file may be the epoch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise

from concept_monitor_cli.checkpoints.names import Kind, Name


@dataclass(frozen=True)
class Told:
    """What a name tells.

    Attributes:
        series: the pattern of its name, with the numbers that tell one training from another.
        epoch: by a word such as `epoch`.
        stage: of pruning, by a word such as `level`.
        step: by a word such as `step` or `iter`.
        number: else the number that looks most like an epoch.
        sure: whether a number is there that also a single file would be dated by.
        time: a date or clock time, as a number that sorts.
        inner: number of numbers in the name that are not the epoch.
        training: which training by a word such as `fold` or `seed`; "" where no such word is there.
        run: the same by a word such as `run` or `version`, which may also count parts of one training.
    """

    series: str
    epoch: Fraction | None = None
    stage: Fraction | None = None
    step: Fraction | None = None
    number: Fraction | None = None
    sure: bool = False
    time: Fraction | None = None
    inner: int = 0
    training: str = ""
    run: str = ""

    @property
    def numbered(self) -> bool:
        """Whether the name tells any place in the training."""
        return any(value is not None for value in (self.epoch, self.stage, self.step, self.number))


@dataclass(frozen=True)
class Open:
    """Names with several numbers, each of which may be the epoch.

    Attributes:
        pattern: of the names.
        columns: for each such number, how the names are called with `{epoch}` in its place, and its values.
    """

    pattern: str
    columns: tuple[tuple[str, tuple[Fraction, ...]], ...]


Column = list[Fraction]


def tell(names: Sequence[Name], evidence: Sequence[Fraction | None]) -> tuple[list[Told], list[Open]]:
    """What every name tells, seen beside the others.

    Args:
        names: of the checkpoints of one architecture.
        evidence: epochs or steps that the files themselves state: of several numbers in the names the one
            that goes with them is the epoch.

    Returns:
        For each name what it tells; and where it is open which number that is.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(names):
        groups[name.text].append(index)
    told: dict[int, Told] = {}
    questions = []
    for members in groups.values():
        pattern = _Pattern([names[index] for index in members], [evidence[index] for index in members])
        told |= dict(zip(members, pattern.told(), strict=True))
        if pattern.question is not None:
            questions.append(pattern.question)
    return [told[index] for index in range(len(names))], questions


class _Pattern:
    """Names with the same text around their numbers."""

    def __init__(self, names: list[Name], evidence: list[Fraction | None]) -> None:
        self.names = names
        self.evidence = evidence
        places = range(len(names[0].numbers))
        self.columns: list[Column] = [[name.numbers[place].value for name in names] for place in places]
        self.kinds = [_kind_of([name.numbers[place].kind for name in names]) for place in places]
        self.question: Open | None = None

    def told(self) -> list[Told]:
        chosen = {kind: self._by_word(kind) for kind in ("epoch", "stage", "step")}
        number = self._number()
        if any(place is not None and self._varies(place) for place in chosen.values()):
            self.question = None
        time = next((place for place in self._of("time") if self._varies(place)), None)
        dated = chosen["epoch"] is not None or chosen["stage"] is not None
        keep = self._telling_series_apart({*chosen.values(), None if dated else number})
        sure = number is not None and self.kinds[number] in ("checkpoint", "number")
        rows = []
        for index, name in enumerate(self.names):
            values = {kind: None if at is None else self.columns[at][index] for kind, at in chosen.items()}
            rows.append(
                Told(
                    name.shown(keep),
                    **values,
                    number=None if number is None else self.columns[number][index],
                    sure=sure or any(place is not None for place in chosen.values()),
                    time=None if time is None else self.columns[time][index],
                    inner=len(self.columns) - 1,
                    training=name.training,
                    run=name.run,
                )
            )
        return rows

    def _of(self, *kinds: Kind) -> list[int]:
        return [place for place, kind in enumerate(self.kinds) if kind in kinds]

    def _varies(self, place: int) -> bool:
        return len(set(self.columns[place])) > 1

    def _by_word(self, kind: Kind) -> int | None:
        """The place of the last number with such a word, if possible of one that varies."""
        places = self._of(kind)
        varying = [place for place in places if self._varies(place)]
        return next(reversed(varying or places), None)

    def _number(self) -> int | None:
        """The place of the number without a telling word that looks most like an epoch."""
        strong = self._of("checkpoint", "number")
        varying = [place for place in strong if self._varies(place)]
        if len(varying) > 1:
            return self._of_several(varying)
        if varying:
            return varying[0]
        weak = [place for place in self._of("weak") if self._varies(place)]
        weak = weak or [
            place for place in self._of("decimal") if self._varies(place) and self._are_parts(place)
        ]
        if len(weak) == 1:
            return weak[0]
        # A word beats a bare number, a file's name that of its folder.
        by_word = [place for place in strong if self.kinds[place] == "checkpoint"]
        return next(reversed(by_word or strong), None)

    def _of_several(self, varying: list[int]) -> int | None:
        distinct = [place for place in varying if len(set(self.columns[place])) == len(self.names)]
        if not distinct:
            # Such as seed and epoch: the last one runs fastest.
            by_word = [place for place in varying if self.kinds[place] == "checkpoint"]
            return (by_word or varying)[-1]
        by_word = [place for place in distinct if self.kinds[place] == "checkpoint"]
        left = [place for place in distinct if self._agrees(place)] or by_word or distinct
        if all(_same_order(self.columns[left[0]], self.columns[place]) for place in left[1:]):
            return min(left, key=lambda place: max(self.columns[place]))  # of epochs and steps the epochs
        regular = [place for place in left if self._on_a_grid(place) and self._starts_early(place)]
        if len(regular) == 1:
            return regular[0]
        self.question = Open(
            self.names[0].shown(),
            tuple((self._with_epoch_at(place), tuple(self.columns[place])) for place in left),
        )
        return None

    def _agrees(self, place: int) -> bool:
        """Whether a column goes with what the files state."""
        known = [
            (mine, stated)
            for mine, stated in zip(self.columns[place], self.evidence, strict=True)
            if stated is not None
        ]
        if len(known) < 2 or len({stated for _, stated in known}) < len(known):
            return False
        return _same_order([mine for mine, _ in known], [stated for _, stated in known])

    def _on_a_grid(self, place: int) -> bool:
        """Whether the values lie one, or several, equal steps apart."""
        values = sorted(set(self.columns[place]))
        gaps = [later - earlier for earlier, later in pairwise(values)]
        return bool(gaps) and all((gap / min(gaps)).denominator == 1 for gap in gaps)

    def _starts_early(self, place: int) -> bool:
        """Whether the first value is about one step from zero: 5, 10, 15 and not 69, 71, 80."""
        values = sorted(set(self.columns[place]))
        step = min(later - earlier for earlier, later in pairwise(values))
        return values[0] <= step + 1

    def _are_parts(self, place: int) -> bool:
        """Whether decimal numbers are fractions of epochs (0.25, 0.5, 0.75), and not scores."""
        values = sorted(set(self.columns[place]))
        step = min(later - earlier for earlier, later in pairwise(values))
        return self._on_a_grid(place) and values[0] <= step

    def _telling_series_apart(self, used: set[int | None]) -> frozenset[int]:
        """Places of numbers that name a training: constant ones, and those without which names are alike."""
        rows = list(
            zip(*(self.columns[place] for place in sorted(p for p in used if p is not None)), strict=True)
        )
        rows = rows or [()] * len(self.names)
        keep = {place for place in range(len(self.columns)) if place not in used and not self._varies(place)}
        for place, column in enumerate(self.columns):
            if place in used or self.kinds[place] == "aside" or not 1 < len(set(column)) < len(self.names):
                continue
            more = [(*row, value) for row, value in zip(rows, column, strict=True)]
            if len(set(more)) > len(set(rows)):
                rows = more
                keep.add(place)
        return frozenset(keep)

    def _with_epoch_at(self, place: int) -> str:
        """The pattern for `--order`, with `{epoch}` in one place."""
        parts = self.names[0].text.split("{}")
        marks = ["{epoch}" if at == place else "*" for at in range(len(self.columns))]
        return "".join(text + mark for text, mark in zip(parts, [*marks, ""], strict=True))


def by_pattern(pattern: str, path: str, told: Told) -> Told:
    """What a name tells where the user says at which place the epoch stands: `net_{epoch}_*`.

    Args:
        pattern: as in a shell, with `{epoch}` once.
        path: of the file below the folder that was searched, without its extension.
        told: what else is known of the name.

    Returns:
        With the epoch in that place; without any where the pattern does not fit.
    """
    import re

    pieces = [
        re.escape(piece).replace(r"\*", ".*?").replace(r"\?", ".") for piece in pattern.split("{epoch}")
    ]
    match = re.fullmatch(r"(?:.*/)?" + r"(\d+(?:\.\d+)?)".join(pieces), path)
    nothing = replace(told, epoch=None, stage=None, step=None, number=None, sure=False, time=None)
    return nothing if match is None else replace(nothing, epoch=Fraction(match[1]), sure=True)


def _kind_of(kinds: list[Kind]) -> Kind:
    """A column's kind: a long number among short ones is a number like them."""
    return (
        next((kind for kind in ("number", "weak") if kind in kinds), kinds[0])
        if len(set(kinds)) > 1
        else kinds[0]
    )


def _same_order(one: Sequence[Fraction], other: Sequence[Fraction]) -> bool:
    """Whether both rise together."""
    rows = sorted(zip(one, other, strict=True))
    return all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(rows))
