"""The human study: a form in a real Chromium, and what raters said."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.evaluation.ratings import krippendorff_alpha
from concept_monitor_cli.options import EvaluateOptions
from concept_monitor_cli.run import TABLES
from concept_monitor_cli.stories.evaluate import EvaluateResult, evaluate

if TYPE_CHECKING:
    from playwright.sync_api import Browser

UNITS = 8


def options(run: Path, cache: Path, **more: Any) -> EvaluateOptions:
    if "import_ratings" in more:
        more["import_ratings"] = tuple(map(str, more["import_ratings"]))
    return EvaluateOptions(out=run, cache_dir=cache, device="cpu", **more)


@pytest.fixture(scope="module")
def run(training: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, whose tables are this file's own."""
    return Path(shutil.copytree(training, tmp_path_factory.mktemp("rated") / "run"))


@pytest.fixture(scope="module")
def made(run: Path, cache: Path) -> EvaluateResult:
    return evaluate(options(run, cache, export_ratings=UNITS))


def content_of(form: Path) -> dict[str, Any]:
    found = re.search(
        r'<script type="application/json" id="data">(.*?)</script>', form.read_text("utf-8"), re.S
    )
    assert found is not None
    content: dict[str, Any] = json.loads(found[1])
    return content


def key_of(run: Path) -> pd.DataFrame:
    return TABLES["ratings-key"].read_csv(run / "tables" / "ratings-key.csv")


def test_every_unit_has_its_label_and_one_of_chance(run: Path, made: EvaluateResult) -> None:
    assert made.form == run / "ratings" / "form.html"
    content, key = content_of(made.form), key_of(run)
    assert len(content["questions"]) == made.questions == key["question"].nunique()
    assert key["question"].max() + 1 == made.questions
    assert len(content["pictures"]) == key["unit"].nunique() == UNITS
    assert key.groupby("unit")["kind"].apply(sorted).tolist() == [["chance", "own"]] * UNITS
    table = TABLES["concepts"].with_added(pd.read_parquet(run / "tables" / "concepts.parquet"))
    last = table[(table["epoch"] == table["epoch"].max()) & (table["rank"] == 1)].set_index("unit")["concept"]
    own = key[key["kind"] == "own"].set_index("unit")
    assert (own["label"] == last.loc[own.index]).all()
    for row in key.itertuples():
        assert content["questions"][row.question][1] == row.label
    pictures = {row.unit: content["questions"][row.question][0] for row in key.itertuples()}
    assert sorted(pictures.values()) == list(range(UNITS))


