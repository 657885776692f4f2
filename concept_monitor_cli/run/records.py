"""What stands beside the tables of a run: of a checkpoint, and of what a table was made from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.run.accuracy import as_shares


@dataclass(frozen=True)
class CheckpointRecord:
    """One checkpoint of the run, as `checkpoint.json` holds it.

    `status` is `started` (it may be under way, or was killed), `done` or `failed`; `folder` is the name under
    `tables/`; `sparsity` is the share of its weights (of tensors with two or more axes) that are exactly
    zero; `accuracy` is the share that the file states. `accuracy_stated` is the number in the file where its
    name leaves open whether it is in per cent: `RunFolder.checkpoints` looks at all of them and fills in
    `accuracy`.
    """

    name: str
    path: str
    epoch: int
    folder: str
    status: str
    weights: str = ""
    model: str = ""
    error: str = ""
    sparsity: float | None = None
    accuracy: float | None = None
    accuracy_stated: float | None = None


@dataclass(frozen=True)
class TableRecord:
    """What one table was made from, as the JSON file beside it holds it.

    `finding` is the content key of the result: everything it depends on. `recording` is where the store has
    what the network said, as `KIND/DIGEST`. `redundancy` says how alike the units are
    (`functional.redundancy`), asked of their activations, `held_out` how well the labels of one half of the
    images predict the activations on the other (`functional.held_out`); tables of earlier versions lack both.
    `made` is the digest of all that the table's text follows from, `files` the SHA-256 of its files, by their
    names: a table that is still as it was written needs not be written again.
    """

    checkpoint: str
    epoch: int
    layer: str
    detector: str
    finding: str
    units: int
    notes: tuple[str, ...] = ()
    calibration: dict[str, Any] = field(default_factory=dict)
    recording: str = ""
    redundancy: dict[str, Any] = field(default_factory=dict)
    held_out: dict[str, Any] = field(default_factory=dict)
    made: str = ""
    files: dict[str, str] = field(default_factory=dict)


Record = TypeVar("Record", CheckpointRecord, TableRecord)


def read_record(kind: type[Record], path: Path) -> Record | None:
    """A record from its file; what a later version added is passed over. `None` where there is none.

    Raises:
        InputError: the file is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        known = {item.name for item in fields(kind)}
        return kind(**{name: value for name, value in content.items() if name in known})
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"a record of the run cannot be read: {error}",
            where=path,
            hint="remove this file and run `cmon dissect` again",
        ) from error


def file_digests(paths: Iterable[Path]) -> dict[str, str]:
    """SHA-256 of some files by their names; of one that is not there, nothing."""
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in paths if path.is_file()}


def written_from(made: str, path: Path) -> TableRecord | None:
    """The record of a table that was made from just this, and whose files are still as they were written.

    Args:
        made: the digest of all that the table's text follows from.
        path: of the record; the table's files lie beside it.

    Returns:
        `None` where anything about them is not as it was written, a damaged record say.
    """
    try:
        record = read_record(TableRecord, path)
        if record is None or record.made != made or not record.files or not isinstance(record.files, dict):
            return None
        if file_digests(path.parent / name for name in record.files) != record.files:
            return None
    except (InputError, OSError):
        return None
    said = record.notes
    told = isinstance(said, (list, tuple)) and all(isinstance(note, str) for note in said)
    return replace(record, notes=tuple(said)) if told else None


def with_accuracies(records: Sequence[CheckpointRecord]) -> list[CheckpointRecord]:
    """Accuracies in a unit that their own file does not tell, by what the run tells."""
    shares = as_shares([record.accuracy_stated for record in records if record.accuracy_stated is not None])
    if shares is None:
        return list(records)
    left = iter(shares)
    return [
        record if record.accuracy_stated is None else replace(record, accuracy=next(left))
        for record in records
    ]


def is_unclear(record: CheckpointRecord) -> bool:
    """Whether its file states an accuracy of which nothing tells whether it is in per cent."""
    return record.accuracy is None and record.accuracy_stated is not None
