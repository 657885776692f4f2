"""Pictures of the concept space: figures 3, 12, 13 and 14 of Concept-Monitor."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from concept_monitor_cli.monitor.epochs import evenly
from concept_monitor_cli.report.style import (
    ANCHOR_COLOUR,
    CATEGORY_COLOURS,
    FOLLOWED_COLOURS,
    INK,
    OTHER_COLOUR,
    UNIT_COLOUR,
    figure_style,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# A picture with more panels cannot be read; the epochs in between are left out, evenly.
_MOST_PANELS = 6
_PANEL_INCHES = 3.4
# Up to this many anchors are written beside their stars; more are numbered, with a legend under the picture.
_MOST_WRITTEN_ANCHORS = 12
_IN_A_LINE = 6
# The width of a star or of a followed unit, as a share of a panel's.
_DOT = 0.026
_UNSURE = "unit, not beyond chance"


def _limits(frames: Sequence[pd.DataFrame]) -> tuple[tuple[float, float], tuple[float, float]]:
    spans = []
    for axis in ("x", "y"):
        values = np.concatenate([frame[axis].to_numpy(dtype=float) for frame in frames])
        low, high = float(values.min()), float(values.max())
        margin = 0.08 * (high - low) or 1.0
        spans.append((low - margin, high + margin))
    return spans[0], spans[1]


def _label(axes: Axes, text: str, xy: Any, colour: str, limits: Any, taken: list[Any]) -> None:
    """Write `text` beside a point, on the first side where it covers no earlier label."""
    (x0, x1), (y0, y1) = limits
    # The size of a label in data units, from the width of a 3.4-inch panel: near enough to keep them apart.
    width = 0.021 * (x1 - x0) * (len(text) + 1)
    height = 0.045 * (y1 - y0)
    dx, dy = 0.018 * (x1 - x0), 0.0
    places = []
    for step in range(7):
        for side in (1, -1):
            for lift in (1, -1) if step else (1,):
                x = xy[0] + dx if side > 0 else xy[0] - dx - width
                y = xy[1] + dy + lift * step * height * 0.8 - height / 2
                places.append((x, y))

    def overlap(place: tuple[float, float]) -> float:
        x, y = place
        covered = sum(
            max(0.0, min(x + width, a + w) - max(x, a)) * max(0.0, min(y + height, b + h) - max(y, b))
            for a, b, w, h in taken
        )
        outside = max(0.0, x0 - x) + max(0.0, x + width - x1) + max(0.0, y0 - y) + max(0.0, y + height - y1)
        return float(covered + outside * height)

    x, y = min(places, key=overlap)
    taken.append((x, y, width, height))
    axes.annotate(
        text,
        xy=xy,
        xytext=(x, y + height / 2),
        fontsize=7.5,
        color=colour,
        va="center",
        ha="left",
        zorder=6,
        arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.4, "alpha": 0.6, "shrinkA": 0, "shrinkB": 2},
        bbox={"boxstyle": "round,pad=0.12", "fc": "white", "ec": "none", "alpha": 0.75},
    )


def _draw_anchors(axes: Axes, anchors: pd.DataFrame, limits: Any, taken: list[Any]) -> None:
    if not len(anchors):
        return
    axes.scatter(
        anchors["x"], anchors["y"], marker="*", s=85, c=ANCHOR_COLOUR, edgecolors="white", lw=0.5, zorder=5
    )
    for number, row in enumerate(anchors.itertuples()):
        text = str(row.anchor) if len(anchors) <= _MOST_WRITTEN_ANCHORS else str(number)
        _label(axes, text, (row.x, row.y), ANCHOR_COLOUR, limits, taken)


def _dots(frames: Sequence[pd.DataFrame], limits: Any) -> list[Any]:
    """The places that stars and followed units take, which no label may cover: `(x, y, width, height)`."""
    (x0, x1), (y0, y1) = limits
    wide, high = _DOT * (x1 - x0), _DOT * (y1 - y0)
    return [
        (x - wide / 2, y - high / 2, wide, high)
        for frame in frames
        for x, y in zip(frame["x"], frame["y"], strict=True)
    ]


def _frame(axes: Axes, limits: Any) -> None:
    axes.set_xlim(*limits[0])
    axes.set_ylim(*limits[1])
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(True)


def _by_category(units: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame]]:
    """Units by what they are named after: name, colour and rows; those without a sure name come first."""
    named = units["interpretable"].astype(bool) & (units["category"] != "")
    own = [name for name in CATEGORY_COLOURS if (named & (units["category"] == name)).any()]
    others = named & ~units["category"].isin(own)
    groups = [(_UNSURE, UNIT_COLOUR, units[~named]), ("other", OTHER_COLOUR, units[others])]
    groups += [(name, CATEGORY_COLOURS[name], units[named & (units["category"] == name)]) for name in own]
    return [group for group in groups if len(group[2])]


def _scatter(axes: Axes, units: pd.DataFrame, size: float) -> None:
    for name, colour, own in _by_category(units):
        alpha = 0.55 if name == _UNSURE else 0.85
        axes.scatter(own["x"], own["y"], s=size, c=colour, alpha=alpha, lw=0, zorder=2, rasterized=True)


def _legend(figure: Figure, units: pd.DataFrame, anchors: pd.DataFrame, tracked: Sequence[int]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], marker="o", ls="", color=colour, ms=5, label=name)
        for name, colour, _ in _by_category(units)
    ]
    if len(anchors):
        handles.append(Line2D([], [], marker="*", ls="", color=ANCHOR_COLOUR, ms=9, label="anchor"))
    colours = itertools.cycle(FOLLOWED_COLOURS)
    handles += [
        Line2D([], [], marker="o", ls="", color=colour, ms=6, label=f"unit {unit}")
        for unit, colour in zip(tracked, colours, strict=False)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), _IN_A_LINE))
    if len(anchors) > _MOST_WRITTEN_ANCHORS:
        names = ", ".join(f"{i} {name}" for i, name in enumerate(anchors["anchor"]))
        figure.supxlabel(names, fontsize=7, wrap=True)


def embedding_panels(
    units: pd.DataFrame, anchors: pd.DataFrame, *, layer: str, tracked: Sequence[int] = ()
) -> Figure:
    """A panel per epoch: every unit of a layer, the anchors, and the tracked units with their concepts.

    Args:
        units: rows of `embedding.csv` of one layer and detector, with `category` and `interpretable`.
        anchors: rows of `anchors.csv`.
        layer: for the title.
        tracked: units drawn large and named.
    """
    from matplotlib.figure import Figure

    epochs = evenly(sorted(units["epoch"].unique().tolist()), _MOST_PANELS)
    columns = min(3, len(epochs))
    rows = math.ceil(len(epochs) / columns)
    limits = _limits([units, anchors] if len(anchors) else [units])
    with figure_style():
        figure = Figure(figsize=(columns * _PANEL_INCHES, rows * _PANEL_INCHES + 0.5), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat[len(epochs) :]:
            axes.set_visible(False)
        for axes, epoch in zip(grid.flat, epochs, strict=False):
            now = units[units["epoch"] == epoch]
            _scatter(axes, now, 9)
            taken = _dots([anchors, now[now["unit"].isin(tracked)]], limits)
            _draw_anchors(axes, anchors, limits, taken)
            for i, unit in enumerate(tracked):
                for row in now[now["unit"] == unit].itertuples():
                    colour = FOLLOWED_COLOURS[i % len(FOLLOWED_COLOURS)]
                    axes.scatter([row.x], [row.y], s=52, c=colour, edgecolors="white", lw=0.8, zorder=7)
                    _label(axes, f"{unit}: {row.concept}", (row.x, row.y), colour, limits, taken)
            _frame(axes, limits)
            axes.set_title(f"epoch {epoch}", color=INK)
        _legend(figure, units, anchors, tracked)
        figure.suptitle(f"Units of {layer} in concept space", fontsize=11)
    return figure


def trajectories(units: pd.DataFrame, anchors: pd.DataFrame, *, layer: str, tracked: Sequence[int]) -> Figure:
    """The way of each tracked unit through concept space, from its first epoch (ring) to its last (arrow).

    Args:
        units: rows of `embedding.csv` of one layer and detector, with `category` and `interpretable`.
        anchors: rows of `anchors.csv`.
        layer: for the title.
        tracked: the units to follow.
    """
    from matplotlib.figure import Figure

    limits = _limits([units, anchors] if len(anchors) else [units])
    last = units["epoch"].max()
    with figure_style():
        figure = Figure(figsize=(6.4, 6.2), layout="constrained")
        axes = figure.subplots()
        now = units[units["epoch"] == last]
        _scatter(axes, now, 8)
        taken = _dots([anchors, units[units["unit"].isin(tracked)]], limits)
        _draw_anchors(axes, anchors, limits, taken)
        for i, unit in enumerate(tracked):
            path = units[units["unit"] == unit].sort_values("epoch")
            colour = FOLLOWED_COLOURS[i % len(FOLLOWED_COLOURS)]
            x, y = path["x"].to_numpy(), path["y"].to_numpy()
            if not len(path):
                continue
            axes.scatter(x[:1], y[:1], s=46, facecolors="white", edgecolors=colour, lw=1.4, zorder=4)
            axes.scatter(x[1:], y[1:], s=16, c=colour, zorder=4)
            for a in range(len(path) - 1):
                if x[a] != x[a + 1] or y[a] != y[a + 1]:
                    axes.annotate(
                        "",
                        xy=(x[a + 1], y[a + 1]),
                        xytext=(x[a], y[a]),
                        zorder=3,
                        arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.2, "alpha": 0.85},
                    )
            # Each concept is named once, where the unit first has it.
            for row in path.drop_duplicates("concept").itertuples():
                _label(axes, f"{row.epoch}: {row.concept}", (row.x, row.y), colour, limits, taken)
        _frame(axes, limits)
        axes.set_title(f"Tracked units of {layer}, epoch {units['epoch'].min()} to {last}", color=INK)
        _legend(figure, now, anchors, tracked)
    return figure
