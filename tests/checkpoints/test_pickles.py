"""Pickles are read without importing or calling anything that they name."""

from __future__ import annotations

import argparse
import collections
import datetime
import enum
import functools
import operator
import pathlib
import pickle
import sys
import types
import uuid
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_help import Config, same, small_network, small_weights
from torch import nn

from concept_monitor_cli.checkpoints import load_checkpoint


class Colour(enum.Enum):
    RED = 1


class Flags(enum.Flag):
    A = 1
    B = 2


class Dotted(dict):  # type: ignore[type-arg]
    """As addict's, mmengine's, easydict's."""


class Listed(list):  # type: ignore[type-arg]
    """As fastcore's `L`."""


class Slotted:
    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 3


class Stateful:
    """Would run on loading."""

    ran = False

    def __setstate__(self, state: object) -> None:
        type(self).ran = True

    def __getstate__(self) -> dict[str, int]:
        return {"a": 1}


class History:
    """As mmengine's HistoryBuffer: arrays, and functions by name."""

    def __init__(self) -> None:
        self.log = np.arange(3.0)
        self.methods = {"mean": operator.itemgetter(1)}


def scheduler() -> torch.optim.lr_scheduler.LRScheduler:
    """Made when it is needed: the first optimizer of a process imports the compiler, which takes a second."""
    return torch.optim.lr_scheduler.StepLR(torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1), 3)


OBJECTS: dict[str, Any] = {
    "partial": functools.partial(torch.optim.Adam, lr=0.1),
    "class": torch.optim.SGD,
    "function": collections.namedtuple,
    "loss": nn.CrossEntropyLoss(weight=torch.ones(5)),
    "enum": Colour.RED,
    "flags": Flags.A | Flags.B,
    "dict of its own": Dotted(lr=0.1, inner=Dotted(a=1)),
    "list of its own": Listed([1, 2]),
    "slots": Slotted(),
    "setstate": Stateful(),
    "history": History(),
    "namespace": argparse.Namespace(lr=0.1, config=Config()),
    "simple namespace": types.SimpleNamespace(lr=0.1),
    "numbers of numpy": [np.float32(1.5), np.int64(3), np.bool_(True), np.str_("a")],
    "records": [np.zeros(2, dtype=[("a", "i4"), ("b", "f4")]), np.array([(1, 2.0)], dtype="i4,f4")[0]],
    "nothing in bytes": [b"", np.zeros((0, 3)), bytearray()],
    "arrays": [np.arange(6).reshape(2, 3), np.array(["a", "b"]), np.array([{"a": 1}], dtype=object)],
    "generator": np.random.default_rng(0),
    "random state": np.random.RandomState(0).get_state(),
    "datetime": [datetime.datetime(2024, 1, 31), datetime.timedelta(3), datetime.timezone.utc],
    "paths": [Path("a/b"), pathlib.PureWindowsPath("C:/a")],
    "uuid": uuid.UUID(int=3),
    "decimal": [Decimal("1.5"), Fraction(1, 3), 1 + 2j],
    "sets": [{1, 2}, frozenset({3}), collections.deque([1]), collections.Counter("aab")],
    "defaultdict": collections.defaultdict(list, a=[1]),
    "device": torch.device("cuda:0"),
    "dtype": [torch.float16, torch.Size([2, 3])],
    "scheduler": None,
    "exception": ValueError("x"),
    "bound method": "text".upper,
    "range": [range(3), slice(1, 2), bytearray(b"ab"), b"\xff" * 5],
}


@pytest.mark.parametrize("form", ["zip", "old", "plain"])
@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_beside_the_weights_is_no_hindrance(tmp_path: Path, name: str, form: str) -> None:
    extra = scheduler() if name == "scheduler" else OBJECTS[name]
    path, content = tmp_path / "c.pt", {"extra": extra, "state_dict": small_weights(), "epoch": 3}
    if form == "plain":
        path.write_bytes(pickle.dumps(content, protocol=pickle.HIGHEST_PROTOCOL))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    for lazy in (True, False):
        loaded = load_checkpoint(path, lazy=lazy)
        assert same(loaded.state_dict, small_weights())
        assert loaded.epoch == 3
    assert not Stateful.ran


