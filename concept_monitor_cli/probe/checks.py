"""All masks of a probing set, looked at once: those that cannot be used, and what their numbers mean."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.probe.annotations import LabelSource
from concept_monitor_cli.probe.decode import quiet_pillow
from concept_monitor_cli.probe.masked import IndexMasks
from concept_monitor_cli.progress import Progress

T = TypeVar("T")

_PIECE = 32  # masks that a thread looks at in one go


@dataclass(frozen=True)
class Checked:
    """What is left of a set's masks.

    Attributes:
        labels: the labels; `None` where `problem` says why the masks cannot be used.
        bad: number of the image -> why its mask cannot be used.
        problem: what is wrong with all of them.
    """

    labels: LabelSource | None
    bad: Mapping[int, str] = field(default_factory=dict)
    problem: InputError | None = None


def check_masks(labels: LabelSource | IndexMasks, rows: Sequence[int], progress: Progress) -> Checked:
    """Look at the masks of these images.

    Images whose mask is damaged, missing or of another frame are left out, as unreadable photos are. Where
    that would be half of them or more, or the masks hold what no list explains, the masks are not used.

    Args:
        labels: of all images.
        rows: those images that are there.
        progress: is told what was assumed.
    """
    if isinstance(labels, IndexMasks):
        facts = _over(labels.facts, rows, progress)
        errors = {row: each for row, each in zip(rows, facts, strict=True) if isinstance(each, InputError)}
    else:
        source = labels

        def readable(row: int) -> None:
            source.read(row)

        read = _over(readable, rows, progress)
        errors = {row: each for row, each in zip(rows, read, strict=True) if isinstance(each, InputError)}
    if errors and 2 * len(errors) >= len(rows):
        first = next(iter(errors.values()))
        share = "" if len(errors) == len(rows) else f"{len(errors):,} of {len(rows):,} masks: "
        return Checked(None, {}, InputError(share + first.what, where=first.where, hint=first.hint))
    bad = {row: _reason(error) for row, error in errors.items()}
    if not isinstance(labels, IndexMasks):
        return Checked(labels, bad)
    settled, found = labels.settled([each for each in facts if not isinstance(each, InputError)])
    for note in found.notes:
        progress.notice(note)
    if found.problem is not None:
        return Checked(None, {}, found.problem)
    return Checked(settled, bad)


def _reason(error: InputError) -> str:
    return error.what if error.where is None else f"{error.what}: {Path(error.where).name}"


def _over(look: Callable[[int], T], rows: Sequence[int], progress: Progress) -> list[T | InputError]:
    def piece(some: Sequence[int]) -> list[T | InputError]:
        results: list[T | InputError] = []
        for row in some:
            try:
                results.append(look(row))
            except InputError as error:
                results.append(error)
        return results

    pieces = [rows[first : first + _PIECE] for first in range(0, len(rows), _PIECE)]
    found: list[T | InputError] = []
    with (
        quiet_pillow(),
        progress.task("checking masks", len(rows)) as advance,
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
    ):
        for results in pool.map(piece, pieces):
            found += results
            advance(len(results))
    return found
