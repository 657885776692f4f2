"""Warnings over a training, against series whose answers are plain."""

from __future__ import annotations

import pandas as pd
import pytest

from concept_monitor_cli.monitor.alerts import Rules, alerts


def training(**series: list[float]) -> pd.DataFrame:
    length = len(next(iter(series.values())))
    calm = {"spread": [0.5], "distinct_concepts": [40], "dead": [0], "interpretable": [50], "units": [100]}
    columns = {name: series.get(name, value * length) for name, value in calm.items()}
    frame = pd.DataFrame({"epoch": [5 * place for place in range(length)], **columns})
    return frame.assign(layer="layer4", detector="clip-dissect", category="all")


def said(frame: pd.DataFrame, **rules: float) -> list[tuple[str, int]]:
    return [(alert.rule, alert.epoch) for alert in alerts(frame, Rules(**rules))]  # type: ignore[arg-type]


def test_a_calm_training_warns_of_nothing() -> None:
    assert said(training(spread=[0.5, 0.51, 0.49, 0.5])) == []


@pytest.mark.parametrize(
    ("series", "expected"),
    [
        ({"spread": [0.5, 0.6, 0.49, 0.48, 0.3]}, [("clumping", 15)]),
        ({"distinct_concepts": [10, 40, 31, 30, 29]}, [("collapsing", 15)]),
        ({"dead": [0, 4, 5, 9]}, [("dying", 10)]),
        ({"interpretable": [50, 60, 55, 54, 53, 52]}, [("fading", 20)]),
    ],
)
def test_each_rule_speaks_once_when_it_begins_to_hold(series, expected) -> None:
    assert said(training(**series)) == expected


def test_a_rule_speaks_again_after_it_was_over() -> None:
    assert said(training(spread=[0.5, 0.3, 0.5, 0.3])) == [("clumping", 5), ("clumping", 15)]


def test_thresholds_can_be_set() -> None:
    frame = training(interpretable=[50, 49, 48], spread=[0.5, 0.45, 0.45])
    assert said(frame) == []
    assert said(frame, patience=2, spread_drop=0.1) == [("clumping", 5), ("fading", 10)]


def test_missing_numbers_are_no_fall() -> None:
    assert said(training(spread=[float("nan"), 0.5, float("nan"), 0.5])) == []
