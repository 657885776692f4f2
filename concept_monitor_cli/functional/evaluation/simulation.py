"""How well a label tells what a unit does: its activations against the concept's presence, image by image.

All functions compare columns: pair `b` is one unit with one concept, its activations `activations[:, b]` and
the concept's `presence[:, b]` on the same `n` images. Presence is 1 or 0 (labels), or any number (similarity
of an encoder) where a function says so; NaN means that nobody knows, and the image does not count for that
pair. Every column is sorted once, whatever is computed from it.

Where a measure needs to know on which images a unit *is active*, these are the images of its top share of
activations (`active`). Two readings of AUPRC and AUC are in use: the concept predicts where the unit is
active (`auprc`, `auc`), or the activation predicts where the concept is present (`inverse_auprc`,
`inverse_auc`). Names and readings are those of "Evaluating Neuron Explanations: A Unified Framework with
Sanity Checks" (Oikarinen, Yan and Weng 2025); the activation difference is in the units of "CoSy" (Kopf et
al. 2024).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional._blocks import run_blocks, sort_columns, spans

#: A unit counts as active on so large a share of the images.
ACTIVE_SHARE = 0.05
#: What `simulation_scores` computes, in this order.
METRICS = (
    "correlation",
    "auprc",
    "f1",
    "iou",
    "auc",
    "activation_difference",
    "inverse_auprc",
    "inverse_auc",
)
_EULER_MASCHERONI = 0.5772156649015329
# Values (of 8 bytes, some ten at a time) that one block of pairs holds.
_BLOCK = 1 << 19


@dataclass(frozen=True)
class Ranking:
    """Columns sorted once, highest value first.

    Attributes:
        order: `(n, B)`, which image is at each place; images without a value come last.
        last: `(n, B)`, for each place the last place with the same value.
        known: `(n, B)`, whether the image at each place has a value.
    """

    order: Tensor
    last: Tensor
    known: Tensor


def _check(values: Tensor, others: Tensor) -> None:
    if values.ndim != 2 or values.shape != others.shape or 0 in values.shape:
        raise InputError(
            f"activations of shape {tuple(values.shape)} and presence of shape {tuple(others.shape)}: "
            "need the same (images, pairs), at least one of each"
        )


def ranked(values: Tensor) -> Ranking:
    """Sort the columns of `values` `(n, B)`; NaN comes last and counts as unknown."""
    if values.ndim != 2 or 0 in values.shape:
        raise InputError(f"values of shape {tuple(values.shape)}: need (images, pairs), at least one of each")
    known = ~values.isnan()
    clean = torch.where(known, values, -torch.inf)
    sorted_, order = sort_columns(clean)
    known = known.gather(0, order)
    # The place itself where the next value differs, else one further down: a running minimum from below.
    n = len(values)
    place = torch.arange(n, device=values.device)[:, None].expand_as(order)
    ends = torch.ones_like(known)
    ends[:-1] = (sorted_[:-1] != sorted_[1:]) | (known[:-1] != known[1:])
    last = torch.where(ends, place, n).flip(0).cummin(0).values.flip(0)
    return Ranking(order, last, known)


def _counts(ranking: Ranking, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hits and misses at each place, and both summed up to the end of the place's ties; float64."""
    hit = targets.gather(0, ranking.order).double()
    known = ranking.known & ~hit.isnan()
    hit = torch.where(known, hit, 0.0)
    miss = known.double() - hit
    return hit, miss, hit.cumsum(0).gather(0, ranking.last), miss.cumsum(0).gather(0, ranking.last)


