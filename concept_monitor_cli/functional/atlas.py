"""The activation atlas: what a layer says of many places in many images, laid out in the plane.

Carter, Armstrong, Schubert, Johnson, Olah 2019, "Exploring Neural Networks with Activation Atlases",
Distill. Samples are activation vectors of single places; a layout puts similar ones near each other; a grid
of cells over it has a mean each, of which a picture is made. Symbols: `N` samples, `C` units, `K` classes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

#: Samples that a cell has on average, and the most rows of cells.
PER_CELL, MOST_CELLS = 20, 20
#: A cell with fewer samples has no mean to speak of.
FEWEST = 5
#: Cells of an atlas of classes, samples that make one, and how many samples at most are taken for a class.
CLASS_CELLS, CLASS_FEWEST, CLASS_SAMPLES = 8, 4, 2_000
#: Neighbours by which epochs are told apart in a layout.
NEIGHBOURS = 15
#: Draws of samples dealt out to cells anew.
DRAWS = 20

_EDGES = (1.0, 99.0)
_WIDER = 0.1
_RIDGE = 0.01
# The cosine from which on it is weighed with its power in what a cell's picture climbs (lucid `dot_cossim`).
_LEAST, _POWER = 0.1, 4


def inner_place(digest: str, seed: int, height: int, width: int) -> tuple[int, int]:
    """The place of a map at which an image is looked at: the same at all epochs, never at the edge.

    Maps of fewer than three rows or columns have no inner ones, and all of theirs are drawn from.

    Args:
        digest: of the image.
        seed: of the choice.
        height, width: of the map.

    Returns:
        Row and column, from 0.
    """
    drawn = hashlib.sha256(f"{digest} {seed}".encode()).digest()

    def inside(number: int, length: int) -> int:
        edge = 1 if length > 2 else 0
        return edge + number % (length - 2 * edge)

    return (
        inside(int.from_bytes(drawn[:8], "big"), height),
        inside(int.from_bytes(drawn[8:16], "big"), width),
    )


# -- the layout ----------------------------------------------------------------------------------------------


def standardised(samples: Tensor) -> Tensor:
    """Units with mean 0 and standard deviation 1 over the samples, `(N, C)` float64; constant ones are 0."""
    rows = samples.double()
    centred = rows - rows.mean(0)
    spread = centred.square().mean(0).sqrt()
    # Rounding leaves a little spread in a unit of one value.
    live = spread > 1e-9 * rows.abs().amax(0).clamp_min(torch.finfo(torch.float64).tiny)
    return torch.where(live, centred / torch.where(live, spread, 1.0), 0.0)


def unit_square(points: Tensor) -> Tensor:
    """Points of the plane in [0, 1]: clipped to their percentiles 1 and 99 with a tenth of the span around.

    Args:
        points: `(N, 2)`.

    Returns:
        `(N, 2)` float64; an axis of one value is .5.
    """
    edges = torch.tensor(_EDGES, dtype=torch.float64, device=points.device) / 100
    low, high = torch.quantile(points.double(), edges, dim=0)
    around = _WIDER * (high - low)
    low, high = low - around, high + around
    span = high - low
    inside = (torch.minimum(torch.maximum(points.double(), low), high) - low) / torch.where(span > 0, span, 1)
    return torch.where(span > 0, inside, 0.5)


def grid_side(samples: int, most: int = MOST_CELLS) -> int:
    """Rows and columns of cells for so many samples: `min(most, round(sqrt(N / 20)))`, at least 1."""
    return max(1, min(most, round(math.sqrt(samples / PER_CELL))))


def joint_side(places: Sequence[Tensor]) -> int:
    """Rows and columns of cells for one layout of several epochs.

    Epochs that lie on islands of their own fill a part of the map each, so that cells for the samples of one
    epoch would be coarse: the most rows, up to those for all samples together, at which the cells of every
    epoch that have enough samples have 20 on average; never fewer than for the samples of one epoch.

    Args:
        places: of each epoch, `(n, 2)` in [0, 1].
    """
    places = [own.cpu() for own in places]  # cells of few sides are counted, one after the other
    fewest = grid_side(max(map(len, places)))
    for side in range(grid_side(sum(map(len, places))), fewest, -1):
        counts = [filled(cells_of(own, side))[1] for own in places]
        if all(len(own) and float(own.double().mean()) >= PER_CELL for own in counts):
            return side
    return fewest


def cells_of(places: Tensor, side: int) -> Tensor:
    """The cell of each place in [0, 1], `row * side + column`, `(N,)` int64; `y` counts rows from below.

    Args:
        places: `(N, 2)`: x, y.
        side: rows and columns.
    """
    whole = (places * side).floor().long().clamp(0, side - 1)
    return whole[:, 1] * side + whole[:, 0]


def epoch_purity(places: Tensor, epochs: Tensor, neighbours: int = NEIGHBOURS) -> Tensor:
    """Of the nearest samples of each epoch's samples, the share that is of the same epoch, `(E,)` float64.

    Where early epochs lie on islands of their own it is near 1; where epochs lie among each other, it is the
    share that an epoch has of all other samples.

    Args:
        places: `(N, 2)`.
        epochs: `(N,)` int64 in 0..E-1.
        neighbours: how many, at most N - 1; ties by number.
    """
    most = min(neighbours, len(places) - 1)
    device = places.device
    found = torch.zeros(int(epochs.max()) + 1, dtype=torch.float64, device=device)
    for first in range(0, len(places), 1024):
        rows = torch.arange(first, min(first + 1024, len(places)), device=device)
        distance = torch.cdist(places[rows].double(), places.double())
        distance[rows - first, rows] = torch.inf
        near = torch.sort(distance, dim=1, stable=True).indices[:, :most]
        same = (epochs[near] == epochs[rows][:, None]).double().mean(1)
        found.index_add_(0, epochs[rows], same)
    return found / torch.bincount(epochs).clamp_min(1)


# -- cells ---------------------------------------------------------------------------------------------------


def whitening(samples: Tensor) -> Tensor:
    """`S = (H'H / N + .01 tr(H'H) / (N C) I)^-1`, `(C, C)` float64.

    Without the ridge dead units make it singular; an epoch of zeros has the identity.
    """
    rows = samples.double()
    count, units = rows.shape
    moment = rows.T @ rows / count
    ridge = _RIDGE * float(moment.trace()) / units
    eye = torch.eye(units, dtype=torch.float64, device=rows.device)
    return torch.linalg.inv(moment + ridge * eye) if ridge > 0 else eye


def sums_by_cell(values: Tensor, cells: Tensor, count: int) -> Tensor:
    """The sum of the rows of each cell, `(count, ...)` float64."""
    total = torch.zeros(count, *values.shape[1:], dtype=torch.float64, device=values.device)
    return total.index_add_(0, cells, values.double())


def cell_means(values: Tensor, cells: Tensor, wanted: Tensor) -> Tensor:
    """The mean row of some cells, `(len(wanted), ...)` float64.

    Args:
        values: `(N, ...)`.
        cells: `(N,)`, of `cells_of`.
        wanted: numbers of cells that have samples.
    """
    most = int(torch.cat([cells, wanted]).max()) + 1
    counts = torch.bincount(cells, minlength=most).double()[wanted]
    sums = sums_by_cell(values, cells, most)[wanted]
    return sums / counts.view(-1, *([1] * (values.ndim - 1)))


def filled(cells: Tensor, fewest: int = FEWEST) -> tuple[Tensor, Tensor]:
    """The cells with so many samples or more, in order, and how many they have."""
    numbers, counts = torch.unique(cells, return_counts=True)
    enough = counts >= fewest
    return numbers[enough], counts[enough]


def coherence(samples: Tensor, cells: Tensor) -> float:
    """How alike the samples of a cell are: the mean cosine of each to the mean of the others in its cell.

    Args:
        samples: `(N, C)`, standardised: what all samples share says nothing of a cell.
        cells: `(N,)`; samples alone in their cell are left out.

    Returns:
        About 0 where samples are dealt out to cells by chance; more where cells are those of a layout, even
        of noise (`loosened`). NaN where none has company.
    """
    most = int(cells.max()) + 1
    counts = torch.bincount(cells, minlength=most)
    others = sums_by_cell(samples, cells, most)[cells] - samples.double()
    company = counts[cells] > 1
    if not bool(company.any()):
        return float("nan")
    return float(F.cosine_similarity(samples.double()[company], others[company], dim=1).mean())


def class_share(attributions: Tensor, cells: Tensor, wanted: Tensor) -> Tensor:
    """Of the samples of some cells, the share that says most for the class that the cell says most for.

    Args:
        attributions: `(N, K)`.
        cells: `(N,)`.
        wanted: numbers of cells.

    Returns:
        `(len(wanted),)` float64.
    """
    own = attributions.argmax(1)
    most = int(torch.cat([cells, wanted]).max()) + 1
    best = torch.full((most,), -1, dtype=own.dtype, device=own.device)
    best[wanted] = cell_means(attributions, cells, wanted).argmax(1)
    return cell_means(own == best[cells], cells, wanted)


def dealt_out(cells: Tensor, numbers: torch.Generator) -> Tensor:
    """The cells in another order: as many samples in each, but any."""
    return cells[torch.randperm(len(cells), generator=numbers).to(cells.device)]


def loosened(samples: Tensor, numbers: torch.Generator) -> Tensor:
    """The values of each unit in an order of their own: no units go together but by chance.

    A layout finds neighbours in anything, so cells of such samples are more alike than those of `dealt_out`:
    what an atlas of nothing says.
    """
    order = torch.rand(samples.shape, generator=numbers).argsort(0)
    return samples.gather(0, order.to(samples.device))


# -- pictures of cells ---------------------------------------------------------------------------------------


def towards(activations: Tensor, directions: Tensor, means: Tensor) -> Tensor:
    """What the picture of a cell climbs: `(a . S m) cos(a, m)^4`, and, from far away, the cosine alone.

    With `max(.1, cos)` (lucid) nothing leads back to `m` once the cosine is below .1, and where `a . S m` is
    below 0 a smaller cosine is the better one: some pictures stay there. So the cosine alone is climbed while
    it is below .1 or `a . S m` below 0. The gradient is what counts; values of both kinds are not compared.

    Args:
        activations: `a`, `(B, C)`, of the middle of each picture's map.
        directions: `S m`, `(B, C)`.
        means: `m`, `(B, C)`.

    Returns:
        `(B,)`.
    """
    alike = F.cosine_similarity(activations, means, dim=1)
    along = (activations * directions).sum(1)
    return torch.where((alike > _LEAST) & (along > 0), along * alike**_POWER, alike)


def own_and_other(activations: Tensor, means: Tensor, which: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How near pictures are to the means of their own cells and to those of others.

    Args:
        activations: `(n, C)`, of n pictures.
        means: `(P, C)`, of all cells.
        which: `(n,)` int64, the cell of each picture.

    Returns:
        `(n,)` each, float64 and bool: cosine to the own mean, mean cosine to the others (NaN for one cell),
        and whether all other means are further away.
    """
    cosines = F.normalize(activations.double(), dim=1) @ F.normalize(means.double(), dim=1).T
    own = cosines.gather(1, which[:, None])[:, 0]
    count = len(means)
    other = (cosines.sum(1) - own) / (count - 1) if count > 1 else torch.full_like(own, torch.nan)
    rest = cosines.scatter(1, which[:, None], -torch.inf).amax(1)
    # A picture that excites nothing is as near to all means.
    return own, other, (own > rest) & (own > 0)


# -- atlases of classes --------------------------------------------------------------------------------------


def class_samples(attributions: Tensor, wanted: int, most: int = CLASS_SAMPLES) -> Tensor:
    """The samples of an atlas of one class: those that say most for it, and the highest positive ones.

    Args:
        attributions: `(N, K)`.
        wanted: the class.
        most: of the highest ones.

    Returns:
        Numbers of samples in order, each once.
    """
    own = attributions[:, wanted]
    best = attributions.argmax(1) == wanted
    high = torch.sort(own, descending=True, stable=True).indices[:most]
    best[high[own[high] > 0]] = True
    return torch.nonzero(best)[:, 0]


def between(attributions: Tensor, first: int, second: int) -> NDArray[np.float64]:
    """Where samples lie between two classes, `(N,)` in [0, 1]: 1 says most for the first.

    The difference of the attributions over the 99th percentile of its size, clipped to -1 and 1.
    """
    difference = attributions[:, first].double() - attributions[:, second].double()
    scale = torch.quantile(difference.abs(), _EDGES[1] / 100)
    clipped = (difference / scale).clamp(-1, 1) if scale > 0 else torch.zeros_like(difference)
    found: NDArray[np.float64] = ((clipped + 1) / 2).cpu().numpy()
    return found
