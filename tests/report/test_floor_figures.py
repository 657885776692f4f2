"""A number is drawn with what chance gives for it."""

from __future__ import annotations

import numpy as np
import pandas as pd

from concept_monitor_cli.report.floor_figures import beside_floors, has_floors


def _statistics(**columns: object) -> pd.DataFrame:
    epochs = [0, 1, 5]
    rows = pd.DataFrame(
        {
            "epoch": epochs * 4,
            "layer": ["layer10"] * 6 + ["layer2"] * 6,
            "category": (["all"] * 3 + ["object"] * 3) * 2,
            "spread": 0.7,
            "spread_floor_random": 0.6,
            "spread_floor_halves": [0.3, 0.4, 0.5] * 4,
            "effective_units": 20.0,
            "effective_units_chance": 64.0,
            "held_out": 0.62,
            "held_out_chance": 0.51,
        }
    )
    return rows.assign(**columns)


def test_every_number_has_its_floors_as_dashed_lines() -> None:
    figure = beside_floors(_statistics())
    panels = [axes for axes in figure.axes if axes.lines]
    assert [axes.get_title() for axes in panels[:2]] == ["layer2", "layer10"]
    assert len(panels) == 6
    first = {line.get_label(): line for line in panels[0].lines}
    assert set(first) == {"spread", "random weights", "one unit, two halves of the images"}
    assert first["spread"].get_linestyle() == "-"
    assert first["random weights"].get_linestyle() != "-"
    assert list(first["one unit, two halves of the images"].get_ydata()) == [0.3, 0.4, 0.5]
    assert set(first["random weights"].get_ydata()) == {0.6}
    said = [text.get_text() for text in panels[4].get_legend().get_texts()]
    assert said == ["held out", "labels of other units"]
    assert all(axes.get_ylim()[0] == 0 for axes in panels)


def test_what_has_no_number_or_no_floor_is_left_out() -> None:
    bare = _statistics(spread=np.nan, held_out_chance=np.nan)
    figure = beside_floors(bare)
    assert [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()] == ["different units"]
    assert not has_floors(bare.assign(effective_units_chance=np.nan))
    one = _statistics(spread_floor_random=np.nan)
    (first, *_) = beside_floors(one).axes
    assert [line.get_label() for line in first.lines] == ["spread", "one unit, two halves of the images"]
