"""The recording of exemplars: against whole maps kept in memory."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from concept_monitor_cli.models.geometry import Geometry, Preprocessing
from concept_monitor_cli.models.layers import describe_layers
from concept_monitor_cli.record import record
from concept_monitor_cli.record.exemplars import Exemplars, geometry_of
from concept_monitor_cli.store import Store

SIDE, IMAGES, UNITS = 20, 90, 5


class Pixels:
    """Images in memory."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    def rows(self, start: int, stop: int) -> np.ndarray[Any, Any]:
        return self.array[start:stop]


@pytest.fixture(scope="module")
def pixels() -> Pixels:
    array = np.random.default_rng(0).integers(0, 256, (IMAGES, SIDE, SIDE, 3), dtype=np.uint8)
    array[7] = array[3]  # equal peaks: the lower image comes first
    return Pixels(array)


def network(pool: bool = False) -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, UNITS, 3, padding=1), nn.ReLU()]
    if pool:
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(UNITS, UNITS)]
    model = nn.Sequential(*layers).eval()
    with torch.no_grad():
        first = model[0]
        first.weight[4], first.bias[4] = 0, 0.5  # type: ignore[index, assignment]
    return model


def recorded(
    root: Path, model: nn.Module, layer: str, pixels: Pixels, batch_size: int
) -> tuple[dict[str, Any], Geometry]:
    store, request = Store(root), Exemplars(top_k=10)
    preprocessing = Preprocessing(Geometry(SIDE, 24), (0.5,) * 3, (0.25,) * 3, "test")
    key = store.key(request.kind, batch=batch_size, layer=layer, **request.settings())
    info = describe_layers(model, [layer], SIDE)[layer]
    with ExitStack() as stack:
        todo = request.begin(stack, store, key, info, len(pixels))
        seen = record(model, pixels, preprocessing, todo.consumers, batch_size=batch_size)
        assert todo.complete(seen) is None
    entry = store.get(key)
    assert entry is not None
    names = ("pooled", "top_images", "top_values", "lowest", "live", "thresholds", "regions")
    with entry:
        return {name: entry.read(name) for name in names}, geometry_of(entry)


def maps_of(model: nn.Module, pixels: Pixels) -> Tensor:
    images = (torch.from_numpy(pixels.array).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25
    with torch.no_grad():
        return model[:2](images)  # type: ignore[index]


@pytest.mark.parametrize("batch_size", [7, 200])
def test_peaks_and_regions_are_those_of_whole_maps(tmp_path: Path, pixels: Pixels, batch_size: int) -> None:
    model = network()
    found, geometry = recorded(tmp_path, model, "1", pixels, batch_size)
    assert geometry == Geometry(SIDE, 24)
    maps = maps_of(model, pixels)
    values_at = maps.numpy()
    peaks = maps.amax((2, 3))
    np.testing.assert_allclose(found["pooled"], maps.mean((2, 3)), atol=1e-5)
    np.testing.assert_allclose(found["lowest"], peaks.amin(0), atol=1e-5)
    assert found["live"].tolist() == [True] * 4 + [False]
    assert found["regions"].shape == (UNITS, 10, 14, 14)
    for unit in range(4):
        values = peaks[:, unit].round(decimals=4).tolist()
        order = sorted(range(IMAGES), key=lambda i: (-values[i], i))[:10]
        assert found["top_images"][unit].tolist() == order
        every = sorted(maps[:, unit].flatten().tolist(), reverse=True)
        limit = every[int(0.01 * len(every))]
        assert found["thresholds"][unit] == pytest.approx(limit, abs=1e-5)
        for place, image in enumerate(order):
            for row in range(0, 14, 3):
                for column in range(14):
                    # The cells of adaptive pooling: from floor(i h / H) to ceil((i + 1) h / H).
                    ys = range(row * SIDE // 14, -(-(row + 1) * SIDE // 14))
                    xs = range(column * SIDE // 14, -(-(column + 1) * SIDE // 14))
                    above = [values_at[image, unit, y, x] for y in ys for x in xs]
                    if abs(max(above) - limit) > 1e-4:
                        assert found["regions"][unit, place, row, column] == (max(above) > limit)


def test_without_maps_the_whole_image_is_the_region(tmp_path: Path, pixels: Pixels) -> None:
    found, _ = recorded(tmp_path, network(pool=True), "4", pixels, 32)
    assert found["regions"].shape == (UNITS, 10, 1, 1)
    assert found["regions"].all()
    order = (-found["pooled"]).argsort(0, kind="stable")[:10].T
    np.testing.assert_array_equal(found["top_images"], order)


def test_fewer_images_than_places(tmp_path: Path, pixels: Pixels) -> None:
    found, _ = recorded(tmp_path, network(), "1", Pixels(pixels.array[:4]), 3)
    assert (found["top_images"][:, 4:] == -1).all()
    assert (found["top_images"][:, :4] >= 0).all()
    assert not found["regions"][:, 4:].any()


@pytest.mark.parametrize(
    ("geometry", "box"),
    [
        (Geometry(224, 256), (144.0, 16.0, 368.0, 240.0)),
        (Geometry(100), (206.0, 78.0, 306.0, 178.0)),
        (Geometry(224, None, "squash"), (0.0, 0.0, 512.0, 256.0)),
        (Geometry(224, 448, "squash"), (128.0, 64.0, 384.0, 192.0)),
    ],
)
def test_which_part_of_an_image_is_seen(geometry: Geometry, box: tuple[float, ...]) -> None:
    assert geometry.box(512, 256) == box
