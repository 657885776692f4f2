from __future__ import annotations

from pathlib import Path

import numpy as np

from concept_monitor_cli.report.atlas_figures import Region, atlas_map
from concept_monitor_cli.report.explanation_figures import GridGroup, activation_grid, mosaic
from concept_monitor_cli.report.style import save


def _tile(value: int) -> np.ndarray:
    return np.full((4, 4, 3), value, dtype=np.uint8)


def test_a_map_shows_the_part_that_has_cells_with_their_numbers(tmp_path: Path) -> None:
    cells = [(10, 1), (11, 4), (10, 3)]
    regions = [Region(x, y, 9, f"word {x}", "dog", _tile(9), _tile(99)) for x, y in cells]
    figure = atlas_map(regions, 14, title="layer3, epoch 2")
    for axes in figure.axes:
        assert (axes.get_xlim(), axes.get_ylim()) == ((10, 12), (1, 5))
        assert [text.get_text() for text in axes.get_xticklabels()] == ["10", "11"]
        assert [text.get_text() for text in axes.get_yticklabels()] == ["1", "2", "3", "4"]
        assert len(axes.images) == 3
        assert {text.get_text() for text in axes.texts} == {"word 10\ndog", "word 11\ndog"}
    assert figure.axes[0].images[0].get_extent()[0] > 10  # in the units of the map
    save(figure, tmp_path / "map")


def test_pictures_of_places_stand_in_their_order(tmp_path: Path) -> None:
    tiles = [_tile(10 * number) for number in range(6)]
    found = mosaic(tiles, (2, 3))
    assert found.shape == (8, 12, 3)
    for row in range(2):
        for column in range(3):
            assert (
                found[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] == 10 * (3 * row + column)
            ).all()
    groups = [GridGroup(f"group {k}", _tile(k), np.array([[0.0, k], [1, 0]])) for k in range(3)]
    figure = activation_grid(_tile(7), tiles, (2, 3), groups, title="dog.png: layer4, epoch 3")
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[2:] == ["group 0", "where it is", "group 1", "where it is", "group 2", "where it is"]
    # One scale for all groups.
    assert {axes.images[0].get_clim() for axes in figure.axes[3::2]} == {(0, 2.0)}
    save(figure, tmp_path / "grid")
