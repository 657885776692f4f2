"""Two concepts for a unit: text concatenations of its best single ones (CLIP-Dissect, A.4).

A pair is one more concept, whose text is that of both. It is scored as if it alone had joined the concept
set, so that its score can be compared with those of the single concepts and does not depend on which other
pairs are looked at. Its prior is, like theirs, over all units of the layer, whether it is among the
candidates of a unit or not.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional._blocks import spans
from concept_monitor_cli.functional.similarity.activations import ConceptActivations
from concept_monitor_cli.functional.topk import top_rows


def distinct_pairs(candidates: Tensor, n_concepts: int) -> Tensor:
    """The pairs of any unit's candidates, each once.

    Args:
        candidates: `(C, S)` concepts of each unit.
        n_concepts: `M`.

    Returns:
        `(n, 2)` int64, on the host, ascending, the lower concept first.

    Example:
        >>> distinct_pairs(torch.tensor([[2, 0, 1], [1, 3, 0]]), 4).tolist()
        [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3]]
    """
    if candidates.ndim != 2 or candidates.shape[1] < 2:
        return torch.empty(0, 2, dtype=torch.int64)
    ordered = candidates.cpu().sort(1).values
    first, second = torch.triu_indices(ordered.shape[1], ordered.shape[1], 1)
    # A unit at a time: all pairs of all units would be half a gigabyte for a large layer.
    found = torch.empty(0, dtype=torch.int64)
    for units in spans(len(ordered), 64):
        part = ordered[units]
        numbers = part[:, first] * n_concepts + part[:, second]
        found = torch.unique(torch.cat([found, numbers.flatten()]))
    return torch.stack([found // n_concepts, found % n_concepts], 1)


def joined(activations: ConceptActivations, texts: Tensor, a: float) -> ConceptActivations:
    """`P` of further concepts, each as if it alone joined the concept set.

        exp(a P'[i, p]) / Z_i = exp(a P[i, p]) / (Z_i + exp(a P[i, p])),   Z_i = sum_m exp(a P[i, m])

    so that a softmax with the normaliser of the concept set is that of the set with `p` in it.

    Args:
        activations: the concept set's, from embeddings.
        texts: `(n, D)` embeddings of the further concepts, rows of unit length.
        a: temperature.

    Returns:
        of `n` concepts; knows the normaliser for `a` and no other.
    """
    if activations.embeddings is None:
        raise InputError("further concepts can join embeddings, not a matrix")
    images, _ = activations.embeddings
    log_z = activations.log_normaliser(a)
    block = images @ texts.T.to(images)
    block -= functional.softplus(a * block - log_z[:, None], threshold=1e6) / a
    return ConceptActivations(block, None, None, {a: log_z})


class BestPairs:
    """The best pairs of every unit among its own candidates, block by block: memory does not grow.

    Kept on the host: that of a device is for the scores.

    Args:
        candidates: `(C, S)` concepts of each unit.
        n_concepts: `M`.
        k: how many to keep.

    Attributes:
        pairs: `(C, k, 2)`, best first; -1 where there are fewer.
        scores: `(C, k)`, NaN where there are fewer.
    """

    def __init__(self, candidates: Tensor, n_concepts: int, k: int) -> None:
        units = candidates.shape[0]
        self._own = torch.zeros(units, n_concepts, dtype=torch.bool)
        self._own.scatter_(1, candidates.cpu(), True)
        self.pairs = torch.full((units, k, 2), -1, dtype=torch.int64)
        self.scores = torch.full((units, k), torch.nan)

    def update(self, pairs: Tensor, scores: Tensor) -> None:
        """Take in `scores` `(C, n)` of `pairs` `(n, 2)`; of level pairs the one that came first stays."""
        mine = self._own[:, pairs[:, 0]] & self._own[:, pairs[:, 1]]
        fresh = torch.where(mine, scores.cpu().float(), torch.nan)
        both = torch.cat([self.scores, fresh], 1)
        named = torch.cat([self.pairs, pairs.expand(len(self.pairs), -1, -1)], 1)
        best, self.scores = top_rows(both, self.scores.shape[1])
        chosen = named.gather(1, best[:, :, None].expand(-1, -1, 2))
        self.pairs = chosen.masked_fill(self.scores.isnan()[:, :, None], -1)
