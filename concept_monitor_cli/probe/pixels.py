"""Decoded images: every file is decoded once, for all networks that are to see it, and kept in the store."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from concept_monitor_cli.errors import CmonError, InputError
from concept_monitor_cli.models.geometry import Geometry
from concept_monitor_cli.probe.decode import Pixels8, UnreadableImageError, quiet_pillow, shape_image
from concept_monitor_cli.probe.images import content_digest
from concept_monitor_cli.probe.probe_set import ProbeSet
from concept_monitor_cli.probe.skipped import Skipped, warn_of
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.store import Entry, Key, Store, make_key

BLOCK = 1024
"""Images in an entry of the store. A probing set that grew at its end keeps its full blocks."""

_PIXELS = "pixels"
_UNREADABLE = "unreadable"
_ONCE = "once"
_OPEN_BLOCKS = 2
_BATCH = 16  # images that a thread decodes at a time


Done = Callable[[str], bool]
"""Whether the pixels of a digest were looked at for the last time."""


@dataclass(frozen=True)
class _Block:
    """Images `start` to `stop` of a probing set before unreadable ones were dropped."""

    start: int
    stop: int
    digests: tuple[str, ...]

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256("".join(self.digests).encode("ascii")).hexdigest()

    @cached_property
    def key(self) -> Key:
        """Of the block's list of unreadable images, which is the same for all geometries."""
        return make_key("probe_block", {"images": self.digest})

    def pixels_key(self, geometry: Geometry) -> Key:
        return make_key("pixels", {"images": self.digest, "geometry": geometry.to_json()})

    def readable(self, unreadable: Mapping[int, str]) -> npt.NDArray[np.int64]:
        """Numbers of the images that can be read."""
        return np.array(
            [row for row in range(self.stop - self.start) if row not in unreadable], dtype=np.int64
        )

    def part_digest(self, geometry: Geometry, rows: npt.NDArray[np.int64]) -> str:
        """Of what the pixels of some of its images depend on."""
        # The key of the block's pixels carries the version of this code.
        parts = [self.pixels_key(geometry).digest, *(self.digests[row] for row in rows)]
        return hashlib.sha256("".join(parts).encode("ascii")).hexdigest()


@dataclass(frozen=True)
class _Part:
    """What a `Pixels` takes from a block: images `rows` (numbers within it) as its own `start` to `stop`."""

    block: _Block
    rows: npt.NDArray[np.int64]
    start: int
    stop: int
    digest: str


