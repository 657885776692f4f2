"""The content of the page, without a browser: what goes in comes out, whatever it is called."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from report_runs import DETECTOR, info, make_images, make_run, write_layer, write_pictures

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.monitor.history import histories
from concept_monitor_cli.monitor.lives import unit_lives
from concept_monitor_cli.options import EpochFilter, ReportOptions
from concept_monitor_cli.probe import load_probe
from concept_monitor_cli.report.images import PER_SHEET, make_sheets
from concept_monitor_cli.report.page import read_tables, render
from concept_monitor_cli.report.page.pack import Packed, floats, integers, json_for_html
from concept_monitor_cli.run import RunFolder
from concept_monitor_cli.store import Store
from concept_monitor_cli.stories.report import report


def unpack(packed: Packed) -> np.ndarray[Any, Any]:
    """The page's way of reading an array, written once more."""
    kind = {"u8": "<u1", "u16": "<u2", "u32": "<u4"}[packed["kind"]]
    raw = np.frombuffer(base64.b64decode(packed["data"]), dtype=kind)
    if "low" not in packed:
        return raw
    values = packed["low"] + raw.astype(float) * (packed["high"] - packed["low"]) / 65534
    values = np.exp(values) if packed.get("log") else values
    return np.where(raw == 65535, np.nan, values)


