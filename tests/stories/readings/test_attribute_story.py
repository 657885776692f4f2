"""`cmon attribute`: a network whose answer comes from a known place, its tables, and what can be wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from corner_photos import SIDE, corner_photos
from PIL import Image

from concept_monitor_cli.cli.app import run
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.attribution_checks import MEASURES, left_of, spearman
from concept_monitor_cli.options import AttributeOptions, DissectOptions
from concept_monitor_cli.progress import SILENT
from concept_monitor_cli.run import TABLES
from concept_monitor_cli.stories.attribute import AttributeResult, attribute
from concept_monitor_cli.stories.attribute_making import Attributions
from concept_monitor_cli.stories.attribute_sanity import cascade
from concept_monitor_cli.stories.dissect import dissect

NETWORK = """
import torch
from torch import nn

def network(num_classes=3):
    return nn.Sequential(
        nn.Conv2d(3, 3, 1), nn.ReLU(inplace=True), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(48, num_classes)
    )

def smooth(num_classes=3):
    return nn.Sequential(
        nn.Conv2d(3, 3, 1), nn.GELU(), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(48, num_classes)
    )
"""


def state(corner: int) -> dict[str, torch.Tensor]:
    """Class k answers to its colour in one corner of the 4 x 4 map; other places do not count."""
    weight = torch.eye(3).view(3, 3, 1, 1)
    head = torch.zeros(3, 3, 4, 4)
    row, column = divmod(corner, 2)
    for k in range(3):
        head[k, 2 - k, 3 * row, 3 * column] = 4.0  # classes as folders sort: blue, green, red
    return {
        "0.weight": weight,
        "0.bias": torch.zeros(3),
        "4.weight": head.flatten(1),
        "4.bias": torch.zeros(3),
    }


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs: the answer comes from the upper left corner first, then from the lower right one."""
    root = tmp_path_factory.mktemp("attributed")
    (root / "network.py").write_text(NETWORK)
    corner_photos(root / "photos")
    (root / "ckpts").mkdir()
    for epoch, corner in ((0, 0), (1, 3)):
        torch.save({"state_dict": state(corner), "epoch": epoch}, root / "ckpts" / f"epoch_{epoch}.pth")
    for name in ("network", "smooth"):
        dissect(
            DissectOptions(
                checkpoints=(str(root / "ckpts"),),
                layers=("1", "4"),
                model=f"{root / 'network.py'}:{name}",
                input_size=SIDE,
                crop=1.0,
                mean=(0.4, 0.5, 0.6),
                std=(0.2, 0.25, 0.3),
                probe=str(root / "photos"),
                encoder="builtin",
                floors=False,
                stability=False,
                out=root / name,
                cache_dir=root / "cache",
                device="cpu",
            )
        )
    return root


Ask = Callable[..., AttributeResult]


@pytest.fixture
def ask(studied: Path, tmp_path: Path) -> Ask:
    """Attribute the planted run, with a cache of its own."""
    shutil.copytree(studied / "cache", tmp_path / "cache")

    def call(name: str = "network", **more: object) -> AttributeResult:
        given: dict[str, object] = {
            "out": studied / name,
            "cache_dir": tmp_path / "cache",
            "device": "cpu",
            "model": f"{studied / 'network.py'}:{name}",
            "images": ("red/0.png", "blue/3.png"),
            "plot_formats": (),
        }
        return attribute(AttributeOptions(**{**given, **more}), SILENT)  # type: ignore[arg-type]

    return call


def table(result: AttributeResult, name: str = "attributions") -> pd.DataFrame:
    path = next(path for path in result.tables if path.stem == name)
    return TABLES[name].read_csv(path)


ALL = (
    "grad-cam",
    "grad-cam++",
    "hires-cam",
    "layer-cam",
    "xgrad-cam",
    "gradient",
    "gradient-x-input",
    "smooth",
    "integrated",
    "guided",
    "guided-grad-cam",
)


def test_maps_follow_the_answer_from_corner_to_corner(ask: Ask) -> None:
    rows = table(ask(methods=ALL))
    assert len(rows) == 2 * 2 * len(ALL)
    assert (rows["target"] == rows["image"].str.rpartition("/")[0].str.rpartition("/")[2]).all()
    # Methods that see places: at first the upper left corner, then the lower right one.
    placed = rows[rows["method"].isin({"hires-cam", "layer-cam", "integrated", "gradient", "guided"})]
    for _, row in placed.iterrows():
        wanted = 0.125 if row["epoch"] == 0 else 0.875
        assert row["peak_x"] == pytest.approx(wanted, abs=0.13), row["method"]
        assert row["peak_y"] == pytest.approx(wanted, abs=0.13), row["method"]
    moved = placed[(placed["epoch"] == 1)]
    assert (moved["cos_previous"].abs() < 0.2).all()
    assert (rows[rows["epoch"] == 1]["cos_last"].round(6) == 1).all()
    assert rows[rows["epoch"] == 0]["cos_previous"].isna().all()
    assert set(rows[rows["layer"] == "1"]["method"]) == {*ALL[:5], "guided-grad-cam"}
    assert set(rows[rows["layer"] == "pixels"]["method"]) == {*ALL[5:10]}


