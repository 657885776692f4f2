"""The edges between two layers of a checkpoint: found in the store, or measured."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from concept_monitor_cli.models.channel_paths import NoPathError
from concept_monitor_cli.models.layers import LayerInfo, trace
from concept_monitor_cli.options import CircuitsOptions
from concept_monitor_cli.progress import Progress
from concept_monitor_cli.record.knocked import Network, measure_edges, weigh_edges
from concept_monitor_cli.run import CheckpointRecord
from concept_monitor_cli.store import Key, Writer
from concept_monitor_cli.stories.recorder import Recorder
from concept_monitor_cli.study.networks import Architecture

#: So many units of the network with random weights are silenced; their edges are the null distribution.
NULL_UNITS = 64
# Of fresh weights, apart from those that a user's own numbers would give.
_SEED = 7_340_000


@dataclass(frozen=True)
class Measured:
    """The edges between two layers.

    Attributes:
        first, second: the layers.
        effect, error: `(C, D)` float64, see `record.knocked.Edges`.
        weight: `(C, D)` float64, what the weights let expect; None where they do not tell.
        no_weight: why not.
        untrained: `(c, D)` float64, edges of some units of the network with random weights.
    """

    first: str
    second: str
    effect: Tensor
    error: Tensor
    weight: Tensor | None
    no_weight: str
    untrained: Tensor


def forward_order(architecture: Architecture, layers: list[str]) -> list[str]:
    """Layers in the order in which a forward pass comes to their ends."""
    calls, _ = trace(architecture.skeleton, architecture.preprocessing.geometry.size)
    order = {name: place for place, name in enumerate(calls)}
    return sorted(layers, key=lambda name: order.get(name, len(order)))


def edges(
    recorder: Recorder,
    record: CheckpointRecord,
    pair: tuple[str, str],
    rows: Tensor,
    options: CircuitsOptions,
    progress: Progress,
) -> Measured:
    """The edges from one layer to a later one, from the store where they are there.

    Args:
        recorder: the run's networks.
        record: which checkpoint.
        pair: the layers.
        rows: images that count.
        options: draws, seed.
        progress: told of the measuring.

    Raises:
        InputError: the second layer does not come after the first.
    """
    network = recorder.network(record)
    architecture = network.architecture
    infos = {layer.name: layer for layer in architecture.layers}
    first, second = infos[pair[0]], infos[pair[1]]
    key = _key(recorder, architecture, network.checkpoint, (first, second), rows, options)

    def make(writer: Writer) -> None:
        def ready(model: nn.Module) -> Network:
            return Network(
                model,
                architecture.pixels,
                architecture.preprocessing,
                rows.numpy(),
                recorder.device,
                options.batch_size,
            )

        trained = ready(network.make())
        found = measure_edges(
            trained, first, second, draws=options.draws, seed=options.seed, progress=progress
        )
        if found.skipped:
            progress.notice(
                f"{first.name}: silenced units cannot branch off together, each pair of unit and image goes "
                f"through the whole network ({found.skipped})"
            )
        reason = ""
        try:
            writer.put("weight", weigh_edges(trained, first, second, found.means).numpy())
        except NoPathError as error:
            reason = str(error)
        writer.put("effect", found.effect.numpy())
        writer.put("error", found.error.numpy())
        fresh = ready(architecture.source.build(recorder.device, seed=_SEED + options.seed))
        null = measure_edges(
            fresh,
            first,
            second,
            draws=options.draws,
            units=_some(first.units, options.seed),
            seed=options.seed,
            progress=progress,
        )
        writer.put("untrained", null.effect.numpy())
        writer.meta["no_weight"] = reason

    with recorder.store.get_or_make(key, make) as entry:
        reason = str(entry.meta["no_weight"])
        return Measured(
            first.name,
            second.name,
            torch.from_numpy(entry.read("effect")),
            torch.from_numpy(entry.read("error")),
            None if reason else torch.from_numpy(entry.read("weight")),
            reason,
            torch.from_numpy(entry.read("untrained")),
        )


def _some(count: int, seed: int) -> list[int]:
    drawn = np.random.default_rng(seed).permutation(count)[:NULL_UNITS]
    return sorted(int(unit) for unit in drawn)


def _key(
    recorder: Recorder,
    architecture: Architecture,
    checkpoint: Any,
    pair: tuple[LayerInfo, LayerInfo],
    rows: Tensor,
    options: CircuitsOptions,
) -> Key:
    return recorder.store.key(
        "circuit",
        network=architecture.source.identity(),
        torch=torch.__version__,  # makes the random weights
        weights=[architecture.weights_digest(checkpoint, layer.name) for layer in pair],
        layers=[layer.name for layer in pair],
        pixels=architecture.pixels.digest,
        **architecture.preprocessing.colour_key,
        rows=hashlib.sha256(rows.numpy().tobytes()).hexdigest(),
        draws=options.draws,
        seed=options.seed,
    )
