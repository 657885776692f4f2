"""`cmon atlas`: places whose kinds and classes are known, in tables, tiles, maps and the cache."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from concept_monitor_cli.cli.app import run
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional import atlas as method
from concept_monitor_cli.options import AtlasOptions, DissectOptions, EpochFilter
from concept_monitor_cli.progress import SILENT
from concept_monitor_cli.report.page.atlas import atlas_json
from concept_monitor_cli.run import TABLES, RunFolder
from concept_monitor_cli.stories.atlas import AtlasResult, atlas
from concept_monitor_cli.stories.atlas_making import Atlases
from concept_monitor_cli.stories.atlas_tables import patch
from concept_monitor_cli.stories.dissect import dissect

SIDE, EACH = 16, 15
COLOURS = {"blue": (30, 40, 220), "green": (30, 210, 40), "red": (220, 40, 30), "white": (225, 225, 225)}
NETWORK = """
from torch import nn

def network(num_classes=4):
    return nn.Sequential(
        nn.Conv2d(3, 6, 2, stride=2), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(6, num_classes),
    )
"""


def planted(learnt: bool) -> dict[str, torch.Tensor]:
    """Units 0 to 2 see one colour and not the others, 3 all, 4 is dead; or a fresh network."""
    torch.manual_seed(3)
    conv, head = torch.nn.Conv2d(3, 6, 2), torch.nn.Linear(6, 4)
    weight, bias = conv.weight.detach().clone(), conv.bias.detach().clone()
    if learnt:
        weight.zero_()
        for k in range(3):
            weight[k] = -0.125
            weight[k, k] = 0.25
        weight[3] = 1 / 12
        bias = torch.tensor([0.05, 0.05, 0.05, -0.4, -50, 0])
    said = torch.zeros(4, 6)
    said[0, 2] = said[1, 1] = said[2, 0] = 3.0
    said[3, 3] = 9.0
    return {"0.weight": weight, "0.bias": bias, "4.weight": said, "4.bias": head.bias.detach() * 0}


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty photos of four colours, and a training of two epochs over them."""
    root = tmp_path_factory.mktemp("mapped")
    (root / "network.py").write_text(NETWORK)
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (root / "photos" / name).mkdir(parents=True)
        for number in range(EACH):
            pixels = np.array(colour) + rng.normal(0, 12, (SIDE, SIDE, 3))
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            image.save(root / "photos" / name / f"{number:02d}.png")
    (root / "ckpts").mkdir()
    for epoch in range(2):
        torch.save(
            {"state_dict": planted(bool(epoch)), "epoch": epoch}, root / "ckpts" / f"epoch_{epoch}.pth"
        )
    dissect(
        DissectOptions(
            checkpoints=(str(root / "ckpts"),),
            layers=("1",),
            model=f"{root / 'network.py'}:network",
            input_size=SIDE,
            crop=1.0,
            mean=(0.0,) * 3,
            std=(1.0,) * 3,
            probe=str(root / "photos"),
            encoder="builtin",
            floors=False,
            stability=False,
            out=root / "run",
            cache_dir=root / "cache",
            device="cpu",
            plot_formats=(),
        )
    )
    shutil.copytree(root / "run", root / "other")
    return root


def asked(root: Path, **more: object) -> AtlasOptions:
    given: dict[str, Any] = {
        "out": root / "other",
        "cache_dir": root / "cache",
        "model": f"{root / 'network.py'}:network",
        "device": "cpu",
        "method": "pca",
        "cells": 5,
        "steps": 20,
        "at_once": 4,
        "class_names": "folders",
        "plot_formats": (),
    }
    return AtlasOptions(**{**given, **more})


def table(result: AtlasResult, name: str) -> pd.DataFrame:
    return TABLES[name].read_csv(next(path for path in result.tables if path.stem == name))


@pytest.fixture(scope="module")
def mapped(studied: Path) -> AtlasResult:
    return atlas(asked(studied, out=studied / "run", plot_formats=("png",)), SILENT)


