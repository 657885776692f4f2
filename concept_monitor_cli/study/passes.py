"""Passes of a network over images, for recordings of its layers in any basis."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from torch import nn

from concept_monitor_cli.bases import Basis
from concept_monitor_cli.models.layers import LayerInfo
from concept_monitor_cli.record import Consumer, RecordInfo, record
from concept_monitor_cli.record.in_basis import InBasis
from concept_monitor_cli.record.parts import Place
from concept_monitor_cli.record.requests import Pass, Recording
from concept_monitor_cli.store import Key
from concept_monitor_cli.study.looks import Look
from concept_monitor_cli.study.networks import Architecture
from concept_monitor_cli.study.study import Study


@dataclass(frozen=True)
class Seen:
    """A recording of one layer of one network.

    Attributes:
        look: the layer and its basis.
        request: what is recorded.
        key: where the store has it, or will have it.
    """

    look: Look
    request: Recording
    key: Key

    @property
    def layer(self) -> LayerInfo:
        """The layer, with the basis's members as its units."""
        return self.look.layer


def not_recorded(study: Study, wanted: Iterable[Seen]) -> list[Seen]:
    """Those that are not in the store, or damaged there; each once."""
    different = {each.key.digest: each for each in wanted}
    return [each for each in different.values() if not study.store.proved(each.key)]


#: Bytes on the disk that a user is told of before they are written.
MUCH = 10**9


def tell_of_size(study: Study, missing: Sequence[Seen], images: int) -> None:
    """Say what is about to be kept on the disk, where it is much."""
    costs = [each.request.cost(each.layer, images) for each in missing]
    kept, spool = sum(cost.bytes for cost in costs), sum(cost.spool for cost in costs)
    if kept + spool > MUCH:
        while_made = f", and {spool / 1e9:.1f} GB more while it is made" if spool else ""
        study.notice(
            f"what is seen of {', '.join(dict.fromkeys(each.layer.name for each in missing))} takes about "
            f"{kept / 1e9:.1f} GB of the cache for each checkpoint{while_made}; cmon cache prune frees it"
        )


@dataclass(frozen=True)
class Opened:
    """A recording whose entry is open for writing.

    Attributes:
        seen: which one.
        basis: what its units are; `None` for the channels.
        todo: what the next pass is to do for it.
    """

    seen: Seen
    basis: Basis | None
    todo: Pass


def open_entries(
    stack: ExitStack, architecture: Architecture, wanted: Sequence[Seen], place: Place
) -> list[Opened]:
    """Open the entries of recordings.

    Args:
        stack: closes them: whole when all went well, not at all otherwise.
        architecture: the network and its images.
        wanted: what is to be recorded.
        place: where they go.
    """
    images = len(architecture.pixels)
    return [
        Opened(each, each.look.basis(), each.request.begin(stack, place, each.key, each.layer, images))
        for each in wanted
    ]


def run_pass(
    study: Study,
    architecture: Architecture,
    model: nn.Module,
    opened: Sequence[Opened],
    images: slice | None = None,
) -> RecordInfo:
    """Show a network the images once, for all recordings together.

    Args:
        study: how it is to run.
        architecture: the network and its images.
        model: the network, with its weights.
        opened: the recordings.
        images: only these; `None`: all.
    """
    recorded = tuple(
        (type(consumer).__name__, *consumer.layers) for each in opened for consumer in each.todo.consumers
    )
    asked = study.options.batch_size
    # A network of the same kind is not tried again with what did not fit for another checkpoint.
    batch_size = min(asked, architecture.fitting.get(recorded, asked))
    info = record(
        model,
        architecture.pixels,
        architecture.preprocessing,
        [_in_basis(study, each, consumer) for each in opened for consumer in each.todo.consumers],
        scores=[consumer for each in opened for consumer in each.todo.scores],
        known={layer.name: layer for layer in architecture.layers},
        pooling=study.options.pooling,
        device=study.device,
        precision=study.options.precision,
        batch_size=batch_size,
        compile=study.options.compile,
        images=images,
        progress=study.progress,
    )
    if info.batch_size < batch_size:
        architecture.fitting[recorded] = info.batch_size
    return info


def further_passes(
    study: Study,
    architecture: Architecture,
    model: Callable[[], nn.Module],
    opened: Sequence[tuple[Opened, RecordInfo]],
    visited: Callable[[RecordInfo], None],
) -> None:
    """Complete recordings after their first pass, with more passes over all images where some need them.

    Args:
        study: how the network is to run.
        architecture: the network and its images.
        model: gives the network; called for every further pass.
        opened: the recordings, each with what its first pass was like.
        visited: called after each further pass.
    """
    while opened:
        left = [
            replace(each, todo=todo)
            for each, info in opened
            if (todo := each.todo.complete(info)) is not None
        ]
        if not left:
            return
        info = run_pass(study, architecture, model(), left)
        visited(info)
        opened = [(each, info) for each in left]


def _in_basis(study: Study, opened: Opened, consumer: Consumer) -> Consumer:
    if opened.basis is None:
        return consumer
    look = opened.seen.look
    return InBasis(consumer, look.tapped, look.layer, opened.basis, study.options.pooling)
