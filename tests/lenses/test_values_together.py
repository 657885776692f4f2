"""A layer and its permutations scored together give what they give one by one, bit for bit."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from concept_monitor_cli.functional.groups import ImageGroups
from concept_monitor_cli.functional.similarity import ConceptActivations
from concept_monitor_cli.functional.similarity.registry import ValueSimilarity, similarity_named
from concept_monitor_cli.lenses.names import clip_values
from concept_monitor_cli.lenses.names.clip_values import ValuedLayer


@pytest.mark.parametrize("name", ["cos", "cos-cubed", "rank-reorder"])
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
    context = cast(
        Any,
        SimpleNamespace(
            activations=ConceptActivations.from_embeddings(embedded, texts),
            groups=ImageGroups.single(images),
            seed=3,
        ),
    )
    similarity = similarity_named(name)
    assert isinstance(similarity, ValueSimilarity)
    called = []

    def function(P: ConceptActivations, q: torch.Tensor, groups: ImageGroups) -> torch.Tensor:
        called.append(q.shape[1] // units)
        return similarity.function(P, q, groups)

    counting = ValueSimilarity(name, function, similarity.permutations, similarity.compared)
    found = ValuedLayer(counting, Q, context)._scored(Q)
    first, called[:] = list(called), []
    # Blocks of a few, and one by one.
    monkeypatch.setattr(clip_values, "TOGETHER", 3 * units * max(concepts, images))
    some = ValuedLayer(counting, Q, context)._scored(Q)
    second, called[:] = list(called), []
    monkeypatch.setattr(clip_values, "TOGETHER", 1)
    alone = ValuedLayer(counting, Q, context)._scored(Q)
    rounds = max(similarity.permutations, -(-clip_values.NULL_SCORES // units))
    assert called == [1] * (rounds + 1)
    assert found[2].shape == (rounds, units)
    large = images == 300
    assert first == ([rounds + 1] if large else called)
    assert max(second) == (3 if large else 1)
    assert sum(second) == rounds + 1
    for one, other, third in zip(found, some, alone, strict=True):
        assert torch.equal(one, third)
        assert torch.equal(other, third)