class Pixels:
    """The images of a probing set in one geometry, on the disk: `(N, size, size, 3)` uint8.

    Read them by rows; at no time are all of them in memory. A block that is found damaged or pruned is
    decoded again.

    Attributes:
        geometry: how the images were cut.
        digest: hex SHA-256 of what the pixels depend on: content and order of the images, geometry, code.
    """

    def __init__(
        self,
        store: Store,
        probe: ProbeSet,
        blocks: Sequence[_Block],
        keep: Sequence[npt.NDArray[np.int64]],
        geometry: Geometry,
        workers: int,
    ) -> None:
        self.geometry = geometry
        self._store, self._probe, self._workers = store, probe, workers
        self._lock = threading.Lock()
        self._entries: OrderedDict[int, Entry] = OrderedDict()
        self._parts: list[_Part] = []
        start = 0
        for block, rows in zip(blocks, keep, strict=True):
            if len(rows):
                digest = block.part_digest(geometry, rows)
                self._parts.append(_Part(block, rows, start, start + len(rows), digest))
                start += len(rows)
        self._count = start
        joined = "".join(part.digest for part in self._parts)
        self.digest = hashlib.sha256(joined.encode("ascii")).hexdigest()

    def __len__(self) -> int:
        return self._count

    def rows(self, start: int, stop: int) -> Pixels8:
        """Images `start` to `stop` (not included): `(stop - start, size, size, 3)` uint8.

        Raises:
            IndexError: images that there are not.
            CmonError: the store cannot be read, or a block is lost and cannot be decoded again.
        """
        if not 0 <= start <= stop <= self._count:
            raise IndexError(f"images {start}:{stop} of {self._count}")
        size = self.geometry.size
        result = np.empty((stop - start, size, size, 3), dtype=np.uint8)
        for number, part in enumerate(self._parts):
            first, last = max(start, part.start), min(stop, part.stop)
            if first >= last:
                continue
            rows = part.rows[first - part.start : last - part.start]
            low, high = int(rows[0]), int(rows[-1]) + 1
            with self._lock:
                piece = self._entry(number).rows(_PIXELS, low, high)
            result[first - start : last - start] = piece if len(piece) == len(rows) else piece[rows - low]
        return result

    def blocks(self) -> Iterator[tuple[int, int, str]]:
        """Pieces that others may key results by: first image, last image + 1, digest of these pixels."""
        for part in self._parts:
            yield part.start, part.stop, part.digest

    def done(self, digest: str) -> None:
        """Say that a block was looked at; it leaves the disk if `decode_probe` was told `once`."""
        for number, part in enumerate(self._parts):
            if part.digest != digest:
                continue
            with self._lock:
                if number in self._entries:
                    self._entries.pop(number).close()
            key = part.block.pixels_key(self.geometry)
            entry = self._store.get(key)
            if entry is not None:
                with entry:
                    once = bool(entry.meta.get(_ONCE))
                if once:
                    self._store.remove(key)

    def close(self) -> None:
        """Close open files. Reading opens them again."""
        with self._lock:
            for entry in self._entries.values():
                entry.close()
            self._entries.clear()

    def _entry(self, number: int) -> Entry:
        entry = self._entries.get(number)
        if entry is not None:
            self._entries.move_to_end(number)
            return entry
        block = self._parts[number].block
        key = block.pixels_key(self.geometry)
        entry = self._store.get(key)
        if entry is None:
            with quiet_pillow(), ThreadPoolExecutor(self._workers) as pool:
                _decode_block(self._store, self._probe, block, {self.geometry: True}, pool, self._workers)
            entry = self._store.get(key)
            if entry is None:
                raise CmonError(
                    "decoded images were lost from the store while in use", where=self._store.root
                )
        self._entries[number] = entry
        while len(self._entries) > _OPEN_BLOCKS:
            self._entries.popitem(last=False)[1].close()
        return entry


def decode_probe(
    store: Store,
    probe: ProbeSet,
    geometries: Sequence[Geometry],
    *,
    workers: int | None = None,
    progress: Progress = SILENT,
    once: Mapping[Geometry, Done] | None = None,
) -> tuple[ProbeSet, list[Pixels]]:
    """Decode a probing set for several networks at once, each image once, into the store.

    Only what is not there yet is decoded, in blocks of 1,024 images, so that a run that was stopped goes on
    where it was. Several processes share the blocks out among themselves.

    Args:
        store: where the pixels go.
        probe: of `load_probe`.
        geometries: one for each network.
        workers: threads that decode; default: one per core that this process may use.
        progress: one task over the images that are decoded now; told of images that cannot be read.
        once: geometries, of those above, whose pixels are looked at a single time. What is done is not
            decoded, and the rest leaves the disk when it is done (`Pixels.done`).

    Returns:
        the probing set without the images that cannot be read, which its `skipped` names, and the pixels in
        each geometry, in the order asked for.

    Raises:
        InputError: no image can be read, or one changed on the disk since `load_probe`.
        CmonError: the store cannot be written to.
    """
    workers = max(1, workers if workers is not None else _cores())
    wanted = list(dict.fromkeys(geometries))
    blocks = _blocks(probe)
    needed = [_needed(store, block, wanted, once or {}) for block in blocks]
    unreadable = [_known_unreadable(store, block, these) for block, these in zip(blocks, needed, strict=True)]
    total = sum(
        block.stop - block.start for block, known in zip(blocks, unreadable, strict=True) if known is None
    )
    if total:
        with (
            quiet_pillow(),
            ThreadPoolExecutor(workers, thread_name_prefix="cmon-decode") as pool,
            progress.task("decoding images", total) as advance,
        ):
            for number, block in enumerate(blocks):
                if unreadable[number] is None:
                    unreadable[number] = _decode_block(store, probe, block, needed[number], pool, workers)
                    advance(block.stop - block.start)
    known = [reasons for reasons in unreadable if reasons is not None]
    readable, pixels = _without(store, probe, blocks, known, wanted, workers)
    warn_of(readable.skipped[len(probe.skipped) :], "images cannot be read and are left out", progress)
    return readable, [pixels[geometry] for geometry in geometries]


