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
    assert (after.dead, after.interpretable, after.distinct, after.changed) == (0, 3, 2, 1)
    # One unit per concept, most certain first.
    assert after.best == ((0, "windmill", 0.9), (2, "field", 0.8))


def test_layers_in_natural_order_and_changes_as_in_units() -> None:
    def row(epoch: int, layer: str, concept: str, category: str) -> dict[str, object]:
        plain = _row(epoch, 0, concept, 0.5, interpretable=bool(concept))
        return {**plain, "layer": layer, "category": category}

    table = pd.DataFrame(
        [
            row(0, "layer10", "orange", "color"),
            row(1, "layer10", "orange", "object"),
            row(0, "layer9", "dog", "object"),
            row(1, "layer9", "", ""),
            row(2, "layer9", "dog", "object"),
        ]
    )
    summaries = summarise(table)
    assert [(found.layer, found.epoch) for found in summaries] == [
        ("layer9", 0),
        ("layer9", 1),
        ("layer9", 2),
        ("layer10", 0),
        ("layer10", 1),
    ]
    # Dead for a while is no change of concept; orange the fruit is not orange the colour.
    assert [found.changed for found in summaries] == [None, 0, 0, None, 1]


def test_beside_interpretable_units_stand_luck_and_random_weights() -> None:
    rows = [_row(0, unit, f"word {unit}", 0.5, interpretable=unit < 21) for unit in range(30)]
    table = pd.DataFrame(rows)
    random = pd.DataFrame(
        [
            _row(0, 0, "field", 0.3, interpretable=True),
            _row(0, 0, "grid", 0.2, interpretable=True, rank=2),
            _row(0, 1, "field", 0.3, interpretable=True),
            _row(0, 2, "windmill", 0.3, interpretable=False),
            _row(0, 3, "", float("nan"), interpretable=True),
        ]
    )
    (found,) = summarise(table, fdr=0.05, untrained={("layer4", "clip-dissect"): random})
    # At most 5 % of 21; two live units of one concept.
    assert (found.interpretable, found.interpretable_by_luck, found.random) == (21, 2, (2, 1))
    (found,) = summarise(table.assign(p_value=float("nan")), fdr=0.05)
    assert (found.interpretable_by_luck, found.random) == (None, None)
