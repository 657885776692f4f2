"""Linear explanations: planted sums are found, told and called; blind units are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from concept_monitor_cli.lenses.names.linear import Linear
from concept_monitor_cli.store import Entry
from concept_monitor_cli.wording import sum_text
from tests.lenses.worlds import World, make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = make_world(tmp_path_factory.mktemp("world"), 160)
    concepts = made.context.probe.concepts
    assert concepts is not None
    made.context.concepts = concepts
    return made


def entry_of(world: World, pooled: torch.Tensor) -> Entry:
    """A recording of pooled activations."""
    live = pooled.amax(0) > pooled.amin(0)
    arrays: dict[str, Any] = {"pooled": pooled.float().numpy(), "live": live.numpy()}
    world.made += 1
    return world.context.store.put(world.context.store.key("activations", test=world.made), arrays, {})


def test_planted_sums_are_told_with_their_signs(world: World) -> None:
    present = world.context.presence(world.context.concepts.concepts).present.double()
    number = {name: k for k, name in enumerate(world.context.concepts.concepts)}
    a, b, c = (present[:, number[name]] for name in ("object 1", "object 2", "color 1"))
    noise = 0.1 * torch.randn(len(a), 2, generator=torch.Generator().manual_seed(0))
    found = Linear().find(
        entry_of(world, torch.stack([a + 0.7 * b, 2 + a - c], 1) + noise), world.context, matrix=True
    )
    assert found.interpretable.all()
    assert (found.scores[:, 0] > 0.9).all()
    table = found.more["weights"]
    first, second = (
        dict(zip(table["concept"][own], table["effect"][own], strict=True))
        for own in (table["unit"] == 0, table["unit"] == 1)
    )
    assert first == {"object 1": "excites", "object 2": "excites"}
    assert second == {"object 1": "excites", "color 1": "inhibits"}
    assert " + " in found.concepts[0, 0]
    assert "- 0." in found.concepts[1, 0] or found.concepts[1, 0].startswith("-0.")
    assert found.matrix is not None
    assert int(found.matrix[0].argmax()) in (number["object 1"], number["object 2"])


def test_sums_of_one_half_tell_active_photos_of_the_other(world: World) -> None:
    present = world.context.presence(world.context.concepts.concepts).present.double()
    number = {name: k for k, name in enumerate(world.context.concepts.concepts)}
    a, b, c = (present[:, number[name]] for name in ("object 1", "object 2", "color 1"))
    generator = torch.Generator().manual_seed(0)
    planted = torch.stack([a + 0.7 * b, 2 + a - c, c - b], 1)
    planted = planted + 0.1 * torch.randn(planted.shape, generator=generator)
    blind = torch.rand(len(a), 20, generator=generator)
    pooled = torch.cat([planted, blind, torch.ones(len(a), 1)], 1)
    found = Linear().halves(entry_of(world, pooled), world.context)
    assert found is not None
    assert found.unit.tolist() == list(range(23))  # a dead unit is not asked
    for text in (found.concept_a[0], found.concept_b[0]):
        assert "object 1" in text
        assert "object 2" in text
    assert (found.held_out[:3] > 0.7).all()
    assert (found.held_out[:3] > found.chance[:3] + 0.2).all()
    luck = torch.from_numpy(found.held_out[3:])
    assert bool(luck.isnan().all()) or abs(float(luck.nanmean()) - 0.5) < 0.2


def test_halves_of_too_few_photos_are_not_asked(tmp_path: Path) -> None:
    world = make_world(tmp_path, 12)
    concepts = world.context.probe.concepts
    assert concepts is not None
    world.context.concepts = concepts
    assert Linear().halves(entry_of(world, torch.rand(12, 3)), world.context) is None


def test_blind_units_are_not_called(world: World) -> None:
    pooled = torch.randn(160, 80, generator=torch.Generator().manual_seed(5)).clamp_min(0)
    found = Linear().find(entry_of(world, pooled), world.context)
    assert found.live.all()
    assert found.interpretable.sum() <= 0.05 * 80 + 2
    random = torch.randn(160, 80, generator=torch.Generator().manual_seed(6)).clamp_min(0)
    beside = Linear().find(entry_of(world, pooled), world.context, untrained=[entry_of(world, random)])
    assert beside.interpretable.sum() <= 0.05 * 80 + 2


def test_copies_of_photos_are_no_evidence(tmp_path: Path) -> None:
    world = make_world(tmp_path, 40, copies=5)
    concepts = world.context.probe.concepts
    assert concepts is not None
    world.context.concepts = concepts
    pooled = torch.rand(40, 60, generator=torch.Generator().manual_seed(2))[torch.from_numpy(world.photo)]
    found = Linear().find(entry_of(world, pooled), world.context)
    assert found.interpretable.sum() <= 0.05 * 60 + 2


def test_too_few_photos_are_said(tmp_path: Path) -> None:
    world = make_world(tmp_path, 6)
    concepts = world.context.probe.concepts
    assert concepts is not None
    world.context.concepts = concepts
    found = Linear().find(entry_of(world, torch.rand(6, 3)), world.context)
    assert not found.interpretable.any()
    assert "too few" in found.notes[0]


def test_texts() -> None:
    assert sum_text([(-0.61, "dog"), (0.3, "snow"), (0.02, "grass")]) == "-0.6 dog + 0.3 snow + 0.02 grass"
