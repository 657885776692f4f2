"""Killed writers, several processes, full and read-only disks. Real processes, real signals, real disks."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from store_help import names_in, numbers, remount_read_only, same, temporary_files

from concept_monitor_cli.errors import CmonError
from concept_monitor_cli.store import Store

_WRITE = """
import sys, numpy as np
from concept_monitor_cli.store import Store
store = Store(sys.argv[1])
rows = np.full((16, 4096), 7, np.uint8)
for number in range(10_000):
    with store.writer(store.key("pixels", number=number)) as writer:
        writer.create("a", (256, 4096), np.uint8)
        for start in range(0, 256, 16):
            writer.write("a", start, rows)
        writer.put("names", np.array(["x"] * 10))
    print("published", flush=True)
"""


def test_killed_at_random_moments(tmp_path):
    """What a killed writer leaves is whole entries, and at most one temporary file that goes by itself."""
    chance = random.Random(0)
    store = Store(tmp_path / "store")
    most = 0
    for _ in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", _WRITE, str(store.root)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        published = chance.randrange(1, 6)
        for _ in range(published):
            assert process.stdout.readline() == "published\n"
        most = max(most, published)
        time.sleep(chance.uniform(0, 0.02))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert len(temporary_files(store.root)) <= 1
        assert store.verify().damaged == ()
        store.prune()
        assert temporary_files(store.root) == []
    assert store.info().entries >= most
    number = 0
    while (entry := store.get(store.key("pixels", number=number))) is not None:
        assert (entry.read("a") == 7).all()
        entry.close()
        number += 1
    assert number == store.info().entries


_SHARE = """
import os, sys, time
import numpy as np
from concept_monitor_cli.store import Store
store = Store(sys.argv[1])
while not os.path.exists(sys.argv[2]):
    time.sleep(0.001)
for number in range(50):
    def make(writer):
        print("made", number, flush=True)
        writer.put("a", np.full((1000, 8), number))
    with store.get_or_make(store.key("null", number=number), make) as entry:
        assert (entry.read("a") == number).all()
