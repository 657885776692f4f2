"""Disks that are full or cannot be written to."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from concept_monitor_cli.store import Store

from .conftest import Make, Stress


def lines_of_error(err: str) -> list[str]:
    lines = err.strip().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("error:"))
    assert "Traceback" not in err
    return lines[start:]


def sizes(always: int, *others: int) -> list[ParameterSet]:
    """One size of the disk at every run of the tests, the others by hand."""
    return [pytest.param(always), *(pytest.param(size, marks=pytest.mark.slow) for size in others)]


@pytest.mark.parametrize("kilobytes", sizes(150, 8, 60, 400))
def test_a_full_cache_is_said_and_leaves_nothing_half_written(
    stress: Stress, small_disk: Make, kilobytes: int
) -> None:
    disk = small_disk("disk", kilobytes)
    full = stress.start("--cache-dir", disk / "cache")
    assert full.wait() == 1, full.err
    lines = lines_of_error(full.err)
    assert "full" in lines[0]
    assert "--cache-dir" in full.err
    assert len(lines) <= 3
    assert not list(disk.rglob("*.tmp"))
    assert not Store(disk / "cache").verify(repair=False).damaged
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
    again = stress.start("--cache-dir", disk / "cache")
    assert again.wait() == 0, again.err
    assert stress.tables() == stress.reference


@pytest.mark.parametrize("kilobytes", sizes(24, 4, 60))
def test_a_full_run_folder_is_said_and_leaves_nothing_half_written(
    stress: Stress, small_disk: Make, kilobytes: int
) -> None:
    disk = small_disk("disk", kilobytes)
    full = stress.start("--out", disk / "run")
    assert full.wait() == 1, full.err
    lines = lines_of_error(full.err)
    assert "full" in lines[0]
    assert "--out" in full.err
    assert len(lines) <= 3
    for name, content in stress.tables(disk / "run").items():
        assert name == "concepts.parquet" or content == stress.reference[name]
    assert not list(disk.rglob("*.tmp"))
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
    again = stress.start("--out", disk / "run")
    assert again.wait() == 0, again.err
    # What was recorded before the disk was full is not recorded again.
    assert again.json()["forward_passes"] < 3
    assert stress.tables(disk / "run") == stress.reference


def test_a_read_only_cache_serves_what_it_has(stress: Stress, small_disk: Make) -> None:
    disk = small_disk("disk", 65536)
    cache: Path = disk / "cache"
    assert stress.start("--cache-dir", cache).wait() == 0
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    stress.clear()
    served = stress.start("--cache-dir", cache)
    assert served.wait() == 0, served.err
    assert served.json()["forward_passes"] == 0
    assert stress.tables() == stress.reference
    # Another layer is not there, and there is no place for it.
    refused = stress.start("--cache-dir", cache, "--layer", "layer2")
    assert refused.wait() == 1
    assert len(lines_of_error(refused.err)) <= 3
    assert "--cache-dir" in refused.err
