"""All masks of a probing set, looked at once: those that cannot be used, and what their numbers mean."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from concept_monitor_cli.errors import CmonError, InputError
from concept_monitor_cli.probe.annotations import LabelSource
from concept_monitor_cli.probe.decode import quiet_pillow
from concept_monitor_cli.probe.masked import IndexMasks
from concept_monitor_cli.probe.survey import MaskFacts
from concept_monitor_cli.progress import Progress
from concept_monitor_cli.store import Key, Store, make_key

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


def check_masks(
    labels: LabelSource | IndexMasks,
    images: Mapping[int, str],
    progress: Progress,
    store: Store | None = None,
) -> Checked:
    """Look at the masks of these images.

    Images whose mask is damaged, missing or of another frame are left out, as unreadable photos are. Where
    that would be half of them or more, or the masks hold what no list explains, the masks are not used.

    Args:
        labels: of all images.
        images: number -> digest of those images that are there.
        progress: is told what was assumed.
        store: keeps what was found; `None`: it is found anew each time.
    """
    rows = list(images)
    key = None if store is None else _key(labels, images)
    known = None if store is None or key is None else _known(store, key)
    if known is not None:
        bad, facts = known
    else:
        found = _over(labels.facts if isinstance(labels, IndexMasks) else _reader(labels), rows, progress)
        errors = {row: each for row, each in zip(rows, found, strict=True) if isinstance(each, InputError)}
        if errors and 2 * len(errors) >= len(rows):
            first = next(iter(errors.values()))
            share = "" if len(errors) == len(rows) else f"{len(errors):,} of {len(rows):,} masks: "
            return Checked(None, {}, InputError(share + first.what, where=first.where, hint=first.hint))
        bad = {row: _reason(error) for row, error in errors.items()}
        facts = [each for each in found if isinstance(each, MaskFacts)]
        if store is not None and key is not None and not store.look_only:
            _keep(store, key, bad, facts)
    if not isinstance(labels, IndexMasks):
        return Checked(labels, bad)
    settled, meaning = labels.settled(facts)
    for note in meaning.notes:
        progress.notice(note)
    if meaning.problem is not None:
        return Checked(None, {}, meaning.problem)
    return Checked(settled, bad)


def _reader(labels: LabelSource) -> Callable[[int], None]:
    def read(row: int) -> None:
        labels.read(row)

    return read


def _key(labels: LabelSource | IndexMasks, images: Mapping[int, str]) -> Key | None:
    """What the findings depend on: images, masks and class list. `None` where a mask cannot be read."""
    digest = hashlib.sha256()

    def one(row: int) -> bytes:
        return hashlib.sha256(labels.content(row)).digest()

    try:
        with ThreadPoolExecutor(4) as pool:
            for part in pool.map(one, images):
                digest.update(part)
    except InputError:
        return None
    what = (labels.classes,) if isinstance(labels, IndexMasks) else (labels.labels, labels.mask_size)
    digest.update(repr((what, list(images.items()))).encode("utf-8", "surrogateescape"))
    return make_key("mask_check", {"masks": digest.hexdigest()})


def _known(store: Store, key: Key) -> tuple[dict[int, str], list[MaskFacts]] | None:
    entry = store.get(key)
    if entry is None:
        return None
    with entry:
        facts = [
            MaskFacts(
                {int(number): int(count) for number, count in pixels},
                {int(number): int(count) for number, count in inner},
            )
            for pixels, inner in entry.meta["facts"]
        ]
        return {int(row): str(reason) for row, reason in entry.meta["bad"]}, facts


def _keep(store: Store, key: Key, bad: Mapping[int, str], facts: Sequence[MaskFacts]) -> None:
    meta = {
        "bad": sorted(bad.items()),
        "facts": [[sorted(each.pixels.items()), sorted(each.inner.items())] for each in facts],
    }
    with contextlib.suppress(CmonError):  # a cache that cannot be written to costs time, no more
        store.put(key, {}, meta).close()


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
