"""Put the checkpoints of one training in order.

Where the epochs are taken from is decided for all checkpoints together: from the names, from the entry
`epoch` in the files, or from steps. These are never mixed, as they count differently.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Literal, Protocol

from concept_monitor_cli.checkpoints.fields import Told
from concept_monitor_cli.checkpoints.find import CheckpointFile, natural_key
from concept_monitor_cli.checkpoints.kinds import Role

Source = Literal[
    "epoch", "stage", "number", "step", "name", "entry", "entry step", "time", "counted", "order"
]
"""Where epochs come from.

In the names: `epoch` and `step` by a word, `stage` of pruning, a bare `number`, any of these (`name`), a date
(`time`).
In the files: their `entry` or `entry step`. `counted`: by epoch and step; `order`: as the names sort.
"""

_STEPS: tuple[Source, ...] = ("step", "entry step")
_PARTLY: tuple[Source, ...] = ("epoch", "entry", "entry step", "name")
_FACTORS = (10, 100, 1000, 10_000)


@dataclass(frozen=True)
class Opened:
    """A checkpoint that can be used, and what it tells of its time.

    Attributes:
        file: the file.
        told: what its name tells.
        role: what its name says of its place: a copy, before the training, half-way.
        epoch: its entry `epoch`, where it has one.
        step: its training step, where the file states one.
        architecture: what network it is of; checkpoints of one training have the same.
    """

    file: CheckpointFile
    told: Told
    role: Role
    epoch: Fraction | None
    step: Fraction | None
    architecture: str


class Weights(Protocol):
    """Looks into weights, where the order depends on them."""

    def same(self, one: CheckpointFile, other: CheckpointFile) -> bool:
        """Whether two checkpoints hold the same weights."""

    def finite(self, file: CheckpointFile) -> bool:
        """Whether all weights are numbers."""


@dataclass(frozen=True)
class Placed:
    """A checkpoint with its epoch."""

    file: CheckpointFile
    epoch: int


@dataclass(frozen=True)
class LeftOut:
    """A checkpoint that has no place in the order.

    Attributes:
        file: the file.
        reason: why, as the end of a sentence that begins with its name.
        grouped: whether a warning about all of its series says so already.
    """

    file: CheckpointFile
    reason: str
    grouped: bool = False


@dataclass(frozen=True)
class Order:
    """Checkpoints in the order of training, one per epoch.

    Attributes:
        kept: by epoch, ascending; all epochs differ.
        left_out: those that repeat an epoch, or tell none.
        notes: sentences for the user: what was assumed.
        source: where the epochs are from.
    """

    kept: tuple[Placed, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]
    source: Source


def order_by_epoch(items: Sequence[Opened], weights: Weights) -> Order:
    """Put checkpoints of one training in order.

    - Epochs come from one source, see `choose_source`. `best`, `last`, `final` and files without a number
      among numbered ones are placed by their entry, corrected by what it is off by in the others.
    - Several checkpoints within an epoch are told apart by their steps.
    - Of several with one epoch one is kept: one with finite weights and a number before others.
    - `last` with the weights of another checkpoint is no epoch of its own.
    - Where nothing tells an epoch they count from 0 in the order of their names.

    Args:
        items: in natural order of their names.
        weights: tells equal weights.
    """
    return _Ordering(items, weights).order()


def order_by_name(items: Sequence[Opened]) -> Order:
    """All in the natural order of their names, counted from 0; what is called `init` first."""
    ranked = sorted(items, key=lambda item: (item.role != "initial", natural_key(item.file.place)))
    return Order(tuple(Placed(item.file, index) for index, item in enumerate(ranked)), (), (), "order")


@dataclass(frozen=True)
class _Column:
    """What every item tells of one kind."""

    values: tuple[Fraction | None, ...]

    @property
    def count(self) -> int:
        return sum(value is not None for value in self.values)

    @property
    def covers(self) -> bool:
        return bool(self.values) and None not in self.values

    @property
    def distinct(self) -> bool:
        """All tell one, and no two the same."""
        return self.covers and len(set(self.values)) == len(self.values)

    @property
    def constant(self) -> bool:
        return self.covers and len(self.values) > 1 and len(set(self.values)) == 1

    def offset(self, other: _Column) -> Fraction | None:
        """How much higher than the other this one is throughout; None where that differs or is unknown."""
        pairs = zip(self.values, other.values, strict=True)
        found = {mine - theirs for mine, theirs in pairs if mine is not None and theirs is not None}
        return found.pop() if len(found) == 1 else None

    def rises_with(self, other: _Column, *, strictly: bool) -> bool:
        if not (self.covers and other.covers):
            return False
        pairs = zip(other.values, self.values, strict=True)
        rows = sorted((theirs, mine) for theirs, mine in pairs if theirs is not None and mine is not None)
        return all(a[1] < b[1] if strictly else a[1] <= b[1] for a, b in pairwise(rows))


def value(item: Opened, source: Source) -> Fraction | None:
    """What a checkpoint tells by one source."""
    told = item.told
    match source:
        case "epoch" | "stage" | "step" | "number" | "time":
            found: Fraction | None = getattr(told, source)
        case "name":
            by_word = (told.epoch, told.stage, told.step, told.number)
            found = next((number for number in by_word if number is not None), None)
        case "entry":
            found = item.epoch
        case "entry step":
            found = item.step
        case _:
            found = None
    return found


def column(items: Sequence[Opened], source: Source) -> _Column:
    """What all checkpoints tell by one source."""
    return _Column(tuple(value(item, source) for item in items))


def choose_source(items: Sequence[Opened]) -> Source:
    """Where the epochs of these checkpoints come from.

    A word such as `epoch` in all names comes first, then stages of pruning, the entry `epoch`, steps, and
    bare numbers in the names. The entry is not believed where it is the same everywhere, or off by one
    against names that differ.
    """
    epoch, entry, number = (column(items, source) for source in ("epoch", "entry", "name"))
    if epoch.covers:
        return "epoch" if epoch.distinct else _within_epochs(items, "epoch")
    stage = column(items, "stage")
    if stage.distinct and len(items) > 1 and not (entry.distinct and entry.rises_with(stage, strictly=True)):
        return "stage"
    if entry.distinct:
        return "name" if number.distinct and entry.offset(number) in (1, -1) else "entry"
    if entry.covers:
        found = _within_epochs(items, "entry")
        by_name = number.distinct and (entry.constant or entry.rises_with(number, strictly=False))
        return "name" if found == "entry" and by_name else found
    return _without_epochs(items)


def _within_epochs(items: Sequence[Opened], source: Source) -> Source:
    """Several checkpoints tell the same epoch: what tells them apart?"""
    if source != "entry" and column(items, "entry").distinct:
        return "entry"
    for steps in _STEPS:
        if column(items, steps).distinct:
            return steps
    pairs = [(value(item, source), _step(item)) for item in items]
    if all(step is not None for _, step in pairs) and len(set(pairs)) == len(pairs):
        return "counted"
    return source


def _step(item: Opened) -> Fraction | None:
    return item.told.step if item.told.step is not None else item.step


def _without_epochs(items: Sequence[Opened]) -> Source:
    step, stated, name = (column(items, source) for source in ("step", "entry step", "name"))
    if stated.covers and (stated.distinct or not name.distinct):
        return "step" if step.distinct and stated.offset(step) in (0, 1, -1) else "entry step"
    named: tuple[Source, ...] = ("step", "number", "name")
    for source in named:
        if column(items, source).covers:
            return source
    most = max(_PARTLY, key=lambda source: column(items, source).count)
    if column(items, most).count:
        return most
    return "time" if column(items, "time").distinct else "order"


class _Ordering:
    """The work of `order_by_epoch`."""

    def __init__(self, items: Sequence[Opened], weights: Weights) -> None:
        self.weights = weights
        self.left_out: list[LeftOut] = []
        self.notes: list[str] = []
        self.base, self.others = self._split(items)

    def _split(self, items: Sequence[Opened]) -> tuple[list[Opened], list[Opened]]:
        """Those that make the order, and those that are placed beside them."""
        own = [
            item
            for item in items
            if item.role == "regular" or (item.role == "initial" and item.told.numbered)
        ]
        numbered = [item for item in own if item.told.numbered]
        if 2 * len(numbered) > len(own) or not any(item.epoch is not None for item in own):
            own = numbered or own
        for role in ("copy", "half-way", "initial"):
            own = own or [item for item in items if item.role == role]
        chosen = set(map(id, own))
        return own, [item for item in items if id(item) not in chosen]

    def order(self) -> Order:
        self._drop_half_way()
        source = choose_source(self.base)
        if source in ("epoch", "counted", "step", "entry step", "entry") and self._are_stages():
            self._last_of_each_stage()
            source = "stage"
        if source in ("time", "order"):
            return self._by_name(source)
        if source == "counted":
            placed = self._counted()
        else:
            placed = [(item, number) for item in self.base if (number := value(item, source)) is not None]
            self._leave_out_untold(placed)
        self._say(source)
        return self._finish(placed, source)

    # -- what has no place -----------------------------------------------------------------------

    def _drop_half_way(self) -> None:
        dropped = [item for item in self.others if item.role == "half-way"]
        self.others = [item for item in self.others if item.role != "half-way"]
        self.left_out += [
            LeftOut(item.file, "was saved half-way, when a training broke off") for item in dropped
        ]

    def _leave_out_untold(self, placed: list[tuple[Opened, Fraction]]) -> None:
        known = {id(item) for item, _ in placed}
        self.others += [item for item in self.base if id(item) not in known]
        self.base = [item for item, _ in placed]

    # -- stages of pruning -----------------------------------------------------------------------

    def _are_stages(self) -> bool:
        """Whether there are several stages, each with epochs of its own."""
        stage = column(self.base, "stage")
        if not stage.covers or stage.constant or column(self.base, "epoch").distinct:
            return False
        pairs = {(item.told.stage, self._within_stage(item)) for item in self.base}
        return len(pairs) == len(self.base) > 1

    def _within_stage(self, item: Opened) -> tuple[Fraction, Fraction]:
        epoch = item.told.epoch if item.told.epoch is not None else item.epoch
        return epoch if epoch is not None else Fraction(-1), _step(item) or Fraction(0)

    def _last_of_each_stage(self) -> None:
        last: dict[Fraction | None, Opened] = {}
        for item in self.base:
            before = last.get(item.told.stage)
            if before is None or self._within_stage(item) > self._within_stage(before):
                last[item.told.stage] = item
        dropped = [item for item in self.base if last[item.told.stage] is not item]
        if dropped:
            self.notes.append(
                f"{len(last)} stages are taken, each at its last epoch "
                f"({last[dropped[0].told.stage].file.name}); "
                "for the epochs within a stage give its folder"
            )
        self.left_out += [LeftOut(item.file, "is not the last of its stage") for item in dropped]
        self.base = list(last.values())

    # -- epochs ----------------------------------------------------------------------------------

    def _by_name(self, source: Source) -> Order:
        """Nothing tells an epoch."""
        self._drop_repeated([(item, None) for item in self.base])
        items = [*self.base, *self.others]
        if len(items) > 1:
            how = "by the dates in their names" if source == "time" else "in the order of their names"
            first = min(items, key=lambda item: _name_key(item, source))
            self.notes.append(
                f"no checkpoint tells its epoch: they are counted from 0 {how} ({first.file.name} first); "
                "--order says where the epoch stands"
            )
        ranked = sorted(items, key=lambda item: _name_key(item, source))
        kept = tuple(Placed(item.file, index) for index, item in enumerate(ranked))
        return Order(kept, tuple(self.left_out), tuple(self.notes), source)

    def _counted(self) -> list[tuple[Opened, Fraction]]:
        source: Source = "epoch" if column(self.base, "epoch").covers else "entry"
        ranked = sorted(self.base, key=lambda item: (value(item, source) or 0, _step(item) or 0))
        self.notes.append("several checkpoints of an epoch: they are counted from 0 by epoch and step")
        return [(item, Fraction(index)) for index, item in enumerate(ranked)]

    def _say(self, source: Source) -> None:
        entry, name = column(self.base, "entry"), column(self.base, "name")
        steps = source in ("step", "entry step")
        if steps and (entry.covers or column(self.base, "epoch").covers):
            self.notes.append("several checkpoints of an epoch: their steps are used as epochs")
        elif steps:
            self.notes.append("the checkpoints tell steps, no epochs: steps are used as epochs")
        if source in ("epoch", "stage", "name") and entry.count and len(self.base) > 1:
            by = entry.offset(name)
            if by != 0:
                how = f"is {_text(entry.values[0])} in all of them" if entry.constant else "says otherwise"
                if by is not None and not entry.constant:
                    how = f"is {_text(abs(by))} {'higher' if by > 0 else 'lower'}"
                self.notes.append(f"epochs are those of the names; the entry 'epoch' in the files {how}")

    def _finish(self, placed: list[tuple[Opened, Fraction]], source: Source) -> Order:
        groups: dict[Fraction, list[Opened]] = defaultdict(list)
        for item, number in placed:
            groups[number].append(item)
        kept = {number: self._best_of(group, number) for number, group in groups.items()}
        self._drop_repeated([(item, number) for number, item in kept.items()])
        by = self._correction(source, placed)
        for item in sorted(self.others, key=lambda item: (item.role == "copy", natural_key(item.file.place))):
            beside = self._number_beside(item, source, by, kept)
            if beside is None:
                self.left_out.append(LeftOut(item.file, self._untold(source, item)))
            elif beside in kept:
                self._repeat(item, kept[beside], beside)
            else:
                kept[beside] = item
        scale = self._scale(list(kept))
        rows = sorted(kept.items())
        files = tuple(
            Placed(item.file, index if scale is None else int(number * scale))
            for index, (number, item) in enumerate(rows)
        )
        return Order(files, tuple(self.left_out), tuple(self.notes), source)

    def _best_of(self, group: list[Opened], number: Fraction) -> Opened:
        """Of several with one epoch, the one to keep."""
        chosen = min(group, key=_precedence)
        if len(group) > 1:
            different = [
                item for item in group if item is not chosen and not self.weights.same(item.file, chosen.file)
            ]
            if different and not self.weights.finite(chosen.file):
                chosen = next((item for item in different if self.weights.finite(item.file)), chosen)
        for item in group:
            if item is not chosen:
                self._repeat(item, chosen, number)
        return chosen

    def _repeat(self, item: Opened, chosen: Opened, number: Fraction) -> None:
        same = self.weights.same(item.file, chosen.file)
        relation = "holds the same weights as" if same else "has other weights, but the same epoch as"
        self.left_out.append(LeftOut(item.file, f"{relation} {chosen.file.name} (epoch {_text(number)})"))

    def _drop_repeated(self, kept: list[tuple[Opened, Fraction | None]]) -> None:
        """Copies of checkpoints that are kept are no epochs of their own, whatever they say."""
        remaining = []
        for item in self.others:
            twin = next((pair for pair in kept if self.weights.same(item.file, pair[0].file)), None)
            if twin is None:
                remaining.append(item)
                continue
            epoch = "" if twin[1] is None else f" (epoch {_text(twin[1])})"
            self.left_out.append(LeftOut(item.file, f"holds the same weights as {twin[0].file.name}{epoch}"))
        self.others = remaining

    def _correction(self, source: Source, placed: list[tuple[Opened, Fraction]]) -> Fraction | None:
        """By how much the entries of the files are higher than the epochs; None where that is unknown."""
        stated: Source = "entry step" if source in ("step", "entry step") else "entry"
        numbers = _Column(tuple(number for _, number in placed))
        return column([item for item, _ in placed], stated).offset(numbers)

    def _number_beside(
        self, item: Opened, source: Source, by: Fraction | None, kept: dict[Fraction, Opened]
    ) -> Fraction | None:
        """The epoch of `best`, `last`, `init` and the like, by the same source as the others."""
        if item.role == "initial" and item.epoch is None:
            return Fraction(0) if 0 not in kept else None
        own = value(item, source)
        if own is not None:
            return own
        stated = item.step if source in ("step", "entry step") else item.epoch
        return None if by is None or stated is None or stated < by else stated - by

    def _untold(self, source: Source, item: Opened) -> str:
        if item.role == "initial":
            return "is of before the training, but another one has epoch 0"
        if item.epoch is not None or item.told.numbered:
            other = "names" if source not in ("entry", "entry step") else "entries of the files"
            return f"tells its epoch in another way than the others, which are dated by the {other}"
        return "tells no epoch, while others do; give it by its own name to dissect it"

    def _scale(self, numbers: list[Fraction]) -> int | None:
        """What fractions of epochs are multiplied by to be whole; None: they are counted instead."""
        if all(number.denominator == 1 for number in numbers):
            return 1
        for factor in _FACTORS:
            if all((number * factor).denominator == 1 for number in numbers):
                first = min(number for number in numbers if number.denominator != 1)
                self.notes.append(
                    f"there are fractions of epochs: all are multiplied by {factor} "
                    f"({_text(first)} is epoch {int(first * factor)})"
                )
                return factor
        self.notes.append("there are fractions of epochs: the checkpoints are counted from 0 in their order")
        return None


def _precedence(item: Opened) -> tuple[object, ...]:
    """Sorting key of what to keep of one epoch: numbered, no copy, the plainer name."""
    return (
        item.role == "copy",
        not item.told.numbered,
        item.told.inner,
        len(item.told.series),
        natural_key(item.file.place),
    )


def _name_key(item: Opened, source: Source) -> tuple[object, ...]:
    time = item.told.time if source == "time" and item.told.time is not None else Fraction(0)
    return (
        item.role != "initial",
        source == "time" and item.told.time is None,
        time,
        natural_key(item.file.place),
    )


def _text(number: Fraction | None) -> str:
    return f"{float(number or 0):g}" if number is None or number.denominator != 1 else str(number.numerator)
