"""Every figure has a title that says what it shows; on paper it fits a column and is told without colours."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from late import Late
from PIL import Image

import concept_monitor_cli.report as report
from concept_monitor_cli.options import PlotFormat, PlotFormats, StatsOptions
from concept_monitor_cli.report.embedding_figures import embedding_panels, trajectories
from concept_monitor_cli.report.paper import FONT_POINTS, set_for_paper
from concept_monitor_cli.report.style import (
    ANCHOR_COLOUR,
    CATEGORY_COLOURS,
    FOLLOWED_COLOURS,
    INK,
    OTHER_COLOUR,
    PALETTE,
    TRACK_COLOURS,
    UNIT_COLOUR,
    figure_style,
    save,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

mpl_figure = Late("matplotlib.figure")
mpl_text = Late("matplotlib.text")
mpl_colors = Late("matplotlib.colors")

_FOLDER = Path(report.__file__).parent


def _drawing() -> Iterator[tuple[str, ast.FunctionDef]]:
    """Functions that make a figure under the settings of figures."""
    for path in sorted(_FOLDER.glob("*.py")):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name != "save":
                calls = {_called(each) for each in ast.walk(node) if isinstance(each, ast.Call)}
                if "figure_style" in calls:
                    yield f"{path.stem}.{node.name}", node


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _words(call: ast.Call) -> int:
    """How many words of a title are written down: the name of a layer alone is none."""
    texts = [each.value for each in ast.walk(call.args[-1]) if isinstance(each, ast.Constant)]
    return len(" ".join(text for text in texts if isinstance(text, str)).split())


DRAWING = dict(_drawing())


@pytest.mark.parametrize("name", DRAWING)
def test_every_figure_has_a_title(name: str) -> None:
    function = DRAWING[name]
    if any(each.arg == "title" for each in (*function.args.args, *function.args.kwonlyargs)):
        return  # whoever calls it must say it
    calls = [each for each in ast.walk(function) if isinstance(each, ast.Call)]
    least = {"suptitle": 1, "titled": 1, "set_title": 2}  # a panel is named after its layer or epoch
    assert any(_words(each) >= least[_called(each)] for each in calls if _called(each) in least)


# On paper.
def _figure(width: float) -> Figure:
    """Lines and bars in colours of categories, words of several sizes, and a legend wider than the figure."""
    with figure_style():
        figure = mpl_figure.Figure(figsize=(width, 3.0), layout="constrained")
        left, right = figure.subplots(1, 2)
        for number, (name, colour) in enumerate(CATEGORY_COLOURS.items()):
            left.plot(range(40), [number] * 40, color=colour, label=f"the category {name}")
            right.bar([0], [1], bottom=number, color=colour)
        left.plot([0, 39], [1, 1], color=INK, ls="dashed")
        right.scatter([0], [3], color=FOLLOWED_COLOURS[0])
        left.set_title("some words", fontsize=20)
        right.set_xlabel("a name of an axis", fontsize=4)
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=6)
    return figure


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two figures, a narrow and a wide one, in all formats; the caption stands below."""
    folder = tmp_path_factory.mktemp("paper")
    formats = PlotFormats(("png", "svg", "pdf"), "paper")
    found = {}
    for name, width in (("narrow", 4.0), ("wide", 12.0)):
        for path in save(
            _figure(width), folder / name, formats, caption="Names of renderings say little. " * 9
        ):
            found[path.name] = path
    return found


@pytest.mark.parametrize(("name", "inches"), [("narrow", 3.25), ("wide", 6.75)])
def test_a_figure_is_as_wide_as_its_column(written: dict[str, Path], name: str, inches: float) -> None:
    (box,) = re.findall(rb"/MediaBox \[ ?0 0 ([\d.]+) [\d.]+ ?\]", written[f"{name}.pdf"].read_bytes())
    assert float(box) == pytest.approx(72 * inches, abs=0.1)
    svg = written[f"{name}.svg"].read_text("utf-8")
    (width,) = re.findall(r'<svg [^>]*?width="([\d.]+)pt"', svg)
    assert float(width) == pytest.approx(72 * inches, abs=0.1)
    with Image.open(written[f"{name}.png"]) as picture:
        assert picture.width == pytest.approx(300 * inches, abs=1)


