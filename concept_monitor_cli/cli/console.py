"""What the user sees: results on standard output, everything else on standard error.

`Console` is the `Progress` that the command line hands to the library. On a terminal it draws bars; anywhere
else, as in the log of a batch job, it writes plain lines with the time in front. rich is imported only when
something is drawn, and never parses markup: file names may hold brackets.
"""

from __future__ import annotations

import json
import os
import sys
import textwrap
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, TextIO

from concept_monitor_cli.errors import CmonError, Interrupted
from concept_monitor_cli.wording import counted

if TYPE_CHECKING:
    import rich.console
    from _typeshed import DataclassInstance
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

# In a log: a line when this much of the work is done and the last line is not just above it, or when
# nothing has been heard for long.
_SHARE = 0.1
_SHORTEST_GAP = 5.0
_LONGEST_GAP = 30.0
# A task that took less than this leaves no line behind.
_WORTH_A_LINE = 1.0

_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan", "detail": "dim"}


class OutputClosed(Exception):
    """Nobody reads standard output any more, as in `cmon layers x.pt | head -3`."""


def printable(text: str) -> str:
    r"""`text` with control characters spelled out, so that a file name cannot draw on the terminal.

    Line ends stay: whoever prints decides what they mean.
    """
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode()
        for char in text
    )


def as_json(value: object) -> str:
    """One JSON object as text. NaN and infinity, which JSON does not know, become null."""
    return json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value == value and value not in (float("inf"), float("-inf")) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


