"""When is a label better than chance? Null distributions, p-values and Benjamini-Hochberg.

A detector always names a best concept. Whether that means anything is asked of the same detector with the
pairing of images and activations broken: what does it find for a unit that has nothing to do with the images?
A unit is called interpretable where what speaks for its label is too much for that, controlled within the
layer.

Four ways to the null distribution, by what the score depends on:

- **Evidence of images only** (`wpmi`, `soft_wpmi`): a unit with a broken pairing is a random ordered set of
  top images. `random_top_images` -> `soft_wpmi_evidence` -> `label_evidence` -> `p_values`. The evidence of
  the random sets depends on the probe set, the concepts and the constants alone: compute it once for all
  layers, epochs and runs.
- **Activations at the top images** (`rank_reorder`): random ordered sets as well, on which the unit keeps its
  own activations. `rank_reorder_by_chance` -> `pooled_p_values`.
- **Everything else** (`cos`, `cos_cubed`): `permuted_best_scores` scores the layer again with its images
  permuted for every unit, and `pooled_p_values` compares.
- **Counts of pixels** (IoU): `dissection.shuffled_support`, then `pooled_p_values`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional._blocks import Workspace, grain, on_cpu, run_blocks, spans
from concept_monitor_cli.functional.groups import ImageGroups, Rotations, random_images
from concept_monitor_cli.functional.similarity.pmi import Evidence, log_sum_of_others
from concept_monitor_cli.functional.topk import top_rows

#: Random image sets in a null distribution. With the add-one rule no p-value is below `1 / (DRAWS + 1)`, and
#: Benjamini-Hochberg at q rejects a share `f` of a layer's units at this floor only where `1 / (DRAWS + 1) <=
#: q f`: 2,000 draws see layers in which at least 1 % of the units (6 of 512, 21 of 2,048) beat every draw.
DRAWS = 2000
#: Permutations of a whole layer, where every unit has its own null distribution.
PERMUTATIONS = 20
#: False discovery rate within a layer.
FDR = 0.05
# Numbers of float32 that differ by less, as a share of 1 + their size, differ by rounding errors only.
_ROUNDING = 1e-5


def random_top_images(
    images: int | ImageGroups,
    k: int,
    draws: int = DRAWS,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Top images of units whose activations have nothing to do with the images: random ordered sets.

    Args:
        images: `N`, or the groups of the `N` images; of a group one random image, as each group has one place
            among the top images of a unit (`top_images_of_groups`).
        k: length of each set; the number of groups `G` where that is less.
        draws: how many sets.
        seed: the first sets do not depend on how many are drawn.
        device: where the result is needed.

    Returns:
        `(min(k, G), draws)` int64, in the form of `top_images`. The first `j` of each set are a random set of
        `j` images.

    Example:
        >>> random_top_images(10, 3, draws=4).shape
        torch.Size([3, 4])
    """
    count = images if isinstance(images, int) else images.n_groups
    if count < 1 or k < 1 or draws < 1:
        raise InputError(f"{draws} random sets of {k} out of {count} images: each must be at least 1")
    groups = ImageGroups.single(images) if isinstance(images, int) else images
    generator = np.random.default_rng(seed)
    sets = np.stack([random_images(groups, min(k, count), generator) for _ in range(draws)], axis=1)
    return torch.from_numpy(sets).to(device)


@torch.no_grad()
def label_evidence(layer: Evidence, null: Evidence, *, lam: float) -> tuple[Tensor, Tensor]:
    """How much the images speak for the label that each unit gets, and that chance gets in the same layer.

        label[k] = argmax_m ( E[k, m] - lam * log p(t_m) )
        found[k] = ( E[k, label[k]] - mean_r E_null[r, label[k]] ) / std_r E_null[r, label[k]]

    and the same for every draw `r` in the place of unit `r mod C`: its label is the one that it would get in
    this layer, with its own share in the prior, and its yardstick, mean and standard deviation, are those of
    the other draws, as a unit is no part of its own. Under the null hypothesis a unit and a draw are
    exchangeable.

    It is not the score that is compared. The score is relative to the other units: where no unit of the layer
    looks for a concept that is in the images, the prior of that concept is far down, any random set of images
    gets it as its label with a higher score than real detectors reach, and nothing would be told from chance.
    (With six concepts, one of them without a unit, not one of 60 perfect detectors was.) What random images
    say about a concept is therefore the yardstick for each label.

    Args:
        layer: evidence of the layer's live units, `(C, M)`.
        null: evidence of random sets of images, `soft_wpmi_evidence(P, random_top_images(...))`, `(R, M)`, by
            the same function with the same constants.
        lam: weight of the prior.

    Returns:
        found `(C,)` and null `(R,)`, float32, for `p_values`. 0 for a concept that every set of images (for a
        draw: every other one) speaks for alike.
    """
    labels = label_beside_chance(layer, null, lam=lam)
    return evidence_of(layer, null, top_rows(labels.order, 1)[0][:, 0]), labels.chance


