"""On which images does a unit fire? Units that are silent on most of them.

After a ReLU a unit is at its lowest activation, zero, on many images: those say nothing about it. Which of
them fill the end of its list of top images would be decided by the order of the images. So only images above
the lowest activation count, where that is shared by images of more than one group; a unit whose lowest
activation is that of one image (or its copies) fires everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from concept_monitor_cli.functional._blocks import spans
from concept_monitor_cli.functional.groups import ImageGroups

#: A unit that fires on images of fewer groups is not named; see docs/calibration.md.
MIN_GROUPS = 5
# Activations that are looked at in one go.
_VALUES = 1 << 22
#: Sizes of sets of top images. A unit is looked at through as many of its images as the largest of these that
#: it has, so that few null distributions serve all units.
SIZES = (5, 6, 7, 8, 10, 12, 14, 17, 20, 24, 28, 34, 40, 50, 60, 70, 85, 100)


@dataclass(frozen=True)
class Firing:
    """How much each unit fires.

    Attributes:
        groups: `(C,)` int64, on images of how many groups.
    """

    groups: Tensor

    def sparse(self, n_groups: int) -> Tensor:
        """`(C,)` bool, units that fire on too few groups of images to be named.

        Args:
            n_groups: `G`; in a set of fewer than `MIN_GROUPS` a unit must fire on all of them.
        """
        return self.groups < min(MIN_GROUPS, n_groups)


@torch.no_grad()
def firing(Q: Tensor, groups: ImageGroups | None = None) -> Firing:
    """How many images, and groups of them, each unit fires on.

    Args:
        Q: `(N, C)` pooled activations; NaN does not fire.
        groups: of the images; every image for itself by default.

    Example:
        >>> firing(torch.tensor([[0.0, 1.0], [0.0, 2.0], [3.0, 3.0]])).groups.tolist()
        [1, 3]
    """
    groups = ImageGroups.single(Q.shape[0]) if groups is None else groups
    of = torch.from_numpy(groups.of).to(Q.device)
    counts = []
    for part in spans(Q.shape[1], max(16, min(512, _VALUES // max(1, len(Q))))):
        values = Q[:, part].nan_to_num(nan=-torch.inf)
        lowest = values.masked_fill(values == -torch.inf, torch.inf).amin(0)
        at_lowest = values == lowest
        shared = _groups_of(at_lowest, of, groups.n_groups) > 1
        fires = (values > lowest) | (at_lowest & ~shared)
        counts.append(_groups_of(fires, of, groups.n_groups))
    return Firing(torch.cat(counts))


def _groups_of(chosen: Tensor, of: Tensor, n_groups: int) -> Tensor:
    """Of how many groups the chosen images are, `(C,)`."""
    found = torch.zeros(n_groups, chosen.shape[1], dtype=torch.int32, device=chosen.device)
    found.index_add_(0, of, chosen.int())
    return (found > 0).sum(0)


def set_sizes(fires: Tensor, top_k: int, together: int, *, sizes: Sequence[int] = SIZES) -> Tensor:
    """Through how many of its top images, one of each group, each unit is looked at.

    Args:
        fires: `(C,)`, on images of how many groups each of the units that are to be named fires.
        top_k: no more than these.
        together: a prior needs at least this many units that fire on as many. Units without that many
            beside them are looked at through fewer; all of them through as many as the least of them has,
            where the layer has fewer units.
        sizes: to choose from, ascending; `top_k` is one of them too.

    Returns:
        `(C,)` int64, on the host: each one of `sizes` or `top_k`, or for a unit with less than the smallest,
        what it fires on.

    Example:
        >>> set_sizes(torch.tensor([600, 90, 9, 600]), 100, 1).tolist()
        [100, 85, 8, 100]
        >>> set_sizes(torch.tensor([600, 90, 9, 600]), 100, 3).tolist()
        [85, 85, 8, 85]
    """
    given = torch.tensor([*[size for size in sizes if size < top_k], top_k])
    most = fires.cpu().clamp(max=top_k)
    place = torch.searchsorted(given, most, right=True) - 1
    chosen = torch.where(place >= 0, given[place.clamp_min(0)], most)
    if len(chosen) == 0:
        return chosen
    ranked = chosen.sort(descending=True).values
    return chosen.clamp_max(int(ranked[min(together, len(ranked)) - 1]))


@dataclass(frozen=True)
class Company:
    """Units that are looked at through equally many top images, beside all that fire on as many.

    On the host.

    Attributes:
        size: of the sets of top images.
        units: which units fire on images of `size` groups; a prior is taken over these.
        own: `(units,)` bool, those that are looked at through this size.
    """

    size: int
    units: Tensor
    own: Tensor

    @property
    def rows(self) -> Tensor:
        """Which units are looked at through this size."""
        return self.units[self.own]


def companies(fires: Tensor, top_k: int, together: int) -> list[Company]:
    """Units by how many of their top images they are looked at through, the largest sets first.

    Arguments as those of `set_sizes`; every unit is in the rows of one company.
    """
    fires = fires.cpu()
    sizes = set_sizes(fires, top_k, together)
    found = []
    for size in sorted(set(sizes.tolist()), reverse=True):
        units = (fires >= size).nonzero()[:, 0]
        found.append(Company(size, units, sizes[units] == size))
    return found
