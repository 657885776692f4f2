from __future__ import annotations

import pandas as pd

from concept_monitor_cli.monitor.summary import summarise


def _row(
    epoch: int, unit: int, concept: str, score: float, *, interpretable: bool, rank: int = 1
) -> dict[str, object]:
    return {
        "epoch": epoch,
        "checkpoint": f"e{epoch}.pth",
        "layer": "layer4",
        "unit": unit,
        "detector": "clip-dissect",
        "rank": rank,
        "concept": concept,
        "category": "object",
        "score": score,
        "p_value": 0.001 if interpretable else 0.4,
        "interpretable": interpretable,
        "state": "live" if concept else "dead",
    }


def test_summary_counts_by_hand() -> None:
    table = pd.DataFrame(
        [
            _row(0, 0, "striped", 0.5, interpretable=True),
            _row(0, 0, "grid", 0.4, interpretable=True, rank=2),
            _row(0, 1, "field", 0.2, interpretable=False),
            _row(0, 2, "", float("nan"), interpretable=False),
            _row(5, 0, "windmill", 0.9, interpretable=True),
            _row(5, 1, "field", 0.7, interpretable=True),
            _row(5, 2, "field", 0.8, interpretable=True),
        ]
    )
    before, after = summarise(table)
    assert (before.units, before.dead, before.interpretable, before.distinct) == (3, 1, 1, 1)
    assert before.changed is None
    assert before.best == ((0, "striped", 0.5),)
    assert (after.dead, after.interpretable, after.distinct, after.changed) == (0, 3, 2, 2)
    # One unit per concept, most certain first.
    assert after.best == ((0, "windmill", 0.9), (2, "field", 0.8))
