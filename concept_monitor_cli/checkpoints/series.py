"""Which of the checkpoints belong to one training?

Checkpoints whose names differ in the epoch only are a series. Series of the same network that follow each
other are one training; those that tell the same epochs with other weights, or run side by side, are several,
and one is taken.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from fractions import Fraction
from pathlib import Path

from concept_monitor_cli.checkpoints.find import natural_key
from concept_monitor_cli.checkpoints.kinds import is_beside_network
from concept_monitor_cli.checkpoints.order import LeftOut, Opened, Weights
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.wording import counted

# Of two series that are about as long the first is taken, not the one that was saved to last.
_ABOUT_AS_LONG = 0.75
_KINDS = ("epoch", "stage", "step")


@dataclass
class Choice:
    """One training.

    Attributes:
        items: its checkpoints.
        left_out: those of other trainings.
        warnings: sentences that say what other series there are.
    """

    items: list[Opened]
    left_out: list[LeftOut] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Series:
    name: str
    architecture: str
    items: tuple[Opened, ...]

    @property
    def kind(self) -> str:
        told = self.items[0].told
        for kind in _KINDS:
            if getattr(told, kind) is not None:
                return kind
        return f"number {told.inner}"

    @property
    def numbers(self) -> dict[Fraction, Opened]:
        return {_number(item): item for item in self.items}

    @property
    def folders(self) -> set[Path]:
        return {item.file.path.parent for item in self.items}


def choose_series(
    items: Sequence[Opened],
    weights: Weights,
    *,
    wanted: str | None = None,
    before: Collection[Path] = (),
    one_training: bool = True,
) -> Choice:
    """Take the checkpoints of one training.

    The longest series is taken; of series about as long, one that is no average, teacher or critic, then the
    first by name.

    Args:
        items: the checkpoints that can be used, in natural order.
        weights: tells equal weights.
        wanted: name of a series, a pattern for it or a part of it, as `cmon checkpoints` shows it; None for
            the rule.
        before: files that were taken already: their series stays the one that is taken.
        one_training: take one of several folds, seeds or repetitions, too.

    Raises:
        InputError: no series is called like `wanted`.
    """
    choice = Choice(list(items))
    if wanted is not None:
        _only(choice, wanted)
    else:
        _hide_below(choice)
        if one_training:
            _one_training(choice, before)
    series = _series_of(choice.items)
    if series:
        main = _longest(series, before)
        taken = _with_what_follows(main, series, weights)
        _leave_out_others(choice, main, taken, series)
    else:
        _one_architecture(choice, before)
    return choice


def _number(item: Opened) -> Fraction:
    told = item.told
    return next(n for n in (told.epoch, told.stage, told.step, told.number) if n is not None)


def _label(item: Opened, several: bool) -> str:
    return f"{item.told.series} ({item.architecture})" if several else item.told.series


def _only(choice: Choice, wanted: str) -> None:
    several = len({item.architecture for item in choice.items}) > 1
    labels = {id(item): _label(item, several) for item in choice.items}
    for matches in (
        lambda label: label == wanted,
        lambda label: fnmatchcase(label.lower(), wanted.lower()),
        lambda label: wanted.lower() in label.lower(),
    ):
        chosen = [item for item in choice.items if matches(labels[id(item)])]
        if chosen:
            rest = [item for item in choice.items if not matches(labels[id(item)])]
            choice.items = chosen
            choice.left_out += [LeftOut(item.file, "is of another series", grouped=True) for item in rest]
            return
    names = list(dict.fromkeys(labels.values()))
    raise InputError(
        f"no series is called {wanted!r}",
        where="--series",
        hint=f"there are {', '.join(names[:6])}{' ...' if len(names) > 6 else ''}",
    )


def _hide_below(choice: Choice) -> None:
    """A series directly in the folder that was searched comes before what lies in folders below it."""
    hidden: list[Opened] = []
    for folder in {item.file.searched for item in choice.items if item.file.searched is not None}:
        there = [item for item in choice.items if item.file.searched == folder]
        top = [item for item in there if item.file.on_top]
        below = [item for item in there if not item.file.on_top]
        numbered_on_top = any(item.told.numbered and item.role == "regular" for item in top)
        if top and (numbered_on_top or not any(item.told.numbered for item in below)):
            hidden += below
    if hidden:
        folders = sorted({item.file.path.parent.name for item in hidden}, key=natural_key)
        shown = ", ".join(folders[:3]) + (" ..." if len(folders) > 3 else "")
        choice.warnings.append(
            f"{counted(len(hidden), 'checkpoints')} in folders below ({shown}) left out: "
            "give such a folder by its name, or --series, to take those"
        )
        dropped = set(map(id, hidden))
        choice.items = [item for item in choice.items if id(item) not in dropped]
        choice.left_out += [LeftOut(item.file, "lies in a folder below", grouped=True) for item in hidden]


def _one_training(choice: Choice, before: Collection[Path]) -> None:
    """Folds, seeds and repetitions are trainings of their own, even of one file each.

    Numbered runs and versions are so only where nothing in the names or files puts them in an order: they may
    be one training that was resumed.
    """
    by_training = {id(item): item.told.training for item in choice.items}
    if len({name for name in by_training.values() if name}) < 2:
        by_training = {id(item): item.told.run for item in choice.items}
        epochs = [item.epoch for item in choice.items if item.told.run]
        if any(item.told.numbered for item in choice.items) or (
            None not in epochs and len(set(epochs)) == len(epochs)
        ):
            return
    groups: dict[str, list[Opened]] = defaultdict(list)
    for item in choice.items:
        if by_training[id(item)]:
            groups[by_training[id(item)]].append(item)
    if len(groups) < 2:
        return
    known = {name: members for name, members in groups.items() if any(i.file.path in before for i in members)}
    candidates = known or groups
    most = max(map(len, candidates.values()))
    main = next(name for name, members in candidates.items() if len(members) >= _ABOUT_AS_LONG * most)
    strangers: dict[str, list[Opened]] = defaultdict(list)
    for name, members in groups.items():
        for item in members if name != main else ():
            strangers[item.told.series].append(item)
    choice.items = [item for item in choice.items if by_training[id(item)] in ("", main)]
    _say_others(choice, groups[main][0].told.series, len(groups[main]), strangers)


def _series_of(items: Sequence[Opened]) -> list[_Series]:
    groups: dict[tuple[str, str], list[Opened]] = defaultdict(list)
    for item in items:
        if item.told.numbered and item.role in ("regular", "initial"):
            groups[item.architecture, item.told.series].append(item)
    return [_Series(name, architecture, tuple(members)) for (architecture, name), members in groups.items()]


def _longest(series: Sequence[_Series], before: Collection[Path]) -> _Series:
    known = [one for one in series if any(item.file.path in before for item in one.items)]
    series = known or series
    most = max(len(one.numbers) for one in series)
    long = [one for one in series if len(one.numbers) >= _ABOUT_AS_LONG * most]
    return min(
        long,
        key=lambda one: (
            is_beside_network(one.name),
            _KINDS.index(one.kind) if one.kind in _KINDS else len(_KINDS),
            one.name.count("/"),
            len(one.name),
            natural_key(one.name),
        ),
    )


def _with_what_follows(main: _Series, series: Sequence[_Series], weights: Weights) -> list[_Series]:
    """The main series and those that are the same training."""
    taken = [main]
    for other in series:
        if other is not main and all(_go_together(one, other, weights) for one in taken):
            taken.append(other)
    return taken


def _go_together(one: _Series, other: _Series, weights: Weights) -> bool:
    if one.architecture != other.architecture:
        return False
    if one.kind != other.kind:
        # Their names count differently, but the entries of the files may place them.
        epochs = [item.epoch for item in (*one.items, *other.items)]
        return None not in epochs and len(set(epochs)) == len(epochs)
    mine, theirs = one.numbers, other.numbers
    if len(mine) == 1 or len(theirs) == 1:
        return True
    if max(mine) < min(theirs) or max(theirs) < min(mine):
        return True
    common = mine.keys() & theirs.keys()
    return len(common) == min(len(mine), len(theirs)) and all(
        weights.same(mine[number].file, theirs[number].file) for number in common
    )


def _leave_out_others(
    choice: Choice, main: _Series, taken: Sequence[_Series], series: Sequence[_Series]
) -> None:
    folders = set().union(*(one.folders for one in taken))
    others = [one for one in series if one not in taken]
    elsewhere = set().union(*(one.folders for one in others)) - folders
    kept = {id(item) for one in taken for item in one.items}
    in_series = {id(item) for one in series for item in one.items}
    strangers: dict[str, list[Opened]] = defaultdict(list)
    items = []
    for item in choice.items:
        loose = id(item) not in in_series
        if id(item) in kept or (
            loose and item.architecture == main.architecture and item.file.path.parent not in elsewhere
        ):
            items.append(item)
        else:
            several = item.architecture != main.architecture
            strangers[_label(item, several)].append(item)
    choice.items = items
    _say_others(choice, main.name, len(main.items), strangers)


def _say_others(choice: Choice, name: str, count: int, strangers: dict[str, list[Opened]]) -> None:
    for label, members in strangers.items():
        choice.left_out += [
            LeftOut(item.file, f"is of another series, {label}", grouped=True) for item in members
        ]
    if strangers:
        shown = [f"{label} ({len(members)})" for label, members in list(strangers.items())[:4]]
        more = " ..." if len(strangers) > 4 else ""
        choice.warnings.append(
            f"several series of checkpoints: {name} ({count}) is taken, not {', '.join(shown)}{more}; "
            "--series NAME takes another"
        )


def _one_architecture(choice: Choice, before: Collection[Path]) -> None:
    """Names tell nothing: the network that most checkpoints are of, or the first one's."""
    groups: dict[str, list[Opened]] = defaultdict(list)
    for item in choice.items:
        groups[item.architecture].append(item)
    if len(groups) < 2:
        return
    known = {name: members for name, members in groups.items() if any(i.file.path in before for i in members)}
    main = max((known or groups).items(), key=lambda group: len(group[1]))[0]
    strangers: dict[str, list[Opened]] = {
        f"{', '.join(item.file.name for item in members[:2])} ({name})": members
        for name, members in groups.items()
        if name != main
    }
    choice.items = groups[main]
    _say_others(choice, f"the one of {main}", len(groups[main]), strangers)
