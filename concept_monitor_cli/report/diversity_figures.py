"""Interpretable units and generalisation, a point for each run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from concept_monitor_cli.monitor.history import natural
from concept_monitor_cli.report.style import GRID_COLOUR, INK, TRACK_COLOURS, figure_style, titled

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_PANEL = (3.3, 3.1)


def diversity_points(table: pd.DataFrame, tests: pd.DataFrame) -> Figure:
    """Share of interpretable units over the generalisation gap, a panel for each layer.

    A grey tick marks the share of the same layer with random weights, where the run has that.

    Args:
        table: rows of `diversity.csv` of one detector, with a known gap.
        tests: rows of `diversity-tests.csv` of that detector.
    """
    from matplotlib.figure import Figure

    layers = sorted(dict.fromkeys(table["layer"]), key=natural)
    said = tests.set_index("layer")
    with figure_style():
        figure = Figure(figsize=(_PANEL[0] * len(layers), _PANEL[1]), layout="constrained")
        panels = figure.subplots(1, len(layers), squeeze=False, sharey=True)[0]
        for axes, layer in zip(panels, layers, strict=True):
            own = table[table["layer"] == layer]
            axes.scatter(
                own["gap"], own["share_random"], marker="_", s=120, color="#9AA0A6", label="random weights"
            )
            axes.scatter(own["gap"], own["share"], color=TRACK_COLOURS[0], s=26, zorder=3, label="a run")
            for gap, share, name in zip(own["gap"], own["share"], own["run"], strict=True):
                axes.annotate(str(name)[:18], (gap, share), (4, 4), textcoords="offset points", fontsize=6)
            axes.set_title(layer, color=INK)
            axes.set_xlabel(f"training less test accuracy\n{_caption(said, layer)}")
            axes.grid(color=GRID_COLOUR)
            axes.margins(x=0.15, y=0.1)
        panels[0].set_ylabel("share of interpretable units")
        panels[0].set_ylim(bottom=0)
        handles, labels = panels[0].get_legend_handles_labels()
        shown = 0 if table["share_random"].notna().any() else 1
        figure.legend(handles[shown:], labels[shown:], loc="outside lower center", ncols=2, fontsize=7)
        titled(figure, "Interpretable units and the generalisation gap")
    return figure


def _caption(said: pd.DataFrame, layer: str) -> str:
    """What the runs say together; with few of them, that they do not."""
    if layer not in said.index:
        return "one run"
    row = said.loc[layer]
    tested = "too few to test" if row["p_value"] != row["p_value"] else f"p {row['p_value']:.3f}"
    return f"{row['runs']:.0f} runs, rank correlation {row['correlation']:.2f} ({tested})"
