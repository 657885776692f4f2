from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.models.layers import LayerInfo
from concept_monitor_cli.models.pooling import Layout
from concept_monitor_cli.record import quantile
from concept_monitor_cli.record.quantile import UnitQuantile

LARGEST = float(np.finfo(np.float32).max)


def layer(units: int, height: int, width: int) -> LayerInfo:
    layout = Layout("channels-first", grid=(height, width))
    return LayerInfo("x", "Conv2d", (units, height, width), layout, units, 0)


def literal_threshold(maps: Tensor, fraction: float) -> np.ndarray:
    """The definition, by trying every value: the smallest T with a share above it of at most `fraction`."""
    found = []
    for unit in range(maps.shape[1]):
        values = maps[:, unit].flatten().numpy().astype(np.float64).clip(-LARGEST, LARGEST)
        values = values[~np.isnan(values)]
        count = maps[:, unit].numel()
        allowed = [
            v
            for v in np.unique(values)
            if Fraction(int((values > v).sum()), count) <= Fraction(str(fraction))
        ]
        found.append(min(allowed))
    return np.array(found)


def fed(maps: Tensor, fraction: float, batch: int, **options: int) -> UnitQuantile:
    histogram = UnitQuantile("x", fraction, **options)
    _, units, height, width = maps.shape
    histogram.start(layer(units, height, width), len(maps))
    for start in range(0, len(maps), batch):
        part = maps[start : start + batch]
        histogram.update("x", start, part.mean((2, 3)), part)
    histogram.finish()
    return histogram


def random_maps(kind: str, images: int = 40) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    normal = torch.randn(images, 6, 5, 5, generator=generator)
    return {
        "normal": normal,
        "relu": normal.relu(),
        "negative": -normal.abs() - 1,
        "sparse": torch.where(normal > 2.9, normal, 0.0),
        "tiny": normal * 1e-8,
        "ties": normal.round(),
        "huge": normal * 1e5,
        "overflowing": normal * 1e38,
        "denormal": normal * 1e-40,
        "offset": 100 + 0.05 * normal,
        "far offset": -300 + 0.1 * normal,
        "bfloat16": (30 + normal).bfloat16().float(),
        "float16": (30 + normal).half().float(),
        "infinite": torch.where(normal > 0, -torch.inf, normal),
        "constant": torch.full_like(normal, 2.5),
        "zero": torch.zeros_like(normal),
        "growing": normal + torch.arange(images)[:, None, None, None],
        "falling": normal - torch.arange(images)[:, None, None, None],
    }[kind]


