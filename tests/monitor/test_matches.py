"""Labels searched as text."""

from __future__ import annotations

import pandas as pd
import pytest

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.monitor.matches import match_counts, matches, word_pattern


def table() -> pd.DataFrame:
    rows = [
        # epoch, unit, detector, rank, concept, state, interpretable
        (1, 0, "describe", 1, "brown dog", "live", True),
        (1, 0, "describe", 2, "dog", "live", True),
        (1, 1, "describe", 1, "hotdog", "live", True),
        (1, 2, "describe", 1, "a Dog on grass", "live", False),
        (1, 3, "describe", 1, "", "dead", False),
        (2, 0, "describe", 1, "cat", "live", True),
        (2, 0, "clip-dissect", 1, "dog", "live", True),
    ]
    columns = ["epoch", "unit", "detector", "rank", "concept", "state", "interpretable"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.assign(checkpoint="c", layer="a", category="", score=1.0, p_value=0.01)


def test_whole_words_match_however_they_are_written() -> None:
    untrained = table().query("detector == 'describe' and epoch == 1")
    known = {("a", "describe"): untrained, ("a", "clip-dissect"): None}
    found = matches(table(), "dog", known)  # type: ignore[arg-type]
    assert [tuple(row) for row in found[["epoch", "detector", "unit"]].to_numpy()] == [
        (2, "clip-dissect", 0),
        (1, "describe", 0),
        (1, "describe", 2),
    ]
    describe = found[found["detector"] == "describe"]
    assert describe["units"].tolist() == [3, 3]  # the dead one has no label
    assert describe["found"].tolist() == [2, 2]
    assert describe["chance"].tolist() == [2 / 3, 2 / 3]
    assert found["chance"].isna().tolist() == [True, False, False]
    counts = match_counts(table(), found, known, "dog")  # type: ignore[arg-type]
    assert [(c["detector"], c["epoch"], c["found"], c["interpretable"]) for c in counts] == [
        ("clip-dissect", 2, 1, 1),
        ("describe", 1, 2, 1),
        ("describe", 2, 0, 0),
    ]
    assert counts[0]["chance"] is None


def test_several_words_and_none() -> None:
    assert word_pattern("dog  on").search("A dog on grass")
    assert not word_pattern("dog grass").search("A dog on grass")
    assert word_pattern("a.b").search("a.b")
    assert not word_pattern("a.b").search("acb")
    with pytest.raises(InputError, match="empty"):
        word_pattern("  ")
