"""The story of a `dissect`, to be read from top to bottom.

For every checkpoint: record what is missing in one forward pass, let every detector conclude, write the
tables.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from concept_monitor_cli.ahead import one_ahead
from concept_monitor_cli.checkpoints import Checkpoint, load_checkpoint, sparsity
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.lenses import Detector, Findings
from concept_monitor_cli.models.layers import LayerInfo
from concept_monitor_cli.monitor.agreement import agreement
from concept_monitor_cli.options import DissectOptions
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.record import record
from concept_monitor_cli.record.requests import Recording
from concept_monitor_cli.run import CheckpointRecord, RunFolder, TableRecord
from concept_monitor_cli.store import Key, atomic_write, remove_leftovers
from concept_monitor_cli.study import (
    Architecture,
    LostEntryError,
    Study,
    StudyFile,
    UnusableCheckpointError,
)

if TYPE_CHECKING:
    import pandas as pd

# `--null untrained`: units of random networks in a null distribution, and at least so many networks, so that
# no single draw of weights decides. The seeds are far from those that a user's own networks may have.
UNTRAINED_UNITS = 500
MIN_UNTRAINED = 2
UNTRAINED_SEED = 7_310_000

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
        forward_seconds: time inside the networks.
        images: number of probing images.
    """

    out: Path
    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    forward_passes: int = 0
    forward_seconds: float = 0.0
    images: int = 0


@dataclass(frozen=True)
class Piece:
    """One layer of one checkpoint as one detector sees it: the unit of work, and of a table.

    Attributes:
        layer: the layer.
        detector: the detector.
        recorder: what the detector needs of the forward pass.
        recording: where the store has what the detector needs of the forward pass.
        finding: where the store has what the detector concluded.
        untrained: recordings of the same layer with random weights, where a label must beat those.
    """

    layer: LayerInfo
    detector: Detector
    recorder: Recording
    recording: Key
    finding: Key
    untrained: tuple[Key, ...] = ()


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
        raise ValueError("what a dissect would do is said by `planning.plan`")
    if begin is None and options.overwrite:
        begin = RunFolder.clear
    return dissect_study(Study(options, progress), begin=begin)


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
                if begin is None:
                    _write_failed(run, unusable)
                advance(1)
    except BaseException:
        # An error, or a signal: what is done should be seen in the run all the same.
        if architecture is not None:
            _combine(study, run, architecture, finished=False)
        raise
    if begin is not None and unusable and study.shard_count > 1:
        # Nothing but broken ones in this share: the others may be whole.
        begin(run)
        _write_failed(run, unusable)
    _combine(study, run, architecture, finished=True)
    if architecture is not None:
        result.images = len(study.context.probe)
    elif errors and study.shard_count == 1:
        raise errors[0]
    elif not errors and study.shard_count > 1:
        study.notice(f"nothing to do: there are fewer checkpoints than shares (this is {study.shard})")
    return result


