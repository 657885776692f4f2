"""The activation grid of an image: what a layer says at each place, as pictures, and where groups are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from concept_monitor_cli.report.style import INK, figure_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Pixels = NDArray[np.uint8]

_LETTERS = 18


@dataclass(frozen=True)
class GridGroup:
    """A group of units in an image.

    Attributes:
        name: what it is called.
        tile: `(s, s, 3)`, its picture.
        where: `(r, c)`, how much of it is at each place; at least 0.
    """

    name: str
    tile: Pixels
    where: NDArray[np.float64]


def mosaic(tiles: Sequence[Pixels], shape: tuple[int, int]) -> Pixels:
    """Pictures of one size side by side, row by row.

    Args:
        tiles: `(s, s, 3)` each, `rows * columns` of them.
        shape: rows and columns.
    """
    rows, columns = shape
    side = tiles[0].shape[0]
    found = np.stack(tiles).reshape(rows, columns, side, side, 3).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(found.reshape(rows * side, columns * side, 3))


def activation_grid(
    photo: Pixels, tiles: Sequence[Pixels], shape: tuple[int, int], groups: Sequence[GridGroup], *, title: str
) -> Figure:
    """The image, what was made of each of its places, and below the groups: picture, and where it is.

    Args:
        photo: `(h, w, 3)`, as the network sees it.
        tiles: of the places, row by row.
        shape: rows and columns of places.
        groups: of units.
        title: image, layer and epoch.
    """
    from matplotlib.figure import Figure

    columns = max(2, len(groups))
    with figure_style():
        figure = Figure(figsize=(1.35 * columns + 0.3, 0.68 * columns + 3.2), layout="constrained")
        grid = figure.add_gridspec(3, 2 * columns, height_ratios=(0.5 * columns, 1, 1))
        _image(figure.add_subplot(grid[0, :columns]), photo, "the image")
        _image(
            figure.add_subplot(grid[0, columns:]),
            mosaic(tiles, shape),
            "made: what the layer says at each place",
        )
        most = max([float(group.where.max()) for group in groups], default=1.0) or 1.0
        for number, group in enumerate(groups):
            place = slice(2 * number, 2 * number + 2)
            name = group.name if len(group.name) <= _LETTERS else group.name[: _LETTERS - 1] + "…"
            _image(figure.add_subplot(grid[1, place]), group.tile, name, 7)
            axes = figure.add_subplot(grid[2, place])
            axes.imshow(group.where, cmap="Purples", vmin=0, vmax=most, interpolation="nearest")
            _bare(axes, "where it is", 7)
        figure.suptitle(title, fontsize=10.5, color=INK)
    return figure


def _image(axes: Axes, pixels: Any, title: str, size: float = 9) -> None:
    axes.imshow(pixels, interpolation="lanczos")
    _bare(axes, title, size)


def _bare(axes: Axes, title: str, size: float) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.set_title(title, fontsize=size, color=INK)