def test_numbers_are_those_of_the_formulas(ask: Ask, studied: Path) -> None:
    rows = table(ask(methods=("hires-cam", "integrated"), images=("red/0.png",), layers=("1",)))
    pixels = np.asarray(Image.open(studied / "photos" / "red" / "0.png")).astype(float) / 255
    mean, std = np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.25, 0.3])
    red = np.maximum((pixels - mean) / std, 0)[:, :, 0]
    for epoch, corner in ((0, slice(0, 4)), (1, slice(12, 16))):
        own = rows[rows["epoch"] == epoch].set_index("method")
        logit = 4 * red[corner, corner].mean()
        assert own["logit"].tolist() == pytest.approx([logit] * 2, rel=1e-4)
        # HiRes sums to the logit of a linear head; integrated to its change from the mean colour, which is 0.
        assert own.loc["hires-cam", "positive"] == pytest.approx(logit, rel=1e-4)
        assert own.loc["hires-cam", "negative"] == 0
        assert own.loc["integrated", "positive"] + own.loc["integrated", "negative"] == pytest.approx(
            logit, rel=1e-4
        )
        assert own.loc["integrated", "completeness_error"] < 1e-4


def test_the_target_is_held_and_can_be_named(ask: Ask) -> None:
    rows = table(ask(methods=("grad-cam",), target="green"))
    assert rows["target"].unique().tolist() == ["green"]
    assert (rows["predicted"] != "green").all()
    numbered = table(ask(methods=("grad-cam",), target="1"))
    assert numbered["logit"].tolist() == rows["logit"].tolist()
    between = table(ask(methods=("hires-cam",), target="red", against="blue"))
    single = {name: table(ask(methods=("hires-cam",), target=name)) for name in ("red", "blue")}
    assert between["logit"].tolist() == pytest.approx(
        (single["red"]["logit"] - single["blue"]["logit"]).tolist(), abs=1e-5
    )
    assert between["against"].unique().tolist() == ["blue"]


