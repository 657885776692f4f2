"""The figure and the panel of ranges: what they say of a table worked out by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from concept_monitor_cli.monitor.history import History, Label
from concept_monitor_cli.report import range_figures
from concept_monitor_cli.report.page import structure
from concept_monitor_cli.report.page.structure import Structure, ranges_json
from concept_monitor_cli.report.style import UNIT_COLOUR, category_colour


def row(epoch: int, unit: int, place: int, **more: object) -> dict[str, object]:
    known: dict[str, object] = {
        "epoch": epoch,
        "unit": unit,
        "range": place,
        "low": place - 2.0,
        "high": place - 1.0,
        "weight": place - 1.5,
        "concept": "dog OR cat",
        "category": "object",
        "score": 0.25,
        "coverage": 0.5,
        "p_value": 0.01,
        "interpretable": True,
        "specialised": "",
    }
    return {**known, **more}


ROWS = pd.DataFrame(
    [
        row(1, 7, 1, concept="sky", category="scene", coverage=0.75, interpretable=False),
        row(1, 7, 2, specialised="yes"),
        row(
            3,
            7,
            1,
            concept="",
            category="",
            coverage=np.nan,
            score=np.nan,
            interpretable=False,
            p_value=np.nan,
        ),
        row(3, 7, 2, coverage=1.0, specialised="no"),
    ]
)


def test_a_panel_per_epoch_with_the_coverage_and_the_formula_of_each_range() -> None:
    from matplotlib.colors import to_hex

    figure = range_figures.ranges_over_epochs(ROWS, layer="layer4", unit=7)
    assert figure.get_suptitle().startswith("Unit 7 of layer4")
    first, last = figure.axes
    assert [axes.get_title(loc="left") for axes in (first, last)] == ["epoch 1", "epoch 3"]
    assert [bar.get_width() for bar in first.patches] == [0.75, 0.5]
    assert [bar.get_width() for bar in last.patches] == [0, 1]
    # The highest values stand on top, and what is not called is grey.
    assert [label.get_text() for label in first.get_yticklabels()] == [
        "\N{MINUS SIGN}1 to 0 (\N{MINUS SIGN}0.5 SD)",
        "0 to 1 (+0.5 SD)",
    ]
    assert first.patches[0].get_y() < first.patches[1].get_y()
    colours = [to_hex(bar.get_facecolor()).upper() for bar in first.patches]
    assert colours == [UNIT_COLOUR, category_colour("object")]
    assert [text.get_text() for text in first.texts] == ["sky  (0.250)", "dog OR cat *  (0.250)"]
    assert [text.get_text() for text in last.texts] == ["no formula", "dog OR cat  (0.250)"]


def history(layer: str, detector: str) -> History:
    return History(
        layer=layer,
        detector=detector,
        epochs=np.array([1, 3]),
        checkpoints=("a", "b"),
        units=np.array([7]),
        names=(Label("sky", "scene"),),
        labels=np.zeros((1, 2), dtype=np.int64),
        scores=np.ones((1, 2)),
        interpretable=np.ones((1, 2), dtype=bool),
    )


def test_the_page_has_the_ranges_of_each_unit_and_epoch_the_highest_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = Structure(ranges={("a", "two"): ROWS})
    both = [history("a", "one"), history("a", "two")]
    found = ranges_json(known, both)
    assert found is not None
    assert sorted(found["texts"]) == [
        ["dog OR cat", "object", category_colour("object")],
        ["sky", "scene", category_colour("scene")],
    ]
    assert list(found["units"]) == ["1"]
    dog = [text for text, *_ in found["texts"]].index("dog OR cat")
    assert found["units"]["1"]["1"]["7"] == [
        [0, 1, 0.5, dog, 0.25, 0.5, 0.01, 1, 1],
        [-1, 0, -0.5, 1 - dog, 0.25, 0.75, 0.01, 0, None],
    ]
    assert found["units"]["1"]["3"]["7"] == [
        [0, 1, 0.5, dog, 0.25, 1.0, 0.01, 1, 0],
        [-1, 0, -0.5, -1, None, None, None, 0, None],
    ]
    monkeypatch.setattr(structure, "MOST_RANGES", 3)
    fewer = ranges_json(known, both)
    assert fewer is not None
    assert list(fewer["units"]["1"]) == ["3"]
    assert ranges_json(Structure(), both) is None
