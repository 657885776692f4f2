"""Clocks, peaks and rows: what all benchmarks share."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        benchmark: the group.
        case: what was done.
        value: the number that counts.
        unit: of it.
        asked: what is asked of the tool; None where nothing is.
        at_least: `asked` is a lower bound; else an upper one.
        limit: the value that could not be passed, whatever the code.
        limit_is: why not, and how it was found.
        details: further numbers, for the JSON file.
        remark: for the table.
    """

    benchmark: str
    case: str
    value: float
    unit: str
    asked: float | None = None
    at_least: bool = True
    limit: float | None = None
    limit_is: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    remark: str = ""

    @property
    def met(self) -> bool | None:
        """Whether it is as asked; None where nothing is asked."""
        if self.asked is None:
            return None
        return self.value >= self.asked if self.at_least else self.value <= self.asked

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "met": self.met}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Row:
        """What `to_json` made."""
        return cls(**{name: value for name, value in values.items() if name != "met"})


Report = Callable[[Row], None]


# -- clocks ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seconds:
    """Of one call: on the wall, and of the processor over all threads."""

    wall: float
    cpu: float


def timed(call: Callable[[], object], device: torch.device | None = None) -> Seconds:
    """How long a call takes, with what it left to do on an accelerator."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def alternate(
    calls: Mapping[str, Callable[[], object]], rounds: int, device: torch.device | None = None
) -> dict[str, Seconds]:
    """Median times of several calls, made in turn so that a busy machine slows all of them alike."""
    times: dict[str, list[Seconds]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(timed(call, device))
    return {
        name: Seconds(statistics.median(t.wall for t in each), statistics.median(t.cpu for t in each))
        for name, each in times.items()
    }


# -- memory ----------------------------------------------------------------------------------------------


def peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """Peak memory above what is held before the call: of this process (Linux), or of the accelerator."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - held
    ctypes.CDLL(None).malloc_trim(0)  # what earlier calls freed is not to be taken for memory at hand
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    held = _status("VmRSS")
    call()
    return max(0, _status("VmHWM") - held)


def _status(entry: str, file: Path = Path("/proc/self/status")) -> int:
    lines = file.read_text().splitlines()
    return int(next(line for line in lines if line.startswith(entry)).split()[1]) * 1024


@dataclass(frozen=True)
class Usage:
    """What a process of its own took.

    Attributes:
        wall: seconds on the clock.
        cpu: seconds of the processor, of its child processes too.
        peak_bytes: the largest memory of the process itself.
        output: what it printed.
        tree_bytes: the largest memory of the process and all below it, as far as it was seen.
    """

    wall: float
    cpu: float
    peak_bytes: int
    output: str
    tree_bytes: int


class _TreeMemory:
    """Looks five times a second at the memory of a process and all below it (Linux; else finds nothing).

    Attributes:
        most: the largest sum seen, in bytes. What processes share is counted once (PSS).
    """

    def __init__(self, root: int) -> None:
        self.root, self.most = root, 0
        self._ended = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> _TreeMemory:
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._watch.join()

    def _look(self) -> None:
        while not self._ended.wait(0.2):
            self.most = max(self.most, sum(_shared_out(process) for process in _tree(self.root)))


def _tree(process: int) -> list[int]:
    """A process and all below it."""
    try:
        found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:  # it has ended
        return []
    return [process, *(below for child in found for below in _tree(int(child)))]


def _shared_out(process: int) -> int:
    try:
        return _status("Pss:", Path(f"/proc/{process}/smaps_rollup"))
    except (OSError, StopIteration):
        return 0


# Changes to a folder, runs a module as `python -m` does, and at the end leaves its own /proc/self/status: the
# peak that `wait4` gives is at least that of the process that started it.
_START = """
import atexit, os, runpy, shutil, sys
status, folder, module = (sys.argv.pop(1) for _ in range(3))
if os.path.exists("/proc/self/status"):
    atexit.register(shutil.copyfile, "/proc/self/status", status)
os.chdir(folder)
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def run(arguments: Sequence[str], cwd: Path, **environment: str) -> Usage:
    """Run a Python module with these arguments in a process of its own, without this user's settings."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("CMON_")}
    own = {**own, "PYTHONPATH": str(ROOT), **environment}
    with tempfile.TemporaryDirectory() as scratch:
        places = {name: Path(scratch, name) for name in ("out", "err", "status")}
        flags = os.O_WRONLY | os.O_CREAT
        files = [
            (os.POSIX_SPAWN_OPEN, fd, places[name], flags, 0o600) for fd, name in ((1, "out"), (2, "err"))
        ]
        command = [sys.executable, "-c", _START, str(places["status"]), str(cwd), *arguments]
        begin = time.perf_counter()
        process = os.posix_spawn(sys.executable, command, own, file_actions=files)
        with _TreeMemory(process) as tree:
            _, status, used = os.wait4(process, 0)
        wall = time.perf_counter() - begin
        code = os.waitstatus_to_exitcode(status)
        if code:
            said = places["err"].read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{' '.join(arguments)} ended with {code}:\n{said}")
        peak = used.ru_maxrss * 1024
        if places["status"].exists():
            peak = _status("VmHWM", places["status"])
        cpu = used.ru_utime + used.ru_stime
        return Usage(wall, cpu, peak, places["out"].read_text(), max(peak, tree.most))


def cmon(arguments: Sequence[object], cwd: Path, **environment: str) -> Usage:
    """Run `cmon`."""
    return run(["concept_monitor_cli", *map(str, arguments)], cwd, **environment)


# -- the machine -----------------------------------------------------------------------------------------


def machine(device: torch.device) -> dict[str, Any]:
    """What was measured on, without names of hosts or people."""
    processor, memory = platform.machine(), None
    if sys.platform == "linux":
        info = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((x.partition(":")[2].strip() for x in info if x.startswith("model name")), processor)
        memory = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
    found = {
        "processor": processor,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": memory,
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if device.type == "cuda":
        found["device"] = torch.cuda.get_device_name(device)
    return found
