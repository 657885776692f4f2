"""An output of a network taken apart at one layer: by its units, its places, and groups of units.

`A`, `(C, h, w)`, is what a layer put out for an image, `G` the gradient of a logit at it, or its mean along
the straight way from 0 to `A`. The products `A G` are summed over places (units), over units (places), or
over what a factor has of `A` (groups); each of these ways adds up to the same total. Sources: Olah et al.
2018, The Building Blocks of Interpretability; Hilton et al. 2020 for factors of attributions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from concept_monitor_cli.functional.factors import nonnegative_coefficients, nonnegative_factors

#: Groups of an image, updates of their fit and the change of the error at which it ends.
GROUPS, UPDATES, TOLERANCE = 6, 400, 1e-4
#: Permutations of the units that say what luck makes of the parts.
DRAWS = 20


def spans(length: int, most: int) -> list[tuple[int, int]]:
    """Cut `length` places into at most `most` runs that are equally long but for one place."""
    count = min(length, most)
    edges = [length * number // count for number in range(count + 1)]
    return list(pairwise(edges))


def cells(maps: Tensor, most: int) -> Tensor:
    """Sums of maps `(..., h, w)` over cells of a grid of at most `most` rows and columns, `(..., r, c)`."""
    rows = [maps[..., first:last, :].sum(-2) for first, last in spans(maps.shape[-2], most)]
    whole = torch.stack(rows, dim=-2)
    columns = [whole[..., first:last].sum(-1) for first, last in spans(maps.shape[-1], most)]
    return torch.stack(columns, dim=-1)


def unit_attribution(A: Tensor, G: Tensor) -> Tensor:
    """`sum_ij A_k G_k`, `(C,)`."""
    return (A * G).sum((1, 2))


def place_attribution(A: Tensor, G: Tensor) -> Tensor:
    """`sum_k A_k G_k`, `(h, w)`."""
    return (A * G).sum(0)


def midpoints(steps: int) -> list[float]:
    """The middles of `steps` equal parts of the way from 0 to 1."""
    return [(number + 0.5) / steps for number in range(steps)]


def way(steps: int, power: int = 1) -> list[tuple[float, float]]:
    """Points of the way from 0 to 1 and their weights, so that weighted values at them sum to an integral.

    `t = s^p` at the midpoints `s`, with weights `p s^(p-1) / steps`: for p = 1 midpoints of equal weight.
    With a larger p points lie the denser the nearer they are to 0. That is where a network changes that
    normalises what it reads (layer norm): `y(t A)` is nearly the same for all t but the very smallest.

    Args:
        steps: how many points.
        power: p.
    """
    return [(s**power, power * s ** (power - 1) / steps) for s in midpoints(steps)]


def completeness_error(total: float, change: float) -> float:
    """How far a sum of attributions is from the change of the output, as a share of it; NaN for no change."""
    return abs(total - change) / abs(change) if change else float("nan")


# -- groups --------------------------------------------------------------------------------------------------


def places_by_units(A: Tensor) -> Tensor:
    """`(C, h, w)` as a table of places and units, `(h w, C)`."""
    return A.flatten(1).T


def lost_energy(A: Tensor) -> float:
    """The share of the squared activations that lies below 0, where non-negative groups see nothing."""
    total = float((A.double() ** 2).sum())
    return float((A.double().clamp_max(0) ** 2).sum()) / total if total else float("nan")


def stacked(A: Tensor, G: Tensor) -> Tensor:
    """The positive and below them the negative parts of `A G`, `(2 h w, C)`, nothing below 0."""
    products = places_by_units(A * G)
    return torch.cat([products.clamp_min(0), (-products).clamp_min(0)])


def fit_groups(X: Tensor, groups: int = GROUPS) -> Tensor:
    """The groups of units of a table of places `(P, C)`, nothing below 0: `H`, `(R, C)`, rows of length 1.

    `R` is at most `groups`, and as many as there are places or units. Factors that ended with nothing are
    left out; one always stays.
    """
    members = min(groups, *X.shape)
    found = nonnegative_factors(X, members, sweeps=UPDATES, tolerance=TOLERANCE).T
    live = found.norm(dim=1) > 0
    live[0] = True
    return found[live]


def coefficients(X: Tensor, H: Tensor) -> Tensor:
    """How much of each group is at each place: non-negative least squares, `(P, R)`."""
    return nonnegative_coefficients(X, H.T)


def group_attribution(A: Tensor, G: Tensor, W: Tensor, H: Tensor) -> tuple[Tensor, Tensor]:
    """What groups of activations say, place by place, and what they leave out.

    Args:
        A, G: `(C, h, w)`.
        W: `(h w, R)`.
        H: `(R, C)`.

    Returns:
        `W_g (h_g . G)`, `(R, h, w)`, and the residual `(A - W H) . G`, `(h, w)`: they sum to `A . G`.
    """
    slopes = places_by_units(G).to(W.dtype)
    own = W * (slopes @ H.T)
    left = ((places_by_units(A).to(W.dtype) - W @ H) * slopes).sum(1)
    return own.T.reshape(len(H), *A.shape[1:]), left.reshape(A.shape[1:])


def signed_group_attribution(A: Tensor, G: Tensor, W: Tensor, H: Tensor) -> tuple[Tensor, Tensor]:
    """The same for groups of attributions, `W` `(2 h w, R)` the coefficients of `stacked`."""
    places = A.shape[1] * A.shape[2]
    signed = W[:places] - W[places:]
    own = signed * H.sum(1)
    left = places_by_units(A * G).to(W.dtype).sum(1) - own.sum(1)
    return own.T.reshape(len(H), *A.shape[1:]), left.reshape(A.shape[1:])


def explained(X: Tensor, W: Tensor, H: Tensor) -> tuple[Tensor, float]:
    """What groups explain of a table `(P, C)`.

    Returns:
        Of each group how much more of the squares is left where it is taken away, `(R,)`; and the share
        that all of them leave. NaN for a table of zeros.
    """
    X, W, H = X.double(), W.double(), H.double()
    total = (X**2).sum()
    if float(total) == 0:
        return X.new_full((len(H),), torch.nan), float("nan")
    rest = X - W @ H
    left = (rest**2).sum()
    without = torch.stack([((rest + torch.outer(W[:, g], H[g])) ** 2).sum() for g in range(len(H))])
    return (without - left) / total, float(left / total)


def apart(A: Tensor, numbers: torch.Generator) -> Tensor:
    """Every unit's map with its places in an order of its own: nothing is together but by chance."""
    units, places = A.shape[0], A.shape[1] * A.shape[2]
    order = torch.rand((units, places), generator=numbers).argsort(1)
    return A.flatten(1).gather(1, order.to(A.device)).reshape(A.shape)


