from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from concept_monitor_cli.run import csv_text as module
from concept_monitor_cli.run.csv_text import csv_text

WORDS = ["red", "", "null", "NA", "a, b", 'say "yes"', "two\nlines", "café", "日本", " x ", "1", "carriage\r"]
NUMBERS = [0.0, -0.0, 1.0, -2.5, 0.1 + 0.2, 1e-300, 5e-324, 1e300, float("inf"), -float("inf"), float("nan")]


def table(rows: int) -> pd.DataFrame:
    """Of all kinds of columns, with values that repeat, are missing, or need quotes."""
    random = np.random.default_rng(rows)
    whole = random.integers(-3, 1 << 40, rows)
    return pd.DataFrame(
        {
            "epoch": pd.array(np.repeat(7, rows), dtype="Int64"),
            "unit": pd.array(np.where(whole % 3 == 0, 1, whole), dtype="Int64"),
            "none": pd.array([pd.NA] * rows, dtype="Int64"),
            "some": pd.Series(whole, dtype="Int64").mask(whole % 2 == 0),
            "concept": pd.Series(random.choice(WORDS, rows), dtype="str"),
            "missing": pd.Series(random.choice(["b", "a"], rows), dtype="str").mask(whole % 2 == 1),
            "score": random.normal(size=rows) * 10.0 ** random.integers(-12, 12, rows),
            "p_value": random.choice(NUMBERS, rows),
            "nothing": np.full(rows, np.nan),
            "single": random.normal(size=rows).astype(np.float32).astype(np.float64),
            "interpretable": whole % 2 == 0,
            'a "name", so': whole,
        }
    )


@pytest.mark.parametrize("rows", [0, 1, 2, 50, 400])
def test_text_is_that_of_pandas(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ROWS", 64)  # several blocks, the last one short
    frame = table(rows)
    assert csv_text(frame) == frame.to_csv(index=False, float_format="%.7g", lineterminator="\n")


def test_rows_in_another_order_keep_their_text() -> None:
    frame = table(100)
    turned = frame.iloc[::-1]
    assert csv_text(turned) == turned.to_csv(index=False, float_format="%.7g", lineterminator="\n")
