"""Batches that are read ahead of a network."""

from __future__ import annotations

import threading
from contextlib import closing

import numpy as np
import pytest
import torch

from concept_monitor_cli.errors import CmonError
from concept_monitor_cli.probe.batches import batches

CPU = torch.device("cpu")


class Rows:
    def __init__(self, count: int, size: int = 2) -> None:
        self.images = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
        self.images.flags.writeable = False
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, start: int, stop: int) -> np.ndarray:
        self.asked.append(start)
        return self.images[start:stop]


@pytest.mark.parametrize(("images", "starts"), [((0, 7), [0, 3, 6]), ((2, 8), [2, 5]), ((4, 4), [])])
def test_some_images_in_order(images: tuple[int, int], starts: list[int]) -> None:
    rows = Rows(9)
    found = list(batches(rows, 3, 2, CPU, slice(*images)))
    assert [start for start, _ in found] == starts == rows.asked
    pixels = torch.cat([batch for _, batch in found]) if found else torch.empty(0, 2, 2, 3)
    assert np.array_equal(pixels.numpy(), rows.images[slice(*images)])


def test_one_batch_ahead_and_no_thread_left_behind() -> None:
    rows = Rows(100)
    with closing(batches(rows, 5, 2, CPU, slice(0, 100))) as read:
        next(read)
    assert rows.asked in ([0], [0, 5])
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("cmon-pixels")]


def test_pixels_of_another_size_are_named() -> None:
    with pytest.raises(CmonError, match=r"from image 0 on are \(3, 2, 2, 3\) uint8, expected \(3, 4, 4, 3\)"):
        next(batches(Rows(5), 3, 4, CPU, slice(0, 5)))
