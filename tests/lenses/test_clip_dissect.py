"""CLIP-Dissect on layers whose answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from concept_monitor_cli.functional.calibration import label_evidence
from concept_monitor_cli.functional.groups import ImageGroups
from concept_monitor_cli.functional.similarity.registry import (
    SIMILARITIES,
    RankSimilarity,
    reordered_images,
)
from concept_monitor_cli.lenses.names.clip_dissect import ClipDissect
from concept_monitor_cli.lenses.names.clip_ranks import RankedLayer
from concept_monitor_cli.lenses.names.clip_values import ValuedLayer

from .clip_world import blind, found, make_world, planted, random_world

NAMES = list(SIMILARITIES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("words", [12, 400])
@pytest.mark.parametrize("units", [5, 60])
def test_effects_of_blind_units_are_around_nothing(tmp_path: Path, name: str, words: int, units: int) -> None:
    """Their best of many concepts is compared with the best of as many."""
    effects: list[float] = []
    for seed in range(60 // units):
        world, rng = random_world(tmp_path / str(seed), 200, words, seed=seed)
        detector = ClipDissect(name, top_k=20, stability=False)
        effects += found(world, detector, blind(world, rng, units)).effect.tolist()  # type: ignore[union-attr]
    assert abs(np.mean(effects)) < 0.5
    assert np.mean(np.abs(effects) > 3) <= 0.05


@pytest.mark.parametrize("name", NAMES)
def test_the_printed_concept_is_the_tested_one(tmp_path: Path, name: str) -> None:
    """The p-value and the effect of every unit, from the printed concept and nothing else."""
    world, rng = random_world(tmp_path, 90, 25)
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
            top = layer.top[: part.size, part.units]
            evidence = similarity.evidence(world.activations, top, a=similarity.a)
            label = printed[part.rows]
            own = evidence.values.double()[part.own].gather(1, label[:, None])[:, 0]
            own = (own - random[:, label].mean(0)) / random[:, label].std(0, correction=0)
            # Of a random set in the place of a unit, its own best concept too.
            _, chance = label_evidence(evidence, layer.random_sets(part.size), lam=similarity.lam)
            effect = (own - chance.double().mean()) / chance.double().std(correction=0)
            np.testing.assert_allclose(findings.effect[part.rows], effect, rtol=1e-3, atol=1e-3)  # type: ignore[index]
            # Among units of one size the test ranks units as the evidence for the printed concept does.
            order = np.argsort(-effect.numpy())
            assert (np.diff(findings.p_values[part.rows][order]) >= 0).all()
    else:
        layer_of_values = ValuedLayer(similarity, Q, world)
        scores = similarity.function(world.activations, Q, world.groups)
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
def test_copies_of_every_photo_change_no_label(tmp_path: Path, name: str) -> None:
    """K is counted in photos, and each has one place: five copies of a photo say what the photo says."""
    world, rng = random_world(tmp_path / "one", 120, 30)
    Q = torch.cat([planted(world, rng, 10)[0], blind(world, rng, 3), blind(world, rng, 3, 15)], 1)
    of = torch.arange(120).repeat(5)[torch.from_numpy(rng.permutation(600))]
    copied = make_world(
        tmp_path / "five", world.image_embeddings[of], world.text_embeddings, ImageGroups.read(of)
    )
    one, five = (found(each, ClipDissect(name), q) for each, q in ((world, Q), (copied, Q[of])))
    assert five.concepts.tolist() == one.concepts.tolist()
    np.testing.assert_allclose(five.scores, one.scores, rtol=1e-4, atol=1e-4)
    assert one.interpretable[:10].sum() >= 9
    assert five.interpretable[:10].sum() >= 9
    assert five.calibration.get("top_k") == one.calibration.get("top_k")
    if name.endswith("wpmi"):
        assert any("600 images in 120 groups" in note for note in five.notes)


@pytest.mark.parametrize("name", NAMES)
def test_planted_units_are_found_in_thirty_photos(tmp_path: Path, name: str) -> None:
    """Rank reorder as well: it puts 20 photos in order, not 5 % of them, which is one."""
    called = right = luck = 0
    for seed in range(2):
        world, rng = random_world(tmp_path / str(seed), 30, 40, seed=seed)
        Q, concepts = planted(world, rng, 12)
        findings = found(world, ClipDissect(name, stability=False), torch.cat([Q, blind(world, rng, 12)], 1))
        called += int(findings.interpretable[:12].sum())
        luck += int(findings.interpretable[12:].sum())
        words = findings.concepts[:12, 0].tolist()
        right += sum(word == f"w{m}" for word, m in zip(words, concepts, strict=True))
    assert called >= 0.8 * 24
    assert right >= 0.8 * 24
    assert luck <= 0.05 * 24 + 2


@pytest.mark.parametrize("name", NAMES)
def test_too_few_photos_are_named_as_the_cause(tmp_path: Path, name: str) -> None:
    world, rng = random_world(tmp_path, 30, 20, copies=2)
    notes = found(world, ClipDissect(name, stability=False), blind(world, rng, 4)).notes
    assert any("15 groups of images are too few to tell most labels from chance" in note for note in notes)
    enough, rng = random_world(tmp_path / "more", 60, 20, copies=2)
    notes = found(enough, ClipDissect(name, stability=False), blind(enough, rng, 4)).notes
    assert not any("too few to tell" in note for note in notes)


@pytest.mark.parametrize(
    ("units", "name"),
    [
        pytest.param(units, name, marks=pytest.mark.slow if name == "rank-reorder" and units > 1 else ())
        for units in (1, 2, 3)
        for name in NAMES
    ],
)
def test_layers_of_few_units(tmp_path: Path, name: str, units: int) -> None:
    """Planted units are named and called, others are not; no unit gets the first word by default."""
    right = called = luck = first = 0
    seeds = 3 if name == "rank-reorder" else 6  # it takes ten times as long as the others
    for seed in range(seeds):
        world, rng = random_world(tmp_path / str(seed), 400, 40, seed=seed)
        Q, concepts = planted(world, rng, units)
        findings = found(world, ClipDissect(name, stability=False), Q)
        right += sum(
            word == f"w{m}" for word, m in zip(findings.concepts[:, 0].tolist(), concepts, strict=True)
        )
        called += int(findings.interpretable.sum())
        others = found(world, ClipDissect(name, stability=False), blind(world, rng, units), "blind")
        luck += int(others.interpretable.sum())
        first += int((others.concepts[:, 0] == "w0").sum())
    assert right >= 0.75 * seeds * units
    assert called >= 0.75 * seeds * units
    assert luck <= 0.05 * seeds * units + 2
    assert first <= 0.2 * seeds * units + 1


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


def test_how_many_top_images() -> None:
    """In proportion to the groups of images, at least ten, and no more than say something of one unit."""
    soft, hard = SIMILARITIES["soft-wpmi"], SIMILARITIES["wpmi"]
    assert isinstance(soft, RankSimilarity)
    assert isinstance(hard, RankSimilarity)
    assert [soft.images(n) for n in (60_000, 3000, 1000, 120, 12, 6)] == [100, 100, 33, 10, 10, 6]
    assert [hard.images(n) for n in (60_000, 3000, 1500, 120, 12, 6)] == [28, 28, 14, 10, 6, 3]
    assert [hard.images(n, 50) for n in (120, 30)] == [50, 30]
    assert [reordered_images(n) for n in (1000, 400, 120, 12)] == [50, 20, 20, 12]
