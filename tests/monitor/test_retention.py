from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.monitor.history import histories
from concept_monitor_cli.monitor.retention import retention_curve, stage_counts


def test_curve_by_hand(concept_table: Callable[..., pd.DataFrame]) -> None:
    def unit(name: str, score: float = 0.0, sure: bool = True) -> tuple[str, str, float, bool]:
        return name, "", score, sure

    told = {
        # By score: 2 (kept), 0 (changes in between), 3 (dies), 4 (kept, level with 3, higher number)
        0: [unit("a", 3.0), None, unit("b", 9.0), unit("c", 1.0), unit("d", 1.0, False)],
        1: [unit("x"), unit("a"), unit("b"), None, unit("d")],
        2: [unit("a"), unit("a"), unit("b"), unit("c"), unit("d", sure=False)],
    }
    (history,) = histories(concept_table(told))
    curve = retention_curve(history, (1, 25, 50, 75, 100))
    assert curve[["units", "kept"]].to_numpy().tolist() == [[1, 1], [1, 1], [2, 1], [3, 1], [4, 2]]
    assert curve["retention"].tolist() == pytest.approx([1, 1, 0.5, 1 / 3, 0.5])
    # Of five units two are called a at both stages, one b; then c none and one; and d, once and once.
    lucky = np.cumsum([1 / 25, 1 / 5 * 2 / 5, 0, 1 / 25])
    assert curve["by_chance"].tolist() == pytest.approx(
        [lucky[0], lucky[0], lucky[1] / 2, lucky[2] / 3, lucky[3] / 4]
    )
    stages = stage_counts(history, (0.0, None, 0.64))
    assert stages["units"].tolist() == [4, 4, 5]
    assert stages["interpretable"].tolist() == [3, 4, 4]
    assert np.isnan(stages["sparsity"][1])
    assert stages["accuracy"].isna().all()
    told_too = stage_counts(history, (0.0, 0.4, 0.64), (0.9, None, 0.5))["accuracy"]
    assert told_too.tolist() == pytest.approx([0.9, np.nan, 0.5], nan_ok=True)


def test_curve_equals_its_literal_twin(random_table: pd.DataFrame) -> None:
    (history,) = histories(random_table)
    first = random_table[random_table["rank"] == 1]
    stages: dict[int, list[tuple[str, str]]] = {}
    start: list[tuple[float, int]] = []
    for row in first.sort_values("epoch").itertuples():
        stages.setdefault(int(row.unit), []).append((row.concept, row.category))
        if row.epoch == 0 and row.state == "live":
            start.append((-row.score, int(row.unit)))
    ranked = [unit for _, unit in sorted(start)]
    curve = retention_curve(history)
    assert len(curve) == 20
    for row in curve.itertuples():
        best = ranked[: max(1, math.ceil(row.percent * len(ranked) / 100))]
        kept = sum(len(set(stages[unit])) == 1 for unit in best)
        assert (row.units, row.kept) == (len(best), kept)


def test_chance_is_the_mean_over_all_ways_to_deal_out_the_labels(
    concept_table: Callable[..., pd.DataFrame],
) -> None:
    told = {
        0: [(name, "", score, True) for name, score in zip("aabc", (4.0, 3.0, 2.0, 1.0), strict=True)],
        1: [("a", "", 1.0, True), ("b", "", 1.0, True), ("a", "", 1.0, True), None],
        2: [("c", "", 1.0, True), ("a", "", 1.0, True), ("a", "", 1.0, True), ("b", "", 1.0, True)],
    }
    (history,) = histories(concept_table(told))
    labels, share = history.labels, []
    for second in itertools.permutations(labels[:, 1]):
        for third in itertools.permutations(labels[:, 2]):
            same = [a == b == c for a, b, c in zip(labels[:, 0], second, third, strict=True)]
            share.append([np.mean(same[:2]), np.mean(same)])
    curve = retention_curve(history, (50, 100))
    np.testing.assert_allclose(curve["by_chance"], np.mean(share, axis=0))


def test_one_stage_is_no_pruning(concept_table: Callable[..., pd.DataFrame]) -> None:
    (history,) = histories(concept_table({0: [("a", "", 1.0, True)]}))
    with pytest.raises(InputError, match="two stages"):
        retention_curve(history)
    (history,) = histories(concept_table({0: [None], 1: [None]}))
    assert np.isnan(retention_curve(history)["retention"]).all()
    with pytest.raises(InputError, match="percentage"):
        retention_curve(history, (0,))
