"""Pictures of counts: figures 4, 5, 6, 8, 9 and 16 of Concept-Monitor."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from concept_monitor_cli.monitor.epochs import evenly
from concept_monitor_cli.monitor.history import category_order, natural
from concept_monitor_cli.monitor.statistics import ALL
from concept_monitor_cli.report.style import (
    GRID_COLOUR,
    INK,
    TRACK_COLOURS,
    category_colour,
    figure_style,
    titled,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_PANELS = 6
_PANEL = (2.7, 2.7)
# Beside the colour, so that lines are told apart in grey and with any eyes.
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
# How many of the units called interpretable are so by luck: at most this share of them is expected.
_LUCK_LINE: dict[str, Any] = {"color": INK, "linestyle": "dashed", "linewidth": 1.1, "zorder": 3}


def _layers(*frames: pd.DataFrame) -> list[str]:
    return sorted({str(layer) for frame in frames for layer in frame["layer"]}, key=natural)


def _categories(*frames: pd.DataFrame) -> list[str]:
    return category_order({str(c) for frame in frames for c in frame["category"]} - {ALL})


def _count_axis(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=1))
    axes.grid(axis="y", color=GRID_COLOUR, lw=0.7)
    axes.set_axisbelow(True)


def _stack(
    axes: Axes, rows: pd.DataFrame, layers: Sequence[str], categories: Sequence[str], fdr: float
) -> None:
    """Stacked bars: a bar per layer, a piece per category, the total on top, luck as a dashed line."""
    counts = (
        rows.pivot_table(index="category", columns="layer", values="interpretable", aggfunc="sum")
        .reindex(index=list(categories), columns=list(layers), fill_value=0)
        .fillna(0)
        .to_numpy(dtype=float)
    )
    bottom = np.zeros(len(layers))
    x = np.arange(len(layers))
    for category, values in zip(categories, counts, strict=True):
        axes.bar(x, values, 0.72, bottom, color=category_colour(category), edgecolor="white", lw=0.6)
        bottom += values
    for place, total in zip(x, bottom, strict=True):
        axes.annotate(
            f"{total:.0f}", (place, total), (0, 2), textcoords="offset points", ha="center", fontsize=7.5
        )
    axes.hlines(fdr * bottom, x - 0.45, x + 0.45, **_LUCK_LINE)
    long = max((len(layer) for layer in layers), default=0) * len(layers) > 28
    axes.set_xticks(x, list(layers), rotation=35 if long else 0, ha="right" if long else "center")
    axes.set_xlim(-0.6, len(layers) - 0.4)
    _count_axis(axes)


def _from_zero(panels: Iterable[Axes]) -> None:
    """Zero at the bottom, also without a single unit, and room for the totals at the top."""
    # All heights first: panels may share their axis.
    tops = [(axes, axes.get_ylim()[1]) for axes in panels]
    for axes, top in tops:
        axes.set_ylim(0, max(1, 1.06 * top))


def _category_legend(figure: Figure, categories: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=category_colour(category), label=category) for category in categories]
    _legend_with_luck(figure, handles)


def _legend_with_luck(figure: Figure, handles: Sequence[Artist]) -> None:
    from matplotlib.lines import Line2D

    handles = [*handles, Line2D([], [], label="by luck, of all: at most", **_LUCK_LINE)]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 4))


def categories_by_layer(statistics: pd.DataFrame, *, fdr: float) -> Figure:
    """Interpretable units per layer, stacked by category, a panel per epoch (figure 4).

    Args:
        statistics: rows of `statistics.csv` of one detector.
        fdr: the share of false calls that the run allows: that many are expected by luck, at most.
    """
    from matplotlib.figure import Figure

    layers, categories = _layers(statistics), _categories(statistics)
    epochs = evenly(sorted(statistics["epoch"].unique().tolist()), _MOST_PANELS)
    columns = min(3, len(epochs))
    lines = math.ceil(len(epochs) / columns)
    width = max(_PANEL[0], 0.55 * len(layers) + 0.9)
    with figure_style():
        figure = Figure(figsize=(columns * width, lines * _PANEL[1] + 0.7), layout="constrained")
        grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
        for axes in grid.flat[len(epochs) :]:
            axes.set_visible(False)
        for axes, epoch in zip(grid.flat, epochs, strict=False):
            now = statistics[(statistics["epoch"] == epoch) & (statistics["category"] != ALL)]
            _stack(axes, now, layers, categories, fdr)
            axes.set_title(f"epoch {epoch}", color=INK)
        _from_zero(grid.flat)
        for axes in grid[:, 0]:
            axes.set_ylabel("interpretable units")
        _category_legend(figure, categories)
        titled(figure, "Interpretable units of each layer")
    return figure


def categories_side_by_side(runs: Mapping[str, pd.DataFrame], *, fdr: Mapping[str, float]) -> Figure:
    """Interpretable units per layer, stacked by category: a column per run, a row per epoch (figures 6, 16).

    Rows are up to three epochs that all runs have, and the last epoch of each run where these differ.

    Args:
        runs: name -> rows of `statistics.csv` of one detector.
        fdr: of each run.
    """
    from matplotlib.figure import Figure

    frames = list(runs.values())
    layers, categories = _layers(*frames), _categories(*frames)
    common = sorted(set.intersection(*(set(frame["epoch"].tolist()) for frame in frames)))
    last = [int(frame["epoch"].max()) for frame in frames]
    alike = len(set(last)) == 1
    chosen = [[epoch] * len(frames) for epoch in evenly(common, 3 if alike else 2)]
    if not alike:
        chosen.append(last)
    width = max(_PANEL[0] + 0.3, 0.6 * len(layers) + 0.9)
    with figure_style():
        figure = Figure(figsize=(len(runs) * width, len(chosen) * _PANEL[1] + 0.7), layout="constrained")
        grid = figure.subplots(len(chosen), len(runs), squeeze=False, sharey="row")
        for line, epochs in zip(grid, chosen, strict=True):
            for axes, (name, frame), epoch in zip(line, runs.items(), epochs, strict=True):
                now = frame[(frame["epoch"] == epoch) & (frame["category"] != ALL)]
                _stack(axes, now, layers, categories, fdr[name])
                axes.set_title(f"{name}, epoch {epoch}", color=INK)
            line[0].set_ylabel("interpretable units")
        _from_zero(grid.flat)
        _category_legend(figure, categories)
        titled(figure, "Interpretable units of each run")
    return figure


def categories_over_epochs(statistics: pd.DataFrame, *, fdr: float) -> Figure:
    """Interpretable units against epoch, a line per category, a panel per layer (figure 8).

    Args:
        statistics: rows of `statistics.csv` of one detector.
        fdr: the share of false calls that the run allows: that many are expected by luck, at most.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    layers, categories = _layers(statistics), _categories(statistics)
    columns = min(3, len(layers))
    lines = math.ceil(len(layers) / columns)
    with figure_style():
        figure = Figure(figsize=(columns * 3.1, lines * 2.6 + 0.7), layout="constrained")
        grid = figure.subplots(lines, columns, squeeze=False)
        for axes in grid.flat[len(layers) :]:
            axes.set_visible(False)
        for axes, layer in zip(grid.flat, layers, strict=False):
            for number, category in enumerate(categories):
                rows = statistics[(statistics["layer"] == layer) & (statistics["category"] == category)]
                rows = rows.sort_values("epoch")
                axes.plot(rows["epoch"], rows["interpretable"], **_line(category, number))
            whole = statistics[(statistics["layer"] == layer) & (statistics["category"] == ALL)]
            whole = whole.sort_values("epoch")
            axes.plot(whole["epoch"], fdr * whole["interpretable"], label="luck", **_LUCK_LINE)
            axes.set_title(layer, color=INK)
            axes.set_xlabel("epoch")
            axes.set_ylim(bottom=0)
            _count_axis(axes)
            _whole_numbers(axes)
        for axes in grid[:, 0]:
            axes.set_ylabel("interpretable units")
        _legend_with_luck(
            figure, [Line2D([], [], label=name, **_line(name, i)) for i, name in enumerate(categories)]
        )
        titled(figure, "Interpretable units over the epochs")
    return figure


