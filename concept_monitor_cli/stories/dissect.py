"""The story of a `dissect`, to be read from top to bottom.

For every checkpoint: record what is missing in one forward pass, let every detector conclude, write the
tables.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from concept_monitor_cli.ahead import one_ahead
from concept_monitor_cli.checkpoints import Checkpoint, sparsity
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.monitor.findings import Finding
from concept_monitor_cli.options import DissectOptions, ReadingOptions
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.record import RecordInfo
from concept_monitor_cli.record.soundness import units_without_numbers
from concept_monitor_cli.run import CheckpointRecord, RunFolder
from concept_monitor_cli.store import remove_leftovers
from concept_monitor_cli.stories.conclude import (
    conclude_and_write,
    keep_bases,
    write_agreement,
    write_random,
)
from concept_monitor_cli.stories.overall import conclude_run
from concept_monitor_cli.stories.pieces import (
    Piece,
    first_seed,
    open_study,
    pieces_of,
    random_pieces,
    unknown_pieces,
    untrained_by_seed,
)
from concept_monitor_cli.study import (
    Architecture,
    LostEntryError,
    Study,
    StudyFile,
    UnusableCheckpointError,
    describe,
)
from concept_monitor_cli.study.passes import Seen
from concept_monitor_cli.study.seen import (
    load_usable,
    record_missing,
    restored,
)
from concept_monitor_cli.study.shared import NotJoinableError, PartsMissingError

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn


# An entry of the cache may be removed, or found damaged, after it was seen there: then it is made again.
ATTEMPTS = 3


@dataclass
class DissectResult:
    """What a `dissect` did.

    Attributes:
        out: the run folder.
        done: names of the checkpoints that are complete.
        failed: name -> why, of those that are not.
        forward_passes: how often a network was run over all images, untrained ones too.
        floor_passes: how often a network with random weights was run for floors; not in `forward_passes`.
        forward_seconds: time inside the networks.
        encoder_seconds: time inside the encoder's networks.
        images: number of probing images.
        layers: of the tables that were written.
        waiting: name -> the parts of its images that other tasks have not recorded yet (`--shard-images`).
        whole: whether no other share of the checkpoints is left to be done.
        findings: what the run says, in sentences; none where it is not whole.
        statistics: what `statistics.csv` has, not rounded; `None` where it was not counted.
    """

    out: Path
    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    waiting: dict[str, tuple[str, ...]] = field(default_factory=dict)
    forward_passes: int = 0
    floor_passes: int = 0
    forward_seconds: float = 0.0
    encoder_seconds: float = 0.0
    images: int = 0
    layers: tuple[str, ...] = ()
    whole: bool = False
    findings: list[Finding] = field(default_factory=list)
    statistics: pd.DataFrame | None = None


def dissect(
    options: DissectOptions,
    progress: Progress = SILENT,
    *,
    begin: Callable[[RunFolder], None] | None = None,
) -> DissectResult:
    """Find the concept of every unit of some layers, at every checkpoint.

    Args:
        options: what to do.
        progress: told what happens.
        begin: see `dissect_study`. `None`: what `overwrite` says.

    Returns:
        What was done; the results themselves are in the run folder.

    Raises:
        InputError: nothing can be done with this input.
        CmonError: the work failed. What was finished before is kept, and a rerun continues there.
    """
    if options.dry_run:
        raise ValueError("what a dissect would do is said by `stories.plan.plan`")
    if begin is None and options.overwrite:
        begin = RunFolder.clear
    return dissect_study(open_study(options, progress), begin=begin)


def dissect_study(
    study: Study,
    *,
    skip: Callable[[StudyFile], bool] | None = None,
    begin: Callable[[RunFolder], None] | None = None,
) -> DissectResult:
    """`dissect`, of inputs that are open already.

    Args:
        study: the inputs.
        skip: checkpoints whose tables are there already; `None`: none are taken on trust.
        begin: called before the first table is written, when all inputs are open: a slip in an option must
            not cost the run that is there.

    Raises:
        InputError, CmonError: see `dissect`.
    """
    options, progress = study.options, study.progress
    study.anew = begin is not None
    run = RunFolder(options.out)
    result = DissectResult(options.out)
    architecture: Architecture | None = None
    errors: list[InputError] = []
    unusable: list[tuple[StudyFile, InputError]] = []
    files = [file for file in study.files if skip is None or not skip(file)]
    for broken in study.own_unreadable:
        study.warning(f"{broken.name} is left out: {broken.error.what}")
        result.failed[broken.name] = broken.error.what
        errors.append(broken.error)
    try:
        with (
            closing(_loading_ahead(study, files)) as ahead,
            progress.task("dissecting", len(files), "checkpoints") as advance,
        ):
            for file, load in ahead:
                try:
                    architecture = _dissect_checkpoint(study, run, file, load, result, begin)
                    begin = None
                    result.done.append(file.name)
                except UnusableCheckpointError as error:
                    progress.warning(f"{file.name} is left out: {error.what}")
                    result.failed[file.name] = error.what
                    errors.append(error)
                    unusable.append((file, error))
                except PartsMissingError as error:
                    _say_waiting(study, file, error)
                    result.waiting[file.name] = error.parts
                if begin is None:
                    write_failed(run, unusable)
                advance(1)
    except BaseException:
        # An error, or a signal: what is done should be seen in the run all the same.
        if architecture is not None:
            combine(study, run, architecture, finished=False)
        raise
    if begin is not None and unusable and study.shard_count > 1:
        # Nothing but broken ones in this share: the others may be whole.
        begin(run)
        write_failed(run, unusable)
    combine(study, run, architecture, finished=True)
    if architecture is not None:
        result.images = len(study.context.probe)
        result.encoder_seconds = study.context.clock.seconds()
        study.warn_of_little_evidence()
    elif result.waiting:
        study.progress.detail(f"{len(result.waiting)} checkpoints wait for parts of their images")
    elif errors and study.shard_count == 1:
        raise errors[0]
    elif not errors and study.shard_count > 1:
        study.notice(f"nothing to do: there are fewer checkpoints than shares (this is {study.shard})")
    # A share of broken checkpoints may be the last one, too.
    if architecture is not None or errors:
        result.whole = _is_whole(study, run)
    if result.whole:
        concluded = conclude_run(
            run,
            ReadingOptions.of(options),
            None if architecture is None else study.context,
            resample=options.stability,
            progress=progress,
        )
        result.findings, result.statistics = concluded.findings, concluded.statistics
    return result


def _is_whole(study: Study, run: RunFolder) -> bool:
    """Whether no other share of the checkpoints is left to be done, and some of them are."""
    if study.shard_count == 1 and study.image_shard is None:
        return True
    ended = {record.folder: record.status for record in run.checkpoints()}
    return "done" in ended.values() and all(
        ended.get(file.folder) in ("done", "failed") for file in study.all_files
    )


def _say_waiting(study: Study, file: StudyFile, error: PartsMissingError) -> None:
    """Say which parts of a checkpoint's images are not there yet."""
    own, missing = study.image_shard, ", ".join(error.parts)
    study.progress.notice(
        f"{file.name}: part {own} of the images is recorded; missing: {missing}. "
        "The task that records the last part writes the tables; if none is at it, start it with "
        f"--shard-images {error.parts[0]}"
    )


