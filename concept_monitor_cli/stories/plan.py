"""The story of a dry run: what a `dissect` would do, found out without decoding, running or writing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from concept_monitor_cli.encoders import images_to_embed
from concept_monitor_cli.encoders.hub import without_downloads
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.options import DissectOptions
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.record.parts import parts_of
from concept_monitor_cli.record.requests import Cost
from concept_monitor_cli.run import RunFolder
from concept_monitor_cli.stories.dissect import check_place, require_numbers
from concept_monitor_cli.stories.pieces import (
    open_study,
    pieces_of,
    random_pieces,
    unknown_pieces,
    untrained_by_seed,
)
from concept_monitor_cli.study import Architecture, Study, StudyFile, UnusableCheckpointError, describe
from concept_monitor_cli.study.passes import Seen
from concept_monitor_cli.study.seen import load_usable, restored
from concept_monitor_cli.study.shared import own_costs


@dataclass(frozen=True)
class Step:
    """What would be done for one checkpoint.

    Attributes:
        checkpoint: its name.
        epoch: its epoch.
        forward_passes: of its network over all images; 0 where the cache knows what they would say.
        layers: that would be recorded.
        bytes: to keep of what is recorded; where units fire, no more than about so many.
        spool: bytes on the disk of the cache for as long as that takes.
        tables: to be written.
        known_tables: of those, how many the cache has the content of.
    """

    checkpoint: str
    epoch: int
    forward_passes: int
    layers: tuple[str, ...]
    bytes: int
    spool: int
    tables: int
    known_tables: int


@dataclass
class Plan:
    """What a `dissect` would do.

    Attributes:
        out: the run folder.
        images: number of probing images.
        own_images: of those, how many this task shows to networks (`--shard-images`).
        checkpoints: what would be done for each.
        failed: name -> why, of checkpoints that cannot be dissected.
        untrained_passes: forward passes of networks with random weights, which all checkpoints share.
        untrained_bytes: to keep of those, and of the passes for floors.
        floor_passes: forward passes of a network with random weights for floors; not in `forward_passes`.
        decode: images to be decoded.
        decode_bytes: to keep of their pixels.
        embed: images to go through the encoder.
        forward_passes: of the dissected and the untrained networks, together.
        bytes: to keep, together.
        spool: the most bytes that the disk of the cache needs besides, for a while.
    """

    out: Path
    images: int = 0
    own_images: int = 0
    checkpoints: list[Step] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    untrained_passes: int = 0
    untrained_bytes: int = 0
    floor_passes: int = 0
    decode: int = 0
    decode_bytes: int = 0
    embed: int = 0
    forward_passes: int = 0
    bytes: int = 0
    spool: int = 0


def plan(options: DissectOptions, progress: Progress = SILENT) -> Plan:
    """Say what `dissect` would do with these options.

    Checkpoints and probing images are read, as what the cache knows is found by their content. Nothing is
    decoded, no network is run, nothing is downloaded, and neither the cache nor the run is touched.

    Args:
        options: as for `dissect`.
        progress: told what is assumed and what would be left out.

    Raises:
        InputError: `dissect` would refuse this input.
    """
    study = open_study(replace(options, dry_run=True), progress)
    run = RunFolder(options.out)
    found = Plan(options.out)
    recorded: set[str] = set()
    errors: list[InputError] = []
    last: Architecture | None = None
    with without_downloads():
        for broken in study.own_unreadable:
            progress.warning(f"{broken.name} would be left out: {broken.error.what}")
            found.failed[broken.name] = broken.error.what
            errors.append(broken.error)
        for file in study.files:
            try:
                last = _plan_checkpoint(study, run, file, found, recorded)
            except UnusableCheckpointError as error:
                progress.warning(f"{file.name} would be left out: {error.what}")
                found.failed[file.name] = error.what
                errors.append(error)
    if last is None and errors and study.shard_count == 1:
        raise errors[0]
    if last is not None:
        found.images = found.own_images = len(study.context.probe)
        if (own := study.image_shard) is not None:
            parts = parts_of(found.images, options.batch_size, own.count)
            found.own_images = sum(len(part) for part in parts if part.index == own.index)
        study.warn_of_little_evidence()
        found.decode, found.decode_bytes = study.to_decode.images, study.to_decode.bytes
    steps = found.checkpoints
    found.forward_passes = found.untrained_passes + sum(step.forward_passes for step in steps)
    found.bytes = found.untrained_bytes + found.decode_bytes + sum(step.bytes for step in steps)
    found.spool = max([found.spool, *(step.spool for step in steps)])
    return found


def _plan_checkpoint(
    study: Study, run: RunFolder, file: StudyFile, found: Plan, recorded: set[str]
) -> Architecture:
    checkpoint = load_usable(study, file)
    architecture = study.architecture(checkpoint)
    require_numbers(study, architecture, checkpoint, file)
    pieces = pieces_of(study, architecture, checkpoint)
    if not study.options.overwrite:
        if study.to_decode.sure:
            run.check_settings(describe.settings(study, architecture))
        check_place(run, file, checkpoint)
    unknown = unknown_pieces(study, pieces)
    missing = _not_recorded(study, [piece.seen for piece in unknown], recorded)
    if missing:
        restored(study, architecture, checkpoint)
    cost = _together(study, architecture, missing)
    found.checkpoints.append(
        Step(
            checkpoint=file.name,
            epoch=file.epoch,
            forward_passes=cost.passes,
            layers=tuple(dict.fromkeys(each.layer.name for each in missing)),
            bytes=cost.bytes,
            spool=cost.spool,
            tables=len(pieces),
            known_tables=len(pieces) - len(unknown),
        )
    )
    for wanted in untrained_by_seed(study, unknown).values():
        cost = _together(study, architecture, _not_recorded(study, wanted, recorded))
        found.untrained_passes += cost.passes
        found.untrained_bytes += cost.bytes
        found.spool = max(found.spool, cost.spool)
    random = [piece.seen for piece in random_pieces(study, pieces)]
    cost = _together(study, architecture, _not_recorded(study, random, recorded))
    found.floor_passes += cost.passes
    found.untrained_bytes += cost.bytes
    found.spool = max(found.spool, cost.spool)
    encoder, pixels = study.encoder, study.context.pixels
    eyes = any(piece.detector.needs_encoder or piece.detector.uses_encoder for piece in unknown)
    if encoder is not None and pixels is not None and eyes:
        found.embed = images_to_embed(study.store, encoder, pixels)
    return architecture


def _not_recorded(study: Study, wanted: Iterable[Seen], recorded: set[str]) -> list[Seen]:
    """Those that neither the cache has nor an earlier step makes; now they are made."""
    missing = []
    for each in wanted:
        if each.key.digest not in recorded and not study.store.has(each.key):
            recorded.add(each.key.digest)
            missing.append(each)
    return missing


def _together(study: Study, architecture: Architecture, missing: Iterable[Seen]) -> Cost:
    """Everything that is missing of a network is recorded in the same forward passes."""
    costs = own_costs(study, architecture, missing)
    return Cost(
        passes=max((cost.passes for cost in costs), default=0),
        bytes=sum(cost.bytes for cost in costs),
        spool=sum(cost.spool for cost in costs),
    )
