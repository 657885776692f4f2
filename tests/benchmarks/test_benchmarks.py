"""The benchmarks run at tiny sizes, and both sides of each comparison give the same."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from scripts.benchmarks import dissection, literature, scaling, similarity
from scripts.benchmarks.measure import Row, alternate, cmon, machine, peak_bytes, run
from scripts.benchmarks.table import BEGIN, END, as_line, markdown, replace_table, with_earlier

CPU = torch.device("cpu")
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.mark.parametrize("name", list(similarity.ASKED))
def test_the_literal_loop_gives_the_same_labels(name: str) -> None:
    case = similarity.Case((1000, 12, 90, 16), CPU)
    time, memory = similarity.compare(case, name, {"ours": 1, "literal": 4}, rounds=1, units=12)
    assert time.details["labels_compared"] == 12
    assert time.details["labels_different"] == 0
    assert time.details["largest_preference_lost"] < 1e-3
    assert time.details["literal_seconds"] > 0
    assert memory.value == 0.25


def test_rows_about_masks_say_whether_results_are_equal() -> None:
    rows: list[Row] = []
    dissection.bench(rows.append, quick=True)
    assert [row.details["equal"] for row in rows] == [True, True, True]
    assert all(row.value > 0 for row in rows)
    assert torch.get_num_threads() >= 1


@linux
def test_the_peak_is_that_of_the_call() -> None:
    held = bytearray(64 << 20)
    peak = peak_bytes(lambda: torch.ones(48 << 18).sum(), CPU)  # 48 MB
    assert 40e6 < peak < 80e6
    assert len(held) == 64 << 20


@linux
def test_a_process_of_its_own_reports_its_output_and_its_peak(tmp_path: Path) -> None:
    (tmp_path / "big.py").write_text("x = bytearray(300 << 20)\nprint(len(x))\n")
    used = run(["big"], tmp_path)
    assert used.output.strip() == str(300 << 20)
    assert 300e6 < used.peak_bytes < 400e6
    assert used.wall > 0
    with pytest.raises(RuntimeError, match="ended with 2"):
        cmon(["dissect", "--no-such-option"], tmp_path)


@linux
def test_the_memory_of_a_tree_counts_its_children(tmp_path: Path) -> None:
    child = "import time; x = bytearray(200 << 20); time.sleep(0.6)"
    (tmp_path / "parent.py").write_text(
        f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}])"
    )
    used = run(["parent"], tmp_path)
    assert used.peak_bytes < 100e6
    assert 200e6 < used.tree_bytes < 300e6


@linux
@pytest.mark.slow
def test_the_chain_of_the_literature_gives_the_same_scores(tmp_path: Path) -> None:
    rows: list[Row] = []
    literature.bench(rows.append, tmp_path, quick=True, cases=[("a small encoder", 1)])
    states = [row.case for row in rows if "processor time" in row.case]
    assert states == [
        f"1 checkpoint, a small encoder, {state}: processor time"
        for state in (
            "cold",
            "cold, no random weights",
            "features known",
            "all known",
            "all known, the chain builds nothing",
        )
    ]
    assert next(row.value for row in rows if "best scores" in row.case) == 1.0
    assert rows[0].details["chain"]["said"].keys() == {"forward", "images", "words"}


def test_alternation_gives_every_call_the_same_number_of_turns() -> None:
    calls: list[str] = []
    alternate({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3)
    assert calls == ["a", "b"] * 3


@linux
def test_scaling_measures_every_size(capsys: pytest.CaptureFixture[str]) -> None:
    scaling._print_sizes("cpu", "units", quick=True, times=[1, 4])
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"1", "4"}
    assert all(seconds > 0 for seconds, _ in found.values())


def test_the_table_says_what_was_asked_for_and_how_far_the_limit_is() -> None:
    rows = [
        Row("speed", "fast", 9.0, "x faster", 8.0, limit=18.0, limit_is="memory"),
        Row("speed", "slow", 4.0, "x faster", 8.0),
        Row("size", "big", 1.5, "times", 1.3, at_least=False, limit=1.0, limit_is="the same", remark="1 MB"),
    ]
    assert [row.met for row in rows] == [True, False, False]
    table = markdown(machine(CPU), rows)
    assert "| fast | 9.0 x faster | at least 8.0 | yes | 18.0: memory | 2.0x |  |" in table
    assert "| slow | 4.0 x faster | at least 8.0 | **no** | - | - |  |" in table
    assert "| big | 1.50 times | at most 1.30 | **no** | 1.00: the same | 1.50x | 1 MB |" in table
    assert as_line(rows[1]) == "speed: slow: 4.0 x faster, asked at least 8.0: no"
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert replace_table(replace_table(page, table), table) == replace_table(page, table)
    assert "old" not in replace_table(page, table)
    with pytest.raises(ValueError, match="measured"):
        replace_table("nothing", table)


def test_the_results_have_their_place() -> None:
    text = (Path(__file__).parents[2] / "scripts/benchmarks/RESULTS.md").read_text()
    assert BEGIN in replace_table(text, "x")


def test_what_is_not_measured_again_stays_in_the_table() -> None:
    old = [Row("a", "x", 1.0, "s"), Row("b", "y", 2.0, "s", 3.0), Row("a", "z", 4.0, "s")]
    new = [Row("a", "x", 5.0, "s")]
    as_json = [{"machine": {}, "rows": [row.to_json() for row in rows]} for rows in (new, old)]
    assert [Row.from_json(row) for row in with_earlier(*as_json)["rows"]] == [new[0], old[1]]
