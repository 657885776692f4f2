"""The pictures that commands made into a run: their files, and how strong those of units are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.run.folder import RunFolder

if TYPE_CHECKING:
    from PIL.Image import Image

# What is climbed for the picture of a unit, and of a member of a basis (`pictures.csv`).
_OF_UNITS = ("unit", "direction")


@dataclass(frozen=True)
class MadePicture:
    """The picture of a unit at an epoch.

    Attributes:
        file: below the run.
        ratio: how strongly it excites the unit: 0 is the mean photo, 1 the best one; NaN where not known.
        chance: the same of the pictures of other units; NaN where not known.
    """

    file: str
    ratio: float
    chance: float


def picture_file(run: RunFolder, name: str) -> Path | None:
    """A picture that a table names, if it is there and inside the run.

    Args:
        run: whose.
        name: below the run, as tables have it.
    """
    path = (run.root / name).resolve()
    return path if path.is_relative_to(run.root.resolve()) and path.is_file() else None


def read_picture(run: RunFolder, name: str) -> Image:
    """The pixels of a picture that a table names, RGB.

    Raises:
        InputError: it is not there, outside the run, or no picture.
    """
    from PIL import Image

    path = picture_file(run, name)
    if path is None:
        raise InputError("a picture of this run has gone", where=name, hint="make it again: cmon picture")
    try:
        with Image.open(path) as opened:
            return opened.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(
            f"a picture cannot be read: {error}", where=path, hint="make it again: cmon picture"
        ) from error


def made_pictures(run: RunFolder) -> dict[str, dict[tuple[int, int], MadePicture]]:
    """Layer -> (epoch, unit) -> the picture that `cmon picture` made last; those whose files are there.

    Raises:
        InputError: a file is there and is no such table.
    """
    table = run.table("pictures")
    if table is None:
        return {}
    found: dict[str, dict[tuple[int, int], MadePicture]] = {}
    for row in table[table["objective"].isin(_OF_UNITS)].to_dict("records"):
        place = (int(row["epoch"]), int(row["unit"]))
        own = found.setdefault(str(row["layer"]), {})
        if place not in own and picture_file(run, str(row["file"])) is not None:
            own[place] = MadePicture(str(row["file"]), float(row["ratio"]), float(row["ratio_chance"]))
    return {layer: own for layer, own in found.items() if own}