class Console:
    """Prints for one command.

    Args:
        json: the result is one JSON object on standard output, and nothing else goes there.
        quiet: no notices and no progress; warnings and errors stay.
        verbose: details, and tracebacks of errors.
        out: standard output.
        err: standard error.
    """

    def __init__(
        self,
        *,
        json: bool = False,
        quiet: bool = False,
        verbose: bool = False,
        out: TextIO | None = None,
        err: TextIO | None = None,
    ) -> None:
        self.json = json
        self.quiet = quiet
        self.verbose = verbose
        self.out = out or sys.stdout
        self.err = err or sys.stderr
        for stream in (self.out, self.err):
            # A file name may hold bytes that are no text, or characters that this terminal cannot show.
            if isinstance(stream, TextIOWrapper):
                with suppress(ValueError):
                    stream.reconfigure(errors="backslashreplace")
        self._bars: Bars | None = None
        self._open_tasks = 0
        self._said: set[str] = set()

    @property
    def draws(self) -> bool:
        """Whether standard error is a terminal that bars can be drawn on."""
        return self.err.isatty() and os.environ.get("TERM") != "dumb"

    # -- the Progress protocol -----------------------------------------------------------------

    def notice(self, message: str) -> None:
        """Something the user should know: an assumption made, a default taken. Said once."""
        if not self.quiet and message not in self._said:
            self._said.add(message)
            self._say("note", message)

    def warning(self, message: str) -> None:
        """Something that may spoil the result, or that was left out."""
        self._say("warning", message)

    def detail(self, message: str) -> None:
        """Only of interest with `--verbose`."""
        if self.verbose and not self.quiet:
            self._say("detail", message)

    @contextmanager
    def task(
        self, description: str, total: int | None, unit: str = "images"
    ) -> Iterator[Callable[[int], None]]:
        """A piece of work: a bar on a terminal, a line now and then elsewhere."""
        amount: float | None = total
        scale = 1.0
        if unit == "bytes":
            unit, scale = "MB", 1e-6
            amount = None if total is None else total * scale
        if self.quiet:
            yield lambda n: None
        elif self.draws:
            with self._bar(description, amount, unit) as advance:
                yield lambda n: advance(n * scale)
        else:
            task = _LoggedTask(self, printable(description), amount, unit)
            yield lambda n: task.advance(n * scale)
            task.end()

    # -- results -------------------------------------------------------------------------------

    def print(self, *renderables: Any) -> None:
        """Show the result to a person: text (taken literally) or a rich renderable. Silent with `--json`."""
        if self.json:
            return
        for renderable in renderables:
            if isinstance(renderable, str):
                self._write(printable(renderable) + "\n")
            else:
                with self._unless_closed():
                    self.rich().print(renderable)

    def result(self, value: dict[str, Any] | DataclassInstance) -> None:
        """The result for a program: one JSON object. Silent without `--json`; to be called once.

        A dataclass is written with its fields; with many rows that takes seconds, so it waits until here.
        """
        if self.json:
            self._write(as_json(value if isinstance(value, dict) else asdict(value)) + "\n")

    def rich(self, *, stderr: bool = False) -> rich.console.Console:
        """A rich console on standard output (or error) that takes text literally."""
        from rich.console import Console as RichConsole

        class Literal(RichConsole):
            def on_broken_pipe(self) -> None:
                # rich would end the process here, with an exit code of its own.
                raise OutputClosed

        return Literal(
            file=self.err if stderr else self.out,
            markup=False,
            highlight=False,
            emoji=False,
            soft_wrap=False,
            # In a file a table may be as wide as it needs to be; on a terminal it must fit.
            width=None if (self.err if stderr else self.out).isatty() else _width(),
        )

    def close(self) -> None:
        """Flush what was printed."""
        with self._unless_closed():
            self.out.flush()
        with suppress(OSError, ValueError):
            self.err.flush()

    # -- errors --------------------------------------------------------------------------------

    def error(self, error: CmonError) -> None:
        """An error in one to three lines; with `--json` also as an object on standard output."""
        if isinstance(error, Interrupted) and self.err.isatty():
            # The terminal shows ^C, and no line end.
            with suppress(OSError, ValueError):
                self.err.write("\n")
        self._say("error", *(line.replace("\n", "\\n") for line in error.lines()))
        if self.verbose:
            self._traceback(error)
        if self.json:
            fields = {
                "kind": type(error).__name__,
                "message": error.what,
                "where": error.where,
                "hint": error.hint,
                "exit_code": error.exit_code,
            }
            self._write(as_json({"error": fields}) + "\n")

    def internal_error(self, error: BaseException) -> None:
        """An error that nobody foresaw: a bug, or a library's complaint that we did not understand."""
        summary = " ".join(str(error).split())
        message = f"{type(error).__name__}: {summary}" if summary else type(error).__name__
        hint = "this is a bug in cmon: please report it with the output of the same command and --verbose"
        self._say("error", f"internal error: {message[:500]}", f"try: {hint}")
        if self.verbose:
            self._traceback(error)
        if self.json:
            fields = {
                "kind": "internal",
                "message": message,
                "where": None,
                "hint": hint,
                "exit_code": 1,
            }
            self._write(as_json({"error": fields}) + "\n")

    def _traceback(self, error: BaseException) -> None:
        lines = traceback.format_exception(type(error), error, error.__traceback__)
        with suppress(OSError, ValueError):
            self.err.write(printable("".join(lines)))

    # -- writing -------------------------------------------------------------------------------

    def _write(self, text: str) -> None:
        with self._unless_closed():
            self.out.write(text)
            self.out.flush()

    @contextmanager
    def _unless_closed(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError as error:
            raise OutputClosed from error

    def _say(self, kind: str, *lines: str) -> None:
        """Say something on standard error. That nobody listens there is no reason to stop working."""
        label = "" if kind == "detail" else f"{kind}: "
        first, *rest = "\n".join(lines).split("\n")
        text = [label + first] + [" " * len(label) + line for line in rest]
        text = [printable(line) for line in text]
        with suppress(OSError, ValueError):
            if not self.draws:
                # An error's lines stand alone, as other programs print them; the rest is a log.
                stamp = "" if kind == "error" else _now() + "  "
                self.err.write("".join(f"{stamp}{line}\n" for line in text))
                self.err.flush()
                return
            from rich.text import Text

            console = self._bars.console if self._bars else self.rich(stderr=True)
            text = [part for line in text for part in _at_words(line, console.width, len(label))]
            styled = Text("\n".join(text), style="dim" if kind == "detail" else "")
            styled.stylize(_STYLES[kind], 0, len(label))
            console.print(styled, soft_wrap=True)

    # -- progress ------------------------------------------------------------------------------

    @contextmanager
    def _bar(self, description: str, total: float | None, unit: str) -> Iterator[Callable[[float], None]]:
        bars = self._start_bars()
        bar: TaskID = bars.add_task(printable(description), total=total, unit=unit)
        try:
            yield lambda n: bars.update(bar, advance=n)
        finally:
            # A bar goes when its work is done: what stays on the screen is the result.
            bars.remove_task(bar)
            self._open_tasks -= 1
            if self._open_tasks == 0:
                bars.stop()
                self._bars = None

    def _start_bars(self) -> Bars:
        self._open_tasks += 1
        if self._bars is None:
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                SpinnerColumn,
                TextColumn,
                TimeRemainingColumn,
            )

            self._bars = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("{task.fields[unit]}", markup=False),
                TimeRemainingColumn(compact=True),
                console=self.rich(stderr=True),
                transient=True,
                # A checkpoint may take minutes: the time left is known from the second one on.
                speed_estimate_period=24 * 3600,
                # A library's stray print must not end in the middle of a bar, nor leave standard output.
                redirect_stdout=False,
                redirect_stderr=True,
            )
            self._bars.start()
        return self._bars


