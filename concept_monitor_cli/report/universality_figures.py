"""How much of a network's layers another network has, too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from concept_monitor_cli.monitor.history import category_order, natural
from concept_monitor_cli.monitor.statistics import ALL
from concept_monitor_cli.monitor.universality import QUANTILE
from concept_monitor_cli.report.style import (
    GRID_COLOUR,
    INK,
    TRACK_COLOURS,
    category_colour,
    figure_style,
    legend_below,
    panel_row,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DOTS = (
    ("matched", "twins, on the images that chose them", "#9AA0A6", "o"),
    ("held_out", "twins, on the other images", TRACK_COLOURS[0], "o"),
    ("best", "nearest unit, on the other images", TRACK_COLOURS[3], "^"),
    ("chance", "permuted images", INK, "|"),
)


def universality_figure(table: pd.DataFrame, names: tuple[str, str]) -> Figure:
    """Correlations of twins by layer; the share of universal units by category and, where there are, epochs.

    Args:
        table: rows of `universality.csv` of one detector.
        names: of the runs.
    """
    whole = table[table["category"] == ALL]
    layers = sorted(dict.fromkeys(whole["layer"]), key=natural)
    last = {layer: int(table[table["layer"] == layer]["epoch"].max()) for layer in layers}
    over_time = whole["epoch"].nunique() > 1
    with figure_style():
        count = 3 if over_time else 2
        figure, panels = panel_row(count, 3.6, 0.42 * len(layers) + 2.9)
        end = table[table["epoch"] == table["layer"].map(last)]
        end = end[end["other_epoch"] == end.groupby("layer")["other_epoch"].transform("max")]
        _correlations(panels[0], end[end["category"] == ALL].set_index("layer"), layers)
        _categories(panels[1], end, layers)
        if over_time:
            for place, layer in enumerate(layers):
                own = whole[(whole["layer"] == layer) & (whole["epoch"] == whole["other_epoch"])]
                own = own.sort_values("epoch")
                colour = TRACK_COLOURS[place % len(TRACK_COLOURS)]
                panels[2].plot(own["epoch"], own["share"], color=colour, marker="o", ms=3, label=layer)
            panels[2].axhline(1 - QUANTILE, color=INK, ls="dashed", lw=1)
            panels[2].set_ylim(0, 1.02)
            panels[2].set_xlabel("epoch of both (dashed: chance)")
            panels[2].set_ylabel("share of universal units")
            panels[2].grid(axis="y", color=GRID_COLOUR)
            panels[2].legend(fontsize=7)
        figure.suptitle(f"units of {names[0]} that {names[1]} has, too", fontsize=10)
        legend_below(figure, panels[0])
    return figure


def _correlations(axes: Axes, rows: pd.DataFrame, layers: list[str]) -> None:
    """Medians over the units, a line for each layer."""
    places = -np.arange(len(layers))
    for column, label, colour, marker in _DOTS:
        axes.scatter(
            rows[column].reindex(layers).to_numpy(dtype=float),
            places,
            color=colour,
            marker=marker,
            s=90 if marker == "|" else 26,
            label=label,
            zorder=3,
        )
    others = [str(rows.loc[layer, "other_layer"]) for layer in layers]
    shown = [a if a == b else f"{a}\n({b})" for a, b in zip(layers, others, strict=True)]
    axes.set_yticks(places, shown, fontsize=8)
    axes.set_ylim(-len(layers) + 0.4, 0.6)
    axes.set_xlabel("correlation, median of the units")
    axes.grid(axis="x", color=GRID_COLOUR)


def _categories(axes: Axes, rows: pd.DataFrame, layers: list[str]) -> None:
    """The share of universal units, of all and of the interpretable ones of each category."""
    names = [ALL, *category_order(set(rows["category"]) - {ALL})]
    height = 0.8 / len(names)
    for order, name in enumerate(names):
        own = rows[rows["category"] == name].drop_duplicates("layer").set_index("layer").reindex(layers)
        places = -np.arange(len(layers)) + 0.4 - (order + 0.5) * height
        share = own["share"].to_numpy(dtype=float)
        axes.barh(
            places,
            np.nan_to_num(share),
            height=0.9 * height,
            color=INK if name == ALL else category_colour(name),
            label=name,
        )
        for place, value, units in zip(places, share, own["units"].to_numpy(dtype=float), strict=True):
            if np.isnan(value):
                continue
            axes.annotate(
                f"{units:.0f}",
                (value, place),
                (2, 0),
                textcoords="offset points",
                va="center",
                fontsize=6,
            )
    axes.axvline(1 - QUANTILE, color=INK, ls="dashed", lw=1)
    axes.set_yticks(-np.arange(len(layers)), layers, fontsize=8)
    axes.set_ylim(-len(layers) + 0.4, 0.6)
    axes.set_xlim(0, 1.08)
    axes.set_xlabel("share universal\n(dashed: chance; beside: units)")
    # Above the panel: bars may reach everywhere in it.
    axes.legend(
        fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, columnspacing=1, handlelength=1
    )
