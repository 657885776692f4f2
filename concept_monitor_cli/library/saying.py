"""What the library says while it works goes to Python's logging, where a program decides about it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

LOGGER = logging.getLogger("concept_monitor_cli")


class Logged:
    """A `Progress` that logs: what was assumed as INFO, what was left out as WARNING.

    >>> Logged().warning("1 image is left out")
    """

    def notice(self, message: str) -> None:
        """Log what was assumed."""
        LOGGER.info(message)

    def warning(self, message: str) -> None:
        """Log what may spoil the result."""
        LOGGER.warning(message)

    def detail(self, message: str) -> None:
        """Log a detail."""
        LOGGER.debug(message)

    @contextmanager
    def _task(self) -> Iterator[Callable[[int], None]]:
        yield lambda n: None

    def task(
        self, description: str, total: int | None, unit: str = "images"
    ) -> AbstractContextManager[Callable[[int], None]]:
        """A context that counts nothing."""
        return self._task()
