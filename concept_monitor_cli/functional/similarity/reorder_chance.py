"""What rank reorder finds for units that have nothing to do with the images: its null distribution.

With the images permuted, the top images of a unit are a uniformly random ordered set, whatever the unit; only
the activations in it are the unit's own. So nothing needs to be permuted: random sets of images are drawn,
each serves several units, and every unit sees its set in a random order of its own. A concept ranks a set
once for all of its units.

For each unit alone, the draws are what permutations of the images give. Two units of a set share which images
it holds, not their order, which is what the error comes from; units of other sets share nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional._blocks import on_cpu, run_blocks, spans, worth_compiling
from concept_monitor_cli.functional.groups import ImageGroups, random_images
from concept_monitor_cli.functional.similarity.activations import ConceptActivations, as_activations
from concept_monitor_cli.functional.similarity.reorder import (
    MIN_MEAN,
    SCALE_POWER,
    Reordered,
    UnitOrders,
    block_and_ranks,
    compiled_width,
    narrow,
    rank_reorder_of,
    top_means,
)
from concept_monitor_cli.functional.topk import check_images

#: Units of a set. More are not much faster: to rank a set takes as long as the errors of about ten units.
UNITS_OF_A_SET = 32
# Units by concepts that operations of torch score in one go.
_TOGETHER = 1 << 23


@dataclass(frozen=True)
class RandomSets:
    """Random top images of the units of a layer, several times.

    Unit `k` sees set `k // L` of a draw in order `k % L`.

    Attributes:
        images: `(B, G, n)` int64, the sets of every draw, one image of each group.
        orders: `(B, L, n)` int64, permutations: at which place of its set a unit finds its top images, the
            first one first. Every draw has orders of its own; the images of a set come in random order
            themselves, so that units of two sets of a draw see unrelated images in unrelated orders.
    """

    images: Tensor
    orders: Tensor

    @classmethod
    def draw(cls, groups: ImageGroups, n: int, units: int, draws: int, *, seed: int = 0) -> RandomSets:
        """Random ones.

        Args:
            groups: of the images.
            n: top images of a unit, at most as many as there are groups.
            units: `C`, each has a set and an order in every draw.
            draws: `B`; the first ones do not depend on how many there are.
            seed: of them all.

        Raises:
            InputError: no image, no unit or no draw, or more images than groups.

        Example:
            >>> sets = RandomSets.draw(ImageGroups.single(50), 4, 40, 3)
            >>> sets.images.shape, sets.orders.shape, sets.of_units(0, 40).shape
            (torch.Size([3, 2, 4]), torch.Size([3, 32, 4]), torch.Size([4, 40]))
        """
        if not 1 <= n <= groups.n_groups or units < 1 or draws < 1:
            raise InputError(
                f"{draws} random lists of {n} of {groups.n_groups} groups of images for {units} units: each "
                "must be at least 1, and a list no longer than there are groups"
            )
        together = min(UNITS_OF_A_SET, units)
        n_sets = -(-units // together)
        images, orders = [], []
        for number in range(draws):
            generator = np.random.default_rng([seed, n, number])
            orders.append(generator.permuted(np.tile(np.arange(n), (together, 1)), axis=1))
            images.append(np.stack([random_images(groups, n, generator) for _ in range(n_sets)]))
        return cls(torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(orders)))

    def of_units(self, draw: int, units: int) -> Tensor:
        """The top images of the first units in one draw, `(n, C)`, in the form of `top_images`."""
        unit = torch.arange(units)
        together = self.orders.shape[1]
        sets = self.images[draw].index_select(0, unit // together)
        return sets.gather(1, self.orders[draw].index_select(0, unit % together)).T.contiguous()


@torch.no_grad()
def rank_reorder_by_chance(
    P: Tensor | ConceptActivations,
    top_values: Tensor,
    sets: RandomSets,
    *,
    scale_p: float = SCALE_POWER,
    min_mean: float = MIN_MEAN,
) -> Tensor:
    """The best concept's `rank_reorder` of every unit, had it random top images.

        best[b, k] = max_m rank_reorder_from_top(P, images of unit k in draw b, its activations)[m]

    Args:
        P: concept activations `(N, M)`, or `ConceptActivations` of any size.
        top_values: `(n, C)`, the activations of the units at their top images, highest first.
        sets: of as many images, for as many units.
        scale_p: as for `rank_reorder`.
        min_mean: as for `rank_reorder`.

    Returns:
        `(B, C)` float32, for `pooled_p_values`.

    Raises:
        InputError: sets of other sizes, or of images that are none of `P`.

    Example:
        >>> P = torch.rand(60, 9, generator=torch.Generator().manual_seed(0))
        >>> sets = RandomSets.draw(ImageGroups.single(60), 5, 2, draws=4)
        >>> rank_reorder_by_chance(P, torch.rand(5, 2).sort(0, descending=True).values, sets).shape
        torch.Size([4, 2])
    """
    units = torch.arange(top_values.shape[-1])
    return rank_reorder_of_sets(P, [OnSets(units, top_values, sets)], scale_p=scale_p, min_mean=min_mean)


@dataclass(frozen=True)
class OnSets:
    """Units that are looked at through equally many top images, and random sets of as many.

    Attributes:
        units: `(u,)`, which columns.
        values: `(n, u)`, their activations at their top images, highest first.
        sets: as many draws in all parts of a layer.
    """

    units: Tensor
    values: Tensor
    sets: RandomSets

    def check(self) -> None:
        """Raises `InputError` where the sets are of another size, or for another number of units."""
        (n_sets, n), together = self.sets.images.shape[1:], self.sets.orders.shape[1]
        if self.values.ndim != 2 or len(self.values) != n or -(-self.values.shape[1] // together) != n_sets:
            raise InputError(
                f"activations of shape {tuple(self.values.shape)}: need ({n}, C) for {n_sets} sets of "
                f"{together} units"
            )


@torch.no_grad()
def rank_reorder_of_sets(
    P: Tensor | ConceptActivations,
    parts: Sequence[OnSets],
    *,
    scale_p: float = SCALE_POWER,
    min_mean: float = MIN_MEAN,
) -> Tensor:
    """`rank_reorder_by_chance` of units that are looked at through different numbers of top images, `(B, C)`.

    Every concept ranks the images once for all of them. The parts have all `C` units between them.
    """
    activations = as_activations(P)
    for part in parts:
        part.check()
    if on_cpu(activations.device):
        check_images([part.sets.images for part in parts], activations.n_images)
    device, m = activations.device, activations.n_concepts
    units, draws = sum(part.values.shape[1] for part in parts), len(parts[0].sets.images)
    best = torch.full((draws, units), -torch.inf, device=device)
    if worth_compiling(draws * sum(part.values.numel() for part in parts) * m, device):
        _compiled(activations, parts, scale_p, min_mean, best)
        return best
    for some in spans(draws, max(1, _TOGETHER // (units * m))):
        numbers = range(some.start, some.stop)
        lists = [
            Reordered(
                torch.cat([part.units + units * place for place in range(len(numbers))]),
                torch.cat([part.sets.of_units(draw, part.values.shape[1]) for draw in numbers], 1),
                part.values.repeat(1, len(numbers)),
            )
            for part in parts
        ]
        scores = rank_reorder_of(activations, lists, scale_p=scale_p, min_mean=min_mean)
        best[some] = scores.amax(1).view(-1, units)
    return best


class _Tables:
    """What the compiled loops need of a part."""

    def __init__(self, part: OnSets, n_images: int) -> None:
        together = part.sets.orders.shape[1]
        self.columns, self.sets = part.units, part.sets.images
        self.orders = UnitOrders.of(part.values.cpu())
        self.images = narrow(self.sets, n_images)
        # Which of its top images a unit sees at each place of the set: the other way round than `orders`.
        self.seen_as = narrow(part.sets.orders.argsort(2).transpose(1, 2), self.sets.shape[2])
        self.falling = _side_by_side(self.orders.falling, together)
        self.rising = _side_by_side(self.orders.rising, together)


def _compiled(
    activations: ConceptActivations, parts: Sequence[OnSets], scale_p: float, min_mean: float, best: Tensor
) -> None:
    """`rank_reorder_of_sets` in compiled loops; raises `best` `(B, C)` to what is found."""
    from concept_monitor_cli.functional._rank_kernels import shared_order_errors

    tables = [_Tables(part, activations.n_images) for part in parts]
    lock = Lock()

    def compare(concepts: slice) -> None:
        values, ranks = block_and_ranks(activations, concepts)
        for of in tables:
            n_sets, _, together = of.falling.shape
            error, count = torch.empty(n_sets, together, len(ranks)), len(of.columns)
            for draw, own in enumerate(of.sets):
                shared_order_errors(
                    ranks, of.images[draw], of.seen_as[draw], of.falling, of.rising, error.numpy()
                )
                mean = top_means(own, values, min_mean).repeat_interleave(together, 0)[:count]
                found = of.orders.scores(error.flatten(0, 1)[:count], mean, scale_p).amax(1)
                with lock:  # the highest of all blocks, in whatever order they come
                    best[draw, of.columns] = torch.maximum(best[draw, of.columns], found)

    run_blocks(compare, spans(activations.n_concepts, compiled_width(activations)), activations.device)


def _side_by_side(values: Tensor, together: int) -> NDArray[np.float32]:
    """`(C, n)` -> `(G, n, L)`: the units of a set beside each other; after the last unit zeros."""
    padded = values.new_zeros(-(-len(values) // together) * together, values.shape[1])
    padded[: len(values)] = values
    found: NDArray[np.float32] = (
        padded.view(-1, together, values.shape[1]).transpose(1, 2).contiguous().numpy()
    )
    return found
