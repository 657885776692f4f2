"""Figures of circuits: a small graph for each unit, and which concepts are built of which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from concept_monitor_cli.report.style import ANCHOR_COLOUR, GRID_COLOUR, INK, TRACK_COLOURS, figure_style
from concept_monitor_cli.report.unit_figures import Pixels, thumbnail

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Images, each with the mask of where in it a unit fires, or None.
Shown: TypeAlias = Sequence[tuple[Pixels, NDArray[np.bool_] | None]]

EXCITES, INHIBITS = TRACK_COLOURS[0], ANCHOR_COLOUR
_LABEL = 26
_MOST = 24
# In units of the height of a node: where the three columns begin, and how far strips reach.
_COLUMNS = (0.0, 5.2, 10.4)
_STRIP, _SIDE = 3, 1.0


@dataclass(frozen=True)
class Node:
    """A unit in a graph.

    Attributes:
        layer, unit: which.
        concept: what it is called; empty for a dead one.
        sure: whether that is more than chance.
        images: those that excite it most.
    """

    layer: str
    unit: int
    concept: str
    sure: bool
    images: Shown


@dataclass(frozen=True)
class Edge:
    """What leads to a neighbour, or from it.

    Attributes:
        node: the neighbour.
        effect: positive where the earlier unit excites the later one.
        confident: whether it stands out among the edges of a network with random weights.
    """

    node: Node
    effect: float
    confident: bool


@dataclass(frozen=True)
class Circuit:
    """A unit and its neighbours, the strongest first."""

    node: Node
    feeds: Sequence[Edge]
    fed: Sequence[Edge]


def unit_circuits(circuits: Sequence[Circuit], *, layer: str, epoch: int) -> Figure:
    """A small graph for each unit: what feeds it on the left, what it feeds on the right.

    Blue edges excite, red ones inhibit; a line is as wide as its edge is strong among those of its side, and
    dashed where it does not stand out among edges of random weights.

    Args:
        circuits: the units.
        layer: theirs.
        epoch: when.
    """
    from matplotlib.figure import Figure

    heights = [max(1, len(each.feeds), len(each.fed)) for each in circuits]
    sides = any(each.fed for each in circuits)
    with figure_style():
        figure = Figure(
            figsize=(8.6 if sides else 5.6, 0.62 * sum(heights) + 0.5 * len(heights) + 0.5),
            layout="constrained",
        )
        panels = figure.subplots(len(circuits), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, circuit, height in zip(panels, circuits, heights, strict=True):
            _graph(axes, circuit, height, sides)
        figure.suptitle(
            f"{layer}, epoch {epoch}: what feeds each unit"
            + (", and what it feeds" if sides else "")
            + "\nblue excites, red inhibits; dashed: no more than random weights give",
            fontsize=9,
        )
    return figure


def _graph(axes: Axes, circuit: Circuit, height: int, sides: bool) -> None:
    middle = -(height - 1) / 2 * 1.25
    _node(axes, circuit.node, _COLUMNS[1], middle)
    for edges, column, inward in ((circuit.feeds, 0, True), (circuit.fed, 2, False)):
        most = max((abs(edge.effect) for edge in edges), default=1.0) or 1.0
        offset = (height - len(edges)) / 2
        for place, edge in enumerate(edges):
            y = -(place + offset) * 1.25
            _node(axes, edge.node, _COLUMNS[column], y)
            ends = (
                (_COLUMNS[0] + _STRIP + 0.05, y, _COLUMNS[1] - 0.1, middle)
                if inward
                else (_COLUMNS[1] + _STRIP + 0.05, middle, _COLUMNS[2] - 0.1, y)
            )
            _line(axes, ends, edge, most)
    axes.set_xlim(-0.1, (_COLUMNS[2] if sides else _COLUMNS[1]) + _STRIP + 0.2)
    axes.set_ylim(-(height - 1) * 1.25 - 0.6, 0.85)
    axes.set_aspect("equal")
    axes.set_axis_off()


def _line(axes: Axes, ends: tuple[float, float, float, float], edge: Edge, most: float) -> None:
    from matplotlib.patches import FancyArrowPatch

    colour = EXCITES if edge.effect > 0 else INHIBITS
    axes.add_patch(
        FancyArrowPatch(
            ends[:2],
            ends[2:],
            arrowstyle="-|>" if edge.effect > 0 else "|-|, widthA=0, widthB=0.25",
            mutation_scale=8,
            lw=0.6 + 2.6 * abs(edge.effect) / most,
            ls="-" if edge.confident else (0, (3, 2)),
            color=colour,
            shrinkA=0,
            shrinkB=0,
            zorder=2,
        )
    )
    near = 0.3 if ends[0] < _COLUMNS[1] else 0.7
    x, y = (ends[0] + near * (ends[2] - ends[0]), ends[1] + near * (ends[3] - ends[1]))
    axes.text(
        x,
        y,
        f"{edge.effect:+.2g}",
        fontsize=6,
        color=colour,
        ha="center",
        va="center",
        zorder=4,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4},
    )


def _node(axes: Axes, node: Node, x: float, y: float) -> None:
    for place, (image, mask) in enumerate(node.images[:_STRIP]):
        left = x + place * _SIDE
        axes.imshow(
            thumbnail(image, mask, 72),
            extent=(left + 0.03, left + 0.97, y - 0.5, y + 0.44),
            interpolation="lanczos",
            zorder=3,
        )
    if not node.images:
        from matplotlib.patches import Rectangle

        axes.add_patch(Rectangle((x, y - 0.5), _STRIP, 0.94, facecolor=GRID_COLOUR, zorder=3))
    name = node.concept if len(node.concept) <= _LABEL else node.concept[: _LABEL - 1] + "…"
    sure = "" if node.sure or not name else " (unsure)"
    axes.text(x, y + 0.47, f"{node.unit} {name}{sure}", fontsize=6.5, color=INK, va="bottom", zorder=4)


def concept_edges(table: pd.DataFrame) -> Figure:
    """Which concepts build which: for each pair of layers the share of a concept's edges above chance.

    Rows are the concepts of the earlier layer, columns those of the later one; a dot marks what permuted
    labels do not give. Blue excites, red inhibits, the stronger of both.

    Args:
        table: rows of `circuit-concepts.csv` at one epoch.
    """
    from matplotlib.figure import Figure

    pairs = list(dict.fromkeys(zip(table["from_layer"], table["to_layer"], strict=True)))
    panels = [_matrix(table, pair) for pair in pairs]
    tallest = max(len(rows) for rows, *_ in panels)
    widest = max(len(columns) for _, columns, *_ in panels)
    with figure_style():
        size = (max(3.6, 0.24 * widest + 2.2) * len(pairs) + 0.6, max(2.8, 0.24 * tallest + 2.0))
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(1, len(pairs), squeeze=False)[0]
        most = max(float(np.nanmax(np.abs(values), initial=0.05)) for _, _, values, _ in panels)
        for panel, pair, (rows, columns, values, sure) in zip(axes, pairs, panels, strict=True):
            panel.imshow(values, cmap="RdBu", vmin=-most, vmax=most, aspect="equal")
            y, x = np.nonzero(sure)
            panel.scatter(x, y, s=9, color=INK)
            across, down = ([name[:_LABEL] for name in names] for names in (columns, rows))
            panel.set_xticks(range(len(columns)), across, rotation=90, fontsize=7)
            panel.set_yticks(range(len(rows)), down, fontsize=7)
            panel.set_xlabel(pair[1])
            panel.set_ylabel(pair[0])
        bar = figure.colorbar(axes[0].images[0], ax=list(axes), shrink=0.7)
        bar.set_label("share of edges above chance (red: inhibits)")
        figure.suptitle("which concepts build which (dot: more than permuted labels)", fontsize=10)
    return figure


def _matrix(
    table: pd.DataFrame, pair: tuple[str, str]
) -> tuple[list[str], list[str], NDArray[np.float64], NDArray[np.bool_]]:
    own = table[(table["from_layer"] == pair[0]) & (table["to_layer"] == pair[1])]
    own = own.assign(above=own["share"] - own["chance"]).sort_values(
        ["confident", "above"], ascending=[False, False], kind="stable"
    )
    # The surest first, so that these are kept where there are too many.
    sources, targets = (dict.fromkeys(own[name]) for name in ("from_concept", "to_concept"))
    rows, columns = sorted(list(sources)[:_MOST]), sorted(list(targets)[:_MOST])
    values = np.full((len(rows), len(columns)), np.nan)
    sure = np.zeros(values.shape, dtype=bool)
    for row in own.to_dict("records"):
        if row["from_concept"] not in rows or row["to_concept"] not in columns or np.isnan(row["above"]):
            continue
        at = rows.index(row["from_concept"]), columns.index(row["to_concept"])
        signed = row["above"] if row["kind"] == "excites" else -row["above"]
        if sure[at] and not row["confident"]:
            continue
        if np.isnan(values[at]) or row["above"] > abs(values[at]) or (row["confident"] and not sure[at]):
            values[at], sure[at] = (signed if row["above"] > 0 else 0.0), bool(row["confident"])
    return rows, columns, values, sure
