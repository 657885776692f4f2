"""How much of a class's score the change of each unit between two epochs brought.

`A` and `A'` are a layer's outputs for one image at an earlier and a later epoch, `z` the score of the image's
class as what follows the layer at the later epoch gives it. Then

    exact   e_k = z(A') - z(A' with A_k in the place of A'_k)
    fast    e_k = sum over positions of dz/dA'_k (A'_k - A_k)
    path    e_k = the same with the mean gradient at points between A and A'; the sum is z(A') - z(A)

In front of pooling and a linear head all three are `W[c, k] (q'_k - q_k)`.

Sources: Park et al. 2022 (ConceptEvo: the gradient of the earlier network, and its sign); Sundararajan et al.
2017 (integrated gradients, whose path this is).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.ranks import average_ranks

#: Points of the path. More change sums by less than images do.
STEPS = 8
#: Parts into which the units are cut by what they brought, and set back together.
PARTS = 4


def midpoints(steps: int = STEPS) -> list[float]:
    """The middles of `steps` equal parts of the way from 0 to 1.

    Example:
        >>> midpoints(2)
        [0.25, 0.75]
    """
    return [(step + 0.5) / steps for step in range(steps)]


@torch.no_grad()
def head_effects(W: Tensor, classes: Tensor, change: Tensor) -> Tensor:
    """What each unit brought where only pooling and a linear head follow: `W[c, k] (q'_k - q_k)`, exact.

    Args:
        W: `(K, C)`, the later head.
        classes: `(n,)` int64.
        change: `(n, C)`, later less earlier pooled activations.

    Returns:
        `(n, C)` float64.

    Example:
        >>> W, change = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 0.5]])
        >>> head_effects(W, torch.tensor([0]), change).tolist()
        [[3.0, 1.0]]
    """
    if W.ndim != 2 or change.shape != (len(classes), W.shape[1]):
        raise InputError(
            f"weights {tuple(W.shape)}, classes {tuple(classes.shape)} and changes {tuple(change.shape)}: "
            "need (K, C), (n,) and (n, C)"
        )
    return W.double()[classes] * change.double()


@torch.no_grad()
def elsewhere(swapped: Tensor) -> Tensor:
    """What the change of each unit would have brought in the place of another one, root mean square.

    Args:
        swapped: `(C, C)`: [other, unit], the change of the unit times the gradient at the other; the diagonal
            is the unit itself and does not count.

    Returns:
        `(C,)` float64; NaN for a layer of one unit.

    Example:
        >>> elsewhere(torch.tensor([[9.0, 4.0], [3.0, 9.0]])).tolist()
        [3.0, 4.0]
    """
    if swapped.ndim != 2 or swapped.shape[0] != swapped.shape[1]:
        raise InputError(f"products {tuple(swapped.shape)}: need (C, C)")
    squares = swapped.double() ** 2
    others = len(swapped) - 1
    if not others:
        return torch.full((1,), torch.nan, dtype=torch.float64)
    return ((squares.sum(0) - squares.diagonal()).clamp_min(0) / others).sqrt()


@dataclass(frozen=True)
class ClassGain:
    """What each unit brought the images of a class, `(C,)` float64 each.

    Attributes:
        effect: mean over the images.
        spread: standard error of that mean: what other images of the class would change.
        share_positive: share of the images that it brought more than 0.
        p: two-sided, that the mean is 0 (t-test over the images); 1 for a unit that did not change.
    """

    effect: Tensor
    spread: Tensor
    share_positive: Tensor
    p: Tensor


@torch.no_grad()
def class_gain(each: Tensor) -> ClassGain:
    """From what each unit brought each image of a class.

    Args:
        each: `(n, C)`, n at least 2.

    Raises:
        InputError: another shape.
    """
    from scipy.special import betainc

    if each.ndim != 2 or len(each) < 2:
        raise InputError(f"effects {tuple(each.shape)}: need (n, C), n at least 2")
    each = each.double()
    mean, n = each.mean(0), len(each)
    spread = each.std(0) / n**0.5
    # Equal numbers have a spread of rounding errors.
    flat = spread <= 1e-12 * each.abs().amax(0)
    statistic = mean**2 / torch.where(flat, 1.0, spread**2)
    degrees = n - 1
    p = torch.from_numpy(betainc(degrees / 2, 0.5, (degrees / (degrees + statistic)).cpu().numpy()))
    p = p.to(each.device)
    p = torch.where(flat, torch.where(mean == 0, 1.0, 0.0).double(), p)
    return ClassGain(mean, spread, (each > 0).double().mean(0), p)


@torch.no_grad()
def rank_correlation(first: Tensor, second: Tensor) -> float:
    """Spearman's correlation of two `(C,)`; NaN where one of them is constant."""
    ranks = average_ranks(torch.stack([first.double(), second.double()], 1))
    ranks = ranks - ranks.mean(0)
    norms = ranks.norm(dim=0)
    return (
        float((ranks[:, 0] @ ranks[:, 1]) / (norms[0] * norms[1]))
        if bool((norms > 0).all())
        else float("nan")
    )


@torch.no_grad()
def parts_by_effect(
    effect: Tensor, draws: int, *, parts: int = PARTS, seed: int = 0
) -> list[list[list[int]]]:
    """Units in parts by what they brought, most first, and random sets of as many units outside each part.

    Args:
        effect: `(C,)`.
        draws: random sets.
        parts: how many; fewer where there are fewer units.
        seed: of the draws.

    Returns:
        for each part the part itself, then the random sets; no set where fewer units are outside than in it.
    """
    order = effect.argsort(descending=True, stable=True).cpu()
    generator = torch.Generator().manual_seed(seed)
    found = []
    for part in order.tensor_split(min(parts, len(order))):
        outside = order[~torch.isin(order, part)]
        count = draws if len(outside) >= len(part) else 0
        sets = [
            outside[torch.randperm(len(outside), generator=generator)[: len(part)]].sort().values.tolist()
            for _ in range(count)
        ]
        found.append([part.sort().values.tolist(), *sets])
    return found
