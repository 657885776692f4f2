"""What sets two runs apart: each sentence has runs that trigger it and runs just below; noise has none."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from concept_monitor_cli.monitor.findings import Finding, choose, statements_of_two
from concept_monitor_cli.monitor.findings.base import LEVEL
from concept_monitor_cli.monitor.findings.two_runs import different_settings, same_by_luck
from tests.late import Late

scipy_stats = Late("scipy.stats")

UNITS = 100
KINDS = ("color", "object")


def pairs(correlations: np.ndarray, same: int, words: int = 10) -> pd.DataFrame:
    """Matched units: in A word `i % words`; in B the same for the first `same`, the next word for others."""
    a = np.arange(len(correlations)) % words
    b = np.where(np.arange(len(correlations)) < same, a, (a + 1) % words)
    return pd.DataFrame(
        {
            "layer": "layer4",
            "detector": "d",
            "unit_a": np.arange(len(correlations)),
            "unit_b": np.arange(len(correlations)),
            "concept_a": [f"w{i}" for i in a],
            "concept_b": [f"w{i}" for i in b],
            "category_a": "object",
            "category_b": "object",
            "correlation": correlations,
            "same": a == b,
        }
    )


def tried(
    counts: dict[str, tuple[int, int]] | None = None, matches: pd.DataFrame | None = None, design: float = 1.0
) -> list[Finding]:
    counts = {"color": (20, 20), "object": (20, 20), **(counts or {})}
    counts.setdefault("all", tuple(sum(counts[kind][side] for kind in KINDS) for side in (0, 1)))  # type: ignore[arg-type]
    row: dict[str, Any] = {
        "layer": "layer4", "detector": "d", "epoch_a": 9, "epoch_b": 8, "correlation_chance": 0.3
    }  # fmt: skip
    categories = [
        {"layer": "layer4", "detector": "d", "category": kind, "interpretable_a": a, "interpretable_b": b}
        for kind, (a, b) in counts.items()
    ]
    return statements_of_two([row], categories, matches, {("layer4", "d"): design})


def above(count: int) -> np.ndarray:
    """So many of the correlations are above what chance has in the middle."""
    return np.where(np.arange(UNITS) < count, 0.5, 0.1)


# rule -> (planted so much, what the p-value of so much is by scipy, where nothing is to be said)
RULES: dict[str, tuple[Callable[[int], list[Finding]], Callable[[int], float], int]] = {
    "more-named": (
        lambda more: tried({"all": (40, 40 + more)}),
        lambda more: float(scipy_stats.binomtest(40 + more, 80 + more, 0.5).pvalue),
        0,
    ),
    "more-of-a-category": (
        lambda more: tried({"color": (20, 20 + more), "all": (40, 40)}),
        lambda more: float(scipy_stats.binomtest(20 + more, 40 + more, 0.5).pvalue),
        0,
    ),
    "matched": (
        lambda count: tried(matches=pairs(above(count), 10)),
        lambda count: float(scipy_stats.binom.sf(count - 1, UNITS, 0.5)),
        50,
    ),
    "same-concept": (
        lambda same: tried(matches=pairs(above(50), same)),
        lambda same: float(scipy_stats.binom.sf(same - 1, UNITS, luck_of(pairs(above(50), same)))),
        5,
    ),
}


def luck_of(table: pd.DataFrame) -> float:
    """Literally: every unit of A beside every unit of B."""
    equal = [a == b for a in table["concept_a"] for b in table["concept_b"]]
    return sum(equal) / len(equal)


def said(statements: list[Finding]) -> list[str]:
    return [each.kind for each in choose(statements)]


@pytest.mark.parametrize("kind", RULES)
def test_each_rule_has_runs_that_trigger_it_and_runs_just_below(kind: str) -> None:
    planted, p_value, low = RULES[kind]
    high = 99
    assert kind not in said(planted(low))
    assert kind in said(planted(high))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if kind in said(planted(middle)) else (middle, high)
    statements = planted(high)
    assert p_value(high) <= LEVEL / len(statements) < p_value(low)
    (own,) = [each for each in choose(statements) if each.kind == kind]
    assert own.p_value == pytest.approx(p_value(high), rel=1e-9)
    assert own.epoch == 8


def test_sentences_have_the_numbers_of_the_tables() -> None:
    table = pairs(above(90), 60)
    sentences = {each.kind: each for each in tried({"all": (40, 90)}, table)}
    assert sentences["more-named"].sentence == (
        "layer4: units name a concept beyond chance: 40 in A at epoch 9, 90 in B at epoch 8"
    )
    assert sentences["matched"].sentence == (
        "layer4: 100 units of A have a twin in B that does alike: correlation 0.50 in the middle, by "
        "chance 0.30"
    )
    luck = luck_of(table) * UNITS
    assert sentences["same-concept"].sentence == (
        f"layer4: 60 of 100 matched units have the same concept in both (luck: {luck:.0f})"
    )
    assert same_by_luck(table) == pytest.approx(luck_of(table))


def test_units_that_do_alike_are_no_more_evidence() -> None:
    assert "more-named" in said(tried({"all": (40, 90)}))
    assert "more-named" not in said(tried({"all": (40, 90)}, design=0.2))


def test_two_runs_of_noise_are_not_told_apart() -> None:
    """Counts of one rate, correlations around the middle of chance, labels dealt out at random."""
    rng = np.random.default_rng(0)
    loud = 0
    for _ in range(200):
        counts = {kind: tuple(int(n) for n in rng.binomial(UNITS, 0.2, size=2)) for kind in KINDS}
        table = pairs(rng.normal(0.3, 0.1, UNITS), 0)
        order = rng.permutation(UNITS)
        for name in ("concept_b", "category_b"):
            table[name] = table[name].to_numpy()[order]
        table["same"] = table["concept_a"] == table["concept_b"]
        loud += said(tried(counts, table)) != ["nothing"]  # type: ignore[arg-type]
    # At most one pair in a hundred may say something: 6 of 200 has a probability below .02.
    assert loud <= 6


def test_other_settings_are_a_caution_and_equal_ones_none() -> None:
    assert different_settings({"probe": True, "concepts": True, "encoder": True}) == []
    (found,) = different_settings({"probe": False, "concepts": True, "encoder": False})
    assert found.is_caution
    assert found.sentence == (
        "the runs were made with different probing images and encoders: differences between them may come "
        "from that"
    )
    assert math.isnan(found.chance)


def test_without_matches_nothing_is_said_of_twins() -> None:
    kinds = {each.kind for each in tried()}
    assert kinds == {"more-named", "more-of-a-category"}
    empty = pairs(above(50), 10).iloc[:0]
    assert {each.kind for each in tried(matches=empty)} == kinds
