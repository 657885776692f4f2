"""Figures of ablations: what each concept's units are worth, and how scores fall as units are cut out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from concept_monitor_cli.report.style import (
    GRID_COLOUR,
    INK,
    TRACK_COLOURS,
    figure_style,
    legend_below,
    panel_row,
    titled,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_SHOWN = 16
_LABEL = 30


def losses(table: pd.DataFrame) -> Figure:
    """The change of the margin without the units of each concept, or each direction, beside random ones.

    For each concept all images (filled) and the class that loses most (open), units or directions set to 0.

    Args:
        table: rows of `ablation.csv`.
    """

    last = table[table["epoch"] == table["epoch"].max()]
    rows = last[last["set"].isin(["concept", "direction"]) & (last["kind"] == "zero")]
    layers = list(dict.fromkeys(rows["layer"]))
    most = max(rows[rows["layer"] == layer]["concept"].nunique() for layer in layers)
    with figure_style():
        height = 0.3 * min(most, _SHOWN) + 1.3
        figure, panels = panel_row(len(layers), 4.4, height)
        for axes, layer in zip(panels, layers, strict=True):
            own = rows[rows["layer"] == layer].assign(
                change=lambda each: each["margin"] - each["margin_before"]
            )
            whole = own[own["class"] == "all"].sort_values("change", kind="stable")[:_SHOWN][::-1]
            places = np.arange(len(whole))
            middle = whole["control"] - whole["margin_before"]
            reach = 2 * whole["control_sd"]
            axes.barh(places, 2 * reach, left=middle - reach, height=0.75, color=GRID_COLOUR, zorder=1)
            axes.scatter(whole["change"], places, color=TRACK_COLOURS[0], s=22, zorder=3, label="all images")
            worst = [
                own[(own["concept"] == concept) & (own["class"] != "all")].sort_values("change").iloc[0]
                for concept in whole["concept"]
            ]
            axes.scatter(
                [row["change"] for row in worst],
                places,
                facecolors="none",
                edgecolors=TRACK_COLOURS[7],
                s=22,
                zorder=3,
                label="class that loses most",
            )
            for place, row in zip(places, worst, strict=True):
                axes.annotate(
                    str(row["class"])[:_LABEL],
                    (row["change"], place),
                    (0, 5),
                    textcoords="offset points",
                    fontsize=6,
                    ha="center",
                )
            names = [
                f"{concept} ({units})"[:_LABEL] if kind == "concept" else concept[:_LABEL]
                for concept, units, kind in zip(whole["concept"], whole["units"], whole["set"], strict=True)
            ]
            axes.set_yticks(places, names, fontsize=8)
            axes.axvline(0, color=INK, lw=0.8)
            axes.set_title(layer, color=INK)
            axes.set_xlabel("change of the margin (grey: random sets)")
        legend_below(figure, panels[0])
        titled(figure, "Without the units of a concept, classes lose this much")
    return figure


def curves(table: pd.DataFrame) -> Figure:
    """Margin and accuracy as the most, or the least, interpretable units are cut out, and random ones.

    Args:
        table: rows of `ablation.csv`.
    """
    from matplotlib.figure import Figure

    last = table[table["epoch"] == table["epoch"].max()]
    rows = last[last["set"].isin(["most", "least"]) & (last["class"] == "all") & (last["kind"] == "zero")]
    layers = list(dict.fromkeys(rows["layer"]))
    with figure_style():
        figure = Figure(figsize=(3.0 * len(layers) + 1.4, 4.6), layout="constrained")
        panels = figure.subplots(2, len(layers), squeeze=False, sharex="col")
        for column, layer in enumerate(layers):
            for line, (value, control) in enumerate(
                (("margin", "control"), ("accuracy", "accuracy_control"))
            ):
                axes = panels[line][column]
                for colour, name in zip((TRACK_COLOURS[0], TRACK_COLOURS[7]), ("most", "least"), strict=True):
                    own = rows[(rows["layer"] == layer) & (rows["set"] == name)].sort_values("units")
                    if own.empty:
                        continue
                    units = [0, *own["units"].tolist()]
                    start = float(own[f"{value}_before"].iloc[0])
                    axes.plot(
                        units,
                        [start, *own[value]],
                        color=colour,
                        marker="o",
                        ms=3,
                        label=f"{name} interpretable",
                    )
                    axes.plot(
                        units,
                        [start, *own[control]],
                        color=colour,
                        ls=":",
                        lw=1,
                        label=f"random, as active as {name}",
                    )
                axes.grid(axis="y", color=GRID_COLOUR)
                if column == 0:
                    axes.set_ylabel(value)
                if line == 0:
                    axes.set_title(layer, color=INK)
                else:
                    axes.set_xlabel("units set to 0")
        handles, names = panels[0][0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside right upper", fontsize=7)
        titled(figure, "What is left when the most, or the least, interpretable units are cut")
    return figure


def gap_bars(table: pd.DataFrame) -> Figure:
    """Accuracy on photos with and without something, before and after, for each set of units.

    Lines join accuracy with it (filled) and without it (open); the shorter, the smaller the gap. Beside each
    stands the gap, and that which random units of the same number and activity leave.

    Args:
        table: rows of `spurious.csv`.
    """

    last = table[(table["epoch"] == table["epoch"].max()) & (table["class"] == "all")]
    layers = list(dict.fromkeys(last["layer"]))
    sets = {
        layer: last[last["layer"] == layer].drop_duplicates(["set", "concept", "units"])[:_SHOWN]
        for layer in layers
    }
    with figure_style():
        height = 0.62 * max(map(len, sets.values())) + 1.7
        figure, panels = panel_row(len(layers), 4.4, height, sharex=True)
        for axes, layer in zip(panels, layers, strict=True):
            names = []
            own = last[last["layer"] == layer]
            first = own.iloc[0]
            before = (first["accuracy_with_before"], first["accuracy_without_before"])
            lines = [("before", *before, INK, f"gap {first['gap_before']:.2f}")]
            for each in sets[layer].to_dict("records"):
                for kind, colour in (("zero", TRACK_COLOURS[0]), ("mean", TRACK_COLOURS[7])):
                    same = (own["set"] == each["set"]) & (own["concept"] == each["concept"])
                    row = own[same & (own["units"] == each["units"]) & (own["kind"] == kind)].iloc[0]
                    name = f"{each['concept'] or each['set']} ({each['units']}), {kind}"
                    gap = f"gap {row['gap']:.2f}, random units {row['gap_control']:.2f}"
                    lines.append((name, row["accuracy_with"], row["accuracy_without"], colour, gap))
            for place, (name, with_it, without, colour, gap) in enumerate(lines):
                said = [side if not place else None for side in ("with", "without")]
                axes.plot([with_it, without], [-place, -place], color=colour, lw=1.5, zorder=2)
                axes.scatter(with_it, -place, color=colour, s=26, zorder=3, label=said[0])
                axes.scatter(
                    without,
                    -place,
                    facecolors="white",
                    edgecolors=colour,
                    s=26,
                    zorder=3,
                    label=said[1],
                )
                # Towards the middle of the panel, where there is room.
                right = bool(with_it + without > sum(before))
                axes.annotate(
                    gap,
                    (max(with_it, without) if right else min(with_it, without), -place),
                    (0, 5),
                    textcoords="offset points",
                    ha="right" if right else "left",
                    fontsize=7,
                    color=INK,
                )
                names.append(name[:_LABEL])
            axes.set_yticks([-place for place in range(len(names))], names, fontsize=8)
            axes.set_ylim(-len(names) + 0.4, 0.6)
            axes.grid(axis="x", color=GRID_COLOUR)
            axes.set_title(layer, color=INK)
            axes.set_xlabel("accuracy")
        legend_below(figure, panels[0])
        titled(figure, "Does cutting units close the gap between photos with and without it?")
    return figure
