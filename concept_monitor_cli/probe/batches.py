"""Decoded images in batches, read ahead of a network."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from concept_monitor_cli.ahead import one_ahead
from concept_monitor_cli.errors import CmonError


class PixelRows(Protocol):
    """Decoded images, as `probe.Pixels` has them."""

    def __len__(self) -> int: ...

    def rows(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Images start..stop-1 as (B, S, S, 3)."""


def batches(
    pixels: PixelRows, batch_size: int, size: int, device: torch.device, images: slice
) -> Generator[tuple[int, Tensor], None, None]:
    """Batches of some images, in order; the next one is read while this one is used.

    Args:
        pixels: uint8 `(S, S, 3)` each.
        batch_size: images in a batch; the last one may have fewer.
        size: `S`.
        device: where they are needed. For a GPU they are in pinned memory, so that `to(device,
            non_blocking=True)` runs beside its work.
        images: which, `start` and `stop`.

    Yields:
        the first image and uint8 `(B, S, S, 3)` in host memory. Close the generator where it may not be used
            to its end.

    Raises:
        CmonError: pixels of another shape or type.
    """

    def load(start: int) -> Tensor:
        stop = min(start + batch_size, images.stop)
        rows = pixels.rows(start, stop)
        expected = (stop - start, size, size, 3)
        if rows.shape != expected or rows.dtype != np.uint8:
            found = f"{rows.shape} {rows.dtype}"
            raise CmonError(f"pixels from image {start} on are {found}, expected {expected} uint8")
        batch = torch.from_numpy(np.require(rows, requirements=["C", "W"]))
        return batch.pin_memory() if device.type == "cuda" else batch

    starts = range(images.start, images.stop, batch_size)
    with closing(one_ahead(load, starts, name="cmon-pixels")) as read:
        for start, take in read:
            yield start, take()
