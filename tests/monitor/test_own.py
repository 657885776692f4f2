"""Labels that change because of others, against histories whose answers are plain."""

from __future__ import annotations

import numpy as np

from concept_monitor_cli.monitor.history import History, Label
from concept_monitor_cli.monitor.own import own_changes


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

    def similarity(one: int, other: int) -> np.ndarray:
        return np.cos(np.array(speeds) * abs(other - one))

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
    own = own_changes(history([[0, 1]]), lambda one, other: np.array([np.nan]))
    assert own.history.labels.tolist() == [[0, 1]]
