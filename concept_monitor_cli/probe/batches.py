"""Decoded images in batches, read ahead of a network."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
    with ThreadPoolExecutor(1, thread_name_prefix="cmon-pixels") as pool:
        ahead = [pool.submit(load, start) for start in starts[:1]]
        for number, start in enumerate(starts):
            batch = ahead.pop().result()
            ahead += [pool.submit(load, following) for following in starts[number + 1 : number + 2]]
            yield start, batch
