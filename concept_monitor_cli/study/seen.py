"""What is seen of a layer in a visit of a checkpoint: found in the store, or recorded there first.

Whoever wants to look at a network goes through here: a `dissect` with its lenses, a reading that shows a
finished run's networks other images, a null distribution of networks with random weights. What several ask
for is recorded once, and everything that is missing of a network in one visit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from threading import Event

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from concept_monitor_cli.bases import Basis
from concept_monitor_cli.checkpoints import Checkpoint, load_checkpoint
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.models.layers import LayerInfo
from concept_monitor_cli.options import BasisSpec, basis_name, split_name
from concept_monitor_cli.record import RecordInfo
from concept_monitor_cli.record.in_basis import layer_in_basis
from concept_monitor_cli.record.requests import OUTPUT, Activations, Logits, Recording, needs_whole_network
from concept_monitor_cli.store import Key
from concept_monitor_cli.study.looks import Look, look_at, parse_bases
from concept_monitor_cli.study.networks import Architecture
from concept_monitor_cli.study.passes import (
    Seen,
    further_passes,
    not_recorded,
    open_entries,
    run_pass,
    tell_of_size,
)
from concept_monitor_cli.study.shared import record_shared
from concept_monitor_cli.study.study import Study
from concept_monitor_cli.study.training import StudyFile, UnusableCheckpointError


def seen(study: Study, architecture: Architecture, look: Look, request: Recording, *, weights: str) -> Seen:
    """The recording of a layer, by the content of everything that it depends on.

    Args:
        study: pooling, precision and the store.
        architecture: the network and its images.
        look: which layer of it, in which basis.
        request: what is recorded.
        weights: content of the weights that the layer depends on (`Architecture.weights_digest`), or what
            stands for random ones (`untrained_weights`).
    """
    key = study.store.key(
        request.kind,
        network=architecture.source.identity(),
        weights=weights,
        layer=look.tapped.name,
        pixels=architecture.pixels.digest,
        **architecture.preprocessing.colour_key,
        pooling=study.options.pooling,
        precision=study.options.precision,
        **({} if look.key is None else {"basis": look.key.digest}),
        **request.settings(),
    )
    return Seen(look, request, key)


def untrained_weights(seed: int) -> str:
    """What stands for the digest of fresh weights in a key: torch's generator makes them of the seed."""
    return f"untrained:{seed}:torch-{torch.__version__}"


def record_missing(
    study: Study,
    architecture: Architecture,
    wanted: Sequence[Seen],
    make: Callable[[], nn.Module],
    visited: Callable[[RecordInfo], None] = lambda _: None,
    *,
    first: bool = False,
) -> None:
    """Visit a network for everything wanted that is missing; it is not even built where nothing is.

    Processes that work on one checkpoint at the same time visit it once: the others wait, and find it done.
    Where they share its images, each visits its part.

    Args:
        study: the inputs.
        architecture: the network and its images.
        wanted: what should be in the store.
        make: builds the network, with its weights.
        visited: called after each forward pass.
        first: the work cannot go on without it, even where other tasks are to visit parts of the images.

    Raises:
        PartsMissingError: images are shared, and parts of other tasks are not there yet.
    """
    missing = not_recorded(study, wanted)
    for each in missing:
        # What a basis is fitted to may have to be recorded itself, which must not wait for a lock held here.
        each.look.basis()
    missing = not_recorded(study, missing)
    if not missing:
        return
    if study.image_shard is not None:
        record_shared(study, architecture, missing, make, visited, all_parts=first)
        return
    with ExitStack() as locks:
        # In one order for all processes, so that none waits for another that waits for it.
        for each in sorted(missing, key=lambda each: each.key.digest):
            locks.enter_context(study.store.lock(each.key))
        missing = not_recorded(study, missing)
        if missing:
            tell_of_size(study, missing, len(architecture.pixels))
            _visit(study, architecture, missing, make(), visited)


def _visit(
    study: Study,
    architecture: Architecture,
    missing: Sequence[Seen],
    model: nn.Module,
    visited: Callable[[RecordInfo], None],
) -> None:
    with ExitStack() as stack:
        opened = open_entries(stack, architecture, missing, study.store)
        info = run_pass(study, architecture, model, opened)
        visited(info)
        further_passes(study, architecture, lambda: model, [(each, info) for each in opened], visited)


def looks_of(study: Study, architecture: Architecture) -> list[Look]:
    """Everything that is looked at in a network: its layers in each of the bases.

    A basis that is fitted is fitted to the last checkpoint of the run, whichever process works on which, so
    that a member is the same direction at every epoch.

    Raises:
        InputError: a basis that does not exist here.
    """
    tapped = {layer.name: layer for layer in architecture.layers}
    names = [name for name in study.options.layers if name in study.kept_bases]
    kept = [_kept(study, tapped[split_name(name)[0]], name) for name in names]
    plain = [layer for layer in architecture.layers if layer.name in study.options.layers or not names]
    specs = parse_bases(study.options.bases)
    return kept + [_look(study, architecture, layer, spec) for layer in plain for spec in specs]