def _line(category: str, number: int) -> dict[str, Any]:
    return {
        "color": category_colour(category),
        "marker": _MARKERS[number % len(_MARKERS)],
        "ms": 4.5,
        "lw": 1.5,
        "mec": "white",
        "mew": 0.5,
    }


def _whole_numbers(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))


def _series_line(number: int) -> dict[str, Any]:
    return {
        "color": TRACK_COLOURS[number % len(TRACK_COLOURS)],
        "marker": _MARKERS[number % len(_MARKERS)],
        "ms": 4.5,
        "lw": 1.5,
        "mec": "white",
        "mew": 0.5,
    }


def interpretable_against_sparsity(pruning: pd.DataFrame) -> Figure:
    """Interpretable units against the share of weights that are zero, a line per series, a panel per layer.

    Figures 5a and 9. The first panel is the accuracy, where any checkpoint states it. Where the sparsity of a
    stage is unknown, the stages are numbered instead.

    Args:
        pruning: rows of `pruning.csv` of one detector.
    """
    known = bool(pruning["sparsity"].notna().all())
    frame = pruning.assign(percent=100 * pruning["sparsity"], accuracy=100 * pruning["accuracy"])
    panels = [
        _Panel(layer, frame[frame["layer"] == layer], "interpretable", "interpretable units", counts=True)
        for layer in _layers(frame)
    ]
    if frame["accuracy"].notna().any():
        # The same in every layer.
        rows = frame.drop_duplicates(["series", "stage"])
        panels.insert(0, _Panel("accuracy", rows, "accuracy", "accuracy [%]"))
    return _panels_of_lines(
        panels,
        x="percent" if known else "stage",
        xlabel="weights that are zero [%]" if known else "stage of pruning",
        title="Interpretable units while the network is pruned",
    )


