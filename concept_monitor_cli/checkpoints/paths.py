"""Paths whose bytes are no UTF-8, under another name for libraries that cannot open them."""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path


def is_utf8(path: str | os.PathLike[str]) -> bool:
    """Whether a path can be written as UTF-8. On Linux it may hold any bytes (Latin-1, say)."""
    try:
        os.fspath(path).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def printable(text: str) -> str:
    """A name for tables and messages: bytes that are no UTF-8 as `\\xe9`."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def in_utf8(path: Path) -> Path:
    """The path itself, or, where it is no UTF-8, a link to it in a temporary folder of this process.

    torch and safetensors open files by names in UTF-8.
    """
    if is_utf8(path):
        return path
    raw = os.fsencode(path.absolute())
    # The folder is linked, so that a checkpoint's other files lie beside it there too.
    folder = _links() / hashlib.sha256(os.fsencode(path.absolute().parent)).hexdigest()[:16]
    if not folder.is_symlink():
        folder.symlink_to(path.absolute().parent)
    if is_utf8(path.name):
        return folder / path.name
    link = _links() / (hashlib.sha256(raw).hexdigest()[:16] + "".join(filter(is_utf8, path.suffixes[-2:])))
    if not link.is_symlink():
        link.symlink_to(path.absolute())
    return link


@cache
def _links() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="cmon-links-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
