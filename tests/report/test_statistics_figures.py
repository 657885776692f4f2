from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from late import Late

from concept_monitor_cli.report.statistics_figures import (
    categories_by_layer,
    categories_over_epochs,
    categories_side_by_side,
    interpretable_against_sparsity,
    retention_against_percent,
)
from concept_monitor_cli.report.style import CATEGORY_COLOURS, INK

colors = Late("matplotlib.colors")


def _statistics(epochs: tuple[int, ...] = (0, 5, 30)) -> pd.DataFrame:
    rows = [
        {
            "epoch": epoch,
            "layer": layer,
            "detector": "clip-dissect",
            "category": category,
            "interpretable": (1 + i) * (epoch + 1) * (2 if layer == "layer10" else 1),
        }
        for epoch in epochs
        for layer in ("layer9", "layer10")
        for i, category in enumerate(("all", "texture", "object"))
    ]
    return pd.DataFrame(rows)


def test_bars_are_the_counts_in_the_colours_of_their_categories() -> None:
    figure = categories_by_layer(_statistics(), fdr=0.05)
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in panels] == ["epoch 0", "epoch 5", "epoch 30"]
    bars = {}
    for patch in panels[1].patches:
        bars[colors.to_hex(patch.get_facecolor()).upper(), round(patch.get_x() + patch.get_width() / 2)] = (
            patch
        )
    texture, thing = CATEGORY_COLOURS["texture"], CATEGORY_COLOURS["object"]
    heights = {where: bar.get_height() for where, bar in bars.items()}
    assert heights == {(texture, 0): 12, (texture, 1): 24, (thing, 0): 18, (thing, 1): 36}
    # The totals of 30 and 60, and a twentieth of them as lines.
    (luck,) = panels[1].collections
    assert [segment[0, 1] for segment in luck.get_segments()] == pytest.approx([1.5, 3.0])
    # Stacked: the second piece stands on the first.
    assert bars[thing, 1].get_y() == 24
    assert [label.get_text() for label in panels[0].get_xticklabels()] == ["layer9", "layer10"]


def test_side_by_side_has_a_row_per_common_epoch_and_one_for_the_ends() -> None:
    runs = {"A": _statistics((0, 5)), "B": _statistics((0, 5, 30))}
    figure = categories_side_by_side(runs, fdr={"A": 0.1, "B": 0.2})
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == [
        *("A, epoch 0", "B, epoch 0", "A, epoch 5", "B, epoch 5", "A, epoch 5", "B, epoch 30"),
    ]
    # At epoch 0 the layers of both have 5 and 10 such units.
    lucks = [[segment[0, 1] for segment in axes.collections[0].get_segments()] for axes in figure.axes[:2]]
    np.testing.assert_allclose(lucks, [[0.5, 1.0], [1.0, 2.0]])
    figure = categories_side_by_side(
        {"A": _statistics((1,)), "B": _statistics((2,))}, fdr={"A": 0.05, "B": 0.05}
    )
    assert [axes.get_title() for axes in figure.axes] == ["A, epoch 1", "B, epoch 2"]


def test_a_row_without_units_has_its_zero_at_the_bottom() -> None:
    none = _statistics((0,)).assign(interpretable=0)
    figure = categories_side_by_side({"A": none, "B": none}, fdr={"A": 0.05, "B": 0.05})
    assert [axes.get_ylim() for axes in figure.axes] == [(0, 1), (0, 1)]
    some = _statistics((0,))
    figure = categories_side_by_side({"A": none, "B": some}, fdr={"A": 0.05, "B": 0.05})
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    assert figure.axes[1].get_ylim()[1] >= 10


def test_lines_against_epochs() -> None:
    figure = categories_over_epochs(_statistics(), fdr=0.05)
    lines = {colors.to_hex(line.get_color()).upper(): line for line in figure.axes[0].get_lines()}
    luck = lines.pop(INK.upper())
    assert luck.get_linestyle() == "--"
    np.testing.assert_allclose(luck.get_xydata(), [[0, 0.05], [5, 0.3], [30, 1.55]])
    assert figure.legends[0].get_texts()[-1].get_text() == "by luck, of all: at most"
    assert lines[CATEGORY_COLOURS["texture"]].get_xydata().tolist() == [[0, 2], [5, 12], [30, 62]]
    # Not by colour alone: every line has its own marker.
    assert len({line.get_marker() for line in lines.values()}) == len(lines)


@pytest.mark.parametrize("known", [True, False])
def test_lines_of_pruning(known: bool) -> None:
    pruning = pd.DataFrame(
        {
            "series": ["a", "a", "b", "b"],
            "layer": "layer4",
            "stage": [0, 1, 0, 1],
            "sparsity": [0.0, 0.4, 0.0, 0.4 if known else np.nan],
            "interpretable": [10, 12, 10, 7],
            "accuracy": np.nan,
        }
    )
    (axes,) = interpretable_against_sparsity(pruning).axes
    assert axes.get_xlabel() == ("weights that are zero [%]" if known else "stage of pruning")
    assert axes.get_lines()[1].get_xydata().tolist() == [[0, 10], [40 if known else 1, 7]]
    assert axes.get_ylim()[1] > 12.5, "the highest mark is whole"
    rows = {
        "series": "a",
        "layer": "l",
        "percent": [10, 100],
        "retention": [0.5, 0.25],
        "by_chance": [0.125, 0.0625],
    }
    figure = retention_against_percent(pd.DataFrame(rows))
    shares, chance = figure.axes[0].get_lines()
    assert shares.get_xydata().tolist() == [[10, 50], [100, 25]]
    assert chance.get_xydata().tolist() == [[10, 12.5], [100, 6.25]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["by chance"]


def test_accuracy_comes_before_the_layers_where_any_is_known() -> None:
    pruning = pd.DataFrame(
        [
            {
                "series": series,
                "layer": layer,
                "stage": stage,
                "sparsity": 0.4 * stage,
                "interpretable": 5,
                "accuracy": 0.9 - 0.2 * stage if series == "a" else np.nan,
            }
            for series in "ab"
            for layer in ("layer3", "layer4")
            for stage in (0, 1)
        ]
    )
    first, *others = [axes for axes in interpretable_against_sparsity(pruning).axes if axes.get_visible()]
    assert (first.get_title(), first.get_ylabel()) == ("accuracy", "accuracy [%]")
    assert first.get_lines()[0].get_xydata() == pytest.approx(np.array([[0, 90], [40, 70]]))
    assert [axes.get_title() for axes in others] == ["layer3", "layer4"]
    assert others[0].get_ylabel() == "interpretable units"
