"""Files appear whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from store_help import names_in

from concept_monitor_cli.errors import CmonError
from concept_monitor_cli.store import atomic_write, remove_leftovers, write_bytes_atomic, write_text_atomic
from concept_monitor_cli.store.atomic import OLD_SECONDS, leftovers, temporary_name


def test_a_file_is_written_and_replaced(tmp_path):
    path = tmp_path / "new" / "run.json"
    write_text_atomic(path, "é\r\n")
    assert path.read_bytes() == "é\r\n".encode()
    write_bytes_atomic(path, b"2")
    assert path.read_bytes() == b"2"
    assert names_in(path.parent) == ["run.json"]


@pytest.mark.parametrize("error", [RuntimeError("mine"), FileNotFoundError("mine"), KeyboardInterrupt()])
def test_an_error_leaves_what_was_there(tmp_path, error):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(type(error)) as caught, atomic_write(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise error
    assert caught.value is error
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["table.csv"]


@pytest.mark.parametrize("name", ["a" * 255, "日" * 85, "two\nlines", 'quote".csv', "file\udcff"])
def test_odd_names(tmp_path, name):
    write_bytes_atomic(tmp_path / name, b"x")
    assert names_in(tmp_path) == [name]


def test_a_name_that_is_a_folder_is_an_error(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(CmonError):
        write_bytes_atomic(tmp_path / "taken", b"x")
    assert names_in(tmp_path) == ["taken"]


_DIE = """
import os, sys
from concept_monitor_cli.store.atomic import atomic_write
with atomic_write(sys.argv[1]) as temporary:
    temporary.write_bytes(b"half")
    os.kill(os.getpid(), 9)
"""


def test_what_a_killed_process_left_is_removed_by_the_next_writer(tmp_path):
    path = tmp_path / "run.json"
    done = subprocess.run([sys.executable, "-c", _DIE, str(path)], check=False)
    assert done.returncode == -9
    assert len(leftovers(tmp_path)) == len(names_in(tmp_path)) == 1
    assert remove_leftovers(tmp_path, "other.json") == []
    write_bytes_atomic(path, b"whole")
    assert names_in(tmp_path) == ["run.json"]


def test_live_files_and_young_ones_of_other_machines_stay(tmp_path):
    mine = tmp_path / temporary_name("x")
    machine, _, rest = mine.name.rpartition(".")[0].rpartition(".")[2].partition("-")
    start = rest.split("-")[1]
    names = {
        "mine": mine.name,
        "dead": f".x.{machine}-4194305-{start}-00000000.tmp",
        "reused": f".x.{machine}-{os.getpid()}-1-00000000.tmp",
        "elsewhere": f".x.{'0' * 8}-1-1-00000000.tmp",
        "elsewhere old": f".y.{'0' * 8}-1-1-00000000.tmp",
        "foreign": ".x.tmp",
    }
    for name in names.values():
        (tmp_path / name).touch()
    os.utime(tmp_path / names["elsewhere old"], (0, 0))
    assert OLD_SECONDS > 3600
    removed = {path.name for path in remove_leftovers(tmp_path)}
    assert removed == {names["dead"], names["reused"], names["elsewhere old"]}


def test_a_zombie_counts_as_dead(tmp_path):
    code = "import sys; from concept_monitor_cli.store.atomic import temporary_name as t; print(t('x'))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    name = process.stdout.readline().strip()
    (tmp_path / name).touch()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and not yet waited for
    assert len(remove_leftovers(tmp_path)) == 1
    process.wait()
    process.stdout.close()


def test_content_is_on_the_disk_before_the_name_and_the_name_before_the_end(tmp_path, monkeypatch):
    """A power cut must leave the old file or the new one: flush the content, rename, flush the folder."""
    target, events, fsync = tmp_path / "file", [], os.fsync

    def flushed(handle):
        stat = os.fstat(handle)
        events.append((stat.st_ino, stat.st_size if target.parent.stat().st_ino != stat.st_ino else None))
        events.append(target.exists())
        fsync(handle)

    monkeypatch.setattr(os, "fsync", flushed)
    write_bytes_atomic(target, b"content")
    content, folder = (target.stat().st_ino, 7), (tmp_path.stat().st_ino, None)
    assert events == [content, False, folder, True]
