"""Entries of the cache that were damaged or removed are made again, in the run that meets them."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from stories.conftest import Bench, cmon, make_bench  # noqa: F401

from concept_monitor_cli.store import Entry, Key, Store
from concept_monitor_cli.store.entry import HEADER_BYTES
from concept_monitor_cli.study import Study

FOLLOWS = {
    "activations": ("findings",),
    "findings": (),
    # Without the recordings that they are made of.
    "halves": ("activations",),
    "image_embeddings": ("findings",),
    "image_groups": ("findings", "halves", "redundancy"),
    "layers": (),
    "pixels": ("findings", "activations", "image_embeddings", "image_groups", "halves", "redundancy"),
    "probe_block": ("findings",),
    "redundancy": ("activations",),
    # What is said of the run as a whole.
    "resampling": (),
    "text_embeddings": ("findings",),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A study whose encoder has something to compute, and a cache that knows all of it."""
    from concept_monitor_cli.cli.app import run

    bench = make_bench(tmp_path_factory.mktemp("whole"), (0, 5))
    assert run([str(part) for part in dissect(bench)]) == 0
    return bench


def dissect(bench: Bench, *more: object, root: Path | None = None) -> list[object]:
    root = root or bench.root
    return bench.dissect(
        *("--encoder", "builtin", "--cache-dir", root / "cache", "--out", root / "run", "-q", *more)
    )


def tables(root: Path) -> dict[str, bytes]:
    folder = root / "run/tables"
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".csv", ".parquet")
    }


def flip(path: Path, seed: int) -> None:
    """Change one bit behind the header: length and header stay sound."""
    data = bytearray(path.read_bytes())
    data[random.Random(seed).randrange(HEADER_BYTES, len(data))] ^= 16
    path.write_bytes(data)


@pytest.mark.parametrize("kind", FOLLOWS)
def test_damaged_entries_heal_in_the_run_that_meets_them(
    whole: Bench,
    tmp_path: Path,
    cmon,  # noqa: F811
    kind: str,
) -> None:
    shutil.copytree(whole.root / "cache", tmp_path / "cache")
    assert {path.parents[1].name for path in (tmp_path / "cache").rglob("*.h5")} == set(FOLLOWS)
    damaged = sorted((tmp_path / "cache" / kind).rglob("*.h5"))
    assert damaged
    for number, path in enumerate(damaged):
        flip(path, number)
    # What follows from it is forgotten, so that it is asked for.
    for follows in FOLLOWS[kind]:
        shutil.rmtree(tmp_path / "cache" / follows)
    answer = cmon(*dissect(whole, root=tmp_path))
    assert answer.code == 0, answer.err
    assert answer.err.count("damaged store entry") == len(damaged), answer.err
    assert tables(tmp_path) == tables(whole.root)
    report = Store(tmp_path / "cache").verify(repair=False)
    assert not report.damaged
    assert all(path.is_file() for path in damaged)


def test_one_damaged_recording_costs_one_forward_pass(whole: Bench, tmp_path: Path, cmon) -> None:  # noqa: F811
    shutil.copytree(whole.root / "cache", tmp_path / "cache")
    flip(sorted((tmp_path / "cache/activations").rglob("*.h5"))[1], 0)
    shutil.rmtree(tmp_path / "cache/findings")
    answer = cmon(*dissect(whole, "--json", root=tmp_path))
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["forward_passes"] == 1
    assert tables(tmp_path) == tables(whole.root)


def test_what_is_pruned_while_a_run_needs_it_is_made_again(
    whole: Bench,
    tmp_path: Path,
    cmon,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As another process does it, just after this one saw that it was there."""
    pruned: list[Key] = []
    recorded = Study.recorded

    def prune_once(self: Study, key: Key) -> Entry:
        if key not in pruned:
            pruned.append(key)
            self.store.path(key).unlink()
        return recorded(self, key)

    monkeypatch.setattr(Study, "recorded", prune_once)
    answer = cmon(*dissect(whole, "--json", root=tmp_path))
    assert answer.code == 0, answer.err
    assert len(pruned) == 3
    passes = json.loads(answer.out)
    assert (passes["forward_passes"], passes["floor_passes"]) == (4, 2)
    assert tables(tmp_path) == tables(whole.root)


def test_what_is_pruned_again_and_again_is_said(
    whole: Bench,
    tmp_path: Path,
    cmon,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorded = Study.recorded

    def prune(self: Study, key: Key) -> Entry:
        self.store.path(key).unlink()
        return recorded(self, key)

    monkeypatch.setattr(Study, "recorded", prune)
    answer = cmon(*dissect(whole, root=tmp_path))
    assert answer.code == 1
    assert "pruning" in answer.err


def test_an_entry_of_another_file_format_is_left_alone_and_not_read(tmp_path: Path) -> None:
    """A newer version of this program may share the cache."""
    import hashlib

    store = Store(tmp_path)
    key = store.key("null", of="x")
    path = store.put(key, {"values": [1.0, 2.0]}).path
    raw = bytearray(path.read_bytes())
    raw[8] = 99
    raw[HEADER_BYTES - 32 : HEADER_BYTES] = hashlib.sha256(bytes(raw[: HEADER_BYTES - 32])).digest()
    path.write_bytes(raw)
    fresh = Store(tmp_path)
    assert not fresh.has(key)
    assert fresh.get(key) is None
    assert path.read_bytes() == raw
    assert fresh.info().stale_entries == 1
    with fresh.get_or_make(key, lambda writer: writer.put("values", [3.0])) as entry:
        assert entry.read("values").tolist() == [3.0]
