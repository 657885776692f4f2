"""Entries: what goes in comes out, rows stream, and nothing is published that is not whole."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest
from store_help import numbers, same, temporary_files

from concept_monitor_cli.store import Store


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "u1", "i2", "i4", "i8", "u2", "u8", "?", ">f4"])
def test_numbers_of_every_type_come_back(tmp_store, dtype):
    array = np.random.default_rng(0).integers(0, 2, (5, 3, 2)).astype(dtype)
    entry = tmp_store.put(tmp_store.key("masks", dtype=dtype), {"a": array})
    assert entry.dtype("a") == array.dtype
    assert entry.shape("a") == (5, 3, 2)
    np.testing.assert_array_equal(entry.read("a"), array)


@pytest.mark.parametrize("shape", [(), (0,), (0, 4), (3, 0), (1, 1, 1)])
def test_shapes_at_the_edge_come_back(tmp_store, shape):
    array = np.ones(shape, dtype=np.float32)
    key = tmp_store.key("masks", shape=shape)
    tmp_store.put(key, {"a": array}).close()
    entry = tmp_store.get(key)
    assert entry.read("a").shape == shape
    np.testing.assert_array_equal(entry.read("a"), array)


@pytest.mark.parametrize(
    "texts",
    [["a", "", "Straße", "日本", "𝄞"], [""], [], ["file\udcff.png"], ["two\nlines", 'quote"', " blank "]],
)
def test_text_comes_back(tmp_store, texts):
    array = np.array(texts, dtype=object)
    key = tmp_store.key("null", length=len(texts), first=[ord(c) for c in "".join(texts)])
    entry = tmp_store.put(key, {"names": array})
    assert entry.dtype("names") is np.dtype(object)
    assert entry.read("names").tolist() == texts
    assert all(type(text) is str for text in entry.read("names"))


def test_text_is_plain_utf8_for_other_programs(tmp_store):
    entry = tmp_store.put(tmp_store.key("null"), {"names": np.array(["Straße"])})
    entry.close()
    with h5py.File(entry.path) as file:
        assert file["names"].asstr()[0] == "Straße"
        assert json.loads(file["__meta__"][()].tobytes())["kind"] == "null"


def test_meta_comes_back_and_may_be_filled_until_the_end(tmp_store):
    key = tmp_store.key("null")
    with tmp_store.writer(key, {"a": 1}) as writer:
        writer.meta["names"] = ["x"] * 20_000  # more than an HDF5 attribute takes
    assert writer.entry.meta == tmp_store.get(key).meta == {"a": 1, "names": ["x"] * 20_000}


def test_nothing_is_there_before_and_everything_after(tmp_store):
    key, arrays = numbers(tmp_store)
    assert tmp_store.get(key) is None
    assert not tmp_store.has(key)
    assert same(tmp_store.put(key, arrays), arrays)
    assert tmp_store.has(key)
    assert same(tmp_store.get(key), arrays)
    assert same(Store(tmp_store.root).get(key), arrays)


def test_rows(tmp_store):
    array = np.arange(30).reshape(10, 3)
    entry = tmp_store.put(tmp_store.key("masks"), {"a": array})
    np.testing.assert_array_equal(entry.rows("a", 2, 5), array[2:5])
    assert entry.rows("a", 4, 4).shape == (0, 3)
    for start, stop in [(-1, 3), (5, 11), (5, 4)]:
        with pytest.raises(IndexError):
            entry.rows("a", start, stop)
    with pytest.raises(KeyError, match="which has"):
        entry.read("b")
    with pytest.raises(KeyError):
        entry.read("__meta__")


def test_rows_may_be_written_in_any_order_and_from_threads(tmp_store):
    array = np.random.default_rng(0).standard_normal((200, 5)).astype(np.float32)
    with tmp_store.writer(tmp_store.key("masks")) as writer:
        writer.create("a", array.shape, array.dtype)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda i: writer.write("a", i, array[i : i + 7]), reversed(range(0, 200, 7))))
    np.testing.assert_array_equal(writer.entry.read("a"), array)


def test_a_row_that_was_never_written_is_no_zero(tmp_store):
    key = tmp_store.key("masks")
    with pytest.raises(ValueError, match="row 3 of 'a'"), tmp_store.writer(key) as writer:  # noqa: PT012
        writer.create("a", (5, 2), np.float32)
        writer.write("a", 0, np.ones((3, 2), np.float32))
        writer.write("a", 4, np.ones((1, 2), np.float32))
    assert tmp_store.get(key) is None
    assert temporary_files(tmp_store.root) == []


@pytest.mark.parametrize(
    ("start", "rows", "error"),
    [
        (3, np.ones((3, 2), np.float32), IndexError),
        (-1, np.ones((1, 2), np.float32), IndexError),
        (0, np.ones((1, 3), np.float32), ValueError),
        (0, np.ones(2, np.float32), ValueError),
        (0, np.ones((1, 2), complex), TypeError),
    ],
)
def test_rows_that_do_not_fit_are_refused(tmp_store, start, rows, error):
    with pytest.raises(error), tmp_store.writer(tmp_store.key("masks")) as writer:  # noqa: PT012
        writer.create("a", (5, 2), np.float32)
        writer.write("a", start, rows)


@pytest.mark.parametrize("name", ["__meta__", "a/b", "", "taken"])
def test_names_that_cannot_be(tmp_store, name):
    with pytest.raises(ValueError), tmp_store.writer(tmp_store.key("masks")) as writer:  # noqa: PT012
        writer.put("taken", np.zeros(1))
        writer.put(name, np.zeros(1))


@pytest.mark.parametrize("array", [np.array([1, "a", None], dtype=object), np.array(["a\0b"], dtype=object)])
def test_objects_are_never_pickled(tmp_store, array):
    with pytest.raises((TypeError, ValueError)):
        tmp_store.put(tmp_store.key("masks"), {"a": array})


@pytest.mark.parametrize("error", [RuntimeError("mine"), OSError(5, "mine"), KeyboardInterrupt()])
def test_an_error_of_the_callers_leaves_nothing_and_comes_through(tmp_store, error):
    key = tmp_store.key("masks")
    with pytest.raises(type(error)) as caught, tmp_store.writer(key) as writer:  # noqa: PT012
        writer.create("a", (1000, 100), np.float32)
        writer.write("a", 0, np.ones((500, 100)))
        raise error
    assert caught.value is error
    assert tmp_store.get(key) is None
    assert temporary_files(tmp_store.root) == []


def test_equal_values_give_equal_bytes(tmp_path):
    files = []
    for name in "ab":
        store = Store(tmp_path / name)
        key, arrays = numbers(store)
        files.append(store.put(key, arrays, {"x": 1}).path.read_bytes())
    assert files[0] == files[1]


def test_an_entry_stays_readable_when_it_is_replaced_or_pruned(tmp_store):
    key, arrays = numbers(tmp_store)
    first = tmp_store.put(key, arrays)
    tmp_store.put(key, {"other": np.zeros(3)})
    tmp_store.prune(max_bytes=0)
    assert same(first, arrays)


def test_get_or_make_makes_once(tmp_store):
    key, arrays = numbers(tmp_store)
    made = []

    def make(writer):
        made.append(1)
        for name, array in arrays.items():
            writer.put(name, array)

    for _ in range(3):
        assert same(tmp_store.get_or_make(key, make), arrays)
    assert len(made) == 1
    assert list((tmp_store.root / "locks").iterdir()) == []


def test_an_entry_is_on_the_disk_before_it_has_its_name(tmp_store, monkeypatch):
    """A power cut must leave no entry, or a whole one: flush the content, rename, flush the folder."""
    key, arrays = numbers(tmp_store)
    path, events, fsync = tmp_store.path(key), [], os.fsync

    def flushed(handle):
        events.append((os.fstat(handle).st_ino, path.exists()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", flushed)
    tmp_store.put(key, arrays).close()
    assert events == [(path.stat().st_ino, False), (path.parent.stat().st_ino, True)]


_STREAM = """
import resource, sys
import numpy as np
from concept_monitor_cli.store import Store
store = Store(sys.argv[1])
rows = np.ones((64, 1 << 18), np.uint8)
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before = peak()
with store.writer(store.key("pixels")) as writer:
    writer.create("a", (1024, 1 << 18), np.uint8)
    for start in range(0, 1024, 64):
        writer.write("a", start, rows)
entry = Store(sys.argv[1]).get(store.key("pixels"))
assert entry.rows("a", 1000, 1001).all()
print(peak() - before)
"""


def test_streaming_takes_no_memory(tmp_path):
    assert resource.getpagesize()
    done = subprocess.run(
        [sys.executable, "-c", _STREAM, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 60, "MB more at its peak, for an entry of 256 MB"


def test_what_is_removed_is_gone_and_stays_with_those_who_have_it_open(tmp_store):
    key = tmp_store.key("null")
    entry = tmp_store.put(key, {"a": np.arange(3)})
    tmp_store.remove(key)
    assert not tmp_store.has(key)
    assert tmp_store.get(key) is None
    assert entry.read("a").tolist() == [0, 1, 2]
    entry.close()
    tmp_store.remove(key)  # there is none: nothing happens
    tmp_store.put(key, {"a": np.arange(4)}).close()
    with tmp_store.get(key) as again:
        assert again.read("a").tolist() == [0, 1, 2, 3]
