"""Tuning curves: responses of units against the angle of a shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from concept_monitor_cli.monitor.epochs import evenly
from concept_monitor_cli.report.style import CAPTION_COLOUR, INK, TRACK_COLOURS, figure_style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_COLUMNS, _MOST_UNITS, _MOST_EPOCHS = 4, 24, 5


def tuning_curves(
    table: pd.DataFrame,
    shown: Mapping[int, tuple[str, NDArray[np.float32], float]],
    *,
    layer: str,
    chance: float,
) -> Figure:
    """For each unit its response to the shape whose angle explains it most, a line for each epoch.

    Args:
        table: rows of `tuning-curves.csv` of one layer.
        shown: unit -> shape, an image `(s, s)` of it at the preferred angle and size, and the share of the
            variance that the angle explains at the last epoch.
        layer: for the title.
        chance: what that share is by chance.
    """
    from matplotlib.figure import Figure

    units = list(shown)[:_MOST_UNITS]
    epochs = evenly(sorted(table["epoch"].unique()), _MOST_EPOCHS)
    columns = min(_COLUMNS, len(units))
    rows = -(-len(units) // columns)
    with figure_style():
        figure = Figure(figsize=(2.5 * columns + 0.4, 1.9 * rows + 0.8), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in list(grid.flat)[len(units) :]:
            axes.set_axis_off()
        for axes, unit in zip(grid.flat, units, strict=False):
            shape, image, share = shown[unit]
            own = table[(table["unit"] == unit) & (table["shape"] == shape)]
            for number, epoch in enumerate(epochs):
                line = own[own["epoch"] == epoch]
                last = epoch == epochs[-1]
                axes.plot(
                    line["angle"].to_numpy(float),
                    line["strength"].to_numpy(float),
                    linestyle="-" if last else (0, (4, 1 + number)),
                    color=TRACK_COLOURS[(len(epochs) - 1 - number) % len(TRACK_COLOURS)],
                    linewidth=1.6 if last else 0.9,
                    label=f"epoch {epoch}",
                )
            axes.set_xlim(0, 180 if shape == "grating" else 360)
            axes.set_xticks([0, 90, 180] if shape == "grating" else [0, 180, 360])
            axes.axhline(0, color=CAPTION_COLOUR, linewidth=0.6)
            said = f"{shape}, {share:.0%}" if np.isfinite(share) else "the same for all"
            axes.set_title(f"{unit}: {said}", fontsize=8, color=INK, loc="left")
            inset = axes.inset_axes((0.8, 1.0, 0.2, 0.24))
            inset.imshow(image, cmap="gray", vmin=0, vmax=1)
            inset.set_axis_off()
        grid[0, 0].legend(fontsize=6)
        figure.supxlabel("angle of the shape, degrees", fontsize=8)
        figure.supylabel("response (mean photo 0, best photo 1)", fontsize=8)
        figure.suptitle(
            f"{layer}: share of the variance that the angle explains (by chance {chance:.0%})", fontsize=9.5
        )
    return figure
