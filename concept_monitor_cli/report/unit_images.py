"""Units as the Network Dissection literature shows them: top images with the region that fires outlined.

A unit's region is what lies above its threshold in the recording of its masks, so it is known for the
detectors that count pixels. Images and masks cover the same frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from concept_monitor_cli.detectors.recordings import read_masks
from concept_monitor_cli.report.style import INK, category_colour, figure_style
from concept_monitor_cli.report.units import Look, strip

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from concept_monitor_cli.functional.dissection import UnitMasks
    from concept_monitor_cli.probe import ProbeSet
    from concept_monitor_cli.store import Entry

# A picture of more units cannot be read.
MOST_UNITS = 20
_IMAGES = 5


class Regions:
    """Where the units of a layer fire, from a recording of kind `masks`.

    Args:
        entry: the recording, open while this is made.
    """

    def __init__(self, entry: Entry) -> None:
        self._masks: UnitMasks = read_masks(entry)
        self._rows = self._masks.image_rows()
        self.top_images: NDArray[np.int64] = entry.read("top_images").astype(np.int64)

    def region(self, unit: int, image: int) -> NDArray[np.bool_]:
        """Where a unit lies above its threshold in an image: `(h, w)` over the whole frame."""
        masks = self._masks
        mask = np.zeros(masks.size[0] * masks.size[1], dtype=bool)
        first, stop = int(self._rows[image]), int(self._rows[image + 1])
        place = first + int(np.searchsorted(masks.unit[first:stop], unit))
        if place < stop and masks.unit[place] == unit:
            _, pixels = masks.pixels(place, place + 1)
            mask[pixels] = True
        return mask.reshape(masks.size)


def looks(
    rows: pd.DataFrame, regions: Regions, probe: ProbeSet, units: Sequence[int], *, images: int = _IMAGES
) -> list[Look]:
    """Units with their images and regions, for the figures here and in `report.units`.

    Args:
        rows: of the concept table: one epoch, layer and detector.
        regions: of that layer at that epoch.
        probe: the images.
        units: which.
        images: how many of each; those in which the unit's map peaks highest.
    """
    ranked = rows.sort_values("rank")
    found = []
    for unit in units:
        own = ranked[ranked["unit"] == unit]
        first = own.iloc[0]
        live = first["state"] == "live"
        shown = [int(i) for i in regions.top_images[unit, :images] if i >= 0] if live else []
        found.append(
            Look(
                epoch=int(first["epoch"]),
                unit=unit,
                concepts=tuple(own["concept"]) if live else (),
                category=str(first["category"]),
                score=float(first["score"]),
                interpretable=bool(first["interpretable"]),
                images=[np.asarray(probe.image(image)) for image in shown],
                masks=[regions.region(unit, image) for image in shown],
            )
        )
    return found


def best_units(rows: pd.DataFrame, count: int = MOST_UNITS) -> list[int]:
    """The interpretable units with the highest scores; where none is, the highest scores; ties by number."""
    top = rows[(rows["rank"] == 1) & (rows["state"] == "live") & (rows["concept"] != "")]
    top = top.sort_values(["interpretable", "score", "unit"], ascending=[False, False, True], kind="stable")
    called = int(top["interpretable"].sum())
    return [int(unit) for unit in top["unit"][: min(count, called) if called else count]]


def unit_images(found: Sequence[Look], *, layer: str, columns: int = 2) -> Figure:
    """A strip of images per unit with its concept and score above, as in Network Dissection.

    Args:
        found: from `looks`.
        layer: for the title.
        columns: strips side by side.
    """
    from matplotlib.figure import Figure

    length = max([1, *(len(look.images) for look in found)])
    lines = max(1, -(-len(found) // columns))
    with figure_style():
        figure = Figure(figsize=(columns * (0.95 * length + 0.2), 1.25 * lines + 0.5), layout="constrained")
        grid = figure.subplots(lines, columns, squeeze=False)
        for place, axes in enumerate(grid.flat):
            axes.set_axis_off()
            if place >= len(found):
                continue
            look = found[place]
            axes.imshow(strip(look, length), interpolation="lanczos")
            said = f"{look.concepts[0]}  {look.score:.3f}" if look.concepts else "dead"
            if look.concepts and not look.interpretable:
                said += "  (not beyond chance)"
            axes.set_title(f"{look.unit}: {said}", fontsize=8, color=INK, loc="left", pad=3, x=0.02)
            axes.text(
                *(0.0, 1.0, "■"),
                color=category_colour(look.category),
                transform=axes.transAxes,
                fontsize=7,
                va="bottom",
            )
        figure.suptitle(f"Units of {layer} and where they fire", fontsize=11)
    return figure


def draw_layer(
    rows: pd.DataFrame, entry: Entry, probe: ProbeSet, path: Path, *, formats: Sequence[str] = ("png",)
) -> list[Path]:
    """Draw the best units of one layer at one epoch into `path` with each format's ending."""
    from concept_monitor_cli.report.style import save

    shown = looks(rows, Regions(entry), probe, best_units(rows))
    return save(unit_images(shown, layer=str(rows["layer"].iloc[0])), path, formats)