def combine(study: Study, run: RunFolder, architecture: Architecture | None, *, finished: bool) -> None:
    """Bring what all checkpoints share up to date: `run.json`, the stacked table, how detectors agree.

    Args:
        study: the inputs.
        run: where the tables of the checkpoints are.
        architecture: of a checkpoint that was dissected; `None` if none was, as in a share of broken ones.
        finished: whether there is time to compare detectors, which may have to embed words.
    """
    run.combine(
        None if architecture is None else describe.info(study, architecture),
        derive=partial(write_agreement, study, run) if finished and architecture is not None else None,
        progress=study.progress,
    )
    # Of processes that were killed: nobody else may come to write the same file again.
    remove_leftovers(run.root, recursive=True)
    study.store.remove_free_locks()


def _loading_ahead(
    study: Study, files: Sequence[StudyFile]
) -> Generator[tuple[StudyFile, Callable[[], Checkpoint]], None, None]:
    """Every file, with what gives its checkpoint, once, as `load_usable` does.

    The next one is read and hashed while one is worked on: on a cluster's shared disks that takes seconds, in
    which an accelerator would have nothing to do.
    """
    stop = Event()

    def load(file: StudyFile) -> Checkpoint:
        checkpoint = load_usable(study, file, stop=stop)
        _ = checkpoint.digests  # kept there
        return checkpoint

    return one_ahead(load, files, name="cmon-load", stop=stop.set)


