from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from concept_monitor_cli.report.style import save
from concept_monitor_cli.report.unit_figures import (
    Look,
    class_examples,
    class_table,
    strip,
    thumbnail,
    top_units_over_epochs,
    unit_over_epochs,
)


def _image(height: int, width: int, value: int) -> np.ndarray:
    return np.full((height, width, 3), value, dtype=np.uint8)


def _look(epoch: int, unit: int = 7, images: int = 3, **changes: object) -> Look:
    fields: dict[str, object] = {
        "epoch": epoch,
        "unit": unit,
        "concepts": ("striped", "grid"),
        "category": "texture",
        "score": 1.0,
        "interpretable": True,
        "images": [_image(30, 40, 10 * i) for i in range(images)],
    }
    return Look(**{**fields, **changes})  # type: ignore[arg-type]


def test_a_thumbnail_shows_the_whole_image_with_its_proportions() -> None:
    square = thumbnail(_image(20, 40, 100), side=80)
    assert square.shape == (80, 80, 3)
    assert (square[20:60] == 100).all()
    assert (square[:20] == 255).all()
    assert (square[60:] == 255).all()


def test_a_mask_is_outlined_and_what_lies_outside_is_dimmed() -> None:
    mask = np.zeros((4, 4), dtype=bool)
    mask[:2, :2] = True  # of another size than the image: it covers the whole of it
    square = thumbnail(_image(80, 80, 100), mask, side=80)
    assert (square[20, 20] == 100).all()
    assert (square[60, 60] == 45).all()
    assert square[39, 20].tolist() == [255, 230, 0]
    assert (thumbnail(_image(8, 8, 9), np.zeros((2, 2), dtype=bool), side=8) == 9).all()


def test_a_strip_has_room_for_missing_images() -> None:
    row = strip(_look(0, images=1), 3)
    assert row.shape[1] > 3 * 112
    assert (row[:, 120:] == 255).all()
    assert (row[40:60, 10:100] == 0).all()


def test_pictures_can_be_drawn_and_name_the_concepts(tmp_path: Path) -> None:
    dead = _look(2, concepts=(), category="", interpretable=False, images=0)
    unsure = _look(1, interpretable=False)
    figure = unit_over_epochs([_look(0), unsure, dead], layer="layer4", unit=7)
    texts = {text.get_text() for text in figure.texts}
    assert {
        "epoch 0",
        "striped",
        "dead: no concept",
        "texture 1",
        "not beyond chance",
        "then grid",
        "Unit 7 of layer4",
    } <= texts
    (path,) = save(figure, tmp_path / "unit")
    # Equal figures give equal bytes.
    before = path.read_bytes()
    save(unit_over_epochs([_look(0), unsure, dead], layer="layer4", unit=7), tmp_path / "unit")
    assert path.read_bytes() == before
    figure = top_units_over_epochs({0: [], 9: [_look(9), _look(9, unit=12)]}, layer="layer4")
    titles = {axes.get_title(loc="left") for axes in figure.axes}
    assert {"7: striped  1", "12: striped  1"} <= titles
    save(figure, tmp_path / "top", ["png", "svg", "pdf"])


def test_no_line_runs_over_the_images() -> None:
    names: dict[str, object] = {"concepts": ("mountain bike tires",), "category": "no category of these"}
    figure = unit_over_epochs(
        [_look(0, **names), _look(1, interpretable=False, **names)], layer="layer4", unit=7
    )
    figure.canvas.draw()
    images = min(axes.get_window_extent().x0 for axes in figure.axes)
    lines = [text for text in figure.texts if text.get_text() != "Unit 7 of layer4"]
    assert len(lines) == 9
    assert max(text.get_window_extent().x1 for text in lines) < images


def test_a_long_formula_takes_two_lines() -> None:
    formula = "(refrigerator OR traffic light) AND NOT swimming pool AND NOT basketball court indoors"
    figure = unit_over_epochs([_look(0, concepts=(formula,))], layer="layer4", unit=7)
    texts = [text.get_text() for text in figure.texts]
    assert texts[1:3] == ["(refrigerator OR traffic", "light) AND NOT swimming pool …"]


def test_classes(tmp_path: Path) -> None:
    rows = pd.DataFrame(
        {
            "epoch": [0, 5, 0, 5],
            "layer": "layer4",
            "class": ["car", "car", "horse", "horse"],
            "units": [1, 17, 0, 13],
        }
    )
    figure = class_table({"standard": rows, "robust": rows[rows["epoch"] == 5]})
    first, second = figure.axes
    assert [text.get_text() for text in first.texts] == ["1", "17", "0", "13"]
    assert [text.get_text() for text in second.texts] == ["17", "13"]
    assert second.get_title() == "robust: layer4"
    figure = class_examples({"standard": {"car": _look(5)}, "robust": {"car": None}})
    assert next(text.get_text() for text in figure.axes[1].texts) == "no unit for car"
    save(figure, tmp_path / "examples")


def test_what_was_made_of_a_unit_stands_first_and_framed(tmp_path: Path) -> None:
    picture = np.full((16, 16, 3), 200, dtype=np.uint8)
    row = strip(_look(0, images=2, picture=picture), 3, pictured=True)
    assert row[60, 1].tolist() == [0, 114, 178]
    assert (row[20:90, 20:90] == 200).all()
    # Photos follow in their order; a unit without a picture leaves its place free.
    assert (row[40:60, 130:200] == 0).all()
    assert (row[40:60, 250:320] == 10).all()
    assert (strip(_look(0, images=1), 2, pictured=True)[:, :112] == 255).all()
    without = unit_over_epochs([_look(0), _look(3)], layer="layer4", unit=7)
    figure = unit_over_epochs([_look(0, picture=picture), _look(3)], layer="layer4", unit=7)
    note = "framed in blue: made, no photo"
    assert note in {text.get_text() for text in figure.texts}
    assert note not in {text.get_text() for text in without.texts}
    assert figure.get_figwidth() > without.get_figwidth()
    figure = top_units_over_epochs({9: [_look(9, picture=picture), _look(9, unit=12)]}, layer="layer4")
    assert note in " ".join((figure.get_suptitle() or "").split())
    save(figure, tmp_path / "top")
