"""Generated images of concepts, on a network whose units are known."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from judged_world import CLASSES, HIDDEN, write_photos

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.options import EvaluateOptions
from concept_monitor_cli.run import TABLES
from concept_monitor_cli.stories.evaluate import EvaluateResult, evaluate


@pytest.fixture(scope="module")
def world(judged: Path) -> Path:
    write_photos(judged / "generated", 6, seed=9)
    (judged / "generated" / "ship").rename(judged / "generated" / "Ship_")
    return judged


def scored(world: Path, folder: Path, **more: object) -> EvaluateResult:
    settings = {"out": world / "run", "cache_dir": world / "cache", "device": "cpu", "layers": ("2",)}
    settings["model"] = f"{world / 'network.py'}:network"
    return evaluate(EvaluateOptions(**{**settings, "generated": str(folder), **more}))  # type: ignore[arg-type]


def test_units_fire_on_generated_images_of_their_label(world: Path) -> None:
    result = scored(world, world / "generated", measures=("cosy",))
    values = {row["metric"]: row for row in result.rows}
    assert set(values) == {"AUC", "MAD"}
    assert values["AUC"]["value"] > 0.85
    assert values["AUC"]["value"] > values["AUC"]["chance"] + 0.3
    assert values["MAD"]["value"] > 1 > values["MAD"]["chance"] + 0.5
    table = TABLES["evaluation-cosy"].read_csv(world / "run" / "tables" / "evaluation-cosy.csv")
    assert set(table["concept"]) <= set(CLASSES)
    assert "ship" in set(table["concept"])  # the folder is written otherwise
    assert (table["images"] == 6).all()
    assert len(table) == HIDDEN
    assert np.isclose(table["auc"].mean(), values["AUC"]["value"], atol=1e-6)


def test_labels_without_a_folder_are_left_out_and_said(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "generated" / "cat", tmp_path / "some" / "cat")
    shutil.copytree(world / "generated" / "dog", tmp_path / "some" / "dog")
    result = scored(world, tmp_path / "some", measures=("cosy",))
    table = TABLES["evaluation-cosy"].read_csv(world / "run" / "tables" / "evaluation-cosy.csv")
    assert set(table["concept"]) == {"cat", "dog"}
    (notice,) = [said for said in result.notices if "left out of cosy" in said]
    assert "'bird'" in notice
    shutil.copytree(world / "generated" / "cat", tmp_path / "other" / "zebra")
    shutil.copytree(world / "generated" / "dog", tmp_path / "other" / "lion")
    with pytest.raises(InputError, match="no label of 2 has a folder"):
        scored(world, tmp_path / "other", measures=("cosy",))


def test_without_images_it_says_what_to_give(world: Path) -> None:
    with pytest.raises(InputError) as found:
        scored(world, world / "nowhere", measures=("cosy",))
    assert "there is no such folder" in found.value.what
    options = EvaluateOptions(
        out=world / "run", cache_dir=world / "cache", device="cpu", layers=("2",), measures=("cosy",)
    )
    with pytest.raises(InputError) as missing:
        evaluate(options)
    assert "--generated DIR" in str(missing.value.hint)
