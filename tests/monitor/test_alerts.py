"""Warnings over a training, against series whose answers are plain."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from concept_monitor_cli.functional.redundancy import redundancy
from concept_monitor_cli.monitor.alerts import Rules, _risen, alerts


def training(**series: list[float]) -> pd.DataFrame:
    length = len(next(iter(series.values())))
    calm = {
        "effective_units": [50],
        "effective_units_chance": [80],
        "redundant": [0.0],
        "spread": [0.5],
        "distinct_concepts": [40],
        "dead": [0],
        "interpretable": [50],
        "units": [100],
    }
    columns = {name: series.get(name, value * length) for name, value in calm.items()}
    frame = pd.DataFrame({"epoch": [5 * place for place in range(length)], **columns})
    return frame.assign(layer="layer4", detector="clip-dissect", category="all")


def said(frame: pd.DataFrame, **rules: float) -> list[tuple[str, int]]:
    return [(alert.rule, alert.epoch) for alert in alerts(frame, Rules(**rules))]  # type: ignore[arg-type]


def test_a_calm_training_warns_of_nothing() -> None:
    assert said(training(effective_units=[50, 51, 49, 50], redundant=[0.0, 0.1, 0.05, 0.1])) == []


@pytest.mark.parametrize(
    ("series", "expected"),
    [
        ({"effective_units": [50, 60, 52, 50, 30]}, [("clumping", 15)]),
        ({"redundant": [0.3, 0.1, 0.29, 0.31, 0.4]}, [("collapsing", 15)]),
        # Not what the labels say: they grow more different while units grow alike.
        ({"spread": [0.5, 0.1], "distinct_concepts": [40, 1]}, []),
        # Half of the units die, the others are as different as before.
        ({"effective_units": [50, 25], "effective_units_chance": [80, 40], "dead": [0, 50]}, [("dying", 5)]),
        ({"dead": [0, 4, 5, 9]}, [("dying", 10)]),
        ({"interpretable": [50, 60, 55, 54, 53, 52]}, [("fading", 20)]),
    ],
)
def test_each_rule_speaks_once_when_it_begins_to_hold(series, expected) -> None:
    assert said(training(**series)) == expected


def test_a_rule_speaks_again_after_it_was_over() -> None:
    assert said(training(effective_units=[50, 30, 50, 30])) == [("clumping", 5), ("clumping", 15)]


def test_thresholds_can_be_set() -> None:
    frame = training(interpretable=[50, 49, 48], effective_units=[50, 45, 45])
    assert said(frame) == []
    assert said(frame, patience=2, effective_drop=0.1) == [("clumping", 5), ("fading", 10)]


def test_missing_numbers_are_no_fall() -> None:
    nan = float("nan")
    assert said(training(effective_units=[nan, 50, nan, 50], redundant=[nan, 0.5, nan, 0.5])) == []
    # As in a table of an earlier version.
    assert said(training(effective_units=[nan] * 3, redundant=[nan] * 3)) == []


def planted(share: float, *, noise: float, seed: int = 0) -> torch.Tensor:
    """Units that follow one of 100 related signals each; a share of them follows the first."""
    generator = torch.Generator().manual_seed(seed)
    signals = torch.randn(400, 24, generator=generator) @ torch.randn(24, 100, generator=generator)
    signals = (signals - signals.mean(0)) / signals.std(0)
    which = torch.randint(1, 100, (120,), generator=generator)
    which[: round(share * 120)] = 0
    return 2 * signals[:, which] + noise * torch.randn(400, 120, generator=generator)


@pytest.mark.parametrize("noise", [0.3, 1.0])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5, 0.75, 1.0])
def test_a_planted_collapse_is_seen_from_a_quarter_of_the_units_on(share: float, noise: float) -> None:
    layers = [redundancy(planted(0.0, noise=noise)), redundancy(planted(share, noise=noise))]
    columns = ("effective", "effective_chance", "redundant")
    effective, chance, redundant = ([getattr(layer, name) for layer in layers] for name in columns)
    frame = training(effective_units=effective, effective_units_chance=chance, redundant=redundant)
    found = alerts(frame, Rules(), relative=set(frame["detector"]))
    assert bool(found) == (share >= 0.25)
    assert all("soft-wpmi" in alert.message and "cos-cubed" in alert.message for alert in found)
    if share:
        assert effective[1] < effective[0]


def test_training_between_random_layers_and_new_noise_is_no_collapse() -> None:
    layers = [redundancy(planted(0.0, noise=1.0, seed=seed)) for seed in range(8)]
    frame = training(
        effective_units=[layer.effective for layer in layers],
        effective_units_chance=[layer.effective_chance for layer in layers],
        redundant=[layer.redundant for layer in layers],
    )
    assert alerts(frame, Rules()) == []


def test_a_share_that_rises_by_exactly_so_much_is_said() -> None:
    """0.15 is 0.05 above 0.1, whatever their last digits say."""
    for of in (20, 100, 1000):
        for low in range(of - of // 20 + 1):
            series = [low / of, (low + of // 20) / of]
            assert _risen(series, 0.05)[1][0], series
            assert not _risen([series[0], series[1] - 1e-6], 0.05)[1][0]
