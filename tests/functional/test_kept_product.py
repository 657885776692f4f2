"""`P` of few images or concepts, which is made once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from concept_monitor_cli.functional import _blocks, similarity
from concept_monitor_cli.functional.similarity import ConceptActivations
from concept_monitor_cli.functional.topk import top_images
from tests.functional.test_similarity import activations, embeddings


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", ["wpmi_evidence", "soft_wpmi_evidence"])
def test_a_product_that_is_kept_is_made_once_and_changes_nothing(
    name: str, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_blocks, "WORTH_COMPILING", 0 if compiled else 1 << 62)
    images, texts = embeddings(300, 170)
    nbytes, made = 4 * 300 * 170, []
    original = torch.mm

    def counting(*args: Tensor, **more: Tensor) -> Tensor:
        made.append(args[0].shape[0])
        return original(*args, **more)

    monkeypatch.setattr(torch, "mm", counting)
    kept = ConceptActivations.from_embeddings(images, texts, keep=nbytes)
    beyond = ConceptActivations.from_embeddings(images, texts, keep=nbytes - 1)
    half = torch.arange(0, 300, 2)
    kept_half, beyond_half = kept.select(half), beyond.select(half)
    assert made == []
    top, _ = top_images(activations(300, 40, "plain"), 20)
    in_half = top_images(activations(150, 40, "plain"), 20)[0]
    evidence = getattr(similarity, name)
    found = [
        evidence(kept, top),
        evidence(kept_half, in_half),
        evidence(kept_half.select(torch.arange(100)), in_half % 100),
    ]
    assert made == [300]
    for own, other in zip(
        found,
        [
            evidence(beyond, top),
            evidence(beyond_half, in_half),
            evidence(ConceptActivations.from_embeddings(images[half][:100], texts), in_half % 100),
        ],
        strict=True,
    ):
        torch.testing.assert_close(own.values, other.values, atol=5e-5, rtol=2e-6)
        assert own.constant == other.constant
    assert len(made) > 1
    pair = kept.embeddings
    assert pair is not None
    assert torch.equal(pair[0], images)
