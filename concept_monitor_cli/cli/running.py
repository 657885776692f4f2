"""Around a running command: signals end it tidily, libraries do not disturb it, errors get words."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any

from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.errors import CmonError, Interrupted


def warn_of_mistyped_variables(console: Console, known: Sequence[str]) -> None:
    """`CMON_LAYERS=layer4` does nothing; say so, where it looks like a slip."""
    for found in sorted(os.environ):
        if not found.startswith("CMON_") or found in known:
            continue
        plural = next((name for name in (f"{found}S", found.removesuffix("S")) if name in known), None)
        # Variables of other commands are no slips, and a shell may hold some for its own use.
        swapped = next((name for name in known if sorted(name) == sorted(found)), None)
        if slip := plural or swapped:
            console.warning(f"{found} is not an option: did you mean {slip}?")


@contextmanager
def library_noise(console: Console) -> Iterator[None]:
    """Keep what libraries print away from the result, and their warnings for `--verbose`."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            with suppress(Exception):
                console.detail(f"{record.name}: {record.getMessage()}")

    handler = Handler(logging.WARNING)
    logging.getLogger().addHandler(handler)
    try:
        with warnings.catch_warnings(), redirect_stdout(sys.stderr):
            warnings.showwarning = lambda message, category, filename, lineno, *rest: console.detail(
                f"{category.__name__}: {message} ({filename}:{lineno})"
            )
            yield
    finally:
        logging.getLogger().removeHandler(handler)


class _Stopped(KeyboardInterrupt):
    """A signal asked us to end. Not an `Exception`, so that no library swallows it."""


@contextmanager
def stopped_by_signals(resumable: bool) -> Iterator[None]:
    """Let SIGTERM and SIGUSR1 (SLURM's early warning) end the work as Ctrl-C does, tidily.

    Raises:
        Interrupted: that happened.
    """

    def stop(number: int, frame: object) -> None:
        # Once is enough: another one must not hit us while we tidy up. Ctrl-C still does.
        for caught in before:
            signal.signal(caught, signal.SIG_IGN)
        received.append(_Stopped(signal.Signals(number).name))
        raise received[0]

    received: list[_Stopped] = []
    before: dict[int, Any] = {}
    for name in ("SIGTERM", "SIGUSR1"):
        number = getattr(signal, name, None)
        # Signals can only be caught in the main thread.
        if number is not None:
            with suppress(ValueError):
                before[number] = signal.signal(number, stop)
    try:
        yield
    except (KeyboardInterrupt, Exception) as error:
        if isinstance(error, KeyboardInterrupt):
            stopped = error
        elif received:
            # It came while C called back into Python, as HDF5 does: there it turns into a SystemError.
            stopped = received[0]
        else:
            raise
        hint = "run the same command again: it continues where this one ended" if resumable else None
        raise Interrupted(stopped_by(stopped), hint=hint) from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stopped_by(error: KeyboardInterrupt) -> str:
    """What ended the work, in words."""
    return f"stopped by {error if isinstance(error, _Stopped) else 'SIGINT'}"


_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


def foreseen(error: Exception) -> CmonError | None:
    """What the system says no to, in the words of an error of ours; None for bugs."""
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        if error.errno in _FULL:
            return CmonError(
                "there is no room left on the disk (or your quota is used up)",
                where=str(error.filename),
                hint="make room (`cmon cache prune`), or use another folder (--cache-dir, --out); then rerun",
            )
        return CmonError(
            f"{error.strerror or type(error).__name__}",
            where=str(error.filename),
            hint="check the path; other folders: --out for the run, --cache-dir for the cache",
        )
    if isinstance(error, OSError) and error.errno in _FULL:
        return CmonError(
            "there is no room left on the disk (or your quota is used up)",
            hint="make room (`cmon cache prune`), or use another folder (--cache-dir, --out); then rerun",
        )
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        device = "the GPU's memory" if type(error).__name__ == "OutOfMemoryError" else "memory"
        return CmonError(f"{device} is used up", hint="try a smaller --batch-size, or fewer layers at a time")
    return None
