"""The words of the benchmarks beside the literature are as many as they are said to be."""

from __future__ import annotations

import pytest

from scripts.benchmarks.literature import WORDS, phrases


def test_there_are_as_many_phrases_as_are_asked_for() -> None:
    assert WORDS == 20_000
    assert len(set(phrases(WORDS))) == WORDS
    assert len(phrases(40)) == 40


def test_too_few_phrases_end_the_benchmark() -> None:
    with pytest.raises(ValueError, match="10,000,000 were asked for"):
        phrases(10_000_000)
