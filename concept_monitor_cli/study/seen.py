"""What is seen of a layer in a visit of a checkpoint: found in the store, or recorded there first.

Whoever wants to look at a network goes through here: a `dissect` with its lenses, a reading that shows a
finished run's networks other images, a null distribution of networks with random weights. What several ask
for is recorded once, and everything that is missing of a network in one visit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from threading import Event

import torch
from torch import nn

from concept_monitor_cli.checkpoints import Checkpoint, load_checkpoint
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.models.layers import LayerInfo
from concept_monitor_cli.record import RecordInfo, record
from concept_monitor_cli.record.requests import Recording
from concept_monitor_cli.store import Key
from concept_monitor_cli.study.study import Architecture, Study, StudyFile, UnusableCheckpointError


@dataclass(frozen=True)
class Seen:
    """A recording of one layer of one network.

    Attributes:
        layer: the layer.
        request: what is recorded.
        key: where the store has it, or will have it.
    """

    layer: LayerInfo
    request: Recording
    key: Key


def seen(
    study: Study, architecture: Architecture, layer: LayerInfo, request: Recording, *, weights: str
) -> Seen:
    """The recording of a layer, by the content of everything that it depends on.

    Args:
        study: pooling, precision and the store.
        architecture: the network and its images.
        layer: which layer of it.
        request: what is recorded.
        weights: content of the weights that the layer depends on (`Architecture.weights_digest`), or what
            stands for random ones (`untrained_weights`).
    """
    preprocessing = architecture.preprocessing
    key = study.store.key(
        request.kind,
        network=architecture.source.identity(),
        weights=weights,
        layer=layer.name,
        pixels=architecture.pixels.digest,
        mean=list(preprocessing.mean),
        std=list(preprocessing.std),
        pooling=study.options.pooling,
        precision=study.options.precision,
        **request.settings(),
    )
    return Seen(layer, request, key)


def untrained_weights(seed: int) -> str:
    """What stands for the digest of fresh weights in a key: torch's generator makes them of the seed."""
    return f"untrained:{seed}:torch-{torch.__version__}"


def not_recorded(study: Study, wanted: Sequence[Seen]) -> list[Seen]:
    """Those that are not in the store, or damaged there; each once."""
    different = {each.key.digest: each for each in wanted}
    return [each for each in different.values() if not study.store.proved(each.key)]


def record_missing(
    study: Study,
    architecture: Architecture,
    wanted: Sequence[Seen],
    make: Callable[[], nn.Module],
    visited: Callable[[RecordInfo], None] = lambda _: None,
) -> None:
    """Visit a network for everything wanted that is missing; it is not even built where nothing is.

    Processes that work on one checkpoint at the same time visit it once: the others wait, and find it done.

    Args:
        study: the inputs.
        architecture: the network and its images.
        wanted: what should be in the store.
        make: builds the network, with its weights.
        visited: called after each forward pass over all images.
    """
    missing = not_recorded(study, wanted)
    if not missing:
        return
    with ExitStack() as locks:
        # In one order for all processes, so that none waits for another that waits for it.
        for each in sorted(missing, key=lambda each: each.key.digest):
            locks.enter_context(study.store.lock(each.key))
        missing = not_recorded(study, missing)
        if missing:
            _visit(study, architecture, missing, make(), visited)


def _visit(
    study: Study,
    architecture: Architecture,
    missing: Sequence[Seen],
    model: nn.Module,
    visited: Callable[[RecordInfo], None],
) -> None:
    with ExitStack() as stack:
        passes = [
            each.request.begin(stack, study.store, each.key, each.layer, len(architecture.pixels))
            for each in missing
        ]
        while passes:
            info = record(
                model,
                architecture.pixels,
                architecture.preprocessing,
                [consumer for each in passes for consumer in each.consumers],
                known={layer.name: layer for layer in architecture.layers},
                pooling=study.options.pooling,
                device=study.device,
                precision=study.options.precision,
                batch_size=study.options.batch_size,
                compile=study.options.compile,
                progress=study.progress,
            )
            visited(info)
            passes = [further for each in passes if (further := each.complete(info)) is not None]


def load_usable(study: Study, file: StudyFile, *, stop: Event | None = None) -> Checkpoint:
    """A checkpoint with weights that are numbers.

    Args:
        study: says whether pickles are trusted.
        file: the checkpoint.
        stop: see `load_checkpoint`.

    Raises:
        UnusableCheckpointError: it cannot be read, or holds NaN.
    """
    try:
        checkpoint = load_checkpoint(file.path, trust_pickle=study.options.trust_pickle, stop=stop)
        checkpoint.require_finite()
    except InputError as error:
        raise UnusableCheckpointError(error.what, where=error.where, hint=error.hint) from error
    return checkpoint


def restored(study: Study, architecture: Architecture, checkpoint: Checkpoint) -> nn.Module:
    """The network with the checkpoint's weights.

    Raises:
        UnusableCheckpointError: they do not fit.
    """
    try:
        return architecture.source.restore(checkpoint.state_dict, study.device)
    except InputError as error:
        raise UnusableCheckpointError(error.what, where=error.where, hint=error.hint) from error


def recordings(study: Study, file: StudyFile, request: Recording) -> dict[str, Key]:
    """Where the store has a recording of every layer of one checkpoint; what is missing is recorded first.

    For readings that look at a finished run with other images, or through another pooling.

    Args:
        study: the inputs; no lens is needed.
        file: the checkpoint.
        request: what is recorded.

    Raises:
        InputError: the checkpoint cannot be read, or does not fit the network.
    """
    checkpoint = load_usable(study, file)
    architecture = study.architecture(checkpoint)
    wanted = [
        seen(
            study,
            architecture,
            layer,
            request,
            weights=architecture.weights_digest(checkpoint, layer.name),
        )
        for layer in architecture.layers
    ]
    record_missing(study, architecture, wanted, lambda: restored(study, architecture, checkpoint))
    return {each.layer.name: each.key for each in wanted}
