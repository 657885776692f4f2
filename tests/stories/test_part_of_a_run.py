"""A command that is asked for a part of a run shows the part, and what the run has of the rest stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from concept_monitor_cli.cli import main
from concept_monitor_cli.monitor.findings import Finding
from concept_monitor_cli.stories import findings as findings_story

from .conftest import Answer, Bench, make_bench

Cmon = Callable[..., Answer]

LAYERS, DETECTORS = ("layer2", "layer3"), ("clip-dissect", "invert")
# What leaves out layers, detectors, epochs, and all of that.
PARTS = (
    ("--layer", "layer3"),
    ("--detector", "invert"),
    ("--epochs", "0,5"),
    ("--layer", "layer2", "--detector", "clip-dissect", "--epochs", "last"),
)
# Of each command the tables whose rows are written anew.
RENEWED = {
    "stats": ("statistics",),
    "units": ("units", "changes", "self_similarity"),
    "dynamics": ("similarity", "dimension"),
}
# It compares activations, whoever names them.
NO_DETECTOR = ("dynamics",)
EVERY = [
    pytest.param(command, part, id=" ".join((command, *part)))
    for command in RENEWED
    for part in PARTS
    if command not in NO_DETECTOR or "--detector" not in part
]


def asked(bench: Bench, command: str, *more: str) -> list[str]:
    return [command, str(bench.root / "out"), "--cache-dir", str(bench.root / "cache"), *more]


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Two layers by two detectors at three epochs, with all tables of the run as a whole."""
    bench = make_bench(tmp_path_factory.mktemp("studied"))
    line = bench.dissect("-q", "--detector", ",".join(DETECTORS), layer=",".join(LAYERS))
    for words in (line, *(asked(bench, command, "-q") for command in RENEWED)):
        assert main([str(word) for word in words]) == 0
    return bench


@pytest.fixture
def whole(studied: Bench) -> Iterator[Bench]:
    """The same run, which every test finds as it was."""
    folder, before = studied.root / "out" / "tables", studied.tables()
    yield studied
    for name in studied.tables().keys() - before.keys():
        (folder / name).unlink()
    for name, content in before.items():
        (folder / name).write_bytes(content)


def path(bench: Bench, name: str) -> Path:
    return bench.root / "out" / "tables" / f"{name}.csv"


