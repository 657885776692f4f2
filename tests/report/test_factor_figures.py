"""Figures of factors on values that are known."""

from __future__ import annotations

import numpy as np

from concept_monitor_cli.report.factor_figures import FactorLook, neighbour_bars


def _look(factor: int, neighbours: list[int] | None, chance: list[float] | None) -> FactorLook:
    return FactorLook(
        factor=factor,
        images=(),
        classes=(),
        superclasses=(),
        concept="",
        purity=np.nan,
        chance_purity=np.nan,
        picture=None,
        neighbours=None if neighbours is None else np.array(neighbours),
        chance_neighbours=None if chance is None else np.array(chance),
    )


def test_neighbours_stand_beside_those_of_chance() -> None:
    figure = neighbour_bars([_look(0, [9, 1], [6.5, 3.5]), _look(1, None, None)])
    first, second = figure.axes
    assert [bar.get_height() for bar in first.patches] == [9, 1]
    (chance,) = first.collections
    assert [line[0, 1] for line in chance.get_segments()] == [6.5, 3.5]  # type: ignore[attr-defined]
    assert not second.collections
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["by chance"]
