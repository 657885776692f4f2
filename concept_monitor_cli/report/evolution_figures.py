"""Figures of evolutions: which unit brought what, how much of a change a layer is, units set back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
_LABEL = 46


def strongest_units(table: pd.DataFrame) -> Figure:
    """The units whose changes brought a class most, of all pairs of epochs, beside the same change elsewhere.

    Filled where the change of concept is confident.

    Args:
        table: rows of `evolutions.csv`.
    """
    layers = list(dict.fromkeys(table["layer"]))
    with figure_style():
        figure, panels = panel_row(len(layers), 5.6, 0.26 * _SHOWN + 1.1)
        for axes, layer in zip(panels, layers, strict=True):
            own = table[table["layer"] == layer]
            order = own["effect"].abs().sort_values(ascending=False, kind="stable").index[:_SHOWN]
            own = own.loc[order][::-1]
            places = np.arange(len(own))
            reach = own["elsewhere"].to_numpy(dtype=float)
            axes.barh(places, 2 * reach, left=-reach, height=0.8, color=GRID_COLOUR, zorder=1)
            axes.errorbar(
                own["effect"], places, xerr=1.96 * own["spread"], fmt="none", ecolor=INK, lw=0.8, zorder=2
            )
            sure = (own["confident"].fillna(0) == 1).to_numpy(dtype=bool)
            for which, filled, said in (
                (sure, TRACK_COLOURS[0], "the concept changed, more than luck"),
                (~sure, "white", "its change may be luck, or is none"),
            ):
                axes.scatter(
                    own["effect"][which],
                    places[which],
                    s=20,
                    zorder=3,
                    facecolors=filled,
                    edgecolors=TRACK_COLOURS[0],
                    label=said,
                )
            axes.set_yticks(places, [_name(row) for row in own.to_dict("records")], fontsize=6.5)
            axes.axvline(0, color=INK, lw=0.8)
            axes.set_title(layer, color=INK)
            axes.set_xlabel("score brought to the class\n(grey: same change, other unit)", fontsize=8)
        legend_below(figure, panels[0])
        titled(figure, "Units whose change moved a class most")
    return figure


def _name(row: dict[str, Any]) -> str:
    before, after = row["from_concept"] or "-", row["to_concept"] or "-"
    concept = after if before == after else f"{before} > {after}"
    return f"{row['unit']} {concept}, {row['from_epoch']}-{row['to_epoch']}: {row['class']}"[:_LABEL]


def origins(table: pd.DataFrame) -> Figure:
    """How much of the change of each class's score a layer brought, at the last pair of epochs.

    Args:
        table: rows of `evolution-classes.csv`.
    """
    last = table[table["to_epoch"] == table["to_epoch"].max()]
    layers = list(dict.fromkeys(last["layer"]))
    most = min(_SHOWN, int(last.groupby("layer").size().max()))
    with figure_style():
        figure, panels = panel_row(len(layers), 3.9, 0.26 * most + 1.4)
        for axes, layer in zip(panels, layers, strict=True):
            own = last[last["layer"] == layer]
            order = own["change"].abs().sort_values(ascending=False, kind="stable").index[:_SHOWN]
            own = own.loc[order][::-1]
            places = np.arange(len(own))
            axes.barh(places, own["change"], height=0.7, color=GRID_COLOUR, label="the network's")
            axes.scatter(
                own["by_layer"],
                places,
                s=20,
                color=TRACK_COLOURS[0],
                zorder=3,
                label="by this layer's change",
            )
            axes.set_yticks(places, [str(name)[:28] for name in own["class"]], fontsize=7)
            axes.axvline(0, color=INK, lw=0.8)
            axes.set_title(layer, color=INK)
            axes.set_xlabel("change of the class's score")
        legend_below(figure, panels[0])
        titled(figure, "How the changes of concepts moved the classes")
    return figure


def parts_set_back(table: pd.DataFrame) -> Figure:
    """What classes lose when a quarter of the units is as it was, beside random sets, at the last epochs.

    Args:
        table: rows of `evolution-parts.csv`.
    """
    last = table[table["to_epoch"] == table["to_epoch"].max()]
    layers = list(dict.fromkeys(last["layer"]))
    with figure_style():
        figure, panels = panel_row(len(layers), 3.4, 3.2)
        for axes, layer in zip(panels, layers, strict=True):
            own = last[last["layer"] == layer]
            for _, rows in own.groupby("class", sort=False):
                axes.plot(rows["part"], rows["set_back"], color="#C9CDD2", lw=0.8, zorder=1)
            mean = own.groupby("part")[["set_back", "control", "control_sd"]].mean()
            axes.plot(
                mean.index, mean["set_back"], color=TRACK_COLOURS[0], marker="o", ms=4, label="these units"
            )
            axes.errorbar(
                mean.index,
                mean["control"],
                yerr=2 * mean["control_sd"],
                color=INK,
                ls=":",
                lw=1,
                capsize=2,
                label="random units",
            )
            axes.axhline(0, color=INK, lw=0.6)
            axes.set_xticks(mean.index.tolist())
            axes.set_title(layer, color=INK)
            axes.set_xlabel("quarter of the units, most brought first")
        panels[0].set_ylabel("lost by the class's score")
        legend_below(figure, panels[0])
        titled(figure, "Set back as they were: is the class lost?")
    return figure
