"""The similarities once more, written slowly and literally from their definitions: float64 and loops.

Nothing here shares a line with the package. `literal_*_fp32` are the per-unit loops that the literature uses,
in float32: what the package's speed and memory are measured against.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]


def _number(x: float) -> float:
    return -math.inf if math.isnan(x) else x


def top_images(Q: Array, k: int) -> list[list[int]]:
    """Per unit the k images with the highest activation, ties by the lower index."""
    n, units = Q.shape
    return [sorted(range(n), key=lambda i: (-_number(Q[i, c]), i))[:k] for c in range(units)]


def softmax_rows(a: float, P: Array) -> Array:
    s = np.zeros_like(P)
    for i in range(P.shape[0]):
        high = max(P[i])
        exps = [math.exp(a * (x - high)) for x in P[i]]
        for m in range(P.shape[1]):
            s[i, m] = exps[m] / math.fsum(exps)
    return s


def _minus_prior(E: Array, lam: float) -> Array:
    units, concepts = E.shape
    result = np.zeros_like(E)
    for m in range(concepts):
        high = max(E[:, m])
        log_prior = high + math.log(math.fsum(math.exp(e - high) for e in E[:, m])) - math.log(units)
        for c in range(units):
            result[c, m] = E[c, m] - lam * log_prior
    return result


def soft_wpmi(P: Array, Q: Array, top_k: int = 100, a: float = 10.0, lam: float = 1.0) -> Array:
    s = softmax_rows(a, P)
    top = top_images(Q, top_k)
    E = np.zeros((Q.shape[1], P.shape[1]))
    for c, images in enumerate(top):
        for m in range(P.shape[1]):
            for r, i in enumerate(images):
                p = 0.998 - r / len(images) * (0.998 - 0.97)
                E[c, m] += math.log(1 + p * (s[i, m] - 1) + 1e-7)
    return _minus_prior(E, lam)


def wpmi(P: Array, Q: Array, top_k: int = 28, a: float = 2.0, lam: float = 0.6) -> Array:
    s = softmax_rows(a, P)
    top = top_images(Q, top_k)
    E = np.zeros((Q.shape[1], P.shape[1]))
    for c, images in enumerate(top):
        for m in range(P.shape[1]):
            E[c, m] = math.fsum(math.log(s[i, m] + 1e-7) for i in images)
    return _minus_prior(E, lam)


def cos(P: Array, Q: Array) -> Array:
    result = np.zeros((Q.shape[1], P.shape[1]))
    for c in range(Q.shape[1]):
        for m in range(P.shape[1]):
            dot = math.fsum(p * q for p, q in zip(P[:, m], Q[:, c], strict=True))
            norm = math.sqrt(math.fsum(p * p for p in P[:, m])) * math.sqrt(math.fsum(q * q for q in Q[:, c]))
            result[c, m] = dot / norm if norm > 0 else 0.0
    return result


def cos_cubed(P: Array, Q: Array) -> Array:
    def cubed(column: Array) -> list[float]:
        mean = math.fsum(column) / len(column)
        return [(x - mean) ** 3 for x in column]

    result = np.zeros((Q.shape[1], P.shape[1]))
    for c in range(Q.shape[1]):
        q = cubed(Q[:, c])
        q_norm = max(math.sqrt(math.fsum(x * x for x in q)), 1e-3)
        for m in range(P.shape[1]):
            p = cubed(P[:, m])
            p_norm = max(math.sqrt(math.fsum(x * x for x in p)), 1e-3)
            result[c, m] = math.fsum(x * y for x, y in zip(p, q, strict=True)) / p_norm / q_norm
    return result


def rank_reorder(P: Array, Q: Array, top_fraction: float = 0.05) -> Array:
    n = max(1, int(Q.shape[0] * top_fraction))
    lists = top_images(Q, n)
    return rank_reorder_of_lists(P, lists, [[float(Q[i, c]) for i in own] for c, own in enumerate(lists)])


def rank_reorder_of_lists(P: Array, lists: Sequence[Sequence[int]], values: Sequence[list[float]]) -> Array:
    """`lists[c]` are the top images of unit c, `values[c]` its activations there, falling."""
    result = np.zeros((len(lists), P.shape[1]))
    for c, (images, q) in enumerate(zip(lists, values, strict=True)):
        n = len(images)
        rising = q[::-1]
        # Any value in any place: the expectation over all orders.
        chance = math.fsum(abs(other - own) ** 3 for other in rising for own in rising) / n**2
        for m in range(P.shape[1]):
            ranked = sorted(range(n), key=lambda j: (P[images[j], m], images[j]))
            moved = [0.0] * n
            for rank, j in enumerate(ranked):
                moved[j] = rising[rank]
            error = math.fsum(abs(moved[j] - q[j]) ** 3 for j in range(n)) / n
            ratio = error / chance if chance > 0 else 1.0
            mean = math.fsum(P[i, m] for i in images) / n
            result[c, m] = -ratio / max(mean, 1e-3) ** 0.5
    return result


def rank_reorder_by_chance(
    P: Array, values: Array, sets: NDArray[np.int64], orders: NDArray[np.int64]
) -> Array:
    """`values` `(n, C)`, `sets` `(B, G, n)`, `orders` `(B, L, n)`: unit k sees set k // L in order k % L."""
    n, units = values.shape
    best = np.zeros((len(sets), units))
    for b in range(len(sets)):
        lists = []
        for k in range(units):
            own, order = sets[b][k // len(orders[b])], orders[b][k % len(orders[b])]
            lists.append([int(own[order[j]]) for j in range(n)])
        scores = rank_reorder_of_lists(P, lists, [[float(x) for x in column] for column in values.T])
        for k in range(units):
            best[b, k] = max(scores[k])
    return best


def neuron_embedding(scores: Array, texts: Array, k: int = 5) -> Array:
    result = np.full((scores.shape[0], texts.shape[1]), np.nan)
    for c, row in enumerate(scores):
        best = sorted((m for m in range(len(row)) if not math.isnan(row[m])), key=lambda m: (-row[m], m))[:k]
        if best:
            weights = [math.exp(row[m] - row[best[0]]) for m in best]
            result[c] = 0
            for w, m in zip(weights, best, strict=True):
                result[c] += w / math.fsum(weights) * texts[m]
    return result


def cosine_distance(u: Array, v: Array) -> float:
    norm = math.sqrt(math.fsum(u * u)) * math.sqrt(math.fsum(v * v))
    return 1.0 - math.fsum(u * v) / norm


def spread(U: Array) -> float:
    rows = [u for u in U if np.isfinite(u).all() and np.any(u != 0)]
    pairs = [cosine_distance(rows[i], rows[j]) for i in range(len(rows)) for j in range(i)]
    return math.fsum(pairs) / len(pairs) if pairs else math.nan


def benjamini_hochberg(p: list[float], q: float) -> list[bool]:
    known = sorted(x for x in p if not math.isnan(x))
    cut = max((x for rank, x in enumerate(known, 1) if x <= q * rank / len(known)), default=-1.0)
    return [x <= cut for x in p]


# --- the literature's loops, float32
# -------------------------------------------------------------------------------


def literal_soft_wpmi_fp32(P: Tensor, Q: Tensor, units: int | None = None) -> Tensor:
    s = torch.softmax(10.0 * P, dim=1)
    top = torch.topk(Q, min(100, Q.shape[0]), dim=0).indices
    k = top.shape[0]
    belongs = (0.998 - torch.arange(k) / k * (0.998 - 0.97))[:, None]
    rows = []
    for c in range(units or Q.shape[1]):
        chosen = s.gather(0, top[:, c : c + 1].expand(-1, s.shape[1]))
        rows.append(torch.log(1 + belongs * (chosen - 1) + 1e-7).sum(0, keepdim=True))
    E = torch.cat(rows)
    return E - (torch.logsumexp(E, 0, keepdim=True) - math.log(E.shape[0]))


def literal_wpmi_fp32(P: Tensor, Q: Tensor, units: int | None = None) -> Tensor:
    s = torch.softmax(2.0 * P, dim=1)
    top = torch.topk(Q, min(28, Q.shape[0]), dim=0).indices
    rows = []
    for c in range(units or Q.shape[1]):
        chosen = s.gather(0, top[:, c : c + 1].expand(-1, s.shape[1]))
        rows.append(torch.log(chosen + 1e-7).sum(0, keepdim=True))
    E = torch.cat(rows)
    return E - 0.6 * (torch.logsumexp(E, 0, keepdim=True) - math.log(E.shape[0]))


def literal_rank_reorder_fp32(P: Tensor, Q: Tensor, units: int | None = None) -> Tensor:
    n = max(1, int(Q.shape[0] * 0.05))
    values, top = torch.topk(Q, n, dim=0)
    rows = []
    for c in range(units or Q.shape[1]):
        chosen = P.gather(0, top[:, c : c + 1].expand(-1, P.shape[1]))
        mean = chosen.mean(0, keepdim=True)
        ranks = torch.argsort(torch.argsort(chosen, dim=0), dim=0)
        target = values[:, c : c + 1]
        rising = target.flip(0)
        chance = ((rising - rising.T).abs() ** 3).mean()
        moved = rising.expand(-1, P.shape[1]).gather(0, ranks)
        error = ((moved - target).abs() ** 3).mean(0, keepdim=True) / chance
        rows.append(-error / mean.clamp_min(1e-3) ** 0.5)
    return torch.cat(rows)


def literal_cos_fp32(P: Tensor, Q: Tensor, units: int | None = None) -> Tensor:
    P = P / P.norm(dim=0, keepdim=True)
    Q = Q / Q.norm(dim=0, keepdim=True)
    return torch.stack([Q[:, c] @ P for c in range(units or Q.shape[1])])


def literal_cos_cubed_fp32(P: Tensor, Q: Tensor, units: int | None = None) -> Tensor:
    P = (P - P.mean(0, keepdim=True)) ** 3
    Q = (Q - Q.mean(0, keepdim=True)) ** 3
    P = P / P.norm(dim=0, keepdim=True).clamp_min(1e-3)
    Q = Q / Q.norm(dim=0, keepdim=True).clamp_min(1e-3)
    return torch.stack([Q[:, c] @ P for c in range(units or Q.shape[1])])
