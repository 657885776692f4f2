"""Where answers come from: a strip for each image, a place for each epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from concept_monitor_cli.monitor.epochs import evenly
from concept_monitor_cli.report.style import INK, figure_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_EPOCHS, _MOST_IMAGES = 8, 16
# Of the strongest place: a single pixel would leave everything else grey.
_QUANTILE = 0.995


@dataclass(frozen=True)
class Explained:
    """An image and its maps.

    Attributes:
        name: of the image.
        target: what is explained.
        pixels: as the network sees it, `(s, s, 3)`.
        maps: one for each epoch, `(h, w)`, signed.
        predicted: what the network says of it at each epoch.
    """

    name: str
    target: str
    pixels: NDArray[np.uint8]
    maps: Sequence[NDArray[np.float32]]
    predicted: Sequence[str]


def strips(images: Sequence[Explained], epochs: Sequence[int], *, title: str) -> Figure:
    """A row for each image, first itself, then its map at each epoch over its grey shadow.

    Red speaks for the target, blue against it. One scale for all epochs of an image: the absolute value that
    99.5 % of its places stay below, at any epoch.

    Args:
        images: what is shown.
        epochs: of their maps.
        title: of the figure.
    """
    from matplotlib.figure import Figure

    images = list(images)[:_MOST_IMAGES]
    columns = evenly(list(range(len(epochs))), _MOST_EPOCHS)
    with figure_style():
        figure = Figure(
            figsize=(1.5 * (len(columns) + 1) + 0.3, 1.72 * len(images) + 0.5), layout="constrained"
        )
        grid = figure.subplots(len(images), len(columns) + 1, squeeze=False)
        for row, image in zip(grid, images, strict=True):
            height, width = image.pixels.shape[:2]
            box = (0, width, height, 0)
            largest = float(np.quantile(np.abs(np.stack(image.maps)), _QUANTILE)) or 1.0
            row[0].imshow(image.pixels, extent=box)
            row[0].set_title(
                _short(f"{image.target}: {image.name.rpartition('/')[2]}"), fontsize=6.5, color=INK
            )
            grey = image.pixels.mean(2)
            for axes, column in zip(row[1:], columns, strict=True):
                axes.imshow(grey, cmap="gray", vmin=-120, vmax=300, extent=box)
                axes.imshow(
                    image.maps[column],
                    cmap="RdBu_r",
                    vmin=-largest,
                    vmax=largest,
                    alpha=0.6,
                    extent=box,
                    interpolation="bilinear",
                )
                said = f"epoch {epochs[column]}: {image.predicted[column]}"
                axes.set_title(_short(said), fontsize=6.5, color=INK)
            for axes in row:
                axes.set_axis_off()
        figure.suptitle(f"{title}: red speaks for the target, blue against it", fontsize=9)
    return figure


def _short(text: str, most: int = 26) -> str:
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"
