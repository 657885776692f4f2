"""Figures of representations over epochs: who resembles whom, and when a layer is near its end."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from concept_monitor_cli.report.style import INK, TRACK_COLOURS, figure_style, titled

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# A tick for every epoch up to this many; of more, evenly chosen ones.
_MOST_TICKS = 24
_DIMENSION = "effective_rank"


def matrix(similarity: pd.DataFrame, run: str) -> Figure:
    """CKA of all layers and epochs of a run with each other: a square for every pair of layers.

    Args:
        similarity: rows of `similarity.csv`.
        run: which run.
    """
    from matplotlib.figure import Figure

    rows = similarity[
        (similarity["measure"] == "cka") & (similarity["run"] == run) & (similarity["other_run"] == run)
    ]
    places = list(dict.fromkeys(zip(rows["layer"], rows["epoch"], strict=True)))
    number = {place: index for index, place in enumerate(places)}
    values = np.full((len(places), len(places)), np.nan)
    for row in rows.itertuples(index=False):
        i, j = number[row.layer, row.epoch], number[row.other_layer, row.other_epoch]
        values[i, j] = values[j, i] = row.value
    layers = list(dict.fromkeys(layer for layer, _ in places))
    side = min(10.0, max(4.2, 0.19 * len(places) + 1.6))
    with figure_style():
        figure = Figure(figsize=(side + 0.9, side), layout="constrained")
        axes = figure.subplots()
        image = axes.imshow(values, vmin=0, vmax=1, cmap="viridis", interpolation="nearest")
        bar = figure.colorbar(image, ax=axes, shrink=0.75)
        bar.set_label("debiased CKA (0: chance)")
        _ticks(axes, places, layers)
        axes.set_title(f"{run}: how alike are layers and epochs?", color=INK)
    return figure


def _ticks(axes: Axes, places: list[tuple[str, int]], layers: list[str]) -> None:
    step = -(-len(places) // _MOST_TICKS)
    shown = list(range(0, len(places), step))
    axes.set_xticks(shown, [str(places[i][1]) for i in shown], fontsize=7, rotation=90)
    axes.set_yticks(shown, [str(places[i][1]) for i in shown], fontsize=7)
    axes.set_xlabel("epoch, layer by layer")
    starts = [next(i for i, (name, _) in enumerate(places) if name == layer) for layer in layers]
    for layer, start, stop in zip(layers, starts, [*starts[1:], len(places)], strict=True):
        axes.annotate(
            layer,
            (-0.01, 1 - (start + stop) / 2 / len(places)),
            (-26, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            rotation=90,
            va="center",
            ha="center",
            fontsize=8,
        )
        for line in (axes.axhline, axes.axvline):
            if start:
                line(start - 0.5, color="white", lw=1.2)


def curves(similarity: pd.DataFrame, dimension: pd.DataFrame, run: str, threshold: float) -> Figure:
    """CKA to the last epoch, change between epochs, and dimension, a line for each layer.

    Args:
        similarity: rows of `similarity.csv`.
        dimension: rows of `dimension.csv`.
        run: which run.
        threshold: drawn as a line: near the end.
    """
    from matplotlib.figure import Figure

    own = similarity[
        (similarity["measure"] == "cka")
        & (similarity["run"] == run)
        & (similarity["other_run"] == run)
        & (similarity["layer"] == similarity["other_layer"])
    ]
    sizes = dimension[(dimension["run"] == run) & (dimension["measure"] == _DIMENSION)]
    layers = list(dict.fromkeys(own["layer"]))
    with figure_style():
        figure = Figure(figsize=(10.2, 3.3), layout="constrained")
        ends, speeds, dimensions = figure.subplots(1, 3)
        for index, layer in enumerate(layers):
            style = {
                "color": TRACK_COLOURS[index % len(TRACK_COLOURS)],
                "label": layer,
                "marker": "o",
                "ms": 3,
            }
            rows = own[own["layer"] == layer].set_index(["epoch", "other_epoch"])["value"]
            epochs = sorted({int(epoch) for epoch, _ in rows.index})
            ends.plot(epochs, [rows[epoch, epochs[-1]] for epoch in epochs], **style)
            later = list(itertools.pairwise(epochs))
            speeds.plot([end for _, end in later], [1 - rows[pair] for pair in later], **style)
            mine = sizes[sizes["layer"] == layer].sort_values("epoch")
            dimensions.plot(mine["epoch"], mine["value"], **style)
            dimensions.plot(mine["epoch"], mine["chance"], color=style["color"], ls=":", lw=1)
        ends.axhline(threshold, color="#9AA0A6", lw=0.8, ls="--")
        titles = ("CKA to the last epoch", "change since the epoch before", "effective rank (dotted: noise)")
        for axes, title in zip((ends, speeds, dimensions), titles, strict=True):
            axes.set_title(title, color=INK)
            axes.set_xlabel("epoch")
            axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
        ends.set_ylim(top=1.03)
        figure.legend(
            *ends.get_legend_handles_labels(), loc="outside lower center", ncols=min(8, len(layers))
        )
        titled(figure, f"{run}: when does each layer become what it will be?")
    return figure
