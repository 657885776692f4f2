"""A file of the network, whole and as published or not there at all; and what is packed in it."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import shutil
import ssl
import tarfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock, Timeout

from concept_monitor_cli.errors import CmonError
from concept_monitor_cli.progress import Progress
from concept_monitor_cli.store.atomic import check_room, fsync_folder, writing_error
from concept_monitor_cli.wording import counted

_SECONDS = 30.0  # without an answer
_BLOCK = 1 << 20


def download(url: str, path: Path, digest: str, progress: Progress) -> None:
    """Download a file; a download that was broken off goes on where it ended.

    What has come lies beside the file in `NAME.part`, and gets its name when its digest is the published one.
    A file that is there already, carried over from another machine, is only verified.

    Args:
        url: where it is published.
        path: where it is to be.
        digest: `sha256:...`, `sha1:...` or `md5:...` of the whole file.
        progress: told of the work.

    Raises:
        CmonError: no network, the server refuses, the connection breaks, the disk is full, another process
            downloads the same file, or what came is not what was published.
    """
    part = path.with_name(path.name + ".part")
    lock = path.with_name(path.name + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock, timeout=0):
            try:
                if path.exists():
                    _verify(path, digest, url, progress)
                else:
                    _receive(url, part, progress)
                    _verify(part, digest, url, progress)
                    part.replace(path)
                    fsync_folder(path.parent)
            finally:
                with contextlib.suppress(OSError):
                    lock.unlink()
    except Timeout as error:
        raise CmonError(
            "another process is downloading this file", where=path, hint="wait until it has ended"
        ) from error
    except OSError as error:
        raise writing_error(error, path.parent, "--to") from error


def _receive(url: str, part: Path, progress: Progress) -> None:
    """Append to `part` what it lacks of the file."""
    had = part.stat().st_size if part.exists() else 0
    with _opened(url, had) as answer:
        if answer is None:  # there is nothing behind what we have: the digest will tell
            return
        if had and answer.status != http.client.PARTIAL_CONTENT:
            progress.notice("the server cannot go on where the download ended, and sends the whole file")
            had = 0
        length = answer.headers.get("Content-Length")
        whole = had + int(length) if length and length.isdigit() else None
        if had:
            progress.notice(f"going on after {counted(had, 'bytes')}")
        check_room(part.parent, (whole or had) - had)
        came = had
        with (
            part.open("ab" if had else "wb") as file,
            progress.task(
                f"downloading {part.stem}", None if whole is None else whole - had, "bytes"
            ) as advance,
        ):
            while block := _read(answer, url, came, whole):
                file.write(block)
                came += len(block)
                advance(len(block))
    if whole is not None and came < whole:
        raise _broken(url, came, whole)


def _read(answer: Any, url: str, came: int, whole: int | None) -> bytes:
    """The next block. Errors of the network are told from those of the disk, which are OSErrors as well."""
    try:
        block: bytes = answer.read(_BLOCK)
    except (OSError, http.client.HTTPException) as error:
        raise _broken(url, came, whole) from error
    return block


def _broken(url: str, came: int, whole: int | None) -> CmonError:
    of = f" of {whole:,}" if whole else ""
    return CmonError(
        f"the connection broke after {came:,}{of} bytes",
        where=url,
        hint="the same command goes on from there",
    )


@contextlib.contextmanager
def _opened(url: str, had: int) -> Iterator[Any]:
    """The server's answer; `None` where it has nothing behind the first `had` bytes."""
    request = urllib.request.Request(url, headers={"User-Agent": "concept-monitor-cli"})
    if had:
        request.add_header("Range", f"bytes={had}-")
    by_hand = (
        "on a machine with network, download this address into the same folder, then run this command again"
    )
    try:
        answer = urllib.request.urlopen(request, timeout=_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and had:
            yield None
            return
        raise CmonError(
            f"the server answers {error.code} {error.reason}",
            where=url,
            hint="it may have moved: see the page of the data set (`cmon fetch` names it)",
        ) from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        said = reason if isinstance(reason, str) else getattr(reason, "strerror", None) or str(reason)
        if isinstance(reason, ssl.SSLError):
            said = f"its certificate is not accepted ({said})"
        raise CmonError(f"the server cannot be reached: {said}", where=url, hint=by_hand) from error
    with answer:
        yield answer


def _verify(path: Path, digest: str, url: str, progress: Progress) -> None:
    kind, _, wanted = digest.partition(":")
    found = hashlib.new(kind, usedforsecurity=False)
    with (
        path.open("rb") as file,
        progress.task(f"verifying {path.name}", path.stat().st_size, "bytes") as advance,
    ):
        while block := file.read(_BLOCK):
            found.update(block)
            advance(len(block))
    if found.hexdigest() == wanted:
        return
    # What was carried here is its owner's; what we have downloaded is of no use to anybody.
    downloaded = path.suffix == ".part"
    if downloaded:
        path.unlink()
    raise CmonError(
        f"this is not the published file: its {kind} is {found.hexdigest()}, not {wanted}"
        + ("; it was removed" if downloaded else ""),
        where=url if downloaded else path,
        hint="run the command again; if that does not help, the publisher has changed the file"
        if downloaded
        else f"remove it and run the command again, or get it from {url}",
    )


def unpack(archive: Path, folder: Path, only: Sequence[str], progress: Progress) -> None:
    """Unpack a `.zip` or `.tar.gz`, and the archives that lie in it, each beside where it lay.

    Args:
        archive: the file, verified.
        folder: gets what is in it. Nothing is written outside of it.
        only: beginnings of the names that are wanted; none means all.
        progress: told of the work.

    Raises:
        CmonError: the archive is damaged, or the disk is full.
    """
    try:
        if zipfile.is_zipfile(archive):
            _unzip(archive, folder, only, progress)
        else:
            with tarfile.open(archive) as tar:
                for member in tar:
                    if _wanted(member.name, only):
                        tar.extract(member, folder, filter="data")
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise CmonError(f"the archive cannot be unpacked: {error}", where=archive) from error
    except OSError as error:
        raise writing_error(error, folder, "--to") from error
    for inner in sorted(
        path for path in folder.rglob("*.zip") if path != archive and zipfile.is_zipfile(path)
    ):
        unpack(inner, inner.parent, (), progress)
        inner.unlink()


def _unzip(archive: Path, folder: Path, only: Sequence[str], progress: Progress) -> None:
    with zipfile.ZipFile(archive) as source:
        members = [member for member in source.infolist() if _wanted(member.filename, only)]
        total = sum(member.file_size for member in members)
        folder.mkdir(parents=True, exist_ok=True)
        check_room(folder, total)
        with progress.task(f"unpacking {archive.name}", total, "bytes") as advance:
            for member in members:
                source.extract(member, folder)  # which drops `..` and leading slashes
                advance(member.file_size)


def _wanted(name: str, only: Sequence[str]) -> bool:
    inside = ".." not in PurePosixPath(name).parts and "__MACOSX" not in name
    return inside and (not only or name.startswith(tuple(only)))


def remove(folder: Path) -> None:
    """A folder and all that is in it."""
    shutil.rmtree(folder, ignore_errors=True)
