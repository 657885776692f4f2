"""The pooled activations that a `dissect` left in the cache, layer by layer and epoch by epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.dynamics import finite
from concept_monitor_cli.monitor.history import natural
from concept_monitor_cli.record.exemplars import POOLED_KINDS
from concept_monitor_cli.run import TableRecord
from concept_monitor_cli.store import Key
from concept_monitor_cli.stories.opened import OpenRun


@dataclass(frozen=True)
class RecordedLayer:
    """One layer at one epoch of one run.

    Attributes:
        run: the run's name.
        layer: the layer.
        epoch: the epoch.
        checkpoint: its checkpoint.
        read: gives the activations, `(N, C)` float32; `(N, C * positions)` where they are not pooled.
        positions: columns for each unit: those of its map, one after the other.
    """

    run: str
    layer: str
    epoch: int
    checkpoint: str
    read: Callable[[], Tensor]
    positions: int = 1


def recorded_layers(opened: OpenRun, name: str) -> Iterator[RecordedLayer]:
    """Every layer at every epoch whose pooled activations a detector asked for, layers in natural order.

    Args:
        opened: the run.
        name: what to call it.

    Raises:
        InputError: the run has no pooled activations.
    """
    moments = opened.table[["layer", "epoch"]].drop_duplicates()
    wanted = set(zip(moments["layer"], moments["epoch"].astype(int), strict=True))
    records: dict[tuple[str, int], RecordedLayer] = {}
    for _, record in opened.run.table_records():
        kind = record.recording.partition("/")[0]
        place = (record.layer, record.epoch)
        if kind in POOLED_KINDS and place in wanted and place not in records:
            records[place] = RecordedLayer(
                name, record.layer, record.epoch, record.checkpoint, partial(_read, opened, record)
            )
    if not records:
        raise InputError(
            "the run has no pooled activations: its detectors record where units fire only",
            where=opened.run.root,
            hint="dissect with a detector that reads activations, too",
        )
    yield from sorted(records.values(), key=lambda each: (natural(each.layer), each.layer, each.epoch))


def _read(opened: OpenRun, record: TableRecord) -> Tensor:
    kind, _, digest = record.recording.partition("/")
    entry = opened.store.get(Key(kind, digest, {}))
    if entry is None:
        raise InputError(
            f"the activations of {record.layer} are not in the cache",
            where=opened.store.root,
            hint="name the --cache-dir of the dissect, or dissect again",
        )
    with entry:
        return torch.from_numpy(entry.read("pooled"))


def usable(each: RecordedLayer) -> Tensor:
    """The pooled activations without units that are infinite or not a number somewhere.

    Raises:
        InputError: they are not in the cache.
    """
    values = each.read()
    if not finite(values):
        values = values[:, values.isfinite().all(0)]
    return values
