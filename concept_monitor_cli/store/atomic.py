"""Files that appear whole or not at all, and the traces that killed processes leave.

A file is written under a temporary name in its own folder, flushed to the disk, and renamed; then the
folder is flushed, so that the name survives a power cut too. A process killed on the way leaves only its
temporary file. That file's name says which process wrote it, so that later runs can tell a dead writer's
file from a live one's:

    .<name>.<machine>-<process>-<start>-<random>.tmp

`machine` stands for this boot of this kernel and its process namespace (two containers with one host name
do not judge each other's processes), `start` tells a process from a later one with the same number. Files
of other machines are left alone until nobody has written to them for a day.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from concept_monitor_cli.errors import CmonError

OLD_SECONDS = 24 * 3600
"""A temporary file of another machine counts as left over after this time without a write."""

_FULL = (errno.ENOSPC, errno.EDQUOT)

_TEMPORARY = re.compile(
    r"\.(?P<name>.+)\.(?P<machine>[0-9a-f]{8})-(?P<pid>\d+)-(?P<start>\d+)-[0-9a-f]{8}\.tmp", re.DOTALL
)


@contextlib.contextmanager
def atomic_write(path: str | Path, *, option: str = "--out") -> Iterator[Path]:
    """A temporary path to write to; on a clean exit it becomes `path`, otherwise nothing is left.

    The folder is made where it is missing, and what dead processes left of the same file is removed.

    Args:
        path: the file to make or replace.
        option: the command line's option that chooses the folder, for the error's hint.

    Raises:
        CmonError: the disk is full or the folder cannot be written to.
    """
    path = Path(path)
    temporary = path.with_name(temporary_name(path.name))
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(path.parent, path.name)
        except OSError as error:
            raise writing_error(error, path.parent, option) from error
        try:
            yield temporary
        except OSError as error:
            # The caller may have stumbled over a file of its own; a full disk can only be about this one.
            if error.errno not in _FULL and error.filename != str(temporary):
                raise
            raise writing_error(error, path.parent, option) from error
        try:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
            fsync_folder(path.parent)
        except OSError as error:
            raise writing_error(error, path.parent, option) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_bytes_atomic(path: str | Path, data: bytes, *, option: str = "--out") -> None:
    """Write a whole file at once, or leave what was there."""
    with atomic_write(path, option=option) as temporary:
        temporary.write_bytes(data)


def write_text_atomic(path: str | Path, text: str, *, option: str = "--out") -> None:
    """Write a whole UTF-8 text at once, or leave what was there. Newlines are kept as they are."""
    write_bytes_atomic(path, text.encode("utf-8"), option=option)


def remove_leftovers(folder: str | Path, name: str | None = None, *, recursive: bool = False) -> list[Path]:
    """Remove temporary files whose writers are dead; returns what was removed.

    Args:
        folder: where to look; a missing folder has none.
        name: only those of this file; `None`: of every file.
        recursive: also in the folders inside.
    """
    return [path for path in leftovers(folder, name, recursive=recursive) if _removed(path)]


def leftovers(folder: str | Path, name: str | None = None, *, recursive: bool = False) -> list[Path]:
    """Temporary files whose writers are dead."""
    found = []
    for parent, folders, names in os.walk(folder):
        if not recursive:
            folders.clear()
        for candidate in names:
            match = _TEMPORARY.fullmatch(candidate)
            if match is None or (name is not None and match["name"] != _stem(name)):
                continue
            path = Path(parent, candidate)
            if _is_left_over(path, match["machine"], int(match["pid"]), int(match["start"])):
                found.append(path)
    return sorted(found)


def temporary_name(name: str) -> str:
    """A temporary name for the file `name`, unused so far, that says which process uses it."""
    pid = os.getpid()
    return f".{_stem(name)}.{_machine()}-{pid}-{_process_start(pid) or 0}-{secrets.token_hex(4)}.tmp"


def fsync_folder(folder: Path) -> None:
    """Flush a folder's names to the disk, on systems that can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def check_room(folder: str | Path, wanted: int) -> None:
    """See whether `wanted` bytes still fit. A full disk is better found before the work than after it.

    Raises:
        OSError: they do not (ENOSPC).
    """
    usage = shutil.disk_usage(folder)
    if usage.total and usage.free < wanted:  # some network file systems do not say: total 0
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def writing_error(error: OSError, folder: str | Path, option: str) -> CmonError:
    """What to tell the user when writing into `folder`, chosen by `option`, failed."""
    if error.errno in _FULL:
        what = "the disk is full" if error.errno == errno.ENOSPC else "the disk quota is used up"
        hint = f"make room (see `cmon cache prune`) or choose another disk with {option}, then run again"
        return CmonError(what, where=folder, hint=hint)
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return CmonError(
            "the folder cannot be written to",
            where=folder,
            hint=f"choose a folder of your own with {option}",
        )
    return CmonError(f"writing failed: {error.strerror or error}", where=error.filename or folder)


def _stem(name: str) -> str:
    # A file name may have 255 bytes, and ours adds up to 60.
    raw = os.fsencode(name)
    if len(raw) <= 180:
        return name
    return f"{hashlib.sha256(raw).hexdigest()[:32]}"


def _removed(path: Path) -> bool:
    try:
        path.unlink()
    except OSError:  # another process was faster, or the folder is read-only
        return False
    return True


def _is_left_over(path: Path, machine: str, pid: int, start: int) -> bool:
    if machine == _machine():
        return not _runs(pid, start)
    try:
        return time.time() - path.stat().st_mtime > OLD_SECONDS
    except OSError:
        return False


def _runs(pid: int, start: int) -> bool:
    # Both questions are needed: /proc may hide other users' processes, and numbers are used again.
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    now = _process_start(pid)
    return now is None or start == 0 or now == start


@functools.cache
def _machine() -> str:
    identity = socket.gethostname()
    # Without /proc (macOS) the host's name has to do.
    with contextlib.suppress(OSError):
        identity += Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        identity += str(Path("/proc/self/ns/pid").stat().st_ino)
    return hashlib.sha256(identity.encode()).hexdigest()[:8]


def _process_start(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; -1: it is dead; `None`: the system does not say."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # Field 22; the second field is the command in brackets and may itself hold spaces and brackets.
    fields = stat[stat.rindex(b")") + 2 :].split()
    if fields[0] in (b"Z", b"X"):  # killed, and not yet waited for by its parent: it writes no more
        return -1
    return int(fields[19])
