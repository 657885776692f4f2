"""How long a device works."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch


class Clock:
    """Adds up the time of stretches of work on a device, without waiting for it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Runs for the length of a `with` block."""
        if self._device.type == "cuda":
            first, last = (_event() for _ in range(2))
            first.record()
            try:
                yield
            finally:
                last.record()
                self._events.append((first, last))
            return
        begin = time.perf_counter()
        try:
            yield
        finally:
            if self._device.type == "mps":
                torch.mps.synchronize()
            self._seconds += time.perf_counter() - begin

    def seconds(self) -> float:
        """The sum; waits for the device."""
        if self._events:
            torch.cuda.synchronize(self._device)
        return self._seconds + sum(float(first.elapsed_time(last)) for first, last in self._events) / 1e3


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
