"""The mathematics on a simulated device: results as on the host, from tensors that stay together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from concept_monitor_cli.functional import (
    calibration,
    concept_vectors,
    dynamics,
    embedding,
    firing,
    ranks,
    redundancy,
    topk,
)
from tests.simulated import DEVICE, Remote, simulated_device

g = torch.Generator().manual_seed(0)
Q = torch.randn(80, 12, generator=g)
SPARSE = (Q - 1).relu()
WORDS = torch.nn.functional.normalize(torch.randn(30, 8, generator=g))
SCORES = torch.randn(12, 30, generator=g).index_fill(0, torch.tensor([4]), torch.nan)
LABELS = (torch.rand(80, 5, generator=g) > 0.6).float()

CALLS: dict[str, tuple[Callable[..., Any], tuple[Tensor | int | str, ...]]] = {
    "neuron_embedding": (embedding.neuron_embedding, (SCORES, WORDS)),
    "neuron_embedding_from_top": (
        embedding.neuron_embedding_from_top,
        (SCORES[:, :3].contiguous(), torch.arange(36).view(12, 3) % 30, WORDS),
    ),
    "spread": (embedding.spread, (WORDS,)),
    "nearest_anchor": (embedding.nearest_anchor, (WORDS[:9], WORDS[9:13])),
    "effective_units": (redundancy.effective_units, (Q,)),
    "nearest_correlation": (redundancy.nearest_correlation, (Q,)),
    "redundancy": (redundancy.redundancy, (Q,)),
    "top_rows": (topk.top_rows, (SCORES, 4)),
    "top_images": (topk.top_images, (SPARSE, 6)),
    "exciting_images": (topk.exciting_images, (SPARSE, 6)),
    "dead_units": (topk.dead_units, (SPARSE,)),
    "activation_range": (topk.activation_range, (Q,)),
    "average_ranks": (ranks.average_ranks, (SPARSE,)),
    "shuffled": (calibration.shuffled, (Q,)),
    "p_values": (calibration.p_values, (Q[0], Q[:, 0])),
    "benjamini_hochberg": (calibration.benjamini_hochberg, (torch.rand(40, generator=g) ** 3,)),
    "firing": (firing.firing, (SPARSE,)),
    "cka": (dynamics.cka, (Q, SPARSE)),
    "effective_rank": (dynamics.effective_rank, (Q,)),
    "participation_ratio": (dynamics.participation_ratio, (Q,)),
    "concept_vectors": (concept_vectors.concept_vectors, (Q, LABELS, "fast")),
    "concept_vectors, ridge": (concept_vectors.concept_vectors, (Q, LABELS, "ridge")),
    "decodability": (concept_vectors.decodability, (Q[:, :5], LABELS)),
    "mean_test": (concept_vectors.mean_test, (Q, LABELS)),
}


def values(found: Any) -> list[Any]:
    """The tensors and numbers of a result, wherever they lie."""
    parts = found if isinstance(found, Tensor | tuple | float) else list(vars(found).values())
    return [each for each in tree_leaves(parts) if isinstance(each, Tensor | float | int)]


@pytest.mark.parametrize("name", CALLS)
def test_the_same_as_on_the_host(name: str) -> None:
    function, given = CALLS[name]
    here = function(*given)
    with simulated_device():
        there = function(*(each.to(DEVICE) if isinstance(each, Tensor) else each for each in given))
    assert len(values(here)) == len(values(there)) > 0
    for one, other in zip(values(here), values(there), strict=True):
        other = other.value if isinstance(other, Remote) else other
        torch.testing.assert_close(
            torch.as_tensor(other), torch.as_tensor(one), rtol=1e-4, atol=1e-5, equal_nan=True
        )


def test_it_refuses_what_a_device_refuses() -> None:
    with simulated_device() as counts:
        there = Q.to(DEVICE)
        assert there.device == DEVICE
        with pytest.raises(RuntimeError, match="tensors of cuda:0 and of the host"):
            there @ WORDS.T[:, :12].T
        with pytest.raises(RuntimeError, match=r"\.cpu\(\) is missing"):
            there.numpy()
        assert not any(kind == "wait" for kind, *_ in counts)
        # A number of the host may meet it.
        assert torch.equal((there + torch.tensor(1.0)).cpu(), Q + 1)
        there[there > 0] = 0
        assert float(there.max()) == 0
        kinds = [operation for kind, operation, _ in counts if kind == "wait"]
        assert kinds == ["copy to the host", "index_put_ by a mask", "_local_scalar_dense"]
