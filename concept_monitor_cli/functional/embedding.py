"""The space of concepts in which units move: eq. 1 of Concept-Monitor, spread and anchors."""

from __future__ import annotations

import torch
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional._blocks import run_blocks, spans
from concept_monitor_cli.functional.topk import top_rows

#: Concepts per unit (Concept-Monitor, appendix A).
TOP_CONCEPTS = 5
# Points placed at a time: a block of cosines stays below 8 MB beside thousands of known points.
_PLACED = 256
# Units of which averages or cosines are taken at a time.
_AVERAGED = 4096
#: Squared distance of unit vectors that differ by the rounding of float32 alone.
SAME_DIRECTION = 1e-12


@torch.no_grad()
def neuron_embedding_from_top(top_scores: Tensor, top_indices: Tensor, text_embeddings: Tensor) -> Tensor:
    """`neuron_embedding` from the best concepts of every unit, as a table of concepts holds them.

    Args:
        top_scores: `(C, k)`, the scores of the best concepts, higher is better.
        top_indices: `(C, k)`, which concepts they are; ignored in rows whose scores are not numbers.
        text_embeddings: `(M, D)`, normalised rows.

    Returns:
        `(C, D)` float32; a row of NaN for a unit without finite scores (a dead unit).
    """
    if top_scores.shape != top_indices.shape or top_scores.ndim != 2 or text_embeddings.ndim != 2:
        raise InputError(
            f"scores {tuple(top_scores.shape)}, indices {tuple(top_indices.shape)} and text embeddings "
            f"{tuple(text_embeddings.shape)}: need (C, k) twice and (M, D)"
        )
    scores = top_scores.float()
    known = ~scores.isnan()
    alive = known.any(dim=1)
    weights = torch.softmax(torch.where(known, scores, -torch.inf), dim=1)  # eq. 1: lambda
    weights = torch.where(known, weights, torch.zeros_like(weights))
    indices = torch.where(known, top_indices, torch.zeros_like(top_indices))
    texts = text_embeddings.float()
    embedding = torch.empty(len(scores), texts.shape[1], device=texts.device)
    # In blocks: the concepts of all units side by side would take k times the result.
    for part in spans(len(scores), _AVERAGED):
        embedding[part] = torch.einsum("ck,ckd->cd", weights[part], texts[indices[part]])
    embedding[~alive] = torch.nan
    return embedding


@torch.no_grad()
def neuron_embedding(scores: Tensor, text_embeddings: Tensor, k: int = TOP_CONCEPTS) -> Tensor:
    """Where a unit lies among the concepts: the average of its best concepts' text embeddings.

        u_n = sum_{i=1}^k lambda_i f(w_i),   lambda = softmax(s_1 .. s_k)

    over the `k` concepts with the highest scores `s` (minus the paper's distances), ties to the lower index.
    The result is not normalised: it is the paper's eq. 1 as it stands.

    Args:
        scores: `(C, M)`, higher is better; NaN means no score.
        text_embeddings: `(M, D)`, normalised rows.
        k: how many concepts; `M` where there are fewer.

    Returns:
        `(C, D)` float32; a row of NaN for a unit without any score (a dead unit).

    Source: Concept-Monitor, eq. 1 and appendix A.

    Example:
        >>> u = neuron_embedding(torch.tensor([[3.0, 3.0, -50.0]]), torch.eye(3), k=2)
        >>> u.tolist()
        [[0.5, 0.5, 0.0]]
    """
    if scores.ndim != 2 or text_embeddings.ndim != 2 or scores.shape[1] != text_embeddings.shape[0]:
        raise InputError(
            f"scores of shape {tuple(scores.shape)} and text embeddings of shape "
            f"{tuple(text_embeddings.shape)}: need (C, M) and (M, D)"
        )
    indices, values = top_rows(scores, k)
    return neuron_embedding_from_top(values, indices, text_embeddings)


