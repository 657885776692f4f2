"""The store itself: a folder of entries, found by what they depend on."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from concept_monitor_cli.errors import CmonError
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.store import maintenance
from concept_monitor_cli.store.atomic import fsync_folder, remove_leftovers, temporary_name, writing_error
from concept_monitor_cli.store.entry import (
    FORMAT,
    DamagedError,
    Entry,
    Writer,
    check_content,
    read_header,
)
from concept_monitor_cli.store.keys import JSONValue, Key, make_key
from concept_monitor_cli.store.locks import file_lock

_OPTION = "--cache-dir"
_TOUCH_SECONDS = 3600.0
_CACHE_TAG = """Signature: 8a477f597d28d172789f06886806bc55
# This folder holds values that cmon can compute again. Backups may leave it out.
# See https://bford.info/cachedir/
"""


class Store:
    """Content-addressed values in `root/<kind>/<first two digits>/<digest>.h5`.

    A value is there whole or not at all; it is verified whole before its first use in a process; a damaged
    one is removed with a warning and counts as absent. Several processes may use one store at once. They
    wait for each other where they want the same missing value, but nothing depends on that: two writers of
    one key publish equal files, one after the other. A store that cannot be written to can be read.

    Args:
        root: the store's folder; made on the first write.
        progress: is told of damaged entries and of waiting.
        look_only: change nothing, not even what is damaged; writing is an error of the caller's.
    """

    def __init__(self, root: str | Path, *, progress: Progress = SILENT, look_only: bool = False) -> None:
        self.root = Path(root).expanduser()
        self.look_only = look_only
        self.progress = progress
        self._verified: dict[Path, tuple[int, bytes]] = {}

    def key(self, kind: str, **parts: JSONValue) -> Key:
        """The key of a value of this kind that depends on `parts`. See `make_key`."""
        return make_key(kind, parts)

    def path(self, key: Key) -> Path:
        """Where a key's entry lies, once there is one."""
        return self.root / key.kind / key.digest[:2] / f"{key.digest}.h5"

    def get(self, key: Key) -> Entry | None:
        """The entry of a key, verified; `None` where there is none.

        Raises:
            CmonError: the entry is there but cannot be read (permissions, a failing disk).
        """
        path = self.path(key)
        try:
            file = os.open(path, os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._reading_error(error, path) from error
        try:
            header = read_header(file)
            if header.format != FORMAT:  # of another version of this program; not for us to judge
                return None
            state = (os.fstat(file).st_ino, header.raw)
            if self._verified.get(path) != state:
                check_content(file, header)
            try:
                entry = Entry.open(key, path)
            except FileNotFoundError:  # pruned a moment ago
                return None
            self._verified[path] = state
            self._touch(file, path)
            return entry
        except DamagedError as damage:
            self._remove_damaged(file, path, str(damage))
            return None
        except OSError as error:
            raise self._reading_error(error, path) from error
        finally:
            os.close(file)

    def has(self, key: Key) -> bool:
        """Whether there seems to be an entry: its header is sound and its length right. Cheap, no proof."""
        try:
            with self.path(key).open("rb", buffering=0) as file:
                return read_header(file.fileno()).format == FORMAT
        except (OSError, DamagedError):
            return False

    def proved(self, key: Key) -> bool:
        """Whether there is an entry, and it is whole. Reads all of it, once in a process; as `get` does.

        Raises:
            CmonError: the entry is there but cannot be read.
        """
        entry = self.get(key)
        if entry is None:
            return False
        entry.close()
        return True

    def put(
        self, key: Key, arrays: Mapping[str, npt.ArrayLike], meta: Mapping[str, Any] | None = None
    ) -> Entry:
        """Store whole arrays; an entry of the key that is there already is replaced."""
        with self.writer(key, meta) as writer:
            for name, array in arrays.items():
                writer.put(name, array)
        return writer.entry

    @contextlib.contextmanager
    def writer(self, key: Key, meta: Mapping[str, Any] | None = None) -> Iterator[Writer]:
        """Write an entry piece by piece. It is published when the block ends cleanly; else nothing is left.

        Raises:
            CmonError: the disk is full or the store cannot be written to.
            ValueError: an announced row was not written.
        """
        path = self.path(key)
        temporary = path.with_name(temporary_name(path.name))
        self._make_folder(path.parent)
        remove_leftovers(path.parent, path.name)
        try:
            file = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except OSError as error:
            raise writing_error(error, self.root, _OPTION) from error
        try:
            writer = Writer(key, file, self.root, meta)
            try:
                yield writer
                writer.finish()
                # Open before others can see, replace or prune it: this process keeps what it wrote.
                entry = Entry.open(key, path, opened_at=temporary)
                state = (os.fstat(file).st_ino, writer.header.raw)
                try:
                    temporary.replace(path)
                except OSError as error:
                    entry.close()
                    raise writing_error(error, self.root, _OPTION) from error
                fsync_folder(path.parent)
            finally:
                writer.discard()
        finally:
            os.close(file)
            with contextlib.suppress(OSError):
                temporary.unlink()
        self._verified[path] = state
        writer.publish(entry)

    def get_or_make(self, key: Key, make: Callable[[Writer], None]) -> Entry:
        """The entry of a key, made by `make` where it is missing. One process makes it, others wait.

        Raises:
            CmonError: it is missing and cannot be written.
        """
        entry = self.get(key)
        if entry is not None:
            return entry
        with self.lock(key):
            entry = self.get(key)
            if entry is not None:
                return entry
            with self.writer(key) as writer:
                make(writer)
            return writer.entry

    @contextlib.contextmanager
    def lock(self, key: Key) -> Iterator[None]:
        """Hold a key's lock: other processes that want it wait. The system frees it when a process dies.

        It only saves double work. Ask for the entry again once inside: another process may have made it
        meanwhile. Where the file system has no locks, a warning is given and the work goes on without.
        """
        path = self.root / "locks" / f"{key.digest}.lock"
        self._make_folder(path.parent)
        purpose = f"makes {key.kind} {key.digest[:12]}"
        with file_lock(path, purpose=purpose, folder=self.root, option=_OPTION, progress=self.progress):
            yield

    def remove(self, key: Key) -> None:
        """Remove an entry, where there is one. Processes that have it open keep it until they close it."""
        path = self.path(key)
        self._verified.pop(path, None)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise writing_error(error, self.root, _OPTION) from error

    def remove_free_locks(self) -> int:
        """Remove the lock files of killed processes; those that are held stay. Returns how many."""
        return maintenance.remove_free_locks(self.root)

    def info(self) -> maintenance.StoreInfo:
        """What the store holds, by kind."""
        return maintenance.info(self.root)

    def verify(self, *, repair: bool = True, progress: Progress | None = None) -> maintenance.VerifyReport:
        """Read and check every entry; with `repair`, remove the damaged ones, so that they are made again."""
        self._verified.clear()
        return maintenance.verify(self.root, repair=repair, progress=progress or self.progress)

    def prune(
        self, *, max_bytes: int | None = None, older_than: float | None = None, stale: bool = False
    ) -> maintenance.PruneReport:
        """Remove leftovers of dead processes and entries not wanted any more. See `maintenance.prune`."""
        return maintenance.prune(self.root, max_bytes=max_bytes, older_than=older_than, stale=stale)

    def _make_folder(self, folder: Path) -> None:
        if self.look_only:
            raise RuntimeError("this store is only to be looked at")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tag = self.root / "CACHEDIR.TAG"
            if not tag.exists():
                tag.write_text(_CACHE_TAG, encoding="ascii")
        except OSError as error:
            raise writing_error(error, self.root, _OPTION) from error

    def _touch(self, file: int, path: Path) -> None:
        # Says "used lately" to prune. Not at every use: that costs on network file systems.
        if not self.look_only and time.time() - os.fstat(file).st_mtime > _TOUCH_SECONDS:
            with contextlib.suppress(OSError):
                os.utime(path)

    def _remove_damaged(self, file: int, path: Path, reason: str) -> None:
        self._verified.pop(path, None)
        if self.look_only:
            self.progress.warning(f"damaged store entry ({reason}): {path}")
            return
        removed = maintenance.remove_if_same(path, os.fstat(file))
        then = "removed, and made again when needed" if removed else "left out, it cannot be removed"
        self.progress.warning(f"damaged store entry ({reason}): {then}: {path}")

    def _reading_error(self, error: OSError, path: Path) -> CmonError:
        return CmonError(
            f"a store entry cannot be read: {error.strerror or error}",
            where=path,
            hint=f"check its permissions and the disk, or use another store with {_OPTION}",
        )
