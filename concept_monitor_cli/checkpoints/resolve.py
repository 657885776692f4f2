"""The checkpoints of one training: found, opened, chosen and put in order, by one rule for all commands."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from concept_monitor_cli.checkpoints.digest import fingerprint
from concept_monitor_cli.checkpoints.fields import Open, Told, by_pattern, tell
from concept_monitor_cli.checkpoints.find import CheckpointFile, find_checkpoints, unique_names
from concept_monitor_cli.checkpoints.formats import NoWeightsError
from concept_monitor_cli.checkpoints.kinds import INDEX, Role, role
from concept_monitor_cli.checkpoints.load import Checkpoint, load_checkpoint
from concept_monitor_cli.checkpoints.names import Name, take_apart
from concept_monitor_cli.checkpoints.order import (
    LeftOut,
    Opened,
    Order,
    Placed,
    order_by_epoch,
    order_by_name,
)
from concept_monitor_cli.checkpoints.series import choose_series
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.progress import Silent
from concept_monitor_cli.wording import counted

AUTO, BY_NAME = "auto", "name"
_ORDERS = (AUTO, BY_NAME)
PLACE = "{epoch}"


class NotRecognisedError(InputError):
    """The file holds weights, of a network that is not known."""


Identify = Callable[[Checkpoint], str]
"""The name of the network that weights are of; raises `InputError` where they cannot be used."""


@dataclass(frozen=True)
class Unusable:
    """A file that looked like a checkpoint and cannot be used.

    Attributes:
        file: the file.
        error: why.
    """

    file: CheckpointFile
    error: InputError


@dataclass(frozen=True)
class Resolved:
    """The checkpoints of one training.

    Attributes:
        kept: with their epochs, ascending.
        left_out: usable ones without a place of their own, and what is no checkpoint.
        unusable: those that should be checkpoints and cannot be used.
        notes: sentences for the user: what was assumed.
        warnings: sentences that say what was left out.
        question: what only the user can say; nothing should be computed before.
    """

    kept: tuple[Placed, ...]
    left_out: tuple[LeftOut, ...]
    unusable: tuple[Unusable, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    question: InputError | None


class NoneUsableError(InputError):
    """There are files that look like checkpoints, and none can be used.

    Attributes:
        found: all of them.
    """

    def __init__(self, first: InputError, found: Resolved, path: Path) -> None:
        super().__init__(first.what, where=first.where or path, hint=first.hint)
        self.found = found


@dataclass(frozen=True)
class _Facts:
    architecture: str
    epoch: Fraction | None
    step: Fraction | None
    fingerprint: str


class Reader:
    """Opens checkpoints, each once as long as it stays the same, and compares their weights.

    Args:
        identify: names the network of a checkpoint; None: by the names of its weights.
        loading: as for `load_checkpoint`.
    """

    def __init__(self, identify: Identify | None = None, **loading: Any) -> None:
        self._identify = identify or _by_names
        self._loading = loading
        self._known: dict[tuple[Path, int, int], _Facts | InputError] = {}
        self._digests: dict[tuple[Path, int, int], str | None] = {}

    def open(self, file: CheckpointFile) -> _Facts:
        """What a checkpoint tells without reading all of it.

        Raises:
            InputError: it cannot be used.
        """
        key = _state(file.path)
        if key not in self._known:
            try:
                self._known[key] = self._facts(file.path)
            except InputError as error:
                self._known[key] = error
        found = self._known[key]
        if isinstance(found, InputError):
            raise found
        return found

    def _facts(self, path: Path) -> _Facts:
        loaded = load_checkpoint(path, lazy=True, **self._loading)
        return _Facts(self._identify(loaded), *loaded.stated, fingerprint(loaded.state_dict))

    def same(self, one: CheckpointFile, other: CheckpointFile) -> bool:
        """Whether two checkpoints hold the same weights. All are read only where some are the same."""
        if one.path.samefile(other.path):
            return True
        if self.open(one).fingerprint != self.open(other).fingerprint:
            return False
        return self._digest(one) is not None and self._digest(one) == self._digest(other)

    def finite(self, file: CheckpointFile) -> bool:
        """Whether all weights are numbers. Reads them."""
        return self._digest(file) is not None

    def _digest(self, file: CheckpointFile) -> str | None:
        """Of all weights; None where some are not numbers."""
        key = _state(file.path)
        if key not in self._digests:
            loaded = load_checkpoint(file.path, **self._loading)
            self._digests[key] = None if loaded.nonfinite else loaded.digest
        return self._digests[key]


def resolve(
    specs: Sequence[str | Path],
    reader: Reader,
    *,
    order: str = AUTO,
    series: str | None = None,
    complete: Callable[[Path], bool] | None = None,
    before: Collection[Path] = (),
) -> Resolved:
    """The checkpoints of one training, in its order.

    All files are opened before any gets an epoch, so one that cannot be used takes no other's place.

    Args:
        specs: folders, files, globs, as for `find_checkpoints`.
        reader: opens the files.
        order: `auto`; `name` for the natural order of names, counted from 0; or a pattern of names with
            `{epoch}` where the epoch stands.
        series: which of several series to take, see `choose_series`.
        complete: says which files are written to the end; None: all.
        before: files that were taken already, of which the series stays.

    Raises:
        NoneUsableError: none can be used; says what is wrong with the first.
        InputError: there are no checkpoints, or `order` or `series` fit none.
    """
    if order not in _ORDERS and order.count(PLACE) != 1:
        raise InputError(
            f"{order!r} is no order",
            where="--order",
            hint=f"write auto, name, or a pattern of names like 'net_{PLACE}_*'",
        )
    heard = _Heard()
    files = find_checkpoints(*specs, progress=heard)
    files = [file for file in files if complete is None or complete(file.path)]
    if not files:
        raise InputError("no checkpoint is complete yet", where=str(specs[0]))
    usable, failed = _open_all(files, reader)
    if not usable:
        first = failed[0].error
        raise NoneUsableError(
            first, Resolved((), (), tuple(failed), tuple(heard.notices), (), None), failed[0].file.path
        ) from first
    names = {id(file): take_apart(file.place) for file in files}
    clutter = _clutter(usable, failed, names)
    items, questions = _items(usable, names, order)
    choice = choose_series(items, reader, wanted=series, before=before, one_training=order == AUTO)
    unusable = tuple(item for item in failed if item not in clutter)
    chosen = _renamed(choice.items, [item.file.path for item in unusable])
    ordered = order_by_name(chosen) if order == BY_NAME else order_by_epoch(chosen, reader)
    if order not in _ORDERS and not any(item.told.epoch is not None for item in items):
        raise InputError(
            f"no checkpoint is called like {order!r}", where="--order", hint=f"there is {items[0].file.place}"
        )
    return Resolved(
        kept=ordered.kept,
        left_out=(
            *ordered.left_out,
            *choice.left_out,
            *(LeftOut(c.file, _reason(c), grouped=True) for c in clutter),
        ),
        unusable=unusable,
        notes=(*heard.notices, *_said_of(clutter), *ordered.notes),
        warnings=tuple(choice.warnings),
        question=None if order != AUTO else _question(questions, ordered, chosen),
    )


def _renamed(items: Sequence[Opened], others: Sequence[Path]) -> list[Opened]:
    """With names no longer than it takes to tell these apart, whatever else lies around."""
    names = unique_names([*(item.file.path for item in items), *others])
    return [
        replace(item, file=replace(item.file, name=name)) for item, name in zip(items, names, strict=False)
    ]


class _Heard(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.notices: list[str] = []

    def notice(self, message: str) -> None:
        """Keep the message."""
        self.notices.append(message)


def _by_names(checkpoint: Checkpoint) -> str:
    """Stands for a network where nobody recognises it: the names of its weights."""
    names = sorted(checkpoint.state_dict)
    return f"{counted(len(names), 'tensors')} from {names[0]} to {names[-1]}"


def _state(path: Path) -> tuple[Path, int, int]:
    """Changes with the content; of several files with that of any of them."""
    try:
        parts = [path.stat()]
        if path.is_dir() or path.name.endswith(INDEX):
            parts += [part.stat() for part in (path if path.is_dir() else path.parent).iterdir()]
    except OSError:  # removed while we looked
        return path, -1, -1
    return path, sum(part.st_size for part in parts), max(part.st_mtime_ns for part in parts)


def _open_all(
    files: Sequence[CheckpointFile], reader: Reader
) -> tuple[list[tuple[CheckpointFile, _Facts]], list[Unusable]]:
    usable, failed = [], []
    for file in files:
        try:
            usable.append((file, reader.open(file)))
        except InputError as error:
            failed.append(Unusable(file, error))
    return usable, failed


def _clutter(
    usable: Sequence[tuple[CheckpointFile, _Facts]], failed: Sequence[Unusable], names: Mapping[int, Name]
) -> list[Unusable]:
    """Files beside the checkpoints that nobody would take for one of them.

    Those without weights of a network; and those of an unknown network that are not called as the others are.
    Files given by name are often what a shell made of `ckpts/*`: what holds no weights is clutter among them
    too; another network that was named is not.
    """
    patterns = {names[id(file)].text for file, _ in usable}
    return [
        item
        for item in failed
        if isinstance(item.error, NoWeightsError)
        or (
            isinstance(item.error, NotRecognisedError)
            and names[id(item.file)].text not in patterns
            and not item.file.explicit
        )
    ]


def _reason(item: Unusable) -> str:
    return f"is no checkpoint of the network: {item.error.what}"


def _said_of(clutter: Sequence[Unusable]) -> list[str]:
    if not clutter:
        return []
    shown = ", ".join(item.file.name for item in clutter[:4]) + (" ..." if len(clutter) > 4 else "")
    return [f"not taken for checkpoints of the network: {shown} ({clutter[0].error.what})"]


def _items(
    usable: Sequence[tuple[CheckpointFile, _Facts]], names: Mapping[int, Name], order: str
) -> tuple[list[Opened], list[tuple[Open, str]]]:
    """What each checkpoint tells, seen beside the others of its network; and what that leaves open."""
    questions: list[tuple[Open, str]] = []
    told: dict[int, Told] = {}
    for architecture in dict.fromkeys(facts.architecture for _, facts in usable):
        members = [(file, facts) for file, facts in usable if facts.architecture == architecture]
        evidence = [facts.epoch if facts.epoch is not None else facts.step for _, facts in members]
        found, unsure = tell([names[id(file)] for file, _ in members], evidence)
        questions += [(question, architecture) for question in unsure]
        told |= {id(file): value for (file, _), value in zip(members, found, strict=True)}
    items = [
        Opened(file, told[id(file)], _role(file), facts.epoch, facts.step, facts.architecture)
        for file, facts in usable
    ]
    if order not in _ORDERS:
        items = [
            replace(item, told=by_pattern(order, item.file.place, item.told), epoch=None, step=None)
            for item in items
        ]
    return items, questions


def _role(file: CheckpointFile) -> Role:
    """By the file's name; by its folder's, where the file has no number of its own."""
    *folders, name = file.place.split("/")
    found = role(name)
    if found != "regular" or not folders or any(letter.isdigit() for letter in name):
        return found
    return role(folders[-1])


def _question(
    questions: Sequence[tuple[Open, str]], ordered: Order, items: Sequence[Opened]
) -> InputError | None:
    """Ask which number is the epoch, where the order hangs on it."""
    if ordered.source not in ("order", "time"):
        return None
    kept = {id(placed.file) for placed in ordered.kept}
    shown = {item.told.series for item in items if id(item.file) in kept}
    for question, _ in questions:
        if question.pattern in shown:
            columns = " or ".join(
                f"{', '.join(f'{float(value):g}' for value in values[:3])}{' ...' if len(values) > 3 else ''}"
                for _, values in question.columns
            )
            return InputError(
                f"which number in the names is the epoch, {columns}?",
                where=question.pattern,
                hint=f"--order '{question.columns[0][0]}', or --order name: counted as the names sort",
            )
    return None
