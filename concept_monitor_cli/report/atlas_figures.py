"""The activation atlas as a map: a picture, a patch of a photo and words for each cell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from concept_monitor_cli.report.style import CAPTION_COLOUR, INK, figure_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Pixels = NDArray[np.uint8]

# The smallest icon, as a share of the side of a cell; the largest fills it.
_SMALLEST = 0.45
# Words for more cells than these a row or column cannot be read.
_MOST_WORDS, _POINTS = 12, 5.5
_LETTERS = 13


@dataclass(frozen=True)
class Region:
    """A cell of an atlas.

    Attributes:
        x, y: column and row, from the left and from below.
        count: samples in it.
        concept, label: its concept and class; empty for none.
        photo: `(h, w, 3)`, the patch of a photo nearest to its mean.
        tile: `(s, s, 3)`, its picture; `None` where none was made.
    """

    x: int
    y: int
    count: int
    concept: str
    label: str
    photo: Pixels
    tile: Pixels | None


def icon_sides(counts: Sequence[int]) -> list[float]:
    """The side of each icon as a share of its cell's: the area grows with the logarithm of the count."""
    most = math.log1p(max(counts))
    return [max(_SMALLEST, math.sqrt(math.log1p(count) / most)) for count in counts]


def _short(text: str) -> str:
    return text if len(text) <= _LETTERS else text[: _LETTERS - 1].rstrip() + "…"


def _window(regions: Sequence[Region], side: int) -> tuple[int, int, int, int]:
    """The columns and rows that hold all cells: the first ones, and how many of each."""
    if not regions:
        return 0, 0, side, side
    left, right = min(each.x for each in regions), max(each.x for each in regions)
    low, high = min(each.y for each in regions), max(each.y for each in regions)
    return left, low, right - left + 1, high - low + 1


def _icons(
    axes: Axes, regions: Sequence[Region], window: tuple[int, int, int, int], images: Sequence[Pixels]
) -> None:
    for region, share, pixels in zip(
        regions, icon_sides([each.count for each in regions]), images, strict=True
    ):
        half = 0.46 * share
        x, y = region.x + 0.5, region.y + 0.5
        axes.imshow(
            pixels,
            extent=(x - half, x + half, y - half, y + half),
            interpolation="lanczos",
            aspect="auto",
        )
    left, low, columns, rows = window
    axes.set_xlim(left, left + columns)
    axes.set_ylim(low, low + rows)
    axes.set_aspect("equal")
    # A part of the map at each epoch: which, the numbers of its cells say, as the table has them.
    axes.set_xticks([left + n + 0.5 for n in range(columns)], [str(left + n) for n in range(columns)])
    axes.set_yticks([low + n + 0.5 for n in range(rows)], [str(low + n) for n in range(rows)])
    axes.tick_params(length=0, labelsize=6, labelcolor=CAPTION_COLOUR)
    axes.grid(visible=False)


def _words(axes: Axes, regions: Sequence[Region]) -> None:
    for region in regions:
        lines = [_short(text) for text in (region.concept, region.label) if text]
        axes.text(
            region.x + 0.5,
            region.y + 0.02,
            "\n".join(lines),
            ha="center",
            va="bottom",
            fontsize=_POINTS,
            color=INK,
            bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.6},
        )


def atlas_map(regions: Sequence[Region], side: int, *, title: str, x_axis: str = "") -> Figure:
    """The cells at their places: pictures, and beside them the patch of a photo nearest to each cell's mean.

    Of a map whose outer parts are empty the rest is drawn, with the numbers of cells at its edges.

    Args:
        regions: the cells that have enough samples.
        side: rows and columns of cells.
        title: layer and epoch.
        x_axis: what left and right mean; empty where directions mean nothing.
    """
    from matplotlib.figure import Figure

    made = [each.tile for each in regions if each.tile is not None]
    pictured = bool(regions) and len(made) == len(regions)
    window = _window(regions, side)
    _, _, columns, rows = window
    cell = min(0.9, 11 / max(columns, rows))
    width, height = max(3.5, cell * columns), max(3.0, cell * rows)
    with figure_style():
        figure = Figure(figsize=(width * (2 if pictured else 1) + 0.3, height + 0.6), layout="constrained")
        panels = figure.subplots(1, 2 if pictured else 1, squeeze=False)[0]
        if pictured:
            _icons(panels[0], regions, window, made)
            panels[0].set_title("made: what each cell's mean looks for", color=INK)
        if regions:
            _icons(panels[-1], regions, window, [each.photo for each in regions])
        panels[-1].set_title("photos: the patch nearest to each cell's mean", color=INK)
        for axes in panels:
            if max(columns, rows) <= _MOST_WORDS:
                _words(axes, regions)
            axes.set_xlabel(x_axis or "near places: alike", color=CAPTION_COLOUR)
        figure.suptitle(title, fontsize=10.5, color=INK)
    return figure
