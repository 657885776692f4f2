"""Pictures of evaluated units say what their tables say."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from concept_monitor_cli.report.evaluation_units import (
    image_groups,
    sanity_of_measures,
    score_against_quality,
    wider_ranges,
)

ABOUT = {
    "epoch": 3,
    "checkpoint": "a.pth",
    "layer": "layer4",
    "detector": "clip-dissect",
    "similarity": "wpmi",
}


def grey(name: str) -> np.ndarray:
    """An image whose grey is its number."""
    return np.full((8, 8, 3), int(name), dtype=np.uint8)


def greys(axes: object, length: int) -> list[int]:
    """The greys of the images of a strip, as they are drawn; 255 for an empty place."""
    pixels = np.asarray(axes.images[0].get_array())  # type: ignore[attr-defined]
    side = pixels.shape[0]
    return [int(pixels[side // 2, place * (side + 6) + side // 2, 0]) for place in range(length)]


def cutoff_table(tau: float) -> pd.DataFrame:
    scores = np.array([5.0, 4.0, 3.0, 2.0])
    rows = pd.DataFrame({"unit": range(4), "concept": list("abcd"), "score": scores})
    rows["quality"] = [1.0, 0.8, 0.0, 0.4]
    rows["metric"], rows["wanted"], rows["cutoff"], rows["p_value"] = "showing", 0.75, tau, 0.5
    rows["above"], rows["interpretable"] = scores > tau, [True, False, False, False]
    return rows.assign(chance=[0.1, 0.2, 0.3, 0.2], **ABOUT)


def test_score_against_quality_draws_the_mean_of_all_units_above() -> None:
    (axes,) = score_against_quality(cutoff_table(3.0)).axes
    assert axes.get_title() == "cutoff 3: 2 of 4 units above"
    curve = next(line for line in axes.lines if line.get_label().startswith("mean"))
    np.testing.assert_allclose(curve.get_xdata(), [5, 4, 3, 2])
    np.testing.assert_allclose(curve.get_ydata(), [1, 0.9, 0.6, 0.55])
    assert [len(points.get_offsets()) for points in axes.collections] == [3, 1]
    assert [text.get_text() for text in axes.texts] == ["wanted: 0.75", "by chance: 0.2"]
    assert [line.get_ydata()[0] for line in axes.lines[1:3]] == [0.75, pytest.approx(0.2)]
    (axes,) = score_against_quality(cutoff_table(3.0).assign(chance=np.nan)).axes  # of an earlier version
    assert [text.get_text() for text in axes.texts] == ["wanted: 0.75"]


@pytest.mark.parametrize(
    ("above", "title"), [(True, "no cutoff is needed"), (False, "no cutoff gives that quality")]
)
def test_without_a_cutoff(above: bool, title: str) -> None:
    (axes,) = score_against_quality(cutoff_table(np.nan).assign(above=above)).axes
    assert axes.get_title() == title


def test_only_the_last_epoch_is_drawn() -> None:
    both = pd.concat([cutoff_table(3.0).assign(epoch=1, score=99.0), cutoff_table(3.0)])
    (axes,) = score_against_quality(both).axes
    assert axes.get_xlim()[1] < 10


def test_sanity_of_measures() -> None:
    rows = pd.DataFrame({"metric": ["correlation", "inverse_auc"], "passes": [True, False]})
    rows["missing_fallen"], rows["extra_fallen"] = [0.95, 0.5], [1.0, 0.97]
    (axes,) = sanity_of_measures(rows.assign(**ABOUT)).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["correlation", "inverse auc"]
    assert [label.get_fontweight() for label in axes.get_yticklabels()] == ["bold", "normal"]
    missing, extra = (points.get_offsets()[:, 0].tolist() for points in axes.collections)
    assert missing == pytest.approx([95, 50])
    assert extra == pytest.approx([100, 97])


def test_wider_ranges_show_each_image_at_its_place() -> None:
    rows = []
    for unit, concept, start in ((7, "dog", 10), (3, "sky", 100)):
        for share, count in ((0.001, 1), (0.01, 2), (0.05, 3)):
            rows += [
                {
                    "unit": unit,
                    "concept": concept,
                    "share": share,
                    "place": place + 1,
                    "image": str(start + place),
                }
                for place in range(count)
            ]
    figure = wider_ranges(pd.DataFrame(rows).sample(frac=1, random_state=0).assign(**ABOUT), grey)
    texts = [text.get_text() for text in figure.texts]
    assert {"top 0.1 %", "top 1 %", "top 5 %"} <= set(texts)
    # A column of strips per range, a line per unit.
    assert [greys(axes, 1) for axes in figure.axes[:2]] in ([[10], [100]], [[100], [10]])
    order = [text for text in texts if ":" in text]
    assert sorted(order) == ["3: sky", "7: dog"]
    start = 10 if order[0] == "7: dog" else 100
    assert greys(figure.axes[4], 3) == [start, start + 1, start + 2]


def test_groups_have_a_line_each() -> None:
    rows = pd.DataFrame(
        {
            "unit": [4, 4, 4, 4, 9, 9, 9],
            "place": [1, 2, 3, 4, 1, 2, 3],
            "group": [1, 2, 1, 1, 1, 1, 2],
            "concept": ["dog", "sky", "dog", "dog", "bus", "bus", "car"],
            "image": ["10", "20", "11", "12", "30", "31", "40"],
        }
    )
    figure = image_groups(rows.assign(**ABOUT), grey)
    title, *lines = [text.get_text() for text in figure.texts if text.get_text()]
    assert "layer4" in title
    assert lines == ["4: dog", "sky", "9: bus", "car"]
    drawn = [greys(axes, 3) for axes in figure.axes]
    assert drawn == [[10, 11, 12], [20, 255, 255], [30, 31, 255], [40, 255, 255]]
