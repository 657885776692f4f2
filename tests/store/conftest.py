"""What several tests of the store need."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from concept_monitor_cli.store import Store

sys.path.insert(0, str(Path(__file__).parent))  # for the helpers beside this file

from store_help import Told


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def tmp_store(tmp_path: Path, told: Told) -> Store:
    return Store(tmp_path / "store", progress=told)


@pytest.fixture
def mounted_tmpfs(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts small RAM disks; the tests that need one are skipped where that is not allowed."""
    mounted: list[Path] = []

    def mount(options: str) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("no mount command")
        if done.returncode:
            pytest.skip(f"mounting a small disk needs root: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)
