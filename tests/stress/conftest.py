"""A small study whose undisturbed tables are known, and processes to disturb it with."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from stories.conftest import Bench, make_bench

from concept_monitor_cli.store import Store

# Processes are forked from one that has the libraries loaded: a run takes a second instead of six, so that
# most disturbances come while there is work.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["concept_monitor_cli.stories.dissect", "concept_monitor_cli.cli.dissect", "pandas", "pyarrow.parquet"]
)
# Taken over by the process that forks. A fork of a process with threads would not be safe.
os.environ["OMP_NUM_THREADS"] = "1"


@dataclass(frozen=True)
class Disturbance:
    """A signal that the process sends to itself.

    Attributes:
        signal: which.
        event: at this audit event of the interpreter since the start of the command (files opened, renamed,
            removed, modules imported, ...); `None`: not by events.
        call: or when this function, as `file.py:name`, is called ...
        nth: ... for this time.
        after: or after so many seconds.
    """

    signal: int
    event: int | None = None
    call: str | None = None
    nth: int = 1
    after: float | None = None

    def arm(self) -> None:
        """Start to count."""
        if self.event is not None:
            seen = 0

            def audit(name: str, args: object) -> None:
                nonlocal seen
                seen += 1
                if seen == self.event:
                    os.kill(os.getpid(), self.signal)

            sys.addaudithook(audit)
        if self.call is not None:
            file, name = self.call.split(":")
            calls = 0

            def profile(frame: FrameType, event: str, arg: object) -> None:
                nonlocal calls
                code = frame.f_code
                if event == "call" and code.co_name == name and code.co_filename.endswith(file):
                    calls += 1
                    if calls == self.nth:
                        sys.setprofile(None)
                        os.kill(os.getpid(), self.signal)

            sys.setprofile(profile)
        if self.after is not None:
            signal.signal(signal.SIGALRM, lambda number, frame: os.kill(os.getpid(), self.signal))
            signal.setitimer(signal.ITIMER_REAL, self.after)


def cmon_process(
    arguments: list[str], log: Path, disturbance: Disturbance | None, count: Path | None
) -> None:
    """What a process does: the command, with what it prints in `log.out` and `log.err`."""
    for name in [name for name in os.environ if name.startswith(("CMON_", "SLURM_"))]:
        del os.environ[name]
    for stream, suffix in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(log.with_suffix(suffix), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    sys.stdout, sys.stderr = (os.fdopen(os.dup(stream), "w") for stream in (1, 2))
    from concept_monitor_cli.cli.app import run

    events = 0
    if count is not None:

        def audit(name: str, args: object) -> None:
            nonlocal events
            events += 1

        sys.addaudithook(audit)
    if disturbance is not None:
        disturbance.arm()
    code = run(arguments)
    if count is not None:
        count.write_text(str(events))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@dataclass
class Running:
    """A process of a command."""

    process: Any
    log: Path

    def wait(self, seconds: float = 120) -> int:
        """Its exit code; negative: the signal that ended it. Fails where it hangs."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            pytest.fail(f"it hangs: {self.err}")
        return int(self.process.exitcode)

    @property
    def err(self) -> str:
        return self.log.with_suffix(".err").read_text()

    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.log.with_suffix(".out").read_text())
        return found


@dataclass
class Stress:
    """A study, the tables of an undisturbed run, and a place for runs."""

    bench: Bench
    reference: dict[str, bytes]
    events: int
    seconds: float
    root: Path
    started: int = field(default=0)

    def arguments(self, *more: object) -> list[str]:
        """A dissect into this test's own run and cache."""
        own = ("--out", self.out, "--cache-dir", self.cache, "--json")
        return [str(item) for item in self.bench.dissect(*own, *more)]

    @property
    def out(self) -> Path:
        return self.root / "run"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    def start(
        self, *more: object, disturbance: Disturbance | None = None, count: Path | None = None
    ) -> Running:
        self.started += 1
        log = self.root / f"log{self.started}"
        arguments = (self.arguments(*more), log, disturbance, count)
        process = PROCESSES.Process(target=cmon_process, args=arguments)
        process.start()
        return Running(process, log)

    def tables(self, out: Path | None = None) -> dict[str, bytes]:
        folder = (out or self.out) / "tables"
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.suffix in (".csv", ".parquet")
        }

    def clear(self) -> None:
        for folder in (self.out, self.cache):
            shutil.rmtree(folder, ignore_errors=True)

    def check_all_is_well(self) -> None:
        """Tables as undisturbed, nothing else in the folders, the store whole."""
        assert self.tables() == self.reference
        strangers = [
            path
            for folder in (self.out, self.cache)
            for path in folder.rglob("*")
            if path.is_file() and (path.name.startswith(".") or path.suffix in (".tmp", ".lock"))
        ]
        assert strangers == []
        report = Store(self.cache).verify(repair=False)
        assert report.checked > 0
        assert not report.damaged


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Stress:
    """The study, run once without any disturbance."""
    root = tmp_path_factory.mktemp("undisturbed")
    stress = Stress(make_bench(tmp_path_factory.mktemp("study")), {}, 0, 0.0, root)
    count = root / "events"
    running = stress.start(count=count)
    before = time.monotonic()
    assert running.wait() == 0, running.err
    stress.seconds = time.monotonic() - before
    stress.events = int(count.read_text())
    stress.reference = stress.tables()
    concepts = [name for name in stress.reference if name.startswith("epoch_")]
    assert len(concepts) == 3
    # Of all epochs together: the stacked table, and what is said of the run once it is whole.
    assert set(stress.reference) - set(concepts) == {
        "concepts.parquet",
        *(f"{name}.csv" for name in ("statistics", "units", "changes", "self_similarity", "findings")),
    }
    return stress


@pytest.fixture
def stress(undisturbed: Stress, tmp_path: Path) -> Stress:
    return Stress(undisturbed.bench, undisturbed.reference, undisturbed.events, undisturbed.seconds, tmp_path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """Makes file systems in memory of a given size; skips where that is not allowed."""
    import subprocess

    mounted: list[Path] = []

    def make(name: str, kilobytes: int) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        if os.geteuid() != 0:
            pytest.skip("only root can mount a small disk")
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        with contextlib.suppress(OSError):
            subprocess.run(["umount", "-l", str(folder)], check=True)


Make = Callable[[str, int], Path]
