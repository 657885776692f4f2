"""CLIP-Dissect on layers whose answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from concept_monitor_cli.functional.similarity.registry import SIMILARITIES, RankSimilarity
from concept_monitor_cli.lenses.names.clip_dissect import ClipDissect
from concept_monitor_cli.lenses.names.clip_ranks import RankedLayer
from concept_monitor_cli.lenses.names.clip_values import ValuedLayer

from .clip_world import blind, found, planted, random_world

NAMES = list(SIMILARITIES)


@pytest.mark.parametrize("name", NAMES)
def test_the_printed_concept_is_the_tested_one(tmp_path: Path, name: str) -> None:
    """The p-value and the effect of every unit, from the printed concept and nothing else."""
    # rank-reorder looks at 5 % of the images: at four of 90, which prove nothing.
    world, rng = random_world(tmp_path, 400 if name == "rank-reorder" else 90, 25)
    Q = torch.cat([planted(world, rng, 9)[0], blind(world, rng, 9), blind(world, rng, 9, 8)], 1)
    findings = found(world, ClipDissect(name, top_k=20), Q)
    assert findings.matrix is not None
    similarity = SIMILARITIES[name]
    words = list(world.concepts.concepts)
    printed = torch.tensor([words.index(word) for word in findings.concepts[:, 0]])
    if isinstance(similarity, RankSimilarity):
        layer = RankedLayer(similarity, Q, world, 20)
        sets = {part.size: part for part in layer.sized}
        assert len(sets) == 2
        for part in layer.sized:
            random = layer.random_sets(part.size).values.double()
            evidence = similarity.evidence(
                world.activations, layer.top[: part.size, part.rows], a=similarity.a
            )
            label = printed[part.rows]
            own = evidence.values.double().gather(1, label[:, None])[:, 0]
            effect = (own - random[:, label].mean(0)) / random[:, label].std(0, correction=0)
            np.testing.assert_allclose(findings.effect[part.rows], effect, rtol=1e-3, atol=1e-3)  # type: ignore[index]
            # Among units of one size the test ranks units as the evidence for the printed concept does.
            order = np.argsort(-effect.numpy())
            assert (np.diff(findings.p_values[part.rows][order]) >= 0).all()
    else:
        layer_of_values = ValuedLayer(similarity, Q, world)
        scores = similarity.function(world.activations, Q)
        assert printed.tolist() == scores.argmax(1).tolist()
        named = layer_of_values.name(())
        np.testing.assert_allclose(findings.effect, named.effect.numpy(), rtol=1e-5)
        np.testing.assert_allclose(findings.p_values, named.p_values.numpy())
    assert (findings.effect[:9].mean()) > findings.effect[9:].mean() + 1  # type: ignore[index]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("copies", [1, 5])
def test_units_blind_to_content_are_not_called(tmp_path: Path, name: str, copies: int) -> None:
    called = 0
    for seed in range(3):
        world, rng = random_world(tmp_path / str(seed), 200, 60, copies=copies, seed=seed)
        Q = torch.cat([blind(world, rng, 20), blind(world, rng, 12, 3), blind(world, rng, 12, 8)], 1)
        findings = found(world, ClipDissect(name, stability=False), Q)
        assert findings.state[20:32].tolist() == ["sparse"] * 12
        assert not findings.interpretable[20:32].any()
        called += int(findings.interpretable.sum())
    assert called <= 0.05 * 3 * 44 + 2


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("units", [1, 2, 3])
def test_layers_of_few_units(tmp_path: Path, name: str, units: int) -> None:
    """Planted units are named and called, others are not; no unit gets the first word by default."""
    right = called = luck = first = 0
    for seed in range(6):
        world, rng = random_world(tmp_path / str(seed), 400, 40, seed=seed)
        Q, concepts = planted(world, rng, units)
        findings = found(world, ClipDissect(name), Q)
        right += sum(
            word == f"w{m}" for word, m in zip(findings.concepts[:, 0].tolist(), concepts, strict=True)
        )
        called += int(findings.interpretable.sum())
        others = found(world, ClipDissect(name), blind(world, rng, units), "blind")
        luck += int(others.interpretable.sum())
        first += int((others.concepts[:, 0] == "w0").sum())
    assert right >= 0.75 * 6 * units
    assert called >= 0.75 * 6 * units
    assert luck <= 0.05 * 6 * units + 2
    assert first <= 0.2 * 6 * units + 1


@pytest.mark.parametrize("name", NAMES)
def test_stability_tells_sure_units_from_unsure_ones(tmp_path: Path, name: str) -> None:
    world, rng = random_world(tmp_path, 200, 40)
    Q = torch.cat([planted(world, rng, 10, 8.0)[0], blind(world, rng, 10)], 1)
    findings = found(world, ClipDissect(name), Q)
    assert findings.stability is not None
    assert findings.concept_set is not None
    assert findings.stability[:10].mean() > findings.stability[10:].mean() + 0.2
    for unit in range(20):
        words = findings.concept_set[unit].split("; ")
        assert findings.stability[unit] < 0.9 or words == [findings.concepts[unit, 0]]
        assert len(words) <= 20
    plain = found(world, ClipDissect(name, stability=False), Q)
    assert plain.stability is None
    assert plain.concepts.tolist() == findings.concepts.tolist()


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_without_a_unit_to_name(tmp_path: Path, name: str) -> None:
    world, rng = random_world(tmp_path, 60, 20)
    Q = torch.cat([torch.zeros(60, 2), blind(world, rng, 3, 2)], 1)
    findings = found(world, ClipDissect(name, pairs=4), Q)
    assert findings.state.tolist() == ["dead", "dead", "sparse", "sparse", "sparse"]
    rows = findings.rows(epoch=0, checkpoint="c", layer="l", detector="d")
    assert set(rows["concept"]) == {""}  # type: ignore[call-overload]
    assert any("fewer than 5 photos" in note for note in findings.notes)
