"""How clear the units of a layer are, and how many of them say the same (SemanticLens)."""

from __future__ import annotations

import torch
from torch import Tensor

from concept_monitor_cli.errors import InputError

# Cosines that differ by less are equal.
_ROUNDING = 1e-12


def _unit_rows(vectors: Tensor) -> Tensor:
    wide = vectors.double()
    rows: Tensor = wide / torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    return rows


@torch.no_grad()
def clarity(embeddings: Tensor) -> Tensor:
    """Mean cosine over all pairs of a unit's top images: how much these have in common.

        clarity = (n |mean_i v_i|^2 - 1) / (n - 1),   v_i the embeddings divided by their norms

    which is the mean of `v_i . v_j` over all `i != j`: the diagonal, which is 1, is left out.

    Args:
        embeddings: `(C, n, D)`, the top images of each unit in an encoder's image space.

    Returns:
        `(C,)` float64 in [-1 / (n - 1), 1]; NaN with fewer than two images.

    Source: SemanticLens (Dreyer et al. 2025), "clarity".

    Example:
        >>> clarity(torch.eye(2)[None]).tolist()
        [0.0]
    """
    if embeddings.ndim != 3:
        raise InputError(f"embeddings of shape {tuple(embeddings.shape)}: need (units, images, dimensions)")
    n = embeddings.shape[1]
    if n < 2:
        return torch.full((len(embeddings),), torch.nan, dtype=torch.float64)
    square: Tensor = _unit_rows(embeddings).mean(1).square().sum(1)
    return (n * square - 1) / (n - 1)


@torch.no_grad()
def nearest_units(means: Tensor) -> tuple[Tensor, Tensor]:
    """For every unit the other unit whose mean embedding is most like its own.

    Args:
        means: `(C, D)`, the mean embedding of each unit's top images; a row of NaN for a unit that takes no
            part.

    Returns:
        which unit `(C,)` int64, -1 where there is none, the lower number of equals; and their cosine `(C,)`
        float64, NaN where there is none.

    Source: SemanticLens (Dreyer et al. 2025): the mean of the cosines over the units is the layer's
    "redundancy".

    Example:
        >>> nearest_units(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]))[0].tolist()
        [2, 0, 0]
    """
    if means.ndim != 2:
        raise InputError(f"mean embeddings of shape {tuple(means.shape)}: need (units, dimensions)")
    taking_part = ~means.isnan().any(1)
    places = taking_part.nonzero()[:, 0]
    units = torch.full((len(means),), -1, dtype=torch.int64, device=means.device)
    cosines = torch.full((len(means),), torch.nan, dtype=torch.float64, device=means.device)
    if len(places) >= 2:
        rows = _unit_rows(means[places])
        similarity = (rows @ rows.T).fill_diagonal_(-torch.inf)
        # Products of equal rows differ in the last digits: the first of what is level counts.
        best = (similarity >= similarity.amax(1, keepdim=True) - _ROUNDING).int().argmax(1)
        units[places] = places[best]
        cosines[places] = similarity.gather(1, best[:, None])[:, 0].clamp(-1, 1)
    return units, cosines
