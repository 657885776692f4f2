"""Pictures beside each other, a row for each thing that is pictured, and photos beside them."""

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

_SIDE = 128
# More cannot be told apart.
_MOST_ROWS = 24


@dataclass(frozen=True)
class Row:
    """Pictures of one thing: several of a unit, or one for each epoch.

    Attributes:
        title: of what.
        said: more about it.
        pictures: `(s, s, 3)` each.
        notes: a few letters below each.
        photos: `(h, w, 3)` each, beside the pictures.
        photo_notes: below each.
    """

    title: str
    said: str
    pictures: Sequence[Pixels]
    notes: Sequence[str]
    photos: Sequence[Pixels]
    photo_notes: Sequence[str]


def picture_rows(rows: Sequence[Row], *, title: str) -> Figure:
    """A row for each thing: its pictures, then photos.

    Args:
        rows: the things.
        title: of the figure.
    """
    from matplotlib.figure import Figure

    rows = list(rows)[:_MOST_ROWS]
    count, photos = max(len(row.pictures) for row in rows), max(len(row.photos) for row in rows)
    with figure_style():
        width = max(1.2 * (count + photos) + 0.3, 0.062 * len(title))
        figure = Figure(figsize=(width, 1.55 * len(rows) + 0.5), layout="constrained")
        grid = figure.subplots(
            len(rows),
            count + 1 + photos,
            squeeze=False,
            width_ratios=[1] * count + [0.12] + [1] * photos,
            gridspec_kw={"hspace": 0.12},
        )
        for axes in grid.flat:
            axes.set_axis_off()
        for line, row in zip(grid, rows, strict=True):
            for axes, pixels, note in zip(line, row.pictures, row.notes, strict=False):
                _shown(axes, pixels, note)
            for axes, pixels, note in zip(line[count + 1 :], row.photos, row.photo_notes, strict=False):
                _shown(axes, pixels, note)
            # As a title it would push the first column aside.
            line[0].text(
                0,
                1.04,
                f"{row.title}   {row.said}",
                transform=line[0].transAxes,
                fontsize=7.5,
                color=INK,
                va="bottom",
                in_layout=False,
            )
        figure.suptitle(title, fontsize=9)
    return figure


def _shown(axes: Axes, pixels: Pixels, note: str) -> None:
    axes.imshow(thumbnail(pixels, side=_SIDE), interpolation="lanczos")
    said = note if len(note) <= 24 else note[:23].rstrip() + "…"
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
