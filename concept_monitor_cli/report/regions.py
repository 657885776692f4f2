"""Where units fire, as the Network Dissection literature shows it: the region above a unit's threshold.

It is known from the recordings of detectors that count pixels. Images and masks cover the same frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from concept_monitor_cli.record.requests import read_masks

if TYPE_CHECKING:
    from concept_monitor_cli.functional.dissection import UnitMasks
    from concept_monitor_cli.store import Entry


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