@torch.no_grad()
def average_precision(scores: Tensor | Ranking, targets: Tensor) -> Tensor:
    """Area under the precision-recall curve, without interpolation.

        AP[b] = sum_t (R_t - R_{t-1}) P_t

    over the distinct scores `t`, highest first; `P_t` and `R_t` are precision and recall of "score at least
    t".

    Args:
        scores: `(n, B)`, or their `Ranking`.
        targets: `(n, B)`, 1 or 0; NaN: the image does not count.

    Returns:
        `(B,)` float64; NaN where no target is 1.

    Source: `sklearn.metrics.average_precision_score`, which it equals.

    Example:
        >>> scores = torch.tensor([[0.9], [0.8], [0.1]])
        >>> average_precision(scores, torch.tensor([[1.0], [0.0], [1.0]])).tolist()
        [0.8333333333333333]
    """
    ranking = scores if isinstance(scores, Ranking) else ranked(scores)
    _check(ranking.order, targets)
    hit, _, hits, misses = _counts(ranking, targets)
    precision = hits / (hits + misses).clamp_min(1)
    return (hit * precision).sum(0) / hit.sum(0)


@torch.no_grad()
def roc_auc(scores: Tensor | Ranking, targets: Tensor) -> Tensor:
    """Probability that an image with target 1 scores above one with target 0, ties counting half.

    Args:
        scores: `(n, B)`, or their `Ranking`.
        targets: `(n, B)`, 1 or 0; NaN: the image does not count.

    Returns:
        `(B,)` float64; NaN where all targets are the same.

    Source: `sklearn.metrics.roc_auc_score`, which it equals.

    Example:
        >>> scores = torch.tensor([[0.9], [0.8], [0.1]])
        >>> roc_auc(scores, torch.tensor([[1.0], [0.0], [1.0]])).tolist()
        [0.5]
    """
    ranking = scores if isinstance(scores, Ranking) else ranked(scores)
    _check(ranking.order, targets)
    hit, miss, hits, misses = _counts(ranking, targets)
    pairs = hit.sum(0) * miss.sum(0)
    # Of all pairs of a hit and a miss: those where the hit scores as high or higher, and the other way round.
    not_below, not_above = (miss * hits).sum(0), (hit * misses).sum(0)
    return (not_below + pairs - not_above) / (2 * pairs)


@torch.no_grad()
def pearson(x: Tensor, y: Tensor) -> Tensor:
    """Correlation of the columns of two tensors.

    Args:
        x: `(n, B)`; NaN: the image does not count.
        y: `(n, B)`, likewise.

    Returns:
        `(B,)` float64 in [-1, 1]; NaN where a column is constant.

    Example:
        >>> x, y = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[1.0], [0.0], [-1.0]])
        >>> pearson(x, y).round(decimals=6).tolist()
        [-1.0]
    """
    _check(x, y)
    known = ~(x.isnan() | y.isnan())
    count = known.sum(0)

    def centred(values: Tensor) -> Tensor:
        wide = torch.where(known, values.double(), 0.0)
        # A column of one value has no rounding error left for its norm to be made of.
        lowest = torch.where(known, wide, torch.inf).amin(0)
        highest = torch.where(known, wide, -torch.inf).amax(0)
        away = torch.where(known, wide - wide.sum(0) / count, 0.0)
        return torch.where(highest > lowest, away, torch.nan)

    a, b = centred(x), centred(y)
    product = (a * b).sum(0) / (a.square().sum(0).sqrt() * b.square().sum(0).sqrt())
    return product.clamp(-1, 1)


@torch.no_grad()
def active_images(values: Tensor, share: float = ACTIVE_SHARE, known: Tensor | None = None) -> Tensor:
    """On which images a unit is active: those of the top share of its values.

        active[i, b] = values[i, b] >= c_b  and  values[i, b] > min_i values[i, b]

    with `c_b` the `ceil(share * n)`-th largest value. The second condition is about units that are silent on
    most images: an image at a unit's lowest value does not excite it, however few are above.

    Args:
        values: `(n, B)`; NaN: the image does not count.
        share: between 0 and 1.
        known: `(n, B)` bool, images that count at all; None for all.

    Returns:
        `(n, B)` bool; false where the image does not count.
    """
    if not 0 < share < 1:
        raise InputError(f"units cannot be active on a share of {share} of the images", hint="0 < share < 1")
    counts = ~values.isnan() if known is None else known & ~values.isnan()
    clean = torch.where(counts, values, -torch.inf)
    total = counts.sum(0, keepdim=True)
    # Of floats such as 0.05 * 100: no sixth image for a rounding error.
    wanted = torch.ceil(share * total.double() - 1e-9).long().clamp_min(1)
    cutoff = sort_columns(clean)[0].gather(0, wanted - 1)
    lowest = torch.where(counts, values, torch.inf).amin(0)
    return counts & (values >= cutoff) & (values > lowest)


