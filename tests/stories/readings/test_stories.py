"""stats, retention and compare on runs whose answers are known."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from planted_training import EPOCHS, UNITS, weights

from concept_monitor_cli.cli import main
from concept_monitor_cli.encoders import embed_texts
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.monitor import epochs as monitored_epochs
from concept_monitor_cli.monitor.history import histories
from concept_monitor_cli.options import (
    CompareOptions,
    EmbedOptions,
    EpochFilter,
    RetentionOptions,
    StatsOptions,
)
from concept_monitor_cli.progress import SILENT, Silent
from concept_monitor_cli.report.page import read_tables
from concept_monitor_cli.report.page.statistics import series_statistics
from concept_monitor_cli.report.universality_figures import universality_figure
from concept_monitor_cli.run import TABLES, RunFolder
from concept_monitor_cli.store import Store
from concept_monitor_cli.stories.compare import compare
from concept_monitor_cli.stories.embed import embed
from concept_monitor_cli.stories.inputs import run_encoder
from concept_monitor_cli.stories.retention import retention
from concept_monitor_cli.stories.stats import stats

Dissected = Callable[..., Path]


class Listener(Silent):
    """Remembers what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def notice(self, message: str) -> None:
        self.said.append(message)


def test_statistics_of_the_training(training: Path, cache: Path) -> None:
    result = stats(StatsOptions(out=training, cache_dir=cache, device="cpu"))
    frame = TABLES["statistics"].read_csv(training / "tables" / "statistics.csv")
    rows = frame.set_index(["epoch", "category"])
    assert len(frame) == 7 * EPOCHS
    # 16 planted units; noise is not interpretable, one unit is dead. Unit 0 turns from a color to an object.
    assert rows.loc[(0, "all"), ["units", "interpretable", "dead"]].tolist() == [UNITS, 16, 1]
    assert rows.loc[(2, "color"), "interpretable"] == 3
    assert rows.loc[(3, "color"), "interpretable"] == 2
    assert rows.loc[(2, "object"), "interpretable"] == 3
    assert rows.loc[(3, "object"), "interpretable"] == 4
    assert rows.loc[(0, "all"), "distinct_concepts"] == 6
    # All units of a category share their only word, so they lie in one place.
    assert rows.loc[(0, "scene"), "spread"] == pytest.approx(0, abs=1e-3)
    assert rows.loc[(0, "all"), "spread"] > 0.5
    assert frame["anchor_distance"].isna().all()
    assert [path.name for path in result.plots] == [
        "categories.clip-dissect.png",
        "categories_over_epochs.clip-dissect.png",
        "beside_floors.clip-dissect.png",
    ]
    assert len(result.rows) == len(frame)


def test_distance_to_anchors_once_there_is_an_embedding(dissected: Dissected, cache: Path) -> None:
    run = dissected("anchored", {0: weights(0), 1: weights(1)})
    embed(EmbedOptions(out=run, cache_dir=cache, device="cpu", anchors=("car", "street"), method="pca"))
    stats(StatsOptions(out=run, cache_dir=cache, device="cpu"))
    rows = TABLES["statistics"].read_csv(run / "tables" / "statistics.csv").set_index(["epoch", "category"])
    # Units that detect cars stand on the anchor `car`; those of the other words at a right angle to both.
    assert rows.loc[(0, "object"), "anchor_distance"] < 0.05
    assert rows.loc[(0, "texture"), "anchor_distance"] > 0.9


