"""What rank reorder finds for units that have nothing to do with the images: its null distribution.

With the images permuted, the top images of a unit are a uniformly random ordered set, whatever the unit; only
the activations in it are the unit's own. So nothing needs to be permuted: random sets of images are drawn,
each serves several units, and every unit sees its set in a random order of its own. A concept ranks a set
once for all of its units.

For each unit alone, the draws are what permutations of the images give. Two units of a set share which images
it holds, not their order, which is what the error comes from; units of other sets share nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional._blocks import run_blocks, spans, worth_compiling
from concept_monitor_cli.functional.groups import ImageGroups, random_images
from concept_monitor_cli.functional.similarity.activations import ConceptActivations, as_activations
from concept_monitor_cli.functional.similarity.reorder import (
    MIN_MEAN,
    SCALE_POWER,
    UnitOrders,
    block_and_ranks,
    compiled_width,
    narrow,
    rank_reorder_from_top,
    top_means,
)

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
        InputError: sets of other sizes.

    Example:
        >>> P = torch.rand(60, 9, generator=torch.Generator().manual_seed(0))
        >>> sets = RandomSets.draw(ImageGroups.single(60), 5, 2, draws=4)
        >>> rank_reorder_by_chance(P, torch.rand(5, 2).sort(0, descending=True).values, sets).shape
        torch.Size([4, 2])
    """
    activations = as_activations(P)
    (draws, n_sets, n), together = sets.images.shape, sets.orders.shape[1]
    if top_values.ndim != 2 or len(top_values) != n or -(-top_values.shape[1] // together) != n_sets:
        raise InputError(
            f"activations of shape {tuple(top_values.shape)}: need ({n}, C) for {n_sets} sets of {together} "
            "units"
        )
    device, units = activations.device, top_values.shape[1]
    values = top_values.to(device)
    best = torch.full((draws, units), -torch.inf, device=device)
    if worth_compiling(draws * values.numel() * activations.n_concepts, device):
        _compiled(activations, UnitOrders.of(values), sets, scale_p, min_mean, best)
        return best
    for some in spans(draws, max(1, _TOGETHER // (units * activations.n_concepts))):
        images = torch.cat([sets.of_units(draw, units) for draw in range(some.start, some.stop)], 1)
        scores = rank_reorder_from_top(
            activations, images, values.repeat(1, some.stop - some.start), scale_p=scale_p, min_mean=min_mean
        )
        best[some] = scores.amax(1).view(-1, units)
    return best


def _compiled(
    activations: ConceptActivations,
    units: UnitOrders,
    sets: RandomSets,
    scale_p: float,
    min_mean: float,
    best: Tensor,
) -> None:
    """`rank_reorder_by_chance` in compiled loops; raises `best` `(B, C)` to what is found."""
    from concept_monitor_cli.functional._rank_kernels import shared_order_errors

    count, together = len(units.tied), sets.orders.shape[1]
    images = narrow(sets.images, activations.n_images)
    # Which of its top images a unit sees at each place of the set: the other way round than `orders`.
    seen_as = narrow(sets.orders.argsort(2).transpose(1, 2), sets.orders.shape[2])
    falling, rising = (_side_by_side(each, together) for each in (units.falling, units.rising))
    lock = Lock()

    def compare(concepts: slice) -> None:
        values, ranks = block_and_ranks(activations, concepts)
        error = torch.empty(len(falling), together, len(ranks))
        for draw, own in enumerate(sets.images):
            shared_order_errors(ranks, images[draw], seen_as[draw], falling, rising, error.numpy())
            mean = top_means(own, values, min_mean).repeat_interleave(together, 0)[:count]
            found = units.scores(error.flatten(0, 1)[:count], mean, scale_p).amax(1)
            with lock:  # the highest of all blocks, in whatever order they come
                torch.maximum(best[draw], found, out=best[draw])

    run_blocks(compare, spans(activations.n_concepts, compiled_width(activations)), activations.device)


def _side_by_side(values: Tensor, together: int) -> NDArray[np.float32]:
    """`(C, n)` -> `(G, n, L)`: the units of a set beside each other; after the last unit zeros."""
    padded = values.new_zeros(-(-len(values) // together) * together, values.shape[1])
    padded[: len(values)] = values
    found: NDArray[np.float32] = (
        padded.view(-1, together, values.shape[1]).transpose(1, 2).contiguous().numpy()
    )
    return found