def _dissect_checkpoint(
    study: Study,
    run: RunFolder,
    file: StudyFile,
    load: Callable[[], Checkpoint],
    result: DissectResult,
    begin: Callable[[RunFolder], None] | None,
) -> Architecture:
    checkpoint = load()
    architecture = study.architecture(checkpoint)
    dissect_network(study, run, file, checkpoint, architecture, result, begin)
    return architecture


def dissect_network(
    study: Study,
    run: RunFolder,
    file: StudyFile,
    checkpoint: Checkpoint,
    architecture: Architecture,
    result: DissectResult,
    begin: Callable[[RunFolder], None] | None = None,
) -> None:
    """Record, conclude, write.

    Args:
        study: the inputs.
        run: where the tables go.
        file: the checkpoint's place in the run.
        checkpoint: the weights.
        architecture: the network that they are of.
        result: gets the number of forward passes and their time.
        begin: see `dissect_study`.

    Raises:
        InputError, CmonError: see `dissect`.
    """
    require_numbers(study, architecture, checkpoint, file)
    pieces = pieces_of(study, architecture, checkpoint)
    result.layers = tuple(dict.fromkeys(piece.layer.name for piece in pieces))
    if begin is not None:
        begin(run)
    run.check_settings(describe.settings(study, architecture))
    rewritten = check_place(run, file, checkpoint)
    stated = checkpoint.accuracy
    record = CheckpointRecord(
        name=file.name,
        path=str(file.path.resolve()),
        epoch=file.epoch,
        folder=file.folder,
        status="done",
        weights=checkpoint.digest,
        model=architecture.source.label,
        sparsity=sparsity(checkpoint.state_dict),
        accuracy=None if stated is None else stated.share,
        accuracy_stated=None if stated is None or stated.per_cent else stated.number,
    )
    for attempt in range(1, ATTEMPTS + 1):
        try:
            try:
                _record_pieces(study, architecture, checkpoint, pieces, result)
            except NotJoinableError as error:
                raise _of_detectors(error, pieces) from error
            if rewritten:
                _forget(study, run, file, pieces)
                rewritten = False
            before = run.checkpoint_in(file.folder)
            if before is None or before.weights != record.weights:
                # Before the first table: should the run be killed, it is known whose tables these are.
                run.write_checkpoint(replace(record, status="started"))
            keep_bases(run, pieces)
            for piece in pieces:
                conclude_and_write(study, run, file, piece)
                write_random(study, run, piece)
            break
        except LostEntryError:
            if attempt == ATTEMPTS:
                raise
    run.write_checkpoint(record)


def _of_detectors(error: NotJoinableError, pieces: Sequence[Piece]) -> InputError:
    """What cannot be put together from parts of the images, with the detectors that want it."""
    wanted = [piece.detector.name for piece in pieces if piece.seen.key.digest == error.recording]
    names = ", ".join(dict.fromkeys(wanted)) or "a null distribution"
    return InputError(f"{names}: {error.what}", where=error.where, hint=error.hint)


def require_numbers(
    study: Study, architecture: Architecture, checkpoint: Checkpoint, file: StudyFile
) -> None:
    """Refuse a checkpoint whose NaN or infinite weights reach every unit of a layer; say which units else.

    Raises:
        UnusableCheckpointError: a layer has no unit left, or the weights do not fit.
    """
    if not checkpoint.nonfinite:
        return
    model = restored(study, architecture, checkpoint)
    size = architecture.preprocessing.geometry.size
    for layer, units in units_without_numbers(model, architecture.layers, size).items():
        info = next(info for info in architecture.layers if info.name == layer)
        if len(units) == info.units:
            try:
                checkpoint.require_finite()
            except InputError as error:
                raise UnusableCheckpointError(
                    f"{error.what}; they reach every unit of {layer}", where=error.where, hint=error.hint
                ) from error
        if units:
            shown = ", ".join(map(str, units[:5])) + (" ..." if len(units) > 5 else "")
            study.warning(
                f"{file.name}, {layer}: {len(units)} of {info.units} units give no number, as weights "
                f"are NaN or infinite ({checkpoint.nonfinite[0]}); they count as dead: {shown}"
            )


