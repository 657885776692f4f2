"""Anchors: words of the user's choice that mark places in the concept space."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from concept_monitor_cli.errors import InputError


def parse_anchors(values: Sequence[str]) -> tuple[str, ...]:
    """The anchor words named on the command line.

    Args:
        values: words; or the path of a text file with one word a line, for lists too long to type.

    Returns:
        The distinct words in the order given.

    Raises:
        InputError: no word is left.
    """
    words: list[str] = []
    for value in values:
        path = Path(value)
        if path.suffix == ".txt":
            try:
                words.extend(path.read_text(encoding="utf-8-sig").splitlines())
            except (OSError, UnicodeDecodeError) as error:
                raise InputError(
                    f"the anchor file cannot be read: {error}",
                    where=path,
                    hint="give a UTF-8 text file, a word a line",
                ) from error
        else:
            words.append(value)
    anchors = tuple(dict.fromkeys(" ".join(word.split()) for word in words if word.strip()))
    if not anchors:
        raise InputError(
            "the list of anchors is empty",
            where="--anchors",
            hint="name some words: --anchors windmill,field",
        )
    return anchors
