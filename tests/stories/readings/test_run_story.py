"""Everything in one: a run from checkpoints to its page, and what it says is true."""

from __future__ import annotations

import csv
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from planted_training import EPOCHS, SIDE, weights

sys.path.insert(0, str(Path(__file__).parents[2] / "monitor"))

from truth import RunFiles, untrue

from concept_monitor_cli.options import CompareOptions, RunOptions, StatsOptions
from concept_monitor_cli.stories.compare import compare
from concept_monitor_cli.stories.run_all import RunResult, run_all
from concept_monitor_cli.stories.stats import stats


def options(world: Path, checkpoints: Path, out: str, **more: Any) -> RunOptions:
    values: dict[str, Any] = {
        "checkpoints": (str(checkpoints),),
        "layers": ("1",),
        "model": f"{world / 'network.py'}:network",
        "input_size": SIDE,
        "crop": 1.0,
        "mean": (0.5,) * 3,
        "std": (0.25,) * 3,
        "probe": str(world / "photos"),
        "concepts": str(world / "words.csv"),
        "encoder": f"embeddings:{world / 'embeddings.h5'}",
        "anchors": ("car", "red"),
        "out": world / out,
        "cache_dir": world / "cache",
        "device": "cpu",
    }
    return RunOptions(**{**values, **more})


@pytest.fixture(scope="module")
def checkpoints(world: Path) -> Path:
    folder = world / "story-ckpts"
    folder.mkdir()
    for epoch in (0, 2, EPOCHS - 1):
        torch.save({"state_dict": weights(epoch), "epoch": epoch}, folder / f"epoch_{epoch}.pth")
    return folder


@pytest.fixture(scope="module")
def made(world: Path, checkpoints: Path) -> RunResult:
    return run_all(options(world, checkpoints, "story"))


def tables(run: Path) -> dict[str, bytes]:
    named = ("similarity.csv", "dimension.csv")  # hold the name of the run
    return {
        path.name: path.read_bytes() if path.name not in named else b""
        for path in sorted((run / "tables").glob("*.csv"))
    }


def test_a_run_makes_everything_and_ends_with_a_page(made: RunResult) -> None:
    assert made.page == made.out / "report.html"
    assert made.page.is_file()
    assert len(made.done) == 3
    written = set(tables(made.out))
    assert {"embedding.csv", "statistics.csv", "units.csv", "changes.csv", "similarity.csv"} <= written
    assert {"findings.csv", "evaluation.csv", "anchors.csv"} <= written
    assert made.plots
    assert all(path.is_file() for path in made.plots)
    assert made.left_out == {}


def test_what_it_says_is_true_and_is_on_the_page(made: RunResult) -> None:
    files = RunFiles(made.out)
    found = files.findings()
    assert [row["sentence"] for row in found] == [each.sentence for each in made.findings]
    assert 2 <= len(found) <= 7
    assert {"named", "held-out"} <= {row["kind"] for row in found}
    assert "nothing" not in {row["kind"] for row in found}
    assert [why for row in found if (why := untrue(files, row["sentence"]))] == []
    assert made.page is not None
    page = made.page.read_text(encoding="utf-8")
    assert all(row["sentence"].split(": ")[-1][:40] in page for row in found)


def test_a_rerun_runs_no_network_and_leaves_the_same_tables(
    made: RunResult, world: Path, checkpoints: Path
) -> None:
    before = tables(made.out)
    again = run_all(options(world, checkpoints, "story"))
    assert again.forward_passes == 0
    assert tables(made.out) == before
    # Another folder, from the same cache.
    elsewhere = run_all(options(world, checkpoints, "elsewhere"))
    assert tables(elsewhere.out) == before


def test_one_epoch_and_no_encoder_leave_steps_out(world: Path, checkpoints: Path) -> None:
    one = run_all(options(world, checkpoints / "epoch_0.pth", "one"))
    assert one.page is not None
    assert "embed" not in one.left_out
    kinds = [each.kind for each in one.findings]
    assert "named" in kinds
    assert "growth" not in kinds


def test_stats_says_the_same_as_the_run(made: RunResult, world: Path) -> None:
    before = (made.out / "tables" / "findings.csv").read_bytes()
    found = stats(StatsOptions(run=made.out, cache_dir=world / "cache"))
    assert [each.sentence for each in found.findings] == [each.sentence for each in made.findings]
    assert (made.out / "tables" / "findings.csv").read_bytes() == before


def test_two_runs_are_told_apart_by_what_differs(made: RunResult, world: Path, tmp_path: Path) -> None:
    same = compare(
        CompareOptions(run_a=made.out, run_b=made.out, out=tmp_path / "same", cache_dir=world / "cache")
    )
    kinds = {each.kind for each in same.findings}
    # Six different units are too few for `matched`.
    assert "same-concept" in kinds
    assert not kinds & {"more-named", "more-of-a-category", "different-settings"}
    with (tmp_path / "same" / "tables" / "matches.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["unit_a"] and row["unit_b"]]
    told = next(each for each in same.findings if each.kind == "same-concept").sentence
    agree = sum(row["same"] == "True" for row in rows)
    assert f" {agree} of {len(rows)} matched units have the same concept" in told


def test_a_share_of_the_checkpoints_is_only_dissected(world: Path, checkpoints: Path) -> None:
    from concept_monitor_cli.options import Shard

    first = run_all(options(world, checkpoints, "shares", shard=Shard(1, 2)))
    assert not first.whole
    assert first.page is None
    second = run_all(options(world, checkpoints, "shares", shard=Shard(2, 2)))
    assert second.whole
    assert second.page is not None
    shutil.rmtree(world / "shares")


def test_the_last_stages_are_taken_where_no_layer_is_named(world: Path, checkpoints: Path) -> None:
    made = run_all(options(world, checkpoints / "epoch_0.pth", "auto", layers=("auto",)))
    # A network of one layer has no stages: what it has is taken.
    assert "1" in made.layers
