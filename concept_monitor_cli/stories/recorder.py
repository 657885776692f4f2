"""A finished run's networks once more: shown other images, or read through another pooling.

What the run itself recorded is found in the store; a forward pass is made only for what is not there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from concept_monitor_cli.checkpoints import Checkpoint, load_checkpoint
from concept_monitor_cli.encoders import Encoder, looked_at_once
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.options import DissectOptions, Pooling
from concept_monitor_cli.probe import decode_probe
from concept_monitor_cli.record.requests import OUTPUT, Activations, Gradients, Logits, Maps, Recording
from concept_monitor_cli.run import CheckpointRecord
from concept_monitor_cli.store import Key, Store
from concept_monitor_cli.stories.inputs import WithoutNotices, grey_range_of
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.study import Context, Study, StudyFile
from concept_monitor_cli.study.looks import Look
from concept_monitor_cli.study.networks import Architecture
from concept_monitor_cli.study.seen import looks_of, restored, visit

# Options of the `dissect` that say what a network sees and what is kept of it.
_SEEING = ("input_size", "crop", "mean", "std", "interpolation", "channel_order", "precision", "seed")


@dataclass(frozen=True)
class Network:
    """The network of a checkpoint.

    Attributes:
        architecture: what is known of it without its weights.
        checkpoint: the weights.
        looks: the layers, each in its basis.
        pooling: of the run.
        make: builds it.
    """

    architecture: Architecture
    checkpoint: Checkpoint
    looks: tuple[Look, ...]
    pooling: Pooling
    make: Callable[[], nn.Module]


class RecorderOptions(Protocol):
    """The machine, and the network's code where a run needed some: what `Recorder` asks of options."""

    @property
    def model(self) -> str | None:
        """The architecture."""

    @property
    def trust_pickle(self) -> bool:
        """Whether checkpoints may run code."""

    @property
    def device(self) -> str:
        """Where networks run."""

    @property
    def batch_size(self) -> int:
        """Images per forward pass."""

    @property
    def workers(self) -> int | None:
        """Threads that decode images."""

    @property
    def cache_dir(self) -> Path | None:
        """The store."""


