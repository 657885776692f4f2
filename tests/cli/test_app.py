"""Exit codes, errors, help, and what is imported when."""

from __future__ import annotations

import gc
import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from concept_monitor_cli import __version__
from concept_monitor_cli.cli import main
from concept_monitor_cli.cli.app import COMMANDS, cmon_app, cmon_command, load_command, root, run
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.errors import CmonError, InputError
from concept_monitor_cli.options import Options

CMON = [sys.executable, "-m", "concept_monitor_cli"]
HEAVY = (
    "torch",
    "torchvision",
    "numpy",
    "pandas",
    "timm",
    "open_clip",
    "matplotlib",
    "h5py",
    "umap",
    "pyarrow",
)


def program(work: Callable[[Console], Any], *, resumable: bool = False) -> Any:
    """A `cmon` with one command, `do`, that does what it is told."""
    app = cmon_app()

    @app.callback()
    def cmon() -> None:
        """Makes it a group, although there is one command only."""

    @cmon_command(app, "do", examples=[("cmon do", "do it")], resumable=resumable)
    def do(console: Console, options: Options) -> Any:
        """Do it."""
        return work(console)

    return get_command(app)


def fail(error: BaseException) -> Callable[[Console], Any]:
    def work(console: Console) -> Any:
        raise error

    return work


# -- exit codes and errors ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("work", "code"),
    [
        (lambda console: None, 0),
        (lambda console: 0, 0),
        (lambda console: 3, 3),
        (fail(CmonError("x")), 1),
        (fail(InputError("x")), 2),
        (fail(RuntimeError("x")), 1),
        (fail(KeyboardInterrupt()), 75),
        (fail(MemoryError()), 1),
        (fail(OSError(28, "No space left on device")), 1),
        (fail(PermissionError(13, "Permission denied", "/there")), 1),
        (fail(BrokenPipeError(32, "Broken pipe")), 1),
    ],
)
def test_exit_codes(work: Callable[[Console], Any], code: int) -> None:
    assert run(["do"], program(work)) == code


def test_a_known_error_is_not_called_a_bug(capsys: pytest.CaptureFixture[str]) -> None:
    run(["do"], program(fail(InputError("no such layer", where="x.pt", hint="look"))))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == ["error: no such layer", "       where: x.pt", "       try: look"]


def test_an_unknown_error_is_one_line_and_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    run(["do"], program(fail(RuntimeError("a\nb"))))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "error: internal error: RuntimeError: a b"
    assert len(lines) == 2
    run(["do", "--verbose"], program(fail(RuntimeError("a"))))
    assert "Traceback" in capsys.readouterr().err


def test_what_the_system_refuses_is_said_plainly(capsys: pytest.CaptureFixture[str]) -> None:
    run(["do"], program(fail(OSError(28, "No space left on device", "/full/file"))))
    error = capsys.readouterr().err
    assert "no room left" in error
    assert "/full/file" in error
    run(["do"], program(fail(PermissionError(13, "Permission denied", "/there"))))
    assert capsys.readouterr().err.splitlines()[:2] == ["error: Permission denied", "       where: /there"]


def test_a_stopped_run_says_whether_it_can_be_continued(capsys: pytest.CaptureFixture[str]) -> None:
    run(["do"], program(fail(KeyboardInterrupt()), resumable=True))
    assert "continues" in capsys.readouterr().err
    run(["do"], program(fail(KeyboardInterrupt())))
    assert "continues" not in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="this system has no SIGUSR1")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_signals(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        # A shell that starts the tests in the background has SIGINT ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.getsignal(getattr(signal, name))

    def work(console: Console) -> None:
        os.kill(os.getpid(), getattr(signal, name))
        time.sleep(5)

    assert run(["do"], program(work)) == 75
    assert f"stopped by {name}" in capsys.readouterr().err
    assert signal.getsignal(getattr(signal, name)) == before


# -- JSON --------------------------------------------------------------------------------------


def test_a_library_that_prints_does_not_spoil_the_json(capsys: pytest.CaptureFixture[str]) -> None:
    def work(console: Console) -> int:
        print("chatter of a library")
        console.result({"a": 1})
        return 3

    assert run(["do", "--json"], program(work)) == 3
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"a": 1}
    assert "chatter" in captured.err