def write_failed(run: RunFolder, unusable: list[tuple[StudyFile, InputError]]) -> None:
    """Record checkpoints that cannot be dissected, and empty the list of them."""
    while unusable:
        file, error = unusable.pop(0)
        before = run.checkpoint_in(file.folder)
        path = str(file.path.resolve())
        if before is not None and before.path != path:
            continue
        run.write_checkpoint(
            CheckpointRecord(
                name=file.name,
                path=path,
                epoch=file.epoch,
                folder=file.folder,
                status="failed",
                # Tables of what the file held before may be there.
                weights="" if before is None else before.weights,
                error=error.what,
            )
        )


def _record_pieces(
    study: Study,
    architecture: Architecture,
    checkpoint: Checkpoint,
    pieces: Sequence[Piece],
    result: DissectResult,
) -> None:
    """Record what is not there yet: of the checkpoint, and of networks with random weights, once for all.

    Raises:
        PartsMissingError: images are shared, and parts of other tasks are not there yet.
    """

    def visited(info: RecordInfo) -> None:
        result.forward_passes += 1
        result.forward_seconds += info.seconds_forward

    lacking: list[str] = []

    def record(
        wanted: Sequence[Seen], make: Callable[[], nn.Module], visited: Callable[[RecordInfo], None]
    ) -> None:
        try:
            record_missing(study, architecture, wanted, make, visited)
        except PartsMissingError as error:  # the own parts of all networks first
            lacking.extend(error.parts)

    def visited_for_floors(info: RecordInfo) -> None:
        result.floor_passes += 1
        result.forward_seconds += info.seconds_forward

    unknown = unknown_pieces(study, pieces)
    if unknown and study.image_shard is not None:
        study.context.embed_part(study.image_shard)
    for detector in {piece.detector.name: piece.detector for piece in unknown}.values():
        detector.prepare(study.context)
    # Twice where images are shared: two tasks that end together may each have waited for the other in a
    # different network. Whoever looks for the second time last finds all parts of all networks.
    for _ in range(1 if study.image_shard is None else 2):
        lacking.clear()
        make = partial(restored, study, architecture, checkpoint)
        record([piece.seen for piece in unknown], make, visited)
        for seed, wanted in untrained_by_seed(study, unknown).items():
            make = partial(architecture.source.build, study.device, seed=seed)
            record(wanted, make, visited)
        make = partial(architecture.source.build, study.device, seed=first_seed(study))
        record([piece.seen for piece in random_pieces(study, pieces)], make, visited_for_floors)
        if not lacking:
            return
    raise PartsMissingError(lacking)


def check_place(run: RunFolder, file: StudyFile, checkpoint: Checkpoint) -> bool:
    """Refuse to mix two trainings in one run.

    Returns:
        Whether the file has other weights by now than those in the run's tables.

    Raises:
        InputError: the run has another training's checkpoint at this epoch.
    """
    before = run.checkpoint_in(file.folder)
    path = str(file.path.resolve())
    if before is None or before.weights in ("", checkpoint.digest):
        return False
    if before.path == path:
        return True
    raise InputError(
        f"the run has another checkpoint for epoch {file.epoch}: {before.path}",
        where=path,
        hint="write to another folder with --out, or start the run anew with --overwrite",
    )


def _forget(study: Study, run: RunFolder, file: StudyFile, pieces: Sequence[Piece]) -> None:
    """Remove what the run says of weights that a checkpoint file does not hold any more."""
    kept = {piece.table for piece in pieces}
    removed = run.forget(file.folder, kept)
    others = ", ".join(f"{layer} ({detector})" for layer, detector in removed)
    study.progress.warning(
        f"{file.name} has other weights than before"
        + (f": its tables of {others} were removed; dissect those again" if others else "")
    )
