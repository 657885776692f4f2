"""Where units fire, as the Network Dissection literature shows it: the region above a unit's threshold.

It is known from the recordings of detectors that count pixels, where images and masks cover the same frame,
and of those that look at exemplars, in the part of each image that the network saw.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from concept_monitor_cli.record.exemplars import Exemplars, geometry_of
from concept_monitor_cli.record.requests import Masks, read_masks

if TYPE_CHECKING:
    from concept_monitor_cli.functional.dissection import UnitMasks
    from concept_monitor_cli.probe import ProbeSet
    from concept_monitor_cli.store import Entry


class WhereUnitsFire(Protocol):
    """Where the units of a layer fire."""

    def region(self, unit: int, image: int) -> NDArray[np.bool_]:
        """Where a unit lies above its threshold in an image: `(h, w)` over the whole frame."""


def regions_of(entry: Entry, probe: ProbeSet) -> WhereUnitsFire | None:
    """Where units fire, by a recording, open while this is used; `None` where it does not say.

    Args:
        entry: the recording.
        probe: its images.
    """
    if entry.key.kind == Masks.kind:
        return Regions(entry)
    if entry.key.kind == Exemplars.kind and entry.shape("regions")[2:] != (1, 1):
        return ExemplarRegions(entry, probe)
    return None


class Regions:
    """Where the units of a layer fire, from a recording of kind `masks`.

    Args:
        entry: the recording, open while this is made.
    """

    def __init__(self, entry: Entry) -> None:
        self._masks: UnitMasks = read_masks(entry)
        self._rows = self._masks.image_rows()

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


class ExemplarRegions:
    """Where the units of a layer fire in their exemplars, from a recording of kind `exemplars`.

    Args:
        entry: the recording, open while this is made.
        probe: its images.
    """

    def __init__(self, entry: Entry, probe: ProbeSet) -> None:
        self._regions = entry.read("regions").astype(bool)
        self._top = entry.read("top_images")
        self._geometry, self._probe = geometry_of(entry), probe

    def region(self, unit: int, image: int) -> NDArray[np.bool_]:
        """Where a unit lies above its threshold in one of its top images: `(h, w)` over the whole frame.

        Nowhere in another image. Cells become pixels, the part that the network did not see is outside.
        """
        width, height = self._probe.image(image).size
        mask = np.zeros((height, width), dtype=bool)
        places = np.flatnonzero(self._top[unit] == image)
        if not len(places):
            return mask
        cells = self._regions[unit, places[0]]
        left, top, right, bottom = self._geometry.box(width, height)
        rows = np.floor((np.arange(height) + 0.5 - top) * cells.shape[0] / (bottom - top)).astype(int)
        columns = np.floor((np.arange(width) + 0.5 - left) * cells.shape[1] / (right - left)).astype(int)
        inside = [
            (each >= 0) & (each < count) for each, count in zip((rows, columns), cells.shape, strict=True)
        ]
        mask[np.ix_(*inside)] = cells[np.ix_(rows[inside[0]], columns[inside[1]])]
        return mask
