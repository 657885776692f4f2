"""Do concepts found on one half of the images predict the activations on the other half?

A calibrated label says that the images on which a unit is active have something to do with a concept. It does
not
say how much: that is asked of images that had no part in choosing the label.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional._blocks import spans
from concept_monitor_cli.functional.evaluation.simulation import ACTIVE_SHARE, active_images
from concept_monitor_cli.functional.ranks import average_ranks

Word = Literal["well", "somewhat", "weakly", "no better than chance", "not known"]

Measure = Literal["auc", "iou"]

# Gain over chance from which a word holds. In probability, where 0.5 is a coin's and 1 is perfect; in IoU,
# where 0.04 makes a detector (Bau et al. 2017).
_WORDS: dict[Measure, tuple[tuple[float, Word], ...]] = {
    "auc": ((0.2, "well"), (0.1, "somewhat"), (0.03, "weakly")),
    "iou": ((0.04, "well"), (0.02, "somewhat"), (0.005, "weakly")),
}
# Images by concepts, or units, that are looked at at a time: two such blocks of float64.
_VALUES = 1 << 22
# Standard errors by which the mean must be above chance to be called better at all.
_ERRORS = 2.0


@torch.no_grad()
def held_out_auc(
    activations: Tensor, presence: Tensor, labels: Tensor, *, share: float = ACTIVE_SHARE
) -> tuple[Tensor, Tensor]:
    """How well the concept of each unit tells the images on which it is active from the others, and chance.

        own[k]    = P( presence of k's concept on an active image of k > on another image ), ties counting
        half chance[k] = the same with the concepts of the other units, on average over those with another
        concept

    A unit is active on the images of its top `share` of activations.

    Args:
        activations: `(n, C)` on images that had no part in choosing the concepts.
        presence: `(n, L)`, how much of each concept is on each image, in any unit.
        labels: `(C,)`, the column of `presence` that is each unit's concept; -1 for none.
        share: of the images.

    Returns:
        own and chance, `(C,)` float64 each; NaN for a unit without a concept, or that is the same on all
        images, and chance where all units have one concept.

    Example:
        >>> activations = torch.tensor([[9.0, 0.0], [0.0, 9.0], [0.0, 0.0]])
        >>> presence = torch.tensor([[0.8, 0.1], [0.2, 0.7], [0.1, 0.3]])
        >>> own, chance = held_out_auc(activations, presence, torch.tensor([0, 1]), share=0.3)
        >>> own.tolist(), chance.tolist()
        ([1.0, 1.0], [0.0, 0.5])
    """
    n, units = activations.shape
    if presence.ndim != 2 or presence.shape[0] != n or labels.shape != (units,) or n < 1:
        raise InputError(
            f"activations {tuple(activations.shape)}, presence {tuple(presence.shape)} and labels "
            f"{tuple(labels.shape)}: need (n, C), (n, L) and (C,)"
        )
    named = labels >= 0
    alive = activations.amax(0) > activations.amin(0)
    usable = named & alive
    active = active_images(activations, share)
    hits = active.sum(0).double().masked_fill_(~(usable & activations.isfinite().all(0)), torch.nan)
    area = torch.empty(presence.shape[1], units, dtype=torch.float64, device=presence.device)
    # Ranks are whole numbers and halves: sums of them are exact, in blocks of any size.
    for concepts in spans(presence.shape[1], _VALUES // n):
        ranks = average_ranks(presence[:, concepts]).T
        for some in spans(units, _VALUES // n):
            area[concepts, some] = ranks @ active[:, some].double()
    area = area.sub_(hits * (hits + 1) / 2).div_(hits * (n - hits))
    own = area.gather(0, labels.clamp_min(0)[None])[0]
    # Weighted by how many other units have each concept.
    counts = torch.bincount(labels[usable], minlength=presence.shape[1]).double()
    weights = counts[:, None].expand_as(area).clone()
    weights.scatter_(0, labels.clamp_min(0)[None], 0.0)
    chance = (weights * area).sum(0) / weights.sum(0)
    return own, torch.where(weights.sum(0) > 0, chance, torch.nan)


@dataclass(frozen=True)
class HeldOut:
    """How well the concepts of a layer predict held-out activations.

    Attributes:
        units: that could be asked.
        value: mean of `own` over them; NaN without any.
        chance: mean of `chance`.
        word: the difference in a word.
        error: standard error of the mean difference, with as many numbers as there are different units; NaN
            where it is not known.
    """

    units: int
    value: float
    chance: float
    word: Word
    error: float = math.nan


def held_out_summary(own: Tensor, chance: Tensor, *, effective: float, measure: Measure = "auc") -> HeldOut:
    """One line for a layer.

    Args:
        own: `(C,)`, of every unit; NaN where it is not known.
        chance: `(C,)`, likewise.
        effective: effective number of units: units that do the same are no independent evidence.
        measure: in which both are.
    """
    known = own.isfinite() & chance.isfinite()
    count = int(known.sum())
    if not count:
        return HeldOut(0, math.nan, math.nan, "not known")
    gain = (own - chance)[known].double()
    value, by_chance = float(own[known].mean()), float(chance[known].mean())
    if count < 2 or not effective >= 2:
        return HeldOut(count, value, by_chance, "not known")
    error = float(gain.std()) / math.sqrt(min(count, effective))
    mean = float(gain.mean())
    if mean < _ERRORS * error:
        return HeldOut(count, value, by_chance, "no better than chance", error)
    for least, word in _WORDS[measure]:
        if mean >= least:
            return HeldOut(count, value, by_chance, word, error)
    return HeldOut(count, value, by_chance, "no better than chance", error)
