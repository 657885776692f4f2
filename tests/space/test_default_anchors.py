"""Anchors for runs whose user names none."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.space import default_anchors, parse_anchors


def table(concepts: dict[str, list[float]], *, effect: bool = True) -> pd.DataFrame:
    rows = [(concept, value) for concept, values in concepts.items() for value in values]
    frame = pd.DataFrame(rows, columns=["concept", "effect"])
    frame = frame.assign(rank=1, epoch=3, state="live", interpretable=True, unit=range(len(rows)))
    return frame if effect else frame.drop(columns="effect")


def test_common_concepts_of_high_effect() -> None:
    found = table({"dog": [3.0, 3.0], "sky": [1.0, 1.0, 1.0], "sea": [5.5], "lfleg_2": [9.0, 9.0]})
    assert default_anchors(found, 8) == ("dog", "sea", "sky")
    assert default_anchors(found, 1) == ("dog",)


def test_without_effects_units_are_counted() -> None:
    found = table({"dog": [0.0], "sky": [0.0] * 3, "(dog OR sky)": [0.0] * 9, "12": [0.0] * 9}, effect=False)
    assert default_anchors(found, 8) == ("sky", "dog")


def test_formulas_where_there_is_nothing_else_and_units_that_are_no_luck_first() -> None:
    assert default_anchors(table({"(dog AND sky)": [1.0]}), 8) == ("(dog AND sky)",)
    found = table({"dog": [1.0], "sky": [8.0]})
    found["interpretable"] = found["concept"] == "dog"
    assert default_anchors(found, 8) == ("dog",)
    found.loc[found["concept"] == "dog", "epoch"] = 2
    assert default_anchors(found.assign(interpretable=False), 8) == ("sky",)


def test_a_file_of_anchors_is_read_as_word_lists_are(tmp_path: Path) -> None:
    path = tmp_path / "anchors.txt"
    path.write_text("# mine\n1. dog\n2. stop_sign\n")
    assert parse_anchors([str(path), "sky"]) == ("dog", "stop sign", "sky")
    path.write_text("<b>dog</b>\n")
    with pytest.raises(InputError, match="line 1 is no concept"):
        parse_anchors([str(path)])
