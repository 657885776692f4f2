"""`cmon tuning`: planted units whose responses to every shape can be worked out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from planted_classifier import SIDE, WIDE, state
from planted_classifier import asked as given

from concept_monitor_cli.cli.app import run
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional import tuning as method
from concept_monitor_cli.options import TuningOptions
from concept_monitor_cli.progress import SILENT
from concept_monitor_cli.run import TABLES
from concept_monitor_cli.stories.tuning import TuningResult, tuning


@pytest.fixture(scope="module")
def root(classifier: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The planted run, to be written into."""
    found = tmp_path_factory.mktemp("tuned") / "run"
    shutil.copytree(classifier / "run", found)
    return found


def options(classifier: Path, root: Path, **more: object) -> TuningOptions:
    return given(TuningOptions, classifier, **{"out": root, "layers": ("stage1",), "units": (0, 5), **more})


@pytest.fixture(scope="module")
def asked(classifier: Path, root: Path) -> TuningResult:
    return tuning(options(classifier, root, plot_formats=("png",)), SILENT)


def table(result: TuningResult, name: str) -> pd.DataFrame:
    return TABLES[name].read_csv(next(path for path in result.tables if path.stem == name))


def by_hand(epoch: int, shape: method.Shape) -> torch.Tensor:
    """`(B, A, U)`: what the first layer says of every image."""
    rows = state(epoch)
    images = torch.stack([method.rendered(block, SIDE) for block in method.blocks(shape)]).double()
    seen = images[:, :, None].expand(-1, -1, 3, -1, -1).flatten(2)
    return (seen @ rows["first.weight"].double().T + rows["first.bias"].double()).clamp_min(0)


def test_curves_and_rows_are_those_of_the_network_itself(asked: TuningResult) -> None:
    curves, rows = table(asked, "tuning-curves"), table(asked, "tuning")
    assert set(curves["unit"]) == {0, 5}
    assert len(rows) == 2 * 3 * WIDE
    assert np.allclose(rows["share_chance"], 1 / 12)
    checked = 0
    for shape in method.SHAPES:
        responses = by_hand(1, shape)
        own = rows[(rows["epoch"] == 1) & (rows["shape"] == shape)].set_index("unit")
        assert own["share"].to_numpy() == pytest.approx(method.explained(responses).numpy(), abs=1e-4)
        for unit in (0, 5):
            line = curves[(curves["epoch"] == 1) & (curves["shape"] == shape) & (curves["unit"] == unit)]
            assert line["angle"].tolist() == method.angles(shape)
            mean = responses.mean(0)[:, unit]
            assert line["response"].to_numpy() == pytest.approx(mean.numpy(), abs=1e-5)
            at = float(line.set_index("angle").loc[own.loc[unit, "preferred"], "response"])
            assert at == pytest.approx(line["response"].max(), abs=1e-5)
            # The largest response in the measure of the photos, as the curve has it.
            if np.ptp(line["response"]) < 0.01:  # phases cancel in a linear response
                continue
            slope, zero = np.polyfit(line["response"], line["strength"], 1)
            peak = float(responses[:, :, unit].max())
            assert own.loc[unit, "strength"] == pytest.approx(slope * peak + zero, rel=1e-3)
            checked += 1
    assert checked >= 2


def test_how_far_units_turn_and_what_random_weights_say(asked: TuningResult) -> None:
    rows = table(asked, "tuning").set_index(["epoch", "shape", "unit"]).sort_index()
    assert rows.loc[0, "turned"].isna().all()
    for shape, quarter in (("grating", 45), ("curve", 90)):
        first, last = (rows.loc[(epoch, shape), "preferred"].to_numpy() for epoch in range(2))
        away = np.abs(last - first)
        assert rows.loc[(1, shape), "turned"].to_numpy() == pytest.approx(
            np.minimum(away, 4 * quarter - away)
        )
        assert (rows.loc[(1, shape), "turned_chance"] == quarter).all()
    layers = table(asked, "tuning-layers").set_index(["epoch", "shape"])
    assert (layers["units"] == WIDE).all()
    assert layers["tuned_untrained"].between(0, 1).all()
    assert layers.loc[(1, "corner"), "turned_chance"] == 90


def test_known_responses_are_not_made_again_and_the_plot_is_there(
    classifier: Path, root: Path, asked: TuningResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [path.name for path in asked.plots] == ["tuning.stage1.png"]
    assert Image.open(asked.plots[0]).size[0] > 400
    before = [path.read_bytes() for path in asked.tables]
    monkeypatch.setattr(method, "batches", None)
    again = tuning(options(classifier, root), SILENT)
    assert [path.read_bytes() for path in again.tables] == before


def test_what_is_not_there(classifier: Path, root: Path) -> None:
    with pytest.raises(InputError, match="no unit 99"):
        tuning(options(classifier, root, units=(99,)), SILENT)


def test_the_command_says_what_it_found(
    classifier: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["tuning", str(root), "--model", f"{classifier / 'network.py'}:network", "--layer", "stage1"]
    words += ["--cache-dir", str(classifier / "cache"), "--device", "cpu", "--epochs", "1", "--top", "3"]
    assert run(words) == 0
    assert "grating" in capsys.readouterr().out
    assert run([*words, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["layers"]) == 3
