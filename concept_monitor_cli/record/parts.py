"""What each of several tasks saw of its part of the images, kept so that all together are one task's pass.

A part is whole batches of that pass, so every network output is the same number whoever computes it. What a
consumer wrote by rows is kept by rows; what it kept of all images (the highest values, the range of a unit)
is kept as the consumer holds it. Neither is ever a sum of rounded numbers, so how the images were shared
changes no bit of what is joined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from concept_monitor_cli.record.consumers import RowWriter
from concept_monitor_cli.store import Entry, Key, Store, Writer

if TYPE_CHECKING:
    from concept_monitor_cli.record.requests import Pass

_BLOCK_BYTES = 32 << 20

Put = Callable[[str, NDArray[Any]], None]


@dataclass(frozen=True)
class Part:
    """Some whole batches of the images.

    Attributes:
        index: from 1 to `count`.
        count: number of parts.
        start, stop: the images, `stop` not included.
    """

    index: int
    count: int
    start: int
    stop: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def __len__(self) -> int:
        return self.stop - self.start


def parts_of(n_images: int, batch_size: int, count: int) -> list[Part]:
    """The images in `count` parts of whole batches, as equal as these allow; those without images left out.

    Args:
        n_images: how many images there are.
        batch_size: images in a batch; only the very last one may have fewer.
        count: of parts.
    """
    batches = -(-n_images // batch_size)
    ends = [min(n_images, batch_size * -(-place * batches // count)) for place in range(count + 1)]
    parts = [Part(place + 1, count, *ends[place : place + 2]) for place in range(count)]
    return [part for part in parts if len(part)]


class EntryWriter(RowWriter, Protocol):
    """The part of the store's `Writer` that recordings use."""

    meta: dict[str, Any]

    def put(self, name: str, array: NDArray[Any]) -> None:
        """Write a whole array."""


class Place(Protocol):
    """Where recordings are left: the store, or a `PartStore`."""

    root: Path

    def writer(self, key: Key) -> AbstractContextManager[EntryWriter]:
        """Opens an entry."""


class PartRows:
    """Takes the rows of one part for an entry of that part, wherever they stand among all images."""

    def __init__(self, writer: Writer, part: Part) -> None:
        self.meta = writer.meta
        self._writer, self._part = writer, part

    def create(self, name: str, shape: tuple[int, ...], dtype: Any) -> None:
        """Declare an array with a row for every image."""
        self._writer.create(name, (len(self._part), *shape[1:]), dtype)

    def write(self, name: str, start_row: int, array: NDArray[Any]) -> None:
        """Write rows of it."""
        self._writer.write(name, start_row - self._part.start, array)

    def put(self, name: str, array: NDArray[Any]) -> None:
        """Write what a consumer keeps of all images of the part."""
        self._writer.put(name, array)


class PartStore:
    """In the place of the store: what is written to a recording's entry becomes the entry of one part.

    Args:
        store: the real one.
        part: which part.
        key: gives where the part of a recording lies.
    """

    def __init__(self, store: Store, part: Part, key: Callable[[Key], Key]) -> None:
        self.root: Path = store.root
        self.rows: dict[str, PartRows] = {}
        self._store, self._part, self._key = store, part, key

    @contextmanager
    def writer(self, key: Key) -> Iterator[PartRows]:
        """The writer of a recording's part."""
        with self._store.writer(self._key(key)) as writer:
            rows = PartRows(writer, self._part)
            self.rows[key.digest] = rows
            yield rows


class SeenPart:
    """What one consumer left in the entry of a part.

    Args:
        entry: the part's.
        place: of the consumer among those of its pass.
        part: which images.
    """

    def __init__(self, entry: Entry, place: int, part: Part) -> None:
        self._entry, self._place, self._part = entry, place, part

    def read(self, name: str) -> Tensor:
        """What was kept of all images of the part."""
        return torch.from_numpy(self._entry.read(f"{self._place}:{name}"))

    def rows(self, name: str) -> Iterator[tuple[int, NDArray[Any]]]:
        """The rows that were written, in blocks, each with the number of its first image among all."""
        shape, dtype = self._entry.shape(name), self._entry.dtype(name)
        row_bytes = max(1, int(np.prod(shape[1:])) * dtype.itemsize)
        step = max(1, _BLOCK_BYTES // row_bytes)
        for first in range(0, shape[0], step):
            stop = min(shape[0], first + step)
            yield self._part.start + first, self._entry.rows(name, first, stop)


@runtime_checkable
class Joinable(Protocol):
    """A consumer whose parts can be put together exactly."""

    def save(self, put: Put) -> None:
        """Keep what was seen of a part, besides the rows that were written; called after `finish`.

        Args:
            put: takes a name and an array.
        """

    def join(self, part: SeenPart) -> None:
        """Take in what was seen of a part; called for all parts in order, between `start` and `finish`."""


def can_be_joined(todo: Pass) -> bool:
    """Whether everything that a pass is to leave can be put together from parts of the images."""
    return not todo.scores and all(isinstance(each, Joinable) for each in todo.consumers)


def save_part(todo: Pass, rows: PartRows) -> None:
    """Keep what the consumers of a pass saw of a part."""
    for place, consumer in enumerate(todo.consumers):
        assert isinstance(consumer, Joinable)

        def put(name: str, array: NDArray[Any], place: int = place) -> None:
            rows.put(f"{place}:{name}", array)

        consumer.save(put)
