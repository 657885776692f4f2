"""Helpers of the store's tests."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np

from concept_monitor_cli.progress import Silent
from concept_monitor_cli.store import Entry, Key, Store


class Told(Silent):
    """A progress that keeps what it was told."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warning(self, message: str) -> None:
        self.warnings.append(message)


def remount_read_only(folder: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)


def numbers(store: Store, seed: int = 0) -> tuple[Key, dict[str, np.ndarray]]:
    """A key and arrays that belong to it."""
    generator = np.random.default_rng(seed)
    return store.key("activations", seed=seed), {
        "pooled": generator.standard_normal((40, 7)).astype(np.float32),
        "names": np.array(["windmill", "Straße", "", "日本"], dtype=object),
    }


def same(entry: Entry, arrays: dict[str, np.ndarray]) -> bool:
    return entry.names() == tuple(sorted(arrays)) and all(
        np.array_equal(entry.read(name), array) for name, array in arrays.items()
    )


def temporary_files(folder: Path) -> list[Path]:
    return list(folder.rglob("*.tmp"))


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
