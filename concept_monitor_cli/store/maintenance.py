"""Looking after a store: what it holds, whether it is whole, what can go."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import filelock

from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.store import atomic
from concept_monitor_cli.store.entry import DamagedError, Header, check_content, read_header

_ENTRY = re.compile(r"[0-9a-f]{64}\.h5")


@dataclass(frozen=True)
class KindInfo:
    """The entries of one kind: how many, and their bytes on the disk."""

    kind: str
    entries: int
    bytes: int


@dataclass(frozen=True)
class StoreInfo:
    """What a store holds.

    Attributes:
        root: its folder.
        kinds: per kind, sorted by name.
        entries: all entries.
        bytes: of all entries.
        stale_entries: made by other versions of this program, so that this one does not find them.
        stale_bytes: of those.
        unreadable: files whose header is damaged; `verify` says more.
        leftover_files: temporary files of dead processes.
        leftover_bytes: of those.
        free_bytes: free on the disk.
        writable: whether this user may write there.
        oldest_use: when the entry that was not used for longest was last used, in seconds since 1970.
    """

    root: Path
    kinds: tuple[KindInfo, ...]
    entries: int
    bytes: int
    stale_entries: int
    stale_bytes: int
    unreadable: int
    leftover_files: int
    leftover_bytes: int
    free_bytes: int
    writable: bool
    oldest_use: float | None


@dataclass(frozen=True)
class DamagedEntry:
    """An entry that is not what was written, why, and whether it was removed."""

    path: Path
    reason: str
    removed: bool


@dataclass(frozen=True)
class VerifyReport:
    """What a check of the whole store found."""

    checked: int
    bytes: int
    damaged: tuple[DamagedEntry, ...]


@dataclass(frozen=True)
class PruneReport:
    """What was removed and what is left: entries, their bytes, and leftovers of dead processes."""

    removed: int
    removed_bytes: int
    kept: int
    kept_bytes: int
    leftovers: int


@dataclass(frozen=True)
class _File:
    path: Path
    kind: str
    bytes: int
    used: float


def info(root: Path) -> StoreInfo:
    """Count a store's entries by kind. Reads headers only."""
    kinds: dict[str, KindInfo] = {}
    stale_entries = stale_bytes = unreadable = 0
    oldest: float | None = None
    for file in _files(root):
        known = kinds.get(file.kind, KindInfo(file.kind, 0, 0))
        kinds[file.kind] = KindInfo(file.kind, known.entries + 1, known.bytes + file.bytes)
        oldest = file.used if oldest is None else min(oldest, file.used)
        header = _header(file.path)
        if header is None:
            unreadable += 1
        elif not header.current:
            stale_entries += 1
            stale_bytes += file.bytes
    left = [path for path in atomic.leftovers(root, recursive=True) if path.exists()]
    existing = next((folder for folder in (root, *root.absolute().parents) if folder.exists()), Path("/"))
    return StoreInfo(
        root=root,
        kinds=tuple(kinds[kind] for kind in sorted(kinds)),
        entries=sum(kind.entries for kind in kinds.values()),
        bytes=sum(kind.bytes for kind in kinds.values()),
        stale_entries=stale_entries,
        stale_bytes=stale_bytes,
        unreadable=unreadable,
        leftover_files=len(left),
        leftover_bytes=sum(path.stat().st_size for path in left),
        free_bytes=shutil.disk_usage(existing).free,
        writable=os.access(existing, os.W_OK),
        oldest_use=oldest,
    )


def verify(root: Path, *, repair: bool = True, progress: Progress = SILENT) -> VerifyReport:
    """Read every entry and compare it with its checksum.

    Args:
        root: the store's folder.
        repair: remove damaged entries, so that they are made again when needed.
        progress: is told of the advance, in bytes.
    """
    files = _files(root)
    damaged = []
    with progress.task("verifying the store", sum(file.bytes for file in files), "bytes") as advance:
        for entry in files:
            reason = _damage(entry, repair)
            if reason is not None:
                damaged.append(reason)
            advance(entry.bytes)
    return VerifyReport(len(files), sum(file.bytes for file in files), tuple(damaged))


def prune(
    root: Path,
    *,
    max_bytes: int | None = None,
    older_than: float | None = None,
    stale: bool = False,
    now: float | None = None,
) -> PruneReport:
    """Remove what dead processes left, and the entries that are asked for, least recently used first.

    Removing an entry that a run is using harms nothing: it keeps its open file, and later makes it again.

    Args:
        root: the store's folder.
        max_bytes: remove until the entries take no more than this.
        older_than: remove entries not used for this many seconds.
        stale: remove entries made by other versions of this program, which this one cannot find.
        now: the time to compare with, in seconds since 1970.
    """
    now = time.time() if now is None else now
    left = len(atomic.remove_leftovers(root, recursive=True)) + remove_free_locks(root)
    files = sorted(_files(root), key=lambda file: (file.used, file.path))
    total = sum(file.bytes for file in files)
    removed = removed_bytes = 0
    for file in files:
        header = _header(file.path) if stale else None
        wanted = (
            (older_than is not None and now - file.used > older_than)
            or (header is not None and not header.current)
            or (max_bytes is not None and total - removed_bytes > max_bytes)
        )
        if wanted:
            try:
                file.path.unlink(missing_ok=True)
            except OSError as error:
                raise atomic.writing_error(error, root, "--cache-dir") from error
            removed += 1
            removed_bytes += file.bytes
    return PruneReport(removed, removed_bytes, len(files) - removed, total - removed_bytes, left)


def remove_if_same(path: Path, seen: os.stat_result) -> bool:
    """Remove a file unless another process has replaced it since; whether it is gone or replaced."""
    try:
        now = path.stat()
        if (now.st_dev, now.st_ino) == (seen.st_dev, seen.st_ino):
            path.unlink()
    except FileNotFoundError:
        pass
    except OSError:
        return False
    return True


def _files(root: Path) -> list[_File]:
    return sorted(_walk(root), key=lambda file: file.path)


def _walk(root: Path) -> Iterator[_File]:
    for parent, _, names in os.walk(root):
        for name in names:
            path = Path(parent, name)
            if _ENTRY.fullmatch(name) and len(path.relative_to(root).parts) == 3:
                with contextlib.suppress(FileNotFoundError):  # another process pruned it
                    status = path.stat()
                    yield _File(path, path.relative_to(root).parts[0], status.st_size, status.st_mtime)


def _header(path: Path) -> Header | None:
    try:
        with path.open("rb") as file:
            return read_header(file.fileno())
    except (OSError, DamagedError):
        return None


def _damage(entry: _File, repair: bool) -> DamagedEntry | None:
    try:
        with entry.path.open("rb", buffering=0) as file:
            try:
                check_content(file.fileno(), read_header(file.fileno()))
            except DamagedError as damage:
                removed = repair and remove_if_same(entry.path, os.fstat(file.fileno()))
                return DamagedEntry(entry.path, str(damage), removed)
    except FileNotFoundError:  # another process pruned it
        pass
    except OSError as error:
        return DamagedEntry(entry.path, error.strerror or str(error), False)
    return None


def remove_free_locks(root: Path) -> int:
    """Lock files that killed processes left and nobody holds."""
    removed = 0
    for path in (root / "locks").glob("*.lock"):
        lock = filelock.FileLock(path)
        with contextlib.suppress(OSError, NotImplementedError, filelock.Timeout):
            lock.acquire(timeout=0)
            try:
                path.unlink()
                removed += 1
            finally:
                lock.release()
    return removed