def retention_against_percent(retention: pd.DataFrame) -> Figure:
    """Share of the x % most interpretable units that keep their concept through every stage (figure 5b).

    A dotted line is what chance gives.

    Args:
        retention: rows of `retention.csv` of one detector.
    """
    frame = retention.assign(share=100 * retention["retention"], chance=100 * retention["by_chance"])
    panels = [
        _Panel(layer, frame[frame["layer"] == layer], "share", "keep their concept [%]", chance="chance")
        for layer in _layers(frame)
    ]
    return _panels_of_lines(
        panels,
        x="percent",
        xlabel="most interpretable units taken [%]",
        title="Of the most interpretable units, how many keep their concept?",
    )


@dataclass(frozen=True)
class _Panel:
    """Lines in one pair of axes: of counts, else of per cent; `chance` is the column of what chance gives."""

    title: str
    rows: pd.DataFrame
    y: str
    ylabel: str
    counts: bool = False
    chance: str = ""


def _panels_of_lines(panels: Sequence[_Panel], *, x: str, xlabel: str, title: str) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    series = list(dict.fromkeys(name for panel in panels for name in panel.rows["series"]))
    columns = min(3, len(panels))
    lines = math.ceil(len(panels) / columns)
    handles = [Line2D([], [], label=name, **_series_line(i)) for i, name in enumerate(series)]
    handles = handles if len(series) > 1 else []
    if any(panel.chance for panel in panels):
        handles.append(Line2D([], [], label="by chance", color=INK, ls=":", lw=1.2))
    legend = 0.5 if handles else 0.1
    with figure_style():
        figure = Figure(figsize=(columns * 3.2, lines * 2.7 + legend), layout="constrained")
        grid = figure.subplots(lines, columns, squeeze=False)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        for axes, panel in zip(grid.flat, panels, strict=False):
            for number, name in enumerate(series):
                rows = panel.rows[panel.rows["series"] == name].sort_values(x)
                line = _series_line(number)
                axes.plot(rows[x], rows[panel.y], **line)
                if panel.chance:
                    axes.plot(rows[x], rows[panel.chance], color=line["color"], ls=":", lw=1.2)
            axes.set_title(panel.title, color=INK)
            axes.set_xlabel(xlabel)
            axes.set_ylabel(panel.ylabel)
            if panel.counts:
                axes.set_ylim(0, 1.06 * max(1, panel.rows[panel.y].max()))
                _count_axis(axes)
            else:
                axes.set_ylim(0, 104)
                axes.grid(axis="y", color=GRID_COLOUR, lw=0.7)
            if x == "stage":
                _whole_numbers(axes)
        if handles:
            figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 4))
        titled(figure, title)
    return figure
