"""Numbers of a layer over the epochs, with what chance gives for them as dashed lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from concept_monitor_cli.monitor.history import natural
from concept_monitor_cli.monitor.statistics import ALL
from concept_monitor_cli.report.style import GRID_COLOUR, INK, TRACK_COLOURS, figure_style, titled

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FLOOR_STYLES = ((0, (5, 2)), (0, (1.5, 1.5)))


@dataclass(frozen=True)
class _Number:
    """A column of `statistics.csv`, and the columns that it is to be compared with."""

    column: str
    label: str
    floors: tuple[tuple[str, str], ...]


_NUMBERS = (
    _Number(
        "spread",
        "spread",
        (
            ("spread_floor_random", "random weights"),
            ("spread_floor_halves", "one unit, two halves of the images"),
        ),
    ),
    _Number("effective_units", "different units", (("effective_units_chance", "independent units"),)),
    _Number("held_out", "held out", (("held_out_chance", "labels of other units"),)),
)


def has_floors(statistics: pd.DataFrame) -> bool:
    """Whether there is a number with a floor to draw."""
    return bool(_drawn(statistics))


def beside_floors(statistics: pd.DataFrame) -> Figure:
    """Spread, different units and held-out labels against epoch, each with its floors: a row per number.

    A column of panels is a layer. Numbers that no layer has, or that have no floor, are left out.

    Args:
        statistics: rows of `statistics.csv` of one detector, for which `has_floors`.
    """
    from matplotlib.figure import Figure

    numbers = _drawn(statistics)
    whole = statistics[statistics["category"] == ALL]
    layers = sorted({str(layer) for layer in whole["layer"]}, key=natural)
    with figure_style():
        size = (max(3.4, 2.6 * len(layers)), 2.3 * len(numbers) + 0.5)
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(len(numbers), len(layers), squeeze=False, sharey="row", sharex=True)
        for line, number in zip(grid, numbers, strict=True):
            for axes, layer in zip(line, layers, strict=True):
                _draw(axes, whole[whole["layer"] == layer].sort_values("epoch"), number)
            line[0].set_ylabel(number.label)
            line[0].set_ylim(0, 1.08 * line[0].get_ylim()[1])
            line[0].legend(fontsize=6.5, loc="best", framealpha=0.8)
        for axes, layer in zip(grid[0], layers, strict=True):
            axes.set_title(layer, color=INK)
        for axes in grid[-1]:
            axes.set_xlabel("epoch")
        titled(figure, "Layers beside their floors of chance")
    return figure


def _drawn(statistics: pd.DataFrame) -> Sequence[_Number]:
    whole = statistics[statistics["category"] == ALL]
    return [
        number
        for number in _NUMBERS
        if whole[number.column].notna().any() and any(whole[name].notna().any() for name, _ in number.floors)
    ]


def _draw(axes: Axes, rows: pd.DataFrame, number: _Number) -> None:
    from matplotlib.ticker import MaxNLocator

    epochs = rows["epoch"].to_numpy()
    colour = TRACK_COLOURS[0]
    axes.plot(epochs, rows[number.column], color=colour, marker="o", ms=4.5, lw=1.5, label=number.label)
    for (column, label), style in zip(number.floors, _FLOOR_STYLES, strict=False):
        floor = rows[column]
        if not floor.notna().any():
            continue
        if floor.nunique() == 1:  # one value for all epochs, seen also where there is one epoch
            axes.axhline(float(floor.dropna().iloc[0]), color=INK, lw=1.1, ls=style, label=label)
        else:
            axes.plot(epochs, floor, color=INK, lw=1.1, ls=style, label=label)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=1))
    axes.grid(axis="y", color=GRID_COLOUR, lw=0.7)
    axes.set_axisbelow(True)
