"""What a unit says at each range of its activation, over the epochs."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import pandas as pd

from concept_monitor_cli.report.style import INK, UNIT_COLOUR, category_colour, figure_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROW = 0.27
_LETTERS = 46
_MUTED = "#6B7178"


def ranges_over_epochs(rows: pd.DataFrame, *, layer: str, unit: int) -> Figure:
    """One unit's ranges, a panel per epoch, the highest values on top.

    A bar is the coverage: the share of the range's pixels in which its formula holds. Bars of ranges that are
    called have the colour of their category, others are grey.

    Args:
        rows: of the unit, at the epochs that are shown: columns `epoch`, `range`, `low`, `high`, `weight`,
            `concept`, `category`, `coverage`, `score`, `interpretable`, `specialised`.
        layer: for the title.
        unit: likewise.
    """
    from matplotlib.figure import Figure

    epochs = [int(epoch) for epoch in sorted(rows["epoch"].unique())]
    counts = [int((rows["epoch"] == epoch).sum()) for epoch in epochs]
    height = sum(count * _ROW + 0.42 for count in counts) + 0.75
    with figure_style():
        figure = Figure(figsize=(8.4, height), layout="constrained")
        grid = figure.subplots(
            len(epochs),
            1,
            squeeze=False,
            sharex=True,
            gridspec_kw={"height_ratios": [count * _ROW + 0.42 for count in counts]},
        )[:, 0]
        for axes, epoch in zip(grid, epochs, strict=True):
            _panel(axes, rows[rows["epoch"] == epoch].sort_values("range"))
            axes.set_title(f"epoch {epoch}", loc="left", fontsize=9)
        grid[-1].set_xlabel(
            "coverage: share of the range's pixels in its formula (its IoU); bold: more than chance"
            + ("; *: in no untrained network" if (rows["specialised"] == "yes").any() else ""),
            loc="left",
            fontsize=8,
        )
        figure.suptitle(
            f"Unit {unit} of {layer}: what it says at ranges of its activation", fontsize=11, color=INK
        )
    return figure


def _panel(axes: Axes, rows: pd.DataFrame) -> None:
    known = rows.to_dict("records")
    places = list(range(len(known)))
    colours = [
        category_colour(str(row["category"])) if row["interpretable"] else UNIT_COLOUR for row in known
    ]
    axes.barh(places, rows["coverage"].fillna(0).tolist(), height=0.68, color=colours)
    axes.set_yticks(places, [_values(row["low"], row["high"], row["weight"]) for row in known], fontsize=7.5)
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.6, len(known) - 0.4)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"], fontsize=7.5)
    axes.tick_params(length=0)
    for place, row in zip(places, known, strict=True):
        text = textwrap.shorten(str(row["concept"]), _LETTERS, placeholder=" …") or "no formula"
        # No unit of the untrained networks says it there.
        mark = " *" if row["specialised"] == "yes" else ""
        score = f"  ({row['score']:.3f})" if row["concept"] else ""
        axes.text(
            1.02,
            place,
            f"{text}{mark}{score}",
            va="center",
            fontsize=8,
            color=INK if row["interpretable"] else _MUTED,
            weight="bold" if row["interpretable"] else "normal",
            transform=axes.get_yaxis_transform(),
        )


def _values(low: float, high: float, weight: float) -> str:
    """A range and where its mean is: `0.31 to 0.78 (+1.2 SD)`."""
    return f"{low:.3g} to {high:.3g} ({weight:+.1f} SD)".replace("-", "\N{MINUS SIGN}")
