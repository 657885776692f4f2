"""WPMI and SoftWPMI (CLIP-Dissect, sections 3.2 and A.1).

Both are a sum of logarithms over a unit's top images, computed as the logarithm of a long product. Its
factors are scaled to be 1 for an image that knows nothing, and the range of the softmax bounds them, so it is
known how many fit float32: with CLIP's cosines all of them, with a softmax that is a spike about a dozen.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from threading import Thread

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional._blocks import (
    Workspace,
    empty,
    grain,
    run_blocks,
    spans,
    width_for,
    worth_compiling,
)
from concept_monitor_cli.functional.similarity.activations import ConceptActivations, as_activations
from concept_monitor_cli.functional.topk import check_images, top_images

#: Inside every logarithm, as in the published code.
MIN_PROB = 1e-7

SOFT_WPMI_TOP_K = 100
SOFT_WPMI_A = 10.0
SOFT_WPMI_LAM = 1.0
#: Probability that the image of the first and (one past) the last rank belongs to the unit's example set.
P_START = 0.998
P_END = 0.97

WPMI_TOP_K = 28
WPMI_A = 2.0
WPMI_LAM = 0.6

# Products stay between exp(-82) and exp(82): float32 has all its digits from exp(-87) to exp(88).
_LOG_RANGE = 82.0
# Columns of the softmax that are made at a time: those of a thousand images stay in a core's own cache.
_COLUMNS = 64
# An offset of 0 (`min_prob=0` and certain membership) would have no logarithm at s = 0.
_SMALLEST_OFFSET = 1e-30


@dataclass(frozen=True)
class Evidence:
    """`log p(t_m | B_k)` of every unit (or random set of images) `k` and concept `m`.

    Attributes:
        values: `(C, M)`, the evidence minus `constant`.
        constant: what an image that knows nothing would give (every concept at `1 / M`). It is the same for
            all units and concepts. Kept apart because float32 has five digits left beside its hundreds.
    """

    values: Tensor
    constant: float

    def log_prior(self) -> Tensor:
        """`log p(t_m) = logsumexp_k(E[k, m]) - log C`, minus `constant`, `(M,)`: over all units, always."""
        units, m = self.values.shape
        prior = torch.empty(m, dtype=self.values.dtype, device=self.values.device)
        in_twos = math.log2(math.e)

        def add_up(concepts: slice) -> None:
            values = self.values[:, concepts]
            high = values.amax(0)
            # The difference first: it is exact where it is small, and of one unit it is 0.
            powers = values.sub(high).mul_(in_twos).exp2_()
            prior[concepts] = high.add_(powers.sum(0).log2_(), alpha=1 / in_twos)

        run_blocks(add_up, spans(m, max(16, 4 * grain(self.values.device) // units)), self.values.device)
        return prior.sub_(math.log(units))

    def scores(
        self,
        lam: float,
        log_prior: Tensor | None = None,
        out: Tensor | None = None,
        own: Tensor | None = None,
    ) -> Tensor:
        """`E - lam * log p(t)`, `(C, M)`.

        Args:
            lam: weight of the prior.
            log_prior: that of the layer, as `log_prior()` gives it; this evidence's own by default.
            out: where to write them; `values` itself, where the evidence is no longer needed.
            own: `(C,)` bool, only these units, beside all in the prior.
        """
        prior = self.log_prior() if log_prior is None else log_prior
        less = lam * prior - (1.0 - lam) * self.constant
        return torch.sub(self.values if own is None else self.values[own], less, out=out)

    def order(self, lam: float, own: Tensor | None = None) -> Tensor:
        """What sorts a unit's concepts as their scores do, and does not saturate, `(C, M)`.

        At `lam = 1` the score is `log C - log(1 + exp(-d))`, `d = E_k - logsumexp_{l != k} E_l`: no more than
        `log C`, and all concepts that one unit alone stands for come to that within the precision of any
        float. In a layer of ten units these are many, and rounding would choose the label. `d` rises with the
        score and tells them apart.

        Args:
            lam: weight of the prior.
            own: `(C,)` bool, only these units, beside all in the prior.
        """
        if lam != 1.0:
            return self.scores(lam, own=own)
        others = log_sum_of_others(self.values)
        order = torch.sub(self.values, others, out=others)
        return order if own is None else order[own]

    def among(self, live: Tensor) -> Evidence:
        """That of the live units alone; `live` is `(C,)` bool."""
        return Evidence(self.values[live.to(self.values.device)], self.constant)

    def scored(self, lam: float, live: Tensor, alive: Evidence) -> tuple[Tensor, Tensor]:
        """Scores with the prior of the live units, and what sorts them, `(C, M)` each.

        Args:
            lam: weight of the prior.
            live: `(C,)` bool, at least one. Rows of dead units mean nothing.
            alive: `among(live)`.
        """
        scores = self.scores(lam, log_prior=alive.log_prior())
        if lam != 1.0:
            return scores, scores
        order = scores.clone()
        order[live.to(order.device)] = alive.order(lam)
        return scores, order


def log_sum_of_others(evidence: Tensor) -> Tensor:
    """`logsumexp_{l != k} E[l, m]`, `(C, m)`; minus infinity for a single unit."""
    others = torch.empty_like(evidence)  # all steps are done in it: a wide layer has a hundred megabytes
    total = _log_sum(evidence, others)
    highest = evidence.argmax(0, keepdim=True)
    without = _log_sum(others.copy_(evidence).scatter_(0, highest, -torch.inf), others)
    # Taking exp(E[k]) out of the sum is exact to rounding unless k makes up most of it: at most one does.
    torch.sub(evidence, total, out=others).clamp_max_(math.log(0.5)).exp_().neg_().log1p_().add_(total)
    return others.scatter_(0, highest, without)


def _log_sum(evidence: Tensor, space: Tensor) -> Tensor:
    """`logsumexp_k E[k, m]`, `(1, m)`; `space` is of the same shape, and is overwritten."""
    high = evidence.amax(0, keepdim=True)
    start = torch.where(high.abs() == torch.inf, 0.0, high)
    return torch.sub(evidence, start, out=space).exp_().sum(0, keepdim=True).log_().add_(start)


@dataclass(frozen=True)
class _Factors:
    """`rest_r + ratio_r * s`, what rank `r` multiplies a unit's evidence by; 1 at `s = 1 / M`.

    Args:
        rest: `(K,)`.
        ratio: `(K,)`.
        smallest: what no `s` goes below.
        largest: what no `s` exceeds.
    """

    rest: list[float]
    ratio: list[float]
    smallest: float
    largest: float

    def groups(self) -> list[range]:
        """Consecutive ranks whose product cannot leave float32."""
        groups: list[range] = []
        start, low, high = 0, 0.0, 0.0
        for r, (rest, ratio) in enumerate(zip(self.rest, self.ratio, strict=True)):
            least, most = (math.log(rest + ratio * s) for s in (self.smallest, self.largest))
            if r > start and (low + min(0.0, least) < -_LOG_RANGE or high + max(0.0, most) > _LOG_RANGE):
                groups.append(range(start, r))
                start, low, high = r, 0.0, 0.0
            low, high = low + min(0.0, least), high + max(0.0, most)
        groups.append(range(start, len(self.rest)))
        return groups


class _Softmax:
    """Rows of `softmax(a * P)`, `s[i, m] = 2 ** (shift[i] + scale * P[i, m])`, those of some images.

    Args:
        activations: `P`.
        images: `(n,)`, ascending.
        a: temperature.
    """

    def __init__(self, activations: ConceptActivations, images: Tensor, a: float) -> None:
        self.of = activations.select(images)
        # In powers of two: `exp` is three times slower than `exp2` in some builds of torch.
        self.scale = a * math.log2(math.e)
        self.shift = activations.log_normaliser(a, images) * -math.log2(math.e)


def _evidence(
    activations: ConceptActivations, top: Tensor, a: float, slope: list[float], offset: list[float]
) -> Evidence:
    """`sum_r log(offset_r + slope_r * s[i_r, m])` for every column of `top` `(K, C)`.

    Computed as `sum_r log(offset_r + slope_r / M) + sum_r log(rest_r + ratio_r * s)`: a factor is near 1, and
    near 0 a logarithm has all its digits.
    """
    if top.ndim != 2 or 0 in top.shape:
        raise InputError(f"top images of shape {tuple(top.shape)}: need (K, C), at least one of each")
    device, m = activations.device, activations.n_concepts
    top = top.to(device).long()
    check_images([top], activations.n_images)
    # Only these rows are needed. To mark them is faster than to sort millions of ranks.
    wanted = torch.zeros(activations.n_images, dtype=torch.bool, device=device)
    wanted[top.flatten()] = True
    images, place = wanted.nonzero().view(-1), (wanted.cumsum(0) - 1)[top]
    offset = [max(b, _SMALLEST_OFFSET) for b in offset]
    ignorant = [b + w / m for w, b in zip(slope, offset, strict=True)]
    factors = _Factors(
        [b / known for b, known in zip(offset, ignorant, strict=True)],
        [w / known for w, known in zip(slope, ignorant, strict=True)],
        *activations.softmax_range(a, images),
    )
    compiled = worth_compiling(top.numel() * m, device)
    values = empty(top.shape[1], m, device=device)
    (_by_image if compiled else _by_rank)(_Softmax(activations, images, a), place, factors, values)
    return Evidence(values, sum(map(math.log, ignorant)))


def _by_image(softmax: _Softmax, place: Tensor, factors: _Factors, values: Tensor) -> None:
    """`values[k, m] = sum_r log(rest_r + ratio_r * s[i_r, m])`, compiled for a processor.

    Image by image: each multiplies the products of the units that it is a top image of. With more products
    than images (as of resamples), product by product.

    Args:
        softmax: `s`.
        place: `(K, C)`, the row of the softmax for every rank and unit.
        factors: by rank.
        values: `(C, M)`, written.
    """
    from concept_monitor_cli.functional._kernels import multiply_in, multiply_up

    units, m, device = place.shape[1], values.shape[1], values.device
    groups = factors.groups()
    n_images, n_slots = softmax.of.n_images, len(groups) * units
    by_product = n_slots > n_images and softmax.of.is_whole
    if by_product:
        images, ranks = _by_slot(place, groups)
        lengths = torch.tensor([len(part) for part in groups]).repeat_interleave(units)
        ends = lengths.cumsum(0).numpy()
    else:
        order = place.flatten().argsort(stable=True)
        ranks = (order // units).numpy()
        group = torch.tensor([number for number, part in enumerate(groups) for _ in part])
        slots = (group[ranks] * units + order % units).numpy()
        starts = torch.zeros(n_images + 1, dtype=torch.int64)
        starts[1:] = torch.bincount(place.flatten(), minlength=n_images).cumsum(0)
    rest, ratio = (np.array(each, np.float32).take(ranks) for each in (factors.rest, factors.ratio))
    # Wide enough that a matrix is read in long stretches, narrow enough that the products stay in the cache
    # and that a dozen threads are busy; whatever their number, so that they do not change a product of
    # embeddings.
    width = max(64, min(16 * grain(device) // n_slots, 2048, -(-m // 12)))
    every, space = slice(0, n_images), Workspace(device)

    def multiply(concepts: slice) -> None:
        product = space("product", n_slots, concepts.stop - concepts.start).fill_(1.0)
        for some, source, first, rows in softmax.of.stretches(concepts, every, space):
            given = (
                product.numpy(),
                source.numpy(),
                first,
                rows.numpy(),
                softmax.shift[some].numpy(),
                np.float32(softmax.scale),
            )
            if by_product:
                multiply_up(*given, ends, images, rest, ratio, space("softmax", n_images, _COLUMNS).numpy())
            else:
                part = starts[some.start : some.stop + 1].numpy()
                multiply_in(*given, part, slots, rest, ratio, space("softmax", product.shape[1]).numpy())
        whole, *others = product.view(len(groups), units, -1)
        total = torch.log(whole, out=values[:, concepts])
        for other in others:  # `sum` would add in an order that depends on the width
            total.add_(other.log_())

    run_blocks(multiply, spans(m, width), device)


def compile_products(terms: int, device: torch.device) -> None:
    """Compile the loops for so many terms in a thread, beside what comes first: a network's forward pass.

    Nothing where so few are not compiled for, and on an accelerator. An error shows where the loops are used.
    """
    if worth_compiling(terms, device):
        Thread(target=_compile_products, name="cmon-compile", daemon=True).start()


def _compile_products() -> None:
    with suppress(Exception):
        from concept_monitor_cli.functional import _kernels

        _kernels.compile_products()


def _by_slot(place: Tensor, groups: list[range]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The factors of every product, one product after the other, in the order of their images.

    Args:
        place: `(K, C)`, as for `_by_image`.
        groups: of the ranks.

    Returns:
        image and rank of every factor, `(K * C,)` each: all products of the first group, of the second, ...
    """
    k = len(place)
    # One number for both, which sorts as the image does, and for an image at several ranks as the ranks do.
    keys = (place.T * k + torch.arange(k)).numpy()
    parts = [np.sort(keys[:, part.start : part.stop], axis=1).ravel() for part in groups]
    ordered = np.concatenate(parts)
    images = ordered // k
    return images, ordered - images * k


