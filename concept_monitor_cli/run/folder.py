"""The run folder on disk.

    run.json                                  what was run on what
    tables/epoch_0005/checkpoint.json         one checkpoint: name, epoch, status
    tables/epoch_0005/LAYER.DETECTOR.csv      one table per checkpoint, layer and detector
    tables/epoch_0005/LAYER.DETECTOR.json     what that table was made from
    untrained/LAYER.DETECTOR.csv              the same of a network with random weights, for the floors
    tables/concepts.parquet                   all tables stacked

Several processes may work on one run at once. Every file appears whole or not at all and belongs to one
piece of work, so nobody edits what another wrote. `run.json` and `concepts.parquet` are made from the
pieces on disk, by one process at a time; it looks again afterwards and repeats if a piece has come in
meanwhile. So the process that ends last leaves them complete, without a merge step.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, replace
from glob import escape
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.run.kinds import Part, on_page
from concept_monitor_cli.run.records import (
    CheckpointRecord,
    TableRecord,
    is_unclear,
    read_record,
    with_accuracies,
)
from concept_monitor_cli.run.schema import SCHEMA_VERSION, TableSchema
from concept_monitor_cli.run.tables import TABLES
from concept_monitor_cli.store.atomic import atomic_write, write_text_atomic
from concept_monitor_cli.store.locks import file_lock

if TYPE_CHECKING:
    import pandas as pd

#: The folder of the tables of networks with random weights, and what stands for a checkpoint in them.
UNTRAINED = "untrained"
#: Said of a run whose checkpoints state an accuracy of 1 and none that tells its unit.
UNCLEAR_ACCURACY = "the checkpoints state an accuracy of 1, which may be 100 % or 1 %: left out"


def file_name(layer: str) -> str:
    """A layer's name as a file name; `.` stays, what a file system may refuse is quoted."""
    return quote(layer, safe=" .+=,()[]@~") or "model"


def _json(value: object) -> str:
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    # Paths may hold bytes that are no text; JSON spells their surrogates out, and reading gives them back.
    return "".join(f"\\u{ord(char):04x}" if "\ud800" <= char <= "\udfff" else char for char in text)


