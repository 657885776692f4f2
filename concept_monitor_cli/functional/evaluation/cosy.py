"""CoSy: does a unit fire more on images of its label than on images of anything? (Kopf et al. 2024)

The images of the label come from an image generator, so that no label of the probing set is needed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from concept_monitor_cli.errors import InputError


def cosy_scores(control: Tensor, generated: Tensor, concept: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """AUC and MAD of every unit with the images of every concept.

        AUC[c, m] = P(a generated image of m excites c more than a control image), ties as one half
        MAD[c, m] = ( mean of the unit on images of m - mean on control images ) / their standard deviation

    Args:
        control: `A_0`, `(N, C)`, activations on images of anything.
        generated: `A_1`, `(n, C)`, on generated images.
        concept: `(n,)` int64, which of `count` concepts each of these shows.
        count: `M`.

    Returns:
        AUC and MAD, `(C, M)` float64; NaN for a concept without images, a unit that is not a number
        somewhere, and MAD for one that is the same on all control images.

    Source: Kopf et al., CoSy: Evaluating Textual Explanations of Neurons, NeurIPS 2024, section 3.

    Example:
        >>> control, generated = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [0.0]])
        >>> auc, mad = cosy_scores(control, generated, torch.tensor([0, 1]), 2)
        >>> auc.tolist(), mad.tolist()
        ([[1.0, 0.25]], [[3.0, -1.0]])
    """
    if control.ndim != 2 or generated.ndim != 2 or control.shape[1] != generated.shape[1] or not len(control):
        shapes = f"{tuple(control.shape)} and {tuple(generated.shape)}"
        raise InputError(f"activations of shapes {shapes}: need (N, C) and (n, C) of the same units")
    base = control.double()
    auc, mad = base.new_full((2, base.shape[1], count), torch.nan)
    mean, spread = base.mean(0), base.std(0, correction=0)
    varies = base.amax(0) > base.amin(0)
    ascending = base.T.contiguous().sort(dim=1).values.contiguous()
    known = base.isfinite().all(0)
    # Images of one concept one after the other: where each begins is looked up once.
    order = concept.argsort(stable=True)
    edges = torch.searchsorted(concept[order], torch.arange(count + 1, device=concept.device)).tolist()
    sorted_ = generated[order]
    for m in range(count):
        own = sorted_[edges[m] : edges[m + 1]].double()
        if not len(own):
            continue
        finite = known & own.isfinite().all(0)
        columns = own.T.contiguous()
        # Control images below, and those that are level as one half.
        below = torch.searchsorted(ascending, columns)
        up_to = torch.searchsorted(ascending, columns, right=True)
        share = (below + up_to).double().mean(1) / (2 * len(base))
        auc[:, m] = torch.where(finite, share, torch.nan)
        mad[:, m] = torch.where(finite & varies, (own.mean(0) - mean) / spread, torch.nan)
    return auc, mad


def of_labels(scores: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """The score of each unit with its own label, and with the labels of the units of the layer.

    Args:
        scores: `(C, M)`.
        label: `(C,)` int64, the concept of each unit; -1 for none or one without images.

    Returns:
        own `(C,)`, and chance `(C,)`: the mean over the other units' labels, as often as each is given, which
        is what a label dealt out at random gives. NaN where there is none.
    """
    asked = label >= 0
    if not scores.shape[1]:
        nothing = torch.full((len(scores),), torch.nan, dtype=torch.float64, device=scores.device)
        return nothing, nothing
    mine = scores.gather(1, label.clamp_min(0)[:, None])[:, 0].double()
    own = torch.where(asked, mine, torch.nan)
    counts = torch.bincount(label[asked], minlength=scores.shape[1]).double()
    total = (scores.nan_to_num(0.0) * counts).sum(1)
    weight = (scores.isfinite().double() * counts).sum(1)
    mine = own.nan_to_num(0.0)
    chance = (total - mine) / (weight - own.isfinite().double())
    return own, torch.where(asked & chance.isfinite() & own.isfinite(), chance, torch.nan)
