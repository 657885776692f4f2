"""Freed memory stays with the process, where the C library can be told."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

# Takes and frees 256 MB twenty times; prints what `keep_freed_memory` said, and the page faults.
SCRIPT = """
import resource, sys
import numpy as np
from concept_monitor_cli.models.allocator import keep_freed_memory
kept = keep_freed_memory() if "--keep" in sys.argv else False
for _ in range(20):
    np.empty(256 << 20, dtype=np.uint8)[::4096] = 1
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc")


def faults(*arguments: str, **environment: str) -> tuple[str, int]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    # NumPy asks for huge pages otherwise, which are few faults.
    environment = {**own, "NUMPY_MADVISE_HUGEPAGE": "0", **environment}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    kept, count = done.stdout.split()
    return kept, int(count)


@glibc
def test_freed_memory_is_taken_again_without_faults() -> None:
    pages = 20 * (256 << 20) // 4096
    kept, count = faults()
    assert kept == "False"
    assert count > pages
    kept, count = faults("--keep")
    assert kept == "True"
    assert count < pages / 5


# Frees every other of 64 pieces of 4 MB, which leaves holes; prints the memory before and after.
HOLES = """
import numpy as np
from concept_monitor_cli.models.allocator import give_back_freed_memory, keep_freed_memory
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20
assert keep_freed_memory()
pieces = [np.ones(1 << 19) for _ in range(64)]
del pieces[::2]
before = resident()
print(give_back_freed_memory(), before - resident())
"""


@glibc
def test_holes_are_given_back() -> None:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run([sys.executable, "-c", HOLES], env=own, check=True, capture_output=True, text=True)
    said, freed = done.stdout.split()
    assert said == "True"
    assert 100 < int(freed) < 160


@glibc
def test_the_users_own_settings_stand() -> None:
    assert faults("--keep", MALLOC_TRIM_THRESHOLD_="131072")[0] == "False"


def test_another_system_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from concept_monitor_cli.models.allocator import give_back_freed_memory, keep_freed_memory

    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory.__wrapped__() is False
    assert give_back_freed_memory() is False
