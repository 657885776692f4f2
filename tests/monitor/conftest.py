from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import pytest

from concept_monitor_cli.lenses import Findings
from concept_monitor_cli.run import TABLES

Told = Mapping[int, Sequence[tuple[str, str, float, bool] | None]]


def _table(told: Told, *, layer: str = "layer4", detector: str = "clip-dissect") -> pd.DataFrame:
    """A concept table: epoch -> per unit (concept, category, score, interpretable); None for a dead one."""
    frames = []
    for epoch, units in told.items():
        dead = ("", "", float("nan"), False)
        concepts, categories, scores, sure = zip(*(unit or dead for unit in units), strict=True)
        findings = Findings(
            concepts=np.array(concepts, dtype=object)[:, None],
            categories=np.array(categories, dtype=object)[:, None],
            scores=np.array(scores, dtype=np.float32)[:, None],
            p_values=np.where(sure, 0.001, 0.5),
            interpretable=np.array(sure),
            live=np.array([unit is not None for unit in units]),
        )
        rows = findings.rows(epoch=epoch, checkpoint=f"e{epoch}.pth", layer=layer, detector=detector)
        frames.append(pd.DataFrame(rows))
    return pd.concat(frames, ignore_index=True)


@pytest.fixture
def concept_table() -> Callable[..., pd.DataFrame]:
    return _table


@pytest.fixture(params=["texts", "categories"])
def random_table(request: pytest.FixtureRequest) -> pd.DataFrame:
    """40 units at 5 epochs, of few words, so that everything happens: changes, returns, deaths, ties.

    With its texts as texts, as a table is made, and as categories, as a run gives it.
    """
    rng = np.random.default_rng(3)
    words = [("orange", "color"), ("orange", "object"), ("field", "scene"), ("mouse", ""), ("net", "other")]
    told = {}
    for epoch in (0, 1, 5, 10, 20):
        units: list[tuple[str, str, float, bool] | None] = []
        for _ in range(40):
            if rng.random() < 0.15:
                units.append(None)
            else:
                units.append(
                    (*words[rng.integers(5)], round(float(rng.normal()), 1), bool(rng.random() < 0.5))
                )
        told[epoch] = units
    table = _table(told)
    if request.param == "categories":
        names = [name for name, kind in TABLES["concepts"].columns.items() if kind == "str"]
        # One that no row has: rows of a part of a run still know those of the whole.
        table[names] = table[names].apply(lambda texts: texts.astype("category").cat.add_categories(["zzz"]))
    return table
