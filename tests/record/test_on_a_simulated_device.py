"""Consumers of a forward pass on a simulated device: results as on the host, without waiting for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from concept_monitor_cli.functional.dissection import unit_masks
from concept_monitor_cli.models.layers import LayerInfo
from concept_monitor_cli.models.pooling import Layout
from concept_monitor_cli.record.consumers import UnitRange
from concept_monitor_cli.record.exemplars import _Peaks
from concept_monitor_cli.record.parts import Part, SeenPart
from concept_monitor_cli.record.quantile import UnitQuantile
from concept_monitor_cli.record.top_images import TopImages
from concept_monitor_cli.store import Store
from tests.simulated import DEVICE, simulated_device, waits

UNITS, BATCHES, SIZE, SIDE = 24, 12, 16, 7
LAYER = LayerInfo(
    "layer4", "ReLU", (UNITS, SIDE, SIDE), Layout("channels-first", grid=(SIDE, SIDE)), UNITS, 0
)


def batches(kind: str = "plain") -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    made = [torch.randn(SIZE, UNITS, SIDE, SIDE, generator=g).relu() for _ in range(BATCHES)]
    if kind == "not numbers":
        for maps in made:
            maps[3, 2] = torch.nan
            maps[:, 5] = torch.nan
            maps[1, 7, 0, 0] = torch.inf
            maps[2, 8] = -torch.inf
    if kind == "ties":
        made = [(maps * 2).round() for maps in made]
    if kind == "dead":
        for maps in made:
            maps[:, ::3] = 0
    return made


def passed(consumer: Any, given: list[Tensor], *, there: bool, first: int = 0) -> tuple[int, Any]:
    """How often the host waited while the batches went by, and where."""
    consumer.start(LAYER, BATCHES * SIZE)
    with simulated_device() as counts:
        for number, maps in enumerate(given, first):
            maps = maps.to(DEVICE) if there else maps
            consumer.update(LAYER.name, number * SIZE, maps.mean((2, 3)), maps)
        waited, places = waits(counts), counts.most_common(9)
        consumer.finish()
    return waited, places


# The consumer, its results, and the most waits a batch.
CONSUMERS: dict[str, tuple[Callable[[], Any], Callable[[Any], Tensor], int]] = {
    "quantile": (lambda: UnitQuantile(LAYER.name, 0.005), lambda made: made.threshold(), 0),
    "large quantile": (lambda: UnitQuantile(LAYER.name, 0.3), lambda made: made.threshold(0.2), 0),
    "top images": (lambda: TopImages(LAYER.name, 5), lambda made: made.indices, 0),
    # What peaks highest is kept on the host: one copy a batch.
    "exemplars": (lambda: _Peaks(LAYER, 4, 7), lambda made: made.maps, 1),
}


@pytest.mark.parametrize("kind", ["plain", "ties", "dead", "not numbers"])
@pytest.mark.parametrize("name", CONSUMERS)
def test_the_same_as_on_the_host(name: str, kind: str) -> None:
    make, result, most = CONSUMERS[name]
    here, there = make(), make()
    passed(here, batches(kind), there=False)
    waited, places = passed(there, batches(kind), there=True)
    assert torch.equal(result(here).nan_to_num(7.5), result(there).nan_to_num(7.5))
    assert waited <= most * BATCHES, places


def test_shards_of_two_devices_add_up() -> None:
    whole = UnitQuantile(LAYER.name, 0.02)
    passed(whole, batches(), there=False)
    shards = [UnitQuantile(LAYER.name, 0.02, total_images=BATCHES * SIZE) for _ in range(2)]
    passed(shards[0], batches()[:5], there=True)
    passed(shards[1], batches()[5:], there=False)
    shards[1].merge(shards[0])
    assert torch.equal(shards[1].threshold(), whole.threshold())


@pytest.mark.parametrize("kind", ["plain", "ties", "dead", "not numbers"])
@pytest.mark.parametrize("name", [*CONSUMERS, "range"])
def test_what_two_tasks_keep_is_joined_to_the_state_of_one(name: str, kind: str, tmp_path: Path) -> None:
    """One of them on a device, the other on the host; of 12 batches one sees 5 and the other 7."""
    make: Callable[[], Any] = CONSUMERS[name][0] if name in CONSUMERS else lambda: UnitRange(LAYER.name)
    store, whole, joined = Store(tmp_path), make(), make()
    passed(whole, batches(kind), there=False)
    joined.start(LAYER, BATCHES * SIZE)
    for number, (first, stop) in enumerate([(0, 5), (5, BATCHES)]):
        part, kept = make(), {}
        passed(part, batches(kind)[first:stop], there=number == 0, first=first)
        part.save(kept.__setitem__)
        entry = store.put(store.key("part", part=number), {f"0:{key}": kept[key] for key in kept})
        joined.join(SeenPart(entry, 0, Part(number + 1, 2, first * SIZE, stop * SIZE)))
    joined.finish()
    states: list[dict[str, Any]] = [{}, {}]
    for consumer, state in zip((whole, joined), states, strict=True):
        consumer.save(state.__setitem__)
        if "largest" in state:  # of each unit the same values, in any order
            state["largest"] = np.sort(state["largest"], axis=1)
    for key in states[0]:
        np.testing.assert_array_equal(*(state[key] for state in states))
    assert len(states[0]) >= 2


def test_masks_are_the_same_with_few_waits() -> None:
    maps = torch.cat(batches())
    thresholds = torch.full((UNITS,), 2.0)
    here = unit_masks(maps, thresholds, (28, 28))
    with simulated_device() as counts:
        there = unit_masks(maps.to(DEVICE), thresholds.to(DEVICE), (28, 28))
        waited, places = waits(counts), counts.most_common(12)
    assert here.edges.tolist() == there.edges.tolist()
    assert here.unit.tolist() == there.unit.tolist()
    assert len(here.unit) > 1500
    # The pairs and where they are, and four times for a block of 8,192 pairs.
    assert waited <= 2 + 4, places
