"""Which units show which images in a page, within a number of bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from concept_monitor_cli.monitor.history import History
from concept_monitor_cli.probe import ProbeSet
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.report.images import Sheets, make_sheets
from concept_monitor_cli.report.page.pack import integers
from concept_monitor_cli.wording import counted

# (a layer, column of its history) -> `C x K` numbers of images, strongest first, -1 for none, if known.
TopImages = Callable[[History, int], "NDArray[np.int64] | None"]


@dataclass
class Pictures:
    """The images of a page.

    Attributes:
        series: per layer and detector, which units show which images; `None` where none does.
        sheets: the thumbnails.
        names: what the images are called, by their place in the sheets.
        units: how many units show images.
        missing: why there are none, for the reader; empty where there are some.
        left_out: what did not fit, each one sentence.
    """

    series: list[dict[str, Any] | None]
    sheets: Sheets = field(default_factory=Sheets)
    names: list[str] = field(default_factory=list)
    units: int = 0
    missing: str = ""
    left_out: list[str] = field(default_factory=list)


def known_images(history: History, top: TopImages, per_unit: int) -> NDArray[np.int64] | None:
    """The favourite images of every unit of a layer at every epoch.

    Returns:
        `T x C x per_unit` numbers of images, -1 for none (also for dead units, whose favourites are only the
        first of the set); `None` where nothing is known at any epoch.
    """
    result = np.full((len(history.epochs), len(history.units), per_unit), -1, dtype=np.int64)
    found = False
    for column in range(len(history.epochs)):
        array = top(history, column)
        if array is None:
            continue
        found = True
        chosen = array[history.units, :per_unit]
        result[column, :, : chosen.shape[1]] = chosen
    result[~history.live.T] = -1
    return result if found else None


def draw_pictures(
    histories: Sequence[History],
    known: Sequence[NDArray[np.int64] | None],
    probe: ProbeSet,
    *,
    tracked: Sequence[int] = (),
    before: Sequence[int] = (),
    max_bytes: int,
    progress: Progress = SILENT,
) -> Pictures:
    """Thumbnails for as many units as there is room for.

    First come the tracked units, then those of every layer that are interpretable most of the time. A unit
    brings its images of all epochs.

    Args:
        histories: the layers.
        known: for each, what `known_images` gives.
        probe: the images.
        tracked: units to take first.
        before: images to draw before those of any unit.
        max_bytes: of all thumbnails together.
        progress: told of the drawing.
    """
    orders = [by_certainty(history, tracked) for history in histories]
    sheets = make_sheets(
        probe.image, chain(before, _in_turn(orders, known)), max_bytes=max_bytes, progress=progress
    )
    result = Pictures([None] * len(histories), sheets, [probe.ids[number] for number in sheets.numbers])
    place_of = np.zeros(len(probe) + 1, dtype=np.int64)
    place_of[sheets.numbers] = np.arange(1, len(sheets.numbers) + 1)
    for i, array in enumerate(known):
        if array is None:
            continue
        # -1, "no image", finds the last entry, which is 0.
        places = place_of[array]
        rows = np.flatnonzero((places > 0).any(axis=(0, 2)))
        result.units += len(rows)
        result.series[i] = {
            "rows": integers(rows),
            "per": int(places.shape[2]),
            # Units x epochs x images, 0 for none.
            "places": integers(places[:, rows].transpose(1, 0, 2)),
        }
    _say_what_is_left_out(result, histories)
    return result


def _say_what_is_left_out(pictures: Pictures, histories: Sequence[History]) -> None:
    # Units that are dead all the time have no images to leave out.
    total = sum(int(history.live.any(axis=1).sum()) for history in histories)
    if pictures.units < total:
        pictures.left_out.append(
            f"{total - pictures.units:,} of {total:,} units are shown without images, to keep this page "
            "small: those of --units and the most certain ones of every layer come first (--image-megabytes)."
        )
    elif pictures.sheets.left_out:
        pictures.left_out.append(
            f"{pictures.sheets.left_out:,} images of less certain units are left out (--image-megabytes)."
        )
    if pictures.sheets.unreadable:
        pictures.left_out.append(
            f"{counted(pictures.sheets.unreadable, 'images')} cannot be read any more: they are grey."
        )
    if not pictures.sheets.numbers:
        pictures.missing = "No image fits into the space of --image-megabytes."


def by_certainty(history: History, tracked: Sequence[int] = ()) -> list[int]:
    """Rows of a layer: tracked units, then those interpretable at most epochs, then by score at the end."""
    score = np.nan_to_num(history.scores[:, -1], nan=-np.inf)
    wanted = np.isin(history.units, tracked)
    order = np.lexsort((history.units, -score, -history.interpretable.sum(axis=1), ~wanted))
    rows: list[int] = order.tolist()
    return rows


def _in_turn(orders: Sequence[list[int]], known: Sequence[NDArray[np.int64] | None]) -> Iterator[int]:
    """Images in the order in which they are wanted: a unit of each layer in turn, with all its epochs."""
    for turn in range(max(map(len, orders), default=0)):
        for order, array in zip(orders, known, strict=True):
            if array is not None and turn < len(order):
                own = array[:, order[turn]].reshape(-1)
                # Each once: of one unit the same images come at many epochs.
                yield from own[np.sort(np.unique(own, return_index=True)[1])].tolist()