def _overlap(active: Tensor, presence: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Images with both, active images, images with the concept; of those that are known."""
    _check(active, presence)
    known = ~presence.isnan()
    present = torch.where(known, presence, 0.0).double()
    firing = (active & known).double()
    return (firing * present).sum(0), firing.sum(0), present.sum(0)


@torch.no_grad()
def f1(active: Tensor, presence: Tensor) -> Tensor:
    """Harmonic mean of precision and recall of "the concept is there" for "the unit is active".

        F1[b] = 2 #(active and present) / (#active + #present)  =  2 IoU / (1 + IoU)

    Args:
        active: `(n, B)` bool, from `active_images`.
        presence: `(n, B)`, 1 or 0; NaN: the image does not count.

    Returns:
        `(B,)` float64; NaN where the unit is never active or the concept never present.
    """
    both, firing, present = _overlap(active, presence)
    return torch.where((firing > 0) & (present > 0), 2 * both / (firing + present), torch.nan)


@torch.no_grad()
def iou(active: Tensor, presence: Tensor) -> Tensor:
    """Images with both over images with either; arguments and NaN as for `f1`."""
    both, firing, present = _overlap(active, presence)
    return torch.where((firing > 0) & (present > 0), both / (firing + present - both), torch.nan)


@torch.no_grad()
def activation_difference(activations: Tensor, presence: Tensor) -> Tensor:
    """How far the mean activation with the concept lies above that without, in the latter's deviations.

        MAD[b] = (mean(A | present) - mean(A | absent)) / std(A | absent)

    Args:
        activations: `(n, B)`; NaN: the image does not count.
        presence: `(n, B)`, 1 or 0; NaN: the image does not count.

    Returns:
        `(B,)` float64; NaN where the concept is on no image or on all, or the unit the same on all without
        it.

    Source: CoSy (Kopf et al. 2024), with all images without the concept as the control images.
    """
    _check(activations, presence)
    known = ~(activations.isnan() | presence.isnan())
    values = torch.where(known, activations.double(), 0.0)
    present = torch.where(known, presence.double(), 0.0)
    absent = known.double() - present
    with_, without = present.sum(0), absent.sum(0)
    low = (values * absent).sum(0) / without
    rest = torch.where(absent > 0, values, torch.nan)
    spread = ((values - low).square() * absent).sum(0).div(without).sqrt()
    same = torch.where(rest.isnan(), torch.inf, rest).amin(0) >= torch.where(
        rest.isnan(), -torch.inf, rest
    ).amax(0)
    difference = (values * present).sum(0) / with_ - low
    return torch.where((with_ > 0) & (without > 0) & ~same, difference / spread, torch.nan)


def top_of(presence: Tensor, share: float) -> Tensor:
    """A presence that is a similarity as one that is 1 or 0: 1 on the share of images where it is highest.

    Args:
        presence: `(n, B)`; NaN stays NaN.
        share: between 0 and 1; ties at the border all count.
    """
    top = active_images(presence, share).to(presence.dtype)
    return torch.where(presence.isnan(), torch.nan, top)


class RankedUnits:
    """Units with their images ranked and their active images found, to be compared with many concepts.

    Args:
        activations: `(n, B)`, of each pair's unit; NaN: the image does not count.
        known: `(n, B)` bool, the images that count for each pair; None for all.
        active_share: see `active_images`; taken of the images that count.
    """

    def __init__(
        self, activations: Tensor, known: Tensor | None = None, *, active_share: float = ACTIVE_SHARE
    ) -> None:
        self._known = ~activations.isnan() if known is None else known & ~activations.isnan()
        self._activations = torch.where(self._known, activations, torch.nan)
        self._active = active_images(self._activations, active_share)
        self._ranking = ranked(self._activations)

    @torch.no_grad()
    def scores(
        self, presence: Tensor, similarity: Tensor | None = None, *, least: int = 1
    ) -> dict[str, Tensor]:
        """See `simulation_scores`; on the host.

        Images whose presence is NaN must not be among the known ones.
        """
        n = self._known.sum(0)
        _check(self._activations, presence)
        if bool((self._known & presence.isnan()).any()):
            raise InputError("the presence of a concept is not known on images that are to count")
        presence = torch.where(self._known, presence, torch.nan)
        both, firing, present = _overlap(self._active, presence)
        # With a presence of 1 or 0 the concept calls two groups of images, so that no sorting is needed.
        recall = both / firing
        false = (present - both) / (n - firing)
        found = {
            "correlation": pearson(self._activations, presence),
            "auprc": recall * torch.where(present > 0, both / present, 0.0) + (1 - recall) * firing / n,
            "f1": f1(self._active, presence),
            "iou": iou(self._active, presence),
            "auc": (1 + recall - false) / 2,
            "activation_difference": activation_difference(self._activations, presence),
            "inverse_auprc": average_precision(self._ranking, presence),
            "inverse_auc": roc_auc(self._ranking, presence),
        }
        if similarity is not None:
            _check(presence, similarity)
            self._grade(found, similarity)
        on, off = (presence == 1).sum(0), (presence == 0).sum(0)
        judged = self._active.any(0) & (on >= least) & (off >= least)
        table = torch.where(judged, torch.stack(list(found.values())), torch.nan).cpu()
        return dict(zip(found, table, strict=True))

    def _grade(self, found: dict[str, Tensor], similarity: Tensor) -> None:
        """Where there is a similarity, correlation, AUPRC and AUC are of that."""
        graded = (~similarity.isnan().all(0)).nonzero()[:, 0]
        if len(graded) == 0:
            return
        seen = torch.where(self._known, similarity, torch.nan)[:, graded]
        target = torch.where(self._known, self._active.to(seen.dtype), torch.nan)[:, graded]
        ranking = ranked(seen)
        found["correlation"][graded] = pearson(self._activations[:, graded], seen)
        found["auprc"][graded] = average_precision(ranking, target)
        found["auc"][graded] = roc_auc(ranking, target)


@torch.no_grad()
def simulation_scores(
    activations: Tensor,
    presence: Tensor,
    similarity: Tensor | None = None,
    *,
    active_share: float = ACTIVE_SHARE,
    least: int = 1,
) -> dict[str, Tensor]:
    """All measures of `METRICS` for every pair.

    Args:
        activations: `(n, B)`, of each pair's unit; NaN: the image does not count.
        presence: `(n, B)`, of each pair's concept: 1, 0 or NaN (the image does not count).
        similarity: `(n, B)`, the same as a number, where labels do not say it: then correlation, AUPRC and
            AUC are of this. NaN in a whole column: the presence is all there is.
        active_share: see `active_images`; taken of the images that count.
        least: pairs whose concept is present on fewer images than this, or absent from fewer, get NaN.

    Returns:
        name -> `(B,)` float64, on the host. A unit with the same activation everywhere has NaN in all of
        them.
    """
    _check(activations, presence)
    n, pairs = activations.shape
    found = {name: torch.full((pairs,), torch.nan, dtype=torch.float64) for name in METRICS}

    def judge(part: slice) -> None:
        units = RankedUnits(activations[:, part], ~presence[:, part].isnan(), active_share=active_share)
        seen = None if similarity is None else similarity[:, part]
        for name, column in units.scores(presence[:, part], seen, least=least).items():
            found[name][part] = column

    run_blocks(judge, spans(pairs, _BLOCK // n), activations.device)
    return found


def expected_average_precision(positives: Tensor, images: Tensor) -> Tensor:
    """What `average_precision` is on average where the order of the images is random.

        E[AP] = (1 / n) ((P - 1) / (n - 1) (n - H_n) + H_n),   H_n = 1 + 1/2 + ... + 1/n

    which is the prevalence `P / n` plus something of the order `log(n) / n`.

    Args:
        positives: `P`, `(B,)`.
        images: `n`, `(B,)`.

    Returns:
        `(B,)` float64; NaN where there is no positive.
    """
    p, n = positives.double(), images.double()
    harmonic = torch.special.digamma(n + 1) + _EULER_MASCHERONI
    expected = ((p - 1) / (n - 1).clamp_min(1) * (n - harmonic) + harmonic) / n
    return torch.where(p > 0, expected, torch.nan)


def chance_levels(presence: Tensor, *, active_share: float = ACTIVE_SHARE) -> dict[str, Tensor]:
    """What each of `METRICS` is on average for a label that has nothing to do with the unit.

    Correlation and activation difference 0, both AUCs 0.5, AUPRC about the share of active images, the
    inverse AUPRC about the concept's prevalence, F1 and IoU those of independent images:

        F1 = 2 a p / (a + p),    IoU = a p / (a + p - a p)

    with `a` the share of active images and `p` the concept's prevalence.

    Args:
        presence: `(n, B)`, 1, 0 or NaN.
        active_share: see `active_images`.

    Returns:
        name -> `(B,)` float64, on the host; NaN where the concept is on no image.
    """
    present = torch.where(presence.isnan(), 0.0, presence).sum(0).double()
    n, present = torch.stack([(~presence.isnan()).sum(0).double(), present]).cpu()
    p = torch.where(present > 0, present / n, torch.nan)
    active = torch.ceil(active_share * n - 1e-9).clamp_min(1)
    a = active / n
    return {
        "correlation": p * 0,
        "auprc": a + p * 0,
        "f1": 2 * a * p / (a + p),
        "iou": a * p / (a + p - a * p),
        "auc": p * 0 + 0.5,
        "activation_difference": p * 0,
        "inverse_auprc": expected_average_precision(present, n),
        "inverse_auc": p * 0 + 0.5,
    }


def top_images_showing(activations: Tensor, presence: Tensor, count: int) -> Tensor:
    """Share of the images that excite a unit most which show the concept: what the paper's annotators judged.

    Images at a unit's lowest value do not excite it: a unit that is silent on most has fewer than `count`.

    Args:
        activations: `(n, B)`.
        presence: `(n, B)`, 1, 0 or NaN (does not count).
        count: how many images; all where there are fewer.

    Returns:
        `(B,)` float64; NaN where no image counts.

    Source: CLIP-Dissect, A.10 (10 images).
    """
    _check(activations, presence)
    if count < 1:
        raise InputError(f"{count} images cannot be looked at")
    n, pairs = activations.shape
    result = torch.empty(pairs, dtype=torch.float64, device=activations.device)

    def look(part: slice) -> None:
        own, there = activations[:, part], presence[:, part]
        counts = ~there.isnan() & ~own.isnan()
        lowest = torch.where(counts, own, torch.inf).amin(0)
        ranking = ranked(torch.where(counts & (own > lowest), own, torch.nan))
        top = ranking.order[:count]
        hit = torch.where(ranking.known[:count], there.gather(0, top), torch.nan).double()
        result[part] = hit.nansum(0) / (~hit.isnan()).sum(0)

    run_blocks(look, spans(pairs, _BLOCK // n), activations.device)
    return result
