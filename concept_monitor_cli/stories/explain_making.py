"""What a layer put out for an image and how classes hang on it: from the store, or made; then taken apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional import building_blocks as method
from concept_monitor_cli.functional.building_blocks import Floor
from concept_monitor_cli.functional.pictures import generator
from concept_monitor_cli.options import BlocksOf
from concept_monitor_cli.store import JSONValue, Key
from concept_monitor_cli.stories.attribute_making import Attributions, Explainer, InLayer, Photo, Target
from concept_monitor_cli.stories.recorder import Network

#: Networks with random weights that say what a network gives that has learnt nothing.
UNTRAINED_DRAWS = 3
# Their first seed: 0 may be the one that a training began with.
_SEED = 1_000
#: The ways in which an output is taken apart.
PARTS = ("unit", "place", "group")


@dataclass
class Layers:
    """Activations and gradients of a run's networks at a layer, each made once.

    Args:
        making: the networks and their store.
        path: points of the way from 0 to the layer's output; 0 for the gradient at it.
    """

    making: Attributions
    path: int
    _fresh: tuple[int, Explainer] | None = field(default=None)

    def _key(self, network: Network, photo: Photo, targets: Sequence[Target], **more: JSONValue) -> Key:
        return self.making.key(
            network,
            photo,
            method="in-layer-way",
            layer=network.looks[0].tapped.name,
            targets=[target.wanted for target in targets],
            path=self.path,
            **more,
        )

    def known(self, network: Network, photo: Photo, targets: Sequence[Target]) -> bool:
        """Whether the store has it."""
        return self.making.store.proved(self._key(network, photo, targets))

    def seen(self, network: Network, photo: Photo, targets: Sequence[Target]) -> InLayer:
        """Of a checkpoint."""
        key = self._key(network, photo, targets)
        found = self._load(key)
        if found is None:
            self._put(key, self.making.explainer(network).in_layer(photo, targets, self.path))
            found = self._load(key)
            assert found is not None
        return found

    def untrained(
        self, network: Network, photo: Photo, targets: Sequence[Target], draw: int
    ) -> InLayer | None:
        """Of a network with random weights; `None` where its layer does not reach its output."""
        key = self._untrained_key(network, photo, targets, draw)
        found = self._load(key)
        if found is None:
            try:
                self._put(key, self._untrained(network, draw).in_layer(photo, targets, self.path))
            except InputError:  # zeros where weights begin, as the gain of a residual branch
                return None
            found = self._load(key)
        return found

    def _untrained_key(self, network: Network, photo: Photo, targets: Sequence[Target], draw: int) -> Key:
        return self._key(network, photo, targets, weights=f"untrained {_SEED + draw}")

    def untrained_known(self, network: Network, photo: Photo, targets: Sequence[Target]) -> int:
        """How many networks with random weights the store has."""
        keys = [self._untrained_key(network, photo, targets, draw) for draw in range(UNTRAINED_DRAWS)]
        return sum(self.making.store.proved(key) for key in keys)

    def _untrained(self, network: Network, draw: int) -> Explainer:
        if self._fresh is None or self._fresh[0] != draw:
            model = network.architecture.source.build(seed=_SEED + draw)
            preprocessing = network.architecture.preprocessing
            layer = network.looks[0].tapped
            self._fresh = draw, Explainer(model, layer, preprocessing, self.making.seed, self.making.device)
        return self._fresh[1]

    def _load(self, key: Key) -> InLayer | None:
        entry = self.making.store.get(key)
        if entry is None:
            return None
        with entry:
            names = ("activations", "gradients", "elsewhere", "change")
            return InLayer(*(entry.read(name) for name in names))

    def _put(self, key: Key, found: InLayer) -> None:
        arrays: dict[str, NDArray[Any]] = {
            "activations": found.activations,
            "gradients": found.gradients,
            "elsewhere": found.elsewhere,
            "change": found.change,
        }
        self.making.store.put(key, arrays).close()


@dataclass(frozen=True)
class Parts:
    """The parts of an output beside chance.

    Attributes:
        values: `(n,)` attributions.
        shares: `(n,)`, of the sum of absolute values.
        floor: `(n,)`, mean absolute attribution of the part of the same rank where the units of the gradient
            are dealt out anew.
        share_floor: `(n,)`, its share.
        share_untrained: `(n,)`, the share of the part of the same rank in networks with random weights; NaN
            where there are none.
    """

    values: Tensor
    shares: Tensor
    floor: Tensor
    share_floor: Tensor
    share_untrained: Tensor


@dataclass(frozen=True)
class Taken:
    """What a network says of an image at one epoch, taken apart for one class.

    Attributes:
        total: the sum of `A G` over places and units.
        total_floor: its mean absolute value where the units of the gradient are dealt out anew.
        elsewhere: what the layer says beside its maps, as with class tokens.
        completeness_error: of `total + elsewhere` against `y(A) - y(0)`.
        parts: units `(C,)`; places `(r c,)`, row by row; groups and, last, the residual `(R + 1,)`.
    """

    total: float
    total_floor: float
    elsewhere: float
    completeness_error: float
    parts: dict[str, Parts]


class Split:
    """One way to take the outputs of a layer for an image apart.

    Args:
        seen: activations and gradients; gradients of the target first.
        H: the groups, `(R, C)`; `None`: those of this very image.
        on: what groups are of.
        groups: how many, where they are fitted here.
        places: rows and columns of places, at most.
    """

    def __init__(self, seen: InLayer, H: Tensor | None, on: BlocksOf, groups: int, places: int) -> None:
        self.A = torch.from_numpy(seen.activations).double()
        self.G = torch.from_numpy(seen.gradients).double()
        self._seen, self._on, self._places = seen, on, places
        self.fitted = H is None
        self.H = method.fit_groups(self._table(0), groups).double() if H is None else H

    def _table(self, number: int) -> Tensor:
        """What groups are fitted to, for one class."""
        if self._on == "activation":
            return method.places_by_units(self.A).clamp_min(0)
        return method.stacked(self.A, self.G[number])

    @cached_property
    def target_table(self) -> Tensor:
        """What groups are fitted to."""
        return self._table(0)

    @cached_property
    def W(self) -> Tensor:
        """How much of each group is at each place for the target, `(P, R)`; of attributions, `(2 P, R)`."""
        return method.coefficients(self.target_table, self.H).double()

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of places."""
        height, width = self.A.shape[1:]
        return min(height, self._places), min(width, self._places)

    def where(self) -> Tensor:
        """How much of each group is in each cell, `(R, r, c)`; of attributions, for and against together."""
        height, width = self.A.shape[1:]
        both = self.W.reshape(-1, height, width, len(self.H)).sum(0)
        return method.cells(both.permute(2, 0, 1), self._places)

    def cell_activations(self) -> Tensor:
        """Mean activations over the places of each cell, `(C, r, c)`."""
        size = method.cells(torch.ones(1, *self.A.shape[1:], dtype=torch.float64), self._places)
        return method.cells(self.A, self._places) / size

    def cell_attributions(self, number: int) -> Tensor:
        """`A G` of each unit in each cell for one class, `(C, r, c)`."""
        return method.cells(self.A * self.G[number], self._places)

    def parts(self, G: Tensor) -> dict[str, Tensor]:
        """The parts by a gradient; groups with their residual last."""
        if self._on == "activation":
            groups, left = method.group_attribution(self.A, G, self.W, self.H)
        else:
            W = method.coefficients(method.stacked(self.A, G), self.H).double()
            groups, left = method.signed_group_attribution(self.A, G, W, self.H)
        return {
            "unit": method.unit_attribution(self.A, G),
            "place": method.cells(method.place_attribution(self.A, G), self._places).flatten(),
            "group": torch.cat([groups.sum((1, 2)), left.sum()[None]]),
        }

    def taken(self, number: int, untrained: dict[str, Floor] | None, seed: int) -> Taken:
        """One class, beside chance.

        Args:
            number: of the class.
            untrained: of networks with random weights, if there are any.
            seed: of the permutations.
        """
        G = self.G[number]
        own = self.parts(G)
        numbers = generator(seed, f"explain {number}")
        draws = [self.parts(G[torch.randperm(len(G), generator=numbers)]) for _ in range(method.DRAWS)]
        found = {}
        for part in PARTS:
            floor = Floor.of([draw[part] for draw in draws])
            fresh = torch.full_like(floor.share, torch.nan) if untrained is None else untrained[part].share
            values = own[part]
            found[part] = Parts(
                values,
                method.shares(values),
                method.by_rank(values, floor.size),
                method.by_rank(values, floor.share),
                method.by_rank(values, fresh),
            )
        total, elsewhere = float((self.A * G).sum()), float(self._seen.elsewhere[number])
        return Taken(
            total,
            float(np.mean([abs(float(draw["unit"].sum())) for draw in draws])),
            elsewhere,
            method.completeness_error(total + elsewhere, float(self._seen.change[number])),
            found,
        )

    def explained(self, seed: int) -> tuple[Tensor, float, Tensor, float]:
        """What the groups explain, `(R,)`, and leave; and both where no two units are together but by chance.

        Groups that were fitted here are fitted anew to what is chance; groups of another epoch are kept.
        """
        gains, left = method.explained(self.target_table, self.W, self.H)
        units = self.target_table.T
        loose = method.apart(units[:, :, None], generator(seed, "explain apart"))[:, :, 0].T
        H = method.fit_groups(loose, len(self.H)).double() if self.fitted else self.H
        by_luck, left_by_luck = method.explained(loose, method.coefficients(loose, H), H)
        ranked = torch.sort(by_luck, descending=True).values
        return gains, left, method.by_rank(gains, ranked), left_by_luck


def untrained_floors(
    layers: Layers,
    network: Network,
    photo: Photo,
    targets: Sequence[Target],
    on: BlocksOf,
    groups: int,
    places: int,
) -> list[dict[str, Floor]] | None:
    """For each class what networks with random weights make of the parts; `None` where they say nothing."""
    drawn: list[list[dict[str, Tensor]]] = []
    for draw in range(UNTRAINED_DRAWS):
        seen = layers.untrained(network, photo, targets, draw)
        if seen is not None:
            split = Split(seen, None, on, groups, places)
            drawn.append([split.parts(G) for G in split.G])
    if not drawn:
        return None
    return [
        {part: Floor.of([draw[number][part] for draw in drawn]) for part in PARTS}
        for number in range(len(targets))
    ]
