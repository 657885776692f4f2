"""One concept on most units of a layer is said."""

from __future__ import annotations

from concept_monitor_cli.monitor.crowded import crowded


def said(*concepts: str, state: str = "live", rank: int = 1) -> str | None:
    rows = {"rank": [rank] * len(concepts), "concept": list(concepts), "state": [state] * len(concepts)}
    return crowded(rows, layer="layer4", detector="clip-dissect", epoch=3)


def test_more_than_half() -> None:
    found = said("dog", "dog", "dog", "sky", "sea")
    assert found is not None
    assert found.startswith("layer4 at epoch 3: 3 of 5 live units have the concept 'dog' (clip-dissect)")


def test_half_few_units_further_ranks_and_dead_units_say_nothing() -> None:
    assert said("dog", "dog", "sky", "sea") is None
    assert said("dog", "dog", "dog") is None
    assert said("dog", "dog", "dog", "dog", rank=2) is None
    assert said("dog", "dog", "dog", "dog", state="dead") is None