class Recorder:
    """The activations of a run's layers on some images.

    Args:
        opened: the run.
        options: the machine, and the network's code where the run needed some.
        probe: other images; `None` for the run's own.
        pooling: another pooling; `None` for the run's own.
        layers: which layers are looked at; `None` for all of the run.
        embeds: the run's encoder looks at the images, too, where it has one.
        look_only: nothing is decoded, recorded or written.
    """

    def __init__(
        self,
        opened: OpenRun,
        options: RecorderOptions,
        *,
        probe: str | None = None,
        pooling: Pooling | None = None,
        layers: Sequence[str] | None = None,
        embeds: bool = True,
        look_only: bool = False,
    ) -> None:
        self._opened, self._options = opened, options
        self._probe, self._pooling = probe, pooling
        self._layers = layers
        self._look_only, self._embeds = look_only, embeds
        self._known: dict[tuple[str, str], dict[str, Key]] = {}

    @cached_property
    def _study(self) -> Study:
        info = self._opened.info
        made, encoder = info["options"], info["encoder"] if self._embeds else None
        options = self._options
        seeing = {name: _plain(made.get(name)) for name in _SEEING}
        looking = {} if encoder is None else _looking_through(encoder)
        return Study(
            DissectOptions(
                checkpoints=(),
                layers=tuple(self._layers or sorted({h.layer for h in self._opened.histories})),
                out=self._opened.run.root,  # which says how the network is shown its images
                model=self._model(),
                pooling=self._pooling or made["pooling"],
                trust_pickle=options.trust_pickle,
                prefix=made.get("prefix"),
                weights_key=made.get("weights_key"),
                probe=self._probe or info["probe"]["spec"],
                probe_limit=None if self._probe else made["probe_limit"],
                grey_range=grey_range_of(made),
                concepts=info["concepts"]["spec"],
                device=options.device,
                batch_size=options.batch_size,
                workers=options.workers,
                cache_dir=options.cache_dir,
                dry_run=self._look_only,
                **seeing,
                **looking,
            ),
            WithoutNotices(self._opened.progress),
            embeds=self._embeds and encoder is not None,
            kept_bases=self._opened.run.bases(),
        )

    def _model(self) -> str | None:
        """The architecture. Code that a run names is run only if the user names it, too.

        Raises:
            InputError: the run needed code, and the user gave none.
        """
        made: str | None = self._opened.info["options"]["model"]
        if self._options.model is not None or made is None or ":" not in made:
            return self._options.model or made
        raise InputError(
            f"the network must be run again, and its code is in {made}",
            where=self._opened.run.root,
            hint=f"if you trust that code, add --model {made}",
        )

    def pooled(self, checkpoint: CheckpointRecord, layer: str) -> Tensor:
        """`Q`, `(N, C)` float32, of one layer.

        Raises:
            InputError: the checkpoint is gone, or another one now; or the images cannot be used.
        """
        with self._study.recorded(self._keys(checkpoint, Activations())[layer]) as entry:
            return torch.from_numpy(entry.read("pooled"))

    def maps(self, checkpoint: CheckpointRecord, layer: str) -> Tensor:
        """The activation maps, `(N, C, h, w)` float32, of one layer.

        Raises:
            InputError: as `pooled`; or the layer has no maps.
        """
        with self._study.recorded(self._keys(checkpoint, Maps())[layer]) as entry:
            return torch.from_numpy(entry.read("maps"))

    def logits(self, checkpoint: CheckpointRecord) -> Tensor:
        """`Z`, `(N, K)` float32: the scores of the classes.

        Raises:
            InputError: as `pooled`; or the network is no classifier.
        """
        with self._study.recorded(self._keys(checkpoint, Logits())[OUTPUT.name]) as entry:
            return torch.from_numpy(entry.read("logits"))

    def gradients(
        self, checkpoint: CheckpointRecord, layer: str, request: Gradients
    ) -> tuple[Tensor, Tensor]:
        """`(N, C)` float32, the gradient of the score of each image's class, and `(N,)` int64, that class.

        Args:
            checkpoint: of the run.
            layer: which layer, in its channels.
            request: says the classes; the same for all calls.

        Raises:
            InputError: as `logits`.
        """
        with self._study.recorded(self._keys(checkpoint, request)[layer]) as entry:
            return torch.from_numpy(entry.read("gradients")), torch.from_numpy(entry.read("classes"))

    def network(self, checkpoint: CheckpointRecord) -> Network:
        """The network of a checkpoint, not built yet.

        Raises:
            InputError: as `pooled`.
        """
        opened = open_checkpoint(checkpoint, **self._study.options.loading)
        architecture = self._study.architecture(opened)
        return Network(
            architecture,
            opened,
            tuple(looks_of(self._study, architecture)),
            self._study.options.pooling,
            lambda: restored(self._study, architecture, opened),
        )

    @property
    def device(self) -> torch.device:
        """Where networks run."""
        return self._study.device

    @property
    def store(self) -> Store:
        """The cache."""
        return self._study.store

    def prepare(self, checkpoint: CheckpointRecord, requests: Sequence[Recording]) -> None:
        """Record what is missing of a checkpoint, all in one visit.

        Raises:
            InputError: as `pooled`.
        """
        missing = [each for each in requests if (checkpoint.folder, each.kind) not in self._known]
        if not missing:
            return
        open_checkpoint(checkpoint, **self._study.options.loading)
        file = StudyFile(checkpoint.name, _path(checkpoint), checkpoint.epoch, checkpoint.folder)
        for kind, keys in visit(self._study, file, missing).items():
            self._known[checkpoint.folder, kind] = keys

    def _keys(self, checkpoint: CheckpointRecord, request: Recording) -> dict[str, Key]:
        """Where the store has every layer of a checkpoint; recorded first where it is missing."""
        self.prepare(checkpoint, [request])
        return self._known[checkpoint.folder, request.kind]

    @property
    def context(self) -> Context:
        """The images as the run's encoder sees them; known once something was recorded."""
        return self._study.context

    def context_of(self, encoder: Encoder | None) -> Context:
        """The images as another encoder sees them; known once something was recorded."""
        context, pixels = self._study.context, None
        if encoder is not None and encoder.preprocessing is not None:
            geometry = encoder.preprocessing.geometry
            _, (pixels,) = decode_probe(
                context.store,
                context.probe,
                [geometry],
                workers=self._options.workers,
                progress=context.progress,
                once=looked_at_once(context.store, encoder),
            )
        return replace(context, encoder=encoder, pixels=pixels)


def open_checkpoint(record: CheckpointRecord, **loading: Any) -> Checkpoint:
    """A checkpoint of a run, as it was at the time of the `dissect`.

    Raises:
        InputError: it is gone, or another one now.
    """
    path = _path(record)
    if not path.exists():
        raise InputError(
            f"the checkpoint of epoch {record.epoch} is gone", where=path, hint="bring it back to its place"
        )
    checkpoint = load_checkpoint(path, **loading)
    if record.weights and checkpoint.digest != record.weights:
        raise InputError(
            f"the checkpoint of epoch {record.epoch} is not the one that this run was made with",
            where=path,
            hint="bring it back, or dissect again with --overwrite",
        )
    return checkpoint


def _looking_through(encoder: dict[str, Any]) -> dict[str, Any]:
    """The options of the `dissect` for the encoder that `run.json` tells of."""
    return {
        "encoder": encoder["spec"],
        "encoder_weights": encoder["weights"],
        "encoder_config": encoder["config"],
        "templates": tuple(encoder["templates"]),
    }


def _path(record: CheckpointRecord) -> Path:
    return Path(record.path)


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
