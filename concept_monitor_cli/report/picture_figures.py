"""Pictures of units beside their best photos: contact sheets, rows over the epochs, strengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from concept_monitor_cli.monitor.epochs import evenly
from concept_monitor_cli.report.style import CAPTION_COLOUR, INK, TRACK_COLOURS, figure_style
from concept_monitor_cli.report.unit_figures import thumbnail

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Pixels = NDArray[np.uint8]

_COLUMNS = 4
_SIDE = 128
# More cannot be told apart.
_MOST_UNITS, _MOST_EPOCHS = 64, 8


@dataclass(frozen=True)
class Cell:
    """A picture in a figure.

    Attributes:
        unit: whose.
        concept: the unit's, empty for none.
        picture: `(s, s, 3)`.
        photo: `(h, w, 3)`, the probing image that excites the unit most.
        ratio: how far above the photos the picture excites it: 1 is the best photo; None where that has no
            meaning.
        chance: the same of other units' pictures; None for none.
        note: more to say.
    """

    unit: int
    concept: str
    picture: Pixels
    photo: Pixels
    ratio: float | None
    chance: float | None
    note: str = ""

    @property
    def title(self) -> str:
        """`3: dog`."""
        return f"{self.unit}: {self.concept}" if self.concept else str(self.unit)

    @property
    def strength(self) -> str:
        """`strength 2.9, others' pictures 0.1`."""
        if self.ratio is None:
            return "dead on the photos"
        other = "" if self.chance is None else f", others' pictures {self.chance:.1f}"
        return f"strength {self.ratio:.1f}{other}"


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def _image(axes: Axes, pixels: Pixels) -> None:
    axes.imshow(pixels, interpolation="lanczos")
    axes.set_axis_off()


def contact_sheet(cells: Sequence[Cell], *, layer: str, epoch: int) -> Figure:
    """The pictures of a layer at one epoch, each with the unit's best photo on its right.

    Args:
        cells: the pictures.
        layer: for the title.
        epoch: for the title.
    """
    from matplotlib.figure import Figure

    cells = list(cells)[:_MOST_UNITS]
    columns = min(_COLUMNS, len(cells))
    rows = -(-len(cells) // columns)
    with figure_style():
        figure = Figure(figsize=(2.6 * columns, 1.75 * rows + 0.45), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for axes, cell in zip(grid.flat, cells, strict=False):
            white = np.full((_SIDE, 6, 3), 255, dtype=np.uint8)
            both = [thumbnail(cell.picture, side=_SIDE), white, thumbnail(cell.photo, side=_SIDE)]
            _image(axes, np.concatenate(both, axis=1))
            axes.set_title(_short(cell.title, 34), fontsize=8, color=INK, loc="left", pad=12)
            said = cell.strength + (f"; {cell.note}" if cell.note else "")
            axes.text(
                0,
                1.02,
                _short(said, 44),
                transform=axes.transAxes,
                fontsize=6.5,
                color=CAPTION_COLOUR,
                va="bottom",
            )
        figure.suptitle(
            f"{layer}, epoch {epoch}: pictures, each with its unit's best photo (strength 1)", fontsize=10
        )
    return figure


def over_epochs(epochs: Mapping[int, Sequence[Cell]], *, layer: str) -> Figure:
    """A row for each unit and a column for each epoch; the last column is the best photo at the end.

    Args:
        epochs: epoch -> the pictures of the same units.
        layer: for the title.
    """
    from matplotlib.figure import Figure

    columns = evenly(list(epochs), _MOST_EPOCHS)
    units = [cell.unit for cell in epochs[columns[-1]]][:_MOST_UNITS]
    by_unit = {epoch: {cell.unit: cell for cell in epochs[epoch]} for epoch in columns}
    with figure_style():
        figure = Figure(
            figsize=(1.15 * (len(columns) + 1) + 0.9, 1.15 * len(units) + 0.6), layout="constrained"
        )
        grid = figure.subplots(len(units), len(columns) + 1, squeeze=False)
        for row, unit in zip(grid, units, strict=True):
            for axes, epoch in zip(row, columns, strict=False):
                cell = by_unit[epoch][unit]
                _image(axes, thumbnail(cell.picture, side=_SIDE))
                said = "" if cell.ratio is None else f"{cell.ratio:.1f}"
                axes.text(0.5, -0.02, said, transform=axes.transAxes, fontsize=6.5, va="top", ha="center")
            last = by_unit[columns[-1]][unit]
            _image(row[-1], thumbnail(last.photo, side=_SIDE))
            row[0].text(
                -0.08,
                0.5,
                _short(last.title, 18),
                transform=row[0].transAxes,
                fontsize=7,
                ha="right",
                va="center",
                color=INK,
            )
        for axes, epoch in zip(grid[0], columns, strict=False):
            axes.set_title(f"epoch {epoch}", fontsize=8, color=INK)
        grid[0, -1].set_title("best photo", fontsize=8, color=INK)
        figure.suptitle(f"{layer}: one start at all epochs; below, strength (best photo 1)", fontsize=9)
    return figure


def ratios(table: pd.DataFrame) -> Figure:
    """How far above the photos pictures excite their units over the epochs, beside other units' pictures.

    Args:
        table: rows of `pictures.csv`.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    layers = list(dict.fromkeys(table["layer"]))
    with figure_style():
        figure = Figure(figsize=(5.2, 3.4), layout="constrained")
        axes = figure.subplots()
        for number, layer in enumerate(layers):
            colour = TRACK_COLOURS[number % len(TRACK_COLOURS)]
            own = table[table["layer"] == layer].groupby("epoch")
            for column, style, said in (
                ("ratio", "-", layer),
                ("robust_ratio", ":", f"{layer}, warped"),
                ("ratio_chance", "--", f"{layer}, other units' pictures"),
            ):
                values = own[column].median()
                axes.plot(
                    values.index,
                    values.to_numpy(),
                    style,
                    color=colour,
                    label=said,
                    marker="." * (style == "-"),
                )
        axes.axhline(1, color=CAPTION_COLOUR, linewidth=0.8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch")
        axes.set_ylabel("activation (mean photo 0, best photo 1)")
        axes.set_title("How strongly pictures excite their units (medians)", color=INK)
        axes.legend(fontsize=7)
    return figure
