"""What the change of each unit between two epochs brought each image: by the weights, or by both networks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.evolutions import STEPS, elsewhere, head_effects
from concept_monitor_cli.options import EvolutionsOptions
from concept_monitor_cli.progress import Progress
from concept_monitor_cli.record.evolved import Side, evolved, scores_set_back
from concept_monitor_cli.run import CheckpointRecord
from concept_monitor_cli.store import JSONValue, Key, Writer
from concept_monitor_cli.stories.classes import NetworkClasses
from concept_monitor_cli.stories.heads import linear_head
from concept_monitor_cli.stories.recorder import Network, Recorder
from concept_monitor_cli.wording import counted


@dataclass(frozen=True)
class Asked:
    """Images that are looked at, those of a class one after the other.

    Attributes:
        images: `(n,)`, places in the probing set.
        classes: `(n,)`, the class of each, ascending.
    """

    images: Tensor
    classes: Tensor

    @property
    def names(self) -> list[int]:
        """The `K'` distinct classes, ascending."""
        return sorted(set(self.classes.tolist()))

    def of(self, name: int) -> Tensor:
        """Which of the `n` images are of a class."""
        return torch.nonzero(self.classes == name)[:, 0]


@dataclass(frozen=True)
class Seen:
    """Of one layer between two epochs: what each unit brought each image.

    Attributes:
        path, fast, exact: `(n, C)`; the last is None where it was not asked for.
        before, after: `(n,)`, scores with the layer of the earlier epoch, and of the later one.
        elsewhere: `(K', C)`.
        set_back: scores of some of the images with each of some sets of units as they were.
    """

    path: Tensor
    fast: Tensor
    exact: Tensor | None
    before: Tensor
    after: Tensor
    elsewhere: Tensor
    set_back: Callable[[Tensor, Sequence[Sequence[int]]], Tensor]


@dataclass(frozen=True)
class Pair:
    """Two epochs of a layer."""

    earlier: CheckpointRecord
    later: CheckpointRecord
    layer: str

    @property
    def epochs(self) -> dict[str, Any]:
        """The first columns of a row."""
        return {"from_epoch": self.earlier.epoch, "to_epoch": self.later.epoch, "layer": self.layer}

    @property
    def epochs_and_layer(self) -> tuple[str, int, int]:
        """The first fields of `Held`."""
        return self.layer, self.earlier.epoch, self.later.epoch


def asked_images(
    classes: NetworkClasses, rows: Tensor, Z: Tensor, options: EvolutionsOptions, progress: Progress
) -> Asked:
    """Images of the classes that have enough, at most so many of each.

    An image whose class is not known counts for the class that the later network predicts.

    Raises:
        InputError: no class has enough.
    """
    of_images = torch.where(classes.of_images < 0, Z.argmax(1), classes.of_images)[rows]
    generator = np.random.default_rng(options.seed)
    images, left = [], 0
    for name in range(len(classes.names)):
        mine = rows[of_images == name]
        left += 0 < len(mine) < options.least
        if len(mine) >= options.least:
            order = generator.permutation(len(mine))[: options.images]
            images.append((name, mine[np.sort(order)]))
    if left:
        progress.notice(
            f"{counted(left, 'classes')} on fewer than {options.least} images are left out (--least)"
        )
    if not images:
        raise InputError(
            f"no class is on {options.least} images",
            hint="lower --least, or dissect with more images of the classes of the network",
        )
    return Asked(
        torch.cat([mine for _, mine in images]),
        torch.cat([torch.full((len(mine),), name) for name, mine in images]),
    )


def effects_of(
    recorder: Recorder, pair: Pair, asked: Asked, options: EvolutionsOptions, progress: Progress
) -> Seen:
    """By the weights of a linear head where that is all that follows; else by running both networks."""
    later = recorder.network(pair.later)
    Q, Z = recorder.pooled(pair.later, pair.layer), recorder.logits(pair.later)
    W = linear_head(later.checkpoint.state_dict, pair.layer, Q, Z)
    if W is None:
        return _by_networks(recorder, pair, later, asked, options, progress)
    change = (Q - recorder.pooled(pair.earlier, pair.layer))[asked.images]
    effects = head_effects(W, asked.classes, change)
    after = Z[asked.images].gather(1, asked.classes[:, None])[:, 0].double()
    rows = []
    for name in asked.names:
        mean = change[asked.of(name)].double().mean(0)
        rows.append(elsewhere(W[name].double()[:, None] * mean[None]))

    def set_back(mine: Tensor, sets: Sequence[Sequence[int]]) -> Tensor:
        lost = [effects[mine][:, torch.tensor(units)].sum(1) for units in sets]
        return after[mine][:, None] - torch.stack(lost, 1)

    return Seen(effects, effects, effects, after - effects.sum(1), after, torch.stack(rows), set_back)


def _by_networks(
    recorder: Recorder,
    pair: Pair,
    later: Network,
    asked: Asked,
    options: EvolutionsOptions,
    progress: Progress,
) -> Seen:
    earlier = recorder.network(pair.earlier)
    layer = next(each for each in later.architecture.layers if each.name == pair.layer)
    made: dict[str, Side] = {}

    def side(network: Network, name: str) -> Side:
        if name not in made:
            architecture = network.architecture
            made[name] = Side(network.make(), architecture.pixels, architecture.preprocessing)
        return made[name]

    def both() -> tuple[Side, Side]:
        return side(earlier, "earlier"), side(later, "later")

    machine: dict[str, Any] = {
        "device": recorder.device,
        "batch_size": options.batch_size,
        "progress": progress,
    }

    def key(what: str, **more: Any) -> Key:
        return _key(recorder, pair, earlier, later, asked, what, **more)

    def make_path(writer: Writer) -> None:
        found = evolved(*both(), layer, asked.images.tolist(), asked.classes, **machine)
        for name in ("path", "fast", "before", "after", "elsewhere"):
            writer.put(name, getattr(found, name).numpy())
        writer.meta["why_not"] = found.why_not

    def set_back(mine: Tensor, sets: Sequence[Sequence[int]]) -> Tensor:
        def make(writer: Writer) -> None:
            images, classes = asked.images[mine].tolist(), asked.classes[mine]
            writer.put("scores", scores_set_back(*both(), layer, images, classes, sets, **machine).numpy())

        which = _digest([mine.tolist(), [list(units) for units in sets]])
        with recorder.store.get_or_make(key("set back", sets=which), make) as entry:
            return torch.from_numpy(entry.read("scores"))

    with recorder.store.get_or_make(key("path", steps=STEPS), make_path) as entry:
        arrays = {
            name: torch.from_numpy(entry.read(name))
            for name in ("path", "fast", "before", "after", "elsewhere")
        }
        why_not = entry.meta["why_not"]
    if why_not:
        progress.notice(
            f"{pair.layer}: a path goes round it, so copies of an image cannot run together ({why_not}). "
            "Each change gets a pass of its own, and what goes round the layer is that of the later epoch"
        )
    exact = None
    if options.exact:
        every = torch.arange(len(asked.images))
        exact = arrays["after"][:, None] - set_back(every, [[unit] for unit in range(layer.units)])
    return Seen(exact=exact, set_back=set_back, **arrays)


def _key(
    recorder: Recorder,
    pair: Pair,
    earlier: Network,
    later: Network,
    asked: Asked,
    what: str,
    **more: Any,
) -> Key:
    """By the content of everything that the numbers depend on."""
    sides: dict[str, JSONValue] = {}
    for name, network in (("earlier", earlier), ("later", later)):
        architecture, checkpoint = network.architecture, network.checkpoint
        whole = name == "later"
        sides[name] = {
            "network": architecture.source.identity(),
            "weights": (
                architecture.network_digest(checkpoint)
                if whole
                else architecture.weights_digest(checkpoint, pair.layer)
            ),
            "pixels": architecture.pixels.digest,
            **architecture.preprocessing.colour_key,
        }
    return recorder.store.key(
        "evolutions",
        what=what,
        layer=pair.layer,
        asked=_digest([asked.images.tolist(), asked.classes.tolist()]),
        **sides,
        **more,
    )


def _digest(value: Any) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()
