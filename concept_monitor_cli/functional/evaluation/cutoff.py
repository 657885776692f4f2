"""From which score on are labels good enough? (CLIP-Dissect, A.8.)"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from concept_monitor_cli.errors import InputError

#: The mean quality of fewer units than this is no ground for a cutoff: one good label would make one.
LEAST_ABOVE = 10
#: Above this SoftWPMI the paper calls a unit interpretable (A.8). It was fitted to ImageNet's validation set
#: and Broden with 20,000 words, and is reported beside the calibrated count, not used.
PAPER_CONSTANT = 0.16
# Means of equal numbers differ in the last digits.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class QualityCurve:
    """The mean quality of all units from a score on, for every score that occurs; on the host.

    Attributes:
        scores: `(u,)` float64, distinct, from the highest down.
        units: `(u,)` int64, how many units have that score or a higher one.
        quality: `(u,)` float64, their mean quality.
    """

    scores: Tensor
    units: Tensor
    quality: Tensor


@dataclass(frozen=True)
class Cutoff:
    """A cutoff and what it parts.

    Attributes:
        tau: units with a score above it are called interpretable: minus infinity for all, plus infinity for
            none.
        units: how many are.
        above: their mean quality; NaN where there are none.
        below: mean quality of the others; NaN where there are none.
    """

    tau: float
    units: int
    above: float
    below: float


def _judged(scores: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
    if scores.ndim != 1 or scores.shape != quality.shape:
        raise InputError(f"scores of shape {tuple(scores.shape)} and quality of shape {tuple(quality.shape)}")
    s, q = scores.double().cpu(), quality.double().cpu()
    known = ~(s.isnan() | q.isnan())
    return s[known], q[known]


@torch.no_grad()
def quality_curve(scores: Tensor, quality: Tensor) -> QualityCurve:
    """Mean quality of the units with a score of at least `s`, for every `s` that occurs.

    Args:
        scores: `(C,)`, of the units' labels.
        quality: `(C,)`, how good each label is by another measure. Units with NaN in either are left out.

    Example:
        >>> quality_curve(torch.tensor([3.0, 2.0, 1.0]), torch.tensor([1.0, 0.0, 1.0])).quality.tolist()
        [1.0, 0.5, 0.6666666666666666]
    """
    s, q = _judged(scores, quality)
    order = torch.argsort(s, descending=True, stable=True)
    s, q = s[order], q[order]
    units = torch.arange(1, len(s) + 1)
    last = torch.ones(len(s), dtype=torch.bool)
    last[:-1] = s[:-1] != s[1:]  # units with one score stand or fall together
    mean = q.cumsum(0) / units
    return QualityCurve(s[last], units[last], mean[last])


@torch.no_grad()
def quality_cutoff(scores: Tensor, quality: Tensor, wanted: float, *, least: int = LEAST_ABOVE) -> Cutoff:
    """The lowest cutoff for which the units above it have a mean quality of at least `wanted`.

    At least `least` units are above it, or all where there are fewer.

    Args:
        scores: `(C,)`, of the units' labels.
        quality: `(C,)`, how good each label is by another measure. Units with NaN in either are left out.
        wanted: mean quality.
        least: how many units must be above a cutoff. The paper sets no such number.

    Returns:
        the cutoff; with `tau` plus infinity where not even the best units are good enough.

    Source: CLIP-Dissect, A.8: "the lowest tau such that interpretable neurons will have an average
    description score of 0.75 or higher".

    Example:
        >>> quality_cutoff(torch.tensor([3.0, 2.0, 1.0]), torch.tensor([1.0, 0.0, 0.0]), 0.5, least=2)
        Cutoff(tau=1.0, units=2, above=0.5, below=0.0)
    """
    curve = quality_curve(scores, quality)
    enough = curve.units >= curve.units[-1:].clamp(max=least)
    good = (enough & (curve.quality >= wanted - _ROUNDING)).nonzero()[:, 0]
    if len(good) == 0:
        return cut_at(scores, quality, torch.inf)
    place = int(good[-1])
    below = curve.scores[place + 1].item() if place + 1 < len(curve.scores) else -torch.inf
    return cut_at(scores, quality, below)


@torch.no_grad()
def cut_at(scores: Tensor, quality: Tensor, tau: float) -> Cutoff:
    """What a given cutoff parts; arguments as for `quality_cutoff`."""
    s, q = _judged(scores, quality)
    above = s > tau
    return Cutoff(float(tau), int(above.sum()), q[above].mean().item(), q[~above].mean().item())
