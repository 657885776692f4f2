"""Labels by masks that are found on one half of the images, asked on the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from concept_monitor_cli.functional.dissection import UnitMasks
from concept_monitor_cli.functional.groups import halves
from concept_monitor_cli.functional.held_out import held_out_summary
from concept_monitor_cli.lenses.halves import Halves, held_out_record
from concept_monitor_cli.lenses.names.compositional import Compositional
from concept_monitor_cli.lenses.names.masked import MaskDetector
from concept_monitor_cli.lenses.names.network_dissection import NetworkDissection
from scripts.blind_worlds import MaskWorld

DETECTORS = [
    pytest.param(NetworkDissection("none"), id="supported"),
    pytest.param(NetworkDissection("category", rule="iou"), id="iou"),
    pytest.param(Compositional(length=2, beam=4), id="compositional"),
]


def asked(world: MaskWorld, detector: MaskDetector, masks: np.ndarray) -> Halves | None:
    units = UnitMasks.from_dense(masks[world.photo])
    arrays: dict[str, Any] = {name: getattr(units, name) for name in ("image", "unit", "offsets", "edges")}
    arrays["live"] = np.ones(masks.shape[1], dtype=bool)
    meta = {"n_images": len(world.photo), "n_units": masks.shape[1], "size": list(units.size), "notes": []}
    with world.store.put(world.store.key("masks", name=str(masks.sum())), arrays, meta) as entry:
        return detector.halves(entry, world)


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("copies", [1, 2])
def test_planted_labels_hold_on_the_other_half_and_blind_ones_do_not(
    tmp_path: Path, detector: MaskDetector, copies: int
) -> None:
    world = MaskWorld(tmp_path, 80 * copies, copies=copies)
    planted, names = world.planted(5)  # of objects that are on many photos
    found = asked(world, detector, planted)
    assert found is not None
    assert found.measure == "iou"
    assert (found.held_out > 0.3).all()
    assert found.chance.mean() < 0.5 * found.held_out.mean()
    for name, one, other in zip(names, found.concept_a, found.concept_b, strict=True):
        assert name in one
        assert name in other
    record = held_out_record(found, np.array([name.split()[0] for name in names], dtype=object), 5.0)
    assert (record["word"], record["measure"], record["units"]) == ("well", "iou", 5)
    luck = asked(world, detector, world.blind(24, None))
    assert luck is not None
    gain = held_out_summary(
        torch.from_numpy(luck.held_out), torch.from_numpy(luck.chance), effective=24, measure="iou"
    )
    assert gain.word in ("no better than chance", "weakly")
    assert abs(gain.value - gain.chance) < 0.02


@pytest.mark.parametrize("rule", ["supported", "iou"])
def test_against_pixels_counted_by_hand(tmp_path: Path, rule: Any) -> None:
    """The label of one half, its IoU on the other; with few units chance is all of the other labels."""
    world = MaskWorld(tmp_path, 60, copies=2)
    masks = np.concatenate([world.planted(3)[0], world.blind(2, None)], axis=1)
    found = asked(world, NetworkDissection("none", rule=rule), masks)
    assert found is not None
    names, size = world.labels.names, masks.shape[2] * masks.shape[3]
    planes = np.zeros((60, len(names), size), dtype=bool)
    for i in range(60):
        for label in world.labels[i].scalars:
            planes[i, label] = True
        for each in world.labels[i].maps:
            for label in np.unique(each[each >= 0]):
                planes[i, label] |= (each == label).ravel()
    fires = masks[world.photo].reshape(60, 5, size)
    first = halves(world.groups, seed=world.seed)

    def ious(rows: np.ndarray, unit: int, *, supported: bool) -> list[float]:
        values = []
        for label in range(len(names)):
            shared = (fires[rows, unit] & planes[rows, label]).sum(1)
            union = (fires[rows, unit] | planes[rows, label]).sum()
            by_photo = [shared[world.photo[rows] == photo].sum() for photo in set(world.photo[rows])]
            part = shared.sum() - (max(by_photo) if supported else 0)
            values.append(part / union if union else 0.0)
        return values

    for unit in range(5):
        own, chance = [], []
        for here, column in ((first, found.concept_a), (~first, found.concept_b)):
            scores = [ious(here, each, supported=rule == "supported") for each in range(5)]
            best = [int(np.argmax(each)) if max(each) > 0 else -1 for each in scores]
            assert column[unit] == ("" if best[unit] < 0 else names[best[unit]])
            if best[unit] < 0:
                continue
            there = ious(~here, unit, supported=False)
            own.append(there[best[unit]])
            others = [there[label] for label in best if label not in (best[unit], -1)]
            chance.append(np.mean(others))
        assert found.held_out[unit] == pytest.approx(np.mean(own))
        assert found.chance[unit] == pytest.approx(np.mean(chance))


def test_too_few_groups_are_not_divided(tmp_path: Path) -> None:
    world = MaskWorld(tmp_path, 38, copies=2)
    assert asked(world, NetworkDissection(), world.planted(3)[0]) is None


def test_a_part_of_the_masks() -> None:
    generator = np.random.default_rng(0)
    dense = generator.random((9, 6, 5, 4)) < 0.3
    dense[generator.random((9, 6)) < 0.4] = False
    images, units = np.array([1, 2, 6, 8]), np.array([0, 3, 5])
    part = UnitMasks.from_dense(dense).part(images, units)
    assert np.array_equal(part.dense(), dense[np.ix_(images, units)])
    none = UnitMasks.from_dense(np.zeros_like(dense)).part(images, units)
    assert len(none) == 0
    assert (none.n_images, none.n_units) == (4, 3)