@dataclass(frozen=True)
class OrderBesideChance:
    """What names a layer's units, and what chance gets in their places.

    Attributes:
        order: `Evidence.order`, `(C, M)`: a unit's label is where it is highest.
        chance: the null of `label_evidence`, `(R,)`.
    """

    order: Tensor
    chance: Tensor


@torch.no_grad()
def label_beside_chance(layer: Evidence, null: Evidence, *, lam: float) -> OrderBesideChance:
    """Order of the concepts of a layer's units, and the null of `label_evidence`, in one go.

    Arguments as those of `label_evidence`.
    """
    values, drawn = layer.values, null.values.to(layer.values.device)
    if values.shape[1] != drawn.shape[1] or 0 in (values.shape[0], drawn.shape[0]):
        raise InputError(
            f"evidence of shapes {tuple(values.shape)} and {tuple(drawn.shape)}: need the same concepts"
        )
    units, m = values.shape
    draws, device = drawn.shape[0], values.device
    stand_in = torch.arange(draws, device=device) % units
    # Of the whole, as `Evidence.order` has it: in blocks of another width it is rounded otherwise.
    all_others = log_sum_of_others(values)
    parts: list[tuple[int, Tensor, Tensor]] = []
    space = Workspace(device)

    def score(concepts: slice) -> None:
        # The prior with a draw in the place of a unit.
        random, wide = drawn[:, concepts], concepts.stop - concepts.start
        others = torch.index_select(all_others[:, concepts], 0, stand_in, out=space("others", draws, wide))
        if lam != 1.0:
            torch.logaddexp(others, random, out=others)
        best = torch.sub(random, others, alpha=lam, out=others).max(1)  # the first of several
        parts.append((concepts.start, best.values, best.indices + concepts.start))

    run_blocks(score, spans(m, max(16, grain(device) // max(units, draws))), device)
    parts.sort(key=lambda part: part[0])  # threads end in any order; ties go to the first concept
    block = torch.stack([best for _, best, _ in parts]).max(0).indices
    labels = torch.stack([where for _, _, where in parts]).gather(0, block[None])[0]
    chance = _beside_other_draws(drawn, labels)
    # In the place of what is not needed any more: both are as large as the evidence.
    order = torch.sub(values, all_others, out=all_others) if lam == 1.0 else layer.scores(lam)
    return OrderBesideChance(order, chance)


def _beside_other_draws(drawn: Tensor, labels: Tensor) -> Tensor:
    """`_against_the_others(drawn)[r, labels[r]]` of every draw, `(R,)`; `drawn` is `(R, M)`."""
    draws, device = drawn.shape[0], drawn.device
    chance = torch.empty(draws, device=device)
    width = max(16, grain(device) // draws)

    def of_draws(some: slice) -> None:
        chance[some] = _against_the_others(drawn[:, labels[some]])[some].diagonal()

    if not on_cpu(device):  # to count different labels would be to wait for them
        run_blocks(of_draws, spans(draws, width), device)
        return chance
    # Many draws have one label, whose column is looked at once. Blocks have one width: in another one the
    # sums of a column are rounded otherwise.
    whole = draws - draws % width
    named, which = labels[:whole].unique(return_inverse=True)  # type: ignore[no-untyped-call]
    named = torch.cat([named, named[-1:].expand(-len(named) % width)])

    def of_labels(some: slice) -> None:
        beside = _against_the_others(drawn[:, named[some]])
        own = ((which >= some.start) & (which < some.stop)).nonzero()[:, 0]
        chance[own] = beside[own, which[own] - some.start]

    run_blocks(of_labels, spans(len(named), width), device)
    if whole < draws:
        of_draws(slice(whole, draws))
    return chance


@torch.no_grad()
def evidence_of(layer: Evidence, null: Evidence, labels: Tensor) -> Tensor:
    """How much the images speak for given labels, in standard deviations of random sets of images.

        found[k] = ( E[k, label[k]] - mean_r E_null[r, label[k]] ) / std_r E_null[r, label[k]]

    Args:
        layer: evidence of units, `(C, M)`.
        null: evidence of random sets of images, `(R, M)`.
        labels: `(C,)`.

    Returns:
        `(C,)`; 0 where all random sets speak for the label alike.
    """
    random = null.values.to(layer.values.device)[:, labels]
    own = layer.values.gather(1, labels[:, None])[:, 0]
    return (own - random.mean(0)) / _spread(random)


@torch.no_grad()
def beyond_chance(layer: Evidence, null: Evidence) -> Tensor:
    """`evidence_of` every concept, `(C, M)`: what names the units of a layer that has too few for a prior."""
    random = null.values.to(layer.values.device)
    return (layer.values - random.mean(0)) / _spread(random)


@torch.no_grad()
def best_beyond_chance(null: Evidence) -> Tensor:
    """The best of `beyond_chance` of every random set among the others, `(R,)`: its null distribution."""
    return _against_the_others(null.values).amax(1)


def _spread(random: Tensor) -> Tensor:
    """Standard deviation of every column, `(m,)`; infinite where the rows differ by rounding errors only."""
    spread = random.std(0, correction=0)
    return spread.masked_fill_(spread <= _ROUNDING * (1 + random.mean(0).abs()), torch.inf)


def _against_the_others(random: Tensor) -> Tensor:
    """Every number minus the mean of the rest of its column, by their standard deviation, `(R, m)`.

    0 where the rest differ by rounding errors only.
    """
    draws = random.shape[0]
    if draws == 1:
        return torch.zeros_like(random)
    centre = random.mean(0)
    away = random - centre  # numbers near zero: the differences below lose no digits
    highest = away.abs().argmax(0, keepdim=True)
    square = away**2
    # Taking a square out of the sum is exact to rounding unless it makes up most of it: at most one does.
    variance = (square.sum(0) - square * (draws / (draws - 1))).div_(draws - 1).clamp_min_(0)
    rest = away + away.gather(0, highest) / (draws - 1)
    rest.scatter_(0, highest, 0)
    variance.scatter_(0, highest, (rest**2).sum(0, keepdim=True) / (draws - 1))
    spread = variance.sqrt_()
    rest_mean = centre - away / (draws - 1)
    spread.masked_fill_(spread <= _ROUNDING * (1 + rest_mean.abs()), torch.inf)
    return away.mul_(draws / (draws - 1)).div_(spread)


def shuffled(Q: Tensor, *, groups: ImageGroups | None = None, seed: int = 0) -> Tensor:
    """Activations with the pairing of images and units broken: the images of every unit are permuted.

    One random order of the groups of images, entered by each unit at a place of its own: every unit sees a
    uniformly random order, and no two units of a layer (up to as many as there are groups) see the same.

    Args:
        Q: `(N, C)`.
        groups: of the images; every image for itself by default. Groups change places as a whole.
        seed: of the order.

    Returns:
        `(N, C)`; where all groups are of one size, every column is a permutation of that column of `Q`.

    Raises:
        InputError: all images are one group.
    """
    if Q.ndim != 2 or Q.shape[0] == 0:
        raise InputError(f"activations of shape {tuple(Q.shape)}: need (N, C)")
    n, units = Q.shape
    groups = ImageGroups.single(n) if groups is None else groups
    if groups.n_images != n:
        raise InputError(f"groups of {groups.n_images} images for activations of {n}")
    return Rotations.draw(groups, units, 1, np.random.default_rng(seed)).permuted(0, Q)


def permuted_best_scores(
    score: Callable[[Tensor], Tensor],
    Q: Tensor,
    *,
    groups: ImageGroups | None = None,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Tensor:
    """The best concept's score of every unit with its images permuted, for any similarity.

    Args:
        score: `Q -> (C, M)`, e.g. `lambda Q: cos(P, Q)`.
        Q: `(N, C)` pooled activations.
        groups: of the images, which are permuted as a whole; every image for itself by default.
        permutations: `B`, how often the whole layer is scored.
        seed: of the permutations.

    Returns:
        `(B, C)` float32, for `pooled_p_values`.
    """
    return best_of_permutations(
        lambda mixed: score(mixed).amax(1).float(), Q, groups=groups, permutations=permutations, seed=seed
    )


def best_of_permutations(
    best: Callable[[Tensor], Tensor],
    Q: Tensor,
    *,
    groups: ImageGroups | None = None,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
    together: int = 1,
) -> Tensor:
    """`permuted_best_scores` where the best scores are found without a table of all concepts.

    Args:
        best: `(N, n) -> (n,)`, e.g. `best_cos`; it may overwrite what it is given.
        Q: `(N, C)` pooled activations.
        groups: as for `permuted_best_scores`.
        permutations: `B`.
        seed: of the permutations.
        together: permutations that are given to `best` at once, side by side.

    Returns:
        `(B, C)`.
    """
    units, found = Q.shape[1], []
    for some in spans(permutations, together):
        layers = Q.new_empty(len(Q), units * (some.stop - some.start))
        for number, layer in zip(range(some.start, some.stop), torch.split(layers, units, 1), strict=True):
            layer.copy_(shuffled(Q, groups=groups, seed=seed * 100_003 + number))
        found.append(best(layers).view(-1, units))
    return torch.cat(found)


@torch.no_grad()
def p_values(best: Tensor, null: Tensor) -> Tensor:
    """Share of the null distribution that is at least as high, add-one.

        p[k] = (1 + #{r : null[r] >= best[k]}) / (R + 1)

    The add-one rule counts the observed score as one of the draws: p is never 0 and is valid for any `R`.

    Args:
        best: `(C,)` the units' best scores; NaN for dead units.
        null: `(R,)` shared by all units.

    Returns:
        `(C,)` float64; NaN where `best` is.

    Raises:
        InputError: the null distribution is empty or holds NaN.

    Example:
        >>> p_values(torch.tensor([5.0, 0.0]), torch.tensor([1.0, 2.0, 3.0])).tolist()
        [0.25, 1.0]
    """
    if best.ndim != 1 or null.ndim != 1 or null.numel() == 0:
        raise InputError(f"scores of shape {tuple(best.shape)} and null scores of shape {tuple(null.shape)}")
    if bool(null.isnan().any()):
        raise InputError("the null distribution holds values that are not numbers")
    null = null.cpu().double().sort().values
    scores = best.cpu().double()
    below = torch.searchsorted(null, scores.contiguous())  # draws strictly below
    p = (1 + null.numel() - below).double() / (null.numel() + 1)
    return torch.where(scores.isnan(), torch.nan, p).to(best.device)


@torch.no_grad()
def pooled_p_values(best: Tensor, null: Tensor, *, studentised: bool = True) -> Tensor:
    """p-values where every unit has a few null scores of its own: those of all units form one distribution.

    A cosine's null depends on the unit (a unit that fires on every image has a high cosine with everything).
    With `studentised`, a unit's score is measured in its own null's mean and standard deviation, and each of
    the null scores in those of the others of the same unit; what is pooled is then comparable between units.

    Args:
        best: `(C,)` the units' best scores; NaN for dead units, which take no part.
        null: `(B, C)`, of the same units.
        studentised: needs `B >= 3`; without it the scores are pooled as they are, for scores whose null is
            the same for every unit.

    Returns:
        `(C,)` float64, add-one, at least `1 / (B C' + 1)` with `C'` units that are not dead; NaN where `best`
        is.
    """
    if null.ndim != 2 or best.ndim != 1 or null.shape[1] != best.shape[0]:
        raise InputError(f"scores of shape {tuple(best.shape)} and null scores of shape {tuple(null.shape)}")
    draws = null.shape[0]
    if draws < (3 if studentised else 1):
        raise InputError(f"{draws} null scores for each unit are too few", hint="take more permutations")
    scores, drawn = best.double().cpu(), null.double().cpu()
    alive = ~(scores.isnan() | drawn.isnan().any(0))
    p = torch.full_like(scores, torch.nan)
    if not bool(alive.any()):
        return p.to(best.device)
    scores, drawn = scores[alive], drawn[:, alive]
    if studentised:
        scores, drawn = _studentised(scores, drawn)
    p[alive] = p_values(scores, drawn.flatten())
    return p.to(best.device)


def standardised(best: Tensor, null: Tensor) -> Tensor:
    """Every unit's best score in units of its own null: how far beyond chance it is.

    To compare units of different networks: the plain cosine of a unit that fires on every image is high
    with everything, and units of untrained networks do.

    Args:
        best: `(C,)`.
        null: `(B, C)` scores of the same units with their images permuted, `B >= 2`.

    Returns:
        `(C,)` float64, `(best - mean) / standard deviation`.
    """
    drawn = null.double()
    tiny = torch.finfo(torch.float32).eps * drawn.abs().amax(0).clamp_min(1e-30)
    return (best.double() - drawn.mean(0)) / drawn.std(0).clamp_min(tiny)


def above_chance(found: Tensor, chance: Tensor) -> Tensor:
    """How many standard deviations of chance lie between what was found and the mean of chance.

    For `label_evidence`: both are of the best of all concepts, so a unit that is blind to the images
    is at 0 on average, however many concepts there are.

    Args:
        found: `(C,)`.
        chance: `(R,)`.

    Returns:
        `(C,)` float32; 0 where chance does not vary.
    """
    return ((found - chance.mean()) / _spread(chance[:, None])).float()


def above_null(values: Tensor, null: Tensor) -> Tensor:
    """How many standard deviations values lie above the mean of a null that all units share.

    Args:
        values: `(C,)`.
        null: `(B,)`, such as of all units of untrained networks together.

    Returns:
        `(C,)`, as `values`; NaN where the null varies by rounding errors only, as with one unit.
    """
    wide = torch.float32 if null.device.type == "mps" else torch.float64
    known = null.to(wide)
    mean, size = known.mean(), known.square().mean().sqrt()
    deviation = (known - mean).square().mean().sqrt()
    varies = deviation > 8 * torch.finfo(null.dtype).eps * size
    above = (values.to(wide) - mean) / torch.where(varies, deviation, torch.nan)
    return above.to(values.dtype)


def _studentised(scores: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
    """`scores` in units of `drawn`'s columns, and each of `drawn` in units of the rest of its column."""
    draws = drawn.shape[0]
    away = drawn - drawn.mean(0)  # numbers near zero: the differences below lose no digits
    square = (away**2).sum(0)
    tiny = torch.finfo(torch.float32).eps * drawn.abs().amax(0).clamp_min(1e-30)
    rest_mean = -away / (draws - 1)
    rest_square = (square - away**2 - (draws - 1) * rest_mean**2).clamp_min(0)
    rest_deviation = (rest_square / (draws - 2)).sqrt().clamp_min(tiny)
    return standardised(scores, drawn), (away - rest_mean) / rest_deviation


@torch.no_grad()
def benjamini_hochberg(p: Tensor, q: float = FDR) -> Tensor:
    """Which units to call interpretable so that at most a share `q` of the calls is expected to be wrong.

    With the p-values in rising order, all up to the last `p_(j) <= q j / C` are called. Dead units (NaN) are
    not among the `C`.

    Args:
        p: `(..., C)`; each row is a layer of its own.
        q: false discovery rate.

    Returns:
        `(..., C)` bool; False for dead units.

    Source: Benjamini & Hochberg 1995.

    Example:
        >>> benjamini_hochberg(torch.tensor([0.01, 0.04, 0.03, 0.9])).tolist()
        [True, False, False, False]
    """
    if p.ndim == 0 or not 0 < q < 1:
        raise InputError(f"p-values of shape {tuple(p.shape)} at a false discovery rate of {q}")
    if p.numel() == 0:
        return torch.zeros_like(p, dtype=torch.bool)
    rank = torch.arange(1, p.shape[-1] + 1, dtype=torch.float64, device=p.device)
    # NaN comes last, and passes nothing.
    ordered = p.double().sort(-1).values
    passes = ordered <= q * rank / p.isnan().logical_not().sum(-1, keepdim=True)
    last = ordered.where(passes, -torch.inf).amax(-1, keepdim=True)
    return p.double() <= last
