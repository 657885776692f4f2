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
from numpy.typing import NDArray

from concept_monitor_cli.ahead import one_ahead
from concept_monitor_cli.checkpoints import Checkpoint, sparsity
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.lenses import Detector, Findings, make_detectors
from concept_monitor_cli.lenses.halves import MOST_UNITS, Halves, held_out_record
from concept_monitor_cli.lenses.responses import layer_redundancy, redundancy_note, redundancy_record
from concept_monitor_cli.models.layers import LayerInfo
from concept_monitor_cli.monitor.agreement import agreement
from concept_monitor_cli.monitor.crowded import crowded
from concept_monitor_cli.options import DissectOptions
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.record import RecordInfo
from concept_monitor_cli.record.soundness import units_without_numbers
from concept_monitor_cli.run import UNTRAINED, CheckpointRecord, RunFolder, TableRecord
from concept_monitor_cli.store import Key, Writer, atomic_write, remove_leftovers
from concept_monitor_cli.study import (
    Architecture,
    LostEntryError,
    Study,
    StudyFile,
    UnusableCheckpointError,
    describe,
)
from concept_monitor_cli.study.seen import (
    Seen,
    load_usable,
    looks_of,
    record_missing,
    restored,
    seen,
    untrained_weights,
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
        floor_passes: how often a network with random weights was run for floors; not in `forward_passes`.
        forward_seconds: time inside the networks.
        images: number of probing images.
    """

    out: Path
    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    forward_passes: int = 0
    floor_passes: int = 0
    forward_seconds: float = 0.0
    images: int = 0


@dataclass(frozen=True)
class Piece:
    """One layer of one checkpoint as one detector sees it: the unit of work, and of a table.

    Attributes:
        detector: the detector.
        seen: what it reads.
        finding: where the store has what the detector concluded.
        untrained: the same layer with random weights, where a label must beat those.
        random: the same layer with random weights and where the store has what the detector concludes from
            it, where floors are wanted.
    """

    detector: Detector
    seen: Seen
    finding: Key
    untrained: tuple[Seen, ...] = ()
    random: tuple[Seen, Key] | None = None

    @property
    def layer(self) -> LayerInfo:
        """The layer."""
        return self.seen.layer

    @property
    def table(self) -> tuple[str, str]:
        """Layer and detector, by name: which table of the checkpoint."""
        return self.layer.name, self.detector.name


def open_study(options: DissectOptions, progress: Progress) -> Study:
    """The inputs of a dissect, with the detectors that are asked for."""
    kept = {} if options.overwrite else RunFolder(options.out).bases()
    return Study(options, progress, make_detectors(options), kept_bases=kept)


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
        study.warn_of_few_images()
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
        None if architecture is None else describe.info(study, architecture),
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
    require_numbers(study, architecture, checkpoint, file)
    pieces = pieces_of(study, architecture, checkpoint)
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
            _record_pieces(study, architecture, checkpoint, pieces, result)
            if rewritten:
                _forget(study, run, file, pieces)
                rewritten = False
            before = run.checkpoint_in(file.folder)
            if before is None or before.weights != record.weights:
                # Before the first table: should the run be killed, it is known whose tables these are.
                run.write_checkpoint(replace(record, status="started"))
            _keep_bases(run, pieces)
            for piece in pieces:
                _conclude_and_write(study, run, file, piece)
                _write_random(study, run, piece)
            break
        except LostEntryError:
            if attempt == ATTEMPTS:
                raise
    run.write_checkpoint(record)
    return architecture


def _keep_bases(run: RunFolder, pieces: Sequence[Piece]) -> None:
    """Write the bases that are not channels into the run: what its units are must not hang on the cache."""
    for look in {piece.layer.name: piece.seen.look for piece in pieces}.values():
        path = run.basis_path(look.layer.name)
        if look.key is not None and not path.is_file():
            basis = look.basis()
            assert basis is not None
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as temporary, temporary.open("wb") as file:
                arrays: dict[str, Any] = {**basis.to_arrays(), "key": np.array(look.key.digest)}
                np.savez(file, **arrays)


def _conclude_and_write(study: Study, run: RunFolder, file: StudyFile, piece: Piece) -> None:
    findings = _conclude(study, run, file, piece)
    alike = layer_redundancy(study.context, piece.seen.key, lambda: study.recorded(piece.seen.key))
    place: dict[str, Any] = {
        "epoch": file.epoch,
        "checkpoint": file.name,
        "layer": piece.layer.name,
        "detector": piece.detector.name,
    }
    rows = findings.rows(**place)
    said = (
        redundancy_note(alike, layer=piece.layer.name, relative=piece.detector.relative),
        crowded(rows, layer=piece.layer.name, detector=piece.detector.name, epoch=file.epoch),
    )
    notes = (*findings.notes, *(note for note in said if note))
    halves = _halves(study, piece)
    record_of = TableRecord(
        checkpoint=file.name,
        epoch=file.epoch,
        layer=piece.layer.name,
        detector=piece.detector.name,
        finding=piece.finding.digest,
        units=piece.layer.units,
        notes=notes,
        calibration=dict(findings.calibration),
        recording=f"{piece.seen.key.kind}/{piece.seen.key.digest}",
        redundancy=redundancy_record(alike),
        held_out={}
        if halves is None
        else held_out_record(halves, findings.categories[:, 0], alike.effective),
    )
    schemas = {schema.name: schema for schema in piece.detector.tables}
    for table in findings.more:
        more = findings.more_rows(table, **place)
        run.write_more(file.folder, *piece.table, schemas[table], more)
    run.write_table(file.folder, record_of, {**rows, "concept_code": study.codes_of(rows)})
    for note in notes:
        study.notice(note)


def _halves(study: Study, piece: Piece) -> Halves | None:
    """What either half of the images says; kept in the store."""
    key = study.store.key(
        "halves",
        recording=piece.seen.key.digest,
        detector=piece.detector.name,
        settings=piece.detector.settings(),
        halved=study.context.groups_digest,
        seed=study.options.seed,
        units=MOST_UNITS,
        **({"code": piece.detector.code} if piece.detector.code else {}),
        **piece.detector.depends_on(study.context),
    )

    def make(writer: Writer) -> None:
        with study.recorded(piece.seen.key) as entry:
            found = piece.detector.halves(entry, study.context)
        writer.meta["asked"] = found is not None
        if found is not None:
            found.save(writer)

    with study.store.get_or_make(key, make) as kept:
        return Halves.load(kept) if kept.meta["asked"] else None


def _write_random(study: Study, run: RunFolder, piece: Piece) -> None:
    """The concept table of the layer with random weights, once for all checkpoints of a run.

    Several processes may write it: each writes the same.
    """
    if piece.random is None:
        return
    recorded, finding = piece.random
    before = run.untrained_record(*piece.table)
    if before is not None and before.finding == finding.digest:
        return
    findings = _conclude(study, run, None, replace(piece, seen=recorded, finding=finding))
    record_of = TableRecord(
        checkpoint=UNTRAINED,
        epoch=0,
        layer=piece.layer.name,
        detector=piece.detector.name,
        finding=finding.digest,
        units=piece.layer.units,
        recording=f"{recorded.key.kind}/{recorded.key.digest}",
    )
    rows = findings.rows(epoch=0, checkpoint=UNTRAINED, layer=piece.layer.name, detector=piece.detector.name)
    run.write_table(UNTRAINED, record_of, rows)


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
    options, detectors = study.options, make_detectors(study.options)

    def finding(detector: Detector, own: Seen, untrained: Sequence[Seen]) -> Key:
        return study.store.key(
            "findings",
            recording=own.key.digest,
            detector=detector.name,
            settings=detector.settings(),
            null=options.null,
            fdr=options.fdr,
            seed=options.seed,
            **({"untrained": [each.key.digest for each in untrained]} if untrained else {}),
            **({"code": detector.code} if detector.code else {}),
            **detector.depends_on(study.context),
        )

    for look in looks_of(study, architecture):
        weights = architecture.weights_digest(checkpoint, look.tapped.name)
        for detector in detectors:
            request = detector.recording(study.context)
            own = seen(study, architecture, look, request, weights=weights)
            untrained = tuple(
                seen(study, architecture, look, request, weights=untrained_weights(seed))
                for seed in untrained_seeds(study, look.layer)
            )
            random = seen(study, architecture, look, request, weights=untrained_weights(first_seed(study)))
            pieces.append(
                Piece(
                    detector,
                    own,
                    finding(detector, own, untrained),
                    untrained,
                    (random, finding(detector, random, untrained)) if options.floors else None,
                )
            )
    return pieces


def first_seed(study: Study) -> int:
    """The seed of the first random network: that of floors, and the first of a null distribution."""
    return UNTRAINED_SEED + 1000 * study.options.seed


def untrained_seeds(study: Study, layer: LayerInfo) -> list[int]:
    """Which random networks a label must beat: none, or enough for a null distribution."""
    if study.options.null != "untrained":
        return []
    networks = max(MIN_UNTRAINED, -(-UNTRAINED_UNITS // layer.units))
    return [first_seed(study) + number for number in range(networks)]


def untrained_by_seed(study: Study, pieces: Sequence[Piece]) -> dict[int, list[Seen]]:
    """What is wanted of each network with random weights, by its seed."""
    by_seed: dict[int, list[Seen]] = {}
    for piece in pieces:
        for seed, each in zip(untrained_seeds(study, piece.layer), piece.untrained, strict=True):
            by_seed.setdefault(seed, []).append(each)
    return dict(sorted(by_seed.items()))


def _record_pieces(
    study: Study,
    architecture: Architecture,
    checkpoint: Checkpoint,
    pieces: Sequence[Piece],
    result: DissectResult,
) -> None:
    """Record what is not there yet: of the checkpoint, and of networks with random weights, once for all."""

    def visited(info: RecordInfo) -> None:
        result.forward_passes += 1
        result.forward_seconds += info.seconds_forward

    unknown = unknown_pieces(study, pieces)
    make = partial(restored, study, architecture, checkpoint)
    record_missing(study, architecture, [piece.seen for piece in unknown], make, visited)
    for seed, wanted in untrained_by_seed(study, unknown).items():
        make = partial(architecture.source.build, study.device, seed=seed)
        record_missing(study, architecture, wanted, make, visited)

    def visited_for_floors(info: RecordInfo) -> None:
        result.floor_passes += 1
        result.forward_seconds += info.seconds_forward

    make = partial(architecture.source.build, study.device, seed=first_seed(study))
    wanted = [piece.seen for piece in random_pieces(study, pieces)]
    record_missing(study, architecture, wanted, make, visited_for_floors)


def random_pieces(study: Study, pieces: Sequence[Piece]) -> list[Piece]:
    """The pieces of the network with random weights that are wanted for floors and not concluded yet."""
    return [
        replace(piece, seen=piece.random[0], finding=piece.random[1])
        for piece in pieces
        if piece.random is not None and not study.store.proved(piece.random[1])
    ]


def unknown_pieces(study: Study, pieces: Sequence[Piece]) -> list[Piece]:
    """Those that a detector must conclude; score matrices are not stored, so where they are wanted, all."""
    return [piece for piece in pieces if study.options.save_scores or not study.store.proved(piece.finding)]


def _conclude(study: Study, run: RunFolder, file: StudyFile | None, piece: Piece) -> Findings:
    """What the detector says: from the store where it was said before.

    Args:
        study: the inputs.
        run: where matrices of scores go, if they are wanted.
        file: the checkpoint; `None` for random weights, whose scores are not kept.
        piece: of it.

    Raises:
        LostEntryError: a recording is not in the store any more.
    """
    matrix = study.options.save_scores and file is not None
    known = None if matrix else _known(study, piece)
    if known is not None:
        return known
    # Asked again under the lock: another process may have concluded meanwhile.
    with study.store.lock(piece.finding):
        known = None if matrix else _known(study, piece)
        if known is not None:
            return known
        with ExitStack() as entries:
            entry = entries.enter_context(study.recorded(piece.seen.key))
            untrained = [entries.enter_context(study.recorded(each.key)) for each in piece.untrained]
            findings = piece.detector.find(entry, study.context, untrained=untrained, matrix=matrix)
            findings = replace(findings, notes=(*entry.meta["notes"], *findings.notes))
        if not study.store.has(piece.finding):
            with study.store.writer(piece.finding) as writer:
                findings.save(writer)
            writer.entry.close()
    if findings.matrix is not None and file is not None:
        path = run.scores_path(file.folder, piece.layer.name, piece.detector.name)
        write_scores(path, findings.matrix, findings.matrix_concepts or study.context.concepts.concepts)
    return findings


def _known(study: Study, piece: Piece) -> Findings | None:
    """What was concluded before, without the matrix of scores, which is not stored."""
    known = study.store.get(piece.finding)
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
    kept = {piece.table for piece in pieces}
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
