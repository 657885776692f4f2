"""A study: what `dissect` works with, opened from its options.

Everything here is the same for all checkpoints of one architecture, and is opened once.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from concept_monitor_cli.builtin import VOCABULARY, is_rendered
from concept_monitor_cli.checkpoints import Checkpoint, Reader, load_checkpoint
from concept_monitor_cli.concepts import ConceptSet, load_concepts
from concept_monitor_cli.encoders import Encoder, PrecomputedEncoder, load_encoder, looked_at_once
from concept_monitor_cli.errors import CmonError, InputError
from concept_monitor_cli.models.build import ModelSource, resolve_model
from concept_monitor_cli.models.device import resolve_device
from concept_monitor_cli.models.layers import LayerInfo, is_pattern, resolve_layers
from concept_monitor_cli.models.preprocess import grey
from concept_monitor_cli.models.pretrained import pretrained_files
from concept_monitor_cli.options import AUTO, DissectOptions, Shard, split_name
from concept_monitor_cli.probe import (
    Geometry,
    Pixels,
    ProbeSet,
    ToDecode,
    decode_probe,
    load_probe,
    plan_probe,
)
from concept_monitor_cli.probe.groups import FINGERPRINT
from concept_monitor_cli.progress import Progress
from concept_monitor_cli.store import Entry, Key, Store
from concept_monitor_cli.study.context import Context
from concept_monitor_cli.study.lens import Lens
from concept_monitor_cli.study.looks import Look
from concept_monitor_cli.study.networks import Architecture, last_stages, traced
from concept_monitor_cli.study.presented import presented
from concept_monitor_cli.study.share import Shares, shares_of
from concept_monitor_cli.study.training import (
    StudyFile,
    Unreadable,
    UnusableCheckpointError,
    find_files,
    reader_of,
    renumbered,
)
from concept_monitor_cli.wording import counted

T = TypeVar("T")

BUILTIN = "builtin"
BUILTIN_WORDS = frozenset(word for word, _ in VOCABULARY)
DEFAULT_ENCODER = "ViT-B-16/openai"
FEW_IMAGES = 500


class LostEntryError(CmonError):
    """An entry of the cache that was there is gone: pruned, or found damaged and removed."""


@dataclass
class Study:
    """The inputs of a `dissect`, opened. For a dry run nothing is decoded, downloaded or written.

    Args:
        options: what was asked for.
        progress: told what was assumed.
        lenses: what will look at the recordings; none where a study is only opened to be looked at.
        kept_bases: of a finished run: where the basis of a layer called `layer4@pca8` is kept.
        embeds: images are to be seen by the encoder even where no lens asks for it.
        complete: says which of the files that are found are written to the end; `None`: all.
        anew: whether the run that may be in the output folder is to make room.
    """

    options: DissectOptions
    progress: Progress
    lenses: Sequence[Lens] = ()
    embeds: bool = False
    kept_bases: Mapping[str, Path] = field(default_factory=dict)
    complete: Callable[[Path], bool] | None = None
    anew: bool = False
    notices: list[str] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)
    to_decode: ToDecode = field(default_factory=lambda: ToDecode(0, 0, True))
    _before: set[Path] = field(default_factory=set)
    _scratch: tempfile.TemporaryDirectory[str] | None = None
    _architectures: dict[tuple[Any, ...], Architecture] = field(default_factory=dict)
    looks: dict[str, Look] = field(default_factory=dict)
    #: Layers of which a long note was said.
    told: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        specs, model = pretrained_files(self.options.checkpoints, self.options.model)
        if model != self.options.model or list(self.options.checkpoints) != specs:
            self.options = replace(self.options, checkpoints=tuple(map(str, specs)), model=model)

    def later(self, complete: Callable[[Path], bool]) -> Study:
        """The same inputs with the checkpoints that are there by now; the others are not opened again."""
        study = Study(
            self.options,
            self.progress,
            self.lenses,
            self.embeds,
            self.kept_bases,
            complete,
            notices=list(self.notices),
        )
        study._architectures = self._architectures
        study.looks = self.looks
        study.told = self.told
        study._before = {*self._before, *(file.path for file in self.__dict__.get("files", ()))}
        kept = ("reader", "store", "device", "listed_probe", "encoder", "concepts", "context")
        study.__dict__.update({name: self.__dict__[name] for name in kept if name in self.__dict__})
        return study

    def notice(self, message: str) -> None:
        """Tell the user, and keep it for `run.json`. Once is enough."""
        if message not in self.notices:
            self.notices.append(message)
            self.progress.notice(message)

    def warning(self, message: str) -> None:
        """Warn the user of what was left out, and keep it for `run.json`. Once is enough."""
        if message not in self.notices:
            self.notices.append(message)
            self.progress.warning(message)

    @cached_property
    def files(self) -> list[StudyFile]:
        """The checkpoints of this process, by epoch.

        Raises:
            InputError: see `all_files`.
        """
        return self._share(self.all_files)

    @cached_property
    def all_files(self) -> list[StudyFile]:
        """The checkpoints of all processes, by epoch. Opens each for its epoch, without reading the weights.

        Raises:
            InputError: there are none, or none of the epochs asked for.
        """
        found = find_files(self.options, self.reader, complete=self.complete, before=self._before)
        self.unreadable = found.unreadable
        for note in found.notes:
            self.notice(note)
        for warning in found.warnings:
            self.warning(warning)
        for left in found.left_out:
            self.notice(left)
        if found.question is not None:
            raise found.question
        epochs = {file.epoch for file in found.files}
        if self.options.epochs is not None:
            epochs = set(self.options.epochs.select(epochs))
        files = [file for file in found.files if file.epoch in epochs]
        for warning in renumbered(self.options, files):
            self.warning(warning)
        return files

    @cached_property
    def last_checkpoint(self) -> Checkpoint:
        """The last checkpoint of the run, whichever process works on it.

        Raises:
            UnusableCheckpointError: it cannot be read.
        """
        try:
            return load_checkpoint(self.all_files[-1].path, **self.options.loading)
        except InputError as error:
            raise UnusableCheckpointError(error.what, where=error.where, hint=error.hint) from error

    @cached_property
    def reader(self) -> Reader:
        """Opens the checkpoints, each once."""
        return reader_of(**self.options.loading)

    @property
    def own_unreadable(self) -> list[Unreadable]:
        """The unreadable files that are this process's to report: each is one share's."""
        _ = self.files  # which opens them all
        return self._share(self.unreadable)

    def _share(self, items: list[T]) -> list[T]:
        # Every second one to each of two processes: neighbours in time cost the same, so shares are even.
        shard = self.shard
        return items if shard is None else items[shard.index - 1 :: shard.count]

    @property
    def shard_count(self) -> int:
        """How many processes share the checkpoints."""
        return 1 if self.shard is None else self.shard.count

    @property
    def shard(self) -> Shard | None:
        """This process's share of the checkpoints; `None`: all. See `shares_of`."""
        return self._shares.checkpoints

    @property
    def image_shard(self) -> Shard | None:
        """This process's part of the images of each checkpoint; `None`: all. See `shares_of`."""
        return self._shares.images

    @cached_property
    def _shares(self) -> Shares:
        shares = shares_of(self.options, os.environ)
        for note in shares.notes:
            self.notice(note)
        return shares

    @cached_property
    def store(self) -> Store:
        """The cache."""
        return Store(self.options.cache, progress=self.progress, look_only=self.options.dry_run)

    @cached_property
    def device(self) -> torch.device:
        """Where networks run."""
        device = resolve_device(self.options.device)
        if device.index is not None and ":" not in self.options.device:
            self.notice(f"{device}: the GPU of this task of a SLURM step")
        return device

    @cached_property
    def listed_probe(self) -> ProbeSet:
        """The probing set as it lies on the disk, before its images were tried."""
        options = self.options
        if options.probe is None:
            self.notice(
                "no --probe given: using the built-in renderings, their concepts and a small encoder that "
                "knows nothing else. Good for trying the tool; for your own networks add --probe FOLDER"
            )
        home = options.cache
        if options.dry_run and (options.probe or BUILTIN) == BUILTIN and not is_rendered(home):
            # Their digests are needed, and nothing may be left behind.
            self._scratch = tempfile.TemporaryDirectory()
            home = Path(self._scratch.name)
        return load_probe(
            options.probe or BUILTIN,
            limit=options.probe_limit,
            seed=options.seed,
            cache_dir=home,
            grey_range=options.grey_range,
            store=self.store,
            progress=_Noting(self),
        )

    @cached_property
    def _embeds(self) -> bool:
        """Whether images are looked at through the encoder."""
        has = self.options.encoder is not None or (self.options.probe or BUILTIN) == BUILTIN
        return self.embeds or any(lens.needs_encoder or (has and lens.uses_encoder) for lens in self.lenses)

    @cached_property
    def encoder(self) -> Encoder | None:
        """The image-text encoder; its network is built only when something must be embedded.

        None where no detector needs one and none is named: then its weights need not be on this machine.
        """
        options = self.options
        default = BUILTIN if (options.probe or BUILTIN) == BUILTIN else DEFAULT_ENCODER
        if options.encoder is None and default != BUILTIN and not self._embeds:
            return None
        return load_encoder(
            options.encoder or default,
            weights=options.encoder_weights,
            config=options.encoder_config,
            device=self.device,
            precision=options.precision,
            progress=self.progress,
        )

    @cached_property
    def concepts(self) -> ConceptSet:
        """The concept set."""
        own = self.listed_probe.concepts
        spec = self.options.concepts
        if spec is None:
            builtin = self.options.probe in (None, BUILTIN)
            spec = BUILTIN if builtin else "broden" if own is not None else "common"
        concepts = load_concepts(spec, probe_concepts=own)
        for note in concepts.notes:
            self.notice(note)
        return concepts

    @cached_property
    def codes(self) -> dict[tuple[str, str], str]:
        """(concept, category) -> what the word list or data set calls it, where that is another name."""
        own = self.listed_probe.concepts
        return {**({} if own is None else own.code_of), **self.concepts.code_of}

    def recorded(self, key: Key) -> Entry:
        """A recording that must be there by now.

        Raises:
            LostEntryError: it was removed meanwhile.
        """
        entry = self.store.get(key)
        if entry is None:
            raise LostEntryError(
                "what was just recorded is gone from the cache, again and again",
                where=self.store.path(key),
                hint="run the command again, without pruning the cache at the same time",
            )
        return entry

    # -- what depends on the architecture --------------------------------------------------------

    def architecture(self, checkpoint: Checkpoint) -> Architecture:
        """The network that a checkpoint belongs to. Checkpoints of one architecture share the answer.

        Raises:
            InputError: no known architecture fits, or a layer does not exist in it.
        """
        state_dict = checkpoint.state_dict
        shapes = tuple((name, tuple(value.shape)) for name, value in sorted(state_dict.items()))
        if shapes not in self._architectures:
            self._architectures[shapes] = self._recognise(checkpoint)
        return self._architectures[shapes]

    def _recognise(self, checkpoint: Checkpoint) -> Architecture:
        try:
            source = resolve_model(
                self.options.model,
                checkpoint.state_dict,
                said=checkpoint.arch,
                family=checkpoint.family,
                config=checkpoint.config,
            )
        except InputError as error:
            raise UnusableCheckpointError(error.what, where=error.where, hint=error.hint) from error
        return self.architecture_of(source, source.build(device="meta"), checkpoint=checkpoint)

    def architecture_of(
        self, source: ModelSource, model: nn.Module, *, checkpoint: Checkpoint | None = None
    ) -> Architecture:
        """What follows from a network: its layers, what these depend on, the images as it wants them.

        Args:
            source: how to build it.
            model: the network itself, with or without its weights. Nothing is computed with them where it
                runs on the meta device.
            checkpoint: one of its checkpoints; None for a network that is in use.

        Raises:
            InputError: a layer does not exist in it or cannot be read, or its images are of another kind.
        """
        options = self.options
        if source.in_chans not in (1, 3):
            raise UnusableCheckpointError(
                f"the network takes images of {source.in_chans} channels, the probing images have 3",
                where=source.label,
                hint="give --model file.py:factory that takes RGB and makes these channels of it",
            )
        for note in () if checkpoint is None else checkpoint.notes:
            self.notice(note)
        self.notice(source.describe())
        # Before the probing images are opened, which may take long: a slip in a name should be told at once.
        named = [split_name(name)[0] for name in options.layers if name != AUTO]
        names = resolve_layers(model, named) if named or AUTO not in options.layers else []
        true, wanted, evidence = presented(self, checkpoint, source)
        if true is not source:
            source, model = true, true.build(device="meta")
        size = wanted.geometry.size
        if AUTO in options.layers:
            last = last_stages(source, model, size)
            names = list(dict.fromkeys([*names, *last]))
            self.notice(
                f"layers: auto, the last stages of the network: {', '.join(last)}. `cmon layers` shows others"
            )
        layers, weights = traced(source, model, names, size, options=options, store=self.store)
        self._say_left_out(names, layers)
        if layers[0].channels == 1:
            if wanted.channels != "rgb":
                self.warning(
                    "--channel-order is not followed: the network takes grey images, without colours"
                )
            wanted = grey(wanted)
        self.notice(f"input: {wanted}")
        for lens in self.lenses:
            lens.check(self.listed_probe, layers)
        for name, needed in weights.items():
            lacking = [key for key in needed if key.rpartition(".")[0] in source.untrained]
            if lacking:
                what = f"the checkpoint has no weights for {lacking[0]}, which {name} depends on"
                raise InputError(what, where=f"--layer {name}", hint="choose a layer before it")
        return Architecture(
            source=source,
            layers=layers,
            weights=weights,
            preprocessing=wanted,
            evidence=evidence,
            pixels=self._decode(wanted.geometry),
            skeleton=model,
        )

    def _say_left_out(self, names: Sequence[str], layers: Sequence[LayerInfo]) -> None:
        """Say which layers a pattern named, and which of them cannot be read."""
        if any(is_pattern(name) for name in self.options.layers):
            self.notice(f"layers: {', '.join(layer.name for layer in layers)}")
        left = [name for name in names if name not in {layer.name for layer in layers}]
        if left:
            self.notice(
                f"{counted(len(left), 'layers of the pattern cannot be read and are')} left out: "
                f"{left[0]} ..."
            )

    def _decode(self, geometry: Geometry) -> Pixels:
        """The probing images for a network; for the encoder too, so that each file is decoded once."""
        geometries = [geometry, *([FINGERPRINT] if self.options.groups is None else [])]
        once = looked_at_once(self.store, self.encoder if self._embeds else None, *geometries)
        geometries += once
        if self.options.dry_run:
            probe, pixels, self.to_decode = plan_probe(self.store, self.listed_probe, geometries, once=once)
        else:
            probe, pixels = decode_probe(
                self.store,
                self.listed_probe,
                geometries,
                workers=self.options.workers,
                progress=self.progress,
                once=once,
            )
        if "context" not in self.__dict__:
            seen = dict(zip(geometries, pixels, strict=True))
            self.__dict__["context"] = self._context(probe, seen)
        return pixels[0]

    @cached_property
    def context(self) -> Context:
        """What detectors look at. It exists once the probing images are decoded."""
        raise RuntimeError("the probing images are decoded with the first architecture")

    def _check_words(self) -> None:
        """Warn of words that mean nothing to the builtin encoder: they share one place."""
        strange = [word for word in self.concepts.concepts if word not in BUILTIN_WORDS]
        if self._embeds and self.encoder is not None and self.encoder.name == BUILTIN and strange:
            self.progress.warning(
                f"the builtin encoder does not know {len(strange)} of {len(self.concepts)} concepts, such as "
                f"{strange[0]!r}: their scores mean nothing. Give an --encoder for your own words"
            )

    def _context(self, probe: ProbeSet, pixels: Mapping[Geometry, Pixels]) -> Context:
        options = self.options
        self._check_words()
        if self._embeds and isinstance(self.encoder, PrecomputedEncoder):
            self.notice(self.encoder.order(probe.ids)[0])
        eyes = self.encoder.preprocessing if self._embeds and self.encoder is not None else None
        context = Context(
            store=self.store,
            probe=probe,
            pixels=None if eyes is None else pixels[eyes.geometry],
            grouping=options.groups,
            fingerprints=pixels.get(FINGERPRINT),
            concepts=self.concepts,
            encoder=self.encoder,
            templates=options.templates,
            device=self.device,
            batch_size=options.batch_size,
            seed=options.seed,
            null=options.null,
            fdr=options.fdr,
            progress=self.progress,
        )
        if not options.dry_run and (groups := context.about_groups()):
            self.notice(groups)
        return context

    def warn_of_little_evidence(self) -> None:
        """Say what suffers where there are few probing images, or nothing to choose from."""
        if len(words := self.context.concepts.concepts) == 1:
            self.warning(f"{words[0]!r} is the only concept; give more to choose from: --concepts")
        count = len(self.context.probe)
        if count < FEW_IMAGES and self.options.probe not in (None, BUILTIN):
            self.progress.warning(
                f"{count:,} probing images are few: most concepts are in none of them, a unit's label hangs "
                f"on one or two photos, and chance is known only coarsely. Take {FEW_IMAGES} or more, better "
                "some thousands"
            )


class _Noting:
    """The progress of a study, which keeps notices for `run.json`."""

    def __init__(self, study: Study) -> None:
        self.notice = study.notice
        self.warning = study.progress.warning
        self.detail = study.progress.detail
        self.task = study.progress.task
