"""Permutations of a layer scored together give what they give one by one, bit for bit."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from concept_monitor_cli.functional.calibration import shuffled
from concept_monitor_cli.functional.groups import ImageGroups
from concept_monitor_cli.functional.similarity import ConceptActivations
from concept_monitor_cli.functional.similarity.registry import ValueSimilarity, similarity_named
from concept_monitor_cli.lenses.names import clip_values
from concept_monitor_cli.lenses.names.clip_values import ValuedLayer


@pytest.mark.parametrize("name", ["cos", "cos-cubed"])
@pytest.mark.parametrize(
    ("images", "concepts", "units"), [(300, 500, 17), (300, 500, 40), (40, 9, 3), (60, 9, 23)]
)
def test_together_as_one_by_one(
    name: str, images: int, concepts: int, units: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(units)
    embedded, texts = (
        torch.nn.functional.normalize(torch.randn(n, 32, generator=generator), dim=1)
        for n in (images, concepts)
    )
    Q = torch.randn(images, units, generator=generator).relu()
    P, groups, seed = ConceptActivations.from_embeddings(embedded, texts), ImageGroups.single(images), 3
    context = cast(Any, SimpleNamespace(activations=P, groups=groups, seed=seed))
    similarity = similarity_named(name)
    assert isinstance(similarity, ValueSimilarity)
    assert similarity.best is not None
    best, called = similarity.best, []

    def counted(P: ConceptActivations, q: torch.Tensor) -> torch.Tensor:
        called.append(q.shape[1] // units)
        return best(P, q)

    layer = ValuedLayer(
        ValueSimilarity(name, similarity.function, similarity.permutations, best=counted), Q, context
    )
    rounds = max(similarity.permutations, -(-clip_values.NULL_SCORES // units))
    large = images == 300
    mixed = [shuffled(Q, groups=groups, seed=seed * 100_003 + number) for number in range(rounds)]
    alone = torch.stack([similarity.function(P, each, groups).amax(1) for each in mixed])
    for together, expected in (
        (rounds, [rounds]),
        (3, [3] * (rounds // 3) + [rounds % 3] * (rounds % 3 > 0)),
    ):
        monkeypatch.setattr(clip_values, "TOGETHER", together * Q.numel())
        called.clear()
        scores, own, null = layer._scored(Q)
        assert called == (expected if large else [1] * rounds)
        assert torch.equal(scores, similarity.function(P, Q, groups))
        assert torch.equal(own, scores.amax(1))
        assert torch.equal(null, alone)