def _kept(study: Study, layer: LayerInfo, name: str) -> Look:
    """A layer in a basis that a finished run keeps."""
    with np.load(study.kept_bases[name], allow_pickle=False) as file:
        arrays = {array: file[array] for array in file.files}
    basis = Basis.from_arrays(arrays)
    key = Key("basis", str(arrays["key"]), {})
    return Look(layer_in_basis(layer, name, basis.members), layer, key=key, make=lambda: basis)


def _look(study: Study, architecture: Architecture, layer: LayerInfo, spec: BasisSpec | None) -> Look:
    name = layer.name if spec is None else basis_name(layer.name, spec)
    if name in study.looks:
        return study.looks[name]
    kept = study.kept_bases.get(name)
    if spec is not None and spec.fitted and kept is not None:
        # Later checkpoints of a run are seen in the basis that its tables are in.
        look = _kept(study, layer, name)
    else:
        look = look_at(
            study.store,
            layer,
            spec,
            pooled_key=lambda layer: _reference(study, architecture, layer).key,
            pooled=lambda layer: _reference_pooled(study, architecture, layer),
        )
        if kept is not None and look.key != _kept(study, layer, name).key:
            raise InputError(
                f"the run has another basis called {name}",
                where=kept,
                hint="rename the file, or write to another folder with --out",
            )
    study.looks[name] = look
    return look


def _reference(study: Study, architecture: Architecture, layer: LayerInfo) -> Seen:
    """The pooled activations of the run's last checkpoint, to which bases are fitted."""
    weights = architecture.weights_digest(study.last_checkpoint, layer.name)
    return seen(study, architecture, Look(layer, layer), Activations(), weights=weights)


def _reference_pooled(study: Study, architecture: Architecture, layer: LayerInfo) -> NDArray[np.float32]:
    wanted = _reference(study, architecture, layer)
    record_missing(
        study,
        architecture,
        [wanted],
        lambda: restored(study, architecture, study.last_checkpoint),
        first=True,
    )
    with study.recorded(wanted.key) as entry:
        return entry.read("pooled")


def load_usable(study: Study, file: StudyFile, *, stop: Event | None = None) -> Checkpoint:
    """A checkpoint with its weights.

    Args:
        study: says whether pickles are trusted.
        file: the checkpoint.
        stop: see `load_checkpoint`.

    Raises:
        UnusableCheckpointError: it cannot be read.
    """
    try:
        return load_checkpoint(file.path, stop=stop, progress=study.progress, **study.options.loading)
    except InputError as error:
        raise UnusableCheckpointError(error.what, where=error.where, hint=error.hint) from error


def restored(study: Study, architecture: Architecture, checkpoint: Checkpoint) -> nn.Module:
    """The network with the checkpoint's weights.

    Raises:
        UnusableCheckpointError: they do not fit.
    """
    try:
        return architecture.source.restore(checkpoint.state_dict, study.device)
    except InputError as error:
        raise UnusableCheckpointError(error.what, where=error.where, hint=error.hint) from error


def visit(study: Study, file: StudyFile, requests: Sequence[Recording]) -> dict[str, dict[str, Key]]:
    """Where the store has several recordings of every layer of one checkpoint.

    What is missing is recorded first, all in one visit.

    Args:
        study: the inputs; no lens is needed.
        file: the checkpoint.
        requests: what is recorded, each of another kind. Gradients are those of the layers' channels only;
            what belongs to the network as a whole is found under the name of `OUTPUT`.

    Returns:
        kind -> layer -> key.

    Raises:
        InputError: the checkpoint cannot be read, or does not fit the network.
    """
    checkpoint = load_usable(study, file)
    architecture = study.architecture(checkpoint)
    looks = looks_of(study, architecture)
    plain = [Look(layer, layer) for layer in dict.fromkeys(look.tapped for look in looks)]
    wanted = []
    for request in requests:
        whole = needs_whole_network(request)
        if whole and architecture.source.untrained:
            raise InputError(
                f"the checkpoint has no weights for {min(architecture.source.untrained)}, so the network's "
                "scores mean nothing",
                where=file.path,
                hint="what classes use can only be asked of a checkpoint with its classifier",
            )
        of_request = [Look(OUTPUT, OUTPUT)] if isinstance(request, Logits) else plain if whole else looks
        for look in of_request:
            weights = (
                architecture.network_digest(checkpoint)
                if whole
                else architecture.weights_digest(checkpoint, look.tapped.name)
            )
            wanted.append(seen(study, architecture, look, request, weights=weights))
    record_missing(study, architecture, wanted, lambda: restored(study, architecture, checkpoint))
    found: dict[str, dict[str, Key]] = {request.kind: {} for request in requests}
    for each in wanted:
        found[each.request.kind][each.layer.name] = each.key
    return found