class _Blocks(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self._open = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = dict(attrs).get("id") or tag if tag in ("script", "style") else ""

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts[self._open] = self.texts.get(self._open, "") + data

    def handle_endtag(self, tag: str) -> None:
        self._open = ""


def parse(page: str) -> _Blocks:
    blocks = _Blocks()
    blocks.feed(page)
    return blocks


def content(run: Path) -> dict[str, Any]:
    page = (run / "report.html").read_text(encoding="utf-8")
    result: dict[str, Any] = json.loads(parse(page).texts["cmon-data"])
    return result


def test_a_page_leads_with_what_the_run_says(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", layers={"layer4": 60}, epochs=(0, 5, 10), embed=False)
    report(ReportOptions(out=run.root, images=0))
    found = content(run.root)["findings"]
    assert "growth" in {row["kind"] for row in found}
    assert all(row["sentence"] and row["evidence"] for row in found)
    assert [row["caution"] for row in found] == sorted(row["caution"] for row in found)
    assert content(run.root)["caption"] == ""


# -- packing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("largest", [0, 255, 256, 65535, 65536, 0xFFFFFFFF])
def test_whole_numbers_come_back_exactly_in_the_fewest_bytes(largest: int) -> None:
    packed = integers([[0, largest], [1, 0]])
    assert unpack(packed).tolist() == [0, largest, 1, 0]
    assert len(base64.b64decode(packed["data"])) == 4 * (1 if largest < 256 else 2 if largest < 65536 else 4)


def test_numbers_that_cannot_be_packed_are_refused() -> None:
    for bad in ([-1], [0x1_0000_0000]):
        with pytest.raises(ValueError, match="whole numbers"):
            integers(bad)


def test_fractions_come_back_within_half_a_step_and_no_value_stays_none() -> None:
    values = np.random.default_rng(0).normal(0, 3, 1000)
    values[[3, 7]] = np.nan
    values[9] = np.inf
    back = unpack(floats(values))
    known = np.isfinite(values)
    span = values[known].max() - values[known].min()
    assert np.abs(back - values)[known].max() <= span / 65534 / 2 * 1.001
    assert np.isnan(back[~known]).all()


def test_small_p_values_keep_their_leading_digits() -> None:
    p = np.array([1.0, 0.05, 1e-4, 3e-9, np.nan, 0.0])
    back = unpack(floats(p, log=True))
    assert back[:4] == pytest.approx(p[:4], rel=3e-4)
    assert np.isnan(back[4:]).all()


@pytest.mark.parametrize("values", [[], [np.nan, np.nan], [2.5, 2.5]])
def test_nothing_no_values_and_one_value(values: list[float]) -> None:
    back = unpack(floats(values))
    assert back.tolist() == pytest.approx(values, nan_ok=True)


HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "<img src=x onerror=alert(1)>",
    "\"'><svg onload=alert(1)>",
    "a\nb\rc\td\0e",
    "]]>&lt;&amp;",
    "\u2028\u2029\u202egnp.exe\ufeff",
    "日本語 🎉 ñ",
    "${alert(1)} {{7*7}} @SCRIPT@ @DATA@ \\u003c",
    "__proto__",
    "constructor",
    "javascript:alert(1)",
]


def test_json_in_html_is_the_same_json_and_holds_no_markup() -> None:
    text = json_for_html({name: name for name in HOSTILE})
    assert json.loads(text) == {name: name for name in HOSTILE}
    assert not set("<>&\u2028\u2029") & set(text)
    # A file name that is no valid text must not cost the page.
    assert json.loads(json_for_html("a\udcff"))[0] == "a"


def test_a_page_of_hostile_names_has_the_tags_of_an_empty_one(tmp_path: Path) -> None:
    plain = parse(render({"a": 1}))
    hostile = parse(render({"names": HOSTILE, **dict.fromkeys(HOSTILE, "x")}))
    assert hostile.tags == plain.tags
    assert json.loads(hostile.texts["cmon-data"])["names"] == HOSTILE


def test_the_policy_allows_this_script_and_style_alone() -> None:
    blocks = parse(render({"a": 1}, ["data:image/webp;base64,AAAA"]))
    policy = next(
        a["content"] or "" for t, a in blocks.tags if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    for name in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(blocks.texts[name].encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
    # Handlers or styles in attributes would need more than these hashes.
    for _, attributes in blocks.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
    assert json.loads(blocks.texts["cmon-sheet-0"]) == "data:image/webp;base64,AAAA"


def test_the_script_never_parses_strings_as_html_or_code() -> None:
    script = parse(render({})).texts["script"]
    for way in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "new Function",
        "fetch(",
    ):
        assert way not in script
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", script)


# -- content -------------------------------------------------------------------------------------


@pytest.fixture
def known(tmp_path: Path) -> RunFolder:
    """Three units over three epochs: one that switches, one that dies, one that is never sure."""
    run = RunFolder(tmp_path / "run")
    dog, red, sky = ("dog", "object"), ("red", "color"), ("sky", "")
    plan = [
        (0, [[red, dog], [dog], [sky]], [2.0, 1.5, 0.5], [True, True, False], [True, True, True]),
        (1, [[red, dog], [dog], [sky]], [2.1, 1.4, 0.4], [True, True, False], [True, True, True]),
        (4, [[dog, red], [dog], [red]], [2.2, 0.0, -0.3], [True, False, False], [True, False, True]),
    ]
    for epoch, labels, scores, sure, live in plan:
        write_layer(run, epoch, "layer2", labels, scores=scores, sure=sure, live=live)
        write_layer(run, epoch, "layer10", [[dog]], scores=[1.0])
    run.combine(info())
    return run


def options(run: RunFolder, **more: Any) -> ReportOptions:
    return ReportOptions(out=run.root, cache_dir=run.root.parent / "cache", **more)


def test_what_the_tables_say_is_what_the_page_says(known: RunFolder) -> None:
    result = report(options(known))
    page = content(known.root)
    assert (result.units, result.epochs, result.bytes) == (4, 3, result.page.stat().st_size)
    assert [s["layer"] for s in page["series"]] == ["layer2", "layer10"]
    assert page["epochs"] == [0, 1, 4]
    series = page["series"][0]
    names, kinds = page["labels"]["name"], page["labels"]["category"]
    concept = unpack(series["concept"]).reshape(2, 3, 3).astype(int) - 1
    assert [[names[i] if i >= 0 else "" for i in row] for row in concept[0]] == [
        ["red", "dog", "sky"],
        ["red", "dog", "sky"],
        ["dog", "", "red"],
    ]
    assert [names[i] for i in concept[1, :, 0]] == ["dog", "dog", "red"]
    assert [c["name"] for c in page["categories"]] == ["color", "object", "uncategorised"]
    assert page["categories"][kinds[names.index("sky")]]["name"] == "uncategorised"
    assert unpack(series["score"]).reshape(2, 3, 3)[0, 2] == pytest.approx(
        [2.2, np.nan, -0.3], abs=1e-4, nan_ok=True
    )
    # Bits: recorded 1, live 2, interpretable 4.
    assert unpack(series["flags"]).reshape(3, 3).tolist() == [[7, 7, 3], [7, 7, 3], [7, 1, 3]]
    assert unpack(series["p"]).reshape(3, 3)[0] == pytest.approx([2e-4, 2e-4, 0.4], rel=1e-3)
    statistics = series["statistics"]
    assert statistics["interpretable"] == [2, 2, 1]
    assert statistics["dead"] == [0, 0, 1]
    assert statistics["distinct"] == [2, 2, 1]
    assert statistics["changed"] == [None, 0, 2]
    assert statistics["categories"] == [[1, 1, 0], [1, 1, 1], [0, 0, 0]]
    lives = {name: (unpack(packed).astype(int) - 1).tolist() for name, packed in series["lives"].items()}
    assert lives["stable_from"] == [4, -1, 4]
    assert lives["changes"] == [1, 0, 1]
    assert lives["born"] == [0, 0, -1]
    assert lives["died"] == [-1, 4, -1]


def test_a_part_of_the_run(known: RunFolder) -> None:
    report(options(known, layers=("layer10",), epochs=EpochFilter.parse("0,last")))
    page = content(known.root)
    assert [s["layer"] for s in page["series"]] == ["layer10"]
    assert page["epochs"] == [0, 4]
    with pytest.raises(InputError, match="no unit 9"):
        report(options(known, units=(9,)))


def test_layers_of_different_epochs_and_sizes_stay_apart(tmp_path: Path) -> None:
    """A layer that was added later has no epochs of its own invented for it."""
    run = RunFolder(tmp_path / "run")
    for epoch in (0, 1, 2):
        write_layer(run, epoch, "a", [[("dog", "object")]] * 4)
    write_layer(run, 2, "b", [[("red", "color")]])
    write_layer(run, 2, "a", [[("red OR dog", "")]] * 4, detector="compositional")
    run.combine(info())
    report(options(run))
    page = content(run.root)
    assert [(s["layer"], s["detector"], s["epochs"], s["size"]) for s in page["series"]] == [
        ("a", DETECTOR, [0, 1, 2], 4),
        ("a", "compositional", [2], 4),
        ("b", DETECTOR, [2], 1),
    ]


def test_the_page_says_what_is_missing_and_how_to_get_it(known: RunFolder) -> None:
    result = report(options(known))
    page = content(known.root)
    assert page["anchors"] is None
    assert all(series["place"] is None for series in page["series"])
    for command in ("cmon embed", "cmon stats", "cmon units"):
        assert any(command in remark for remark in page["remarks"]), command
    assert "cmon dissect" in page["images"]["missing"]
    assert page["images"]["missing"] in result.left_out


def test_places_and_anchors(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", layers={"layer1": 40}, epochs=[0, 5])
    report(options(run))
    page = content(run.root)
    table = read_tables(run, run.concepts()).embedding
    assert table is not None
    place = page["series"][0]["place"]
    x = unpack(place["x"]).reshape(2, 40)
    span = place["x"]["high"] - place["x"]["low"]
    for row in table.sample(20, random_state=0).itertuples():
        at = (0 if row.epoch == 0 else 1, row.unit)
        assert x[at] == pytest.approx(row.x, abs=span / 65534)
        anchor = unpack(place["anchor"]).reshape(2, 40)[at]
        assert page["anchors"]["name"][anchor - 1] == row.nearest_anchor
    assert np.isnan(x).sum() == 80 - len(table)


def test_old_statistics_are_not_shown(tmp_path: Path) -> None:
    """`statistics.csv` of an earlier state of the run: only what still agrees is taken over."""
    import pandas as pd

    run = make_run(tmp_path / "run", layers={"layer1": 20}, epochs=[0, 1], embed=False)
    rows = {
        "epoch": [0, 1],
        "layer": ["layer1"] * 2,
        "detector": [DETECTOR] * 2,
        "category": ["all"] * 2,
        "units": [20, 19],
        "interpretable": [0, 0],
        "distinct_concepts": [0, 0],
        "spread": [0.5, 0.7],
        "anchor_distance": [float("nan")] * 2,
        "dead": [0, 0],
        "checkpoint": ["epoch_0.pth", "epoch_1.pth"],
    }
    run.write_csv("statistics", pd.DataFrame(rows))
    report(options(run))
    assert content(run.root)["series"][0]["statistics"]["spread"] == [0.5, None]


# -- images --------------------------------------------------------------------------------------


def test_units_show_their_images(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    folder = make_images(tmp_path / "photos", 30)
    run = make_run(tmp_path / "run", layers={"layer1": 6}, epochs=[0, 1], embed=False, images=(folder, store))
    result = report(options(run, images=3))
    page = content(run.root)
    images = page["series"][0]["images"]
    assert result.units_with_images == 6
    assert len(page["images"]["names"]) == result.images <= 30
    places = unpack(images["places"]).reshape(6, 2, 3).astype(int)
    key = store.key("activations", layer="layer1", epoch=1, seed=0)
    with store.get(key) as entry:  # type: ignore[union-attr]
        top = entry.read("top_images")
    names = load_probe(str(folder)).ids  # the recording has the images in the order of their content
    flags = unpack(page["series"][0]["flags"]).reshape(2, 6)
    for row, unit in enumerate(unpack(images["rows"]).tolist()):
        shown = [page["images"]["names"][place - 1] for place in places[row, 1] if place]
        wanted = [names[number] for number in top[unit, :3]] if flags[1, unit] & 2 else []
        assert shown == wanted


def test_images_stay_within_their_budget_and_the_page_says_what_is_left_out(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    folder = make_images(tmp_path / "photos", 300)
    run = make_run(tmp_path / "run", layers={"layer1": 200}, epochs=[0], embed=False, images=(folder, store))
    result = report(options(run, units=(7,), images=1, image_megabytes=0.004))
    page = parse((run.root / "report.html").read_text(encoding="utf-8"))
    used = sum(len(json.loads(text)) for name, text in page.texts.items() if name.startswith("cmon-sheet"))
    assert 0 < used <= 4000
    assert 0 < result.units_with_images < 200
    assert any("are shown without images" in sentence for sentence in result.left_out)
    # The tracked unit comes first, however unsure it is.
    rows = unpack(content(run.root)["series"][0]["images"]["rows"]).tolist()
    assert 7 in rows
    none = report(options(run, images=0))
    assert none.images == 0
    assert "without images" in content(run.root)["images"]["missing"]


@pytest.mark.parametrize("change", ["gone", "others"])
def test_images_that_are_gone_or_others_are_not_shown(tmp_path: Path, change: str) -> None:
    store = Store(tmp_path / "cache")
    folder = make_images(tmp_path / "photos", 12)
    run = make_run(tmp_path / "run", layers={"layer1": 4}, epochs=[0], embed=False, images=(folder, store))
    if change == "gone":
        folder.rename(tmp_path / "elsewhere")
    else:
        (folder / "image_0000.png").write_bytes((folder / "image_0001.png").read_bytes())
    result = report(options(run))
    assert result.images == 0
    assert "not accessible" in content(run.root)["images"]["missing"]


def test_sheets_hold_many_images_and_leave_a_grey_place_for_a_broken_one(tmp_path: Path) -> None:
    folder = make_images(tmp_path / "photos", PER_SHEET + 20)
    probe = load_probe(str(folder))
    (folder / "image_0003.png").write_bytes(b"not an image")
    sheets = make_sheets(probe.image, [5, 3, 5, -1, *range(PER_SHEET + 20)], max_bytes=10_000_000)
    assert sheets.numbers[:3] == [5, 3, 0]
    assert len(sheets.numbers) == PER_SHEET + 20
    assert (len(sheets.uris), sheets.unreadable, sheets.left_out) == (2, 1, 0)


def test_too_many_units_keep_their_best_concept_only(
    known: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("concept_monitor_cli.report.page.contents.MAX_TABLE_BYTES", 100)
    result = report(options(known))
    assert content(known.root)["series"][0]["ranks"] == 1
    assert any("Only the best of 2 concepts" in sentence for sentence in result.left_out)


def test_changes_beyond_luck_are_shown_only_where_they_are_of_these_labels(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", layers={"layer4": 50}, epochs=(0, 5, 10), embed=False)
    (history,) = histories(run.concepts())
    taken = np.zeros(history.labels.shape, dtype=bool)
    taken[:4, 1] = taken[7, 2] = True
    run.write_csv("units", unit_lives(history, confident=taken))
    at, column = np.nonzero(taken)
    words = dict.fromkeys(("from_concept", "from_category", "to_concept", "to_category", "checkpoint"), "")
    rows = {"epoch": history.epochs[column], "unit": history.units[at], "from_epoch": 0, "confidence": 1.0}
    place = {"layer": "layer4", "detector": DETECTOR}
    run.write_csv("changes", pd.DataFrame({**rows, **place, **words}))
    report(ReportOptions(out=run.root, images=0))
    shown = content(run.root)["series"][0]["statistics"]
    assert shown["sure"] == [None, 4, 1]
    live = [int((history.live[:, t] & (history.previous[:, t] >= 0)).sum()) for t in (1, 2)]
    assert shown["sure_by_luck"] == [None, *(round(0.031 * count) for count in live)]
    # A table of other labels says nothing of these.
    other = unit_lives(history, confident=taken)
    run.write_csv("units", other.assign(label_changes=other["label_changes"] + 1))
    report(ReportOptions(out=run.root, images=0))
    assert content(run.root)["series"][0]["statistics"]["sure"] == [None] * 3


def test_pictures_that_were_made_of_units_are_in_the_page(tmp_path: Path) -> None:
    folder, store = make_images(tmp_path / "photos", 20), Store(tmp_path / "cache")
    run = make_run(
        tmp_path / "run",
        layers={"layer1": 6, "layer2": 6},
        epochs=[0, 4],
        embed=False,
        images=(folder, store),
    )
    asked = ReportOptions(out=run.root, cache_dir=store.root)
    report(asked)
    before = content(run.root)
    assert "pictures" not in before
    made = {(epoch, unit): (40 * unit, 0, 10 * epoch) for epoch in (0, 4) for unit in (1, 3)}
    write_pictures(run, "layer2", made)
    (run.root / "pictures/epoch_0000/layer2/unit_0003.png").unlink()
    result = report(asked)
    after = content(run.root)
    # The page is the same but for them; a picture whose file has gone is not there.
    assert {**after, "made": 0, "pictures": 0} == {**before, "made": 0, "pictures": 0}
    first = PER_SHEET * before["images"]["sheets"]
    nothing, own = after["pictures"]
    assert nothing == {}
    assert {epoch: set(units) for epoch, units in own.items()} == {"0": {"1"}, "4": {"1", "3"}}
    places = [numbers for units in own.values() for numbers in units.values()]
    assert sorted(place for place, *_ in places) == [first, first + 1, first + 2]
    assert all(numbers == [3.25, 0.12] for _, *numbers in places)
    sheets = [name for name in parse(result.page.read_text("utf-8")).texts if name.startswith("cmon-sheet-")]
    assert len(sheets) == before["images"]["sheets"] + 1
    # One that cannot be read is grey, and that is said; of another run's epochs nothing is taken.
    (run.root / "pictures/epoch_0004/layer2/unit_0003.png").write_bytes(b"no picture")
    assert any("1 pictures of units cannot be read" in said for said in report(asked).left_out)
    report(ReportOptions(out=run.root, cache_dir=store.root, epochs=EpochFilter.parse("0")))
    assert set(content(run.root)["pictures"][1]) == {"0"}
    report(ReportOptions(out=run.root, cache_dir=store.root, images=0))
    assert "pictures" not in content(run.root)


def test_pictures_take_a_quarter_of_the_space_and_leave_the_others_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", layers={"layer1": 200}, epochs=[0], embed=False)
    rng = np.random.default_rng(0)
    made = {(0, unit): (0, 0, 0) for unit in range(200)}
    write_pictures(run, "layer1", made)
    for file in (run.root / "pictures").rglob("*.png"):
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(file)
    result = report(
        ReportOptions(out=run.root, cache_dir=tmp_path / "cache", image_megabytes=0.8, units=(7,))
    )
    shown = content(run.root)["pictures"][0]["0"]
    assert 0 < len(shown) < 200
    assert shown["7"][0] == 0  # tracked units come first
    texts = parse(result.page.read_text("utf-8")).texts
    assert sum(len(text) for name, text in texts.items() if name.startswith("cmon-sheet-")) < 200_100
    assert f"{200 - len(shown)} pictures made of less certain units are left out" in " ".join(result.left_out)
