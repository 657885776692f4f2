"""From a recording to a table: what a detector concludes, how sure it is, and where it is written."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from concept_monitor_cli import __version__
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.redundancy import Redundancy
from concept_monitor_cli.lenses import Findings
from concept_monitor_cli.lenses.halves import Halves, held_out_record
from concept_monitor_cli.lenses.responses import (
    RELATIVE_ADVICE,
    layer_redundancy,
    redundancy_key,
    redundancy_note,
    redundancy_record,
)
from concept_monitor_cli.models.allocator import give_back_freed_memory
from concept_monitor_cli.monitor.agreement import agreement
from concept_monitor_cli.monitor.crowded import crowded
from concept_monitor_cli.run import TABLES, UNTRAINED, RunFolder, TableRecord
from concept_monitor_cli.run.records import written_from
from concept_monitor_cli.store import Writer, atomic_write
from concept_monitor_cli.store.keys import JSONValue, canonical_json
from concept_monitor_cli.stories.pieces import Piece, halves_key
from concept_monitor_cli.study import (
    Study,
    StudyFile,
)

if TYPE_CHECKING:
    import pandas as pd


#: Version of the code that makes tables, and what is said of them, from findings. Raise it when a text
#: changes: tables of the old version are then written anew.
TABLE_CODE = 1


def keep_bases(run: RunFolder, pieces: Sequence[Piece]) -> None:
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


def conclude_and_write(study: Study, run: RunFolder, file: StudyFile, piece: Piece) -> None:
    """Write the tables of one piece, and the record that declares them finished.

    Tables that were made from the same, and are as they were written, are left alone: their dates stay.
    """
    alike = layer_redundancy(study.context, piece.seen.key, lambda: study.recorded(piece.seen.key))
    alike_note = redundancy_note(
        alike, layer=piece.layer.name, epoch=file.epoch, relative=piece.detector.relative
    )
    made = _made(study, file, piece)
    record = None
    if not study.options.save_scores and study.store.has(piece.finding):
        record = written_from(made, run.table_path(file.folder, *piece.table).with_suffix(".json"))
    if record is None:
        record = _write(study, run, file, piece, alike, [alike_note] if alike_note else [], made)
    for note in record.notes:
        if note != alike_note:
            study.notice(note)
        elif piece.layer.name not in study.told:
            # Once for a layer, and what it means once for a run; the records of the tables have all of it.
            study.notice(note.replace(RELATIVE_ADVICE, "") if study.told else note)
            study.told.add(piece.layer.name)


def _made(study: Study, file: StudyFile, piece: Piece) -> str:
    """The digest of all that the tables of a piece, and what is said of them, follow from."""
    parts: dict[str, JSONValue] = {
        "cmon": [__version__, TABLE_CODE],
        "columns": [schema.version() for schema in (TABLES["concepts"], *piece.detector.tables)],
        "epoch": file.epoch,
        "checkpoint": file.name,
        "layer": piece.layer.name,
        "finding": piece.finding.digest,
        "halves": halves_key(study, piece).digest,
        "redundancy": redundancy_key(study.context, piece.seen.key).digest,
        "codes": [[*pair, code] for pair, code in sorted(study.codes.items())],
    }
    return sha256(canonical_json(parts).encode("ascii")).hexdigest()


def _write(
    study: Study,
    run: RunFolder,
    file: StudyFile,
    piece: Piece,
    alike: Redundancy,
    said: Sequence[str],
    made: str,
) -> TableRecord:
    """Conclude, and write tables and record, which is returned.

    Args:
        study: the inputs.
        run: where the tables go.
        file: the checkpoint.
        piece: of it.
        alike: how alike the units are.
        said: of that.
        made: the digest of all that the tables follow from.
    """
    findings = _conclude(study, run, file, piece)
    place: dict[str, Any] = {
        "epoch": file.epoch,
        "checkpoint": file.name,
        "layer": piece.layer.name,
        "detector": piece.detector.name,
    }
    rows = findings.rows(**place)
    many = crowded(rows, layer=piece.layer.name, detector=piece.detector.name, epoch=file.epoch)
    halves = _halves(study, piece)
    record = TableRecord(
        **place,
        finding=piece.finding.digest,
        units=piece.layer.units,
        notes=(*findings.notes, *said, *([many] if many else [])),
        calibration=dict(findings.calibration),
        recording=f"{piece.seen.key.kind}/{piece.seen.key.digest}",
        redundancy=redundancy_record(alike),
        held_out={}
        if halves is None
        else held_out_record(halves, findings.categories[:, 0], alike.effective),
        made=made,
    )
    schemas = {schema.name: schema for schema in piece.detector.tables}
    more = [(schemas[table], findings.more_rows(table, **place)) for table in findings.more]
    named = zip(rows["concept"], rows["category"], strict=True)
    codes = [study.codes.get(pair, "") for pair in named]
    run.write_table(file.folder, record, {**rows, "concept_code": codes}, more)
    return record


def _halves(study: Study, piece: Piece) -> Halves | None:
    """What either half of the images says; kept in the store."""

    def make(writer: Writer) -> None:
        with study.recorded(piece.seen.key) as entry:
            _make_room(study, piece)
            found = piece.detector.halves(entry, study.context)
        writer.meta["asked"] = found is not None
        if found is not None:
            found.save(writer)

    with study.store.get_or_make(halves_key(study, piece), make) as kept:
        return Halves.load(kept) if kept.meta["asked"] else None


def write_random(study: Study, run: RunFolder, piece: Piece) -> None:
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
            _make_room(study, piece)
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


def _make_room(study: Study, piece: Piece) -> None:
    """Before a layer whose activations are large: what networks and other layers had is given back first.

    Else the process would still hold room for the activations of every layer when the last one comes.
    """
    give_back_freed_memory(piece.layer.units * len(study.context.probe) * 4)


def _known(study: Study, piece: Piece) -> Findings | None:
    """What was concluded before, without the matrix of scores, which is not stored."""
    known = study.store.get(piece.finding)
    if known is None:
        return None
    with known:
        return Findings.load(known)


def write_agreement(study: Study, run: RunFolder, table: pd.DataFrame) -> None:
    """Compare the detectors of the run's stacked table, where it has several: `tables/agreement.csv`."""
    if table["detector"].nunique() < 2:
        return

    def embed(words: Sequence[str]) -> NDArray[np.float32]:
        vectors: NDArray[np.float32] = study.context.embed_words(words).cpu().numpy()
        return vectors

    sums = [lens.name for lens in study.lenses if lens.traits().labels in ("sums", "ranges")]
    try:
        rows = agreement(table, embed, sums)
    except InputError as error:
        # Embeddings from a file know their own words only: no formulas, and maybe not all labels.
        study.notice(f"agreement.csv has no cosines: {error.what}")
        rows = agreement(table, sums=sums)
    run.write_csv("agreement", rows)


def write_scores(path: Path, scores: NDArray[np.float32], concepts: Sequence[str]) -> None:
    """Write `scores` (units x concepts) and `concepts` as an HDF5 file, whole or not at all."""
    import h5py

    with atomic_write(path) as temporary, h5py.File(temporary, "w") as file:
        file["scores"] = scores
        file.create_dataset("concepts", data=list(concepts), dtype=h5py.string_dtype())
