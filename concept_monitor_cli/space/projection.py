"""From the D dimensions of the text encoder to the two of a picture.

One fit for all epochs, layers and anchors together, so that positions can be compared between epochs
(Concept-Monitor, 3.1).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.embedding import interpolated, nearest
from concept_monitor_cli.progress import SILENT, Progress

Points = NDArray[np.float32]

# UMAP's neighbour graph needs more points than this to mean anything; its spectral start needs D + 2.
_FEWEST_FOR_UMAP = 10
#: UMAP is fitted to no more points than these: its time grows faster than their number.
MOST_FITTED = 20_000
#: Of more points UMAP is fitted to so many, drawn by the seed; the others are placed among them.
SAMPLED = 3_000
# Points after which progress is told.
_TOLD = 10_000


def _umap(points: Points, *, seed: int, neighbors: int, min_dist: float, components: int) -> Points:
    """UMAP among neighbours found here: its own search compiles for seconds, or goes pair by pair."""
    import umap

    count = min(neighbors, len(points) - 1)
    indices, distances = nearest(torch.from_numpy(points), count)
    with warnings.catch_warnings():
        # UMAP says that a fixed seed means one thread. That is what we want: the same picture every time.
        warnings.filterwarnings("ignore", message="n_jobs value .* overridden")
        # Nor are further points placed by it.
        warnings.filterwarnings("ignore", message="precomputed_knn.* is not an NNDescent object")
        # Many units share one concept, so the graph falls into pieces; UMAP then starts at random.
        warnings.filterwarnings("ignore", message=".*not fully connected.*")
        warnings.filterwarnings("ignore", message=".*Spectral initialisation failed.*")
        model = umap.UMAP(
            n_components=components,
            n_neighbors=count,
            min_dist=min_dist,
            metric="cosine",
            precomputed_knn=(indices.int().numpy(), distances.numpy()),
            random_state=seed,
        )
        return np.asarray(model.fit_transform(points), dtype=np.float32)


def _pca(points: Points, *, seed: int, neighbors: int, min_dist: float, components: int = 2) -> Points:
    centred = points.astype(np.float64) - points.mean(axis=0, dtype=np.float64)
    # The right singular vectors of a D x D matrix: exact, and independent of how many points there are.
    values, vectors = np.linalg.eigh(centred.T @ centred)
    axes = vectors[:, np.argsort(values)[::-1][:components]]
    # An eigenvector's sign is arbitrary: make its largest entry positive, so that a rerun agrees.
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    flat = np.zeros((len(points), components), dtype=np.float32)
    flat[:, : axes.shape[1]] = centred @ axes
    return flat


PROJECTIONS: dict[str, Callable[..., Points]] = {"umap": _umap, "pca": _pca}


def project(
    points: Points,
    *,
    method: str = "umap",
    seed: int = 0,
    neighbors: int = 15,
    min_dist: float = 0.1,
    keep: int = 0,
    components: int = 2,
    progress: Progress = SILENT,
    advance: Callable[[int], object] = lambda n: None,
) -> Points:
    """Coordinates in the plane.

    UMAP is fitted to all points, or to `SAMPLED` of more than `MOST_FITTED`; the others are then placed
    between the nearest of those (`functional.embedding.interpolated`). Both depend on the seed and the points
    alone.

    Args:
        points: `n x D`, finite.
        method: `umap` (cosine distance) or `pca`.
        seed: of UMAP; the same seed gives the same picture.
        neighbors: UMAP's `n_neighbors`.
        min_dist: UMAP's `min_dist`.
        keep: the last so many points are among those that UMAP is fitted to.
        components: axes, 2 for the plane.
        progress: told when there are too few points for UMAP, or too many.
        advance: told how many points have been placed.

    Returns:
        `n x components`, float32.

    Raises:
        InputError: an unknown method.
    """
    if method not in PROJECTIONS:
        raise InputError(
            f"there is no projection {method!r}",
            where="--method",
            hint=f"choose from {', '.join(PROJECTIONS)}",
        )
    if method == "umap" and len(points) < _FEWEST_FOR_UMAP:
        progress.notice(f"only {len(points)} points: too few for UMAP, so the picture is a PCA")
        method = "pca"
    fit = PROJECTIONS[method]
    how: dict[str, Any] = {
        "seed": seed,
        "neighbors": neighbors,
        "min_dist": min_dist,
        "components": components,
    }
    if method != "umap" or len(points) <= MOST_FITTED:
        places = fit(points, **how)
        advance(len(points))
        return places
    progress.notice(
        f"{len(points):,} points: UMAP is fitted to {SAMPLED:,} of them, drawn by --seed; each of the others "
        f"lies between the {neighbors} of those that are nearest to it"
    )
    chosen = _sample(len(points), keep, seed)
    places = np.empty((len(points), components), dtype=np.float32)
    places[chosen] = fit(points[chosen], **how)
    advance(len(chosen))
    others = np.setdiff1d(np.arange(len(points)), chosen, assume_unique=True)
    known = torch.from_numpy(points[chosen]), torch.from_numpy(places[chosen])
    for part in np.array_split(others, max(1, len(others) // _TOLD)):
        places[part] = interpolated(torch.from_numpy(points[part]), *known, neighbors).numpy()
        advance(len(part))
    return places


def _sample(count: int, keep: int, seed: int) -> NDArray[np.int64]:
    """`SAMPLED` of `count` numbers in ascending order, the last `keep` among them."""
    kept = np.arange(count - keep, count)
    drawn = np.random.default_rng(seed).choice(count - keep, max(0, SAMPLED - keep), replace=False)
    return np.concatenate([np.sort(drawn), kept])
