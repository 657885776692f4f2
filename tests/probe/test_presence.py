"""How much of an image a label must cover to be there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from concept_monitor_cli.probe.annotations import ImageLabels
from concept_monitor_cli.probe.labelled import LabelledImages
from concept_monitor_cli.probe.presence import label_table, presence_of
from concept_monitor_cli.store import Store


@dataclass
class Labels:
    """Two labels: one covers so many pixels of a mask of 10 x 10, the other is of the first image."""

    covered: tuple[int, ...]
    names: tuple[str, ...] = ("grass", "street")
    categories: tuple[str, ...] = ("object", "scene")
    digest: str = "of these"

    def __len__(self) -> int:
        return len(self.covered)

    def __getitem__(self, index: int) -> ImageLabels:
        mask = np.full(100, -1, dtype=np.int16)
        mask[: self.covered[index]] = 0
        scalars = (1,) if index == 0 else ()
        return ImageLabels(maps=(mask.reshape(10, 10),), scalars=scalars, categories=("object", "scene"))


def test_less_than_the_area_counts_neither_way(tmp_path: Path) -> None:
    labels = cast(LabelledImages, Labels((0, 1, 4, 5, 80)))
    store = Store(tmp_path)
    for area, expected in ((0.0, [0, 1, 1, 1, 1]), (0.05, [0, None, None, 1, 1])):
        table = label_table(store, [str(i) for i in range(5)], labels, area=area)
        assert table is not None
        found = presence_of(table, ["grass", "street"], 5).present
        grass = [None if np.isnan(value) else value for value in found[:, 0].tolist()]
        assert grass == expected
        # A label of the whole image has no area.
        assert found[:, 1].tolist() == [1, 0, 0, 0, 0]
