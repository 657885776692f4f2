"""The best scores alone, by which permutations of a layer are scored, are those of the whole table."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from concept_monitor_cli.functional.similarity import ConceptActivations, cosine
from tests.functional.test_similarity import CASES, activations, embeddings


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("score", "best"), [(cosine.cos, cosine.best_cos), (cosine.cos_cubed, cosine.best_cos_cubed)]
)
@pytest.mark.parametrize("matrix", [True, False])
def test_best_scores_are_those_of_the_table(
    score: Callable[..., Tensor], best: Callable[..., Tensor], case: str, matrix: bool
) -> None:
    n, m, c, kind = CASES[case]
    images, texts = embeddings(n, 40 * m)  # some blocks of concepts
    P = (
        ConceptActivations.from_matrix(images @ texts.T)
        if matrix
        else ConceptActivations.from_embeddings(images, texts)
    )
    Q = activations(n, c, kind)
    assert torch.equal(best(P, Q.clone()), score(P, Q).amax(1))