@dataclass(frozen=True)
class ToDecode:
    """What `decode_probe` would do.

    Attributes:
        images: that it would decode.
        bytes: of the pixels that it would keep of them.
        sure: whether it is known which images cannot be read; else all of them count as readable.
    """

    images: int
    bytes: int
    sure: bool


def plan_probe(
    store: Store,
    probe: ProbeSet,
    geometries: Sequence[Geometry],
    *,
    once: Mapping[Geometry, Done] | None = None,
) -> tuple[ProbeSet, list[Pixels], ToDecode]:
    """What `decode_probe` would return, as far as it is known without decoding anything, and would do."""
    wanted = list(dict.fromkeys(geometries))
    blocks = _blocks(probe)
    images = size = 0
    sure, known = True, []
    for block in blocks:
        count = block.stop - block.start
        needed = _needed(store, block, wanted, once or {})
        missing = [each for each in needed if not store.has(block.pixels_key(each))]
        reasons = _listed_unreadable(store, block)
        images += count if missing or reasons is None else 0
        size += sum(3 * count * each.size**2 for each in missing if needed[each])
        sure = sure and reasons is not None
        known.append(reasons or {})
    readable, pixels = _without(store, probe, blocks, known, wanted, workers=1)
    return readable, [pixels[geometry] for geometry in geometries], ToDecode(images, size, sure)


def _blocks(probe: ProbeSet) -> list[_Block]:
    return [
        _Block(start, min(start + BLOCK, len(probe)), probe.digests[start : start + BLOCK])
        for start in range(0, len(probe), BLOCK)
    ]


def _without(
    store: Store,
    probe: ProbeSet,
    blocks: Sequence[_Block],
    unreadable: Sequence[Mapping[int, str]],
    geometries: Sequence[Geometry],
    workers: int,
) -> tuple[ProbeSet, dict[Geometry, Pixels]]:
    """The probing set without the images that cannot be read, and its pixels in each geometry.

    Raises:
        InputError: no image can be read.
    """
    keep, skipped = [], []
    for block, reasons in zip(blocks, unreadable, strict=True):
        keep.append(block.readable(reasons))
        skipped += [Skipped(probe.ids[block.start + row], reason) for row, reason in sorted(reasons.items())]
    kept = [block.start + int(row) for block, rows in zip(blocks, keep, strict=True) for row in rows]
    if not kept:
        raise InputError(
            "no image can be read", where=probe.name, hint=f"{skipped[0].id}: {skipped[0].reason}"
        )
    pixels = {geometry: Pixels(store, probe, blocks, keep, geometry, workers) for geometry in geometries}
    return probe.subset(kept, skipped), pixels


def _needed(
    store: Store, block: _Block, geometries: Sequence[Geometry], once: Mapping[Geometry, Done]
) -> dict[Geometry, bool]:
    """The geometries in which a block is to be looked at, and whether its pixels are to stay after that."""
    reasons = _listed_unreadable(store, block) if once else None
    return {
        geometry: geometry not in once
        for geometry in geometries
        if geometry not in once
        or reasons is None
        or not once[geometry](block.part_digest(geometry, block.readable(reasons)))
    }