def directions(vectors: Tensor) -> Tensor:
    """Rows divided by their norms, `(C, D)` float64 (float32 where the device has no more).

    Rows of NaN and of zeros are NaN.

    Example:
        >>> directions(torch.tensor([[3.0, 4.0]])).tolist()
        [[0.6, 0.8]]
    """
    wide = torch.float32 if vectors.device.type == "mps" else torch.float64
    vectors = vectors.to(wide)
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return vectors / norms


@torch.no_grad()
def spread(U: Tensor) -> float:
    """Mean cosine distance over all pairs of units: how far a layer has spread out in concept space.

        1 - (|sum_i u_i|^2 - n) / (n (n - 1)),   u_i the rows divided by their norms

    which is the mean of `1 - u_i . u_j` over all `i < j` without visiting the pairs.

    Args:
        U: `(C, D)`, e.g. from `neuron_embedding`. Rows of NaN (dead units) and of zeros are left out.

    Returns:
        between 0 (all in one direction) and 2; NaN with fewer than two rows.

    Example:
        >>> spread(torch.eye(3))
        1.0
    """
    return float(group_spreads(directions(U), torch.ones(1, len(U), dtype=torch.bool, device=U.device))[0])


@torch.no_grad()
def group_spreads(directions: Tensor, members: Tensor) -> Tensor:
    """`spread` of several groups of the same units, each visited once whatever the number of groups.

    Args:
        directions: `(C, D)`, rows divided by their norms (`directions`); rows of NaN are left out.
        members: `(G, C)` bool, which units each group has; groups may share units.

    Returns:
        `(G,)` in the precision of `directions`; NaN for a group of fewer than two units.
    """
    known = directions.isfinite().all(dim=1)
    if not bool(known.all()):
        directions, members = directions[known], members[:, known]
    shares = members.to(directions.dtype)
    n = shares.sum(1)
    total = (shares @ directions).square().sum(1) - shares @ directions.square().sum(1)
    found = (1.0 - total / (n * (n - 1))).clamp(0.0, 2.0)
    return torch.where(n < 2, torch.nan, found)


