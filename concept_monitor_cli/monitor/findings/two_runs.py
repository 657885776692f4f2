"""What sets two runs apart, at the last epoch of each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from concept_monitor_cli.functional.luck import change_by_luck, count_by_luck
from concept_monitor_cli.monitor.findings.base import Finding
from concept_monitor_cli.monitor.history import UNCATEGORISED
from concept_monitor_cli.monitor.statistics import ALL

if TYPE_CHECKING:
    import pandas as pd

_NAMES = {"probe": "probing images", "concepts": "concepts", "encoder": "encoders"}


def statements_of_two(
    layers: Sequence[Mapping[str, Any]],
    categories: Sequence[Mapping[str, Any]],
    matches: pd.DataFrame | None,
    designs: Mapping[tuple[str, str], float],
) -> list[Finding]:
    """Every statement that a comparison allows. The runs are called A and B.

    Args:
        layers: what `compare` counts of each layer and detector.
        categories: interpretable units of both, per layer, detector and category.
        matches: rows of `matches.csv`; `None` where units could not be matched.
        designs: layer and detector -> how much evidence a unit is.
    """
    several = len({row["detector"] for row in layers}) > 1
    found: list[Finding] = []
    for row in layers:
        layer, detector = row["layer"], row["detector"]
        where = f"{layer} ({detector})" if several else layer
        design = designs.get((layer, detector), 1.0)
        own = [each for each in categories if each["layer"] == layer and each["detector"] == detector]
        found += _counts(where, row, own, design)
        if matches is not None:
            pairs = matches[(matches["layer"] == layer) & (matches["detector"] == detector)]
            found += _matched(where, row, pairs, design)
    return found


def _counts(
    where: str, row: Mapping[str, Any], categories: Sequence[Mapping[str, Any]], design: float
) -> Iterator[Finding]:
    known = {each["category"]: each for each in categories}
    kinds = [kind for kind in known if kind not in (ALL, UNCATEGORISED)]
    for kind in [ALL, *(kinds if len(kinds) > 1 else [])]:
        if kind not in known:
            continue
        a, b = known[kind]["interpretable_a"], known[kind]["interpretable_b"]
        what = "units name a concept beyond chance" if kind == ALL else f"units of the category {kind}"
        yield Finding(
            f"{where}: {what}: {a} in A at epoch {row['epoch_a']}, {b} in B at epoch {row['epoch_b']}",
            "more-named" if kind == ALL else "more-of-a-category",
            row["epoch_b"],
            row["layer"],
            float(b),
            float(a),
            f"tables/comparison.csv (cmon compare --layer {row['layer']})",
            row["detector"],
            before=float(a),
            p_value=change_by_luck(a, b, design=design),
        )


def _matched(where: str, row: Mapping[str, Any], table: pd.DataFrame, design: float) -> Iterator[Finding]:
    pairs = table[table["unit_a"].notna() & table["unit_b"].notna()]
    chance = row["correlation_chance"]
    if not len(pairs) or chance is None:
        return
    value = float(pairs["correlation"].median())
    above = int((pairs["correlation"] > chance).sum())
    yield Finding(
        f"{where}: {len(pairs)} units of A have a twin in B that does alike: correlation {value:.2f} in the "
        f"middle, by chance {chance:.2f}",
        "matched",
        row["epoch_b"],
        row["layer"],
        value,
        float(chance),
        f"tables/matches.csv (cmon compare --layer {row['layer']})",
        row["detector"],
        # Half of the pairs of layers that have nothing in common are above the middle one.
        p_value=count_by_luck(above, len(pairs), 0.5, design=design),
    )
    same = int(pairs["same"].sum())
    luck = same_by_luck(pairs)
    yield Finding(
        f"{where}: {same} of {len(pairs)} matched units have the same concept in both (luck: "
        f"{luck * len(pairs):.0f})",
        "same-concept",
        row["epoch_b"],
        row["layer"],
        float(same),
        luck * len(pairs),
        f"tables/matches.csv (cmon compare --layer {row['layer']})",
        row["detector"],
        p_value=count_by_luck(same, len(pairs), luck, design=design),
    )


def same_by_luck(pairs: pd.DataFrame) -> float:
    """Share of matched units with one concept, were the labels of B dealt out to its units at random."""
    if not len(pairs):
        return 0.0
    sides = [
        pairs.groupby([f"concept_{side}", f"category_{side}"]).size().rename_axis(["concept", "category"])
        for side in "ab"
    ]
    return float((sides[0] * sides[1]).dropna().sum()) / len(pairs) ** 2


def different_settings(same: Mapping[str, bool]) -> list[Finding]:
    """What makes the labels of two runs hard to compare.

    Args:
        same: for probing set, concepts and encoder, whether both runs have the same.
    """
    different = [_NAMES[what] for what, equal in same.items() if not equal]
    if not different:
        return []
    return [
        Finding(
            f"the runs were made with different {' and '.join(different)}: differences between them may come "
            "from that",
            "different-settings",
            None,
            "",
            float(len(different)),
            math.nan,
            "run.json of both",
        )
    ]