def test_a_windows_path_is_no_hindrance(tmp_path: Path) -> None:
    data = pickle.dumps({"state_dict": small_weights(), "out": Path("a")}, protocol=2)
    assert b"PosixPath" in data
    (tmp_path / "c.pt").write_bytes(data.replace(b"PosixPath", b"WindowsPath"))
    assert same(load_checkpoint(tmp_path / "c.pt").state_dict, small_weights())


def test_what_was_left_out_is_named(tmp_path: Path) -> None:
    from concept_monitor_cli.progress import Silent

    said: list[str] = []

    class Heard(Silent):
        def detail(self, message: str) -> None:
            said.append(message)

    torch.save({"state_dict": small_weights(), "a": Config(), "b": OBJECTS["partial"]}, tmp_path / "c.pt")
    loaded = load_checkpoint(tmp_path / "c.pt", progress=Heard())
    assert loaded.unread == ("checkpoint_help.Config", "functools.partial")
    assert "checkpoint_help.Config, functools.partial" in said[0]


def test_no_module_of_the_file_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "imported_by_a_pickle.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "c.pt"
    data = pickle.dumps({"state_dict": small_weights(), "a": Config()}, protocol=2)
    path.write_bytes(data.replace(b"checkpoint_help\nConfig", b"imported_by_a_pickle\nX"))
    before = set(sys.modules)
    assert load_checkpoint(path).unread == ("imported_by_a_pickle.X",)
    assert set(sys.modules) == before


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_every_protocol(tmp_path: Path, protocol: int, zipped: bool) -> None:
    weights = small_weights()
    weights["0.weight"] = weights["0.weight"].transpose(0, 1)  # with strides of its own
    weights["1.weight"] = weights["4.weight"]  # the same storage
    weights["half"] = torch.arange(4).to(torch.bfloat16)[1:3]
    weights["empty"] = torch.zeros(0, 3)
    weights["flags"] = torch.tensor([True, False])
    weights["complex"] = torch.tensor([1 + 2j]).conj()
    weights["eight"] = torch.ones(3).to(torch.float8_e4m3fn)
    torch.save(weights, tmp_path / "c.pt", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    loaded = load_checkpoint(tmp_path / "c.pt").state_dict
    assert loaded.keys() == weights.keys()
    for name, value in weights.items():
        assert loaded[name].dtype == value.dtype
        one, other = (
            tensor.float() if tensor.element_size() == 1 else tensor for tensor in (loaded[name], value)
        )
        assert torch.equal(one.resolve_conj(), other.resolve_conj()), name


def test_parameters_and_tensors_of_a_subclass(tmp_path: Path) -> None:
    weights: dict[str, Any] = {
        name: nn.Parameter(v, v.is_floating_point()) if v.is_floating_point() else v
        for name, v in small_weights().items()
    }
    torch.save(weights, tmp_path / "c.pt")
    loaded = load_checkpoint(tmp_path / "c.pt").state_dict
    assert same(loaded, small_weights())
    assert not any(isinstance(value, nn.Parameter) for value in loaded.values())


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = small_network()
        self.register_buffer("kept", torch.arange(3.0))
        self.register_buffer("fleeting", torch.ones(3), persistent=False)
        self.act = functools.partial(nn.functional.gelu)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_whole_pickled_network_is_read_without_its_code(tmp_path: Path, zipped: bool) -> None:
    network = Network()
    for content in (network, {"model": network, "epoch": 2}, {"ema": network, "model": None}):
        torch.save(content, tmp_path / "c.pt", _use_new_zipfile_serialization=zipped)
        loaded = load_checkpoint(tmp_path / "c.pt")
        assert same(loaded.state_dict, dict(network.state_dict()))
        assert list(loaded.state_dict) == list(network.state_dict())
