"""A detector from a file outside the package, and those of whole images, in every command."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from .conftest import Bench

EXAMPLE = f"{Path(__file__).resolve().parents[2] / 'docs/examples/auc.py'}:Area"


@pytest.mark.parametrize(
    ("detector", "name", "labels"),
    [(EXAMPLE, "auc", "concepts"), ("invert", "invert", "formulas")],
)
def test_it_runs_through_every_command(
    bench: Bench, cmon, tmp_path: Path, detector: str, name: str, labels: str
) -> None:
    answer = cmon(*bench.dissect("--detector", detector, "-q"))
    assert answer.code == 0, answer.err
    table = pd.read_parquet(bench.root / "out/tables/concepts.parquet")
    assert set(table["detector"]) == {name}
    info = json.loads((bench.root / "out/run.json").read_text())
    assert info["traits"][name]["labels"] == labels
    again = cmon(*bench.dissect("--detector", detector, "--json", "-q"))
    assert again.json()["forward_passes"] == 0
    where = ["--out", bench.root / "out", "--cache-dir", bench.root / "cache", "-q"]
    for command in (
        ["stats"],
        ["units"],
        ["units", "--layer", "layer3", "--unit", "3"],
        ["embed", "--anchors", "red,sky", "--method", "pca"],  # UMAP compiles itself for 20 s
        ["report"],
        ["evaluate", "--measure", "clarity"],
        ["dynamics"],
    ):
        answer = cmon(*command, *where)
        # The photos of the bench are too few for some: a run without a single concept has no map.
        none = command[0] == "embed" and not (table["concept"] != "").any()
        assert answer.code == (2 if none else 0), (command, answer.err)
        assert not none or "no unit has a concept" in answer.err
    runs = [bench.root / "out", bench.root / "out"]
    answer = cmon("compare", *runs, "--cache-dir", bench.root / "cache", "--out", tmp_path / "c", "-q")
    assert answer.code == 0, answer.err


def test_it_is_watched_and_submitted(bench: Bench, cmon) -> None:
    ordinary = bench.dissect("--detector", EXAMPLE, "-q")[1:]
    assert cmon("dissect", *ordinary).code == 0
    whole = bench.tables()
    watched = bench.dissect("--detector", EXAMPLE, "-q", out="watched")[1:]
    assert cmon("watch", *watched, "--interval", "0.05s", "--idle", "0.2s").code == 0
    concepts = [name for name in whole if "concepts" in name]
    assert concepts
    assert {name: bench.tables("watched")[name] for name in concepts} == {
        name: whole[name] for name in concepts
    }
    answer = cmon("submit", *ordinary, "--dry-run")
    assert answer.code == 2
    assert "there are: cmon submit dissect, cmon submit status" in answer.err
    answer = cmon("submit", "dissect", *ordinary, "--dry-run")
    assert answer.code == 0, answer.err
    assert f"--detector {EXAMPLE}" in answer.out.replace("\n", " ")


def test_changed_code_is_asked_again(bench: Bench, cmon, tmp_path: Path) -> None:
    own = tmp_path / "mine.py"
    text = Path(EXAMPLE.rpartition(":")[0]).read_text()
    own.write_text(text)
    assert cmon(*bench.dissect("--detector", f"{own}:Area", "-q")).code == 0
    from concept_monitor_cli.lenses import make_detector
    from concept_monitor_cli.options import DissectOptions

    before = make_detector(f"{own}:Area", DissectOptions(checkpoints=(), layers=())).code
    other = tmp_path / "other.py"
    other.write_text(text.replace("<= 0.5", "<= 0.4"))
    after = make_detector(f"{other}:Area", DissectOptions(checkpoints=(), layers=())).code
    assert before
    assert before != after


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("clip-disect", "did you mean clip-dissect"),
        ("missing.py:Area", "no such file"),
        ("EXAMPLE:Nothing", "has no 'Nothing'"),
        ("EXAMPLE:auc", "is no detector"),
    ],
)
def test_what_is_no_detector_is_refused(bench: Bench, cmon, name: str, said: str) -> None:
    name = name.replace("EXAMPLE", EXAMPLE.rpartition(":")[0])
    answer = cmon(*bench.dissect("--detector", name, "-q"))
    assert answer.code == 2
    assert said in answer.err


def test_settings_beside_foreign_checkpoints_name_no_code(bench: Bench, cmon, monkeypatch) -> None:
    (bench.checkpoints / "cmon.toml").write_text(f'detector = ["{EXAMPLE}"]\n')
    monkeypatch.chdir(bench.root)
    answer = cmon(*bench.dissect("-q"))
    assert answer.code == 2
    assert "detector" in answer.err
