"""Small slips of users, and what they are told."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console as RichConsole

from concept_monitor_cli.cli import show_run, units
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.cli.options import written
from concept_monitor_cli.errors import InputError, Interrupted
from concept_monitor_cli.models.build import _respelt
from concept_monitor_cli.monitor.findings import Finding
from concept_monitor_cli.options import (
    DissectOptions,
    EmbedOptions,
    EvaluateOptions,
    ReportOptions,
    SearchOptions,
    StatsOptions,
    SubmitOptions,
    UnitsOptions,
)
from concept_monitor_cli.options.values import duration
from concept_monitor_cli.space import misspelt
from concept_monitor_cli.stories.units import UnitsResult


@pytest.mark.parametrize("kind", [EmbedOptions, EvaluateOptions, ReportOptions, StatsOptions, UnitsOptions])
def test_a_run_is_named_by_its_place_or_by_out(kind: type[StatsOptions]) -> None:
    assert kind(run=Path("mine")).out == Path("mine")
    assert kind(out=Path("mine"), sources={"out": "flag"}).out == Path("mine")
    # A variable or a file names the usual run; what is written on the line is meant.
    assert kind(run=Path("mine"), out=Path("usual"), sources={"out": "environment"}).out == Path("mine")
    assert kind(run=Path("a"), out=Path("a"), sources={"out": "flag"}).out == Path("a")
    with pytest.raises(InputError, match="two runs are named: a and, with --out, b"):
        kind(run=Path("a"), out=Path("b"), sources={"out": "flag"})


def test_a_search_names_its_text_first() -> None:
    assert SearchOptions(text="dog", run=Path("mine")).out == Path("mine")


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30min", 1800), ("2h", 7200), ("1.5d", 129600)])
def test_lengths_of_time(text: str, seconds: float) -> None:
    assert duration(text) == seconds


def test_a_minute_is_no_m() -> None:
    with pytest.raises(InputError) as caught:
        duration("1m")
    assert caught.value.hint == "minutes are written 1min"
    with pytest.raises(InputError) as caught:
        duration("soon")
    assert "90s" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("spec", "meant"),
    [("vit-b-16", "torchvision/vit_b_16"), ("ResNet18", "torchvision/resnet18"), ("nothing-like-it", None)],
)
def test_architectures_in_another_spelling(spec: str, meant: str | None) -> None:
    assert _respelt(spec) == meant


def test_anchors_that_are_nearly_a_concept() -> None:
    concepts = ["windmill", "dog", "striped", "sea"]
    assert misspelt(["windmil", "stripped", "dog", "Windmill", "dogs", "watermark"], concepts) == {
        "windmil": "windmill",
        "stripped": "striped",
    }


class _Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def terminal(monkeypatch: pytest.MonkeyPatch, columns: int = 40) -> tuple[Console, _Terminal]:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    stream = _Terminal()
    return Console(err=stream), stream


def test_notes_break_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    console, stream = terminal(monkeypatch)
    said = (
        "units of this layer repeat each other and get wrong, different names "
        "/a/path/that/is/longer/than/a/line/of/the/terminal/is"
    )
    console.notice(said)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())
    lines = [line.strip() for line in plain.splitlines()]
    assert " ".join(lines).removeprefix("note: ") == said
    assert len(lines) > 2


def test_an_error_after_ctrl_c_begins_on_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    console, stream = terminal(monkeypatch)
    stream.write("^C")
    console.error(Interrupted("stopped by SIGINT"))
    assert stream.getvalue().startswith("^C\n")


def test_a_warning_beside_a_bar_has_lines_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    console, stream = terminal(monkeypatch, 60)
    with console.task("images", total=3) as advance:
        advance(1)
        console.warning("one photo cannot be read")
        advance(2)
    screen = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in re.split(r"[\r\n]+", stream.getvalue())]
    assert [line.strip() for line in screen if "warning" in line] == ["warning: one photo cannot be read"]


def test_a_note_is_said_once_however_often_it_is_true(monkeypatch: pytest.MonkeyPatch) -> None:
    console, stream = terminal(monkeypatch, 80)
    for _ in range(3):
        console.notice("few photos")
    console.notice("copies")
    assert stream.getvalue().count("few photos") == 1
    assert stream.getvalue().count("copies") == 1


def test_submit_says_what_each_task_does() -> None:
    options = SubmitOptions(
        checkpoints=("ckpts/",),
        layers=("layer3", "layer4"),
        probe="my photos",
        stability=False,
        gpus=1,
        sources={"layer": "flag", "probe": "flag", "stability": "flag", "gpus": "flag", "seed": "default"},
    )
    assert written(DissectOptions, options) == [
        *("cmon", "dissect", "ckpts/", "--layer", "layer3,layer4"),
        *("--probe", "my photos", "--no-stability"),
    ]


def test_findings_fit_into_80_columns() -> None:
    finding = Finding(
        "encoder.layers.encoder_layer_11: " + "units that name a concept " * 6,
        "growth",
        1,
        "encoder.layers.encoder_layer_11",
        1.0,
        0.0,
        "tables/statistics.csv (cmon stats --layer encoder.layers.encoder_layer_11)",
    )
    lines = show_run.finding_lines([finding])
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("* ")
    assert lines[-1].endswith("[cmon stats --layer encoder.layers.encoder_layer_11]")
    assert all(line.startswith("  ") for line in lines[1:])


def test_lives_fit_into_80_columns() -> None:
    row = {
        "layer": "encoder.layers.encoder_layer_11.mlp.linear_1",
        "detector": "network-dissection",
        **dict.fromkeys(("units", "born", "died", "confident_changes", "label_changes", "changes"), 12345),
        **dict.fromkeys(("born_by_luck", "random_interpretable", "confident_by_luck"), 1234),
    }

    stream = io.StringIO()
    console = Console(out=stream)
    console.rich = lambda **_: RichConsole(file=stream, width=80)  # type: ignore[method-assign]
    units._show(console, UnitsResult(Path(), layers=[row]), ())
    printed = stream.getvalue()
    assert "12345" in printed
    assert printed.count("12345") == 5
    assert printed.count("12345 (1234)") == 2
    assert max(len(line) for line in printed.splitlines()) <= 80


def test_pairs_are_told(tmp_path: Path) -> None:
    from concept_monitor_cli.monitor.summary import LayerSummary
    from concept_monitor_cli.run import CheckpointRecord, RunFolder

    run = RunFolder(tmp_path)
    run.write_checkpoint(CheckpointRecord("e5.pth", "/e5.pth", 5, "epoch_0005", "done"))
    path = run.table_path("epoch_0005", "layer4", "clip-dissect.pairs")
    pd.DataFrame(
        {
            "unit": [0, 0, 1, 2],
            "rank": [1, 2, 1, 1],
            "concept": ["red car", "red dog", "blue sky", "old boat"],
            "score": [0.5, 0.4, 0.3, 0.2],
            "single_score": [0.4, 0.4, 0.35, 0.05],
        }
    ).to_csv(path, index=False)
    summary = LayerSummary(5, "e5.pth", "layer4", "clip-dissect", 3, 0, 1, 1, None, ())
    (line,) = show_run.pairs_lines(run, [summary])
    assert line.startswith("layer4, epoch 5: two words fit 2 of 3 units better than one")
    assert line.endswith(": 2 old boat, 0 red car")
    assert show_run.pairs_lines(run, [LayerSummary(5, "e5.pth", "layer3", "x", 3, 0, 1, 1, None, ())]) == []
