"""Results that stay in memory."""

from __future__ import annotations

from concept_monitor_cli.study.recent import Recent


def test_the_results_asked_for_last_stay_as_many_as_fit() -> None:
    recent, made = Recent(most_bytes=10), []

    def ask(name: str, nbytes: int) -> str:
        def make() -> str:
            made.append(name)
            return name.upper()

        return recent.get_or_make(name, make, nbytes=nbytes)

    assert [ask(name, 4) for name in "abab"] == ["A", "B", "A", "B"]
    assert made == ["a", "b"]
    ask("a", 4)
    ask("c", 4)  # in the place of b
    assert [ask(name, 4) for name in "ac"] == ["A", "C"]
    assert made == ["a", "b", "c"]
    ask("b", 4)
    assert made == ["a", "b", "c", "b"]
    assert [ask("large", 100) for _ in range(2)] == ["LARGE", "LARGE"]
    assert made[4:] == ["large"]
