"""How many different units does a layer have? Asked of the activations alone, without any label.

A layer whose units repeat each other has fewer of them than it counts. Labels do not show it: a similarity
that weighs a concept against the other units of the layer (SoftWPMI, WPMI) takes from each copy what speaks
for the concept that they share, so that copies get different, wrong names and the layer looks more diverse
than before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional._blocks import spans
from concept_monitor_cli.functional.topk import dead_units

#: A unit counts as redundant where another one correlates with it above this.
NEAR = 0.9
# Units whose correlations with all others are held at a time.
_BLOCK = 1024


@dataclass(frozen=True)
class Redundancy:
    """How alike the units of a layer are.

    Attributes:
        units: units that were compared: those that are neither dead nor without a number on some image.
        effective: effective number of units (`effective_units`), between 1 and `units`; NaN without units.
        redundant: share of the units whose nearest unit correlates above `NEAR`; NaN without units.
        effective_chance: `effective` of units with the same activations on images permuted for each: what
            independent units give on so few images.
        redundant_chance: likewise.
    """

    units: int
    effective: float
    redundant: float
    effective_chance: float
    redundant_chance: float


def _standardised(Q: Tensor) -> Tensor:
    """Columns of the units that can be compared, centred, of unit length; `(N, C')` float64."""
    if Q.ndim != 2 or Q.shape[0] == 0:
        raise InputError(f"activations of shape {tuple(Q.shape)}: need (N, C), at least one image")
    wide = torch.float32 if Q.device.type == "mps" else torch.float64
    usable = ~dead_units(Q) & Q.isfinite().all(0)
    columns = Q[:, usable].to(wide)
    # Units of very large or small activations, whose squares are no numbers of this width.
    columns = columns / columns.abs().amax(0).clamp_min(torch.finfo(wide).tiny)
    columns = columns - columns.mean(0)
    norms: Tensor = torch.linalg.vector_norm(columns, dim=0)
    return columns[:, norms > 0] / norms[norms > 0]


@torch.no_grad()
def effective_units(Q: Tensor) -> float:
    """Effective number of units: the exponential of the entropy of the correlation spectrum.

        exp( -sum_i p_i log p_i ),   p_i = lambda_i / C,   lambda the eigenvalues of corr(Q)

    `C` for units that are uncorrelated, 1 where all do the same. On `N` images it cannot exceed `N - 1`, and
    independent units stay clearly below `C` where `N` is not much larger: see `redundancy` for what they
    give.

    Args:
        Q: `(N, C)` pooled activations. Dead units, and those without a finite number on some image, do not
            count.

    Returns:
        between 1 and the number of units that count; NaN where there are none.

    Source: the effective rank of Roy and Vetterli 2007, of the correlation matrix.

    Example:
        >>> Q = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
        >>> 1 < effective_units(Q[:, :2]) + 1e-9 < effective_units(Q) < 3
        True
    """
    return _effective(_standardised(Q))


def _effective(columns: Tensor) -> float:
    images, units = columns.shape
    if not units:
        return math.nan
    # Both products have the same eigenvalues, but for zeros.
    product = columns.T @ columns if units <= images else columns @ columns.T
    if product.device.type == "mps":
        product = product.cpu()
    share = torch.linalg.eigvalsh(product.double()).clamp_min(0) / units
    share = share[share > 0]
    return float(torch.exp(-(share * share.log()).sum()).clamp(1.0, units))


@torch.no_grad()
def nearest_correlation(Q: Tensor) -> Tensor:
    """Pearson's correlation of every unit with the unit of the layer that is most like it.

    Args:
        Q: `(N, C)` pooled activations.

    Returns:
        `(C',)`, on the host, of the units that count, as in `effective_units`; NaN for a unit that is alone.

    Example:
        >>> nearest_correlation(torch.tensor([[1.0, 2.0], [2.0, 4.0], [4.0, 8.0]])).tolist()
        [1.0, 1.0]
    """
    return _nearest(_standardised(Q)).cpu()


def _nearest(columns: Tensor) -> Tensor:
    units = columns.shape[1]
    if units < 2:
        return columns.new_full((units,), torch.nan)
    nearest = []
    for part in spans(units, _BLOCK):
        block = columns[:, part].T @ columns
        rows = torch.arange(block.shape[0], device=block.device)
        block[rows, rows + part.start] = -torch.inf
        nearest.append(block.amax(1))
    return torch.cat(nearest).clamp(-1.0, 1.0)


@torch.no_grad()
def redundancy(Q: Tensor, *, seed: int = 0) -> Redundancy:
    """How alike the units of a layer are, and how alike independent units would be on the same images.

    Args:
        Q: `(N, C)` pooled activations.
        seed: of the permutations that make the units independent.

    Returns:
        see `Redundancy`.
    """
    columns = _standardised(Q)
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(columns.shape, generator=generator).argsort(0).to(columns.device)
    independent = columns.gather(0, order)
    return Redundancy(
        columns.shape[1],
        _effective(columns),
        _redundant(columns),
        _effective(independent),
        _redundant(independent),
    )


def _redundant(columns: Tensor) -> float:
    nearest = _nearest(columns)
    return float((nearest > NEAR).double().mean()) if len(nearest) else math.nan
