"""Pictures of how good labels are: table 3 and figure 5b of CLIP-Dissect, and its A.6."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from concept_monitor_cli.monitor.epochs import evenly
from concept_monitor_cli.report.style import (
    GRID_COLOUR,
    INK,
    TRACK_COLOURS,
    UNIT_COLOUR,
    figure_style,
    titled,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_CHANCE: dict[str, Any] = {"color": "#9AA0A6", "lw": 1.2, "ls": (0, (3, 2)), "zorder": 1}
_MOST_UNITS = 20
_MOST_EPOCHS = 5
_METRICS = {"correct": "top-1 accuracy", "clip_cos": "CLIP cos", "mpnet_cos": "mpnet cos"}


def label_quality(labels: pd.DataFrame) -> Figure:
    """Accuracy and cosines per similarity; over the epochs, where there are several.

    Args:
        labels: rows of `evaluation-labels.csv` of one layer and detector.
    """
    from matplotlib.figure import Figure

    rows = labels.assign(correct=labels["correct"].astype(float).where(labels["in_concepts"]))
    groups = rows.groupby(["epoch", "similarity"], sort=False)[list(_METRICS)].mean().reset_index()
    metrics = [name for name in _METRICS if groups[name].notna().any()]
    similarities = list(dict.fromkeys(groups["similarity"]))
    epochs = sorted(groups["epoch"].unique().tolist())
    with figure_style():
        figure = Figure(figsize=(2.9 * len(metrics) + 0.9, 2.9), layout="constrained")
        line = figure.subplots(1, len(metrics), squeeze=False)[0]
        for axes, metric in zip(line, metrics, strict=True):
            axes.set_title(_METRICS[metric], color=INK)
            if len(epochs) > 1:
                _over_epochs(axes, groups, metric, similarities)
            else:
                _bars(axes, groups, metric, similarities, named=axes is line[0])
        if len(epochs) > 1:
            handles, names = line[0].get_legend_handles_labels()
            figure.legend(handles, names, loc="outside lower center", ncols=len(names))
        titled(figure, f"How good are the labels of {rows['layer'].iloc[0]}?")
    return figure


def _over_epochs(axes: Axes, groups: pd.DataFrame, metric: str, similarities: Sequence[str]) -> None:
    for number, name in enumerate(similarities):
        rows = groups[groups["similarity"] == name].sort_values("epoch")
        axes.plot(rows["epoch"], rows[metric], label=name or "labels", **_line(number))
    axes.set_xlabel("epoch")
    axes.set_ylim(0, 1.04)
    axes.grid(axis="y", color=GRID_COLOUR, lw=0.7)


def _bars(axes: Axes, groups: pd.DataFrame, metric: str, similarities: Sequence[str], *, named: bool) -> None:
    values = groups.set_index("similarity")[metric].reindex(list(similarities)).to_numpy(dtype=float)
    places = np.arange(len(values))[::-1]
    axes.barh(places, values, 0.68, color=TRACK_COLOURS[0])
    for place, value in zip(places, values, strict=True):
        axes.annotate(
            f"{value:.2f}", (value, place), (3, 0), textcoords="offset points", va="center", fontsize=8
        )
    axes.set_yticks(places, [name or "labels" for name in similarities] if named else [""] * len(places))
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, 1.14)
    axes.set_xticks([0, 0.5, 1])


def described_classes(contributions: pd.DataFrame) -> Figure:
    """The units that contribute most to the most images, and how often their description names the class.

    Args:
        contributions: rows of `evaluation-contributions.csv` of one layer and detector; the last epoch is
            drawn.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    last = contributions[contributions["epoch"] == contributions["epoch"].max()]
    last = last[last["similarity"] == last["similarity"].iloc[0]]
    best = last.sort_values(["images", "unit"], ascending=[False, True]).head(_MOST_UNITS)
    places = np.arange(len(best))[::-1]
    with figure_style():
        figure = Figure(figsize=(5.6, 0.22 * len(best) + 1.1), layout="constrained")
        axes = figure.subplots()
        axes.barh(places, best["images"], 0.72, color=UNIT_COLOUR)
        axes.barh(places, best["agreeing"], 0.72, color=TRACK_COLOURS[2])
        named = [f"{row.concept} ({row.unit}): {row.class_name}" for row in best.itertuples(index=False)]
        axes.set_yticks(places, named)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("images to whose class the unit contributes most")
        axes.set_title("concept (unit): the class that it is taken for", color=INK)
        handles = [
            Patch(color=TRACK_COLOURS[2], label="the class that the network predicts"),
            Patch(color=UNIT_COLOUR, label="another class"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def weights_and_concepts(weights: pd.DataFrame) -> Figure:
    """Mean cosine of the concepts joined by the k highest weights, against k (figure 5b).

    Args:
        weights: rows of `evaluation-weights.csv` of one layer and detector.
    """
    from matplotlib.figure import Figure

    weights = weights[weights["similarity"] == weights["similarity"].iloc[0]]
    spaces = list(dict.fromkeys(weights["space"]))
    epochs = sorted(weights["epoch"].unique().tolist())
    shown = evenly(epochs, _MOST_EPOCHS)
    with figure_style():
        figure = Figure(figsize=(3.3 * len(spaces), 3.1), layout="constrained")
        for axes, space in zip(figure.subplots(1, len(spaces), squeeze=False)[0], spaces, strict=True):
            for number, epoch in enumerate(shown):
                rows = weights[(weights["space"] == space) & (weights["epoch"] == epoch)].sort_values("k")
                name = f"epoch {epoch}" if len(shown) > 1 else "k highest weights"
                axes.plot(rows["k"], rows["cosine"], label=name, **_line(number))
            axes.axhline(rows["chance"].iloc[0], **_CHANCE, label="all weights")
            axes.set_xscale("log")
            axes.set_title(f"{space} cos", color=INK)
            axes.set_xlabel("k highest weights")
            axes.grid(axis="y", color=GRID_COLOUR, lw=0.7)
        figure.axes[0].set_ylabel("cosine of unit's concept and class name")
        figure.axes[0].legend()
        titled(figure, f"Do high weights of {weights['layer'].iloc[0]} join like concepts?")
    return figure


def grid_of_settings(grid: pd.DataFrame) -> Figure:
    """Each metric for every similarity: a line per concept set, encoder and pooling.

    Args:
        grid: rows of `evaluation-grid.csv` of the last epoch.
    """
    from matplotlib.figure import Figure

    settings = ["concepts", "encoder", "pooling"]
    varying = [name for name in settings if grid[name].nunique() > 1]
    series = grid[settings].drop_duplicates().itertuples(index=False)
    panels = _panels(grid)
    similarities = list(dict.fromkeys(grid["similarity"]))
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    with figure_style():
        figure = Figure(figsize=(3.1 * columns + 0.3, 2.6 * lines + 0.6), layout="constrained")
        places = figure.subplots(lines, columns, squeeze=False)
        for axes in places.flat[len(panels) :]:
            axes.set_visible(False)
        for number, setting in enumerate(series):
            own = grid[(grid[settings] == list(setting)).all(axis=1)]
            name = ", ".join(str(getattr(setting, part)) for part in varying) or "labels"
            for axes, (layer, measure, metric) in zip(places.flat, panels, strict=False):
                rows = own[(own["layer"] == layer) & (own["measure"] == measure) & (own["metric"] == metric)]
                values = rows.drop_duplicates("similarity").set_index("similarity")["value"]
                axes.plot(
                    range(len(similarities)), values.reindex(list(similarities)), label=name, **_line(number)
                )
        for axes, (layer, _, metric) in zip(places.flat, panels, strict=False):
            axes.set_title(f"{layer}: {metric}", color=INK)
            axes.set_xticks(range(len(similarities)), similarities, rotation=35, ha="right")
            axes.set_xlim(-0.3, len(similarities) - 0.7)
            axes.grid(axis="y", color=GRID_COLOUR, lw=0.7)
        handles, names = places.flat[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=min(3, len(names)))
        titled(figure, "How good are labels with other settings?")
    return figure


def _panels(grid: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Layer, measure and metric of every panel: no p-values, and nothing that is the same in all settings."""
    found = []
    for key, rows in grid.groupby(["layer", "measure", "metric"], sort=False):
        layer, measure, metric = (str(part) for part in key)
        if not metric.endswith(" p") and rows["value"].nunique() > 1:
            found.append((layer, measure, metric))
    first = grid.iloc[0]
    return found or [(str(first["layer"]), str(first["measure"]), str(first["metric"]))]


def _line(number: int) -> dict[str, Any]:
    return {
        "color": TRACK_COLOURS[number % len(TRACK_COLOURS)],
        "marker": _MARKERS[number % len(_MARKERS)],
        "ms": 4.0,
        "lw": 1.4,
        "mec": "white",
        "mew": 0.5,
    }
