"""The pictures that `cmon picture` made of units, as a page carries them: small, many to a sheet."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from concept_monitor_cli.monitor.history import History
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.report.images import Sheets, make_sheets
from concept_monitor_cli.report.page.pictures import by_certainty
from concept_monitor_cli.run import RunFolder
from concept_monitor_cli.run.made import MadePicture, made_pictures, read_picture

#: Of the space of a page's images, the most that pictures take; photos have the rest.
SHARE = 0.25


@dataclass
class UnitPictures:
    """The pictures of a page.

    Attributes:
        units: for each layer of the page, (epoch, unit) -> the picture and its place in the sheets; empty
            where no layer has any.
        sheets: the thumbnails.
        left_out: what did not fit or cannot be read, each one sentence.
    """

    units: list[dict[tuple[int, int], tuple[MadePicture, int]]] = field(default_factory=list)
    sheets: Sheets = field(default_factory=Sheets)
    left_out: list[str] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """Of all thumbnails together."""
        return sum(map(len, self.sheets.uris))

    def to_json(self, first: int) -> list[dict[str, dict[str, list[float | None]]]]:
        """For each layer epoch -> unit -> place, ratio and that of other units' pictures.

        Args:
            first: the place of the first picture: after those of the photos.
        """
        found: list[dict[str, dict[str, list[float | None]]]] = []
        for own in self.units:
            epochs: dict[str, dict[str, list[float | None]]] = {}
            for (epoch, unit), (made, place) in own.items():
                numbers = [first + place, _number(made.ratio), _number(made.chance)]
                epochs.setdefault(str(epoch), {})[str(unit)] = numbers
            found.append(epochs)
        return found


def _number(value: float) -> float | None:
    return round(value, 2) if math.isfinite(value) else None


def unit_pictures(
    run: RunFolder,
    histories: Sequence[History],
    *,
    tracked: Sequence[int] = (),
    max_bytes: int,
    progress: Progress = SILENT,
) -> UnitPictures:
    """Thumbnails of the pictures of as many units as there is room for.

    As with photos, tracked units come first, then those that are interpretable most of the time, a unit of
    each layer in turn; each with its pictures of all epochs, the last one first.

    Args:
        run: whose.
        histories: the layers of the page.
        tracked: units to take first.
        max_bytes: of all thumbnails together.
        progress: told of the drawing.

    Raises:
        InputError: a file is there and is no such table.
    """
    known = made_pictures(run)
    wanted: dict[tuple[str, int, int], MadePicture] = {}
    for layer, place in _in_turn(histories, tracked):
        if place in known.get(layer, {}):
            wanted[(layer, *place)] = known[layer][place]
    if not wanted:
        return UnitPictures()
    files = [made.file for made in wanted.values()]
    sheets = make_sheets(
        lambda number: read_picture(run, files[number]),
        range(len(files)),
        max_bytes=max_bytes,
        progress=progress,
    )
    shown = {key: (made, place) for place, (key, made) in enumerate(wanted.items())}
    shown = {key: each for key, each in shown.items() if each[1] < len(sheets.numbers)}
    result = UnitPictures([], sheets)
    for history in histories:
        epochs = set(history.epochs.tolist())
        result.units.append(
            {
                (epoch, unit): each
                for (layer, epoch, unit), each in shown.items()
                if layer == history.layer and epoch in epochs
            }
        )
    if sheets.left_out:
        result.left_out.append(
            f"{sheets.left_out:,} pictures made of less certain units are left out (--image-megabytes)."
        )
    if sheets.unreadable:
        result.left_out.append(f"{sheets.unreadable:,} pictures of units cannot be read: they are grey.")
    return result


def _in_turn(histories: Sequence[History], tracked: Sequence[int]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Layers, epochs and units in the order in which their pictures are wanted."""
    orders = [by_certainty(history, tracked) for history in histories]
    for turn in range(max(map(len, orders), default=0)):
        for history, order in zip(histories, orders, strict=True):
            if turn < len(order):
                for epoch in reversed(history.epochs.tolist()):
                    yield history.layer, (epoch, int(history.units[order[turn]]))