def change(bench: Bench, name: str, how: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    how(pd.read_csv(path(bench, name))).to_csv(path(bench, name), index=False)


# -- tables ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("command", "part"), EVERY)
def test_tables_of_the_whole_run_stay_whole(
    whole: Bench, cmon: Cmon, command: str, part: tuple[str, ...]
) -> None:
    before = whole.tables()
    assert {f"{name}.csv" for name in (*RENEWED[command], "findings")} <= before.keys()
    assert cmon(*asked(whole, command, *part, "-q")).code == 0
    assert whole.tables() == before


@pytest.mark.parametrize("command", RENEWED)
def test_rows_of_the_part_are_as_the_whole_call_writes_them(whole: Bench, cmon: Cmon, command: str) -> None:
    before = whole.tables()
    for name in RENEWED[command]:
        change(
            whole,
            name,
            lambda rows: rows[(rows["layer"] != "layer3") | (rows.get("other_layer") == "layer2")],
        )
    assert cmon(*asked(whole, command, "--layer", "layer3", "-q")).code == 0
    assert whole.tables() == before


@pytest.mark.parametrize("command", RENEWED)
def test_rows_of_the_rest_are_not_made_again(whole: Bench, cmon: Cmon, command: str) -> None:
    marks = {"statistics": "units", "units": "path_length", "self_similarity": "self_similarity"}
    for name in RENEWED[command]:
        column = marks.get(name, "value")
        if name != "changes":
            change(whole, name, lambda rows, column=column: rows.assign(**{column: 77}))
    assert cmon(*asked(whole, command, "--layer", "layer3", "-q")).code == 0
    for name in RENEWED[command]:
        rows = pd.read_csv(path(whole, name))
        others = (rows["layer"] != "layer3") | (rows.get("other_layer", "layer3") != "layer3")
        if name != "changes":
            column = marks.get(name, "value")
            assert (rows.loc[others, column] == 77).all()
            assert others.any()
            assert (rows.loc[~others, column] != 77).all()
            assert not others.all()


def test_changes_of_the_rest_stay(whole: Bench, cmon: Cmon) -> None:
    moment = {"epoch": 5, "checkpoint": "epoch_5.pth", "detector": "clip-dissect", "unit": 0}
    words = {"from_concept": "red", "from_category": "", "to_concept": "dog", "to_category": ""}
    made = [
        {**moment, **words, "layer": layer, "from_epoch": 0, "confidence": 1.0, "self_similarity": 0.5}
        for layer in LAYERS
    ]
    change(whole, "changes", lambda rows: pd.DataFrame(made)[rows.columns])
    assert cmon(*asked(whole, "units", "--layer", "layer3", "-q")).code == 0
    assert pd.read_csv(path(whole, "changes"))["layer"].tolist() == ["layer2"]


@pytest.mark.parametrize("command", RENEWED)
def test_rows_of_what_the_run_has_no_more_go(whole: Bench, cmon: Cmon, command: str) -> None:
    before = whole.tables()
    for name in RENEWED[command]:

        def with_lost(rows: pd.DataFrame) -> pd.DataFrame:
            lost = [rows.assign(layer="layer9")]
            if "checkpoint" in rows:
                lost.append(rows.assign(checkpoint="epoch_5.old.pth"))
            return pd.concat([rows, *lost])

        change(whole, name, with_lost)
    assert cmon(*asked(whole, command, "--layer", "layer3", "-q")).code == 0
    assert whole.tables() == before


@pytest.mark.parametrize("command", RENEWED)
def test_a_table_that_cannot_be_read_is_written_anew(whole: Bench, cmon: Cmon, command: str) -> None:
    for name in RENEWED[command]:
        path(whole, name).write_text("no,such\ntable,at all\n")
    assert cmon(*asked(whole, command, "--layer", "layer3", "-q")).code == 0
    for name in RENEWED[command]:
        assert set(pd.read_csv(path(whole, name))["layer"]) <= {"layer3"}


def test_a_life_takes_all_epochs(whole: Bench, cmon: Cmon) -> None:
    answer = cmon(*asked(whole, "units", "--epochs", "0,5"))
    assert "units.csv, changes.csv and self_similarity.csv tell of all epochs" in " ".join(answer.err.split())
    assert "tell of all epochs" not in cmon(*asked(whole, "units", "--layer", "layer3")).err
    for name in RENEWED["units"]:
        path(whole, name).unlink()
    units = cmon(*asked(whole, "units", "--epochs", "0,5", "--json")).json()["units"]
    assert {row["layer"] for row in units} == set(LAYERS)
    assert not any(path(whole, name).exists() for name in RENEWED["units"])


def test_similarities_that_come_part_by_part_lack_pairs_and_are_told_on_the_page(
    whole: Bench, cmon: Cmon
) -> None:
    path(whole, "similarity").unlink()
    for epochs in ("0,5", "5,10"):
        assert cmon(*asked(whole, "dynamics", "--epochs", epochs, "-q")).code == 0
    rows = pd.read_csv(path(whole, "similarity"))
    own = rows[
        (rows["measure"] == "cka") & (rows["layer"] == rows["other_layer"]) & (rows["layer"] == "layer3")
    ]
    pairs = {(0, 0), (0, 5), (5, 5), (5, 10), (10, 10)}
    assert set(zip(own["epoch"], own["other_epoch"], strict=True)) == pairs
    assert cmon(*asked(whole, "report", "-q")).code == 0


# -- what is said, printed and drawn ---------------------------------------------------------------------


def test_sentences_about_a_part_are_those_of_the_whole_run(whole: Bench, cmon: Cmon) -> None:
    said = cmon(*asked(whole, "stats", "--json")).json()["findings"]
    # The number of statements that count against each other, one caution about the run, one about a layer.
    assert "of 15 statements about 4 layers" in said[0]["sentence"]
    places = [(each["layer"], each["detector"], each["epoch"]) for each in said]
    assert places == [("", "", None), ("", "", None), ("layer3", "invert", 10)]
    for part, count in {
        ("--layer", "layer3"): 3,
        ("--layer", "layer2"): 2,
        ("--detector", "clip-dissect"): 2,
        ("--epochs", "0,5"): 2,
        ("--epochs", "5,10"): 3,
    }.items():
        assert cmon(*asked(whole, "stats", *part, "--json")).json()["findings"] == said[:count]


def test_a_part_that_no_sentence_is_about(whole: Bench, cmon: Cmon, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Finding("layer3: many", "named", 10, "layer3", 1.0, 0.0, "tables/units.csv", from_epoch=0)
    monkeypatch.setattr(findings_story, "findings", lambda tables: [one])
    for part in (("--layer", "layer2"), ("--epochs", "5,10")):
        answer = cmon(*asked(whole, "stats", *part))
        assert "layer3: many" not in answer.out
        assert "nothing of what the run says is about this part" in answer.err
    answer = cmon(*asked(whole, "stats", "--epochs", "0,10"))
    assert "layer3: many" in answer.out
    assert "nothing of what" not in answer.err


def test_the_page_of_a_part_says_what_the_whole_run_says(whole: Bench, cmon: Cmon) -> None:
    page = whole.root / "out" / "report.html"
    (sentence,) = (
        each["sentence"]
        for each in cmon(*asked(whole, "stats", "--json")).json()["findings"]
        if each["kind"] == "nothing"
    )
    assert cmon(*asked(whole, "report", "--layer", "layer3", "-q")).code == 0
    assert sentence in page.read_text(encoding="utf-8")


def test_what_is_printed_and_drawn_is_the_part(whole: Bench, cmon: Cmon) -> None:
    answer = cmon(*asked(whole, "stats", "--layer", "layer3", "--epochs", "0,5", "--json")).json()
    assert {(row["layer"], row["epoch"]) for row in answer["rows"]} == {("layer3", 0), ("layer3", 5)}
    answer = cmon(*asked(whole, "units", "--layer", "layer3", "--json")).json()
    assert {row["layer"] for row in answer["units"]} == {"layer3"}
    answer = cmon(*asked(whole, "dynamics", "--layer", "layer3", "--json")).json()
    assert {row["other_layer"] for row in answer["similarity"]} == {"layer3"}


@pytest.mark.parametrize("command", RENEWED)
def test_figures_of_all_layers_stay(whole: Bench, cmon: Cmon, command: str) -> None:
    more = ["--classes", "red"] if command == "units" else []
    assert cmon(*asked(whole, command, *more, "-q")).code == 0
    figures = ("categories", "beside_floors", "similarity.", "convergence", "classes")
    plots = whole.root / "out" / "plots"
    for old in plots.glob("*.part.*"):
        old.unlink()
    before = {each: each.read_bytes() for each in plots.iterdir() if each.name.startswith(figures)}
    assert before
    assert cmon(*asked(whole, command, *more, "--layer", "layer3", "-q")).code == 0
    assert {each: each.read_bytes() for each in before} == before
    assert [each for each in plots.iterdir() if ".part." in each.name]