def test_the_form_does_not_tell_what_is_whose(run: Path, made: EvaluateResult) -> None:
    assert made.form is not None
    content = content_of(made.form)
    assert set(content) == {"form", "scale", "questions", "pictures", "alts"}
    assert all(len(question) == 2 for question in content["questions"])
    text = re.sub(r"data:image/[^\"]+", "", made.form.read_text("utf-8"))
    for secret in ("chance", '"own"', "clip-dissect", "epoch_", "interpretable"):
        assert secret not in text
    # Own labels and labels of chance are mixed: neither kind comes first.
    key = key_of(run).drop_duplicates("question").set_index("question")["kind"]
    assert 0.2 < (key.loc[: len(key) // 2 - 1] == "own").mean() < 0.95


def test_the_seed_decides_everything(run: Path, cache: Path, made: EvaluateResult, tmp_path: Path) -> None:
    assert made.form is not None
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    before, key = made.form.read_bytes(), key_of(run)
    again = evaluate(options(copy, cache, export_ratings=UNITS))
    assert again.form is not None
    assert again.form.read_bytes() == before
    other = evaluate(options(copy, cache, export_ratings=UNITS, seed=1))
    assert other.form is not None
    assert other.form.read_bytes() != before
    assert not key_of(copy).equals(key)


def answered(run: Path, folder: Path, rater: str, offset: int, skip: int | None = None) -> Path:
    """A rater who gives own labels 4 and labels of chance 2, give or take."""
    key = key_of(run)
    own = set(key[key["kind"] == "own"]["question"])
    ratings = {
        str(q): int(min(5, max(1, (4 if q in own else 2) + (q + offset) % 2)))
        for q in sorted(set(key["question"]))
        if q != skip
    }
    path = folder / f"ratings-{rater}.json"
    path.write_text(json.dumps({"form": str(key["form"].iloc[0]), "rater": rater, "ratings": ratings}))
    return path


def test_what_raters_say_stands_beside_chance(
    run: Path, cache: Path, made: EvaluateResult, tmp_path: Path
) -> None:
    files = (answered(run, tmp_path, "ann", 0), answered(run, tmp_path, "bob", 1, skip=3))
    result = evaluate(options(run, cache, import_ratings=files))
    key = key_of(run)
    said = [json.loads(path.read_text())["ratings"] for path in files]
    values = np.array([[each.get(str(q), np.nan) for q in range(made.questions)] for each in said])
    means = {q: np.nanmean(values[:, q]) for q in range(made.questions)}
    units = sorted(set(key["unit"]))
    place = key.set_index(["unit", "kind"])["question"]
    own = np.array([means[place[unit, "own"]] for unit in units])
    chance = np.array([means[place[unit, "chance"]] for unit in units])
    row = next(row for row in result.ratings if row["which"] == "all")
    assert (row["units"], row["raters"]) == (UNITS, 2)
    assert row["mean"] == pytest.approx(own.mean())
    assert row["chance"] == pytest.approx(chance.mean())
    assert row["difference"] == pytest.approx((own - chance).mean())
    assert row["error"] == pytest.approx((own - chance).std(ddof=1) / UNITS**0.5)
    assert row["alpha"] == pytest.approx(krippendorff_alpha(values))
    assert row["p_value"] < 0.05
    table = TABLES["ratings-units"].read_csv(run / "tables" / "ratings-units.csv")
    np.testing.assert_allclose(table["rating"], own)
    np.testing.assert_allclose(table["chance"], chance)
    assert result.tables == [run / "tables" / "ratings.csv", run / "tables" / "ratings-units.csv"]


def test_answers_that_cannot_be_used_are_named(
    run: Path, cache: Path, made: EvaluateResult, tmp_path: Path, training: Path
) -> None:
    good = answered(run, tmp_path, "ann", 0)
    content = json.loads(good.read_text())

    def refused(change: Any, *more: Path) -> str:
        path = tmp_path / "bad.json"
        path.write_text(change if isinstance(change, str) else json.dumps({**content, **change}))
        with pytest.raises(InputError) as found:
            evaluate(options(run, cache, import_ratings=(path, *more)))
        return str(found.value)

    assert "no answers" in refused("no json")
    assert "no answers" in refused("[]")
    assert "no answers" in refused({"rater": " "})
    assert "another form" in refused({"form": "f00"})
    assert "no question 999" in refused({"ratings": {"999": 3}})
    assert "no rating from 1 to 5" in refused({"ratings": {"0": 6}})
    assert "no rating from 1 to 5" in refused({"ratings": {"0": "5"}})
    assert "no question is answered" in refused({"ratings": {}})
    assert "two files have the answers of ann" in refused({}, good)
    with pytest.raises(InputError, match="cannot be read"):
        evaluate(options(run, cache, import_ratings=(tmp_path / "none.json",)))
    with pytest.raises(InputError, match="no key of a form"):
        evaluate(options(training, cache, import_ratings=(good,)))
    with pytest.raises(InputError, match="before answers"):
        evaluate(options(run, cache, import_ratings=(good,), export_ratings=3))


@pytest.mark.browser
def test_a_rater_answers_in_a_browser(
    run: Path, cache: Path, made: EvaluateResult, browser: Browser, tmp_path: Path
) -> None:
    assert made.form is not None
    context = browser.new_context(viewport={"width": 900, "height": 900}, accept_downloads=True)
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(made.form.resolve().as_uri())
    page.wait_for_selector("html[data-ready]")
    content = content_of(made.form)
    assert page.locator("#label").text_content() == content["questions"][0][1]
    assert page.evaluate("document.getElementById('picture').naturalWidth") > 300
    shots = os.environ.get("CMON_SCREENSHOTS")
    if shots:
        page.screenshot(path=str(Path(shots) / "form.png"))
    page.click("#save")
    assert "name" in (page.locator("#said").text_content() or "")
    page.fill("#rater", "Ann Müller")
    for question in range(made.questions):
        assert page.locator("#label").text_content() == content["questions"][question][1]
        page.locator("#scale button").nth(question % 5).click()
    assert "All questions are answered" in (page.locator("#said").text_content() or "")
    page.keyboard.press("3")  # the last one again
    with page.expect_download() as download:
        page.click("#save")
    assert download.value.suggested_filename == "ratings-Ann-Müller.json"
    path = tmp_path / "ann.json"
    download.value.save_as(path)
    given = json.loads(path.read_text("utf-8"))
    expected = {str(q): q % 5 + 1 for q in range(made.questions)} | {str(made.questions - 1): 3}
    assert given == {"form": content["form"], "rater": "Ann Müller", "ratings": expected}
    page.reload()  # answers are kept
    page.wait_for_selector("html[data-ready]")
    assert f"{made.questions} answered" in (page.locator("#place").text_content() or "")
    assert page.locator("#rater").input_value() == "Ann Müller"
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert said == []
    assert {url.split(":")[0] for url in asked} <= {"file", "data", "blob"}
    context.close()
    result = evaluate(options(run, cache, import_ratings=(path,)))
    assert result.ratings[0]["raters"] == 1
    assert result.ratings[0]["alpha"] is None
