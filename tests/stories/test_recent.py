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


def test_what_does_not_displace_stays_only_where_there_is_room() -> None:
    recent, made = Recent(most_bytes=10), []

    def ask(name: str, nbytes: int, *, displaces: bool) -> str:
        return recent.get_or_make(name, lambda: made.append(name) or name, nbytes=nbytes, displaces=displaces)

    ask("often", 6, displaces=True)
    for name in ("rare", "small", "rare", "small", "often"):
        ask(name, 6 if name == "rare" else 4, displaces=False)
    assert made == ["often", "rare", "small", "rare"]
    ask("other", 6, displaces=True)  # in the place of both
    ask("often", 6, displaces=True)
    assert made[4:] == ["other", "often"]


def test_parts_share_the_room_and_nothing_else() -> None:
    whole = Recent(most_bytes=10)
    one, other = whole.part("one"), whole.part("other")
    assert [each.get_or_make("a", lambda n=n: n, nbytes=4) for n, each in enumerate((whole, one))] == [0, 1]
    assert whole.get_or_make("a", lambda: "made again", nbytes=4) == 0
    assert other.get_or_make("a", lambda: 2, nbytes=4) == 2  # in the place of `one`'s
    assert one.get_or_make("a", lambda: "made again", nbytes=4) == "made again"