# -- beside chance -------------------------------------------------------------------------------------------


def shares(values: Tensor) -> Tensor:
    """The absolute values as shares of their sum; zeros for zeros."""
    size = values.double().abs()
    return size / size.sum().clamp_min(torch.finfo(torch.float64).tiny)


def by_rank(values: Tensor, floor: Tensor) -> Tensor:
    """For every row the entry of a descending floor that has the same rank, `(n,)`; ties by place.

    Ranks that the floor does not have are 0: there luck makes nothing.
    """
    order = torch.sort(values.double().abs(), descending=True, stable=True).indices
    found = floor.new_zeros(len(values))
    count = min(len(values), len(floor))
    found[order[:count]] = floor[:count]
    return found


@dataclass(frozen=True)
class Floor:
    """What luck makes of the parts of an output, the strongest first.

    Attributes:
        size: `(n,)`, mean absolute attributions.
        share: `(n,)`, mean shares.
    """

    size: Tensor
    share: Tensor

    @classmethod
    def of(cls, draws: list[Tensor]) -> Floor:
        """Of the parts `(n,)` of several draws; those that have fewer have zeros more."""
        most = max(map(len, draws))
        ranked = [
            torch.nn.functional.pad(
                torch.sort(draw.double().abs(), descending=True).values, (0, most - len(draw))
            )
            for draw in draws
        ]
        return cls(torch.stack(ranked).mean(0), torch.stack([shares(each) for each in ranked]).mean(0))


def shuffled_floor(
    G: Tensor, parts: Callable[[Tensor], Tensor], numbers: torch.Generator, draws: int = DRAWS
) -> Floor:
    """The parts where the gradient's units are dealt out anew: activations and weights that do not belong.

    Args:
        G: `(C, h, w)`.
        parts: a gradient -> `(n,)` attributions.
        numbers: random numbers.
        draws: permutations.
    """
    return Floor.of([parts(G[torch.randperm(len(G), generator=numbers)]) for _ in range(draws)])
