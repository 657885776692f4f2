"""`attribute --check`: maps of the network beside those of a network whose layers were drawn anew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from concept_monitor_cli.functional.attribution_checks import MEASURES, left_of
from concept_monitor_cli.models.layers import evaluation
from concept_monitor_cli.monitor.epochs import evenly
from concept_monitor_cli.options import AttributeOptions, AttributionMethod
from concept_monitor_cli.progress import Progress
from concept_monitor_cli.run import CheckpointRecord
from concept_monitor_cli.stories.attribute_making import Attributions, Explainer, Photo, Target
from concept_monitor_cli.stories.recorder import Network

#: Networks with other weights.
DRAWS = 3
#: So many places of the cascade are looked at, the first and the last among them.
PLACES = 8
# Seeds of fresh weights, apart from those that a user's own numbers would give.
_SEED = 7001

Maps = list[NDArray[np.float32]]


@dataclass(frozen=True)
class _Change:
    """A network that was changed, or another question to it.

    Attributes:
        test: `cascade` or `logit`.
        place: how many modules have other weights.
        what: the last of them, or the other class.
    """

    test: str
    place: int
    what: str


def sanity(
    network: Network,
    record: CheckpointRecord,
    photos: Sequence[Photo],
    targets: Sequence[Target],
    making: Attributions,
    options: AttributeOptions,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Rows of `sanity.csv`: what is left of the maps of the last epoch.

    `cascade`: modules get the weights and buffers of a network built with another seed, the classifier first,
    one after the other; at the last place all have them. `logit`: the class that comes next, of the network
    as it is.

    Raises:
        InputError: the network cannot be built anew.
    """
    layer = network.looks[0].tapped
    preprocessing = network.architecture.preprocessing

    def maps_of(model: nn.Module, asked: Sequence[Target]) -> dict[AttributionMethod, Maps]:
        explainer = Explainer(model, layer, preprocessing, options.seed, making.device, options.path)
        return {
            name: [
                explainer.explain(photo, target, name).values
                for photo, target in zip(photos, asked, strict=True)
            ]
            for name in options.methods
        }

    before = {
        name: [
            making.map(network, photo, target, name).values
            for photo, target in zip(photos, targets, strict=True)
        ]
        for name in options.methods
    }
    order = executed(network.make(), making, network, photos[0], options)
    places = evenly(list(range(1, len(order) + 1)), PLACES)
    found: dict[_Change, list[dict[AttributionMethod, Maps]]] = {}
    with progress.task("checking maps", DRAWS * len(places) + 1, "networks") as advance:
        for draw in range(DRAWS):
            model, other = network.make(), network.architecture.source.build(seed=_SEED + draw)
            for place, changed in cascade(model, other, order):
                if place in places:
                    change = _Change("cascade", place, changed)
                    found.setdefault(change, []).append(maps_of(model, targets))
                    advance(1)
        others = [
            _next_class(making, network, photo, target) for photo, target in zip(photos, targets, strict=True)
        ]
        found[_Change("logit", 0, "the class that comes next")] = [maps_of(network.make(), others)]
        advance(1)
    rows = []
    for change, draws in found.items():
        for name in options.methods:
            for measure in MEASURES:
                left = [left_of(before[name], maps[name], measure) for maps in draws]
                rows.append(
                    {
                        "epoch": record.epoch,
                        "checkpoint": record.name,
                        "layer": layer.name,
                        "method": name,
                        "test": change.test,
                        "place": change.place,
                        "randomised": change.what,
                        "measure": measure,
                        "value": _mean([each.value for each in left]),
                        "floor": _mean([each.floor for each in left]),
                        "draws": len(left),
                        "constant": sum(each.constant for each in left),
                        "images": len(photos),
                    }
                )
    return rows


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def _next_class(making: Attributions, network: Network, photo: Photo, target: Target) -> Target:
    """The class with the largest logit but for the target's own."""
    logits = making.logits(network, photo).clone()
    logits[target.wanted] = -torch.inf
    return Target(int(logits.argmax()))


def executed(
    model: nn.Module, making: Attributions, network: Network, photo: Photo, options: AttributeOptions
) -> list[str]:
    """The modules that have weights or buffers of their own, in the order in which a pass ends in them."""
    order: dict[str, None] = {}
    handles = []

    def seen(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, _output: Any) -> None:
            order.pop(name, None)  # of several calls the last one counts
            order[name] = None

        return hook

    for name, module in model.named_modules():
        if any(True for _ in module.parameters(recurse=False)) or any(
            True for _ in module.buffers(recurse=False)
        ):
            handles.append(module.register_forward_hook(seen(name)))
    explainer = Explainer(
        model, network.looks[0].tapped, network.architecture.preprocessing, options.seed, making.device
    )
    with evaluation(model):
        explainer.logits(photo)
    for handle in handles:
        handle.remove()
    return list(order)


def cascade(model: nn.Module, other: nn.Module, order: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Put the weights and buffers of another network into a network, the module that is executed last first.

    Args:
        model: changed in place.
        other: of the same architecture.
        order: of execution.

    Yields:
        How many modules are changed, and the last of them.
    """
    mine, its = dict(model.named_modules()), dict(other.named_modules())
    for place, name in enumerate(reversed(order), start=1):
        with torch.no_grad():
            for own, new in zip(_own(mine[name]), _own(its[name]), strict=True):
                own.copy_(new)
        yield place, name


def _own(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]
