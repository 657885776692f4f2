"""Pickles that want to run code, in every way that a pickle has, and those that want to take all memory."""

from __future__ import annotations

import collections
import io
import pickle
import struct
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_help import small_weights

from concept_monitor_cli.checkpoints import load_checkpoint
from concept_monitor_cli.checkpoints.pickles import InertUnpickler
from concept_monitor_cli.checkpoints.standins import InertError
from concept_monitor_cli.errors import InputError

_TORCH = b"ctorch._utils\n_rebuild_tensor_v2\n"


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def program(name: str, marker: str) -> bytes:
    """Pickles that try to run something, each in another way."""
    touch = text(f"touch {marker}")
    run = text(f"__import__('os').system('touch {marker}')")
    return (
        b"\x80\x04"
        + {
            "REDUCE of os.system": b"cos\nsystem\n(" + touch + b"tR.",
            "REDUCE of posix.system": b"cposix\nsystem\n" + touch + b"\x85R.",
            "eval": b"cbuiltins\neval\n" + run + b"\x85R.",
            "exec": b"cbuiltins\nexec\n" + run + b"\x85R.",
            "STACK_GLOBAL": b"\x80\x04" + text("os") + text("system") + b"\x93" + touch + b"\x85R.",
            "INST": b"(" + touch + b"ios\nsystem\n.",
            "OBJ": b"(cos\nsystem\n" + touch + b"o.",
            "NEWOBJ": b"\x80\x02csubprocess\nPopen\n(" + touch + b"l\x85\x81.",
            "NEWOBJ_EX": b"\x80\x04csubprocess\nPopen\n" + touch + b"\x85}\x92.",
            "getattr": b"cbuiltins\ngetattr\ncposixpath\nos\n"
            + text("system")
            + b"\x86R"
            + touch
            + b"\x85R.",
            "partial": b"cfunctools\npartial\ncposixpath\nos.system\n" + touch + b"\x86R)R.",
            "dotted": b"\x80\x04" + text("posixpath") + text("os.system") + b"\x93" + touch + b"\x85R.",
            "map": b"cbuiltins\nmap\ncposixpath\nos.system\n(" + touch + b"l\x86R.",
            "methodcaller": b"coperator\nmethodcaller\n"
            + text("system")
            + touch
            + b"\x86Rcposixpath\nos\n\x85R.",
            "BUILD with __setstate__": b"ctypes\nSimpleNamespace\n)R}"
            + text("__setstate__")
            + b"cposixpath\nos.system\nsb"
            + touch
            + b"b.",
            "BUILD of slots": b"ccollections\nOrderedDict\nN}"
            + text("__init__")
            + b"cposixpath\nos.system\ns\x86b)R.",
            "BUILD of a function": _TORCH + b"N}" + text("__code__") + b"K\x01s\x86b.",
            "numpy": b"cnumpy.testing._private.utils\nrunstring\n" + run + b"}\x86R.",
            "load from bytes": b"ctorch.storage\n_load_from_bytes\nC\x30cos\nsystem\n"
            + touch[:38].ljust(38)
            + b"\x85R.",
            "copyreg": b"ccopyreg\n_reconstructor\n(cposixpath\nos.system\ncbuiltins\nobject\nNtR.",
            "extension": b"\x80\x02\x82\x01" + touch + b"\x85R.",
            "memo": b"cposixpath\nos.system\nq\x010h\x01" + touch + b"\x85R.",
            "persistent id": b"Pos.system\n.",
            "persistent id with a class": b"("
            + text("storage")
            + b"cposixpath\nos.system\n"
            + touch * 3
            + b"tQ.",
        }[name]
    )


PROGRAMS = [
    *(
        "REDUCE of os.system",
        "REDUCE of posix.system",
        "eval",
        "exec",
        "STACK_GLOBAL",
        "INST",
        "OBJ",
        "NEWOBJ",
    ),
    *("NEWOBJ_EX", "getattr", "partial", "dotted", "map", "methodcaller", "BUILD with __setstate__"),
    *("BUILD of slots", "BUILD of a function", "numpy", "load from bytes", "copyreg", "extension", "memo"),
    *("persistent id", "persistent id with a class"),
]


