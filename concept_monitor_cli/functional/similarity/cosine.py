"""Cosine similarities of a concept's and a unit's values over the images (CLIP-Dissect, 3.2)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from concept_monitor_cli.functional._blocks import block_bytes, run_blocks, spans
from concept_monitor_cli.functional.similarity.activations import ConceptActivations, as_activations

#: Norms are not taken smaller than this in `cos_cubed`, as in the published code.
MIN_NORM = 1e-3

# Units, and their activations, whose columns are made in one go.
_UNITS, _VALUES = 512, 1 << 23

# What is done with the scores of some concepts, `(C, m)`, which may be overwritten.
_Keep = Callable[[slice, Tensor], None]


def _unit_columns(Q: Tensor, power: int, min_norm: float, out: Tensor | None = None) -> Tensor:
    """Columns of `Q` divided by their norm, as float32; the sums are in float64.

    `power` 3 centres and cubes the column first. With `min_norm` 0 a column of zeros stays one. `out` may be
    `Q` itself.
    """
    result = torch.empty(Q.shape, dtype=torch.float32, device=Q.device) if out is None else out
    wide = torch.float32 if Q.device.type == "mps" else torch.float64
    for units in spans(Q.shape[1], max(16, min(_UNITS, _VALUES // max(1, len(Q))))):
        column = Q[:, units].to(wide)
        if power == 3:
            column = (column - column.mean(0)) ** 3
        norm = torch.linalg.vector_norm(column, dim=0)
        # An all-zero column has no direction: its cosine with everything is 0, not NaN.
        norm = (
            torch.where(norm == 0, torch.ones_like(norm), norm) if min_norm == 0 else norm.clamp_min(min_norm)
        )
        result[:, units] = (column / norm).float()
    return result


def _inverse(norm: Tensor) -> Tensor:
    return torch.where(norm > 0, 1.0 / norm, torch.zeros_like(norm))


@torch.no_grad()
def cos(P: Tensor | ConceptActivations, Q: Tensor) -> Tensor:
    """Cosine of the concept's column `P[:, m]` and the unit's column `Q[:, k]`.

        sim[k, m] = P[:, m] . Q[:, k] / (|P[:, m]| |Q[:, k]|)

    From embeddings `P` is not needed at all: `P' Q = T (I' Q)` and `|P[:, m]|^2 = T[m] (I' I) T[m]`.

    Args:
        P: concept activations `(N, M)`, or `ConceptActivations` of any size.
        Q: pooled activations of the layer `(N, C)`.

    Returns:
        `(C, M)` float32 in [-1, 1]. Where a column is all zeros the cosine is 0.

    Source: CLIP-Dissect, eq. 1.

    Example:
        >>> P = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> cos(P, torch.tensor([[3.0], [4.0]])).tolist()
        [[0.6000000238418579, 0.800000011920929]]
    """
    activations = as_activations(P, Q.shape[0])
    return _whole(_cosines, activations, _unit_columns(Q.to(activations.device), 1, 0.0))


@torch.no_grad()
def best_cos(P: Tensor | ConceptActivations, Q: Tensor) -> Tensor:
    """`cos` of every unit's best concept, `(C,)`, without a table of all concepts.

    Args:
        P: as for `cos`.
        Q: `(N, C)` float32, on the device of `P`; overwritten.
    """
    return _best(_cosines, as_activations(P, Q.shape[0]), _unit_columns(Q, 1, 0.0, out=Q))


def _cosines(activations: ConceptActivations, q: Tensor, keep: _Keep) -> None:
    """Cosines with columns of unit length `(N, C)`, some concepts at a time."""
    m, device = activations.n_concepts, activations.device
    if activations.embeddings is not None:
        images, texts = activations.embeddings
        wide = torch.float32 if device.type == "mps" else torch.float64
        gram = torch.zeros(images.shape[1], images.shape[1], dtype=wide, device=device)
        for part in spans(images.shape[0], 8192):
            rows = images[part].to(wide)
            gram += rows.T @ rows
        mixed = (q.T @ images).to(wide)  # (C, D)
        for concepts in spans(m, 2048):
            text = texts[concepts].to(wide)
            norm = ((text @ gram) * text).sum(1).clamp_min_(0).sqrt_()
            keep(concepts, ((mixed @ text.T) * _inverse(norm)).float())
        return
    for concepts in spans(m, max(64, block_bytes(device) // (4 * activations.n_images))):
        block = activations.block(concepts)
        keep(concepts, (q.T @ block) * _inverse(torch.linalg.vector_norm(block, dim=0)))


@torch.no_grad()
def cos_cubed(P: Tensor | ConceptActivations, Q: Tensor, *, min_norm: float = MIN_NORM) -> Tensor:
    """Cosine after centring both columns over the images and cubing every value.

        p = (P[:, m] - mean)^3,   q = (Q[:, k] - mean)^3
        sim[k, m] = p . q / (max(|p|, min_norm) max(|q|, min_norm))

    The cube gives the weight to the images far from the mean. Cubed values of `P` are made in blocks.

    Args:
        P: concept activations `(N, M)`, or `ConceptActivations` of any size.
        Q: pooled activations of the layer `(N, C)`.
        min_norm: no norm is taken smaller than this, so that a (nearly) constant column gives 0.

    Returns:
        `(C, M)` float32 in [-1, 1], always finite.

    Source: the authors' later code.

    Example:
        >>> P = torch.tensor([[0.9, 0.1], [0.1, 0.8], [0.1, 0.1]])
        >>> cos_cubed(P, torch.tensor([[2.0], [0.0], [0.0]])).argmax(dim=1).tolist()
        [0]
    """
    activations = as_activations(P, Q.shape[0])
    q = _unit_columns(Q.to(activations.device), 3, min_norm)
    return _whole(partial(_cubed_cosines, min_norm=min_norm), activations, q)


@torch.no_grad()
def best_cos_cubed(P: Tensor | ConceptActivations, Q: Tensor, *, min_norm: float = MIN_NORM) -> Tensor:
    """`cos_cubed` of every unit's best concept, `(C,)`, without a table of all concepts.

    Args:
        P: as for `cos_cubed`.
        Q: `(N, C)` float32, on the device of `P`; overwritten.
        min_norm: as for `cos_cubed`.
    """
    q = _unit_columns(Q, 3, min_norm, out=Q)
    return _best(partial(_cubed_cosines, min_norm=min_norm), as_activations(P, Q.shape[0]), q)


def _cubed_cosines(activations: ConceptActivations, q: Tensor, keep: _Keep, *, min_norm: float) -> None:
    """Cosines of cubed concepts with columns of unit length `(N, C)`, some concepts at a time."""
    n, m, device = activations.n_images, activations.n_concepts, activations.device
    if activations.embeddings is not None:
        images, texts = activations.embeddings
        # Centring the embeddings centres every concept's column.
        activations = ConceptActivations.from_embeddings(images - images.mean(0), texts)
    width = min(m, 512)
    step = max(256, block_bytes(device) // (8 * width))

    def compare(concepts: slice) -> None:
        columns = concepts.stop - concepts.start
        centre = torch.zeros(columns, device=device)
        if activations.embeddings is None:
            for part in spans(n, step):
                centre += activations.block(concepts, part).sum(0)
            centre /= n
        dot = torch.zeros(q.shape[1], columns, device=device)
        square = torch.zeros(columns, device=device)
        for part in spans(n, step):
            block = activations.block(concepts, part).sub_(centre)
            cubed = (block * block).mul_(block)
            dot.addmm_(q[part].T, cubed)
            square += torch.linalg.vecdot(cubed, cubed, dim=0)
        keep(concepts, dot.div_(square.sqrt_().clamp_min_(min_norm)))

    run_blocks(compare, spans(m, width), device)


def _whole(score: Callable[..., None], activations: ConceptActivations, q: Tensor) -> Tensor:
    """All scores, `(C, M)`."""
    result = torch.empty(q.shape[1], activations.n_concepts, device=activations.device)

    def keep(concepts: slice, found: Tensor) -> None:
        result[:, concepts] = found

    score(activations, q, keep)
    return result


def _best(score: Callable[..., None], activations: ConceptActivations, q: Tensor) -> Tensor:
    """The best score of every unit, `(C,)`."""
    parts: list[Tensor] = []
    score(activations, q, lambda _, found: parts.append(found.amax(1)))
    return torch.stack(parts).amax(0)
