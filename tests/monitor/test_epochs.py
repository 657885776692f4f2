from __future__ import annotations

import pytest

from concept_monitor_cli.monitor.epochs import LARGE, affordable, evenly


def test_evenly_keeps_first_and_last() -> None:
    assert evenly([3, 4, 5], 5) == [3, 4, 5]
    assert evenly(list(range(11)), 3) == [0, 5, 10]
    assert evenly([7, 9], 2) == [7, 9]


@pytest.mark.parametrize(
    ("units", "named", "places"), [(LARGE, False, 9), (LARGE + 1, True, 9), (LARGE + 1, False, 3)]
)
def test_of_large_layers_a_few_epochs_are_looked_at_unless_they_were_named(
    units: int, named: bool, places: int
) -> None:
    chosen = affordable(9, units, named=named)
    assert (chosen[0], chosen[-1], len(chosen)) == (0, 8, places)
    assert affordable(2, units, named=named) == [0, 1]