def _by_rank(softmax: _Softmax, place: Tensor, factors: _Factors, values: Tensor) -> None:
    """The same in operations of torch: on an accelerator, and where there is little to do."""
    n, units, m, device = softmax.of.n_images, place.shape[1], values.shape[1], values.device
    groups = factors.groups()
    rest = torch.tensor(factors.rest, device=device)
    width = min(m, width_for(n, device))
    together = list(spans(units, max(1, grain(device) // width)))
    columns = [place[:, part].contiguous() for part in together]
    space = Workspace(device)

    def multiply(concepts: slice) -> None:
        wide = concepts.stop - concepts.start
        block = softmax.of.tile(concepts, slice(0, n), space("block", n, wide))
        torch.add(softmax.shift[:, None], block, alpha=softmax.scale, out=block).exp2_()
        for part, where in zip(together, columns, strict=True):
            product, rows = (space(name, where.shape[1], wide) for name in ("product", "rows"))
            total = torch.zeros_like(product)
            for group in groups:
                product.fill_(1.0)
                for r in group:
                    torch.index_select(block, 0, where[r], out=rows)
                    product.mul_(torch.add(rest[r], rows, alpha=factors.ratio[r], out=rows))
                total.add_(product.log_())
            values[part, concepts] = total

    run_blocks(multiply, spans(m, width), device)


@torch.no_grad()
def soft_wpmi_evidence(
    P: Tensor | ConceptActivations,
    top_indices: Tensor,
    *,
    a: float = SOFT_WPMI_A,
    p_start: float = P_START,
    p_end: float = P_END,
    min_prob: float = MIN_PROB,
) -> Evidence:
    """`E[k, m] = sum_r log(1 + p_r (s[i_r, m] - 1) + min_prob)`, without the prior.

    Args:
        P: `(N, M)` or `ConceptActivations`.
        top_indices: `(K, C)`, the image of every rank for every unit (or random sets: see `calibration`).
        a: temperature of the softmax over concepts.
        p_start: `p_0`.
        p_end: `p_K`, one past the last rank: `p_r = p_start - r / K * (p_start - p_end)`.
        min_prob: added inside the logarithm.
    """
    k = top_indices.shape[0]
    belongs = [p_start - r / k * (p_start - p_end) for r in range(k)]
    return _evidence(as_activations(P), top_indices, a, belongs, [1.0 - p + min_prob for p in belongs])


@torch.no_grad()
def wpmi_evidence(
    P: Tensor | ConceptActivations, top_indices: Tensor, *, a: float = WPMI_A, min_prob: float = MIN_PROB
) -> Evidence:
    """`E[k, m] = sum_{i in B_k} log(s[i, m] + min_prob)`, without the prior.

    Arguments as those of `soft_wpmi_evidence`.
    """
    k = top_indices.shape[0]
    return _evidence(as_activations(P), top_indices, a, [1.0] * k, [min_prob] * k)


@torch.no_grad()
def soft_wpmi(
    P: Tensor | ConceptActivations,
    Q: Tensor,
    *,
    top_k: int = SOFT_WPMI_TOP_K,
    a: float = SOFT_WPMI_A,
    lam: float = SOFT_WPMI_LAM,
    p_start: float = P_START,
    p_end: float = P_END,
    min_prob: float = MIN_PROB,
) -> Tensor:
    """SoftWPMI: pointwise mutual information of concept and top images, with soft membership.

        s        = softmax(a * P, dim=concepts)
        E[k, m]  = sum_{r=0}^{K-1} log(1 + p_r (s[i_r, m] - 1) + min_prob)
        sim      = E - lam * (logsumexp_k(E) - log C)

    with `i_r` the image of rank r for unit k and `p_r = p_start - r / K * (p_start - p_end)`. The prior is
    taken over all `C` units of the layer (dead ones too, as in the published code), the softmax over all `M`
    concepts.

    Args:
        P: concept activations `(N, M)`, or `ConceptActivations` of any size.
        Q: pooled activations of the layer `(N, C)`.
        top_k: `K`; `N` where there are fewer images.
        a: temperature.
        lam: weight of the prior.
        p_start: probability that the image of rank 0 belongs to the unit's examples.
        p_end: the same one past the last rank.
        min_prob: added inside the logarithm.

    Returns:
        `(C, M)` float32, higher is better, finite where `abs(a * P)` is below a million. Rows of dead units
        mean nothing (`dead_units`).

    Source: CLIP-Dissect, eq. 14 and A.1, with the constants of the published code.

    Example:
        >>> P = torch.tensor([[0.30, 0.10], [0.28, 0.12], [0.10, 0.30], [0.12, 0.31]])
        >>> Q = torch.tensor([[5.0, 0.0], [4.0, 0.1], [0.0, 6.0], [0.1, 7.0]])
        >>> soft_wpmi(P, Q, top_k=2).argmax(dim=1).tolist()
        [0, 1]
    """
    activations = as_activations(P, Q.shape[0])
    indices, _ = top_images(Q, top_k)
    evidence = soft_wpmi_evidence(activations, indices, a=a, p_start=p_start, p_end=p_end, min_prob=min_prob)
    return evidence.scores(lam, out=evidence.values)


@torch.no_grad()
def wpmi(
    P: Tensor | ConceptActivations,
    Q: Tensor,
    *,
    top_k: int = WPMI_TOP_K,
    a: float = WPMI_A,
    lam: float = WPMI_LAM,
    min_prob: float = MIN_PROB,
) -> Tensor:
    """WPMI: weighted pointwise mutual information of concept and the set `B_k` of top images.

        s        = softmax(a * P, dim=concepts)
        E[k, m]  = sum_{i in B_k} log(s[i, m] + min_prob)
        sim      = E - lam * (logsumexp_k(E) - log C)

    Args:
        P: concept activations `(N, M)`, or `ConceptActivations` of any size.
        Q: pooled activations of the layer `(N, C)`.
        top_k: size of `B_k`; `N` where there are fewer images.
        a: temperature.
        lam: weight of the prior.
        min_prob: added inside the logarithm.

    Returns:
        `(C, M)` float32, higher is better, finite where `abs(a * P)` is below a million. Rows of dead units
        mean nothing (`dead_units`).

    Source: CLIP-Dissect, eq. 8 and A.1.

    Example:
        >>> P = torch.tensor([[0.30, 0.10], [0.28, 0.12], [0.10, 0.30], [0.12, 0.31]])
        >>> Q = torch.tensor([[5.0, 0.0], [4.0, 0.1], [0.0, 6.0], [0.1, 7.0]])
        >>> wpmi(P, Q, top_k=2).argmax(dim=1).tolist()
        [0, 1]
    """
    activations = as_activations(P, Q.shape[0])
    indices, _ = top_images(Q, top_k)
    evidence = wpmi_evidence(activations, indices, a=a, min_prob=min_prob)
    return evidence.scores(lam, out=evidence.values)
