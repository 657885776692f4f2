"""Groups of images: copies of a photo, frames of a video, slices of a patient.

Images of one group are not independent: what a unit says about one of them it says about all. Where images
are permuted, drawn or held out as if each were independent, a unit that answers alike to the copies of a
photo looks as if it had found something. So whole groups are permuted, drawn and held out.

Groups are an int64 vector `(N,)`: the number of each image's group. A set without copies is `arange(N)`, and
everything here is then what it would be without groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional._blocks import spans

IntArray = NDArray[np.int64]

# Images by units that change places in one go: several whole numbers for each.
_PLACES = 1 << 21


@dataclass(frozen=True)
class ImageGroups:
    """The members of every group.

    Attributes:
        of: `(N,)` int64, the group of each image, numbered from 0 in the order of their first images.
    """

    of: IntArray

    @classmethod
    def read(cls, groups: Tensor | IntArray | Sequence[int]) -> ImageGroups:
        """From any whole numbers, one for each image; equal numbers are one group.

        Raises:
            InputError: not one axis, or no image.
        """
        values = groups.cpu().numpy() if isinstance(groups, Tensor) else np.asarray(groups)
        if values.ndim != 1 or len(values) == 0 or values.dtype.kind not in "iu":
            raise InputError(
                f"groups of shape {values.shape}, {values.dtype}: need a whole number for each image"
            )
        _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
        rank = np.empty(len(first), dtype=np.int64)
        rank[np.argsort(first)] = np.arange(len(first))
        return cls(rank[inverse.reshape(-1)])

    @classmethod
    def single(cls, n_images: int) -> ImageGroups:
        """Every image for itself."""
        return cls(np.arange(n_images, dtype=np.int64))

    @property
    def n_images(self) -> int:
        """`N`."""
        return len(self.of)

    @cached_property
    def sizes(self) -> IntArray:
        """`(G,)`, how many images each group has."""
        return np.bincount(self.of).astype(np.int64)

    @property
    def n_groups(self) -> int:
        """`G`."""
        return len(self.sizes)

    @property
    def are_single(self) -> bool:
        """Whether every image is a group of its own."""
        return self.n_groups == self.n_images

    @cached_property
    def members(self) -> IntArray:
        """`(N,)`, the images of group 0 in their order, then those of group 1, and so on."""
        return np.argsort(self.of, kind="stable").astype(np.int64)

    @cached_property
    def starts(self) -> IntArray:
        """`(G,)`, where each group begins in `members`."""
        return np.concatenate([[0], np.cumsum(self.sizes)[:-1]]).astype(np.int64)

    @cached_property
    def place(self) -> IntArray:
        """`(N,)`, which member of its group each image is, from 0."""
        place = np.empty(self.n_images, dtype=np.int64)
        place[self.members] = np.arange(self.n_images) - np.repeat(self.starts, self.sizes)
        return place

    def members_at(self, groups: IntArray, place: IntArray) -> IntArray:
        """Of each group the member at a place, counted round where the group is smaller; they broadcast."""
        found: IntArray = self.members[self.starts[groups] + place % self.sizes[groups]]
        return found


def canonical_groups(groups: Tensor | IntArray | Sequence[int]) -> Tensor:
    """The same groups, numbered from 0 in the order of their first images, `(N,)` int64, on the host.

    Example:
        >>> canonical_groups(torch.tensor([7, 3, 7, 9])).tolist()
        [0, 1, 0, 2]
    """
    return torch.from_numpy(ImageGroups.read(groups).of)


def permuted_images(groups: ImageGroups, order: IntArray) -> IntArray:
    """For each image, whose activation it gets when whole groups change places.

    Group `order[g]` takes the place of group `g`: member `j` there gets member `j mod size` of the group that
    comes. Between groups of equal size this is a permutation of the images. A smaller group that comes is
    repeated, a larger one is cut.

    Args:
        groups: of the images.
        order: `(..., G)`, a permutation of the groups in the last axis.

    Returns:
        `(..., N)` int64, numbers of images.

    Example:
        >>> permuted_images(ImageGroups.read([0, 0, 1, 1]), np.array([1, 0])).tolist()
        [2, 3, 0, 1]
    """
    return groups.members_at(np.asarray(order)[..., groups.of], groups.place)


@dataclass(frozen=True)
class Rotations:
    """Random pairings of units and images: one random order of the groups a round, entered at other places.

    In round `r`, group `order[r, (g + shift[r, k]) % G]` takes the place of group `g` for unit `k`. Each unit
    sees a uniformly random order of the groups, and no two units of a layer (up to `G` of them) see the same.

    Attributes:
        groups: of the images.
        order: `(R, G)`, the order of the groups in every round.
        shift: `(R, C)`, the place at which each unit enters it.
    """

    groups: ImageGroups
    order: IntArray
    shift: IntArray

    @classmethod
    def draw(
        cls, groups: ImageGroups, n_units: int, rounds: int, generator: np.random.Generator
    ) -> Rotations:
        """Random ones; round `r` does not depend on how many are drawn."""
        order, shift = [], []
        for _ in range(rounds):
            order.append(generator.permutation(groups.n_groups))
            shift.append(np.resize(generator.permutation(groups.n_groups), n_units))
        return cls(groups, np.stack(order), np.stack(shift))

    def part(self, first: int, stop: int) -> Rotations:
        """Some of the rounds."""
        return Rotations(self.groups, self.order[first:stop], self.shift[first:stop])

    def sources(self, round_: int, units: slice, images: IntArray | None = None) -> IntArray:
        """For some images, all by default, and some units: whose activation it gets, `(n, units)`."""
        groups = self.groups
        images = np.arange(groups.n_images) if images is None else images
        places = (groups.of[images, None] + self.shift[round_, units]) % groups.n_groups
        return groups.members_at(self.order[round_][places], groups.place[images, None])

    def permuted(self, round_: int, values: Tensor) -> Tensor:
        """`values[sources[i, k], k]` for every image and unit: `(N, C)` -> `(N, C)`.

        Entering one order at another place turns a column round, so that it is copied in two pieces. Only
        images that are not the first of their group are looked up one by one.
        """
        groups, n = self.groups, self.groups.n_groups
        first = torch.from_numpy(groups.members[groups.starts])
        coming = torch.from_numpy(groups.members[groups.starts[self.order[round_]]]).to(values.device)
        further = np.flatnonzero(groups.place)
        result = torch.empty_like(values)
        for units in spans(values.shape[1], max(16, _PLACES // n)):
            columns = values[:, units]
            turned = _turned(columns.index_select(0, coming), self.shift[round_, units])
            if groups.are_single:
                result[:, units] = turned
                continue
            result[first, units] = turned
            for some in spans(len(further), max(1, _PLACES // columns.shape[1])):
                rows = torch.from_numpy(self.sources(round_, units, further[some])).to(values.device)
                result[further[some], units] = columns.gather(0, rows)
        return result

    def source_of(self, image: int) -> IntArray:
        """The image whose activation this one gets, in all rounds and for all units: `(R, C)`."""
        groups = self.groups
        places = (groups.of[image] + self.shift) % groups.n_groups
        return groups.members_at(np.take_along_axis(self.order, places, axis=1), groups.place[image])


def _turned(values: Tensor, shift: IntArray) -> Tensor:
    """`values[(i + shift[k]) % n, k]`, `(n, C)`."""
    if values.device.type != "cpu":
        places = torch.arange(len(values), device=values.device)[:, None]
        return values.gather(0, (places + torch.from_numpy(shift).to(values.device)) % len(values))
    rows = values.T.contiguous()
    result = torch.empty_like(rows)
    for row, turned, place in zip(rows, result, shift.tolist(), strict=True):
        turned[: len(row) - place] = row[place:]
        turned[len(row) - place :] = row[:place]
    return result.T


def halves(groups: ImageGroups, *, seed: int = 0) -> NDArray[np.bool_]:
    """Two halves of the images that share no group.

    The groups come in a random order, and each goes to the half that has fewer images by then.

    Args:
        groups: of the images.
        seed: of the order.

    Returns:
        `(N,)`, whether an image is in the first half.

    Example:
        >>> int(halves(ImageGroups.single(10)).sum())
        5
    """
    generator = np.random.default_rng(seed)
    # Large groups first, or the last of them would leave the halves unequal; a random order among equals.
    order = generator.permutation(groups.n_groups)
    order = order[np.argsort(-groups.sizes[order], kind="stable")]
    taken = np.zeros(groups.n_groups, dtype=bool)
    balance = 0
    for group in order.tolist():
        size = int(groups.sizes[group])
        taken[group] = balance < 0 or (balance == 0 and bool(generator.integers(2)))
        balance += size if taken[group] else -size
    first: NDArray[np.bool_] = taken[groups.of]
    return first


def random_images(groups: ImageGroups, k: int, generator: np.random.Generator) -> IntArray:
    """One random image of each of `k` random groups, in a random order.

    The first `j` are a random set of `j` images of the same kind.

    Args:
        groups: of the images.
        k: how many; at most `G`.
        generator: of the order.

    Returns:
        `(k,)` int64.
    """
    chosen = generator.choice(groups.n_groups, k, replace=False)
    if groups.are_single:
        return chosen
    sizes = groups.sizes[chosen]
    image: IntArray = groups.members[groups.starts[chosen] + generator.integers(0, sizes)]
    return image