def _combine(study: Study, run: RunFolder, architecture: Architecture | None, *, finished: bool) -> None:
    """Bring what all checkpoints share up to date: `run.json`, the stacked table, how detectors agree.

    Args:
        study: the inputs.
        run: where the tables of the checkpoints are.
        architecture: of a checkpoint that was dissected; `None` if none was, as in a share of broken ones.
        finished: whether there is time to compare detectors, which may have to embed words.
    """
    run.combine(
        None if architecture is None else study.info(architecture),
        derive=partial(_write_agreement, study, run) if finished and architecture is not None else None,
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
    """Record, conclude, write."""
    checkpoint = load()
    architecture = study.architecture(checkpoint)
    pieces = pieces_of(study, architecture, checkpoint)
    if begin is not None:
        begin(run)
    run.check_settings(study.settings(architecture))
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
            _record_missing(study, architecture, checkpoint, pieces, result)
            if rewritten:
                _forget(study, run, file, pieces)
                rewritten = False
            before = run.checkpoint_in(file.folder)
            if before is None or before.weights != record.weights:
                # Before the first table: should the run be killed, it is known whose tables these are.
                run.write_checkpoint(replace(record, status="started"))
            for piece in pieces:
                _conclude_and_write(study, run, file, piece)
            break
        except LostEntryError:
            if attempt == ATTEMPTS:
                raise
    run.write_checkpoint(record)
    return architecture


def recordings(study: Study, file: StudyFile) -> dict[str, Key]:
    """Where the store has what every layer of one checkpoint said; what is missing is recorded first.

    For readings that look at a finished run with other images, or through another pooling.

    Args:
        study: with one detector, which says what to record.
        file: the checkpoint.

    Raises:
        InputError: the checkpoint cannot be read, or does not fit the network.
    """
    checkpoint = load_usable(study, file)
    architecture = study.architecture(checkpoint)
    pieces = pieces_of(study, architecture, checkpoint)
    make = partial(restored, study, architecture, checkpoint)
    _record(study, architecture, pieces, make, DissectResult(study.options.out))
    return {piece.layer.name: piece.recording for piece in pieces}


def _conclude_and_write(study: Study, run: RunFolder, file: StudyFile, piece: Piece) -> None:
    findings = _conclude(study, run, file, piece)
    record_of = TableRecord(
        checkpoint=file.name,
        epoch=file.epoch,
        layer=piece.layer.name,
        detector=piece.detector.name,
        finding=piece.finding.digest,
        units=piece.layer.units,
        notes=findings.notes,
        calibration=dict(findings.calibration),
        recording=f"{piece.recording.kind}/{piece.recording.digest}",
    )
    place: dict[str, Any] = {
        "epoch": file.epoch,
        "checkpoint": file.name,
        "layer": piece.layer.name,
        "detector": piece.detector.name,
    }
    for table in findings.more:
        run.write_more(
            file.folder, piece.layer.name, piece.detector.name, table, findings.more_rows(table, **place)
        )
    run.write_table(file.folder, record_of, findings.rows(**place))
    for note in findings.notes:
        study.notice(note)


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


def _write_failed(run: RunFolder, unusable: list[tuple[StudyFile, InputError]]) -> None:
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


def pieces_of(study: Study, architecture: Architecture, checkpoint: Checkpoint) -> list[Piece]:
    """Every layer with every detector, with the keys under which the store may have it already."""
    pieces = []
    source, preprocessing = architecture.source, architecture.preprocessing
    for layer in architecture.layers:
        seen: dict[str, Any] = {
            "network": source.identity(),
            "weights": architecture.weights_digest(checkpoint, layer.name),
            "layer": layer.name,
            "pixels": architecture.pixels.digest,
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
            "pooling": study.options.pooling,
            "precision": study.options.precision,
        }
        for detector in study.detectors:
            recorder = detector.recording(study.context)
            recording = study.store.key(recorder.kind, **seen, **recorder.settings())
            untrained = [
                study.store.key(
                    recorder.kind, **{**seen, "weights": untrained_weights(seed)}, **recorder.settings()
                )
                for seed in untrained_seeds(study, layer)
            ]
            finding = study.store.key(
                "findings",
                recording=recording.digest,
                detector=detector.name,
                settings=detector.settings(),
                null=study.options.null,
                fdr=study.options.fdr,
                seed=study.options.seed,
                **({"untrained": [key.digest for key in untrained]} if untrained else {}),
                **detector.depends_on(study.context),
            )
            pieces.append(Piece(layer, detector, recorder, recording, finding, tuple(untrained)))
    return pieces


def untrained_weights(seed: int) -> str:
    """What stands for the digest of fresh weights in a key: torch's generator makes them of the seed."""
    return f"untrained:{seed}:torch-{torch.__version__}"


def untrained_seeds(study: Study, layer: LayerInfo) -> list[int]:
    """Which random networks a label must beat: none, or enough for a null distribution."""
    if study.options.null != "untrained":
        return []
    networks = max(MIN_UNTRAINED, -(-UNTRAINED_UNITS // layer.units))
    return [UNTRAINED_SEED + 1000 * study.options.seed + number for number in range(networks)]


def _record_missing(
    study: Study,
    architecture: Architecture,
    checkpoint: Checkpoint,
    pieces: Sequence[Piece],
    result: DissectResult,
) -> None:
    """Record what is not there yet: of the checkpoint, and of networks with random weights, once for all."""
    unknown = unknown_pieces(study, pieces)
    _record(study, architecture, unknown, partial(restored, study, architecture, checkpoint), result)
    by_seed: dict[int, list[Piece]] = {}
    for piece in unknown:
        for seed, key in zip(untrained_seeds(study, piece.layer), piece.untrained, strict=True):
            by_seed.setdefault(seed, []).append(replace(piece, recording=key))
    for seed, wanted in sorted(by_seed.items()):
        make = partial(architecture.source.build, study.device, seed=seed)
        _record(study, architecture, wanted, make, result)


def _record(
    study: Study,
    architecture: Architecture,
    wanted: Sequence[Piece],
    make: Callable[[], nn.Module],
    result: DissectResult,
) -> None:
    """One forward pass of the network that `make` builds, for everything wanted that is missing.

    Processes that work on one checkpoint at once do it once: the others wait, and find it done.
    """
    missing = _not_recorded(study, wanted)
    if not missing:
        return
    with ExitStack() as locks:
        # In one order for all processes, so that none waits for another that waits for it.
        for piece in sorted(missing, key=lambda piece: piece.recording.digest):
            locks.enter_context(study.store.lock(piece.recording))
        missing = _not_recorded(study, missing)
        if missing:
            _record_locked(study, architecture, missing, make(), result)


def unknown_pieces(study: Study, pieces: Sequence[Piece]) -> list[Piece]:
    """Those that a detector must conclude; score matrices are not stored, so where they are wanted, all."""
    return [piece for piece in pieces if study.options.save_scores or not study.store.proved(piece.finding)]


def _not_recorded(study: Study, pieces: Sequence[Piece]) -> list[Piece]:
    """Those whose recording is not there, or is damaged; one of those that share a recording."""
    different = {piece.recording.digest: piece for piece in pieces}
    return [piece for piece in different.values() if not study.store.proved(piece.recording)]


def restored(study: Study, architecture: Architecture, checkpoint: Checkpoint) -> nn.Module:
    """The network with the checkpoint's weights.

    Raises:
        UnusableCheckpointError: they do not fit.
    """
    try:
        return architecture.source.restore(checkpoint.state_dict, study.device)
    except InputError as error:
        raise UnusableCheckpointError(error.what, where=error.where, hint=error.hint) from error


def _record_locked(
    study: Study,
    architecture: Architecture,
    missing: Sequence[Piece],
    model: nn.Module,
    result: DissectResult,
) -> None:
    with ExitStack() as stack:
        passes = [
            piece.recorder.begin(stack, study.store, piece.recording, piece.layer, len(architecture.pixels))
            for piece in missing
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
            result.forward_passes += 1
            result.forward_seconds += info.seconds_forward
            passes = [further for each in passes if (further := each.complete(info)) is not None]


def _conclude(study: Study, run: RunFolder, file: StudyFile, piece: Piece) -> Findings:
    """What the detector says: from the store where it was said before.

    Raises:
        LostEntryError: a recording is not in the store any more.
    """
    known = _known(study, piece)
    if known is not None:
        return known
    # Asked again under the lock: another process may have concluded meanwhile.
    with study.store.lock(piece.finding):
        known = _known(study, piece)
        if known is not None:
            return known
        with ExitStack() as entries:
            entry = entries.enter_context(study.recorded(piece.recording))
            untrained = [entries.enter_context(study.recorded(key)) for key in piece.untrained]
            findings = piece.detector.find(
                entry, study.context, untrained=untrained, matrix=study.options.save_scores
            )
            findings = replace(findings, notes=(*entry.meta["notes"], *findings.notes))
        if not study.store.has(piece.finding):
            with study.store.writer(piece.finding) as writer:
                findings.save(writer)
            writer.entry.close()
    if findings.matrix is not None:
        path = run.scores_path(file.folder, piece.layer.name, piece.detector.name)
        write_scores(path, findings.matrix, findings.matrix_concepts or study.context.concepts.concepts)
    return findings


def _known(study: Study, piece: Piece) -> Findings | None:
    """What was concluded before. Score matrices are not stored, so where they are wanted nothing is known."""
    known = None if study.options.save_scores else study.store.get(piece.finding)
    if known is None:
        return None
    with known:
        return Findings.load(known)


def _write_agreement(study: Study, run: RunFolder, table: pd.DataFrame) -> None:
    """Compare the detectors of the run's stacked table, where it has several: `tables/agreement.csv`."""
    if table["detector"].nunique() < 2:
        return

    def embed(words: Sequence[str]) -> NDArray[np.float32]:
        vectors: NDArray[np.float32] = study.context.embed_words(words).cpu().numpy()
        return vectors

    try:
        rows = agreement(table, embed)
    except InputError as error:
        # Embeddings from a file know their own words only: no formulas, and maybe not all labels.
        study.notice(f"agreement.csv has no cosines: {error.what}")
        rows = agreement(table)
    run.write_csv("agreement", rows)


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
    kept = {(piece.layer.name, piece.detector.name) for piece in pieces}
    removed = run.forget(file.folder, kept)
    others = ", ".join(f"{layer} ({detector})" for layer, detector in removed)
    study.progress.warning(
        f"{file.name} has other weights than before"
        + (f": its tables of {others} were removed; dissect those again" if others else "")
    )


def write_scores(path: Path, scores: NDArray[np.float32], concepts: Sequence[str]) -> None:
    """Write `scores` (units x concepts) and `concepts` as an HDF5 file, whole or not at all."""
    import h5py

    with atomic_write(path) as temporary, h5py.File(temporary, "w") as file:
        file["scores"] = scores
        file.create_dataset("concepts", data=list(concepts), dtype=h5py.string_dtype())
