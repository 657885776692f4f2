"""Results on standard output, everything else on standard error, and nothing taken for markup."""

from __future__ import annotations

import io
import json
import re

import pytest

from concept_monitor_cli.cli import console as module
from concept_monitor_cli.cli.console import Console, OutputClosed, printable
from concept_monitor_cli.errors import InputError

STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  "
NASTY = "[bold]a[/bold] [link=x] :smile: \x1b[31mred\x07\u202e.pt"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that only moves when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


def make(**settings: bool) -> tuple[Console, io.StringIO, io.StringIO]:
    out, err = io.StringIO(), io.StringIO()
    return Console(out=out, err=err, **settings), out, err


def on_terminal(monkeypatch: pytest.MonkeyPatch, **settings: bool) -> tuple[Console, Terminal, Terminal]:
    monkeypatch.setenv("TERM", "xterm-256color")
    out, err = Terminal(), Terminal()
    return Console(out=out, err=err, **settings), out, err


def without_colours(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_messages_in_a_log_have_the_time_and_go_to_standard_error() -> None:
    console, out, err = make(verbose=True)
    console.notice("taken")
    console.notice("taken")
    console.warning("left out")
    console.warning("left out")
    console.detail("thing")
    assert out.getvalue() == ""
    lines = err.getvalue().splitlines()
    assert len(lines) == 4, "a notice is said once"
    for line, text in zip(
        lines, ["note: taken", "warning: left out", "warning: left out", "thing"], strict=True
    ):
        assert re.fullmatch(STAMP + re.escape(text), line)


def test_quiet_keeps_warnings_and_errors_only() -> None:
    console, out, err = make(quiet=True)
    console.notice("n")
    console.detail("d")
    with console.task("t", 1) as advance:
        advance(1)
    assert err.getvalue() == ""
    console.warning("w")
    console.error(InputError("e"))
    assert "warning: w" in err.getvalue()
    assert "error: e" in err.getvalue()
    console.print("result")
    assert out.getvalue() == "result\n"


def test_errors_are_one_to_three_lines() -> None:
    console, _, err = make()
    console.error(InputError("no such layer", where="a\nb.pt", hint="look"))
    assert err.getvalue().splitlines() == [
        "error: no such layer",
        "       where: a\\nb.pt",
        "       try: look",
    ]


def test_file_names_are_printed_literally(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = "[bold]a[/bold] [link=x] :smile: \\x1b[31mred\\x07\\u202e.pt"
    for console, out, err in (make(), on_terminal(monkeypatch)):
        console.warning(NASTY)
        console.print(NASTY)
        with console.task(NASTY, 3) as advance:
            advance(1)
            console.notice(NASTY)
        console.error(InputError(NASTY, where=NASTY))
        assert shown in without_colours(err.getvalue())
        assert "\x1b[31mred" not in err.getvalue()
        assert "\u202e" not in err.getvalue()
        assert shown in out.getvalue()


def test_names_that_are_no_text_can_be_printed() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    console = Console(out=stream, err=stream)
    console.print("caf\u00e9 \udce9.pt")
    assert stream.buffer.getvalue() == b"caf\\xe9 \\udce9.pt\n"  # type: ignore[attr-defined]


def test_json_leaves_nothing_but_one_object_on_standard_output() -> None:
    console, out, _ = make(json=True)
    console.notice("n")
    console.print("for people")
    with console.task("t", 2) as advance:
        advance(2)
    console.result({"a": float("nan"), "b": (1, float("inf")), "c": "\u00e4"})
    assert json.loads(out.getvalue()) == {"a": None, "b": [1, None], "c": "\u00e4"}


def test_errors_in_json() -> None:
    console, out, _ = make(json=True)
    console.error(InputError("no", where="x", hint="y"))
    fields = {"kind": "InputError", "message": "no", "where": "x", "hint": "y", "exit_code": 2}
    assert json.loads(out.getvalue()) == {"error": fields}


def test_traceback_only_when_verbose() -> None:
    for verbose in (False, True):
        console, _, err = make(verbose=verbose)
        try:
            {}["key"]
        except KeyError as error:
            console.internal_error(error)
        assert ("Traceback" in err.getvalue()) is verbose
        assert "internal error: KeyError: 'key'" in err.getvalue()
        assert "--verbose" in err.getvalue()


def test_a_log_hears_of_a_task_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(module.time, "monotonic", clock.monotonic)
    console, _, err = make()
    with console.task("reading", 1000) as advance:
        for _ in range(1000):
            clock.now += 0.5
            advance(1)
    lines = err.getvalue().splitlines()
    # 500 s: a line per 30 s; 10 % come only every 50 s. Then one at the end.
    assert 14 <= len(lines) <= 18
    assert re.fullmatch(STAMP + r"reading: 60/1000 images \(6 %\), 2 images/s, 7 min 50 s left", lines[0])
    assert re.fullmatch(STAMP + r"reading: 1000 images in 8 min 20 s, 2 images/s", lines[-1])


def test_fast_tasks_say_ten_percents_but_not_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(module.time, "monotonic", clock.monotonic)
    console, _, err = make()
    with console.task("quick", 100) as advance:
        for _ in range(100):
            advance(1)
    assert err.getvalue() == "", "less than a second leaves no line"
    with console.task("brisk", 100) as advance:
        for _ in range(100):
            clock.now += 0.1
            advance(1)
    # 10 s: a line after 5 s, one at the end.
    assert len(err.getvalue().splitlines()) == 2


def test_a_task_of_unknown_length(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(module.time, "monotonic", clock.monotonic)
    console, _, err = make()
    with console.task("watching", None, "files") as advance:
        clock.now += 31
        advance(2)
    assert "watching: 2 files, 0.065 files/s" in err.getvalue()


def test_bytes_are_counted_in_megabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(module.time, "monotonic", clock.monotonic)
    console, _, err = make()
    with console.task("verifying", 90_000_000, "bytes") as advance:
        for _ in range(2):
            clock.now += 30
            advance(45_000_000)
    assert "verifying: 45/90 MB (50 %), 1.5 MB/s, 30 s left" in err.getvalue()
    assert "verifying: 90 MB in 1 min 00 s, 1.5 MB/s" in err.getvalue()


def test_bars_nest_and_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    console, out, err = on_terminal(monkeypatch)
    with console.task("outer", 2, "checkpoints") as outer:
        for _ in range(2):
            with console.task("inner", 5) as inner:
                inner(5)
            outer(1)
        assert console._bars is not None
    assert console._bars is None
    assert "outer" in err.getvalue()
    assert "inner" in err.getvalue()
    assert out.getvalue() == ""


def test_bars_end_when_the_work_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    console, _, _ = on_terminal(monkeypatch)
    with pytest.raises(ValueError, match="x"), console.task("outer", 2), console.task("inner", 5):
        raise ValueError("x")
    assert console._bars is None
    assert console._open_tasks == 0


def test_no_colour_where_it_is_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    console, _, err = on_terminal(monkeypatch)
    console.warning("w")
    assert "\x1b[" in err.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    console, _, err = on_terminal(monkeypatch)
    console.warning("w")
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", err.getvalue()), "no colour; bold may stay"


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError

    def flush(self) -> None:
        raise BrokenPipeError


def test_a_closed_log_does_not_stop_the_work_but_a_closed_result_ends_it() -> None:
    console = Console(out=Broken(), err=Broken())
    console.warning("w")
    with console.task("t", 1) as advance:
        advance(1)
    with pytest.raises(OutputClosed):
        console.print("x")
    with pytest.raises(OutputClosed):
        console.result({}) if console.json else console.close()


def test_printable() -> None:
    assert printable("a\tb\r\n\u00e9 \u4e2d\x00") == "a\\tb\\r\n\u00e9 \u4e2d\\x00"
