"""The value that a unit exceeds at a given share of all positions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import torch

from concept_monitor_cli.functional.half import HALF_PATTERNS, half_of_rank, half_rank, to_half

# Of all positions, above a unit's threshold: Bau et al. 2017.
QUANTILE = 0.005


def _numbers(maps: torch.Tensor) -> torch.Tensor:
    half = to_half(maps)
    if bool(torch.isnan(half).any()):
        raise ValueError("activations contain NaN")
    return half


def activation_histogram(maps: torch.Tensor) -> torch.Tensor:
    """How often each fp16 value occurs in each unit's maps; adds up over batches.

    Args:
        maps: (N, C, h, w), any float dtype.

    Returns:
        (C, 65536) int64: column j counts the value `half_of_rank(j - 32768)`, so columns ascend with the
        value.
    """
    rank = half_rank(_numbers(maps)).movedim(1, 0).flatten(1).to(torch.int64)
    units = rank.shape[0]
    offset = torch.arange(units, device=rank.device)[:, None] * HALF_PATTERNS + HALF_PATTERNS // 2
    counts = torch.bincount((rank + offset).flatten(), minlength=units * HALF_PATTERNS)
    return counts.view(units, HALF_PATTERNS)


def activation_threshold(source: torch.Tensor, fraction: float = QUANTILE) -> torch.Tensor:
    """The smallest value `T` such that at most `fraction` of a unit's positions lie strictly above it.

    Exact at fp16 resolution: the activations are compared as fp16 values, and `T` is one that occurs. A unit
    that is zero nearly everywhere has `T = 0`; a constant one has its constant, so that its mask is empty.

    Args:
        source: maps (N, C, h, w), or their histogram (C, 65536) as `activation_histogram` makes it.
        fraction: the share, strictly between 0 and 1.

    Returns:
        (C,) float32.

    Raises:
        ValueError: another shape, no positions, NaN, or a fraction outside (0, 1).
    """
    if not 0 < fraction < 1:
        raise ValueError(f"the fraction must lie between 0 and 1, not at {fraction}")
    if source.ndim == 4:
        ranks = half_rank(_numbers(source)).movedim(1, 0).cpu().numpy()
        positions = ranks[0].size
        if positions == 0:
            raise ValueError("no positions to take a threshold from")
        # With m values allowed above it, the threshold is the value that m others precede from the top.
        place = positions - 1 - _allowed(fraction, positions)
        found = np.array([np.partition(unit, place, axis=None)[place] for unit in ranks])
        return half_of_rank(torch.from_numpy(found)).to(device=source.device, dtype=torch.float32)
    if source.ndim == 2 and source.shape[1] == HALF_PATTERNS:
        totals = source.sum(dim=1)
        if bool((totals == 0).any()):
            raise ValueError("no positions to take a threshold from")
        allowed = torch.tensor([_allowed(fraction, int(n)) for n in totals], device=source.device)
        above = totals[:, None] - source.cumsum(dim=1)
        column = (above > allowed[:, None]).sum(dim=1)
        return half_of_rank(column - HALF_PATTERNS // 2).to(torch.float32)
    raise ValueError(
        f"expected maps (N, C, h, w) or a histogram (C, {HALF_PATTERNS}), not {tuple(source.shape)}"
    )


def _allowed(fraction: float, positions: int) -> int:
    # 0.005 of 200 positions is one position: reckoned with the decimal number, not with its binary neighbour.
    return int(Fraction(repr(float(fraction))) * positions)
