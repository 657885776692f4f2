from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.monitor.confidence import FALSE_CHANGES
from concept_monitor_cli.monitor.history import histories
from concept_monitor_cli.options import EpochFilter, UnitsOptions
from concept_monitor_cli.report.page import read_tables
from concept_monitor_cli.report.page.statistics import series_statistics
from concept_monitor_cli.run import TABLES, RunFolder
from concept_monitor_cli.stories.units import UnitsResult, units


@pytest.fixture(scope="module")
def result(training: Path, cache: Path) -> UnitsResult:
    return units(UnitsOptions(out=training, cache_dir=cache, device="cpu", classes=("car", "wood"), top=3))


def test_known_histories_come_out(training: Path, result: UnitsResult) -> None:
    lives = TABLES["units"].read_csv(training / "tables" / "units.csv").set_index("unit")
    switches, stays, noise, dead = (lives.loc[unit] for unit in range(4))
    assert (switches["final_concept"], switches["first_epoch"], switches["stable_from"]) == ("car", 3, 3)
    assert (switches["changes"], switches["confident_changes"], switches["born"]) == (1, 1, 0)
    assert switches["drift"] == pytest.approx(1, abs=0.05)
    assert (stays["final_concept"], stays["stable_from"], stays["changes"]) == ("striped", 0, 0)
    assert (stays["confident_changes"], stays["born"], stays["drift"]) == (0, 0, 0)
    # Noise changes its label all the time, and never with confidence.
    assert noise["changes"] >= 2
    assert noise["confident_changes"] == 0
    assert bool(lives["born"].isna()[2])
    assert dead["final_concept"] == ""
    assert lives.loc[4:, "confident_changes"].tolist() == [0] * 14
    assert lives.loc[4:, "stable_from"].tolist() == [0] * 14
    (layer,) = result.layers
    assert layer["confident_changes"] == 1
    # Of 18 units one is dead, and 5 epochs follow another; of each epoch's interpretable units 5 % at most.
    assert layer["confident_by_luck"] == round(FALSE_CHANGES * 17 * 5)
    table = pd.read_parquet(training / "tables" / "concepts.parquet")
    named = table[(table["rank"] == 1) & table["interpretable"]]
    assert layer["born_by_luck"] == math.ceil(0.05 * len(named)) > 0
    random = TABLES["concepts"].read_csv(training / "untrained" / "1.clip-dissect.csv")
    assert layer["random_interpretable"] == int(random.loc[random["rank"] == 1, "interpretable"].sum())
    (history,) = histories(table)
    page = series_statistics(history, read_tables(RunFolder.open(training), table), [], {})
    assert page["interpretable_random"] == [layer["random_interpretable"]] * 6
    assert page["interpretable_by_luck"] == [math.ceil(0.05 * count) for count in page["interpretable"]]
    (change,) = TABLES["changes"].read_csv(training / "tables" / "changes.csv").to_dict("records")
    assert (change["unit"], change["epoch"], change["checkpoint"]) == (0, 3, "epoch_3.pth")
    assert (change["from_concept"], change["from_category"], change["from_epoch"]) == ("red", "color", 2)
    assert (change["to_concept"], change["to_category"]) == ("car", "object")
    assert 0.98 <= change["confidence"] <= 1


def test_the_same_again_has_the_same_bytes(training: Path, cache: Path, result: UnitsResult) -> None:
    path = training / "tables" / "units.csv"
    before = path.read_bytes()
    units(UnitsOptions(out=training, cache_dir=cache, device="cpu"))
    assert path.read_bytes() == before


def test_pictures_and_classes(training: Path, cache: Path, result: UnitsResult) -> None:
    names = [path.name for path in result.plots]
    assert names == ["top_units.1.clip-dissect.png", "classes.clip-dissect.png"]
    for path in result.plots:
        with Image.open(path) as picture:
            assert min(picture.size) > 100
    car = {row["epoch"]: row["interpretable"] for row in result.classes if row["class"] == "car"}
    assert car == {0: 3, 1: 3, 2: 3, 3: 4, 4: 4, 5: 4}
    one = units(UnitsOptions(out=training, cache_dir=cache, device="cpu", units=(0, 3), resamples=0))
    assert [path.name for path in one.plots] == ["unit_0.1.clip-dissect.png", "unit_3.1.clip-dissect.png"]
    assert [row["concept"] for row in one.moments if row["unit"] == 0] == ["red"] * 3 + ["car"] * 3
    assert all(row["confident_changes"] is None for row in one.units)
    # What was not tested leaves no table of an earlier test behind.
    assert not (training / "tables" / "changes.csv").exists()


def test_unknown_units_classes_and_runs(training: Path, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no unit 99"):
        units(UnitsOptions(out=training, cache_dir=cache, units=(99,)))
    with pytest.raises(InputError, match="unicorn"):
        units(UnitsOptions(out=training, cache_dir=cache, classes=("unicorn",)))
    with pytest.raises(InputError, match="no run here"):
        units(UnitsOptions(out=tmp_path))


def test_activations_that_are_gone_are_named(training: Path, tmp_path: Path) -> None:
    options = UnitsOptions(
        out=training,
        cache_dir=tmp_path,
        device="cpu",
        epochs=EpochFilter.parse("2,3"),
        units=(0,),
        resamples=0,
    )
    with pytest.raises(InputError, match="not in the cache"):
        units(options)


def test_photos_that_changed_are_noticed(training: Path, cache: Path, world: Path) -> None:
    photo = world / "photos" / "000.png"
    before = photo.read_bytes()
    photo.write_bytes((world / "photos" / "001.png").read_bytes())
    try:
        with pytest.raises(InputError, match="not those that this run was made with"):
            units(UnitsOptions(out=training, cache_dir=cache, device="cpu", units=(0,), resamples=0))
    finally:
        photo.write_bytes(before)