def test_beside_places_stand_those_of_random_weights(dissected: Dissected, cache: Path) -> None:
    run = dissected("beside-random", {0: weights(0), 1: weights(1)})
    options = EmbedOptions(out=run, cache_dir=cache, device="cpu", anchors=("car", "street"), method="pca")
    spread = embed(options).spread
    stats(StatsOptions(out=run, cache_dir=cache, device="cpu"))
    whole = TABLES["statistics"].read_csv(run / "tables" / "statistics.csv")
    whole = whole[whole["category"] == "all"]
    floors = whole["spread_floor_random"].tolist()
    assert [row["spread_floor_random"] for row in spread] == pytest.approx(floors, abs=1e-6)

    # By hand: a unit stands at the weighted mean of its concepts.
    encoder, templates = run_encoder(run_folder := RunFolder.open(run), options, SILENT)
    random = run_folder.untrained("1", "clip-dissect")
    assert random is not None
    live = random[(random["state"] == "live") & (random["concept"] != "")]
    words = sorted({*live["concept"], "car", "street"})
    rows = embed_texts(Store(cache), encoder, words, template=templates or None).astype(np.float64)
    at = dict(zip(words, rows, strict=True))
    nearest = []
    for _, own in live.groupby("unit"):
        place = sum(np.exp(row.score) * at[row.concept] for row in own[own["rank"] <= 5].itertuples())
        nearest.append(min(1 - at[word] @ place / np.linalg.norm(place) for word in ("car", "street")))
    for row in spread:
        assert row["anchor_distance_floor_random"] == pytest.approx(np.mean(nearest), abs=1e-5)
    assert _anchor_floors_on_page(run_folder) == pytest.approx([np.mean(nearest)] * 2, abs=1e-5)

    shutil.rmtree(run / "untrained")
    assert {row["spread_floor_random"] for row in embed(options).spread} == {None}
    assert _anchor_floors_on_page(run_folder) == [None, None]
    (run / "tables" / "embedding-floors.csv").unlink()  # as of a run of version 0.1
    assert _anchor_floors_on_page(run_folder) == [None, None]


def _anchor_floors_on_page(run: RunFolder) -> list[float | None]:
    (history,) = histories(run.concepts())
    values: list[float | None] = series_statistics(history, read_tables(run, run.concepts()), [], {})[
        "anchor_distance_floor_random"
    ]
    return values


def test_retention_of_stages_in_one_run_and_in_several(dissected: Dissected, cache: Path) -> None:
    stages = {stage: weights(0) for stage in range(3)}
    for stage in (1, 2):
        stages[stage]["1.weight"][4] = stages[stage]["1.weight"][7]
    stages[2]["1.weight"][5] = 0
    run = dissected("pruning", stages, {0: 91.5, 1: 90.0, 2: 12.0})
    result = retention(RetentionOptions(runs=(run,), out=Path("nowhere")))
    assert result.out == run
    table = TABLES["pruning"].read_csv(run / "tables" / "pruning.csv")
    zero = [float((state["1.weight"] == 0).float().mean()) for state in stages.values()]
    assert table["sparsity"].tolist() == pytest.approx(zero, abs=1e-6)
    assert table["interpretable"].tolist() == [16, 16, 15]
    assert table["accuracy"].tolist() == pytest.approx([0.915, 0.9, 0.12])
    curve = TABLES["retention"].read_csv(run / "tables" / "retention.csv")
    # 17 live units at first, of which units 4 and 5 do not keep their concept (noise is the same throughout).
    assert curve["units"].iloc[-1] == 17
    assert curve["kept"].iloc[-1] == 15
    alone = [dissected(f"stage{stage}", {0: stages[stage]}) for stage in range(3)]
    listener = Listener()
    again = retention(RetentionOptions(runs=tuple(alone), by_run=True), listener)
    assert any("do not state their accuracy" in said for said in listener.said)
    assert all(row["accuracy"] is None for row in again.stages)
    assert [row["kept"] for row in again.curves] == curve["kept"].tolist()
    assert [row["sparsity"] for row in again.stages] == pytest.approx(zero, abs=1e-6)
    assert any("no checkpoint is pruned" in said for said in listener.said) == (max(zero) < 0.01)
    with pytest.raises(InputError, match="two stages"):
        retention(RetentionOptions(runs=(alone[0],)))


def test_retention_says_that_nothing_is_pruned(dissected: Dissected) -> None:
    listener = Listener()
    dense = {name: value + 0.01 for name, value in weights(0).items()}
    retention(RetentionOptions(runs=(dissected("dense", {0: dense, 1: dense}),)), listener)
    assert any("no checkpoint is pruned (at most 0.0%" in said for said in listener.said)


