"""How the library tells the outside world what it is doing, without printing anything itself.

Library functions take a `Progress`; the command line passes one that draws bars on a terminal or writes
plain timestamped lines into a log. `SILENT` is the default everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Progress(Protocol):
    """Receives what the library has to say while it works."""

    def notice(self, message: str) -> None:
        """Something the user should know: an assumption made, a default taken."""

    def warning(self, message: str) -> None:
        """Something that may spoil the result, or that was left out."""

    def detail(self, message: str) -> None:
        """Only of interest with `--verbose`."""

    def task(
        self, description: str, total: int | None, unit: str = "images"
    ) -> AbstractContextManager[Callable[[int], None]]:
        """A piece of work of known length, as a context that yields `advance(n)`."""


class Silent:
    """A `Progress` that says nothing."""

    def notice(self, message: str) -> None:
        """Drop the message."""

    def warning(self, message: str) -> None:
        """Drop the message."""

    def detail(self, message: str) -> None:
        """Drop the message."""

    @contextmanager
    def _task(self) -> Iterator[Callable[[int], None]]:
        yield lambda n: None

    def task(
        self, description: str, total: int | None, unit: str = "images"
    ) -> AbstractContextManager[Callable[[int], None]]:
        """A context that counts nothing."""
        return self._task()


SILENT: Progress = Silent()
