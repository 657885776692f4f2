"""Results that are quicker made again than kept on the disk: the last ones stay in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from copy import copy
from threading import Lock
from typing import Any, TypeVar

T = TypeVar("T")

#: Bytes that may stay. The evidence of 500 random sets of images for 20,000 concepts is 40 MB.
MOST_BYTES = 256 << 20


class Recent:
    """The results asked for last, as many as fit.

    Args:
        most_bytes: that they may take together; the last one stays whatever its size.

    Example:
        >>> recent = Recent(most_bytes=10)
        >>> recent.get_or_make("a", lambda: "made", nbytes=6)
        'made'
        >>> recent.get_or_make("a", lambda: "made again", nbytes=6)
        'made'
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most = most_bytes
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = Lock()
        self._names: tuple[Hashable, ...] = ()

    def part(self, name: Hashable) -> Recent:
        """A view with names of its own, of some of the images say, under the same limit of memory."""
        other = copy(self)
        other._names = (*self._names, name)
        return other

    def get_or_make(self, key: Hashable, make: Callable[[], T], *, nbytes: int, displaces: bool = True) -> T:
        """What was made under this key, or what `make` gives now.

        Args:
            key: what the result depends on.
            make: makes it.
            nbytes: its size.
            displaces: whether others may go for it; else it stays only where there is room.
        """
        named = (*self._names, key)
        with self._lock:
            if named not in self._kept:
                if not displaces and self._taken + nbytes > self._most:
                    return make()
                while self._kept and self._taken + nbytes > self._most:
                    self._kept.popitem(last=False)
                self._kept[named] = make(), nbytes
            self._kept.move_to_end(named)
            found: T = self._kept[named][0]
            return found

    @property
    def _taken(self) -> int:
        return sum(size for _, size in self._kept.values())