def test_a_run_compared_with_itself_has_no_differences(training: Path, cache: Path, tmp_path: Path) -> None:
    result = compare(
        CompareOptions(run_a=training, run_b=training, out=tmp_path, cache_dir=cache, device="cpu")
    )
    assert not result.different
    (layer,) = result.layers
    assert (layer["matched"], layer["same"], layer["only_a"], layer["only_b"]) == (
        UNITS - 1,
        UNITS - 1,
        [],
        [],
    )
    table = TABLES["matches"].read_csv(tmp_path / "tables" / "matches.csv")
    both = table.dropna(subset=["unit_a", "unit_b"])
    assert (both["unit_a"] == both["unit_b"]).all()
    # The dead unit is on both sides, without a twin.
    assert table[~table.index.isin(both.index)][["unit_a", "unit_b"]].sum().tolist() == [3, 3]


def test_every_unit_of_a_permuted_copy_finds_its_twin(
    dissected: Dissected, training: Path, cache: Path, tmp_path: Path
) -> None:
    order = torch.randperm(UNITS, generator=torch.Generator().manual_seed(1))
    state = weights(EPOCHS - 1)
    permuted = {name: value[order] for name, value in state.items()}
    run = dissected("permuted", {EPOCHS - 1: permuted})
    result = compare(CompareOptions(run_a=training, run_b=run, out=tmp_path, cache_dir=cache, device="cpu"))
    assert not result.different
    table = (
        TABLES["matches"].read_csv(tmp_path / "tables" / "matches.csv").dropna(subset=["unit_a", "unit_b"])
    )
    assert len(table) == UNITS - 1
    assert order[table["unit_b"].to_numpy(dtype=int)].tolist() == table["unit_a"].tolist()
    assert table["same"].all()
    assert table["correlation"].min() == pytest.approx(1, abs=1e-5)
    universal = TABLES["universality"].read_csv(tmp_path / "tables" / "universality.csv")
    whole = universal[universal["category"] == "all"].iloc[0]
    assert (whole["epoch"], whole["other_epoch"]) == (EPOCHS - 1, EPOCHS - 1)
    assert (whole["units"], whole["universal"]) == (UNITS - 1, UNITS - 1)
    assert whole["held_out"] == pytest.approx(1, abs=1e-5)
    assert abs(whole["chance"]) < 0.3
    assert set(universal["category"]) > {"all"}
    assert universal["units"].sum() <= 2 * (UNITS - 1)


def test_universal_units_of_large_layers_are_counted_at_some_epochs_unless_epochs_are_named(
    training: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitored_epochs, "LARGE", 3)
    monkeypatch.setattr(monitored_epochs, "MOST", 2)

    def counted(**named: EpochFilter) -> set[int]:
        options = CompareOptions(
            run_a=training, run_b=training, out=tmp_path, cache_dir=cache, plot_formats=(), **named
        )
        return {row["epoch"] for row in compare(options).universality}

    assert counted() == {0, EPOCHS - 1}
    assert counted(epochs=EpochFilter.parse(f"0:{EPOCHS - 1}")) == set(range(EPOCHS))


def test_what_one_has_and_the_other_lacks(
    dissected: Dissected, training: Path, cache: Path, tmp_path: Path
) -> None:
    state = weights(EPOCHS - 1)
    state["1.weight"][5::6] = 0  # nobody looks at streets
    run = dissected("streetless", {EPOCHS - 1: state})
    options = CompareOptions(
        run_a=training, run_b=run, out=tmp_path, cache_dir=cache, device="cpu", classes=("street", "car")
    )
    result = compare(options)
    assert result.different
    (layer,) = result.layers
    assert "street" in layer["only_a"]
    assert (layer["only_b"], layer["alone_a"]) == ([], 3)
    counts = pd.read_csv(tmp_path / "tables" / "comparison.csv").set_index("concept")
    assert counts.loc["street", ["units_a", "units_b"]].tolist() == [3, 0]
    streets = {row["run"]: row["interpretable"] for row in result.classes if row["class"] == "street"}
    assert streets == {"a": 3, "b": 0}
    assert {path.name for path in result.plots} == {
        "compare.clip-dissect.png",
        "classes.clip-dissect.png",
        "class_units.1.clip-dissect.png",
        "universality.clip-dissect.png",
    }