def test_cells_hold_what_is_alike_and_say_the_planted_classes(mapped: AtlasResult) -> None:
    samples, cells = table(mapped, "atlas-samples"), table(mapped, "atlas")
    last = samples[samples["epoch"] == 1]
    assert len(last) == len(COLOURS) * EACH
    own = last["image"].str.split("/").str[0]
    # Every place says most for the colour of its photo.
    assert (last["class"] == own).all()
    assert last[["row", "column"]].isin(range(1, 7)).all(axis=None)  # inner places of 8 x 8
    # The same places at both epochs.
    first = samples[samples["epoch"] == 0]
    assert (first[["row", "column"]].to_numpy() == last[["row", "column"]].to_numpy()).all()
    found = cells[cells["epoch"] == 1]
    assert found["count"].sum() <= len(last)
    assert (found["count"] >= method.FEWEST).all()
    assert 3 <= found["class"].nunique() <= len(found)
    assert (found["class_share"] > found["class_share_floor"] + 0.1).all()
    assert found["class_share"].median() == 1
    assert found["class_share_floor"].median() < 0.6
    for _, cell in found.iterrows():
        inside = last[(last["cell_x"] == cell["cell_x"]) & (last["cell_y"] == cell["cell_y"])]
        assert len(inside) == cell["count"]
        assert cell["photo"] in set(inside["image"])
    summary = table(mapped, "atlas-epochs").set_index("epoch")
    # Five live units make a layout of nothing coherent, too.
    assert summary.loc[1, "coherence"] > summary.loc[1, "coherence_floor"] + 0.05
    assert np.isnan(summary.loc[0, "coherence_floor"])
    assert summary.loc[1, "cells"] == len(found)
    assert summary["epoch_purity"].between(0, 1).all()
    assert summary.loc[1, "epoch_purity_floor"] == pytest.approx(59 / 119)


def test_tiles_look_like_what_is_in_their_cell(mapped: AtlasResult) -> None:
    cells = table(mapped, "atlas")
    last = cells[cells["epoch"] == 1]
    assert last["nearest"].all()
    assert (last["own_cos"] > last["other_cos"]).all()
    seen = {"red": 0, "green": 1, "blue": 2}
    for _, cell in last[last["class"] != "white"].iterrows():
        pixels = np.asarray(Image.open(mapped.out / cell["file"]), dtype=float)
        assert pixels.shape == (SIDE, SIDE, 3)
        # The middle of the map is what was asked for: its colour is that of the cell's photos.
        middle = pixels[7:10, 7:10].mean((0, 1))
        assert middle.argmax() == seen[cell["class"]]
    assert {path.name for path in mapped.plots} == {"atlas.1.epoch_0000.png", "atlas.1.epoch_0001.png"}
    for path in mapped.plots:
        assert Image.open(path).size[0] > 500
    summary = table(mapped, "atlas-epochs").set_index("epoch")
    assert summary.loc[1, "nearest"] == 1
    # Means with their units dealt out are nothing that an image can do.
    assert summary.loc[1, "own_cos_floor"] < summary.loc[1, "own_cos"]


def test_the_page_shows_the_map(studied: Path, mapped: AtlasResult) -> None:
    found = atlas_json(RunFolder.open(mapped.out))
    assert found is not None
    assert (found["layer"], found["classes"]) == ("1", [])
    assert [each["epoch"] for each in found["epochs"]] == [0, 1]
    cells = table(mapped, "atlas")
    assert [len(each["cells"]) for each in found["epochs"]] == cells.groupby("epoch").size().tolist()
    assert all(cell["tile"].startswith("data:image/jpeg") for cell in found["epochs"][1]["cells"])
    atlas(asked(studied, tiles=False), SILENT)
    assert atlas_json(RunFolder.open(studied / "other")) is None


def test_samples_are_those_of_the_network_itself(studied: Path, mapped: AtlasResult) -> None:
    samples = table(mapped, "atlas-samples")
    state = planted(True)
    for _, sample in samples[samples["epoch"] == 1].iloc[::17].iterrows():
        pixels = np.asarray(Image.open(studied / "photos" / sample["image"]), dtype=np.float64) / 255
        y, x = 2 * sample["row"], 2 * sample["column"]
        piece = torch.from_numpy(pixels[y : y + 2, x : x + 2]).permute(2, 0, 1)
        before = (state["0.weight"].double() * piece).sum((1, 2, 3)) + state["0.bias"].double()
        # One of 64 places of a mean, read by a linear head.
        said = state["4.weight"].double() @ before.clamp_min(0) / 64
        assert sample["attribution"] == pytest.approx(float(said.max()), rel=1e-4)


