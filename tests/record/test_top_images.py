from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from concept_monitor_cli.models.layers import LayerInfo
from concept_monitor_cli.models.pooling import Layout
from concept_monitor_cli.record import TopImages, UnitRange
from concept_monitor_cli.record.top_images import read_keys, sort_keys


def layer(units: int) -> LayerInfo:
    return LayerInfo("x", "Linear", (units,), Layout("flat", grid=(1, 1)), units, 0)


def fed(pooled: Tensor, k: int, batch: int, offset: int = 0) -> TopImages:
    top = TopImages("x", k, offset=offset)
    top.start(layer(pooled.shape[1]), len(pooled))
    for start in range(0, len(pooled), batch):
        top.update("x", start, pooled[start : start + batch], None)
    top.finish()
    return top


def literal_top(pooled: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """By sorting: highest value first, NaN last, lower index first among equals, empty places after all."""
    values, indices = [], []
    for unit in range(pooled.shape[1]):
        column = [(float(v), i) for i, v in enumerate(pooled[:, unit])]
        column.sort(key=lambda p: (math.isnan(p[0]), 0 if math.isnan(p[0]) else -p[0], p[1]))
        column = (column + [(-math.inf, -1)] * k)[:k]
        values.append([v for v, _ in column])
        indices.append([i for _, i in column])
    return np.array(values, np.float32), np.array(indices)


@pytest.mark.parametrize("images", [3, 10, 1500, 2500])
@pytest.mark.parametrize("kind", ["normal", "ties", "negative", "constant", "nan", "infinite"])
def test_equals_sorting(images: int, kind: str) -> None:
    torch.manual_seed(images)
    pooled = torch.randn(images, 4)
    if kind == "ties":
        pooled = pooled.round()
    elif kind == "negative":
        pooled = -pooled.abs() - 5
    elif kind == "constant":
        pooled = torch.zeros_like(pooled)
        pooled[::2] = -0.0
    elif kind == "nan":
        pooled[torch.rand(images, 4) < 0.999] = torch.nan
    elif kind == "infinite":
        pooled[::2] = -torch.inf
        pooled[1] = torch.inf
    expected = literal_top(pooled, 7)
    for batch in (64, 1000):
        top = fed(pooled, 7, batch)
        assert np.array_equal(top.indices.numpy(), expected[1])
        assert np.array_equal(top.values.numpy(), expected[0], equal_nan=True)
        assert top.non_numbers == int(pooled.isnan().sum())


def test_all_negative_units_with_too_few_images() -> None:
    top = fed(torch.tensor([[-3.0], [-1.0]]), 4, 1)
    assert top.indices.tolist() == [[1, 0, -1, -1]]
    assert top.values.tolist() == [[-1.0, -3.0, -math.inf, -math.inf]]


def test_shards_add_up() -> None:
    pooled = torch.randn(300, 5).round(decimals=1)
    first, second = fed(pooled[:120], 20, 50), fed(pooled[120:], 20, 50, offset=120)
    second.merge(first)
    whole = fed(pooled, 20, 64)
    assert torch.equal(second.indices, whole.indices)
    assert torch.equal(second.values, whole.values)


def test_a_second_start_forgets_the_first() -> None:
    top = fed(torch.ones(5, 2), 2, 5)
    top.start(layer(2), 5)
    top.finish()
    assert (top.indices == -1).all()


def test_k_must_be_positive() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        TopImages("x", 0)


def test_a_missing_batch_is_noticed() -> None:
    top = TopImages("x", 2)
    top.start(layer(1), 10)
    top.update("x", 0, torch.ones(3, 1), None)
    with pytest.raises(ValueError, match="row 3 expected"):
        top.update("x", 4, torch.ones(3, 1), None)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(width=32), min_size=1, max_size=20))
def test_keys_keep_value_and_image(values: list[float]) -> None:
    tensor = torch.tensor(values, dtype=torch.float32)
    images = torch.arange(len(values))
    back, where = read_keys(sort_keys(tensor, images))
    assert torch.equal(where, images)
    assert np.array_equal(back.numpy(), tensor.numpy(), equal_nan=True)


def test_range_and_dead_units() -> None:
    # Live, constant, all NaN, NaN beside one value, live with a NaN.
    nan = math.nan
    pooled = torch.tensor([[1.0, 4.0, nan, nan, 1.0], [-2.0, 4.0, nan, 3.0, nan], [0.0, 4.0, nan, nan, 2.0]])
    ranges = UnitRange("x")
    ranges.start(layer(5), 3)
    for i in range(3):
        ranges.update("x", i, pooled[i : i + 1], None)
    ranges.finish()
    assert ranges.dead.tolist() == [False, True, True, True, False]
    assert ranges.minimum[:2].tolist() == [-2.0, 4.0]
    assert ranges.maximum[:2].tolist() == [1.0, 4.0]
    assert ranges.non_numbers.tolist() == [0, 0, 3, 2, 1]


def test_a_unit_constant_within_shards_only_is_alive() -> None:
    shards = []
    for value in (1.0, 2.0):
        ranges = UnitRange("x")
        ranges.start(layer(1), 2)
        ranges.update("x", 0, torch.full((2, 1), value), None)
        ranges.finish()
        assert ranges.dead.tolist() == [True]
        shards.append(ranges)
    shards[0].merge(shards[1])
    assert shards[0].dead.tolist() == [False]
