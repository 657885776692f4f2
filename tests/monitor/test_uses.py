"""What units do, in sentences: of tables that can be worked out by hand."""

from __future__ import annotations

import pandas as pd

from concept_monitor_cli.monitor.uses import Uses


def moved(unit: int, name: str, effect: float, epoch: int = 4, significant: bool = True) -> dict[str, object]:
    return {
        "epoch": epoch,
        "layer": "a",
        "unit": unit,
        "class": name,
        "effect": effect,
        "chance_spread": 0.12,
        "significant": significant,
        "target": "logit",
    }


def test_the_classes_of_a_unit_are_the_strongest_of_the_last_epoch() -> None:
    rows = [
        moved(3, "dog", 0.5),
        moved(3, "cat", -1.5),
        moved(3, "ship", 9.0, epoch=2),
        moved(3, "frog", 8.0, significant=False),
        moved(5, "frog", 8.0, significant=False),
    ]
    found = Uses(classes=pd.DataFrame(rows)).by_unit("a", {3: "fur"})
    assert found == {
        3: [
            "Epoch 4, beside all images it moves the score of a class's images: cat -1.5 "
            "(random images 0.1), dog +0.5 (random images 0.1)"
        ]
    }
    loss = pd.DataFrame([{**moved(3, "dog", 0.5), "target": "loss"}])
    assert "moves the log-probability of" in Uses(classes=loss).by_unit("a", {})[3][0]
    assert Uses(classes=pd.DataFrame(rows)).by_unit("b", {3: "fur"}) == {}
    assert Uses().by_unit("a", {3: "fur"}) == {}
    assert Uses().sentences() == []


def test_what_its_changes_brought_and_what_is_lost_without_its_concept() -> None:
    brought = pd.DataFrame(
        [
            {
                "from_epoch": start,
                "to_epoch": start + 1,
                "layer": "a",
                "unit": 3,
                "class": "dog",
                "effect": effect,
                "elsewhere": 0.2,
                "significant": True,
                "from_concept": "fur",
                "to_concept": "fur",
                "confident": 0,
            }
            for start, effect in ((1, 0.3), (2, -0.9))
        ]
    )
    cut = pd.DataFrame(
        [
            {
                "epoch": 4,
                "layer": "a",
                "set": "concept",
                "concept": "fur",
                "units": units,
                "kind": kind,
                "class": name,
                "margin": margin,
                "margin_before": 2.0,
                "control": 1.5,
            }
            for units, kind, name, margin in (
                (2, "zero", "dog", 0.5),
                (2, "zero", "cat", 1.8),
                (2, "zero", "all", -9.0),
                (2, "mean", "cat", -9.0),
            )
        ]
    )
    found = Uses(evolutions=brought, ablation=cut).by_unit("a", {3: "fur", 4: "fur", 6: "wing"})
    assert found == {
        3: [
            "Between 2 and 3 its change brought dog images -0.9 (as large a change of another unit: 0.2)",
            "Without the 2 units of fur, dog loses most margin: -1.5 (random units -0.5)",
        ],
        4: ["Without the 2 units of fur, dog loses most margin: -1.5 (random units -0.5)"],
    }
