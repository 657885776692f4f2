"""Counting and pruning."""

from __future__ import annotations

import os
import time

import pytest
from store_help import numbers, same

from concept_monitor_cli.store import Store, maintenance
from concept_monitor_cli.store.atomic import temporary_name


def test_an_empty_store(tmp_path):
    store = Store(tmp_path / "not there")
    info = store.info()
    assert (info.entries, info.bytes, info.kinds, info.oldest_use) == (0, 0, (), None)
    assert info.free_bytes > 0
    assert info.writable
    assert store.verify().checked == 0
    assert store.prune(max_bytes=0).removed == 0
    assert not store.root.exists()


def test_info_counts_by_kind(tmp_store):
    sizes = [tmp_store.put(*numbers(tmp_store, seed)).path.stat().st_size for seed in range(3)]
    tmp_store.put(tmp_store.key("pixels"), {})
    info = tmp_store.info()
    assert [(kind.kind, kind.entries) for kind in info.kinds] == [("activations", 3), ("pixels", 1)]
    assert info.kinds[0].bytes == sum(sizes)
    assert info.entries == 4


def _used(path, hours_ago):
    then = time.time() - 3600 * hours_ago
    os.utime(path, (then, then))


def test_prune_removes_the_least_recently_used_first(tmp_store):
    entries = [tmp_store.put(*numbers(tmp_store, seed)) for seed in range(4)]
    for entry, hours in zip(entries, (5, 50, 500, 10), strict=True):
        _used(entry.path, hours)
    Store(tmp_store.root).get(entries[2].key)  # used just now
    size = entries[0].path.stat().st_size
    report = tmp_store.prune(max_bytes=int(2.5 * size))
    assert (report.removed, report.kept) == (2, 2)
    assert report.kept_bytes <= 2.5 * size
    assert [entry.path.exists() for entry in entries] == [True, False, True, False]


def test_prune_by_age(tmp_store):
    entries = [tmp_store.put(*numbers(tmp_store, seed)) for seed in range(2)]
    _used(entries[0].path, 48)
    assert tmp_store.prune(older_than=24 * 3600).removed == 1
    assert [entry.path.exists() for entry in entries] == [False, True]


def test_prune_without_wishes_removes_leftovers_only(tmp_store):
    key, arrays = numbers(tmp_store)
    entry = tmp_store.put(key, arrays)
    dead = entry.path.with_name(f".{entry.path.name}.00000000-1-1-00000000.tmp")
    dead.write_bytes(b"x")
    live = entry.path.with_name(temporary_name(entry.path.name))
    live.write_bytes(b"x")
    lock = tmp_store.root / "locks" / "left.lock"
    lock.parent.mkdir(exist_ok=True)
    lock.touch()
    assert tmp_store.prune().leftovers == 1  # the lock; the file of another machine is young
    _used(dead, 25)
    assert tmp_store.info().leftover_files == 1
    assert tmp_store.prune().leftovers == 1
    assert live.exists()
    assert not dead.exists()
    assert not lock.exists()
    assert same(tmp_store.get(key), arrays)


def test_locks_that_are_held_stay(tmp_store):
    key, _ = numbers(tmp_store)
    with tmp_store.lock(key):
        assert tmp_store.prune().leftovers == 0
        assert len(list((tmp_store.root / "locks").iterdir())) == 1


def test_foreign_files_are_left_alone(tmp_store):
    tmp_store.put(*numbers(tmp_store))
    foreign = [tmp_store.root / "notes.txt", tmp_store.root / "activations" / "x.h5"]
    for path in foreign:
        path.write_text("mine")
    tmp_store.prune(max_bytes=0, stale=True)
    assert all(path.exists() for path in foreign)


def test_the_folder_is_marked_as_a_cache(tmp_store):
    tmp_store.put(*numbers(tmp_store))
    assert (
        (tmp_store.root / "CACHEDIR.TAG")
        .read_text()
        .startswith("Signature: 8a477f597d28d172789f06886806bc55")
    )


@pytest.mark.parametrize("size", [0, 1, 10**9])
def test_prune_reaches_any_size(tmp_store, size):
    for seed in range(3):
        tmp_store.put(*numbers(tmp_store, seed))
    assert tmp_store.prune(max_bytes=size).kept_bytes <= size
    assert maintenance.info(tmp_store.root).bytes <= size
