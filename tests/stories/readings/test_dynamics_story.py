"""`cmon dynamics`: the tables against the functions, planted trainings, runs beside each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from planted_training import EPOCHS, weights

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.dynamics import cka, effective_rank
from concept_monitor_cli.monitor import epochs as monitored_epochs
from concept_monitor_cli.options import DynamicsOptions, EpochFilter, ReadingOptions
from concept_monitor_cli.stories import dynamics as story
from concept_monitor_cli.stories.activations import usable
from concept_monitor_cli.stories.dynamics import Convergence, convergence, dynamics, in_words
from concept_monitor_cli.stories.opened import OpenRun


def pooled(run: Path, cache: Path) -> list[torch.Tensor]:
    opened = OpenRun(run, ReadingOptions(out=run, cache_dir=cache), progress=_silent())
    (history,) = opened.histories
    found = []
    for column in range(len(history.epochs)):
        with opened.recording(history, column) as entry:
            found.append(torch.from_numpy(entry.read("pooled")))
    return found


def _silent():  # type: ignore[no-untyped-def]
    from concept_monitor_cli.progress import SILENT

    return SILENT


def test_tables_hold_what_the_functions_give(training: Path, cache: Path) -> None:
    result = dynamics(DynamicsOptions(out=training, cache_dir=cache))
    table = pd.read_csv(training / "tables/similarity.csv")
    known = pooled(training, cache)
    rows = table[table["measure"] == "cka"].set_index(["epoch", "other_epoch"])
    assert len(rows) == EPOCHS * (EPOCHS + 1) // 2
    assert rows.loc[(0, EPOCHS - 1), "value"] == pytest.approx(cka(known[0], known[-1], block=64), abs=1e-5)
    assert np.allclose(rows.loc[[(e, e) for e in range(EPOCHS)], "value"], 1)
    assert rows["chance"].abs().max() < 0.3 < rows["value"].min() + 1
    sizes = pd.read_csv(training / "tables/dimension.csv")
    row = sizes[(sizes["measure"] == "effective_rank") & (sizes["epoch"] == 1)].iloc[0]
    assert row["value"] == pytest.approx(effective_rank(known[1]), rel=1e-5)
    assert result.images == rows["images"].iloc[0]
    assert all(path.is_file() for path in result.plots)


def test_layers_of_more_units_than_images_are_decomposed_small(
    training: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = DynamicsOptions(out=training, cache_dir=cache, plot_formats=())
    dynamics(options)
    before = {name: pd.read_csv(training / f"tables/{name}.csv") for name in ("similarity", "dimension")}
    # The same layer with every unit ten times, scaled so that all products of images stay.
    monkeypatch.setattr(story, "usable", lambda each: usable(each).repeat(1, 40) / 40**0.5)
    sizes: list[int] = []
    decompose = torch.linalg.svdvals

    def recorded(A: torch.Tensor) -> torch.Tensor:
        sizes.append(max(A.shape))
        return decompose(A)

    monkeypatch.setattr(torch.linalg, "svdvals", recorded)
    wide = dynamics(options)
    assert max(sizes) <= wide.images
    for name, table in before.items():
        kept = table["measure"].isin(["cka", "procrustes", "effective_rank", "participation_ratio"])
        again = pd.read_csv(training / f"tables/{name}.csv")
        again = again[again["measure"].isin(["cka", "procrustes", "effective_rank", "participation_ratio"])]
        np.testing.assert_allclose(again["value"], table.loc[kept, "value"], rtol=1e-4)


def test_the_same_tables_again_and_a_checkpoint_more_changes_no_pair(training: Path, cache: Path) -> None:
    options = DynamicsOptions(out=training, cache_dir=cache)
    dynamics(options)
    before = (training / "tables/similarity.csv").read_bytes()
    dynamics(options)
    assert (training / "tables/similarity.csv").read_bytes() == before


def test_large_layers_are_decomposed_at_some_epochs_unless_epochs_are_named(
    training: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decomposed(**named: EpochFilter) -> tuple[int, set[tuple[int, int]], set[int]]:
        dynamics(DynamicsOptions(out=training, cache_dir=cache, plot_formats=(), **named))
        similarity, dimension = (
            pd.read_csv(training / f"tables/{name}.csv") for name in ("similarity", "dimension")
        )
        pairs = similarity[similarity["measure"] == "procrustes"]
        both = set(zip(pairs["epoch"], pairs["other_epoch"], strict=True))
        return int((similarity["measure"] == "cka").sum()), both, set(dimension["epoch"])

    whole = decomposed()
    monkeypatch.setattr(monitored_epochs, "LARGE", 3)
    monkeypatch.setattr(monitored_epochs, "MOST", 2)
    last = EPOCHS - 1
    assert decomposed() == (whole[0], {(0, last)}, {0, last})
    assert decomposed(epochs=EpochFilter.parse(f"0:{last}")) == whole
    assert whole[2] == set(range(EPOCHS))


def test_a_run_beside_itself_is_the_same_and_beside_a_shuffled_one_is_not(
    training: Path, dissected, cache: Path, tmp_path: Path
) -> None:
    other = dissected("another", {epoch: weights(epoch) for epoch in range(2)})
    result = dynamics(DynamicsOptions(runs=(training, other), cache_dir=cache))
    table = pd.DataFrame(result.similarity)
    across = table[(table["measure"] == "cka") & (table["run"] != table["other_run"])]
    same = across[across["epoch"] == across["other_epoch"]]
    assert np.allclose(same["value"], 1)
    assert set(table["run"]) == {"training", "another"}


def test_runs_on_other_images_are_not_compared(training: Path, cache: Path, tmp_path: Path) -> None:
    import json
    import shutil

    copy = tmp_path / "other"
    shutil.copytree(training, copy)
    info = json.loads((copy / "run.json").read_text())
    info["probe"]["digest"] = "0" * 64
    (copy / "run.json").write_text(json.dumps(info))
    with pytest.raises(InputError, match="different probing images"):
        dynamics(DynamicsOptions(runs=(training, copy), cache_dir=cache))


def test_an_empty_cache_is_said(training: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not in the cache"):
        dynamics(DynamicsOptions(out=training, cache_dir=tmp_path / "none"))


def rows_of(values: dict[tuple[int, int], float]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "epoch": a,
                "other_epoch": b,
                "layer": "x",
                "other_layer": "x",
                "run": "r",
                "other_run": "r",
                "measure": "cka",
                "value": value,
            }
            for (a, b), value in values.items()
        ]
    )


def test_near_the_end_means_from_there_on() -> None:
    values = {(0, 3): 0.95, (1, 3): 0.5, (2, 3): 0.92, (0, 1): 0.4, (1, 2): 0.6, (0, 2): 0.1}
    values |= {(epoch, epoch): 1.0 for epoch in range(4)}
    (line,) = convergence(rows_of(values), 0.9)
    assert (line.from_epoch, line.before) == (2, 0.95)
    assert line.speed == {0: 0.6, 1: 0.4, 2: pytest.approx(0.08)}


def test_a_single_epoch_is_its_own_end() -> None:
    (line,) = convergence(rows_of({(7, 7): 1.0}), 0.9)
    assert (line.from_epoch, line.before, line.speed) == (7, None, {})


def test_convergence_in_words() -> None:
    lines = [
        Convergence("r", "layer1", 3, 0.8, {0: 0.5, 3: 0.1}),
        Convergence("r", "layer4", 12, 0.7, {0: 0.5, 3: 0.4}),
        Convergence("s", "layer1", 0, None, {}),
    ]
    assert in_words(lines, 0.9) == [
        "layer1 is within 0.9 of its end from epoch 3 on, layer4 only at its last epoch"
    ]