"""


def test_four_processes_share_the_work_and_repeat_none(tmp_path):
    go = tmp_path / "go"
    arguments = [sys.executable, "-c", _SHARE, str(tmp_path / "store"), str(go)]
    processes = [
        subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    go.touch()
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, outputs
    made = [line for out, _ in outputs for line in out.splitlines()]
    assert sorted(made) == sorted(f"made {number}" for number in range(50))
    store = Store(tmp_path / "store")
    assert store.info().entries == 50
    assert store.verify().damaged == ()
    assert temporary_files(store.root) == []
    assert list((store.root / "locks").iterdir()) == []


_HOLD = """
import sys, time
from concept_monitor_cli.store import Store
store = Store(sys.argv[1])
with store.lock(store.key("null")):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_killed_holder_frees_its_lock(tmp_path):
    store = Store(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    process.kill()
    process.wait()
    process.stdout.close()
    begin = time.monotonic()
    store.get_or_make(store.key("null"), lambda writer: writer.put("a", np.zeros(1)))
    assert time.monotonic() - begin < 5


def test_two_writers_of_one_key_do_not_disturb_each_other(tmp_store):
    """Nothing depends on the lock."""
    key, arrays = numbers(tmp_store)
    with tmp_store.writer(key) as slow:
        with tmp_store.writer(key) as fast:
            for name, array in arrays.items():
                slow.put(name, array)
                fast.put(name, array)
        assert same(tmp_store.get(key), arrays)
    assert same(tmp_store.get(key), arrays)
    assert same(fast.entry, arrays)


def test_a_file_system_without_locks_is_warned_of_and_worked_with(tmp_store, told, monkeypatch):
    import errno

    import filelock

    def no_locks(self, *args, **kwargs):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(filelock.FileLock, "acquire", no_locks)
    entry = tmp_store.get_or_make(tmp_store.key("null"), lambda writer: writer.put("a", np.ones(3)))
    assert entry.read("a").tolist() == [1, 1, 1]
    assert "no file locks" in told.warnings[0]


_FILL = """
import sys, numpy as np
from concept_monitor_cli.errors import CmonError
from concept_monitor_cli.store import Store, atomic
from concept_monitor_cli.store import entry as module
if sys.argv[2] == "late":  # not told beforehand that there is no room: it ends while writing
    module.check_room = lambda folder, wanted: None
store = Store(sys.argv[1])
try:
    for number in range(100):
        with store.writer(store.key("pixels", number=number)) as writer:
            writer.create("a", (100, 4096), np.uint8)
            for row in range(100):
                writer.write("a", row, np.full((1, 4096), 7, np.uint8))
            for extra in range(300):  # structure, not rows
                writer.put(f"x{extra}", np.zeros(0))
except CmonError as error:
    print(error.what, "|", error.where, "|", error.hint)
    sys.exit(1)
"""


@pytest.mark.parametrize("when", ["early", "late"])
def test_a_full_disk(mounted_tmpfs, when):
    disk = mounted_tmpfs("size=3m")
    root = disk / "store"
    done = subprocess.run(
        [sys.executable, "-c", _FILL, str(root), when], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr  # HDF5 itself would have crashed the process
    assert done.stderr == ""
    assert done.stdout.startswith(f"the disk is full | {root} | make room")
    assert "--cache-dir" in done.stdout
    store = Store(root)
    assert 0 < store.info().entries < 10
    assert store.verify().damaged == ()
    assert temporary_files(disk) == []
    store.prune(max_bytes=0)
    store.put(store.key("pixels", number=0), {"a": np.ones((100, 4096), np.uint8)})  # with room it goes on


def test_a_full_disk_and_other_files(mounted_tmpfs):
    from concept_monitor_cli.store import write_bytes_atomic

    disk = mounted_tmpfs("size=1m")
    write_bytes_atomic(disk / "table.csv", b"old")
    with pytest.raises(CmonError, match="the disk is full") as caught:
        write_bytes_atomic(disk / "table.csv", bytes(2 << 20))
    assert "--out" in str(caught.value.hint)
    assert (disk / "table.csv").read_bytes() == b"old"
    assert names_in(disk) == ["table.csv"]


def test_a_read_only_store_is_read_and_not_written(mounted_tmpfs, told):
    disk = mounted_tmpfs("size=3m")
    key, arrays = numbers(Store(disk))
    path = Store(disk).put(key, arrays).path
    damaged = Store(disk).put(*numbers(Store(disk), 1))
    damaged.close()
    data = bytearray(damaged.path.read_bytes())
    data[-1] ^= 1
    damaged.path.write_bytes(data)
    os.utime(path, (0, 0))
    remount_read_only(disk)
    store = Store(disk, progress=told)
    with store.get(key) as entry:
        assert same(entry, arrays)
    with store.get_or_make(key, lambda writer: pytest.fail("it is there")) as entry:
        assert same(entry, arrays)
    missing, _ = numbers(store, 2)
    assert store.get(missing) is None
    for attempt in (
        lambda: store.put(missing, arrays),
        lambda: store.get_or_make(missing, lambda writer: None),
    ):
        with pytest.raises(CmonError) as caught:
            attempt()
        assert caught.value.where == str(disk)
        assert "--cache-dir" in str(caught.value.hint)
    assert store.get(damaged.key) is None
    assert "cannot be removed" in told.warnings[0]
    assert [each.removed for each in store.verify().damaged] == [False]
    with pytest.raises(CmonError):
        store.prune(max_bytes=0)


def test_a_root_that_is_a_file_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    store = Store(tmp_path / "file")
    assert store.get(store.key("null")) is None
    with pytest.raises(CmonError):
        store.put(store.key("null"), {})