def put(path: Path, data: bytes, form: str) -> None:
    """A pickle as a plain file, in a zip of torch.save, beside sound weights, or in the format before 1.6."""
    if form == "plain":
        path.write_bytes(data if data[:1] == b"\x80" else b"\x80\x02" + data)
    elif form == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("c/data.pkl", data)
            archive.writestr("c/version", "3\n")
    else:
        torch.save({}, path, _use_new_zipfile_serialization=False)
        sound = path.read_bytes()
        path.write_bytes(sound[: sound.rindex(b"\x80\x02}")] + data + pickle.dumps([], 2))


@pytest.mark.parametrize("form", ["plain", "zip", "old"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_hostile_pickle_runs_nothing(tmp_path: Path, name: str, form: str) -> None:
    folder = tmp_path / "o"
    folder.mkdir()
    marker = folder / "ran"
    path = tmp_path / "c.pt"
    put(path, program(name, str(marker)), form)
    with pytest.raises(InputError) as error:
        load_checkpoint(path)
    assert not marker.exists()
    assert error.value.where == str(path)
    assert torch._utils._rebuild_tensor_v2.__code__.co_name == "_rebuild_tensor_v2"
    assert collections.OrderedDict() == {}


@pytest.mark.parametrize("name", ["REDUCE of os.system", "eval", "dotted", "map", "partial"])
def test_the_hostile_pickles_do_run_where_pickle_reads_them(tmp_path: Path, name: str) -> None:
    """Otherwise the test above could not fail."""
    marker = tmp_path / "ran"
    result = pickle.loads(program(name, str(marker)))
    if isinstance(result, map):
        list(result)
    assert marker.exists()


BOMBS = {
    "lists in lists": b"]" * 300_000 + b"a" * 299_999 + b".",
    "tuples in tuples": b")" + b"\x85" * 300_000 + b".",
    "a long key": b"}(" + b"N" * 100_000 + b"t" + b"Ns.",
    "a huge number as a key": b"}\x8b" + struct.pack("<i", 100_000) + b"\x01" * 100_000 + b"Ns.",
    "a name without an end": b"cos" + b"a" * 100_000,
    "a memo that is empty": b"h\x05.",
    "more taken than there is": b"00000.",
    "a key of tuples": b"})" + b"\x85" * 300_000 + b"K\x01s.",
    "a set of tuples": b"\x8f(" + b")" + b"\x85" * 300_000 + b"\x90.",
    "marks": b"(" * 300_000 + b".",
    "laughing lists": b"](K\x01K\x01eq\x00"
    + b"".join(b"0](" + b"h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1]) for i in range(200))
    + b".",
    "copies": b"](" + b"K\x01" * 200_000 + b"eq\x000" + b"cbuiltins\nlist\nh\x00\x85R0" * 2000 + b"N.",
    "laughing dicts": b"}q\x00"
    + b"".join(
        b"0}(" + b"".join(text(f"k{j}") + b"h" + bytes([i]) for j in range(100)) + b"uq" + bytes([i + 1])
        for i in range(20)
    )
    + b".",
    "a long number": b"\x8b\xff\xff\xff\x7f\x01.",
    "a long text": b"X\xff\xff\xff\xff.",
    "a long decimal": b"L" + b"9" * 100_000 + b"L\n.",
    "a high memo": b"Nr\xff\xff\xff\xff.",
    "nothing": b".",
    "a bytearray": b"cbuiltins\nbytearray\n\x8a\x06\x00\x00\x00\x00\x00\x10\x85R.",
    "an array": b"cnumpy\nndarray\n(\x8a\x06\x00\x00\x00\x00\x00\x10\x85tR.",
    "a range": b"cbuiltins\nlist\ncbuiltins\nrange\n\x8a\x06\x00\x00\x00\x00\x00\x10\x85R\x85R.",
}


@pytest.mark.parametrize("form", ["plain", "zip", "old"])
@pytest.mark.parametrize("name", BOMBS)
def test_a_pickle_that_would_take_all_memory_or_time(tmp_path: Path, name: str, form: str) -> None:
    path = tmp_path / "c.pt"
    put(path, BOMBS[name], form)
    began = time.process_time()
    with pytest.raises(InputError):
        load_checkpoint(path)
    assert time.process_time() - began < 20


def test_a_zip_bomb(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("c/data.pkl", b"]" * 50_000_000)
    assert path.stat().st_size < 100_000
    with pytest.raises(InputError, match="compressed"):
        load_checkpoint(path)
    torch.save(small_weights(), tmp_path / "d.pt")
    with zipfile.ZipFile(tmp_path / "d.pt") as sound, zipfile.ZipFile(path, "w") as archive:
        for info in sound.infolist():
            kind = zipfile.ZIP_DEFLATED if "/data/" in info.filename else zipfile.ZIP_STORED
            archive.writestr(info.filename, sound.read(info), compress_type=kind)
    with pytest.raises(InputError, match="compressed"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "numbers",
    [
        (0, (2**40, 2**40), (1, 1)),
        (10**9, (2,), (1,)),
        (0, (3,), (10**12,)),
        (-1, (2,), (1,)),
        (0, (-2,), (1,)),
        (0, (2, 2), (1,)),
        (0, ("2",), (1,)),
    ],
)
def test_a_tensor_outside_its_storage(tmp_path: Path, numbers: tuple[Any, ...]) -> None:
    offset, size, stride = numbers

    class Outside:
        def __reduce__(self) -> tuple[Any, ...]:
            storage = torch.ones(4).untyped_storage()
            typed = torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True)
            return torch._utils._rebuild_tensor_v2, (
                typed,
                offset,
                size,
                stride,
                False,
                collections.OrderedDict(),
            )

    for zipped in (True, False):
        torch.save({"w": Outside()}, tmp_path / "c.pt", _use_new_zipfile_serialization=zipped)
        with pytest.raises(InputError):
            load_checkpoint(tmp_path / "c.pt")


@pytest.mark.parametrize("name", ["dotted", "REDUCE of os.system"])
def test_nothing_beside_the_weights_is_run(tmp_path: Path, name: str) -> None:
    marker, path = tmp_path / "ran", tmp_path / "model.pt"

    class Beside:
        def __reduce__(self) -> tuple[object, tuple[bytes]]:
            return pickle.loads, (program(name, str(marker)),)

    torch.save({"state_dict": {"weight": torch.ones(2, 2)}, "beside": Beside()}, path)
    with pytest.raises(InputError, match="nothing was run"):
        load_checkpoint(path)
    assert not marker.exists()


def test_the_same_list_again_and_again_is_no_memory_bomb() -> None:
    long = b"\x80\x02](" + b"N" * 10_000 + b"eq\x00"
    program = long + b"(" + b"cbuiltins\nlist\n(h\x00tR" * 10_000 + b"l."
    with pytest.raises(InertError, match="too often"):
        InertUnpickler(io.BytesIO(program)).load()


def test_the_same_bytes_are_read_once() -> None:
    calls = []

    def read(data: bytes) -> torch.Tensor:
        calls.append(data)
        return torch.ones(3)

    program = b"\x80\x03C\x03abcq\x000(" + b"ctorch.storage\n_load_from_bytes\n(h\x00tR" * 100 + b"l."
    assert len(InertUnpickler(io.BytesIO(program), from_bytes=read).load()) == 100
    assert len(calls) == 1


@pytest.mark.parametrize("where", ["data.pkl", "data/0"])
def test_a_record_that_begins_outside_the_file(tmp_path: Path, where: str) -> None:
    path = tmp_path / "model.pt"
    torch.save({"weight": torch.ones(4, 4), "other": torch.ones(4, 4)}, path)
    data = bytearray(path.read_bytes())
    at = data.rindex(where.encode())  # in the archive's directory; the offset stands right before the name
    data[at - 4 - len("model/") : at - len("model/")] = b"\xf0\xff\xff\x7f"
    path.write_bytes(data)
    with pytest.raises(InputError):
        load_checkpoint(path)


def test_a_package_of_the_users_own_may_be_called_code() -> None:
    machine = InertUnpickler(io.BytesIO(b"\x80\x02ccode.models\nNet\n)R."))
    machine.load()
    assert list(machine.unknown) == ["code.models.Net"]