def test_layers_of_other_names_and_what_the_command_says_of_them(classifier: Path, tmp_path: Path) -> None:
    """Both stages of the planted classifier see the same six concepts, two units each."""
    from concept_monitor_cli.cli.compare import _universal

    run = classifier / "run"
    options = {
        "run_a": run,
        "run_b": run,
        "out": tmp_path,
        "cache_dir": classifier / "cache",
        "device": "cpu",
    }
    result = compare(CompareOptions(**options, match=("stage1=stage2",), plot_formats=()))
    (layer,) = result.layers
    last = [row for row in result.universality if row["epoch"] == row["other_epoch"] == 1]
    whole = next(row for row in last if row["category"] == "all")
    assert (whole["layer"], whole["other_layer"]) == ("stage1", "stage2")
    assert whole["universal"] == whole["units"] == 12
    assert whole["share"] == 1
    # At epoch 0 both layers are noise of the same images; at neither is a permuted image like another.
    assert {row["epoch"] for row in result.universality} == {0, 1}
    assert _universal(result, layer)[0].startswith("12 of 12 units are universal in stage2, by chance 1%")
    figure = universality_figure(pd.DataFrame(result.universality), ("one", "other"))
    correlations, categories, epochs = figure.axes
    assert [label.get_text() for label in correlations.get_yticklabels()] == ["stage1\n(stage2)"]
    assert max(bar.get_width() for bar in categories.patches) == 1
    assert epochs.lines[0].get_xdata().tolist() == [0, 1]
    with pytest.raises(InputError, match="no layer 'stage9'"):
        compare(CompareOptions(**options, match=("stage1=stage9",)))
    with pytest.raises(InputError, match="no pair of layers"):
        compare(CompareOptions(**options, match=("stage1",)))


def test_runs_with_nothing_in_common(training: Path, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no epoch 77"):
        compare(CompareOptions(run_a=training, run_b=training, out=tmp_path, epochs=EpochFilter.parse("77")))


def test_commands_from_the_command_line(
    training: Path,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    common = ["--cache-dir", str(cache), "--json"]
    commands = {
        "stats": ["stats", "--out", str(training), "--against", str(training), *common],
        "units": ["units", "--out", str(training), "--unit", "0", "--resamples", "0", *common],
        "retention": ["retention", str(training), "--json"],
        "compare": ["compare", str(training), str(training), *common],
    }
    results = {}
    for name, arguments in commands.items():
        code = main(arguments)
        out, err = capsys.readouterr()
        assert code == 0, err
        results[name] = json.loads(out)
    assert any("against" in plot for plot in results["stats"]["plots"])
    assert results["units"]["units"][0]["final_concept"] == "car"
    assert len(results["retention"]["stages"]) == EPOCHS
    assert results["compare"]["different"] is False
    assert (tmp_path / "cmon-compare" / "tables" / "matches.csv").is_file()


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["stats"], "interpretable units"),
        (["units"], "units over the epochs"),
        (["units", "--unit", "0"], "'car' since epoch 3"),
        (["retention"], "keep their concept"),
        (["compare", ".", "."], "No differences."),
    ],
)
def test_what_the_terminal_shows(
    command: list[str],
    says: str,
    training: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(training)
    monkeypatch.setenv("CMON_CACHE_DIR", str(cache))
    monkeypatch.setenv("COLUMNS", "120")  # no heading is broken into two lines
    if command[0] != "compare":
        monkeypatch.setenv("CMON_OUT", str(training))
    assert main(command) == 0
    assert says in capsys.readouterr().out
