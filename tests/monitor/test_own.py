"""Labels that change because of others, against histories whose answers are plain."""

from __future__ import annotations

import numpy as np

from concept_monitor_cli.monitor.history import History, Label
from concept_monitor_cli.monitor.own import Own, own_changes


def history(labels: list[list[int]]) -> History:
    array = np.array(labels)
    epochs = np.arange(array.shape[1])
    names = tuple(Label(name, "") for name in "abc")
    scores = np.zeros(array.shape)
    return History(
        "l", "d", epochs, tuple("x" * len(epochs)), np.arange(len(array)), names, array, scores, array >= 0
    )


def drifting(*speeds: float):
    """Units whose activations turn away from where they began, by so much per epoch."""

    def similarity(one: int, other: int, rows: np.ndarray) -> np.ndarray:
        return np.cos(np.array(speeds) * abs(other - one))[rows]

    return similarity


def test_labels_of_units_that_stay_the_same_are_not_their_own() -> None:
    own = own_changes(history([[0, 0, 1, 2], [0, 0, 1, 1]]), drifting(0.0, 1.0))
    assert own.history.labels.tolist() == [[0, 0, 0, 0], [0, 0, 1, 1]]
    assert own.history.changed.sum(axis=1).tolist() == [0, 1]
    assert np.isnan(own.self_similarity[:, 0]).all()
    assert own.self_similarity[0, 1:].tolist() == [1.0, 1.0, 1.0]
    assert own.since_first[0] == 1.0


def test_a_slow_change_counts_once_it_has_gone_far_enough() -> None:
    # A step turns the unit by 0.02 (r = 0.9998), three of them by 0.06 (r = 0.998).
    own = own_changes(history([[0, 1, 1, 1, 1]]), drifting(0.02))
    assert own.history.labels.tolist() == [[0, 0, 0, 1, 1]]


def test_epochs_at_which_a_unit_has_no_concept_are_passed_over() -> None:
    own = own_changes(history([[-1, 0, -1, 1], [-1, -1, -1, -1]]), drifting(0.0, 0.0))
    assert own.history.labels.tolist() == [[-1, 0, -1, 0], [-1, -1, -1, -1]]
    assert np.isnan(own.since_first[1])


def test_without_a_known_similarity_a_change_counts() -> None:
    own = own_changes(history([[0, 1]]), lambda one, other, rows: np.full(len(rows), np.nan))
    assert own.history.labels.tolist() == [[0, 1]]


def test_units_in_blocks_give_what_they_give_together() -> None:
    rng = np.random.default_rng(0)
    whole = history(rng.integers(-1, 3, (20, 6)).tolist())
    speeds = rng.uniform(0, 0.05, 20)
    expected = own_changes(whole, drifting(*speeds))
    blocks = [slice(0, 7), slice(7, 8), slice(8, 20)]
    found = Own.together([own_changes(whole.part(b), drifting(*speeds[b])) for b in blocks], whole)
    assert (expected.history.labels != whole.labels).any()
    np.testing.assert_array_equal(found.history.labels, expected.history.labels)
    np.testing.assert_array_equal(found.self_similarity, expected.self_similarity)
    np.testing.assert_array_equal(found.since_first, expected.since_first)
    np.testing.assert_array_equal(found.history.units, whole.units)