def test_in_the_last_layout_a_cell_is_the_same_patches(studied: Path) -> None:
    result = atlas(asked(studied, layout="last", tiles=False), SILENT)
    samples, cells = table(result, "atlas-samples"), table(result, "atlas")
    first, last = (samples[samples["epoch"] == epoch].reset_index() for epoch in range(2))
    assert (
        first[["image", "x", "y", "cell_x", "cell_y"]] == last[["image", "x", "y", "cell_x", "cell_y"]]
    ).all(axis=None)
    assert cells["file"].isna().all() or (cells["file"] == "").all()
    summary = table(result, "atlas-epochs").set_index("epoch")
    assert summary.loc[1, "shared"] == 1
    assert np.isnan(summary.loc[1, "epoch_purity"])
    assert (cells[cells["epoch"] == 1]["drift"] > 0).all()


def test_atlases_of_one_class_and_between_two(studied: Path) -> None:
    one = atlas(asked(studied, target="red", tiles=False, cells=2, epochs=EpochFilter.parse("last")), SILENT)
    samples = table(one, "atlas-samples")
    # All that say most for it; and what says a little for it, too: white.
    shown = samples["image"].str.split("/").str[0].value_counts()
    assert shown["red"] == EACH
    assert set(table(one, "atlas")["target"]) == {"red"}
    options = asked(
        studied, target="red", against="blue", tiles=False, cells=2, epochs=EpochFilter.parse("last")
    )
    two = table(atlas(replace(options, plot_formats=("png",)), SILENT), "atlas-samples")
    colour = two["image"].str.split("/").str[0]
    assert {"red", "blue"} <= set(colour)
    assert two[colour == "red"]["x"].max() < 0.5 < two[colour == "blue"]["x"].min()


def test_what_is_known_is_not_made_again_and_the_same_bytes_come(
    studied: Path, mapped: AtlasResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = atlas(asked(studied), SILENT)
    assert counts.found == counts.wanted > 0
    assert counts.passes == 0
    monkeypatch.setattr(Atlases, "_make", None)
    monkeypatch.setattr(Atlases, "_sample", None)
    again = atlas(asked(studied), SILENT)
    assert [path.read_bytes() for path in again.tables] == [path.read_bytes() for path in mapped.tables]


def test_a_dry_run_counts_and_writes_nothing(studied: Path) -> None:
    counts = atlas(asked(studied, dry_run=True, seed=5), SILENT)
    # Two epochs of at most 5 x 5 cells and 8 by luck; 60 images twice at two passes.
    assert counts.wanted == 58
    assert counts.passes == 2 * 60 * 2 + 58 * 20 * 3
    assert counts.tables == []


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"layers": ("4",)}, "no activation maps"),
        ({"cells": 4000}, "are too few"),
        ({"target": "purple"}, "purple"),
        ({"target": "red", "against": "red"}, "against itself"),
    ],
)
def test_mistakes(studied: Path, more: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        atlas(asked(studied, tiles=False, epochs=EpochFilter.parse("last"), **more), SILENT)


def test_options_that_do_not_fit() -> None:
    with pytest.raises(InputError, match="against what"):
        AtlasOptions(against="cat")
    with pytest.raises(InputError, match="of one layer"):
        AtlasOptions(layers=("a", "b"))


def test_the_command_says_what_it_found(studied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--model", f"{studied / 'network.py'}:network", "--cache-dir", str(studied / "cache")]
    given += ["--method", "pca", "--cells", "5", "--no-tiles", "--class-names", "folders", "--device", "cpu"]
    assert run(["atlas", str(studied / "other"), *given, "--epochs", "last"]) == 0
    out = capsys.readouterr().out
    assert "what 1 tells apart" in out
    assert run(["atlas", str(studied / "other"), *given, "--epochs", "last", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["cells"]) > 2


def test_a_patch_stays_inside_its_image() -> None:
    pixels = np.arange(20 * 20 * 3, dtype=np.uint8).reshape(20, 20, 3)
    assert (patch(pixels, 0, 0, 4, 4) == pixels[:8, :8]).all()
    assert (patch(pixels, 3, 3, 4, 4) == pixels[12:, 12:]).all()
    assert patch(pixels, 1, 2, 4, 4).shape == (8, 8, 3)
