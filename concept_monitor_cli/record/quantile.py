"""The threshold that a share of a unit's positions exceeds, exactly as float32 numbers, in one pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from concept_monitor_cli.functional.dissection.thresholds import comparable, positions_above
from concept_monitor_cli.models.layers import LayerInfo
from concept_monitor_cli.record.consumers import map_size

if TYPE_CHECKING:
    from concept_monitor_cli.record.parts import Put, SeenPart

# Values handled at a time: the scratch memory stays in the cache and off the page-fault path.
_CHUNK = 1 << 21


class UnitQuantile:
    """Per unit the threshold T with P(A > T) = fraction over all positions of all images.

    Defined exactly: T is the smallest value such that the share of positions with a value strictly above T is
    at most `fraction`; with n positions and m = floor(fraction n) that is the (m + 1)-th largest value.
    Activations are compared as float32 numbers, infinities as the largest finite ones. NaN counts as a
    position that is never above. The result does not depend on the order or the split of the images.

    Why float32: at float16 resolution all activations of a unit at 100 +- 0.05 are one of four values, hardly
    any of them above a threshold among these, and above 65,504 nothing is.

    How: the m + 1 largest values of each unit so far are kept. The smallest of them, L, is never above the
    final T, so only values above L are looked at from then on. m comes from the number of positions, so that
    is fixed in advance. Memory: about 5 (m + 1) bytes a unit, a fifth or less of what the masks take that
    follow from the threshold.

    On a GPU, looking for values above L would make the host wait several times a batch. There all values are
    kept until half as many have come as are kept, and then the m + 1 largest: nothing is waited for, the work
    is three top-Ks of all values together, and the memory about 6 (m + 1) bytes a unit and a batch of maps.

    Args:
        layer: whose.
        fraction: the largest one that will be asked for (Bau et al. 2017: 0.005).
        total_images: images in the whole set, where this is a shard of it to be merged with others.
    """

    needs_maps = True

    def __init__(self, layer: str, fraction: float = 0.005, *, total_images: int | None = None) -> None:
        if not 0 <= fraction < 1:
            raise ValueError(f"fraction must lie in [0, 1), not {fraction}")
        self.layers = (layer,)
        self.fraction = fraction
        self._total_images = total_images
        self._positions = self._seen = 0

    def start(self, layer: LayerInfo, n_images: int) -> None:
        """Forgets everything.

        Raises:
            InputError: where the layer has no maps.
        """
        height, width = map_size(layer)
        self._positions = (n_images if self._total_images is None else self._total_images) * height * width
        self._seen = 0
        self._keep = positions_above(self.fraction, self._positions) + 1
        # Room for a quarter more: a row is cut back to `_keep` values when it is full.
        self._width = self._keep + max(16, self._keep // 4)
        # The first `_filled` of a row are values of the unit, in any order; the others are -inf.
        self._rows = torch.full((layer.units, self._width), -torch.inf)
        self._filled = torch.zeros(layer.units, dtype=torch.int64)
        # L, and -inf until there is one.
        self._bound = torch.full((layer.units,), -torch.inf)
        self._scratch = torch.empty(0, dtype=torch.bool)
        # On a GPU: values that are not yet among the rows, units x values.
        self._waiting: list[Tensor] = []

    def update(self, layer: str, start: int, pooled: Tensor, maps: Tensor | None) -> None:
        """Takes in a batch."""
        assert maps is not None
        if maps.device.type == "mps":
            maps = maps.cpu()  # no 64-bit counting there
        if maps.device != self._rows.device:
            self._to(maps.device)
        images, channels, height, width = maps.shape
        if maps.device.type != "cpu":
            values = comparable(maps).transpose(0, 1).flatten(1)
            # NaN is never above anything, as the empty places are.
            self._waiting.append(torch.where(values.isnan(), -torch.inf, values))
            if 2 * sum(each.shape[1] for each in self._waiting) >= self._keep:
                self._settle()
            self._seen += images * height * width
            return
        # Work in memory order: channels innermost or outermost, whichever it is.
        by_position = maps.permute(0, 2, 3, 1)
        last = by_position.is_contiguous() and not maps.is_contiguous()
        rows, inner = (by_position, 1) if last else (maps.contiguous(), height * width)
        step = max(1, _CHUNK // max(1, rows[0].numel()))
        for first in range(0, images, step):
            part = rows[first : first + step]
            found = self._candidates(part, self._bound if last else self._bound[:, None, None])
            self._add(comparable(part.reshape(-1)[found]), (found // inner) % channels)
            self._seen += len(part) * height * width

    def finish(self) -> None:
        """Brings the result to the CPU."""
        self._settle()
        self._to(torch.device("cpu"))
        self._scratch = torch.empty(0, dtype=torch.bool)

    def _settle(self) -> None:
        """Takes in the values that wait: of all so far the `_keep` largest of every unit stay."""
        if not self._waiting:
            return
        self._rows[:, : self._keep] = torch.cat([self._rows, *self._waiting], dim=1).topk(self._keep).values
        self._rows[:, self._keep :] = -torch.inf
        self._waiting = []
        self._filled = (self._rows > -torch.inf).sum(1)
        lowest = self._rows[:, self._keep - 1]
        self._bound = torch.where(self._filled == self._keep, lowest, -torch.inf)

    def _candidates(self, part: Tensor, bound: Tensor) -> Tensor:
        """Flat indices of the values that may matter; NaN is never among them."""
        if self._scratch.numel() < part.numel():
            self._scratch = torch.empty(part.numel(), dtype=torch.bool, device=part.device)
        mask = self._scratch[: part.numel()].view(part.shape)
        torch.gt(part, bound, out=mask)
        if bool((bound == -torch.inf).any()):
            mask |= (part == -torch.inf) & (bound == -torch.inf)
        return torch.from_numpy(np.flatnonzero(mask.numpy()))  # 4 times as fast as torch's

    def _add(self, values: Tensor, units: Tensor) -> None:
        counts = torch.bincount(units, minlength=len(self._rows))
        self._cut((self._filled + counts > self._rows.shape[1]).nonzero().view(-1))
        room = int((self._filled + counts).max())
        if room > self._rows.shape[1]:  # many values at once: wider for a moment
            more = self._rows.new_full((len(self._rows), room - self._rows.shape[1]), -torch.inf)
            self._rows = torch.cat([self._rows, more], dim=1)
        units, order = units.sort(stable=True)
        place = torch.arange(len(units), device=units.device) - (counts.cumsum(0) - counts)[units]
        self._rows[units, self._filled[units] + place] = values[order]
        self._filled += counts
        if self._rows.shape[1] > self._width:
            self._cut((self._filled > self._keep).nonzero().view(-1))
            self._rows = self._rows[:, : self._width].contiguous()

    def _cut(self, rows: Tensor) -> None:
        """Keeps the `_keep` largest values of these rows."""
        rows = rows[self._filled[rows] > self._keep]
        if not len(rows):
            return
        kept = _largest(self._rows[rows], self._keep)
        self._rows[rows] = -torch.inf
        self._rows[rows, : self._keep] = kept
        self._filled[rows] = self._keep
        self._bound[rows] = kept.amin(1)

    def _to(self, device: torch.device) -> None:
        for name in ("_rows", "_filled", "_bound", "_scratch"):
            setattr(self, name, getattr(self, name).to(device))

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        held = (self._rows, self._filled, self._scratch, *self._waiting)
        return sum(t.numel() * t.element_size() for t in held)

    def merge(self, other: UnitQuantile) -> None:
        """Takes in what another run saw of other images of the same set.

        Raises:
            ValueError: where the two were made for another fraction, total or number of units.
        """
        mine = (self.fraction, self._positions, len(self._rows))
        if mine != (other.fraction, other._positions, len(other._rows)):
            raise ValueError("quantiles of another fraction, set of images or layer do not add up")
        self._settle()
        other._settle()
        self._take(other._rows, other._filled, other._seen)

    def save(self, put: Put) -> None:
        """See `parts.Joinable`."""
        self._cut(torch.arange(len(self._rows)))
        put("largest", self._rows[:, : self._keep].numpy())
        put("filled", self._filled.numpy())
        put("seen", np.array(self._seen))

    def join(self, part: SeenPart) -> None:
        """See `parts.Joinable`."""
        self._take(part.read("largest"), part.read("filled"), int(part.read("seen")))

    def _take(self, rows: Tensor, filled: Tensor, seen: int) -> None:
        """Takes in the first `filled` values of each row, of so many positions that were seen."""
        taken = torch.arange(rows.shape[1]) < filled[:, None]
        self._add(rows[taken], taken.nonzero()[:, 0])
        self._seen += seen

    def threshold(self, fraction: float | None = None) -> Tensor:
        """T per unit.

        Args:
            fraction: at most the one given at the start, which is the default.

        Returns:
            (C,) float32; -inf for a unit with too few numbers (NaN).

        Raises:
            ValueError: for a larger fraction, or before all images were seen.
        """
        fraction = self.fraction if fraction is None else fraction
        if not 0 <= fraction <= self.fraction:
            raise ValueError(f"made for fractions up to {self.fraction}, not {fraction}")
        if self._seen != self._positions:
            raise ValueError(
                f"{self._seen} of {self._positions} positions seen; merge the other shards first"
            )
        self._settle()
        return _largest(self._rows, positions_above(fraction, self._positions) + 1).amin(1)


def _largest(rows: Tensor, k: int) -> Tensor:
    """The `k` largest values of every row, in any order: (R, k)."""
    if rows.device.type != "cpu":
        return rows.topk(k, dim=1, sorted=False).values
    place = rows.shape[1] - k
    return torch.from_numpy(np.partition(rows.numpy(), place, axis=1)[:, place:])
