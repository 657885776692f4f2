"""A table of which probing images failed at something, and perhaps of which class each is."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from concept_monitor_cli.errors import InputError

#: Of all classes together: what rows that are of no single class say.
ALL = "all"
_WORDS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


@dataclass(frozen=True)
class FailedTable:
    """What a table says of the probing images.

    Attributes:
        failed: `(N,)` bool; False where the table lacks an image.
        named: `(N,)` bool, which images it has.
        classes: `N` names, empty where the table lacks an image; None without a column `class`.
        unknown: how many of its rows name no probing image.
    """

    failed: NDArray[np.bool_]
    named: NDArray[np.bool_]
    classes: tuple[str, ...] | None
    unknown: int


def read_failed(path: Path, ids: Sequence[str]) -> FailedTable:
    """A CSV file with the columns `image`, `failed` (1 or 0, true or false, yes or no) and perhaps `class`.

    An image is named by its path within the probing set, or by its file name where no other has that.

    Args:
        path: the file.
        ids: `N`, what the probing images are called.

    Raises:
        InputError: no such file or columns, a value that is neither, an image that is named twice with
            different values, or no image of the probing set.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = set(reader.fieldnames or ())
            if not {"image", "failed"} <= columns:
                raise InputError(
                    "a table of failures needs the columns `image` and `failed`",
                    where=path,
                    hint="a third, `class`, may say what is compared with what",
                )
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        hint = "the run is named with --out" if path.is_dir() else None
        raise InputError(f"the table of failures cannot be read: {error}", where=path, hint=hint) from error
    said: dict[str, tuple[bool, str]] = {}
    for line, row in rows:
        image, word = (str(row[name] or "").strip() for name in ("image", "failed"))
        if not image or word.lower() not in _WORDS:
            raise InputError(
                f"line {line} says {word!r} of image {image!r}: neither failed (1) nor not (0)", where=path
            )
        value = (_WORDS[word.lower()], str(row.get("class") or "").strip())
        if "class" in columns and not value[1]:
            raise InputError(f"line {line} has no class", where=path)
        if value[1] == ALL:
            raise InputError(
                f"line {line} has the class {ALL!r}, which stands for all of them together",
                where=path,
                hint="call it something else",
            )
        if said.setdefault(image, value) != value:
            raise InputError(f"line {line} contradicts an earlier one about {image}", where=path)
    short = [name.rpartition("/")[2] for name in ids]
    often = Counter(short)
    used = [name if name in said or often[base] > 1 else base for name, base in zip(ids, short, strict=True)]
    own = [said.get(name) for name in used]
    if not any(each is not None for each in own):
        some = next(iter(said), "nothing")
        raise InputError(
            f"none of the {len(said):,} images of this table is a probing image: {some}",
            where=path,
            hint=f"they are called as {ids[0]}",
        )
    found = {name for name, each in zip(used, own, strict=True) if each is not None}
    return FailedTable(
        failed=np.array([each is not None and each[0] for each in own], dtype=bool),
        named=np.array([each is not None for each in own], dtype=bool),
        classes=tuple("" if each is None else each[1] for each in own) if "class" in columns else None,
        unknown=len(said) - len(found),
    )
