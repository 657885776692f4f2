from __future__ import annotations

import numpy as np
import pandas as pd

from concept_monitor_cli.monitor.agreement import agreement

ROWS = [
    # layer, unit, detector, rank, concept, state
    ("a", 0, "clip-dissect", 1, "dog", "live"),
    ("a", 0, "clip-dissect", 2, "cat", "live"),
    ("a", 0, "network-dissection", 1, "dog", "live"),
    ("a", 1, "clip-dissect", 1, "cat", "live"),
    ("a", 1, "network-dissection", 1, "dog", "live"),
    ("a", 2, "clip-dissect", 1, "", "dead"),
    ("a", 2, "network-dissection", 1, "", "dead"),
    ("a", 3, "clip-dissect", 1, "cat", "live"),
    ("a", 3, "network-dissection", 1, "", "live"),
    ("b", 0, "clip-dissect", 1, "sky", "live"),
]
VECTORS = {"dog": (1.0, 0.0), "cat": (0.6, 0.8), "sky": (0.0, 1.0)}


def table() -> pd.DataFrame:
    frame = pd.DataFrame(ROWS, columns=["layer", "unit", "detector", "rank", "concept", "state"])
    return frame.assign(epoch=5, checkpoint="e5.pth")


def test_by_hand() -> None:
    found = agreement(table(), lambda words: np.array([VECTORS[word] for word in words], dtype=np.float32))
    assert len(found) == 1  # layer b has one detector
    row = found.iloc[0]
    assert (row["detector_a"], row["detector_b"], row["layer"]) == ("clip-dissect", "network-dissection", "a")
    assert row["units"] == 2  # unit 2 is dead, unit 3 has no label
    assert row["same"] == 0.5
    assert np.isclose(row["cosine"], (1.0 + 0.6) / 2)


def test_without_an_encoder_only_words_are_compared() -> None:
    row = agreement(table()).iloc[0]
    assert row["same"] == 0.5
    assert np.isnan(row["cosine"])


def test_one_detector_agrees_with_nobody() -> None:
    frame = table()
    assert agreement(frame[frame["detector"] == "clip-dissect"]).empty