def _known_unreadable(store: Store, block: _Block, geometries: Iterable[Geometry]) -> dict[int, str] | None:
    """The block's unreadable images and why; `None` where something of it is still to be decoded."""
    if not all(store.has(block.pixels_key(geometry)) for geometry in geometries):
        return None
    return _listed_unreadable(store, block)


def _listed_unreadable(store: Store, block: _Block) -> dict[int, str] | None:
    """The block's unreadable images and why; `None` where nobody has tried them yet."""
    entry = store.get(block.key)
    if entry is None:
        return None
    with entry:
        return {int(row): str(reason) for row, reason in entry.meta[_UNREADABLE]}


def _decode_block(
    store: Store,
    probe: ProbeSet,
    block: _Block,
    geometries: Mapping[Geometry, bool],
    pool: ThreadPoolExecutor,
    workers: int,
) -> dict[int, str]:
    """Decode a block for the geometries that are missing; the numbers of unreadable images, and why.

    Args:
        store, probe, block: see `decode_probe`.
        geometries: which, and whether the pixels are to stay.
        pool, workers: threads that decode.
    """
    with store.lock(block.key):
        known = _known_unreadable(store, block, geometries)  # another process may have been at it
        if known is not None:
            return known
        missing = [geometry for geometry in geometries if not store.has(block.pixels_key(geometry))]
        unreadable: dict[int, str] = {}
        with ExitStack() as stack:
            writers = [
                stack.enter_context(
                    store.writer(block.pixels_key(each), None if geometries[each] else {_ONCE: True})
                )
                for each in missing
            ]
            count = block.stop - block.start
            for writer, geometry in zip(writers, missing, strict=True):
                writer.create(_PIXELS, (count, geometry.size, geometry.size, 3), np.uint8)
            for batch in _decoded(probe, block, missing, pool, ahead=2 * workers):
                unreadable.update(batch.unreadable)
                for writer, squares in zip(writers, batch.squares, strict=True):
                    writer.write(_PIXELS, batch.start, squares)
        with store.writer(block.key, {_UNREADABLE: sorted(unreadable.items())}):
            pass
        return unreadable


@dataclass(frozen=True)
class _Batch:
    """Some decoded images of a block, from its number `start` on: per geometry `(n, size, size, 3)`."""

    start: int
    squares: list[Pixels8]
    unreadable: dict[int, str]


def _decoded(
    probe: ProbeSet, block: _Block, geometries: Sequence[Geometry], pool: ThreadPoolExecutor, ahead: int
) -> Iterator[_Batch]:
    """A block's images in every geometry, in order; `ahead` batches of them are under way."""

    def decode(start: int, stop: int) -> _Batch:
        squares = [np.zeros((stop - start, each.size, each.size, 3), dtype=np.uint8) for each in geometries]
        unreadable: dict[int, str] = {}
        for row in range(start, stop):
            try:
                image = probe.source.decode(_content(probe, block.start + row))
            except UnreadableImageError as error:  # its row stays black, and nobody reads it
                unreadable[row] = str(error)
                continue
            for square, geometry in zip(squares, geometries, strict=True):
                square[row - start] = shape_image(image, geometry)
        return _Batch(start, squares, unreadable)

    count = block.stop - block.start
    under_way: deque[Future[_Batch]] = deque()
    try:
        for start in range(0, count, _BATCH):
            under_way.append(pool.submit(decode, start, min(start + _BATCH, count)))
            if len(under_way) > ahead:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        for future in under_way:
            future.cancel()


def _content(probe: ProbeSet, index: int) -> bytes:
    """An image's bytes, which must still be those that its digest was taken of."""
    try:
        data = probe.source.read(probe.rows[index])
    except OSError as error:
        raise InputError(f"an image cannot be read any more: {error}", where=probe.ids[index]) from error
    if content_digest(data) != probe.digests[index]:
        raise InputError("an image changed while it was in use", where=probe.ids[index], hint="run again")
    return data


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1