def test_maps_are_made_once_and_do_not_depend_on_companions(
    ask: Ask, studied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ask(methods=("grad-cam", "smooth"))
    content = first.tables[0].read_bytes()

    def never(*_: object) -> None:
        raise AssertionError("the network was built")

    monkeypatch.setattr(Attributions, "explainer", never)
    assert ask(methods=("grad-cam", "smooth")).tables[0].read_bytes() == content
    alone = table(ask(methods=("smooth",), images=("blue/3.png",)))
    beside = [
        row["positive"]
        for row in first.attributions
        if row["method"] == "smooth" and row["image"].endswith("blue/3.png")
    ]
    # Tables keep seven digits.
    assert alone["positive"].tolist() == pytest.approx(beside, rel=1e-6)


def test_a_finer_path_is_more_complete_and_another_map(ask: Ask) -> None:
    coarse, fine = (
        table(ask("smooth", methods=("integrated",), path=path))["completeness_error"] for path in (2, 64)
    )
    assert (fine < 1e-4).all()
    assert (coarse > fine).all()


def test_the_command_prints_and_says_all_in_json(
    ask: Ask, studied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [
        *("attribute", str(studied / "network"), "--cache-dir", str(tmp_path / "cache"), "--device", "cpu"),
        *("--model", f"{studied / 'network.py'}:network", "--count", "2", "--method", "hires-cam,guided"),
        *("--check", "--plot-format", "png"),
    ]
    assert run(line) == 0
    said = capsys.readouterr().out
    assert "what is left of the maps" in said
    assert "attributions.hires-cam.png" in said
    assert run([*line, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["method"] for row in found["attributions"]} == {"hires-cam", "guided"}
    assert {row["test"] for row in found["sanity"]} == {"cascade", "logit"}


def test_any_file_will_do_and_is_called_what_the_network_says(ask: Ask, tmp_path: Path) -> None:
    pixels = np.full((40, 40, 3), 60, dtype=np.uint8)
    pixels[:, :, 1] = 250
    Image.fromarray(pixels).save(tmp_path / "leaf.png")
    rows = table(ask(images=(str(tmp_path / "leaf.png"),), methods=("grad-cam",)))
    assert rows["target"].unique().tolist() == ["green"]


def test_what_is_wrong_is_said(ask: Ask, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no class 'yellow'"):
        ask(target="yellow")
    with pytest.raises(InputError, match="no class '3'"):
        ask(target="3")
    with pytest.raises(InputError, match="against itself"):
        ask(target="red", against="red")
    with pytest.raises(InputError, match="target of an image itself"):
        ask(against="red")
    with pytest.raises(InputError, match="there is no image"):
        ask(images=("nobody.png",))
    with pytest.raises(InputError, match="3 probing images end in 0"):
        ask(images=("0.png",))
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(InputError, match="is no image"):
        ask(images=(str(tmp_path / "text.png"),))
    with pytest.raises(InputError, match="no ReLU"):
        ask("smooth", methods=("guided",))
    with pytest.raises(InputError, match="at least 0"):
        ask("smooth", methods=("grad-cam++",))
    with pytest.raises(InputError, match="of one layer"):
        ask(layers=("1", "4"))
    with pytest.raises(InputError, match="no layer 'nine'"):
        ask(layers=("nine",))


def test_strips_are_drawn(ask: Ask) -> None:
    result = ask(methods=("grad-cam", "gradient"), plot_formats=("png",))
    assert [path.name for path in result.plots] == ["attributions.grad-cam.png", "attributions.gradient.png"]


# -- sanity --------------------------------------------------------------------------------------------------


def test_the_check_tells_the_network_from_the_image(ask: Ask) -> None:
    result = ask(methods=("hires-cam", "gradient-x-input"), count=6, images=(), check=True)
    rows = table(result, "sanity")
    assert set(rows["test"]) == {"cascade", "logit"}
    assert set(rows["measure"]) == set(MEASURES)
    assert (rows[rows["test"] == "cascade"]["draws"] == 3).all()
    # Two modules have weights: the classifier is changed first, then the convolution as well.
    order = rows[rows["test"] == "cascade"].drop_duplicates("place")["randomised"].tolist()
    assert order == ["4", "0"]
    left = rows[(rows["method"] == "hires-cam") & (rows["measure"] == "spearman") & (rows["place"] == 2)]
    # A network with fresh weights looks everywhere: nothing of the one corner is left.
    assert (left["value"].abs() < 0.4).all()


def test_pixels_of_the_answer_count_more_than_any_others(ask: Ask) -> None:
    result = ask(methods=("hires-cam",), count=6, images=(), check=True)
    rows = table(result, "faithfulness").set_index(["method", "curve", "scale"])
    assert set(rows.index.get_level_values("method")) == {"hires-cam", "random", "centre", "edges"}
    for curve in ("deletion", "insertion"):
        own = rows.loc["hires-cam", curve, "logit"]
        assert own["gain"] > 0
        assert own["gain_low"] > 0
        # The answer comes from a corner: the middle is worse than any order.
        assert own["gain"] > rows.loc["centre", curve, "logit"]["gain"]
        assert rows.loc["random", curve, "logit"]["gain"] == 0
        assert own["chance"] == pytest.approx(rows.loc["random", curve, "logit"]["value"])


def test_an_edge_map_is_flagged_and_noise_is_not() -> None:
    rng = np.random.default_rng(0)
    images = [rng.normal(size=(20, 20)).cumsum(0).cumsum(1) for _ in range(5)]
    edges = [np.hypot(*np.gradient(image)).astype(np.float32) for image in images]
    flagged = left_of(edges, edges, "spearman")  # it does not look at the network at all
    assert flagged.value == pytest.approx(1)
    assert flagged.value > flagged.floor + 0.5
    noise = [rng.normal(size=(20, 20)).astype(np.float32) for _ in range(10)]
    nothing = left_of(noise[:5], noise[5:], "absolute spearman")
    assert abs(nothing.value) < 0.1
    assert abs(nothing.floor) < 0.1
    constant = left_of(noise[:2], [np.zeros((20, 20), np.float32), noise[3]], "spearman")
    assert constant.constant == 1
    assert np.isfinite(constant.value)


def test_rank_correlation_by_hand() -> None:
    a = np.array([[1.0, 2.0], [2.0, 9.0]], np.float32)
    b = np.array([[0.0, -1.0], [5.0, 5.0]], np.float32)
    # Ranks 1, 2.5, 2.5, 4 and 2, 1, 3.5, 3.5.
    x, y = np.array([1, 2.5, 2.5, 4]), np.array([2, 1, 3.5, 3.5])
    assert spearman(a, b) == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert spearman(a, -a) == pytest.approx(-1)
    assert left_of([a], [-a], "absolute spearman").value == pytest.approx(1)
    assert np.isnan(spearman(a, np.ones((2, 2), np.float32)))


def test_the_cascade_takes_parameters_and_buffers_from_the_end() -> None:
    def net(seed: int) -> torch.nn.Sequential:
        torch.manual_seed(seed)
        made = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 2))
        made[1].running_mean += seed
        return made

    model, other, before = net(0), net(1), net(0)
    steps = cascade(model, other, ["0", "1", "2"])
    assert next(steps) == (1, "2")
    assert torch.equal(model[2].weight, other[2].weight)
    assert torch.equal(model[1].running_mean, before[1].running_mean)
    assert next(steps) == (2, "1")
    assert torch.equal(model[1].running_mean, other[1].running_mean)
    assert torch.equal(model[0].weight, before[0].weight)
    assert list(steps) == [(3, "0")]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
