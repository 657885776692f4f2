"""Whole maps in steps: nothing passes anything, zero stays zero, and half a step is all that is lost."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from concept_monitor_cli.models.layers import LayerInfo, Layout
from concept_monitor_cli.record.whole_maps import PackedMaps, WholeMaps
from concept_monitor_cli.store import Store
from concept_monitor_cli.study import passes


def test_values_are_kept_to_half_a_step() -> None:
    torch.manual_seed(0)
    maps = torch.randn(6, 5, 4, 3)
    maps[:, 1] = maps[:, 1].relu()
    maps[:, 2] = 1000 + 1e-3 * maps[:, 2]
    maps[:, 3] = maps[:, 3].exp() ** 6
    packed = PackedMaps.pack(maps)
    values = maps.numpy()
    assert packed.codes.dtype == np.uint16
    for image in range(6):
        for unit in range(5):
            own = values[image, unit].astype(np.float64)
            low, step = own.min(), (own.max() - own.min()) / 65535
            kept = packed.of(slice(unit, unit + 1))[image, 0].astype(np.float64)
            slack = 4 * np.finfo(np.float32).eps * np.abs(own).max()
            assert np.abs(kept - own).max() <= step / 2 + slack or (own[own > low].min() - low) < step
            assert np.abs(kept - own).max() <= step + slack
            order = np.argsort(own, axis=None, kind="stable")
            assert (np.diff(kept.ravel()[order]) >= 0).all()
    assert len(packed) == 6


def test_zero_stays_zero_and_nothing_else_becomes_zero() -> None:
    maps = torch.tensor([0.0, 1e-20, 3.0, 1e4]).reshape(1, 1, 2, 2)
    kept = PackedMaps.pack(maps).of(slice(None)).ravel()
    assert kept[0] == 0
    assert 0 < kept[1] < kept[2] < kept[3]


def test_maps_of_one_value_with_nan_and_without_end() -> None:
    maps = torch.zeros(1, 4, 1, 2)
    maps[0, 0] = 2.5
    maps[0, 1, 0, 1] = torch.nan
    maps[0, 2, 0, 1] = torch.inf
    maps[0, 3] = torch.tensor([-torch.inf, torch.inf])
    kept = PackedMaps.pack(maps).of(np.arange(4))
    assert kept[0, 0].tolist() == [[2.5, 2.5]]
    assert np.isnan(kept[0, 1]).all()
    assert np.isfinite(kept[0, 2:]).all()
    assert kept[0, 2, 0, 0] == 0 < 3e38 < kept[0, 2, 0, 1]


def test_a_part_is_the_same_maps() -> None:
    torch.manual_seed(1)
    packed = PackedMaps.pack(torch.randn(4, 3, 2, 2))
    part = packed.part(np.array([1, 3]), np.array([0, 2]))
    np.testing.assert_array_equal(part.of(slice(None)), packed.of(np.array([0, 2]))[[1, 3]])


def test_a_recording_holds_them_and_is_as_large_as_it_says(tmp_path: Path) -> None:
    torch.manual_seed(2)
    maps, layer = (
        torch.randn(7, 3, 4, 4),
        LayerInfo("l", "Conv2d", (3, 4, 4), Layout("channels-first", grid=(4, 4)), 3, 0),
    )
    store, request = Store(tmp_path), WholeMaps(top_k=2)
    key = store.key(request.kind, **request.settings())
    with ExitStack() as stack:
        todo = request.begin(stack, store, key, layer, 7)
        for each in todo.consumers:
            each.start(layer, 7)
            for start in range(0, 7, 3):
                part = maps[start : start + 3]
                each.update("l", start, part.mean((2, 3)), part)
            each.finish()
        todo.complete(SimpleNamespace(notes=lambda _: []))  # type: ignore[arg-type]
    entry = store.get(key)
    assert entry is not None
    with entry:
        found = PackedMaps.read(entry)
        np.testing.assert_allclose(found.of(slice(None)), maps.numpy(), atol=1e-4)
        names = ("pooled", "codes", "lowest", "step", "live", "top_images", "top_values")
        held = sum(entry.read(name).nbytes for name in names)
    assert request.cost(layer, 7).bytes >= held > request.cost(layer, 7).bytes - 8 * 3 * 2 - 1


def test_much_is_said_before_it_is_written() -> None:
    said: list[str] = []
    layer = LayerInfo("stage4", "Conv2d", (2048, 7, 7), Layout("channels-first", grid=(7, 7)), 2048, 0)
    wanted = SimpleNamespace(request=WholeMaps(), layer=layer)
    study = SimpleNamespace(notice=said.append)
    passes.tell_of_size(study, [wanted], 1_000)  # type: ignore[arg-type, list-item]
    assert said == []
    passes.tell_of_size(study, [wanted], 10_000)  # type: ignore[arg-type, list-item]
    (note,) = said
    assert note.startswith("what is seen of stage4 takes about 2.3 GB of the cache for each checkpoint")
