"""Files of a probing set: listing them, their order, and paths that other files name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.probe.decode import EXTENSIONS, FOREIGN

_DIGITS = re.compile(r"(\d+)", re.ASCII)

NaturalKey = tuple[tuple[tuple[tuple[int, int, str], ...], str], ...]


def natural_key(path: str) -> NaturalKey:
    """Sorts `img2.jpg` before `img10.jpg`, folder by folder, without regard to case or language."""
    return tuple(
        (
            tuple(
                (0, int(piece), "") if piece.isascii() and piece.isdigit() else (1, 0, piece.casefold())
                for piece in _DIGITS.split(part)
                if piece
            ),
            part,
        )
        for part in path.split("/")
    )


def _walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """A folder and those inside it, each as the prefix of its files' paths (`"a/"`), and its files' names.

    Names that begin with a dot are left out. Symbolic links are followed, also out of the folder (they are
    the folder's owner's own doing), but each folder is entered only once, so that circles end.
    """
    seen: set[tuple[int, int]] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        status = Path(parent).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(
            (name for name in folders if not name.startswith(".") and name != _MAC), key=natural_key
        )
        inside = Path(parent).relative_to(folder).as_posix()
        yield "" if inside == "." else f"{inside}/", [name for name in names if not name.startswith(".")]


_MAC = "__MACOSX"  # what macOS puts into zip archives beside the files


def list_files(folder: Path, extensions: Iterable[str]) -> list[str]:
    """All files with these endings in a folder and those inside it, as relative paths in natural order.

    Hidden ones are left out, symbolic links followed.
    """
    wanted = tuple(extensions)
    found = [
        prefix + name
        for prefix, names in _walk(folder)
        for name in names
        if name.lower().endswith(wanted) and os.path.isfile(f"{folder}/{prefix}{name}")  # noqa: PTH113
    ]
    return sorted(found, key=natural_key)


def list_images(folder: Path) -> list[str]:
    """All image files in a folder, by their endings. See `list_files`."""
    return list_files(folder, EXTENSIONS)


@dataclass(frozen=True)
class Listing:
    """What lies in a folder and those inside it. Relative paths in natural order, as `list_files` finds them.

    Attributes:
        images: files that are images by their endings.
        foreign: files that are images by their endings, of formats that are not read.
        bare: files without an ending.
        others: all other files in the folder and two levels below.
        folders: all folders inside it.
    """

    images: list[str]
    foreign: list[str]
    bare: list[str]
    others: list[str]
    folders: list[str]


def list_folder(folder: Path) -> Listing:
    """What lies in a folder, by names alone: no file is opened."""
    found = Listing([], [], [], [], [])
    for prefix, names in _walk(folder):
        if prefix:
            found.folders.append(prefix[:-1])
        for name in names:
            lower = name.lower()
            if lower.endswith(EXTENSIONS):
                if os.path.isfile(f"{folder}/{prefix}{name}"):  # noqa: PTH113, several times faster than Path
                    found.images.append(prefix + name)
            elif lower.endswith(FOREIGN):
                found.foreign.append(prefix + name)
            elif "." not in name:
                found.bare.append(prefix + name)
            elif prefix.count("/") <= 2:
                found.others.append(prefix + name)
    for names in (found.images, found.foreign, found.bare, found.others):
        names.sort(key=natural_key)
    return found


def inside(folder: Path, name: str, *, named_in: str | Path) -> Path:
    """The path of a file that another file names, which must not leave the folder.

    Raises:
        InputError: the name is absolute, climbs out, or is no file name at all.
    """
    path = PurePosixPath(name)
    if (
        not name
        or "\0" in name
        or path.is_absolute()
        or ".." in path.parts
        or PureWindowsPath(name).drive
        or ".." in PureWindowsPath(name).parts
    ):
        raise InputError(
            f"{name!r} leads out of the folder",
            where=named_in,
            hint="paths there must be relative to the folder",
        )
    return folder / path


def missing_files(paths: Sequence[Path], *, what: str, where: str | Path) -> set[Path]:
    """Those of the files that are not there. Lists folders instead of asking for every file: much faster.

    Raises:
        InputError: half of them or more are missing; names the first and says how many.
    """
    listed: dict[Path, set[str]] = {}
    missing = []
    for path in paths:
        if path.parent not in listed:
            try:
                listed[path.parent] = {entry.name for entry in os.scandir(path.parent)}
            except (OSError, ValueError):
                listed[path.parent] = set()
        if path.name not in listed[path.parent]:
            missing.append(path)
    if missing and 2 * len(missing) >= len(paths):
        count = f"{len(missing):,} of {len(paths):,} {what}s are" if len(paths) > 1 else f"the {what} is"
        raise InputError(
            f"{count} missing, the first is {missing[0]}",
            where=where,
            hint="unpack the data set again, or take those lines out",
        )
    return set(missing)
