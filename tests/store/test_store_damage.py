"""Nothing damaged is ever returned, and damage heals."""

from __future__ import annotations

import numpy as np
import pytest
from store_help import numbers, same

from concept_monitor_cli.store import KINDS, Store
from concept_monitor_cli.store.entry import HEADER_BYTES


def _flip(path, offset, bit=0):
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(data)


def _offsets(size):
    inside = np.random.default_rng(0).integers(HEADER_BYTES, size, 40).tolist()
    return [0, 7, 8, 10, 12, 20, 52, 90, 200, 479, 480, 511, 512, size - 1, *range(1, 512, 37), *inside]


def test_a_flipped_bit_anywhere_is_found_and_healed(tmp_store, told):
    key, arrays = numbers(tmp_store)
    path = tmp_store.put(key, arrays).path
    size = path.stat().st_size
    for count, offset in enumerate(_offsets(size), start=1):
        _flip(path, offset, offset % 8)
        assert Store(tmp_store.root, progress=told).get(key) is None, f"bit at {offset} went unnoticed"
        assert len(told.warnings) == count
        assert str(path) in told.warnings[-1]
        assert not path.exists()
        again = tmp_store.get_or_make(key, lambda w: [w.put(name, a) for name, a in arrays.items()])
        assert same(again, arrays)


@pytest.mark.parametrize("keep", [0, 1, 511, 512, 513, 0.5, -1])
def test_a_file_cut_off_is_found(tmp_store, told, keep):
    key, arrays = numbers(tmp_store)
    path = tmp_store.put(key, arrays).path
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    assert Store(tmp_store.root, progress=told).get(key) is None
    assert len(told.warnings) == 1


def test_a_file_that_grew_is_found(tmp_store):
    key, arrays = numbers(tmp_store)
    path = tmp_store.put(key, arrays).path
    path.write_bytes(path.read_bytes() + b"\0")
    assert Store(tmp_store.root).get(key) is None


def test_another_keys_value_is_not_taken(tmp_store, told):
    key, arrays = numbers(tmp_store, 0)
    other, _ = numbers(tmp_store, 1)
    path = tmp_store.put(key, arrays).path
    tmp_store.path(other).parent.mkdir(parents=True, exist_ok=True)
    path.rename(tmp_store.path(other))
    assert tmp_store.get(other) is None
    assert "another key" in told.warnings[0]


def test_damage_after_the_first_check_is_found_by_the_next_process(tmp_store):
    key, arrays = numbers(tmp_store)
    path = tmp_store.put(key, arrays).path
    _flip(path, 600)
    assert Store(tmp_store.root).get(key) is None


def test_an_entry_is_read_whole_only_once(tmp_store, monkeypatch):
    from concept_monitor_cli.store import store as module

    key, arrays = numbers(tmp_store)
    tmp_store.put(key, arrays)
    fresh, checks = Store(tmp_store.root), []
    whole = module.check_content
    monkeypatch.setattr(module, "check_content", lambda *a: (checks.append(1), whole(*a)))
    for _ in range(3):
        assert same(fresh.get(key), arrays)
    assert len(checks) == 1
    tmp_store.put(key, {"other": np.zeros(2)})  # another process replaces it: checked again
    assert fresh.get(key).names() == ("other",)
    assert len(checks) == 2


def test_old_code_versions_are_not_found_and_count_as_stale(tmp_store, monkeypatch):
    key, arrays = numbers(tmp_store)
    tmp_store.put(key, arrays)
    monkeypatch.setitem(KINDS, "activations", KINDS["activations"] + 1)
    assert tmp_store.get(numbers(tmp_store)[0]) is None
    assert tmp_store.info().stale_entries == 1
    assert tmp_store.verify().damaged == ()
    assert tmp_store.prune(stale=True).removed == 1
    assert tmp_store.info().entries == 0


def test_verify_names_and_removes_what_is_damaged(tmp_store):
    paths = [tmp_store.put(*numbers(tmp_store, seed)).path for seed in range(6)]
    _flip(paths[2], 700)
    _flip(paths[4], 3)
    looked = tmp_store.verify(repair=False)
    assert looked.checked == 6
    assert {each.path for each in looked.damaged} == {paths[2], paths[4]}
    assert not any(each.removed for each in looked.damaged)
    assert tmp_store.info().unreadable == 1
    repaired = tmp_store.verify()
    assert all(each.removed for each in repaired.damaged)
    assert not paths[2].exists()
    assert tmp_store.verify().damaged == ()
    assert tmp_store.info().entries == 4
