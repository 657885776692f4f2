"""What a rerun does not do again."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from numpy.typing import NDArray

from concept_monitor_cli.stories import followed
from tests.stories.conftest import Answer, Bench


def test_the_network_is_neither_run_nor_looked_through_again(
    bench: Bench, cmon: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cmon(*bench.dissect()).code == 0
    before = bench.tables()

    def never(*_: object, **__: object) -> object:
        raise AssertionError("was known already")

    for name in ("networks.describe_layers", "passes.record"):
        monkeypatch.setattr(f"concept_monitor_cli.study.{name}", never)
    again = cmon(*bench.dissect())
    assert again.code == 0, again.err
    assert bench.tables() == before
    other_layer = cmon(*bench.dissect(layer="layer2"))
    assert "was known already" in other_layer.err


def _written(bench: Bench) -> dict[str, tuple[int, int]]:
    """What tells whether a table was written again: every write makes a file of its own."""
    tables = sorted((bench.root / "out" / "tables").glob("epoch_*/*.csv"))
    return {
        f"{path.parent.name}/{path.name}": (path.stat().st_ino, path.stat().st_mtime_ns) for path in tables
    }


def test_tables_that_are_as_they_should_be_are_left_alone(bench: Bench, cmon: Callable[..., Answer]) -> None:
    several = ("--encoder", "builtin", "--concepts", "builtin", "--pairs", 6)
    assert cmon(*bench.dissect(*several)).code == 0
    before, bytes_before = _written(bench), bench.tables()
    assert len(before) == 6  # of each checkpoint the concept table and the pairs
    assert cmon(*bench.dissect(*several)).code == 0
    assert _written(bench) == before
    # An edited, a cut and a lost file come back, with what was written beside them; nothing else is touched.
    folder = bench.root / "out" / "tables"
    for damage in ("edited", "cut", "lost"):
        table = folder / "epoch_0000" / "layer3.clip-dissect.csv"
        pairs = folder / "epoch_0005" / "layer3.clip-dissect.pairs.csv"
        if damage == "edited":
            table.write_bytes(table.read_bytes().replace(b"live", b"dead", 1))
        elif damage == "cut":
            pairs.write_bytes(pairs.read_bytes()[:-9])
        else:
            table.unlink()
        before = _written(bench)
        assert cmon(*bench.dissect(*several)).code == 0
        assert bench.tables() == bytes_before
        epoch = "epoch_0005" if damage == "cut" else "epoch_0000"
        after = _written(bench)
        assert {name for name in after if after[name] != before.get(name)} == {
            f"{epoch}/layer3.clip-dissect.csv",
            f"{epoch}/layer3.clip-dissect.pairs.csv",
        }


@pytest.mark.parametrize("reason", ["version", "code", "codes", "record", "garbage", "cut", "notes"])
def test_tables_made_from_something_else_are_written_again(
    bench: Bench, cmon: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    words = (bench.root / "words.txt").read_text().split()
    coded = "\n".join(f"n{number:08d} {word}" for number, word in enumerate(words))
    assert cmon(*bench.dissect()).code == 0
    before = _written(bench)
    if reason == "version":
        monkeypatch.setattr("concept_monitor_cli.stories.conclude.__version__", "99.0")
    elif reason == "code":
        monkeypatch.setattr("concept_monitor_cli.stories.conclude.TABLE_CODE", 99)
    elif reason == "codes":
        (bench.root / "words.txt").write_text(coded)
    else:
        for record in (bench.root / "out" / "tables").glob("epoch_*/layer3.*.json"):
            text = record.read_text()
            hurt = text.replace('"made": "', '"made_earlier": "')
            if reason == "garbage":
                hurt = json.dumps({**json.loads(text), "files": ["../../x", 5]})
            elif reason == "cut":
                hurt = text[:50]
            elif reason == "notes":
                hurt = json.dumps({**json.loads(text), "notes": [5]})
            record.write_text(hurt)
    assert cmon(*bench.dissect()).code == 0
    after = _written(bench)
    assert all(after[name] != before[name] for name in before)
    table = (bench.root / "out" / "tables" / "epoch_0000" / "layer3.clip-dissect.csv").read_text()
    assert ("n0000000" in table) == (reason == "codes")


def test_what_the_tables_say_is_said_again_and_the_cache_is_filled(
    bench: Bench, cmon: Callable[..., Answer]
) -> None:
    first = cmon(*bench.dissect())
    again = cmon(*bench.dissect())
    said = [re.findall(r"(?:note|warning): .*", answer.err) for answer in (first, again)]
    assert said[1] == said[0] != []
    records = (bench.root / "out" / "tables").glob("epoch_*/layer3.*.json")
    digests = [json.loads(record.read_text())["finding"] for record in records]
    findings = [bench.root / "cache" / "findings" / digest[:2] / f"{digest}.h5" for digest in digests]
    for path in findings:
        path.unlink()
    assert cmon(*bench.dissect()).code == 0
    assert [path.is_file() for path in findings] == [True, True, True]


LIVES = ("units.csv", "changes.csv", "self_similarity.csv")


@pytest.mark.parametrize("reason", ["nothing", "edited", "lost", "note", "code", "draws", "checkpoint"])
def test_lives_of_a_run_that_is_the_same_are_left_alone(
    bench: Bench, cmon: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    """They follow from the activations of all epochs, which are not read again; else they come back."""
    command = bench.dissect("-q")
    assert cmon(*command).code == 0
    tables = bench.root / "out" / "tables"
    before = {name: (tables / name).read_bytes() for name in LIVES}
    if reason == "edited":
        (tables / "units.csv").write_bytes(before["units.csv"].replace(b"layer3", b"layer2", 1))
    elif reason == "lost":
        (tables / "changes.csv").unlink()
    elif reason == "note":
        (tables / "units.json").write_text("[")
    elif reason == "code":
        monkeypatch.setattr("concept_monitor_cli.stories.lives.LIVES_CODE", 99)
    elif reason == "draws":
        assert (
            cmon("units", bench.root / "out", "--resamples", 0, "--cache-dir", bench.root / "cache").code == 0
        )
    elif reason == "checkpoint":
        bench.add(15)
    compared: list[int] = []
    correlation = followed.SelfCorrelation

    def compare(epochs: Iterable[NDArray[np.float32]]) -> followed.SelfCorrelation:
        compared.append(1)
        return correlation(epochs)

    monkeypatch.setattr(followed, "SelfCorrelation", compare)
    assert cmon(*command).code == 0
    assert bool(compared) == (reason != "nothing")
    after = {name: (tables / name).read_bytes() for name in LIVES}
    if reason == "checkpoint":
        assert b"epoch_15" in after["self_similarity.csv"]
    else:
        assert after == before


def test_lives_without_draws_leave_no_changes_behind(bench: Bench, cmon: Callable[..., Answer]) -> None:
    tables = bench.root / "out" / "tables"
    for _ in range(2):
        assert cmon(*bench.dissect("-q", "--no-stability", "--overwrite")).code == 0
        assert not (tables / "changes.csv").exists()
    assert cmon(*bench.dissect("-q", "--overwrite")).code == 0
    assert (tables / "changes.csv").exists()
