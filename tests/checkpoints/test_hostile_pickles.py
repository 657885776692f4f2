"""Pickles that want to run code, in every way that a pickle has, and those that want to take all memory."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch

from concept_monitor_cli.checkpoints import load_checkpoint
from concept_monitor_cli.checkpoints.pickles import InertError, InertUnpickler
from concept_monitor_cli.errors import InputError


def _text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def _hostile(command: str) -> dict[str, bytes]:
    """Programs that run `command` in Python's own unpickler."""
    text, code = _text(command), _text(f"__import__('os').system({command!r})")
    call = b"(" + text + b"t"
    return {
        "REDUCE": b"\x80\x02cos\nsystem\n" + call + b"R.",
        "posix": b"\x80\x02cposix\nsystem\n" + call + b"R.",
        "eval": b"\x80\x02cbuiltins\neval\n(" + code + b"tR.",
        "Python 2": b"\x80\x02c__builtin__\neval\n(" + code + b"tR.",
        "INST": b"\x80\x02(" + text + b"ios\nsystem\n.",
        "OBJ": b"\x80\x02(cos\nsystem\n" + text + b"o.",
        "STACK_GLOBAL": b"\x80\x04" + _text("os") + _text("system") + b"\x93" + call + b"R.",
        "NEWOBJ": b"\x80\x02csubprocess\nPopen\n(" + b"(" + _text("sh") + _text("-c") + text + b"ltt\x81.",
        "NEWOBJ_EX": b"\x80\x04csubprocess\nPopen\n((" + _text("sh") + _text("-c") + text + b"lt}\x92.",
        "memo": b"\x80\x02cos\nsystem\nq\x000h\x00" + call + b"R.",
        "nested name": b"\x80\x04" + _text("shutil") + _text("os.system") + b"\x93" + call + b"R.",
        "getattr": b"\x80\x02cbuiltins\ngetattr\n(cos\n__dict__\n"
        + _text("get")
        + b"tR("
        + _text("system")
        + b"tR"
        + call
        + b"R.",
        "partial": b"\x80\x02cfunctools\npartial\n(cos\nsystem\n" + text + b"tR)R.",
        "__setstate__": b"\x80\x02ctypes\nSimpleNamespace\n)R}"
        + _text("__setstate__")
        + b"cos\nsystem\nsb"
        + text
        + b"b.",
        "map": b"\x80\x02cbuiltins\nlist\n(cbuiltins\nmap\n(cos\nsystem\n(" + text + b"ltRtR.",
        "persistent id": b"\x80\x02cos\nsystem\n" + call + b"RQ.",
    }


_RUN_BY_PICKLE = (
    "REDUCE",
    "posix",
    "eval",
    "INST",
    "OBJ",
    "STACK_GLOBAL",
    "memo",
    "nested name",
    "partial",
    "__setstate__",
    "map",
)


@pytest.mark.parametrize("name", sorted(_hostile("")))
@pytest.mark.parametrize("form", ["pickle", "zip"])
def test_nothing_that_a_file_names_is_run(tmp_path: Path, name: str, form: str) -> None:
    marker, path = tmp_path / "ran", tmp_path / "model.pt"
    _write(path, _hostile(f"touch {marker}")[name], form)
    with pytest.raises(InputError):
        load_checkpoint(path)
    assert not marker.exists()


@pytest.mark.parametrize("name", _RUN_BY_PICKLE)
def test_the_programs_are_what_they_claim_to_be(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "ran"
    try:
        made = pickle.loads(_hostile(f"touch {marker}")[name])
        if hasattr(made, "wait"):
            made.wait()
    except Exception:  # some are only damaged once they have run
        pass
    assert marker.exists()


@pytest.mark.parametrize("name", ["partial", "REDUCE"])
def test_nothing_beside_the_weights_is_run(tmp_path: Path, name: str) -> None:
    marker, path = tmp_path / "ran", tmp_path / "model.pt"

    class Beside:
        def __reduce__(self) -> tuple[object, tuple[bytes]]:
            return pickle.loads, (_hostile(f"touch {marker}")[name],)

    torch.save({"state_dict": {"weight": torch.ones(2, 2)}, "beside": Beside()}, path)
    with pytest.raises(InputError, match="nothing was run"):
        load_checkpoint(path)
    assert not marker.exists()


def test_a_module_that_is_named_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "ran"
    (tmp_path / "hostile_module.py").write_text(f"open({str(marker)!r}, 'w')\nclass Thing: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    machine = InertUnpickler(io.BytesIO(b"\x80\x02chostile_module\nThing\n)R."))
    machine.load()
    assert list(machine.unknown) == ["hostile_module.Thing"]
    assert not marker.exists()


_DEEP = 200_000


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(b"\x80\x02]" + b"(" * _DEEP + b".", id="marks"),
        pytest.param(b"\x80\x02N" + b"\x85" * _DEEP + b".", id="tuples"),
        pytest.param(b"\x80\x02}N" + b"\x85" * _DEEP + b"Ns.", id="a deep key"),
        pytest.param(b"\x80\x02}(" + b"N" * 100_000 + b"t" + b"Ns.", id="a long key"),
        pytest.param(
            b"\x80\x02}\x8b" + struct.pack("<i", 100_000) + b"\x01" * 100_000 + b"Ns.", id="a huge number"
        ),
        pytest.param(b"\x80\x02cos" + b"a" * 100_000, id="a name without an end"),
        pytest.param(b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"abc.", id="bytes of an impossible size"),
        pytest.param(b"\x80\x02Nr\xff\xff\xff\xff.", id="a memo of an impossible size"),
        pytest.param(b"\x80\x02h\x05.", id="a memo that is empty"),
        pytest.param(b"\x80\x0200000.", id="more taken than there is"),
        pytest.param(b"\x80\x02\x82\x01)R.", id="an extension"),
        pytest.param(b"\x80\x02N", id="no end"),
    ],
)
def test_programs_that_are_no_checkpoint(tmp_path: Path, program: bytes) -> None:
    path = tmp_path / "model.pkl.pt"
    for form in ("pickle", "zip"):
        _write(path, program, form)
        with pytest.raises(InputError):
            load_checkpoint(path)


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


def test_a_compressed_archive_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", b"\x80\x02" + b"N0" * 20_000_000 + b"N.")
    assert path.stat().st_size < 1_000_000
    with pytest.raises(InputError, match="compressed"):
        load_checkpoint(path)


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


def _write(path: Path, program: bytes, form: str) -> None:
    if form == "pickle":
        path.write_bytes(program)
        return
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", program)
        archive.writestr("model/version", "3\n")
