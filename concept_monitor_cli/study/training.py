"""The checkpoints of a training: which files, in which order, and each with the network it is of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from concept_monitor_cli.checkpoints import Checkpoint, NoneUsableError, NotRecognisedError, Reader, resolve
from concept_monitor_cli.checkpoints.paths import printable
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.models.build import resolve_model
from concept_monitor_cli.options import DissectOptions
from concept_monitor_cli.run import RunFolder


class UnusableCheckpointError(InputError):
    """One checkpoint cannot be dissected; the others can."""


@dataclass(frozen=True)
class Unreadable:
    """A file that looked like a checkpoint and could not be opened.

    Attributes:
        name: as a checkpoint's.
        error: why.
    """

    name: str
    error: InputError


@dataclass(frozen=True)
class StudyFile:
    """A checkpoint and its place in the run.

    Attributes:
        name: as in the tables.
        path: where it lies.
        epoch: from the file, else from its name, else its place in the order.
        folder: its folder's name under `tables/`.
    """

    name: str
    path: Path
    epoch: int
    folder: str


@dataclass(frozen=True)
class TrainingFiles:
    """What was found of a training.

    Attributes:
        files: the checkpoints of all processes, by epoch.
        unreadable: what looked like a checkpoint and is none.
        notes: what was assumed.
        warnings: what may be wrong.
        left_out: a sentence for each file that is no checkpoint of this training.
        question: what the user must decide before anything can be done.
    """

    files: list[StudyFile]
    unreadable: list[Unreadable]
    notes: list[str]
    warnings: list[str]
    left_out: list[str]
    question: InputError | None


def find_files(
    options: DissectOptions,
    reader: Reader,
    *,
    complete: Callable[[Path], bool] | None = None,
    before: Set[Path] = frozenset(),
) -> TrainingFiles:
    """Find the checkpoints. Opens each for its epoch, without reading the weights.

    Args:
        options: where to look, and in which order.
        reader: opens them.
        complete: says which of the files that are found are written to the end; `None`: all.
        before: files that belong to the training already.

    Raises:
        UnusableCheckpointError: no file is a checkpoint.
        InputError: there are no files.
    """
    try:
        found = resolve(
            options.checkpoints,
            reader,
            order=options.order,
            series=options.series,
            complete=complete,
            before=before,
        )
    except NoneUsableError as error:
        raise UnusableCheckpointError(error.what, where=error.where, hint=error.hint) from error
    return TrainingFiles(
        files=[
            StudyFile(
                printable(placed.file.name), placed.file.path, placed.epoch, f"epoch_{placed.epoch:04d}"
            )
            for placed in found.kept
        ],
        unreadable=[Unreadable(printable(item.file.name), item.error) for item in found.unusable],
        notes=list(found.notes),
        warnings=list(found.warnings),
        left_out=[
            f"{left.file.name} is left out: it {left.reason}" for left in found.left_out if not left.grouped
        ],
        question=found.question,
    )


def renumbered(options: DissectOptions, files: Sequence[StudyFile]) -> Iterator[str]:
    """Warnings of checkpoints whose epoch is another one than in the run, because other files came."""
    if options.overwrite:
        return
    now = {str(file.path.resolve()): file.epoch for file in files}
    for record in RunFolder(options.out).checkpoints():
        epoch = now.get(record.path, record.epoch)
        if epoch != record.epoch:
            yield (
                f"{record.name} is epoch {epoch} beside the checkpoints that are there now, and epoch "
                f"{record.epoch} in the run, whose tables stay: start the run anew with --overwrite"
            )


def reader_of(model: str | None, **loading: Any) -> Reader:
    """A reader that knows the network of each checkpoint.

    Args:
        model: as `--model`: None to recognise networks by their weights.
        loading: how they are read, as for `load_checkpoint`.
    """
    return Reader(_Networks(model), **{**loading, "model": model})


class _Networks:
    """Names networks, each once."""

    def __init__(self, model: str | None) -> None:
        self._model = model
        self._known: dict[tuple[Any, ...], str | InputError] = {}

    def __call__(self, checkpoint: Checkpoint) -> str:
        """The network's name.

        Raises:
            NotRecognisedError: it is not known, or not the one that the user named.
        """
        shapes = tuple((name, tuple(value.shape)) for name, value in sorted(checkpoint.state_dict.items()))
        if shapes not in self._known:
            try:
                self._known[shapes] = resolve_model(
                    self._model,
                    checkpoint.state_dict,
                    said=checkpoint.arch,
                    family=checkpoint.family,
                    config=checkpoint.config,
                ).label
            except InputError as error:
                self._known[shapes] = error
        found = self._known[shapes]
        if isinstance(found, InputError):
            raise NotRecognisedError(found.what, where=found.where or checkpoint.path, hint=found.hint)
        return found
