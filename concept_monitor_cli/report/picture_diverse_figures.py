"""Several pictures of a unit beside each other, and beside the groups into which its top photos fall."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from concept_monitor_cli.report.style import CAPTION_COLOUR, INK, figure_style
from concept_monitor_cli.report.unit_figures import thumbnail

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Pixels = NDArray[np.uint8]

#: Photos beside the pictures of a unit.
PHOTOS = 4
_SIDE = 128
# More cannot be told apart.
_MOST_UNITS = 24


@dataclass(frozen=True)
class Several:
    """The pictures of one unit.

    Attributes:
        title: whose.
        said: how unlike they are.
        pictures: `(s, s, 3)` each.
        notes: a few letters below each.
        photos: `(h, w, 3)` each, at most `PHOTOS`.
        photo_notes: below each; of a unit with groups, which group.
    """

    title: str
    said: str
    pictures: Sequence[Pixels]
    notes: Sequence[str]
    photos: Sequence[Pixels]
    photo_notes: Sequence[str]


def diverse_sheet(rows: Sequence[Several], *, layer: str, epoch: int) -> Figure:
    """A row for each unit: its pictures, then photos of each group, or its best ones.

    Args:
        rows: the units.
        layer: for the title.
        epoch: for the title.
    """
    from matplotlib.figure import Figure

    rows = list(rows)[:_MOST_UNITS]
    count = max(len(row.pictures) for row in rows)
    with figure_style():
        figure = Figure(figsize=(1.2 * (count + PHOTOS) + 0.3, 1.55 * len(rows) + 0.4), layout="constrained")
        grid = figure.subplots(
            len(rows),
            count + 1 + PHOTOS,
            squeeze=False,
            width_ratios=[1] * count + [0.12] + [1] * PHOTOS,
        )
        for axes in grid.flat:
            axes.set_axis_off()
        for line, row in zip(grid, rows, strict=True):
            for axes, pixels, note in zip(line, row.pictures, row.notes, strict=False):
                _shown(axes, pixels, note)
            for axes, pixels, note in zip(line[count + 1 :], row.photos, row.photo_notes, strict=False):
                _shown(axes, pixels, note)
            line[0].set_title(f"{row.title}   {row.said}", fontsize=7.5, color=INK, loc="left")
        figure.suptitle(
            f"{layer}, epoch {epoch}: {count} pictures of each unit, strength below (best photo 1); photos",
            fontsize=9,
        )
    return figure


def _shown(axes: Axes, pixels: Pixels, note: str) -> None:
    axes.imshow(thumbnail(pixels, side=_SIDE), interpolation="lanczos")
    said = note if len(note) <= 20 else note[:19].rstrip() + "…"
    axes.text(
        0.5,
        -0.03,
        said,
        transform=axes.transAxes,
        fontsize=6.5,
        va="top",
        ha="center",
        color=CAPTION_COLOUR,
    )