@pytest.mark.parametrize(
    ("error", "kind", "code"), [(InputError("x"), "InputError", 2), (ValueError("x"), "internal", 1)]
)
def test_errors_as_json(error: Exception, kind: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["do", "--json"], program(fail(error))) == code
    answer = json.loads(capsys.readouterr().out)["error"]
    assert (answer["kind"], answer["exit_code"]) == (kind, code)


def test_errors_in_the_arguments_as_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["dissect", "--bogus", "--json"]) == 2
    assert "--bogus" in json.loads(capsys.readouterr().out)["error"]["message"]
    monkeypatch.setenv("CMON_JSON", "1")
    assert main(["disect"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["hint"] == "did you mean dissect?"


# -- usage -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["disect"], ["no command 'disect'", "dissect?"]),
        (["cache", "prun"], ["no command 'prun'", "prune?"]),
        (["dissect", "x", "--layre", "a"], ["no option --layre", "--layer?"]),
        (["--quiet", "dissect"], ["come after the command"]),
        (["dissect"], ["CKPTS is missing", "for example"]),
        (["layers", "x", "--match", ""], ["the pattern is empty", "--all"]),
        (["dissect", "x", "--layer"], ["--layer"]),
        (["dissect", "x", "--batch-size", "0"], ["where: --batch-size"]),
        (["dissect", "x", "--batch-size", "many"], ["where: --batch-size", "many"]),
        (["dissect", "x", "--similarity", "wpni"], ["wpmi?"]),
        (["dissect", "x", "--detector", "clip-disect"], ["clip-dissect?", "network-dissection"]),
        (["dissect", "x", "--device", "gpu"], ["cuda"]),
        (["dissect", "x", "--mean", "1,2"], ["three numbers"]),
        (["dissect", "x", "--shard", "9/8"], ["1/8 to 8/8"]),
        (["dissect", "x", "--fdr", "0"], ["where: --fdr"]),
        (["dissect", "x", "--out", ""], ["where: --out"]),
        (["cache", "prune", "--max-size", "big"], ["500MB"]),
        (["cache", "info", "surplus"], ["surplus"]),
    ],
)
def test_usage_errors(args: list[str], words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(args) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert 1 <= len(captured.err.splitlines()) <= 3
    for word in words:
        assert word in captured.err


def test_a_bad_variable_is_blamed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CMON_BATCH_SIZE", "many")
    assert main(["dissect", "x", "--layer", "a"]) == 2
    assert "where: CMON_BATCH_SIZE" in capsys.readouterr().err


def test_a_mistyped_variable_is_pointed_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CMON_QUITE", "1")
    monkeypatch.setenv("CMON_LAYERS", "x")
    run(["do"], program(lambda console: None))
    error = capsys.readouterr().err
    assert "did you mean CMON_QUIET?" in error
    assert "CMON_LAYERS" not in error, "this command has no layers"


def test_the_settings_file_is_announced(capsys: pytest.CaptureFixture[str]) -> None:
    Path("cmon.toml").write_text("cache-dir = 'c'\nbeam = 3\n", encoding="utf-8")
    assert main(["cache", "info"]) == 0
    captured = capsys.readouterr()
    assert "settings from cmon.toml: cache-dir" in captured.err
    assert captured.out.startswith("c\n")


# -- help --------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["", "--help", "dissect --help", "embed -h", "cache prune --help"])
def test_help_fits_80_columns(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    for shown in captured.out.splitlines():
        assert len(shown) <= 80, shown
    assert "Examples" in captured.out


@pytest.mark.parametrize("name", root.list_commands(typer.Context(root)))
def test_examples_are_shown_in_one_line_to_be_copied(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words, leaf in leaves(name):
        assert main([*words, "--help"]) == 0
        shown = [line.strip() for line in capsys.readouterr().out.splitlines()]
        examples = leaf.callback.examples
        assert examples
        for command, meaning in examples:
            assert command in shown
            assert f"# {meaning}" in shown


def leaves(name: str) -> list[tuple[list[str], Any]]:
    """The words of a command and the command; of a group, all of its commands."""
    command: Any = load_command(name)
    if not hasattr(command, "commands"):
        return [([name], command)]
    return [([name, child], leaf) for child, leaf in command.commands.items()]


def test_help_lists_panels_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    text = capsys.readouterr().out
    for title in ("The main job", "What is there"):
        assert title in text
    assert COMMANDS["What is there"]["doctor"] in text
    main(["dissect", "--help"])
    text = capsys.readouterr().out
    for words in (
        "--layer         -l      NAME",
        "--fdr",
        "[default: soft-wpmi]",
        "CMON_TOP_CONCEPTS",
        "Machine",
    ):
        assert words in text


def test_help_does_not_care_about_a_broken_settings_file(capsys: pytest.CaptureFixture[str]) -> None:
    Path("cmon.toml").write_text("broken", encoding="utf-8")
    assert main(["dissect", "--help"]) == 0
    assert main(["dissect", "x"]) == 2


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"cmon {__version__}\n"


# -- as a process ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args", [["--help"], ["dissect", "--help"], ["embed", "--help"], ["dissect", "--layre"]]
)
def test_nothing_heavy_is_imported_for_help_and_usage_errors(args: list[str]) -> None:
    code = (
        "import sys; from concept_monitor_cli.cli import main; main(sys.argv[1:]); "
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"


def test_help_is_quick() -> None:
    # Processor time, since by the clock it depends on who else is busy here, and beyond Python, typer and
    # rich: .33 s where those take .16. One import of torch would be 2 s.
    def least(command: list[str]) -> float:
        times = []
        for _ in range(5):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(command, capture_output=True, check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return min(times)

    bare = least([sys.executable, "-c", "import typer.rich_utils"])
    assert least([*CMON, "dissect", "--help"]) - bare < 0.6


def test_the_collector_of_garbage_is_tuned_in_a_process_of_ours_alone() -> None:
    """It goes through what is imported less often, and not at all when the process ends."""
    code = (
        "import atexit, gc, sys\n"
        "atexit.register(lambda: print(gc.get_freeze_count() > 0))\n"
        "from concept_monitor_cli.cli import main\n"
        "given = None if sys.argv.pop(1) == 'own' else ['--version']\n"
        "main(given)\n"
        "print(gc.get_threshold()[0])"
    )
    for kind, said in (("own", ["50000", "True"]), ("another's", [str(gc.get_threshold()[0]), "False"])):
        command = [sys.executable, "-c", code, kind, "--version"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[1:] == said


def test_a_reader_that_has_seen_enough() -> None:
    process = subprocess.Popen([*CMON, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    _, error = process.communicate(timeout=30)
    assert error == b""
    assert process.returncode == 0


class Pipe(io.StringIO):
    """Standard output whose reader leaves after some writes."""

    def __init__(self, writes: int) -> None:
        super().__init__()
        self.writes = writes
        self.descriptor = os.open(os.devnull, os.O_WRONLY)

    def fileno(self) -> int:
        return self.descriptor

    def write(self, text: str) -> int:
        self.writes -= 1
        if self.writes < 0:
            raise BrokenPipeError(32, "Broken pipe")
        return super().write(text)


@pytest.mark.parametrize("writes", [0, 1, 3, 5, 8, 10, 11, 12, 13, 14, 15])
@pytest.mark.parametrize("line", ["--help", "--version", "cache --help", "embed --help"])
def test_a_reader_that_leaves_in_the_middle(
    line: str, writes: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", Pipe(writes))
    assert main(line.split()) == 0
    assert capsys.readouterr().err == ""


def test_completion_for_the_shell() -> None:
    environment = {
        **os.environ,
        "_CMON_COMPLETE": "complete_bash",
        "COMP_WORDS": "cmon dis",
        "COMP_CWORD": "1",
    }
    done = subprocess.run(CMON, capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.split() == ["dissect"]
    environment |= {"COMP_WORDS": "cmon dissect --over", "COMP_CWORD": "2"}
    done = subprocess.run(CMON, capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.split() == ["--overwrite"]
