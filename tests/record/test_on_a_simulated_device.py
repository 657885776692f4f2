"""Consumers of a forward pass on a simulated device: results as on the host, without waiting for it."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from concept_monitor_cli import record as package
from concept_monitor_cli.bases import Basis
from concept_monitor_cli.bases.base import Encoding
from concept_monitor_cli.functional.dissection import UnitMasks, unit_masks
from concept_monitor_cli.models.layers import LayerInfo
from concept_monitor_cli.models.pooling import Layout
from concept_monitor_cli.record import consumers as consumers_module
from concept_monitor_cli.record import top_images
from concept_monitor_cli.record.consumers import MapSpool, PooledWriter, UnitRange
from concept_monitor_cli.record.exemplars import _Peaks
from concept_monitor_cli.record.in_basis import InBasis, layer_in_basis
from concept_monitor_cli.record.parts import Part, SeenPart
from concept_monitor_cli.record.quantile import UnitQuantile
from concept_monitor_cli.record.requests import PeakImages, _MaskMaker
from concept_monitor_cli.record.top_images import TopImages
from concept_monitor_cli.record.whole_maps import _MapPacker
from concept_monitor_cli.store import Store
from tests.simulated import DEVICE, simulated_device, waits

UNITS, BATCHES, SIZE, SIDE = 24, 8, 8, 7
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


def sent(counts: Counter[tuple[str, str, str]]) -> int:
    """How often the package sent something to the device."""
    return sum(many for (kind, _, place), many in counts.items() if kind == "upload" and place != "?")


def passed(consumer: Any, given: list[Tensor], *, there: bool, first: int = 0) -> tuple[int, Any]:
    """How often the host waited while the batches went by, and where; all is sent with the first of them."""
    consumer.start(LAYER, BATCHES * SIZE)
    at_first = 0
    with simulated_device() as counts:
        for number, maps in enumerate(given, first):
            maps = maps.to(DEVICE) if there else maps
            consumer.update(LAYER.name, number * SIZE, maps.mean((2, 3)), maps)
            at_first = sent(counts) if number == first else at_first
        waited, places = waits(counts), counts.most_common(9)
        assert sent(counts) == at_first, places
        consumer.finish()
    return waited, places


class Rows:
    """In the place of a store's writer: the arrays, in memory."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray[Any, Any]] = {}

    def create(self, name: str, shape: tuple[int, ...], dtype: Any) -> None:
        self.arrays[name] = np.zeros(shape, dtype)

    def write(self, name: str, start_row: int, array: np.ndarray[Any, Any]) -> None:
        self.arrays[name][start_row : start_row + len(array)] = array


def writing(consumer: Callable[..., Any]) -> Callable[[], Any]:
    """A consumer that writes rows; `made.rows` keeps them."""

    def make() -> Any:
        rows = Rows()
        made = consumer(LAYER.name, rows)
        made.rows = rows
        return made

    return make


def in_basis(encoding: Encoding) -> Any:
    matrix = np.abs(np.random.default_rng(0).normal(size=(UNITS, 2)))
    members = layer_in_basis(LAYER, "layer4@two", 2)
    return InBasis(PeakImages(members.name, 5), LAYER, members, Basis.of(matrix, encoding), "mean")