class RunFolder:
    """A run on disk.

    Args:
        root: the folder; it need not exist yet.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    # -- reading -------------------------------------------------------------------------------

    @classmethod
    def open(cls, root: Path) -> RunFolder:
        """A run that exists.

        Raises:
            InputError: there is no run in `root`.
        """
        run = cls(root)
        if not run.run_file.is_file():
            raise InputError(
                "there is no run here yet",
                where=run.root,
                hint="run `cmon dissect CKPTS --layer NAME` first, or name another run with --out",
            )
        return run

    @property
    def run_file(self) -> Path:
        """`run.json`."""
        return self.root / "run.json"

    @property
    def tables(self) -> Path:
        """The folder of the tables."""
        return self.root / "tables"

    @property
    def plots(self) -> Path:
        """The folder of the pictures."""
        return self.root / "plots"

    def info(self) -> dict[str, Any]:
        """The content of `run.json`.

        Raises:
            InputError: unreadable, or written by a newer version.
        """
        try:
            info: dict[str, Any] = json.loads(self.run_file.read_text(encoding="utf-8"))
            version = int(info["schema_version"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                "run.json cannot be read", where=self.run_file, hint="name another folder with --out"
            ) from error
        if version != SCHEMA_VERSION:
            raise InputError(
                f"this run has schema version {version}, this cmon reads {SCHEMA_VERSION}",
                where=self.run_file,
                hint="dissect again into another folder (--out), or use the cmon version that wrote it",
            )
        return info

    def checkpoints(self) -> list[CheckpointRecord]:
        """Every checkpoint of the run, by epoch."""
        paths = self.tables.glob("epoch_*/checkpoint.json")
        records = [record for path in paths if (record := read_record(CheckpointRecord, path)) is not None]
        records = with_accuracies(records)
        return sorted(records, key=lambda record: (record.epoch, record.name))

    def table_records(self) -> list[tuple[Path, TableRecord]]:
        """Every finished table: its CSV file and what it was made from."""
        found = []
        for path in sorted(self.tables.glob("epoch_*/*.json")):
            if path.name == "checkpoint.json" or not path.with_suffix(".csv").is_file():
                continue
            record = read_record(TableRecord, path)
            if record is not None:
                found.append((path.with_suffix(".csv"), replace(record, notes=tuple(record.notes))))
        return found

    def concepts(
        self,
        *,
        layers: Sequence[str] = (),
        detector: str | None = None,
        epochs: Iterable[int] | None = None,
        columns: Collection[str] | None = None,
        best: bool = False,
    ) -> pd.DataFrame:
        """The stacked concept table, restricted to what is asked for; its texts are categories.

        Args:
            layers: only these; none means all.
            detector: only this one.
            epochs: only these.
            columns: only these, with those that say where a row belongs; `None`: all.
            best: only the best concept of each unit.

        Raises:
            InputError: the run has no table yet, or none with such a layer, detector or epoch.
        """
        schema = TABLES["concepts"]
        path = self.tables / "concepts.parquet"
        if not path.is_file():
            raise InputError("this run has no tables yet", where=self.root, hint="run `cmon dissect` first")
        read = None if columns is None else [c for c in schema.columns if c in {*schema.order, *columns}]
        frame = schema.read_parquet(path, columns=read, only={"rank": 1} if best else None)
        for column, wanted in (
            ("layer", list(layers)),
            ("detector", [detector] if detector else []),
            ("epoch", sorted(set(epochs)) if epochs is not None else []),
        ):
            if not wanted:
                continue
            present = sorted(frame[column].unique().tolist())
            missing = [value for value in wanted if value not in present]
            if missing:
                raise InputError(
                    f"this run has no {column} {missing[0]}",
                    where=self.root,
                    hint=f"it has: {', '.join(map(str, present))}",
                )
            frame = frame[frame[column].isin(wanted)]
        return frame.reset_index(drop=True)

    def table(self, name: str, *, columns: Collection[str] | None = None) -> pd.DataFrame | None:
        """One of the tables of `TABLES`; `None` where the command that writes it has not run.

        Args:
            name: of the table.
            columns: read these alone, as `TableSchema.read_csv` does; `None`: all.

        Raises:
            InputError: the file is there and is no such table.
        """
        path = self.tables / f"{name}.csv"
        return TABLES[name].read_csv(path, columns=columns) if path.is_file() else None

    def on_page(self, part: Part) -> dict[str, pd.DataFrame]:
        """The tables that a part of the page shows, as far as they are there.

        Raises:
            InputError: see `table`.
        """
        found = {name: self.table(name) for name in on_page(part)}
        return {name: table for name, table in found.items() if table is not None}

    def more(self, schema: TableSchema, layer: str, detector: str) -> pd.DataFrame | None:
        """A table of a detector's own on one layer, of all epochs; `None` where there is none.

        Raises:
            InputError: a file is there and is no such table.
        """
        import pandas as pd

        found = [
            schema.read_csv(file)
            for path, record in self.table_records()
            if (record.layer, record.detector) == (layer, detector)
            and (file := path.with_name(f"{path.stem}.{schema.name}.csv")).is_file()
        ]
        return schema.frame(pd.concat(found)) if found else None

    def agreement(self) -> pd.DataFrame:
        """How far the run's detectors agree; no rows where it has one detector."""
        import pandas as pd

        found = self.table("agreement")
        schema = TABLES["agreement"]
        return schema.frame(pd.DataFrame(columns=list(schema.columns))) if found is None else found

    def untrained_record(self, layer: str, detector: str) -> TableRecord | None:
        """What the table of a layer with random weights was made from; `None` where there is none."""
        path = self.table_path(UNTRAINED, layer, detector)
        return read_record(TableRecord, path.with_suffix(".json")) if path.is_file() else None

    def untrained(self, layer: str, detector: str) -> pd.DataFrame | None:
        """The concept table of a layer with random weights; `None` where there is none."""
        if self.untrained_record(layer, detector) is None:
            return None
        return TABLES["concepts"].read_csv(self.table_path(UNTRAINED, layer, detector))

    # -- writing -------------------------------------------------------------------------------

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Refuse to mix results of different settings in one run.

        Two tables of a run may be compared with each other, so they must come from the same probing
        set, concepts, encoder and constants. New layers, epochs and detectors may always be added.

        Raises:
            InputError: the run exists and was made with other settings.
        """
        if not self.run_file.is_file():
            return
        before = self.info()["settings"]
        different = sorted(_differences(before, json.loads(json.dumps(settings))))
        if different:
            raise InputError(
                f"this run was made with other settings: {', '.join(different)}",
                where=self.root,
                hint="write to another folder with --out, or start it anew with --overwrite",
            )

    def clear_once(self, marker: Path) -> None:
        """`clear`, by the first of several processes that start a run anew together.

        Args:
            marker: a file that says that it was done; equal for these processes, and for no others.
        """
        with self._lock():
            if not marker.is_file():
                self.clear()
                write_text_atomic(marker, "")

    def clear(self) -> None:
        """Remove a run that is there. A folder without `run.json` is no run, and keeps what lies in it."""
        if not self.run_file.is_file():
            return
        for folder in (
            self.tables,
            self.plots,
            *(self.root / name for name in (UNTRAINED, "scores", "bases")),
        ):
            shutil.rmtree(folder, ignore_errors=True)
        for file in (self.run_file, self.root / "report.html", self.root / "alerts.jsonl"):
            file.unlink(missing_ok=True)

    def forget(self, folder: str, kept: Collection[tuple[str, str]]) -> list[tuple[str, str]]:
        """Remove the tables of a checkpoint whose file has other weights by now, and what was made of them.

        Args:
            folder: of the checkpoint.
            kept: layer and detector of tables that are about to be written anew.

        Returns:
            Layer and detector of the concept tables removed, in the order of their names.
        """
        removed = []
        for path, record in self.table_records():
            place = (record.layer, record.detector)
            if path.parent.name != folder or place in kept:
                continue
            # First the record that declares the table finished.
            path.with_suffix(".json").unlink(missing_ok=True)
            for file in (
                path,
                *path.parent.glob(f"{escape(path.stem)}.*.csv"),
                self.scores_path(folder, *place),
            ):
                file.unlink(missing_ok=True)
            removed.append(place)
        for derived in self.tables.glob("*.csv"):
            derived.unlink(missing_ok=True)
        return removed

    def drop(self, folder: str) -> None:
        """Remove a checkpoint with its tables, and what was made of all tables."""
        for place in (self.tables / folder, self.root / "scores" / folder):
            shutil.rmtree(place, ignore_errors=True)
        for derived in self.tables.glob("*.csv"):
            derived.unlink(missing_ok=True)

    def write_checkpoint(self, record: CheckpointRecord) -> None:
        """Record the state of one checkpoint."""
        path = self.tables / record.folder / "checkpoint.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomic(path, _json(asdict(record)))

    def checkpoint_in(self, folder: str) -> CheckpointRecord | None:
        """What stands in `tables/<folder>`, if anything does."""
        return read_record(CheckpointRecord, self.tables / folder / "checkpoint.json")

    def table_path(self, folder: str, layer: str, detector: str) -> Path:
        """Where the CSV of one checkpoint, layer and detector belongs."""
        parent = self.root if folder == UNTRAINED else self.tables
        return parent / folder / f"{file_name(layer)}.{detector}.csv"

    def scores_path(self, folder: str, layer: str, detector: str) -> Path:
        """Where the score matrix of one checkpoint, layer and detector belongs."""
        return self.root / "scores" / folder / f"{file_name(layer)}.{detector}.h5"

    def write_table(
        self,
        folder: str,
        record: TableRecord,
        rows: dict[str, object],
        more: Sequence[tuple[TableSchema, dict[str, object]]] = (),
    ) -> None:
        """Write one concept table and, after it, the record that declares it finished.

        The column `basis` is filled in for a layer in another basis than its channels.

        Args:
            folder: of the checkpoint.
            record: what the table was made from; the digests of its files are filled in.
            rows: of the concept table.
            more: tables of the detector's own, which stand beside it.
        """
        path = self.table_path(folder, record.layer, record.detector)
        path.parent.mkdir(parents=True, exist_ok=True)
        _, _, basis = record.layer.partition("@")
        texts = {
            self.more_path(folder, record.layer, record.detector, schema): schema.to_csv(own)
            for schema, own in more
        }
        texts[path] = TABLES["concepts"].to_csv({**rows, "basis": basis})
        for place, text in texts.items():
            write_text_atomic(place, text)
        files = {place.name: sha256(text.encode()).hexdigest() for place, text in texts.items()}
        write_text_atomic(path.with_suffix(".json"), _json(asdict(replace(record, files=files))))

    def basis_path(self, layer: str) -> Path:
        """Where the basis of a layer called `layer4@pca8` is kept."""
        return self.root / "bases" / f"{file_name(layer)}.npz"

    def bases(self) -> dict[str, Path]:
        """The bases that the run keeps, by the names of their layers in the tables."""
        return {path.stem: path for path in sorted((self.root / "bases").glob("*.npz"))}

    def more_path(self, folder: str, layer: str, detector: str, schema: TableSchema) -> Path:
        """Where one of the tables of a detector's own belongs, beside its concept table."""
        return self.table_path(folder, layer, f"{detector}.{schema.name}")

    def write_csv(self, table: str, rows: pd.DataFrame) -> Path:
        """Write one of the run-wide tables, e.g. `embedding`, as `tables/<table>.csv`."""
        self.tables.mkdir(parents=True, exist_ok=True)
        path = self.tables / f"{table}.csv"
        write_text_atomic(path, TABLES[table].to_csv(rows))
        return path

    def combine(
        self,
        info: Mapping[str, Any] | None,
        *,
        derive: Callable[[pd.DataFrame], None] | None = None,
        progress: Progress = SILENT,
    ) -> None:
        """Write `run.json` and `concepts.parquet` from the pieces that are on disk.

        Args:
            info: the content of `run.json` except for what the pieces know. Detector settings and the encoder
                of an earlier `dissect` into the same run are kept. `None`: what it says stays as it is; where
                there is none yet, nothing is done.
            derive: writes what follows from the stacked table, which it is given, with texts or categories.
            progress: is told of waiting for another process that combines.
        """
        if info is None and not self.run_file.is_file():
            return
        with self._lock(progress):
            while True:
                before = self._pieces()
                stacked = self._write_stacked()
                self._write_run(self.info() if info is None else info)
                if derive is not None and stacked is not None:
                    derive(stacked)
                if self._pieces() == before:
                    return

    def _lock(self, progress: Progress = SILENT) -> AbstractContextManager[None]:
        """For what belongs to the run as a whole."""
        return file_lock(
            self.root / ".run.lock",
            purpose="writes run.json",
            folder=self.root,
            option="--out",
            progress=progress,
        )

    def _pieces(self) -> list[tuple[str, int]]:
        found = []
        for path in self.tables.glob("epoch_*/*.json"):
            with suppress(FileNotFoundError):  # another process may forget it in between
                found.append((str(path), path.stat().st_mtime_ns))
        return sorted(found)

    def _write_stacked(self) -> pd.DataFrame | None:
        import pandas as pd

        schema, target = TABLES["concepts"], self.tables / "concepts.parquet"
        tables = [path for path, _ in self.table_records()]
        if not tables:
            return None
        pieces = {
            path.relative_to(self.tables).as_posix(): sha256(path.read_bytes()).hexdigest() for path in tables
        }
        if schema.pieces_of(target) == pieces:
            with suppress(InputError):  # damaged: made anew
                return schema.read_parquet(target)
        stacked = schema.frame(pd.concat([schema.read_csv(path) for path in tables], ignore_index=True))
        with atomic_write(target) as temporary, temporary.open("wb") as file:
            schema.to_parquet(stacked, file, pieces)
        return stacked

    def _write_run(self, info: Mapping[str, Any]) -> None:
        records = [record for _, record in self.table_records()]
        content = {"schema_version": SCHEMA_VERSION, **info}
        if self.run_file.is_file():
            earlier = self.info()
            content["created"] = earlier.get("created", content.get("created"))
            detectors = {**earlier["settings"].get("detectors", {}), **info["settings"].get("detectors", {})}
            content["settings"] = {**earlier["settings"], **info["settings"], "detectors": detectors}
            # Detectors that need no encoder may be added without naming it.
            content["encoder"] = info.get("encoder") or earlier.get("encoder")
        checkpoints = self.checkpoints()
        content["checkpoints"] = [asdict(record) for record in checkpoints]
        told = [note for record in records for note in record.notes]
        if any(is_unclear(record) for record in checkpoints):
            told.append(UNCLEAR_ACCURACY)
        earlier_notices = [note for note in info["notices"] if note != UNCLEAR_ACCURACY]
        content["notices"] = list(dict.fromkeys([*earlier_notices, *told]))
        content["layers"] = sorted({record.layer for record in records})
        content["detectors"] = sorted({record.detector for record in records})
        place, said = (
            ("layer", "detector", "epoch", "checkpoint"),
            ("units", "value", "chance", "word", "measure"),
        )
        content["held_out"] = [
            {name: getattr(record, name) for name in place}
            | {name: record.held_out.get(name) for name in said}
            for record in records
            if record.held_out
        ]
        self.root.mkdir(parents=True, exist_ok=True)
        write_text_atomic(self.run_file, _json(content))


def _differences(before: Any, after: Any, name: str = "") -> Iterable[str]:
    """Names of the settings that both sides have and that differ, e.g. `concepts.digest`."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in before.keys() & after.keys():
            yield from _differences(before[key], after[key], f"{name}.{key}" if name else key)
    elif before != after:
        yield name
