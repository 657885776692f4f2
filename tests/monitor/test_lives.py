from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from concept_monitor_cli.monitor import lives as lives_of
from concept_monitor_cli.monitor.history import histories
from concept_monitor_cli.monitor.lives import unit_lives
from concept_monitor_cli.run import TABLES
from concept_monitor_cli.space import concept_words, unit_vectors


def _a(sure: bool = True) -> tuple[str, str, float, bool]:
    return "a", "x", 1.0, sure


def _b(sure: bool = True) -> tuple[str, str, float, bool]:
    return "b", "x", 1.0, sure


def test_known_histories(concept_table: Callable[..., pd.DataFrame]) -> None:
    #       switches  stays      returns    revived    dies       flickers   other category
    told = {
        0: [_a(), _a(False), _a(), _a(), _a(), _a(), ("a", "y", 1.0, False)],
        3: [_b(), _a(False), _b(), None, _a(), _b(False), ("a", "x", 1.0, False)],
        5: [_b(), _a(False), _a(), _a(), None, _a(True), ("a", "x", 1.0, True)],
        9: [_b(), _a(False), _a(False), _b(), None, _b(False), ("a", "x", 1.0, True)],
    }
    (history,) = histories(concept_table(told))
    lives = TABLES["units"].frame(unit_lives(history))
    columns = ["final_concept", "first_epoch", "stable_from", "changes", "born", "died"]
    rows = lives[columns].astype(object).where(lives[columns].notna(), None).to_numpy().tolist()
    assert rows == [
        ["b", 3, 3, 1, 0, None],
        ["a", 0, 0, 0, None, None],
        ["a", 0, 5, 2, 0, 9],
        ["b", 9, 9, 1, 0, None],
        ["", None, None, 0, 0, 5],
        ["b", 3, 9, 3, 0, 9],
        ["a", 3, 3, 1, 5, None],
    ]
    assert lives["confident_changes"].isna().all()
    assert lives["drift"].isna().all()


def twin(history_of: dict[int, list[tuple[int, str, str, bool, bool]]]) -> dict[int, tuple]:
    """units.csv again, unit by unit: unit -> [(epoch, concept, category, interpretable, live)]."""
    result = {}
    for unit, moments in history_of.items():
        live = [(epoch, concept, category) for epoch, concept, category, _, alive in moments if alive]
        changes = sum(a[1:] != b[1:] for a, b in itertools.pairwise(live))
        sure = [epoch for epoch, _, _, interpretable, _ in moments if interpretable]
        epochs = [moment[0] for moment in moments]
        born = sure[0] if sure else None
        died = None
        if sure and sure[-1] != epochs[-1]:
            died = epochs[epochs.index(sure[-1]) + 1]
        first = stable = None
        final = ("", "")
        if moments[-1][4]:
            final = moments[-1][1:3]
            first = next(epoch for epoch, *label in live if tuple(label) == final)
            stable = live[-1][0]
            for epoch, *label in reversed(live):
                if tuple(label) != final:
                    break
                stable = epoch
        result[unit] = (*final, first, stable, changes, born, died)
    return result


@pytest.mark.parametrize("block", [2, 256])
def test_lives_equal_their_literal_twin(
    random_table: pd.DataFrame, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lives_of, "_UNITS", block)
    moments: dict[int, list[tuple[int, str, str, bool, bool]]] = {}
    for row in random_table.itertuples():
        said = (int(row.epoch), row.concept, row.category, bool(row.interpretable), row.state == "live")
        moments.setdefault(int(row.unit), []).append(said)
    expected = twin(moments)
    (history,) = histories(random_table)
    words = concept_words(random_table)
    embeddings = np.random.default_rng(0).normal(size=(len(words), 4)).astype(np.float32)
    placed = unit_vectors(random_table, words, embeddings)
    lives = TABLES["units"].frame(unit_lives(history, placed))
    for row in lives.itertuples():
        numbers = (row.first_epoch, row.stable_from, row.changes, row.born, row.died)
        found = tuple(None if value is pd.NA else int(value) for value in numbers)
        assert (row.final_concept, row.final_category, *found) == expected[row.unit]
        ways = [placed.vectors[i] for i in np.flatnonzero(placed.units["unit"] == row.unit)]
        steps = [1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in itertools.pairwise(ways)]
        ends = 1 - ways[0] @ ways[-1] / np.linalg.norm(ways[0]) / np.linalg.norm(ways[-1])
        assert row.path_length == pytest.approx(sum(steps), abs=1e-5)
        assert row.drift == pytest.approx(ends, abs=1e-5)


def test_a_unit_that_does_not_move_has_no_drift_at_all(concept_table: Callable[..., pd.DataFrame]) -> None:
    table = concept_table({0: [_a(), None, None], 1: [_a(), _a(), None]})
    (history,) = histories(table)
    placed = unit_vectors(table, ["a"], np.array([[0.3, 0.1, 0.7]], dtype=np.float32))
    lives = unit_lives(history, placed)
    assert lives["drift"].tolist()[:2] == [0.0, 0.0]
    assert lives["path_length"].tolist()[:2] == [0.0, 0.0]
    assert np.isnan(lives["drift"][2])
