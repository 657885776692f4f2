"""Parts of images as concepts of `vectors`: clusters of the positions of a layer's maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.part_clusters import PartClusters, part_clusters
from concept_monitor_cli.options import VectorsOptions
from concept_monitor_cli.progress import Progress
from concept_monitor_cli.record.requests import Activations
from concept_monitor_cli.run import TABLES, CheckpointRecord
from concept_monitor_cli.stories.circuit_making import forward_order
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.stories.recorder import Recorder
from concept_monitor_cli.wording import counted

if TYPE_CHECKING:
    import pandas as pd

_PREFIX = "cluster "
# Of each cluster the nearest part of so many different images.
_LISTED = 20
_SHOWN = 8
# What a position is shown with: one more on each side.
_AROUND = 1


@dataclass(frozen=True)
class Parts:
    """Clusters of the positions of a layer.

    Attributes:
        layer, epoch: where.
        found: the clusters.
        size: `(h, w)` of the maps.
    """

    layer: str
    epoch: int
    found: PartClusters
    size: tuple[int, int]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the clusters that are kept, in the order of `found.kept`."""
        return tuple(f"{_PREFIX}{number}" for number in self.found.kept)

    def present(self, area: float) -> Tensor:
        """`(N, M)`: 1 where a cluster covers so much of the image, 0 where none, else NaN."""
        share = self.found.share
        there = torch.where(share >= area, 1.0, torch.nan)
        return torch.where(share == 0, 0.0, there).float()

    def nearest(self, name: str, rows: Tensor, count: int) -> list[tuple[int, int, float]]:
        """Image, position and cosine of the parts nearest to a cluster's centre, an image once."""
        number = int(name.removeprefix(_PREFIX))
        near = torch.where(self.found.cluster[rows] == number, self.found.nearness[rows], -2.0)
        best = near.max(1)
        order = best.values.argsort(descending=True, stable=True)[:count]
        return [
            (int(rows[place]), int(best.indices[place]), float(best.values[place]))
            for place in order.tolist()
            if best.values[place] > -2
        ]

    def examples(
        self, opened: OpenRun, names: Sequence[str], rows: Tensor
    ) -> dict[str, list[NDArray[np.uint8]]]:
        """For each cluster the parts of images nearest to its centre, as pictures."""
        shown = [name for name in self.names if name in names]
        return {
            name: [
                self._crop(np.asarray(opened.probe.image(image)), position)
                for image, position, _ in self.nearest(name, rows, _SHOWN)
            ]
            for name in shown
        }

    def _crop(self, image: NDArray[np.uint8], position: int) -> NDArray[np.uint8]:
        parts = []
        for place, count, length in zip(divmod(position, self.size[1]), self.size, image.shape, strict=False):
            start = max(0, place - _AROUND) * length // count
            stop = max(start + 1, min(count, place + 1 + _AROUND) * length // count)
            parts.append(slice(start, stop))
        return image[parts[0], parts[1]]


def parts_of(
    recorder: Recorder,
    record: CheckpointRecord,
    layers: Sequence[str],
    options: VectorsOptions,
    progress: Progress,
) -> Parts | None:
    """The clusters of the last layer, where they are asked for.

    Args:
        recorder: the run's networks.
        record: the last checkpoint.
        layers: those that are looked at.
        options: how many clusters.
        progress: told how many are kept.

    Raises:
        InputError: the layer has no maps, or fewer positions than clusters.
    """
    if options.clusters is None:
        return None
    recorder.prepare(record, [Activations()])
    layer = forward_order(recorder.network(record).architecture, list(layers))[-1]
    maps = recorder.maps(record, layer)
    if maps.ndim != 4 or maps.shape[2] * maps.shape[3] < 2:
        raise InputError(
            f"{layer} has {'one position' if maps.ndim == 4 else 'no map'}, and parts of images are "
            "positions",
            where="--clusters",
            hint="an earlier --layer, or larger images (--input-size of dissect)",
        )
    found = part_clusters(maps, options.clusters, seed=options.seed)
    progress.notice(
        f"{layer} at epoch {record.epoch}: {len(found.kept)} of {counted(options.clusters, 'clusters')} of "
        "parts have enough members"
    )
    return Parts(layer, record.epoch, found, (int(maps.shape[2]), int(maps.shape[3])))


def keep_parts(opened: OpenRun, parts: Parts, names: Sequence[str], rows: Tensor) -> pd.DataFrame:
    """Write `vector-clusters.csv`: the parts nearest to the centre of each cluster that became a concept."""
    import pandas as pd

    kept = set(names)
    lines = [
        {
            "epoch": parts.epoch,
            "layer": parts.layer,
            "concept": name,
            "place": place,
            "image": opened.probe.ids[image],
            "row": position // parts.size[1],
            "column": position % parts.size[1],
            "rows": parts.size[0],
            "columns": parts.size[1],
            "cosine": cosine,
        }
        for name in parts.names
        if name in kept
        for place, (image, position, cosine) in enumerate(parts.nearest(name, rows, _LISTED), 1)
    ]
    schema = TABLES["vector-clusters"]
    frame = schema.frame(pd.DataFrame(lines, columns=list(schema.columns)))
    opened.run.write_csv("vector-clusters", frame)
    return frame