def test_letters_are_carried_by_the_file(written: dict[str, Path]) -> None:
    pdf = written["wide.pdf"].read_bytes()
    assert b"/FontFile2" in pdf
    assert b"/Type3" not in pdf
    assert "<text" not in written["wide.svg"].read_text("utf-8")  # outlines


def test_letters_are_neither_small_nor_large() -> None:
    figure = _figure(12.0)
    set_for_paper(figure, PALETTE)
    figure.draw_without_rendering()
    sizes = {round(text.get_fontsize(), 3) for text in figure.findobj(mpl_text.Text) if text.get_text()}
    assert FONT_POINTS[0] in sizes
    assert FONT_POINTS[1] in sizes
    assert all(FONT_POINTS[0] <= size <= FONT_POINTS[1] for size in sizes)


def test_what_colours_tell_is_told_without_them() -> None:
    figure = _figure(6.0)
    before = [line.get_marker() for line in figure.axes[0].lines]
    assert set(before) == {"None"}
    set_for_paper(figure, PALETTE)
    left, right = figure.axes
    *solid, dashed = left.lines
    marks = [line.get_marker() for line in solid]
    assert len(set(marks)) == len(CATEGORY_COLOURS)
    assert dashed.get_marker() == "None"  # its dashes tell it
    hatches = [bar.get_hatch() for bar in right.patches]
    assert len(set(hatches)) == len(CATEGORY_COLOURS)
    (legend,) = figure.legends
    assert [each.get_marker() for each in legend.legend_handles] == marks


def test_every_colour_has_a_mark_of_its_own() -> None:
    colours = dict.fromkeys(PALETTE)
    figure = mpl_figure.Figure()
    axes = figure.subplots()
    for colour in colours:
        axes.plot([0, 1], [0, 1], color=colour)
        axes.bar([0], [1], color=colour)
    set_for_paper(figure, PALETTE)
    assert len({str(line.get_marker()) for line in axes.lines}) == len(colours)
    assert len({bar.get_hatch() for bar in axes.patches}) >= len(CATEGORY_COLOURS) + len(TRACK_COLOURS) - 5


def test_one_colour_needs_no_mark() -> None:
    figure = mpl_figure.Figure()
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=TRACK_COLOURS[0])
    axes.plot([0, 1], [1, 0], color=INK)
    set_for_paper(figure, PALETTE)
    assert [line.get_marker() for line in axes.lines] == ["None", "None"]


@pytest.mark.parametrize("formats", [("png",), PlotFormats(("png",), "paper")], ids=["screen", "paper"])
def test_a_caption_and_a_legend_do_not_meet(tmp_path: Path, formats: tuple[PlotFormat, ...]) -> None:
    figure = _figure(6.0)
    save(figure, tmp_path / "figure", formats, caption="Names of renderings say little. " * 9)
    (legend,) = figure.legends
    caption = figure.texts[-1]
    assert caption.get_text().startswith("Names")
    assert caption.get_window_extent().y1 <= legend.get_window_extent().y0
    assert legend.get_window_extent().width <= figure.bbox.width
    lowest = min(axes.get_tightbbox().y0 for axes in figure.axes)
    assert legend.get_window_extent().y1 <= lowest + 1


def test_the_screen_keeps_its_size_and_writes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "other"):
        save(_figure(6.0), tmp_path / name, PlotFormats(("svg", "pdf", "png")))
    for kind in ("svg", "pdf", "png"):
        assert (tmp_path / f"one.{kind}").read_bytes() == (tmp_path / f"other.{kind}").read_bytes()
    with Image.open(tmp_path / "one.png") as picture:
        assert picture.width == pytest.approx(6.0 * 160, abs=40)


