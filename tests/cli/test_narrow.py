"""Tables on a terminal of 80 columns: no number is left out."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from concept_monitor_cli.cli import show_run, stats
from concept_monitor_cli.monitor.summary import LayerSummary


def lines(table: object, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    printed: str = console.file.getvalue()  # type: ignore[attr-defined]
    found = printed.splitlines()
    assert max(map(len, found)) <= width
    return [line.strip() for line in found if line.strip()]


@pytest.mark.parametrize("concept", ["glass", "(leg AND NOT table) OR cactus"])
@pytest.mark.parametrize("width", [80, 60])
def test_long_formulas_give_way_to_numbers(concept: str, width: int) -> None:
    best = tuple((unit, concept, 0.1) for unit in (58, 30, 20))
    epoch = LayerSummary(3, "epoch_03.pth", "layer3", "compositional", 64, 0, 56, 42, 12, best)
    *_, heading, rule, row = lines(show_run._layer_table([epoch]), width)
    assert set(rule) == {"─"}  # the row is cut, not folded
    assert heading.split()[:4] == ["epoch", "interpretable", "concepts", "relabelled"]
    assert row.split()[:5] == ["3", "56,", "88%", "42", "12"]
    assert row.split()[5] == "58"


def test_luck_and_random_weights_stand_beside_what_is_named() -> None:
    best = ((58, "glass", 0.1),)
    epoch = LayerSummary(
        3,
        "epoch_03.pth",
        "layer3",
        "clip-dissect",
        64,
        0,
        56,
        42,
        12,
        best,
        interpretable_by_luck=3,
        random=(48, 9),
    )
    *_, row, random = lines(show_run._layer_table([epoch]), 80)
    assert row.split()[:6] == ["3", "56,", "88%", "(3)", "42", "12"]
    assert random.split() == ["random", "48,", "75%", "9", "(random", "weights)"]


def test_all_categories_of_broden_fit() -> None:
    categories = ["all", "color", "texture", "material", "part", "object", "scene"]
    rows = [
        {
            "epoch": 3,
            "category": category,
            "units": 64,
            "interpretable": 12,
            "distinct_concepts": 10,
            "spread": 0.901,
            "effective_units": 31.4,
        }
        for category in categories
    ]
    _, heading, _, row = lines(stats._table("layer3", "clip-dissect", rows, 80))
    assert heading.split() == ["epoch", *categories, "concepts", "effective", "spread"]
    assert row.split() == ["3", *["12"] * 7, "10", "31", "0.901"]