class _LoggedTask:
    """A task in a log file: few lines, each with the time, the share done and the time left."""

    def __init__(self, console: Console, description: str, total: float | None, unit: str) -> None:
        self.console = console
        self.description = description
        self.total = total
        self.unit = unit
        self.done = 0.0
        self.started = self.last = time.monotonic()
        self.last_done = 0.0

    def advance(self, n: float) -> None:
        self.done += n
        now = time.monotonic()
        gap = now - self.last
        further = self.total is not None and self.done - self.last_done >= _SHARE * self.total
        finished = self.total is not None and self.done >= self.total
        if not finished and (gap >= _LONGEST_GAP or (further and gap >= _SHORTEST_GAP)):
            self.last, self.last_done = now, self.done
            self._line(self._so_far(now - self.started))

    def end(self) -> None:
        seconds = time.monotonic() - self.started
        if seconds >= _WORTH_A_LINE:
            if not self.done:
                # One piece of work whose steps cannot be counted.
                self._line(f"took {_duration(seconds)}")
                return
            speed = f", {_speed(self.done / seconds)} {self.unit}/s"
            self._line(f"{_amount(self.done, self.unit)} in {_duration(seconds)}{speed}")

    def _so_far(self, seconds: float) -> str:
        speed = self.done / seconds if seconds > 0 else 0.0
        if self.total is None:
            return f"{_amount(self.done, self.unit)}, {_speed(speed)} {self.unit}/s"
        share = f"{self.done / self.total:.0%}".replace("%", " %") if self.total else ""
        left = f", {_duration((self.total - self.done) / speed)} left" if speed else ""
        return f"{self.done:.0f}/{self.total:.0f} {self.unit} ({share}), {_speed(speed)} {self.unit}/s{left}"

    def _line(self, text: str) -> None:
        with suppress(OSError, ValueError):
            self.console.err.write(f"{_now()}  {self.description}: {text}\n")
            self.console.err.flush()


def _at_words(line: str, width: int, indent: int) -> list[str]:
    """A line broken between words; a word that is longer than a line, such as a path, stays whole."""
    lines = textwrap.wrap(
        line, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
    )
    return lines or [line]


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


def _amount(done: float, unit: str) -> str:
    return f"{done:.0f} {unit}" if done != 1 or unit == "MB" else counted(1, unit)


def _speed(per_second: float) -> str:
    return f"{per_second:.0f}" if per_second >= 10 else f"{per_second:.2g}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def _width() -> int:
    """Columns for output that is not on a terminal: `COLUMNS`, else enough for a table."""
    columns = os.environ.get("COLUMNS", "")
    return int(columns) if columns.isdecimal() and int(columns) > 0 else 120
