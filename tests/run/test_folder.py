from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from concept_monitor_cli.errors import CmonError, InputError
from concept_monitor_cli.run import TABLES, CheckpointRecord, RunFolder, TableRecord
from concept_monitor_cli.run.folder import UNCLEAR_ACCURACY
from concept_monitor_cli.run.schema import TableSchema


def rows(
    epoch: int, layer: str = "layer4", concepts: tuple[str, ...] = ("null", "NA", "")
) -> dict[str, object]:
    n = len(concepts)
    return {
        "epoch": [epoch] * n,
        "checkpoint": [f"e{epoch}.pth"] * n,
        "layer": [layer] * n,
        "unit": range(n),
        "detector": ["clip-dissect"] * n,
        "rank": [1] * n,
        "concept": concepts,
        "category": ["object"] * n,
        "score": [0.123456789, -2.0, float("nan")],
        "p_value": [0.001, 0.5, float("nan")],
        "interpretable": [True, False, False],
        "state": ["live", "live", "dead"],
        "effect": [4.5, 0.25, float("nan")],
        "stability": [1.0, 0.5, float("nan")],
        "concept_set": ["null", "NA; null", ""],
    }


def add(run: RunFolder, epoch: int, layer: str = "layer4") -> None:
    folder = f"epoch_{epoch:04d}"
    run.write_checkpoint(CheckpointRecord(f"e{epoch}.pth", f"/c/e{epoch}.pth", epoch, folder, "done"))
    run.write_table(
        folder, TableRecord(f"e{epoch}.pth", epoch, layer, "clip-dissect", "k", 3), rows(epoch, layer)
    )


INFO = {
    "settings": {"probe": "a", "detectors": {"clip-dissect": {"a": 10}}},
    "notices": [],
    "created": "then",
}


def test_written_tables_come_back_with_their_values_and_types(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "out")
    add(run, 5)
    add(run, 0)
    run.combine(INFO)
    table = RunFolder.open(run.root).concepts()
    assert table["epoch"].tolist() == [0, 0, 0, 5, 5, 5]
    # Words that pandas takes for missing values are concepts like any other.
    assert table["concept"].tolist()[:3] == ["null", "NA", ""]
    assert table["score"].isna().tolist()[:3] == [False, False, True]
    assert table["score"][0] == pytest.approx(0.1234568)
    assert table["interpretable"].tolist()[:3] == [True, False, False]
    assert list(table.columns) == list(TABLES["concepts"].columns)
    assert [record.epoch for record in run.checkpoints()] == [0, 5]


def test_only_the_columns_asked_for_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(tmp_path / "out")
    add(run, 0)
    add(run, 5)
    run.combine(INFO)
    read: list[list[str]] = []
    whole, original = run.concepts(), pq.ParquetFile.read

    def recorded(file: pq.ParquetFile, columns: list[str]) -> pa.Table:
        read.append(columns)
        return original(file, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "read", recorded)
    some = run.concepts(columns=["concept", "score"], epochs=[5])
    keys = {"epoch", "checkpoint", "layer", "detector", "unit", "rank"}
    assert [set(columns) for columns in read] == [{*keys, "concept", "score"}]
    expected = whole.loc[whole["epoch"] == 5, list(some.columns)].reset_index(drop=True)
    pd.testing.assert_frame_equal(some, expected)
    with pytest.raises(InputError, match="no epoch 7"):
        run.concepts(columns=["concept"], epochs=[7])


def test_texts_of_a_run_are_held_once(tmp_path: Path) -> None:
    # As texts, the seven columns of a row took more than the six of numbers.
    run = RunFolder(tmp_path / "out")
    words = tuple(f"a concept with a long name, number {number % 10}" for number in range(3000))
    values = {**rows(0, concepts=words), "concept_set": words, "state": "live"}
    for column in ("score", "p_value", "interpretable", "effect", "stability"):
        values[column] = [True] * len(words)
    run.write_checkpoint(CheckpointRecord("e0.pth", "/c/e0.pth", 0, "epoch_0000", "done"))
    run.write_table("epoch_0000", TableRecord("e0.pth", 0, "layer4", "clip-dissect", "k", 3), values)
    run.combine(INFO)
    table = run.concepts()
    texts = [name for name, kind in TABLES["concepts"].columns.items() if kind == "str"]
    assert table[texts].memory_usage(deep=True).drop("Index").max() < 2 * len(table)
    for name in texts:
        assert list(table[name].cat.categories) == sorted(set(table[name]))


