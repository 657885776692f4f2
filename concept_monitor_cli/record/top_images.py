"""The images that excite a unit most, exactly, while they pass by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from concept_monitor_cli.models.layers import LayerInfo
from concept_monitor_cli.record.consumers import BLOCK_ROWS, RowBuffer

if TYPE_CHECKING:
    from concept_monitor_cli.record.parts import Put, SeenPart

_EMPTY = torch.iinfo(torch.int64).min
_LOW = 0xFFFFFFFF
_NAN = torch.iinfo(torch.int32).min
_MAGNITUDE = 0x7FFFFFFF


def sort_keys(values: Tensor, images: Tensor) -> Tensor:
    """One whole number per (value, image), ordered by value and then by lower image index.

    The float's bits, rearranged to grow with its value, above the image's index counted backwards: no two
    images share a key, so a top-K over keys has no ties left to chance. NaN comes below every number; -0
    equals +0.

    Args:
        values: float32, any shape.
        images: int64 in [0, 2^32 - 2], of a shape that broadcasts to it.

    Returns:
        int64 of that shape, all above the smallest int64 (which stands for "no image").
    """
    bits = (values + 0.0).view(torch.int32)
    ordered = bits ^ ((bits >> 31) & _MAGNITUDE)
    ordered = ordered.masked_fill(values.isnan(), _NAN)
    return (ordered.long() << 32) | (_LOW - images)


def read_keys(keys: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of `sort_keys`: (values, images); -inf and -1 for "no image"."""
    ordered = (keys >> 32).int()
    values = (ordered ^ ((ordered >> 31) & _MAGNITUDE)).view(torch.float32)
    empty = keys == _EMPTY
    return values.masked_fill(empty, -torch.inf), (_LOW - (keys & _LOW)).masked_fill(empty, -1)


class TopImages:
    """The K images with the highest pooled activation, for every unit; ties go to the lower image index.

    Args:
        layer: whose.
        k: how many; with fewer images the rest is -inf and -1.
        offset: added to image indices, for a shard of a larger set.

    Attributes:
        non_numbers: how many pooled activations were NaN; they rank below every number.
    """

    needs_maps = False

    def __init__(self, layer: str, k: int = 100, *, offset: int = 0) -> None:
        if k < 1:
            raise ValueError("k must be at least 1")
        self.layers = (layer,)
        self.k = k
        self._offset = offset
        self._buffer = RowBuffer(BLOCK_ROWS)
        self._keys = torch.empty(0, k, dtype=torch.int64)
        self._nan = torch.zeros((), dtype=torch.int64)

    def start(self, layer: LayerInfo, n_images: int) -> None:
        """Forgets everything."""
        self._keys = torch.full((layer.units, self.k), _EMPTY)
        self._nan = torch.zeros((), dtype=torch.int64)

    def update(self, layer: str, start: int, pooled: Tensor, maps: Tensor | None) -> None:
        """Takes in a batch."""
        self._merge_rows(self._buffer.add(start, pooled))

    def finish(self) -> None:
        """Merges what is left and brings the result to the CPU."""
        self._merge_rows(self._buffer.take())
        self._keys, self._nan = self._keys.cpu(), self._nan.cpu()

    def _merge_rows(self, block: tuple[int, Tensor] | None) -> None:
        if block is None:
            return
        start, rows = block
        if rows.device.type == "mps":
            rows = rows.cpu()  # no top-K over int64 there
        first = start + self._offset
        images = torch.arange(first, first + len(rows), device=rows.device)
        self._nan = self._nan.to(rows.device) + rows.isnan().sum()
        self._merge_keys(sort_keys(rows.T.contiguous(), images))

    def _merge_keys(self, keys: Tensor) -> None:
        both = torch.cat([self._keys.to(keys.device), keys], dim=1)
        self._keys = both.topk(self.k, dim=1).values

    def merge(self, other: TopImages) -> None:
        """Takes in the result for other images of the same set (their indices must not overlap)."""
        self._merge_keys(other._keys.to(self._keys.device))
        self._nan = self._nan + other._nan.to(self._nan.device)

    def save(self, put: Put) -> None:
        """See `parts.Joinable`."""
        put("keys", self._keys.numpy())
        put("nan", self._nan.numpy())

    def join(self, part: SeenPart) -> None:
        """See `parts.Joinable`."""
        other = TopImages(self.layers[0], self.k)
        other._keys, other._nan = part.read("keys"), part.read("nan")
        self.merge(other)

    @property
    def non_numbers(self) -> int:
        """How many pooled activations were NaN."""
        return int(self._nan)

    @property
    def values(self) -> Tensor:
        """(C, K) float32, highest first; -inf where there were fewer images."""
        return read_keys(self._keys)[0]

    @property
    def indices(self) -> Tensor:
        """(C, K) int64, which images; -1 where there were fewer."""
        return read_keys(self._keys)[1]
