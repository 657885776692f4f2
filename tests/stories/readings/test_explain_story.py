"""`cmon explain`: a network whose units, places and classes are known, its tables and page, and mistakes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import torch
from corner_photos import SIDE, corner_photos
from PIL import Image

from concept_monitor_cli.cli.app import run
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.options import DissectOptions, EpochFilter, ExplainOptions
from concept_monitor_cli.progress import SILENT, Silent
from concept_monitor_cli.run import TABLES
from concept_monitor_cli.stories.attribute_making import Attributions, Explainer
from concept_monitor_cli.stories.dissect import dissect
from concept_monitor_cli.stories.explain import ExplainResult, explain

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NETWORK = """
from torch import nn

def network(num_classes=3):
    return nn.Sequential(
        nn.Conv2d(3, 6, 1), nn.ReLU(inplace=True), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(96, num_classes)
    )

def smooth(num_classes=3):
    return nn.Sequential(
        nn.Conv2d(3, 6, 1), nn.GELU(), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(96, num_classes)
    )
"""
CLASSES = ("blue", "green", "red")


def planted(corner: int) -> dict[str, torch.Tensor]:
    """Unit k sees colour k, unit 3 all of them, 4 nothing. A class reads its unit in one corner of 4 x 4."""
    weight = torch.zeros(6, 3, 1, 1)
    weight[:3, :, 0, 0] = torch.eye(3)
    weight[3] = 0.5
    weight[5, 1] = 0.3
    head = torch.zeros(3, 6, 4, 4)
    row, column = divmod(corner, 2)
    for k in range(3):
        head[k, 2 - k, 3 * row, 3 * column] = 4.0
    bias = torch.tensor([0.0, 0, 0, 0, -50, 0])
    return {"0.weight": weight, "0.bias": bias, "4.weight": head.flatten(1), "4.bias": torch.zeros(3)}


def unlearnt(seed: int) -> dict[str, torch.Tensor]:
    """The weights of a fresh network."""
    torch.manual_seed(seed)
    conv, head = torch.nn.Conv2d(3, 6, 1), torch.nn.Linear(96, 3)
    names = ("weight", "bias")
    return {f"0.{name}": getattr(conv, name).detach() for name in names} | {
        f"4.{name}": getattr(head, name).detach() for name in names
    }


@dataclass(frozen=True)
class Studied:
    """Runs over the same photos: `network` and `smooth` of two epochs, `unlearnt` of one."""

    root: Path

    def given(self, name: str = "network", **more: object) -> dict[str, Any]:
        return {
            "out": self.root / name,
            "cache_dir": self.root / "cache",
            "device": "cpu",
            "model": f"{self.root / 'network.py'}:{'smooth' if name == 'smooth' else 'network'}",
            "images": ("red/0.png", "blue/3.png"),
            "layers": ("1",),
            "groups": 2,
            **more,
        }

    def ask(self, name: str = "network", **more: object) -> ExplainResult:
        return explain(ExplainOptions(**self.given(name, **more)), SILENT)


class Heard(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.notices: list[str] = []

    def notice(self, message: str) -> None:
        self.notices.append(message)


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Studied:
    root = tmp_path_factory.mktemp("explained")
    (root / "network.py").write_text(NETWORK)
    corner_photos(root / "photos")
    states = {"ckpts": [planted(0), planted(3)], "fresh": [unlearnt(5)]}
    for folder, epochs in states.items():
        (root / folder).mkdir()
        for epoch, state in enumerate(epochs):
            torch.save({"state_dict": state, "epoch": epoch}, root / folder / f"epoch_{epoch}.pth")
    for name, folder, network in (
        ("network", "ckpts", "network"),
        ("smooth", "ckpts", "smooth"),
        ("unlearnt", "fresh", "network"),
    ):
        dissect(
            DissectOptions(
                checkpoints=(str(root / folder),),
                layers=("1",),
                model=f"{root / 'network.py'}:{network}",
                input_size=SIDE,
                crop=1.0,
                mean=(0.0, 0.0, 0.0),
                std=(1.0, 1.0, 1.0),
                probe=str(root / "photos"),
                encoder="builtin",
                floors=False,
                stability=False,
                out=root / name,
                cache_dir=root / "cache",
                device="cpu",
            )
        )
    return Studied(root)


def table(result: ExplainResult, name: str = "explanations") -> pd.DataFrame:
    path = next(path for path in result.tables if path.stem == name)
    return TABLES[name].read_csv(path)


def test_every_way_of_taking_apart_adds_up(studied: Studied) -> None:
    for on, layer in (("activation", "0"), ("attribution", "0"), ("attribution", "1")):
        rows = table(studied.ask("smooth", on=on, layers=(layer,), classes=3, images=("red/0.png",)))
        assert rows["target"].nunique() == 3
        for _, own in rows.groupby(["epoch", "image", "target"]):
            sums = own.groupby("part")["attribution"].sum()
            total = sums["total"]
            scale = own[own["part"] == "unit"]["attribution"].abs().sum()
            assert sums["unit"] + sums.get("other units", 0) == pytest.approx(total, abs=1e-4 * scale)
            assert sums["place"] == pytest.approx(total, abs=1e-4 * scale)
            assert sums["group"] + sums["residual"] == pytest.approx(total, abs=1e-4 * scale)
            shares = own.groupby("part")["share"].sum()
            assert shares["place"] == pytest.approx(1, abs=1e-5)
            assert shares["group"] + shares["residual"] == pytest.approx(1, abs=1e-5)


def test_the_units_and_places_are_those_of_the_network(studied: Studied) -> None:
    rows = table(studied.ask(classes=3))
    own = rows[rows["image"].str.endswith("red/0.png") & (rows["target"] == "red")]
    pixels = np.asarray(Image.open(studied.root / "photos/red/0.png")).astype(float) / 255
    for epoch, corner, cell in ((0, slice(0, 4), 0), (1, slice(12, 16), 5)):
        now = own[own["epoch"] == epoch]
        logit = 4 * pixels[corner, corner, 0].mean()
        total = now[now["part"] == "total"].iloc[0]
        assert total["attribution"] == pytest.approx(logit, rel=1e-5)
        assert total["logit"] == pytest.approx(logit, rel=1e-5)
        assert total["completeness_error"] < 1e-5
        units = now[now["part"] == "unit"].set_index("unit")["attribution"]
        assert units[0] == pytest.approx(logit, rel=1e-5)
        assert units.drop(0).abs().max() == 0
        places = now[now["part"] == "place"]
        best = places.loc[places["attribution"].idxmax()]
        assert (best["row"], best["column"]) == (cell, cell)
        # 16 places in 6 cells: the corner of 4 x 4 places lies in 2 x 2 of them.
        assert (places["attribution"] > 1e-6).sum() == 4
        # Read by another unit, unit 0 says nothing; and fresh networks read all of them.
        first = now[(now["part"] == "unit") & (now["unit"] == 0)].iloc[0]
        assert first["share"] == pytest.approx(1)
        assert first["share_untrained"] < 0.9
        assert first["attribution_floor"] < logit
    others = rows[rows["image"].str.endswith("red/0.png") & (rows["target"] == "blue")]
    blue = others[(others["part"] == "unit") & (others["epoch"] == 0)].set_index("unit")["attribution"]
    assert blue.abs().idxmax() == 2


def test_units_at_places_by_hand(studied: Studied) -> None:
    result = studied.ask(units=2, epochs=EpochFilter.parse("1"))
    rows = table(result, "explanation-places")
    assert len(rows) == 2 * 36 * 2
    own = rows[rows["image"].str.endswith("red/0.png")].set_index(["row", "column", "rank"])
    pixels = np.asarray(Image.open(studied.root / "photos/red/0.png")).astype(float) / 255
    block = pixels[13:16, 13:16]  # the last of 6 cells of 16 places
    values = {0: block[..., 0].mean(), 1: block[..., 1].mean(), 2: block[..., 2].mean()}
    values |= {3: 0.5 * block.sum(-1).mean(), 4: 0.0, 5: 0.3 * block[..., 1].mean()}
    order = sorted(values, key=lambda unit: -values[unit])[:2]
    assert [own.loc[(5, 5, rank), "unit"] for rank in (1, 2)] == order
    photos = [
        np.asarray(Image.open(path)).astype(float) / 255
        for path in sorted((studied.root / "photos").rglob("*.png"))
    ]
    pooled = {
        0: [photo[..., 0].mean() for photo in photos],
        3: [0.5 * photo.sum(-1).mean() for photo in photos],
    }
    for rank, unit in enumerate(order, start=1):
        row = own.loc[(5, 5, rank)]
        assert row["activation"] == pytest.approx(values[unit], rel=1e-5)
        assert row["of_best"] == pytest.approx(values[unit] / max(pooled[unit]), rel=1e-4)
        assert row["of_best_floor"] == pytest.approx(np.mean(pooled[unit]) / max(pooled[unit]), rel=1e-4)
    by_class = table(
        studied.ask(units=1, by="attribution", epochs=EpochFilter.parse("1")), "explanation-places"
    )
    corner = by_class[by_class["image"].str.endswith("red/0.png")].set_index(["row", "column"]).loc[(5, 5)]
    assert corner["unit"] == 0
    assert corner["attribution"] > corner["attribution_floor"] > 0


def test_a_network_that_learnt_nothing_is_like_one(studied: Studied) -> None:
    images = tuple(f"{colour}/{number}.png" for colour in CLASSES for number in (1,))
    fresh, learnt = (table(studied.ask(name, images=images, classes=1)) for name in ("unlearnt", "network"))

    def gain(rows: pd.DataFrame, part: str) -> float:
        own = rows[(rows["part"] == part) & (rows["epoch"] == rows["epoch"].max())]
        first = own.sort_values("share").groupby("image").tail(1)
        return float((first["share"] - first["share_untrained"]).mean())

    for part in ("unit", "place"):
        assert abs(gain(fresh, part)) < 0.15
        assert gain(learnt, part) > 0.2


def test_a_path_adds_up_to_the_change_of_the_logit(studied: Studied) -> None:
    def error(**path: int) -> float:
        asked = ExplainOptions(
            **studied.given("smooth", layers=("0",), classes=1, images=("red/0.png",), **path)
        )
        rows = table(explain(asked, heard))
        return float(rows[rows["part"] == "total"]["completeness_error"].max())

    heard = Heard()
    assert error(path=0) > 0.1
    assert any("--path 32 comes nearer" in text for text in heard.notices)
    heard.notices.clear()
    assert error() < 1e-4  # the default
    assert not any("nearer" in text for text in heard.notices)


def test_groups_are_fitted_once_and_explain_more_than_luck(studied: Studied) -> None:
    rows = table(studied.ask(groups=3, classes=1, images=("red/0.png",)))
    assert rows[rows["part"] == "group"]["group"].max() == 2
    left = rows[rows["part"] == "residual"]
    assert (left["explained"] < left["explained_floor"]).all()
    named = rows[rows["part"] == "group"]
    assert (named["concept"] != "").all()
    assert named["correlation"].between(-1, 1).all()
    assert named["correlation_floor"].between(-1, 1).all()
    # All units are sums of three colours.
    assert (left["explained"] < 0.05).all()


def test_what_is_known_is_not_made_again_and_a_stopped_run_goes_on(
    studied: Studied, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Explainer.in_layer
    calls: list[int] = []

    def counted(self: Explainer, *given: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return made(self, *given)

    monkeypatch.setattr(Explainer, "in_layer", counted)
    images = ("green/6.png", "green/7.png")
    counts = studied.ask(images=images, dry_run=True)
    # Two images at two epochs and in three untrained networks.
    assert (counts.wanted, counts.found) == (10, 0)
    assert counts.passes == 10 * (2 + 32 * (1 + 2 * 5))
    with pytest.raises(KeyboardInterrupt):
        studied.ask(images=images)
    left = studied.ask(images=images, dry_run=True)
    assert (left.wanted, left.found, left.passes) == (10, 3, 7 * (2 + 32 * (1 + 2 * 3)))
    whole = studied.ask(images=images)
    assert len(calls) == 4 + 7
    pages = [page.read_bytes() for page in whole.pages]

    def never(*_: object) -> None:
        raise AssertionError("the network was built")

    monkeypatch.setattr(Attributions, "explainer", never)
    again = studied.ask(images=images)
    assert [page.read_bytes() for page in again.pages] == pages
    assert again.passes == 0
    # An image's numbers do not depend on its companions.
    alone = studied.ask(images=images[1:])
    assert alone.pages[0].read_bytes() == pages[1]


def test_the_command_prints_and_says_all_in_json(
    studied: Studied, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [
        *("explain", "red/0.png", "--out", str(studied.root / "network"), "--layer", "1", "--device", "cpu"),
        *("--cache-dir", str(studied.root / "cache"), "--model", f"{studied.root / 'network.py'}:network"),
    ]
    assert run(line) == 0
    said = capsys.readouterr().out
    assert "what speaks for the target" in said
    assert "explanations/0-" in said
    assert run([*line, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["part"] for row in found["explanations"]} >= {"total", "unit", "place", "group", "residual"}
    assert run([*line, "--dry-run"]) == 0
    assert "5 of them in the cache" in " ".join(capsys.readouterr().out.split())


def test_what_is_wrong_is_said(studied: Studied, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no class 'yellow'"):
        studied.ask(target="yellow")
    with pytest.raises(InputError, match="there is no image"):
        studied.ask(images=("nobody.png",))
    with pytest.raises(InputError, match="at one layer"):
        studied.ask(layers=("0", "1"))
    with pytest.raises(InputError, match="no layer 'nine'"):
        studied.ask(layers=("nine",))


def test_two_images_of_one_name_have_a_page_each(studied: Studied) -> None:
    result = studied.ask(images=("red/0.png", "green/0.png"), classes=1)
    assert len({page.name for page in result.pages}) == 2


# -- the page in a browser -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page_file(studied: Studied) -> Path:
    folder = studied.root / "network" / "pictures"
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (8, 8), (200, 30, 30)).save(folder / "zero.png")
    row = {"epoch": 1, "checkpoint": "epoch_1.pth", "layer": "1", "unit": 0, "objective": "unit"}
    rest: dict[str, object] = {
        "other_unit": None,
        "share": None,
        "parameterisation": "fourier",
        "seed": 0,
        "steps": 1,
        "silent_start": False,
        "concept": "",
        "file": "pictures/zero.png",
    }
    columns = dict.fromkeys(TABLES["pictures"].columns)
    frame = TABLES["pictures"].frame(pd.DataFrame([{**columns, **row, **rest}]))
    frame.to_csv(studied.root / "network" / "tables" / "pictures.csv", index=False)
    return studied.ask(images=("red/0.png",), classes=3).pages[0]


@pytest.fixture
def page(browser: Browser, page_file: Path) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1200, "height": 900}, reduced_motion="reduce")
    opened = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(page_file.resolve().as_uri())
    opened.wait_for_selector("html[data-ready]")
    yield opened
    context.close()
    assert said == []
    assert {url.split(":")[0] for url in asked} <= {"file", "data"}


def attribution_here(page: Page, name: str) -> str:
    return page.inner_text(f"#here tr:has(th:text-is('{name}')) td:nth-child(2)")


@pytest.mark.browser
def test_pointing_at_a_place_says_what_is_there(page: Page) -> None:
    page.hover("#places button:nth-child(1)")
    assert page.inner_text("#here-title") == "Here: row 1, column 1"
    # At the last epoch only the lower right corner counts, and unit 0 sees red there.
    assert attribution_here(page, "red") == "0"
    page.hover("#places button:nth-child(36)")
    assert page.inner_text("#here-title") == "Here: row 6, column 6"
    assert attribution_here(page, "red").startswith("+")
    assert "Unit 0 · " in page.inner_text("#here")
    assert page.locator("#here img[alt='picture of unit 0']").count() == 1
    page.mouse.move(5, 5)
    # Left alone it shows the place that says most.
    assert page.inner_text("#here-title").startswith("Here: row ")
    assert attribution_here(page, "red").startswith("+")


@pytest.mark.browser
def test_a_place_is_held_and_epochs_pass_by(page: Page) -> None:
    page.click("#places button:nth-child(36)")
    page.mouse.move(5, 5)
    assert page.get_attribute("#places button:nth-child(36)", "aria-pressed") == "true"
    page.focus("#epoch")
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#epoch-name") == "0"
    assert page.inner_text("#here-title") == "Here: row 6, column 6"
    assert attribution_here(page, "red") == "0"
    page.keyboard.press("ArrowRight")
    assert attribution_here(page, "red").startswith("+")
    page.select_option("#class", label="blue")
    assert "blue" in page.inner_text("#units-hint")
    assert page.inner_text("#units tbody tr:first-child th") == "2"


@pytest.mark.browser
def test_the_page_is_used_by_keys_alone(page: Page) -> None:
    page.focus("#layer")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.parentElement.id") == "places"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert page.inner_text("#here-title") == "Here: row 2, column 2"
    page.keyboard.press("Enter")
    assert page.locator("#places [aria-pressed=true]").count() == 1
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")  # there is no row above the first
    page.keyboard.press("Escape")
    assert page.locator("#places [aria-pressed=true]").count() == 0
    assert page.inner_text("#here-title") == "Here: row 1, column 2"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('#groups') !== null")
    page.keyboard.press("Enter")
    assert page.input_value("#layer") == "group:0"
    assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"
    assert "group 0" in page.inner_text("#legend")


@pytest.mark.browser
@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 375)])
def test_axe_finds_nothing_serious(page_file: Path, browser: Browser, scheme: str, width: int) -> None:
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="axe-playwright-python is missing"
    )
    context = browser.new_context(
        viewport={"width": width, "height": 800},
        color_scheme=scheme,  # type: ignore[arg-type]
        reduced_motion="reduce",
        bypass_csp=True,  # the page lets no other script in; axe is one
    )
    opened = context.new_page()
    opened.goto(page_file.resolve().as_uri())
    opened.wait_for_selector("html[data-ready]")
    found = axe.Axe().run(opened).response["violations"]
    assert [(each["id"], each["nodes"][0]["failureSummary"]) for each in found] == []
    # Nothing sticks out to the right.
    assert opened.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    context.close()


def test_a_grid_has_a_picture_of_each_place_and_group(studied: Studied) -> None:
    given = {"images": ("red/0.png",), "places": 2, "grid": True, "classes": 1, "plot_formats": ("png",)}
    counts = studied.ask(**given, dry_run=True)
    # Two epochs of 2 x 2 places and two groups, and four places by luck; 60 photos are sampled twice.
    assert counts.pictures == 2 * (4 + 2) + 4
    assert counts.picture_passes > counts.pictures * 64 * 3
    result = studied.ask(**given)
    rows = table(result, "explanation-grid")
    assert len(rows) == 12
    assert rows.groupby(["epoch", "part"]).size().tolist() == [2, 4, 2, 4]
    # A pixel can be of any colour, so that a picture can be what a place is, and all else is nothing seen.
    places = rows[rows["part"] == "place"]
    assert (places["own_cos"] > 0.9).all()
    last = rows[rows["epoch"] == 1]
    assert (last["own_cos_floor"] < places["own_cos"].min()).all()
    assert rows[rows["epoch"] == 0]["own_cos_floor"].isna().all()
    for file in rows["file"]:
        assert Image.open(studied.root / "network" / file).size == (SIDE, SIDE)
    assert len(result.plots) == 2
    data = json.loads(result.pages[0].read_text("utf-8").partition('id="data">')[2].partition("</script>")[0])
    for epoch, shown in enumerate(data["epochs"]):
        own = places[places["epoch"] == epoch].sort_values(["row", "column"])
        assert [place[1] for place in shown["grid"]["places"]] == pytest.approx(own["own_cos"], abs=1e-3)
        assert all(data["pictures"][which] for which, *_ in shown["grid"]["groups"])
    without = studied.ask(**{**given, "grid": False})
    assert without.plots == []
    assert (
        '"grid":'
        not in without.pages[0].read_text("utf-8").partition('id="data">')[2].partition("</script>")[0]
    )