KINDS = ["normal", "relu", "negative", "sparse", "tiny", "ties"]
KINDS += ["huge", "overflowing", "denormal", "offset", "far offset", "bfloat16", "float16", "infinite"]
KINDS += ["constant", "zero", "growing", "falling"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fraction", [0.0, 0.001, 0.005, 0.1, 0.9])
def test_equals_the_definition(kind: str, fraction: float) -> None:
    maps = random_maps(kind)
    expected = literal_threshold(maps, fraction)
    for batch in (7, 40):
        assert np.array_equal(fed(maps, fraction, batch).threshold().numpy(), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_memory_order_does_not_matter(kind: str) -> None:
    maps = random_maps(kind)
    last = maps.to(memory_format=torch.channels_last)
    assert torch.equal(fed(maps, 0.005, 8).threshold(), fed(last, 0.005, 8).threshold())


def test_large_batches_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = random_maps("normal")
    expected = literal_threshold(maps, 0.005)
    monkeypatch.setattr(quantile, "_CHUNK", 500)  # three images
    assert np.array_equal(fed(maps, 0.005, 40).threshold().numpy(), expected)


def test_by_hand() -> None:
    # 1..1000 once each: 5 of 1,000 may lie above T, so T is the sixth largest.
    maps = torch.arange(1.0, 1001.0)[torch.randperm(1000)].reshape(10, 1, 10, 10)
    histogram = fed(maps, 0.005, 3)
    assert histogram.threshold().item() == 995.0
    assert histogram.threshold(0.001).item() == 999.0
    assert histogram.threshold(0).item() == 1000.0


def test_the_share_above_is_what_was_asked_for() -> None:
    maps = torch.rand(200, 3, 10, 10)
    threshold = fed(maps, 0.005, 32).threshold()
    share = (maps > threshold[:, None, None]).float().mean((0, 2, 3))
    assert (share <= 0.005).all()
    assert (share > 0.0049).all()


def test_nan_and_infinity() -> None:
    maps = random_maps("normal")
    maps[::3, 0, 0] = torch.nan
    maps[:, 1] = torch.nan
    maps[5, 2, 1, 1] = torch.inf
    maps[6, 3, 1, 1] = -torch.inf
    threshold = fed(maps, 0.005, 16).threshold()
    assert threshold[0] == literal_threshold(maps[:, :1], 0.005).item()
    assert threshold[1] == -torch.inf  # no number at all
    assert threshold[2] == literal_threshold(maps[:, 2:3], 0.005).item()
    assert fed(maps, 0.0, 16).threshold()[2] == LARGEST


@pytest.mark.parametrize("kind", KINDS)
def test_shards_add_up(kind: str) -> None:
    maps = random_maps(kind)
    shards = [fed(part, 0.01, 5, total_images=40) for part in (maps[:3], maps[3:25], maps[25:])]
    total = shards[1]
    with pytest.raises(ValueError, match="positions seen"):
        total.threshold()
    total.merge(shards[2])
    total.merge(shards[0])
    assert torch.equal(total.threshold(), fed(maps, 0.01, 40).threshold())
    assert np.array_equal(total.threshold(0.002).numpy(), literal_threshold(maps, 0.002))


def test_shards_of_something_else_do_not_add_up() -> None:
    maps = random_maps("normal")
    with pytest.raises(ValueError, match="do not add up"):
        fed(maps, 0.01, 5).merge(fed(maps, 0.02, 5))
    with pytest.raises(ValueError, match="do not add up"):
        fed(maps, 0.01, 5).merge(fed(maps[:5], 0.01, 5))


def test_larger_fractions_are_refused() -> None:
    histogram = fed(random_maps("normal"), 0.005, 8)
    with pytest.raises(ValueError, match=r"up to 0\.005"):
        histogram.threshold(0.01)
    with pytest.raises(ValueError, match="fraction"):
        UnitQuantile("x", 1.0)


@pytest.mark.parametrize(
    ("offset", "spread"), [(0, 1), (100, 0.05), (300, 0.1), (-300, 0.1), (1e6, 1e5), (0, 1e-9)]
)
def test_the_share_above_does_not_depend_on_offset_and_scale(offset: float, spread: float) -> None:
    generator = torch.Generator().manual_seed(1)
    maps = offset + spread * torch.randn(400, 2, 5, 5, generator=generator)
    for dtype in (torch.float32, torch.float64):
        threshold = fed(maps.to(dtype), 0.005, 64).threshold()
        share = (maps > threshold[:, None, None]).double().mean((0, 2, 3))
        assert ((share > 0.0047) & (share <= 0.005)).all()


def test_one_unit_that_never_gives_numbers_does_not_harm_the_others() -> None:
    maps = random_maps("infinite")
    maps[:, 0] = torch.nan
    threshold = fed(maps, 0.1, 3).threshold()
    assert threshold[0] == -torch.inf
    assert np.array_equal(threshold[1:].numpy(), literal_threshold(maps[:, 1:], 0.1))


def test_memory_is_that_of_the_values_above() -> None:
    generator = torch.Generator().manual_seed(0)
    for images in (200, 1600):
        above = math.floor(0.005 * images * 49) + 1
        held = fed(torch.randn(images, 32, 7, 7, generator=generator), 0.005, 32).nbytes
        assert held <= 32 * (5 * above + 100)


def test_a_layer_without_maps_is_an_error() -> None:
    with pytest.raises(InputError, match="no activation maps"):
        UnitQuantile("x").start(LayerInfo("x", "Block", (5, 8), Layout("tokens"), 8, 0), 3)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=4, max_size=60),
    st.floats(0, 0.99),
    st.integers(1, 9),
)
def test_any_values(values: list[float], fraction: float, batch: int) -> None:
    fraction = round(fraction, 4)
    maps = torch.tensor(values[: len(values) // 2 * 2]).reshape(-1, 1, 1, 2)
    result = fed(maps, fraction, batch).threshold().item()
    count = maps.numel()
    rank = math.floor(Fraction(str(fraction)) * count)
    assert result == sorted(values[:count], reverse=True)[rank]
