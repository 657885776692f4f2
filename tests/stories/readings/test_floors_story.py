"""What stands beside the numbers of a run: redundancy, floors, held-out images; units beside themselves."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from planted_training import UNITS, weights

from concept_monitor_cli.monitor.alerts import Rules, alerts
from concept_monitor_cli.options import StatsOptions, UnitsOptions
from concept_monitor_cli.run import TABLES
from concept_monitor_cli.stories.stats import stats
from concept_monitor_cli.stories.units import units


@pytest.fixture(scope="session")
def collapse(dissected: Callable[..., Path]) -> Path:
    """Epoch 1: half of the units do what unit 4 does; the others are as before."""
    before = weights(0)
    after = {name: value.clone() for name, value in before.items()}
    for value in after.values():
        value[UNITS // 2 :] = value[4]
    return dissected("collapse", {0: before, 1: after})


def statistics(run: Path, cache: Path) -> pd.DataFrame:
    stats(StatsOptions(out=run, cache_dir=cache))
    frame = TABLES["statistics"].read_csv(run / "tables/statistics.csv")
    return frame[frame["category"] == "all"].reset_index(drop=True)


def test_every_number_has_what_it_is_compared_with(training: Path, cache: Path) -> None:
    whole = statistics(training, cache)
    compared = [
        name for name in TABLES["statistics"].added if name not in ("held_out_word", "held_out_measure")
    ]
    assert whole[compared].notna().all().all()
    assert (whole["held_out"] > whole["held_out_chance"] + 0.2).all()
    assert set(whole["held_out_word"]) == {"well"}
    assert set(whole["held_out_measure"]) == {"auc"}
    # Planted units are named alike by both halves, and stay where they are.
    assert (whole["changed_by_halves"] < 0.3).all()
    assert (whole["spread_floor_halves"] < 0.3 * whole["spread"]).all()
    said = json.loads((training / "run.json").read_text())["held_out"]
    assert [row["value"] for row in said] == pytest.approx(whole["held_out"].tolist(), abs=1e-6)
    assert (training / "untrained/1.clip-dissect.csv").is_file()


def test_a_collapse_is_seen_said_and_warned_of(collapse: Path, cache: Path) -> None:
    whole = statistics(collapse, cache)
    assert whole["effective_units"][1] < 0.8 * whole["effective_units"][0]
    assert whole["redundant"][1] >= 0.5
    found = alerts(whole, Rules())
    assert {alert.rule for alert in found} >= {"clumping"}
    notices = json.loads((collapse / "run.json").read_text())["notices"]
    said = [note for note in notices if "repeat each other" in note]
    assert said
    epochs = [int(re.search(r"1 at epoch (\d+): its units", note)[1]) for note in said]
    assert epochs == sorted(set(epochs)), "each says when"
    assert all("soft-wpmi" in note and "cos-cubed" in note for note in said)


def test_units_that_do_the_same_as_before_have_not_changed(collapse: Path, cache: Path) -> None:
    units(UnitsOptions(out=collapse, cache_dir=cache, resamples=20))
    table = TABLES["units"].read_csv(collapse / "tables/units.csv").set_index("unit")
    frozen = table.loc[: UNITS // 2 - 1]
    live = frozen[frozen["self_similarity"].notna()]
    assert len(live) >= UNITS // 2 - 1  # one is dead
    assert live["self_similarity"].to_numpy() == pytest.approx(1.0, abs=1e-6)
    assert (live["changes"] == 0).all()
    assert (live["confident_changes"] == 0).all()
    assert (live["drift"] == 0).all()
    assert (live["path_length"] == 0).all()
    assert (live["stable_from"] == 0).all()
    moved = table.loc[UNITS // 2 :]
    assert (moved["changes"] <= moved["label_changes"]).all()
    assert (moved["self_similarity"] < 0.999).any()
    assert moved["changes"].sum() > 0
    itself = TABLES["self_similarity"].read_csv(collapse / "tables/self_similarity.csv")
    assert itself["epoch"].tolist() == [1] * UNITS


def test_runs_of_earlier_versions_are_read(collapse: Path, cache: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(collapse, old)
    shutil.rmtree(old / "untrained")
    for path in old.glob("tables/epoch_*/*.clip-dissect.json"):
        record = json.loads(path.read_text())
        del record["redundancy"], record["held_out"]
        path.write_text(json.dumps(record))
    whole = statistics(old, cache)
    assert len(whole) == 2
    assert whole["spread"].notna().all()
    empty = [name for name in TABLES["statistics"].added if name not in ("held_out_word", "held_out_measure")]
    assert whole[empty].isna().all().all()
    assert alerts(whole, Rules()) == []


def test_the_same_weights_twice_have_no_change(dissected: Callable[..., Path], cache: Path) -> None:
    run = dissected("still", {0: weights(0), 1: {name: value.clone() for name, value in weights(0).items()}})
    result = units(UnitsOptions(out=run, cache_dir=cache, resamples=0))
    assert result.layers[0]["changes"] == result.layers[0]["label_changes"] == 0