# The consumer, its results, and the most waits a batch.
CONSUMERS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any], float]] = {
    "UnitQuantile": (lambda: UnitQuantile(LAYER.name, 0.005), lambda made: made.threshold(), 0),
    "UnitQuantile, large": (lambda: UnitQuantile(LAYER.name, 0.3), lambda made: made.threshold(0.2), 0),
    "TopImages": (lambda: TopImages(LAYER.name, 5), lambda made: made.indices, 0),
    "PeakImages": (lambda: PeakImages(LAYER.name, 5), lambda made: made.top.values, 0),
    "UnitRange": (lambda: UnitRange(LAYER.name), lambda made: torch.stack([made.minimum, made.maximum]), 0),
    # What peaks highest is kept on the host: one copy a batch.
    "_Peaks": (lambda: _Peaks(LAYER, 4, 7), lambda made: made.maps, 1),
    # Rows are brought to the host in blocks, here as small as they can be.
    "PooledWriter": (writing(PooledWriter), lambda made: made.rows.arrays, 1),
    "MapSpool": (writing(MapSpool), lambda made: made.rows.arrays, 1),
    "_MapPacker": (writing(_MapPacker), lambda made: made.rows.arrays, 1),
    "InBasis": (lambda: in_basis("linear"), lambda made: made._consumer.top.values, 0),
    # Which factors are nothing is looked up.
    "InBasis, factors": (lambda: in_basis("nonnegative"), lambda made: made._consumer.top.values, 1),
    # What fires is known on the device alone: pairs, rows, stretches and pixels are counted in turn.
    "_MaskMaker": (
        lambda: _MaskMaker(LAYER.name, torch.full((UNITS,), 2.0), (14, 14)),
        lambda made: [UnitMasks.join(made.parts).edges, UnitMasks.join(made.parts).unit],
        6,
    ),
}
# Other consumers are tried with a network, which gives them scores: test_recordings_on_a_simulated_device.py.
SCORES = {"ScoreWriter", "GradientWriter"}


def consumers() -> set[str]:
    """Every class of `record/` that takes in batches."""
    names = [found.name for found in pkgutil.iter_modules(package.__path__, package.__name__ + ".")]
    return {
        each.__name__
        for module in map(importlib.import_module, names)
        for each in vars(module).values()
        if inspect.isclass(each)
        and each.__module__ == module.__name__
        and hasattr(each, "update")
        and not getattr(each, "_is_protocol", False)
    }


def test_every_consumer_is_tried() -> None:
    assert consumers() == {name.partition(",")[0] for name in CONSUMERS} | SCORES


def arrays(found: Any) -> list[np.ndarray[Any, Any]]:
    """A result as arrays, NaN for NaN."""
    if isinstance(found, Tensor):
        return [found.numpy()]
    return list(found.values()) if isinstance(found, dict) else list(found)


KINDS = ["plain", "ties", "dead", "not numbers"]
# What writes rows does nothing else with any kind of them.
WRITERS = {"PooledWriter", "MapSpool"}


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name in CONSUMERS for kind in KINDS if kind == "not numbers" or name not in WRITERS],
)
def test_the_same_as_on_the_host(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (consumers_module, top_images):
        monkeypatch.setattr(module, "BLOCK_ROWS", 1)
    monkeypatch.setattr(consumers_module, "_BLOCK_BYTES", 1)
    make, result, most = CONSUMERS[name]
    here, there = make(), make()
    passed(here, batches(kind), there=False)
    waited, places = passed(there, batches(kind), there=True)
    one, other = arrays(result(here)), arrays(result(there))
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        # A product of the same numbers in other memory may be rounded otherwise.
        (np.testing.assert_allclose if "InBasis" in name else np.testing.assert_array_equal)(a, b)
    assert waited <= most * BATCHES, places


def test_shards_of_two_devices_add_up() -> None:
    whole = UnitQuantile(LAYER.name, 0.02)
    passed(whole, batches(), there=False)
    shards = [UnitQuantile(LAYER.name, 0.02, total_images=BATCHES * SIZE) for _ in range(2)]
    passed(shards[0], batches()[:5], there=True)
    passed(shards[1], batches()[5:], there=False)
    shards[1].merge(shards[0])
    assert torch.equal(shards[1].threshold(), whole.threshold())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name", ["UnitQuantile", "UnitQuantile, large", "TopImages", "PeakImages", "_Peaks", "UnitRange"]
)
def test_what_two_tasks_keep_is_joined_to_the_state_of_one(name: str, kind: str, tmp_path: Path) -> None:
    """One of them on a device, the other on the host; one sees 5 batches and the other 3."""
    make = CONSUMERS[name][0]
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
    assert len(here.unit) > 500
    # The pairs and where they are, and four times for a block of 8,192 pairs.
    assert waited <= 2 + 4, places
