"""Figures of ablations on values that are known."""

from __future__ import annotations

import pandas as pd

from concept_monitor_cli.report.ablation_figures import gap_bars


def test_gaps_stand_beside_what_random_units_leave() -> None:
    about = {"epoch": 3, "layer": "layer4", "set": "concept", "concept": "patch", "units": 5}
    before = {"accuracy_with_before": 0.2, "accuracy_without_before": 0.6, "gap_before": 0.4}
    after = {"accuracy_with": 0.5, "accuracy_without": 0.6, "gap": 0.1, "gap_control": 0.37}
    both = [{"kind": "zero"}, {"kind": "mean", "accuracy_with": 0.25, "gap": 0.35}]
    table = pd.DataFrame([{"class": "all", **about, **before, **after, **each} for each in both])
    other = table.assign(**{"class": "dog"})
    (axes,) = gap_bars(pd.concat([table, other])).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "before",
        "patch (5), zero",
        "patch (5), mean",
    ]
    assert [text.get_text() for text in axes.texts] == [
        "gap 0.40",
        "gap 0.10, random units 0.37",
        "gap 0.35, random units 0.37",
    ]
    assert [line.get_xdata().tolist() for line in axes.lines] == [[0.2, 0.6], [0.5, 0.6], [0.25, 0.6]]