def test_a_csv_table_gives_the_columns_asked_for(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "out")
    add(run, 0, "1")
    path = run.table_path("epoch_0000", "1", "clip-dissect")
    some = TABLES["concepts"].read_csv(path, columns=["score", "concept", "layer", "unit"])
    whole = TABLES["concepts"].read_csv(path)
    assert list(some.columns) == ["score", "concept", "layer", "unit"]
    assert some["layer"].tolist() == ["1", "1", "1"]
    assert some["concept"].tolist() == ["null", "NA", ""]
    for name in some.columns:
        assert some[name].astype(whole[name].dtype).equals(whole[name])
    with pytest.raises(InputError, match="not a concepts table"):
        TABLES["concepts"].read_csv(path, columns=["unit", "x"])


def test_only_tables_of_another_basis_name_it(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    add(run, 0)
    add(run, 0, "layer4@pca8")
    header = (tmp_path / "tables/epoch_0000/layer4.clip-dissect.csv").read_text().splitlines()[0]
    assert header.endswith(",concept_set")
    written = (tmp_path / "tables/epoch_0000/layer4@pca8.clip-dissect.csv").read_text().splitlines()
    assert written[0].endswith(",concept_set,basis")
    assert all(line.endswith(",pca8") for line in written[1:])
    run.combine(INFO)
    table = run.concepts()
    assert table.groupby("layer")["basis"].unique().map(list).to_dict() == {
        "layer4": [""],
        "layer4@pca8": ["pca8"],
    }


def test_the_same_pieces_give_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    one, two = RunFolder(tmp_path / "one"), RunFolder(tmp_path / "two")
    for epoch in (0, 1, 2):
        add(one, epoch)
    for epoch in (2, 0, 1):
        add(two, epoch)
    one.combine(INFO)
    two.combine(INFO)
    for path in sorted((one.tables).rglob("*.*")):
        assert path.read_bytes() == (two.tables / path.relative_to(one.tables)).read_bytes(), path


def test_whoever_combines_last_leaves_everything(tmp_path: Path) -> None:
    """Threads add pieces and combine at once; no order of events may lose a piece."""
    for _ in range(5):
        run = RunFolder(tmp_path / f"run{_}")

        def work(epoch: int, run: RunFolder = run) -> None:
            add(run, epoch)
            run.combine(INFO)

        threads = [threading.Thread(target=work, args=(epoch,)) for epoch in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(run.concepts()["epoch"]) == set(range(6))
        assert len(run.info()["checkpoints"]) == 6


def test_tables_that_are_stacked_already_are_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path / "out")
    add(run, 0)
    add(run, 5)
    run.combine(INFO)
    stacked = run.tables / "concepts.parquet"
    first = stacked.read_bytes()
    read: list[str] = []
    original = TableSchema.read_csv

    def recorded(schema: TableSchema, path: Path, **how: list[str]) -> pd.DataFrame:
        read.append(path.parent.name)
        return original(schema, path, **how)

    monkeypatch.setattr(TableSchema, "read_csv", recorded)
    given: list[pd.DataFrame] = []
    run.combine(INFO, derive=given.append)
    assert read == []
    assert stacked.read_bytes() == first
    pd.testing.assert_frame_equal(given[0].astype(run.concepts().dtypes), run.concepts())

    # Another table by content, whatever its time says; one more; and a file that holds no table any more.
    path = run.table_path("epoch_0005", "layer4", "clip-dissect")
    then = path.stat()
    path.write_text(path.read_text().replace("NA", "AN"))
    os.utime(path, ns=(then.st_atime_ns, then.st_mtime_ns))
    run.combine(INFO)
    assert read == ["epoch_0000", "epoch_0005"]
    assert run.concepts(epochs=[5])["concept"].tolist() == ["null", "AN", ""]
    add(run, 7)
    run.combine(INFO)
    assert set(run.concepts()["epoch"]) == {0, 5, 7}
    whole = stacked.read_bytes()
    stacked.write_bytes(whole[:200] + bytes(200) + whole[400:])
    run.combine(INFO)
    assert stacked.read_bytes() == whole


def test_what_is_derived_is_derived_from_the_last_tables(tmp_path: Path) -> None:
    """Also where who began first takes longest; and no detector's settings are lost on the way."""
    run = RunFolder(tmp_path / "run")

    def work(epoch: int) -> None:
        add(run, epoch)

        def derive(table: pd.DataFrame) -> None:
            time.sleep(0.05 * (5 - epoch))
            (run.root / "derived").write_text(" ".join(map(str, sorted(set(table["epoch"])))))

        run.combine({**INFO, "settings": {"detectors": {f"detector-{epoch}": {}}}}, derive=derive)

    threads = [threading.Thread(target=work, args=(epoch,)) for epoch in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (run.root / "derived").read_text() == "0 1 2 3 4 5"
    assert set(run.info()["settings"]["detectors"]) == {f"detector-{epoch}" for epoch in range(6)}
    assert not list(run.root.glob(".*"))


def test_who_has_nothing_to_add_leaves_run_json_as_it_is_but_for_the_pieces(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.combine(None)
    assert not run.root.exists()
    add(run, 0)
    run.combine({**INFO, "encoder": {"name": "e"}})
    before = run.info()
    run.write_checkpoint(CheckpointRecord("e1.pth", "/c/e1.pth", 1, "epoch_0001", "failed", error="NaN"))
    run.combine(None)
    after = run.info()
    assert [item["status"] for item in after.pop("checkpoints")] == ["done", "failed"]
    assert before.pop("checkpoints")
    assert after == before


def test_what_comes_in_while_a_run_is_combined_is_not_left_out(tmp_path: Path) -> None:
    """Another process writes its table after the tables were read, and does not live to combine them."""
    run = RunFolder(tmp_path)
    add(run, 0)
    looks: list[list[int]] = []

    def derive(table: pd.DataFrame) -> None:
        looks.append(sorted(set(table["epoch"])))
        if len(looks) == 1:
            add(run, 1)

    run.combine(INFO, derive=derive)
    assert looks == [[0], [0, 1]]
    assert set(run.concepts()["epoch"]) == {0, 1}
    assert len(run.info()["checkpoints"]) == 2


def test_no_record_declares_a_table_finished_that_could_not_be_written(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    path = run.table_path("epoch_0000", "layer4", "clip-dissect")
    path.mkdir(parents=True)  # nothing can be written in its place
    with pytest.raises((OSError, CmonError)):
        add(run, 0)
    assert not path.with_suffix(".json").exists()


def test_other_settings_are_refused_and_new_detectors_are_not(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    add(run, 0)
    run.combine(INFO)
    run.check_settings({"probe": "a", "detectors": {"network-dissection": {"fraction": 0.005}}})
    with pytest.raises(InputError, match="probe"):
        run.check_settings({"probe": "b"})
    with pytest.raises(InputError, match=r"detectors\.clip-dissect\.a"):
        run.check_settings({"probe": "a", "detectors": {"clip-dissect": {"a": 2}}})
    run.combine({**INFO, "created": "now", "settings": {"probe": "a", "detectors": {"compositional": {}}}})
    info = run.info()
    assert info["created"] == "then"
    assert set(info["settings"]["detectors"]) == {"clip-dissect", "compositional"}


def test_no_run_newer_run_and_unknown_names_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run here yet"):
        RunFolder.open(tmp_path)
    run = RunFolder(tmp_path)
    add(run, 0)
    run.combine(INFO)
    with pytest.raises(InputError, match="it has: layer4"):
        run.concepts(layers=["layer9"])
    with pytest.raises(InputError, match="no epoch 7"):
        run.concepts(epochs=[7])
    run.run_file.write_text(json.dumps({"schema_version": 99}))
    with pytest.raises(InputError, match="schema version 99"):
        run.info()
    run.run_file.write_text("{")
    with pytest.raises(InputError, match=r"run\.json cannot be read"):
        run.info()


def test_layer_names_that_are_no_file_names(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    path = run.table_path("epoch_0000", "a/../b\n<x>", "clip-dissect")
    assert path.parent == run.tables / "epoch_0000"
    assert "/" not in path.name
    assert run.table_path("e", "layer4.1.conv2", "clip-dissect").name == "layer4.1.conv2.clip-dissect.csv"


def test_a_table_without_its_record_does_not_count(tmp_path: Path) -> None:
    """A process killed between the table and the record has not finished the piece."""
    run = RunFolder(tmp_path)
    add(run, 0)
    add(run, 1)
    run.table_path("epoch_0001", "layer4", "clip-dissect").with_suffix(".json").unlink()
    run.combine(INFO)
    assert set(run.concepts()["epoch"]) == {0}


def test_damaged_records_are_named_and_those_of_a_later_version_are_read(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    add(run, 0)
    run.combine(INFO)
    for name in ("checkpoint.json", "layer4.clip-dissect.json"):
        path = run.tables / "epoch_0000" / name
        before = path.read_text()
        path.write_text(json.dumps({**json.loads(before), "mood": "good"}))
        run.combine(INFO)
        for damage in (before[:20], "[]", '{"epoch": 0}', before.replace('"', "\xff")):
            path.write_text(damage)
            with pytest.raises(InputError, match="cannot be read") as error:
                run.combine(INFO)
            assert str(path) in str(error.value)
        path.write_text(before)
    run.combine(INFO)
    assert run.concepts()["epoch"].tolist() == [0, 0, 0]


def test_damaged_table_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("epoch,unit\n1,2\n")
    with pytest.raises(InputError, match="not a concepts table"):
        TABLES["concepts"].read_csv(path)


def test_a_damaged_stacked_table_is_named(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "out")
    add(run, 0)
    run.combine(INFO)
    (run.tables / "concepts.parquet").write_bytes(b"PAR1 no table")
    with pytest.raises(InputError, match="not a concepts table"):
        run.concepts()


def test_schema_refuses_missing_columns() -> None:
    with pytest.raises(KeyError, match="score"):
        TABLES["concepts"].frame(pd.DataFrame({"epoch": [1]}))


def test_reading_a_run_imports_no_torch(tmp_path: Path) -> None:
    code = "import sys, concept_monitor_cli.run; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_accuracies_are_read_with_those_of_the_whole_run(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "out")

    def state(epoch: int, number: float) -> None:
        share = number / 100 if number > 1 else None
        name, folder = f"e{epoch}.pth", f"epoch_{epoch:04d}"
        run.write_checkpoint(
            CheckpointRecord(
                name, f"/c/{name}", epoch, folder, "done", accuracy=share, accuracy_stated=number
            )
        )

    for epoch in range(2):
        add(run, epoch)
        state(epoch, 1.0)
    run.combine(INFO)
    assert [record.accuracy for record in run.checkpoints()] == [None, None]
    assert [notice for notice in run.info()["notices"] if "1 %" in notice] == [UNCLEAR_ACCURACY]
    state(2, 35.0)
    run.combine(None)
    assert [record.accuracy for record in run.checkpoints()] == [0.01, 0.01, 0.35]
    assert [record["accuracy"] for record in run.info()["checkpoints"]] == [0.01, 0.01, 0.35]
    assert run.info()["notices"] == []


def test_a_piece_that_another_process_removes_meanwhile_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path / "out")
    add(run, 0)
    add(run, 1)
    glob = Path.glob

    def and_then_forgotten(self: Path, pattern: str) -> list[Path]:
        found = list(glob(self, pattern))
        for path in found:
            if path.parent.name == "epoch_0001" and path.name != "checkpoint.json":
                path.unlink()
        return found

    monkeypatch.setattr(Path, "glob", and_then_forgotten)
    assert {Path(path).parent.name for path, _ in run._pieces()} == {"epoch_0000", "epoch_0001"}