def test_options_say_how_plots_look() -> None:
    options = StatsOptions(plot_formats=("pdf",), style="paper")
    assert options.plot_formats == ("pdf",)
    assert isinstance(options.plot_formats, PlotFormats)
    assert options.plot_formats.style == "paper"
    assert StatsOptions(run=Path("a"), style="paper").plot_formats.style == "paper"  # type: ignore[attr-defined]
    assert not replace(options, plot_formats=()).plot_formats
    assert replace(options, style="screen").plot_formats.style == "screen"  # type: ignore[attr-defined]


# On maps.
def _lab(colour: str) -> np.ndarray:
    """Björn Ottosson's Oklab, in which distances are those seen."""
    value = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    cones = [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566]]
    cones.append([0.0883024619, 0.2817188376, 0.6299787005])
    axes = [[0.2104542553, 0.793617785, -0.0040720468], [1.9779984951, -2.428592205, 0.4505937099]]
    axes.append([0.0259040371, 0.7827717662, -0.808675766])
    return np.array(axes) @ np.cbrt(np.array(cones) @ linear)


def test_followed_units_have_colours_that_no_category_has() -> None:
    others = [*CATEGORY_COLOURS.values(), OTHER_COLOUR, UNIT_COLOUR, ANCHOR_COLOUR]
    for place, colour in enumerate(FOLLOWED_COLOURS):
        for other in (*others, *FOLLOWED_COLOURS[:place]):
            assert np.linalg.norm(_lab(colour) - _lab(other)) > 0.1, (colour, other)


def test_units_on_maps_have_the_colours_of_their_categories() -> None:
    units = pd.DataFrame(
        {
            "epoch": [0, 0, 0, 0, 3, 3, 3, 3],
            "unit": [0, 1, 2, 3] * 2,
            "x": [0.0, 1.0, 2.0, 3.0, 0.0, 1.0, 2.0, 3.0],
            "y": [0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0],
            "concept": ["red", "dog", "odd", "sky"] * 2,
            "category": ["color", "object", "", "scene"] * 2,
            "interpretable": [True, True, True, False] * 2,
        }
    )
    anchors = pd.DataFrame({"anchor": ["dog"], "x": [1.5], "y": [0.5]})
    for figure in (
        embedding_panels(units, anchors, layer="layer4", tracked=(1,)),
        trajectories(units, anchors, layer="layer4", tracked=(1,)),
    ):
        axes = figure.axes[-1]
        drawn = {}
        for dots in axes.collections:
            for colour in dots.get_facecolor():
                drawn.setdefault(mpl_colors.to_hex(colour).upper(), []).extend(
                    dots.get_offsets()[:, 0].tolist()
                )
        assert drawn[CATEGORY_COLOURS["color"]] == [0.0]
        assert drawn[CATEGORY_COLOURS["object"]] == [1.0]
        assert drawn[UNIT_COLOUR] == [2.0, 3.0]  # without a category, and not beyond chance
        assert CATEGORY_COLOURS["scene"] not in drawn
        assert 1.0 in drawn[FOLLOWED_COLOURS[0]]
        names = [text.get_text() for text in figure.legends[0].get_texts()]
        assert names == ["unit, not beyond chance", "color", "object", "anchor", "unit 1"]


def test_no_label_covers_a_star_a_followed_unit_or_another_label() -> None:
    """Where a label would stand by itself stands a followed unit."""
    x, y = [0.0, 10.0, 5.6, 5.0], [0.0, 10.0, 5.0, 4.9]
    units = pd.DataFrame({"unit": range(4), "x": x, "y": y, "concept": "sky", "category": ""})
    units = units.assign(epoch=0, interpretable=False)
    anchors = pd.DataFrame({"anchor": ["windmill", "sea"], "x": [5.0, 5.4], "y": [5.0, 5.3]})
    figure = embedding_panels(units, anchors, layer="layer4", tracked=(2, 3))
    figure.draw_without_rendering()
    (axes,) = figure.axes
    labels = [label.get_bbox_patch().get_window_extent() for label in axes.texts]
    assert len(labels) == 4
    for number, label in enumerate(labels):
        assert not any(label.overlaps(other) for other in labels[:number])
        for a, b in [*zip(x[2:], y[2:], strict=True), *anchors[["x", "y"]].to_numpy().tolist()]:
            assert not label.contains(*axes.transData.transform((a, b)))
