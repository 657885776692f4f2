from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from concept_monitor_cli.monitor.history import category_order, histories, natural


def test_arrays_hold_what_the_table_says(random_table: pd.DataFrame) -> None:
    shuffled = random_table.sample(frac=1, random_state=0)
    (history,) = histories(shuffled)
    assert history.epochs.tolist() == [0, 1, 5, 10, 20]
    assert history.checkpoints == ("e0.pth", "e1.pth", "e5.pth", "e10.pth", "e20.pth")
    for row in random_table.itertuples():
        unit, column = int(row.unit), history.epochs.tolist().index(row.epoch)
        code = history.labels[unit, column]
        assert (code == -1) == (row.state == "dead")
        if code >= 0:
            assert history.names[code] == (row.concept, row.category)
            assert history.scores[unit, column] == row.score
        assert history.interpretable[unit, column] == row.interpretable


def test_a_dead_time_is_passed_over(concept_table: Callable[..., pd.DataFrame]) -> None:
    a, b = ("a", "", 1.0, True), ("b", "", 1.0, True)
    table = concept_table({0: [a, a, None], 1: [None, None, a], 2: [a, b, b], 3: [b, b, None]})
    (history,) = histories(table)
    assert history.previous.tolist() == [[-1, 0, 0, 2], [-1, 0, 0, 2], [-1, -1, 1, 2]]
    expected = [[False, False, False, True], [False, False, True, False], [False, False, True, False]]
    np.testing.assert_array_equal(history.changed, expected)


def test_layers_and_categories_in_the_order_of_readers(concept_table: Callable[..., pd.DataFrame]) -> None:
    unit = [("a", "", 1.0, True)]
    parts = [concept_table({0: unit}, layer=layer) for layer in ("layer10", "conv", "layer9")]
    assert [h.layer for h in histories(pd.concat(parts))] == ["conv", "layer9", "layer10"]
    assert sorted(["b10", "b9", "a"], key=natural) == ["a", "b9", "b10"]
    assert category_order(["scene", "", "zoo", "color", "art"]) == [
        *("color", "scene", "art", "zoo", "uncategorised")
    ]


def test_a_live_unit_that_meets_no_label_has_no_concept(concept_table: Callable[..., pd.DataFrame]) -> None:
    told = {
        0: [("dog", "object", 0.5, True)],
        1: [("", "", float("nan"), False)],
        2: [("dog", "object", 0.5, True)],
    }
    table = concept_table(told)
    assert (table["state"] == "live").all()
    (history,) = histories(table)
    assert history.labels.tolist() == [[0, -1, 0]]
    assert history.live.tolist() == [[True, False, True]]
    assert not history.changed.any()
    assert [name.concept for name in history.names] == ["dog"]


def test_units_are_ranked_by_effect_and_by_score_where_there_is_none(
    concept_table: Callable[..., pd.DataFrame],
) -> None:
    table = concept_table({0: [("a", "", 0.9, True), ("b", "", 0.9, True), None]})
    (plain,) = histories(table.drop(columns="effect"))
    assert plain.certainty(0)[:2].tolist() == pytest.approx([0.9, 0.9])
    (ranked,) = histories(table.assign(effect=[2.0, 7.0, float("nan")]))
    assert ranked.certainty(0).tolist() == [2.0, 7.0, float("-inf")]
