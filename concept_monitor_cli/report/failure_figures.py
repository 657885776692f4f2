"""Figures of failures: which units separate them from successes, and since when."""

from __future__ import annotations

from collections.abc import Mapping
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

_FOLLOWED = 6
_LABEL = 34
_CHANCE = "95 % of what failures permuted within class give"


def separating_units(table: pd.DataFrame, count: int = 10) -> Figure:
    """The units that separate failed from succeeded images most at the last epoch, beside chance.

    Filled where the unit is called at a false discovery rate of 5 %; a diamond is the same of what the unit
    adds to the score of the image's class.

    Args:
        table: rows of `failures.csv`.
        count: units of each layer.
    """
    last = _all(table)
    last = last[last["epoch"] == last["epoch"].max()]
    layers = list(dict.fromkeys(last["layer"]))
    with figure_style():
        figure, panels = panel_row(len(layers), 4.7, 0.26 * count + 1.6)
        for axes, layer in zip(panels, layers, strict=True):
            own = strongest(last[last["layer"] == layer], count)[::-1]
            places = np.arange(len(own))
            axes.barh(
                places,
                own["high"] - own["low"],
                left=own["low"],
                height=0.8,
                color=GRID_COLOUR,
                zorder=1,
                label=_CHANCE,
            )
            if own["auc_attribution"].notna().any():
                axes.scatter(
                    own["auc_attribution"],
                    places,
                    s=18,
                    marker="D",
                    facecolors="none",
                    edgecolors=TRACK_COLOURS[3],
                    zorder=2,
                    label="by what it adds to the class's score",
                )
            called = (own["significant"] == 1).to_numpy(dtype=bool)
            for which, filled, said in (
                (called, TRACK_COLOURS[0], "by activation"),
                (~called, "white", "by activation, may be chance"),
            ):
                axes.scatter(
                    own["auc"][which],
                    places[which],
                    s=26,
                    facecolors=filled,
                    edgecolors=TRACK_COLOURS[0],
                    zorder=3,
                    label=said,
                )
            axes.set_yticks(places, [name_of(row)[:_LABEL] for row in own.to_dict("records")], fontsize=7)
            _chance(axes.axvline)
            axes.set_xlim(*_range(own))
            axes.set_title(f"{layer}, epoch {last['epoch'].max()}", color=INK)
            axes.set_xlabel("AUC, failed above succeeded (.5: chance)")
        legend_below(figure, panels[0])
        titled(figure, "Units that tell failed from succeeded images of the same class")
    return figure


def over_epochs(table: pd.DataFrame) -> Figure:
    """The AUC of the units that separate most at the last epoch, at all epochs, beside chance.

    Args:
        table: rows of `failures.csv`.
    """
    table = _all(table)
    layers = list(dict.fromkeys(table["layer"]))
    epochs = sorted(set(table["epoch"].tolist()))
    with figure_style():
        figure, panels = panel_row(len(layers), 4.4, 3.6)
        for axes, layer in zip(panels, layers, strict=True):
            own = table[table["layer"] == layer]
            best = strongest(own[own["epoch"] == epochs[-1]], _FOLLOWED)
            band = own[own["unit"].isin(best["unit"])].groupby("epoch")[["low", "high"]].median()
            axes.fill_between(
                band.index.tolist(), band["low"], band["high"], color=GRID_COLOUR, label="chance", zorder=1
            )
            for index, row in enumerate(best.to_dict("records")):
                mine = own[own["unit"] == row["unit"]].sort_values("epoch")
                colour = TRACK_COLOURS[index]
                axes.plot(mine["epoch"], mine["auc"], color=colour, lw=1.4, label=name_of(row)[:_LABEL])
                called = (mine["significant"] == 1).to_numpy(dtype=bool)
                for which, filled in ((called, colour), (~called, "white")):
                    axes.scatter(
                        mine["epoch"][which],
                        mine["auc"][which],
                        s=20,
                        facecolors=filled,
                        edgecolors=colour,
                        zorder=3,
                    )
            _chance(axes.axhline)
            axes.set_xticks(epochs)
            axes.set_title(layer, color=INK)
            axes.set_xlabel("epoch")
            axes.legend(fontsize=6.5, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        panels[0].set_ylabel("AUC, failed above succeeded")
        titled(figure, "Since when do units tell failures of a class? (filled: more than chance)")
    return figure


def strongest(rows: pd.DataFrame, count: int) -> pd.DataFrame:
    """The units whose AUC is farthest from chance, the farthest first."""
    order = (rows["auc"] - 0.5).abs().sort_values(ascending=False, kind="stable").index[:count]
    return rows.loc[order]


def name_of(row: Mapping[Any, Any]) -> str:
    """A unit and its concept, in brackets where that is no more than chance."""
    concept = row["concept"]
    if concept and not row["interpretable"]:
        concept = f"({concept})"
    return f"{row['unit']} {concept or '-'}"


def _all(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["class"] == "all"].reset_index(drop=True)


def _chance(line: Any) -> None:
    line(0.5, color=INK, lw=0.8)


def _range(rows: pd.DataFrame) -> tuple[float, float]:
    """Even about chance, so that what is above and below it looks alike."""
    seen = rows[["auc", "auc_attribution", "low", "high"]].to_numpy(dtype=float)
    reach = min(0.5, float(np.nanmax(np.abs(seen - 0.5))) * 1.1 + 0.01)
    return 0.5 - reach - 0.01, 0.5 + reach + 0.01
