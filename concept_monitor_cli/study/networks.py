"""Networks of checkpoints: which layers there are, what these depend on, how images are shown to them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from concept_monitor_cli.checkpoints import Checkpoint, combined_digest
from concept_monitor_cli.errors import CmonError, InputError
from concept_monitor_cli.evidence import InputEvidence
from concept_monitor_cli.models.build import ModelSource
from concept_monitor_cli.models.dependencies import weights_of_layers
from concept_monitor_cli.models.layers import LayerInfo, describe_layers, list_layers
from concept_monitor_cli.models.live import LiveSource
from concept_monitor_cli.models.preprocess import target_preprocessing
from concept_monitor_cli.models.stages import LAST, stages
from concept_monitor_cli.options import DissectOptions
from concept_monitor_cli.probe import Geometry, Pixels, Preprocessing
from concept_monitor_cli.store import Store


@dataclass(frozen=True)
class Architecture:
    """A network without its weights, and what follows from it.

    Attributes:
        source: how to build it.
        layers: the layers to dissect.
        weights: for each layer, the names of the weights that its output depends on.
        preprocessing: how it wants its images.
        evidence: whether the last checkpoint's own statistics agree with that.
        pixels: the probing images in that geometry.
        skeleton: the network on the meta device.
        fitting: what is recorded -> images per step, where fewer than asked for fitted the memory.
    """

    source: ModelSource
    layers: tuple[LayerInfo, ...]
    weights: Mapping[str, frozenset[str]]
    preprocessing: Preprocessing
    evidence: InputEvidence
    pixels: Pixels
    skeleton: nn.Module
    fitting: dict[Hashable, int] = field(default_factory=dict, compare=False)

    def weights_digest(self, checkpoint: Checkpoint, layer: str) -> str:
        """Content of the weights that a layer's output depends on: a new head leaves it as it was."""
        named = self.source.align(checkpoint.digests, self.skeleton)
        return combined_digest(named, self.weights[layer] & named.keys())

    def network_digest(self, checkpoint: Checkpoint) -> str:
        """Content of all weights of the network."""
        return combined_digest(self.source.align(checkpoint.digests, self.skeleton))


def shown_to(
    source: ModelSource, options: DissectOptions, *, whole_frame: bool, **given: Any
) -> Preprocessing:
    """How images are shown to a network: as it wants them, unless the options say otherwise.

    Args:
        source: the network.
        options: with the user's size, crop, mean, deviation and interpolation.
        whole_frame: nothing may be cropped: masks cover the whole frame, a crop would put them out of line
            with the activations.
        given: arguments of `target_preprocessing` that go before the options.
    """
    asked: dict[str, Any] = {
        "input_size": options.input_size,
        "crop": options.crop,
        "mean": options.mean,
        "std": options.std,
        "interpolation": options.interpolation,
        "channels": options.channel_order,
    }
    wanted = target_preprocessing(source, **{**asked, **given})
    if not whole_frame or wanted.geometry.whole_frame:
        return wanted
    return replace(
        wanted,
        geometry=Geometry(wanted.geometry.size, mode="squash", interpolation=wanted.geometry.interpolation),
        source=f"{wanted.source}; the whole frame is shown, so that masks line up",
    )


def traced(
    source: ModelSource,
    model: nn.Module,
    names: Sequence[str],
    size: int,
    *,
    options: DissectOptions,
    store: Store,
) -> tuple[tuple[LayerInfo, ...], dict[str, frozenset[str]]]:
    """The layers, and the weights that each depends on: what running the network without numbers shows.

    Kept in the store: torch takes seconds to get ready for the first such run of a process. Not so of a
    network in use, of which only its outputs say what it is.

    Args:
        source: how to build the network.
        model: the network itself.
        names: of the layers; those that no option names as they stand may be left out.
        size: side of its images in pixels.
        options: with the layers as the user named them.
        store: the cache; a dry run leaves nothing in it.

    Raises:
        InputError: no layer can be read, or one that the user named cannot.
    """
    lasting = not isinstance(source, LiveSource)
    key = store.key(
        "layers", network=source.identity(), layers=list(names), size=size, torch=torch.__version__
    )
    known = store.get(key) if lasting else None
    if known is not None:
        with known:
            layers = tuple(LayerInfo.from_json(values) for values in known.meta["layers"])
            weights = known.meta["weights"].items()
            return layers, {name: frozenset(needed) for name, needed in weights}
    literal = {name.strip() for name in options.layers}
    optional = {name for name in names if name not in literal}
    try:
        found = describe_layers(model, names, size, optional=optional)
    except InputError:
        raise
    except CmonError:
        if not lasting:
            raise
        # Not every network runs without real memory behind its tensors.
        model = source.build(device="cpu")
        found = describe_layers(model, names, size, optional=optional)
    if not found:
        raise InputError(
            f"none of the {len(names)} layers of this pattern can be read",
            where=f"--layer {', '.join(options.layers)}",
            hint="`cmon layers` lists those that can",
        )
    layers = tuple(found[name] for name in names if name in found)
    needed = {name: weights_of_layers(model, [name], size, found) for name in found}
    if lasting and not options.dry_run:
        meta = {
            "layers": [layer.to_json() for layer in layers],
            "weights": {name: sorted(weights) for name, weights in needed.items()},
        }
        store.put(key, {}, meta).close()
    return layers, needed


def last_stages(source: ModelSource, model: nn.Module, size: int) -> list[str]:
    """The layers of `--layer auto`.

    Raises:
        InputError: no layer can be read.
    """
    try:
        found = list_layers(model, size)
    except InputError:
        raise
    except CmonError:
        model = source.build(device="cpu")
        found = list_layers(model, size)
    if not found:
        raise InputError(
            "no layer of this network can be read", where=source.label, hint="name one with --layer"
        )
    return [layer.name for layer in stages(model, found)[-LAST:]]
