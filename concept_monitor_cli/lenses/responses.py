"""One number per image and unit, from whatever a recording holds, and what follows from these numbers alone.

Everything here is asked of the activations and not of labels, so that it holds for every detector.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from concept_monitor_cli.functional.redundancy import NEAR, Redundancy, redundancy
from concept_monitor_cli.record.exemplars import POOLED_KINDS
from concept_monitor_cli.record.requests import read_masks
from concept_monitor_cli.store import Entry, Key, Writer

if TYPE_CHECKING:
    from concept_monitor_cli.study.context import Context

#: Images that redundancy is computed from: an even choice of more. Their spectrum is known well enough, and a
#: layer of 2,048 units takes a second instead of minutes.
MOST_IMAGES = 4096
#: From this share of redundant units on the user is told what it means for the labels.
REDUNDANT = 0.1
#: Likewise from so few effective units on, as a share of what independent units give.
FEW = 0.1

#: What it means for detectors that weigh a label against the other units of the layer.
RELATIVE_ADVICE = (
    ". soft-wpmi and wpmi weigh a concept against the other units of the layer: units that are alike "
    "take it from each other and get wrong, different names. --similarity cos-cubed does not suffer"
)

_BLOCK = 4096


class Responses:
    """The responses of a layer's units to the images, `N x C`, read in blocks.

    Pooled activations where a recording has them; of masks the pixels of each image on which a unit fires.

    Args:
        entry: a recording.

    Attributes:
        n_images: `N`.
        live: `(C,)` bool.
    """

    def __init__(self, entry: Entry) -> None:
        self.live: NDArray[np.bool_] = entry.read("live").astype(bool)
        self._entry = entry
        self._pooled = entry.key.kind in POOLED_KINDS
        if self._pooled:
            self.n_images = int(entry.shape("pooled")[0])
        else:
            masks = read_masks(entry)
            self.n_images = masks.n_images
            self._firsts, self._units = masks.image_rows(), masks.unit
            self._areas = masks.areas().astype(np.float32)

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """The images from `start` to before `stop`, `(stop - start, C)`."""
        if self._pooled:
            found: NDArray[np.float32] = self._entry.rows("pooled", start, stop)
            return found
        first, last = self._firsts[start], self._firsts[stop]
        rows = np.zeros((stop - start, len(self.live)), dtype=np.float32)
        image = np.repeat(np.arange(stop - start), np.diff(self._firsts[start : stop + 1]))
        rows[image, self._units[first:last]] = self._areas[first:last]
        return rows

    def columns(self, start: int, stop: int) -> NDArray[np.float32]:
        """The units from `start` to before `stop` on all images, `(N, stop - start)`."""
        if self._pooled:
            found: NDArray[np.float32] = self._entry.columns("pooled", start, stop)
            return found
        spans = ((first, min(self.n_images, first + _BLOCK)) for first in range(0, self.n_images, _BLOCK))
        return np.concatenate([self.rows(*span)[:, start:stop] for span in spans])

    def some(self, images: NDArray[np.int64], most: int) -> NDArray[np.float32]:
        """At most `most` of some images, an even choice, `(n, C)`; `images` ascend."""
        count = min(most, len(images))
        chosen = images[np.arange(count) * len(images) // max(count, 1)]
        parts = []
        for start in range(0, self.n_images, _BLOCK):
            stop = min(self.n_images, start + _BLOCK)
            own = chosen[(chosen >= start) & (chosen < stop)]
            parts.append(self.rows(start, stop)[own - start])
        return np.concatenate(parts)


def redundancy_key(context: Context, recording: Key) -> Key:
    """Where the store has how alike the units of a recorded layer are."""
    return context.store.key(
        "redundancy",
        recording=recording.digest,
        groups=context.groups_digest,
        images=MOST_IMAGES,
        near=NEAR,
        seed=context.seed,
    )


def layer_redundancy(context: Context, recording: Key, open_entry: Callable[[], Entry]) -> Redundancy:
    """How alike the units of a recorded layer are; kept in the store.

    Copies of an image would pass for more images than there are, so one of each group counts.

    Args:
        context: the groups of images, and where the answer is kept.
        recording: the address of the layer's recording.
        open_entry: opens it, where the answer is not there yet.
    """

    def make(writer: Writer) -> None:
        with open_entry() as entry:
            responses = Responses(entry)
            one_of_each = np.sort(context.groups.members[context.groups.starts])
            Q = torch.from_numpy(responses.some(one_of_each, MOST_IMAGES)[:, responses.live])
        found = redundancy(Q, seed=context.seed)
        writer.meta["units"] = found.units
        names = ("effective", "redundant", "effective_chance", "redundant_chance")
        writer.put("values", np.array([getattr(found, name) for name in names]))

    with context.store.get_or_make(redundancy_key(context, recording), make) as kept:
        return Redundancy(int(kept.meta["units"]), *(float(value) for value in kept.read("values")))


def redundancy_record(found: Redundancy) -> dict[str, Any]:
    """For the record of a table: numbers as JSON, `None` where there is none."""
    return {
        "units": found.units,
        "effective_units": number_or_none(found.effective),
        "redundant": number_or_none(found.redundant),
        "effective_units_chance": number_or_none(found.effective_chance),
        "redundant_chance": number_or_none(found.redundant_chance),
    }


def number_or_none(value: float) -> float | None:
    """A number for JSON; `None` for one that is not finite."""
    # As many digits as the tables have.
    return float(f"{value:.7g}") if np.isfinite(value) else None


def redundancy_note(found: Redundancy, *, layer: str, epoch: int, relative: bool) -> str | None:
    """What the user should know of a layer whose units are alike; `None` where they are not.

    Args:
        found: how alike.
        layer: its name.
        epoch: when they are.
        relative: whether the detector weighs a label against the other units of the layer.
    """
    few = found.effective <= FEW * found.effective_chance
    if found.units < 2 or not (found.redundant >= REDUNDANT or few):
        return None
    said = (
        f"{layer} at epoch {epoch}: its units repeat each other: {found.redundant:.0%} of {found.units} "
        f"correlate above {NEAR:g} with another, and together they count as {found.effective:.0f} "
        f"independent ones ({found.effective_chance:.0f} by chance)"
    )
    if relative:
        said += RELATIVE_ADVICE
    return said