@torch.no_grad()
def nearest_anchor(U: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """The anchor nearest to every unit, by cosine distance.

    Args:
        U: `(C, D)` unit embeddings.
        anchors: `(A, D)` text embeddings of the anchor words.

    Returns:
        index `(C,)` int64, ties to the lower one and -1 for a row of NaN or of zeros; distance `(C,)`
        float32, `1 - cosine`, NaN there.

    Raises:
        InputError: there are no anchors, or they come from another encoder.

    Example:
        >>> index, distance = nearest_anchor(torch.tensor([[2.0, 0.1]]), torch.eye(2))
        >>> index.tolist(), round(distance.item(), 4)
        ([0], 0.0012)
    """
    if anchors.ndim != 2 or anchors.shape[0] == 0:
        raise InputError("no anchors", hint="name at least one word")
    if U.ndim != 2 or U.shape[1] != anchors.shape[1]:
        raise InputError(f"units of shape {tuple(U.shape)} and anchors of shape {tuple(anchors.shape)}")
    marks = directions(anchors).T
    index = torch.full((len(U),), -1, dtype=torch.int64, device=U.device)
    distance = torch.full((len(U),), torch.nan, device=U.device)
    for part in spans(len(U), _AVERAGED):
        cosine = directions(U[part]) @ marks
        alive = cosine.isfinite().any(dim=1)
        order, best = top_rows(cosine, 1)
        index[part] = torch.where(alive, order[:, 0], -1)
        distance[part] = torch.where(alive, (1.0 - best[:, 0]).clamp_min(0.0), torch.nan).float()
    return index, distance


@torch.no_grad()
def interpolated(points: Tensor, known: Tensor, places: Tensor, k: int) -> Tensor:
    """Places for further points in a map of known ones: Shepard's interpolation among the nearest.

        y(u) = sum_j w_j y_j / sum_j w_j,   w_j = 1 / (1 - cos(u, v_j))

    over the `k` known points `v_j` nearest to `u` by angle. `1 - cos` is half the squared distance of the two
    directions, so the weights are inverse squared distances. A point in the direction of known ones lies
    exactly where these lie, at their mean.

    A block of points is worked on by one thread, so that the outcome does not depend on their number.

    Args:
        points: `(n, D)`, finite, no row of zeros.
        known: `(m, D)`, likewise.
        places: `(m, 2)`, where the known points lie.
        k: of how many neighbours; `m` where there are fewer.

    Returns:
        `(n, 2)` float32.

    Source: Shepard, "A two-dimensional interpolation function for irregularly-spaced data", 1968.

    Example:
        >>> known, places = torch.eye(2), torch.tensor([[0.0, 0.0], [4.0, 0.0]])
        >>> interpolated(torch.tensor([[1.0, 1.0], [0.0, 3.0]]), known, places, 2).tolist()
        [[2.0, 0.0], [4.0, 0.0]]
    """
    if points.ndim != 2 or known.ndim != 2 or points.shape[1] != known.shape[1] or not len(known):
        raise InputError(f"points {tuple(points.shape)} and known ones {tuple(known.shape)}: need the same D")
    if len(places) != len(known):
        raise InputError(f"{len(known)} known points have {len(places)} places")
    among = torch.nn.functional.normalize(known.float(), dim=1)
    found = torch.empty(len(points), places.shape[1], device=points.device)

    def place(part: slice) -> None:
        own = torch.nn.functional.normalize(points[part].float(), dim=1)
        near = (own @ among.T).topk(min(k, len(among)), dim=1).indices
        # By the difference: 1 - cos has no digits left where it is small.
        distance = (own[:, None] - among[near]).square().sum(2).double()
        equal = distance < SAME_DIRECTION
        weights = torch.where(equal.any(1, keepdim=True), equal.double(), 1 / distance)
        weights /= weights.sum(1, keepdim=True)
        found[part] = torch.einsum("nk,nkd->nd", weights, places[near].double()).float()

    run_blocks(place, spans(len(points), _PLACED), points.device)
    return found


@torch.no_grad()
def nearest(points: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The nearest of some points to each of them by angle, itself first; of equally near ones, by the last
    digits of their cosines, any.

    A block of points is worked on by one thread, so that the outcome does not depend on their number.

    Args:
        points: `(n, D)`, finite, no row of zeros.
        k: how many, itself among them; `n` where there are fewer.

    Returns:
        indices `(n, k)` int64, and distances `1 - cos`, `(n, k)` float32, ascending; 0 in the same direction.

    Example:
        >>> indices, distances = nearest(torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 1.0]]), 2)
        >>> indices.tolist(), distances.tolist()
        ([[0, 1], [1, 2], [2, 1]], [[0.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    """
    if points.ndim != 2 or k < 1:
        raise InputError(f"the {k} nearest of points {tuple(points.shape)}: need (n, D), and one or more")
    n = len(points)
    rows = torch.nn.functional.normalize(points.float(), dim=1)
    indices = torch.empty(n, min(k, n), dtype=torch.int64, device=points.device)
    distances = torch.empty(n, min(k, n), device=points.device)

    def look(part: slice) -> None:
        own = torch.arange(part.start, part.stop, device=points.device)
        cosines = rows[part] @ rows.T
        near = top_rows(cosines.scatter_(1, own[:, None], torch.inf), k)[0].sort(1).values
        # By the difference: 1 - cos has no digits left where it is small.
        squared = (rows[part, None] - rows[near]).square().sum(2)
        distance = torch.where(squared < SAME_DIRECTION, 0.0, squared / 2)
        order = distance.masked_fill(near == own[:, None], -1.0).sort(dim=1, stable=True).indices
        indices[part], distances[part] = near.gather(1, order), distance.gather(1, order)

    run_blocks(look, spans(n, _PLACED), points.device)
    return indices, distances
