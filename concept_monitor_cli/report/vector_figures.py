"""Figures of concept vectors: from when on they are there, how they turn, what classes make of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from concept_monitor_cli.report.style import (
    GRID_COLOUR,
    INK,
    TRACK_COLOURS,
    figure_style,
    legend_below,
    titled,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

# Concepts with a line of their own, and lines of the picture of effects.
_LINES, _EFFECTS = 8, 16
_LABEL = 34


def decoding(vectors: pd.DataFrame) -> Figure:
    """How well concepts can be read off, over the epochs: a panel for each layer.

    The concepts that are read off best in any layer at the last epoch have a line each, all others are grey.
    Permuted labels are dotted.

    Args:
        vectors: rows of `vectors.csv`.
    """
    from matplotlib.figure import Figure

    layers = list(dict.fromkeys(vectors["layer"]))
    last = vectors[vectors["epoch"] == vectors["epoch"].max()]
    best = last.groupby("concept")["auc"].max().sort_values(ascending=False, kind="stable")
    coloured = dict(zip(best.index[:_LINES], TRACK_COLOURS, strict=False))
    with figure_style():
        figure = Figure(figsize=(max(4.2, 2.9 * len(layers) + 1.2), 3.2), layout="constrained")
        panels = figure.subplots(1, len(layers), sharey=True, squeeze=False)[0]
        for axes, layer in zip(panels, layers, strict=True):
            rows = vectors[vectors["layer"] == layer]
            for concept, own in rows.groupby("concept", sort=False):
                colour = coloured.get(str(concept))
                axes.plot(
                    own["epoch"],
                    own["auc"],
                    color=colour or "#C9CDD2",
                    lw=1.6 if colour else 0.7,
                    zorder=3 if colour else 1,
                    marker="o",
                    ms=2.5 if colour else 0,
                    label=str(concept)[:_LABEL] if colour and axes is panels[0] else None,
                )
            chance = rows.groupby("epoch")["chance"].median()
            axes.plot(chance.index, chance, color=INK, lw=1, ls=":", zorder=4)
            axes.set_title(layer, color=INK)
            axes.set_xlabel("epoch")
            axes.grid(axis="y", color=GRID_COLOUR)
        panels[0].set_ylabel("AUC on the other half (dotted: permuted)")
        figure.legend(loc="outside right upper", fontsize=7)
        titled(figure, "Concepts read off the layer, over the epochs")
    return figure


def drift(turns: Mapping[str, NDArray[np.float64]], epochs: Sequence[int]) -> Figure:
    """Mean cosine of the concepts' vectors at two epochs; on the diagonal that of two halves of the images.

    Args:
        turns: layer -> `(T, T)`.
        epochs: `T`.
    """
    from matplotlib.figure import Figure

    side = max(2.6, 0.3 * len(epochs) + 1.2)
    with figure_style():
        figure = Figure(figsize=(side * len(turns) + 1.0, side + 0.6), layout="constrained")
        panels = figure.subplots(1, len(turns), squeeze=False)[0]
        image = None
        for axes, (layer, values) in zip(panels, turns.items(), strict=True):
            image = axes.imshow(values, vmin=0, vmax=1, cmap="viridis", interpolation="nearest")
            step = -(-len(epochs) // 12)
            shown = list(range(0, len(epochs), step))
            axes.set_xticks(shown, [str(epochs[i]) for i in shown])
            axes.set_yticks(shown, [str(epochs[i]) for i in shown])
            axes.set_title(layer, color=INK)
            axes.set_xlabel("epoch")
            if len(epochs) <= 10:
                for (i, j), value in np.ndenumerate(values):
                    colour = "white" if value < 0.6 else INK
                    axes.annotate(f"{value:.2f}", (j, i), ha="center", va="center", fontsize=6, color=colour)
        panels[0].set_ylabel("epoch")
        if image is not None:
            bar = figure.colorbar(image, ax=list(panels), shrink=0.8)
            bar.set_label("cosine (diagonal: two halves)")
        titled(figure, "How far do the vectors of concepts turn?")
    return figure


def effects(table: pd.DataFrame) -> Figure:
    """The strongest effects of concepts on classes at the last epoch, beside what random images give.

    Args:
        table: rows of `effects.csv`.
    """
    from matplotlib.figure import Figure

    rows = table[table["epoch"] == table["epoch"].max()]
    layers = list(dict.fromkeys(rows["layer"]))
    with figure_style():
        figure = Figure(figsize=(4.6 * len(layers), 0.24 * _EFFECTS + 1.1), layout="constrained")
        panels = figure.subplots(1, len(layers), squeeze=False)[0]
        for axes, layer in zip(panels, layers, strict=True):
            own = rows[rows["layer"] == layer]
            strength = (own["effect"] / own["chance_spread"]).abs()
            own = own.loc[strength.sort_values(ascending=False, kind="stable").index[:_EFFECTS]][::-1]
            places = np.arange(len(own))
            reach = 1.96 * own["chance_spread"].to_numpy(dtype=float)
            axes.barh(places, 2 * reach, left=-reach, height=0.8, color=GRID_COLOUR, zorder=1)
            for known, filled, said in (
                (True, TRACK_COLOURS[0], "more than luck"),
                (False, "white", "may be luck"),
            ):
                part = own["significant"].to_numpy(dtype=bool) == known
                axes.scatter(
                    own["effect"][part],
                    places[part],
                    c=filled,
                    edgecolors=TRACK_COLOURS[0],
                    s=18,
                    zorder=3,
                    label=said,
                )
            names = [
                f"{concept} on {name}"[:_LABEL]
                for concept, name in zip(own["concept"], own["class"], strict=True)
            ]
            axes.set_yticks(places, names, fontsize=7)
            axes.axvline(0, color=INK, lw=0.8, zorder=2)
            axes.set_title(layer, color=INK)
            axes.set_xlabel("change of the class's score (grey: random images)")
        legend_below(figure, panels[0])
        titled(figure, "Strongest effects of concepts on classes")
    return figure


def part_examples(examples: Mapping[str, Sequence[NDArray[np.uint8]]], layer: str) -> Figure:
    """The parts of images nearest to the centre of each cluster, a line for each.

    Args:
        examples: pictures by cluster.
        layer: whose positions were clustered.
    """
    from matplotlib.figure import Figure

    count = max((len(parts) for parts in examples.values()), default=1)
    with figure_style():
        figure = Figure(
            figsize=(0.75 * count + 1.2, 0.75 * max(1, len(examples)) + 0.5), layout="constrained"
        )
        panels = figure.subplots(max(1, len(examples)), count, squeeze=False)
        for axes in panels.flat:
            axes.set_axis_off()
        for line, (name, parts) in zip(panels, examples.items(), strict=False):
            for axes, part in zip(line, parts, strict=False):
                axes.imshow(part)
            line[0].text(
                -0.15, 0.5, name, transform=line[0].transAxes, ha="right", va="center", fontsize=8, color=INK
            )
        figure.suptitle(f"parts of images that {layer} sees alike", fontsize=9)
    return figure
