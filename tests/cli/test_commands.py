"""Commands that look: at checkpoints, layers, the cache, the machine."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from concept_monitor_cli.cli import main
from concept_monitor_cli.cli.sizes import readable_count, readable_size
from concept_monitor_cli.models import cifar
from concept_monitor_cli.store import Store


def answer(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, dict[str, Any]]:
    code = main([*args, "--json"])
    parsed: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, parsed


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return cifar.model_factory("cifar_resnet20")(num_classes=7)


@pytest.fixture
def folder(tmp_path: Path, network: nn.Module) -> Path:
    """Three epochs, wrapped as trainers do."""
    folder = tmp_path / "ckpts"
    folder.mkdir()
    for epoch in (2, 10, 1):
        next(network.parameters()).data += 1
        weights = {f"module.{name}": value.clone() for name, value in network.state_dict().items()}
        torch.save({"state_dict": weights, "epoch": epoch}, folder / f"net_{epoch}.pt")
    return folder


# -- checkpoints -------------------------------------------------------------------------------


def test_checkpoints(folder: Path, network: nn.Module, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = answer(capsys, "checkpoints", str(folder))
    assert code == 0
    rows = found["checkpoints"]
    assert [row["epoch"] for row in rows] == [1, 2, 10]
    assert [row["name"] for row in rows] == ["net_1.pt", "net_2.pt", "net_10.pt"]
    for row in rows:
        assert row["architecture"] == "cmon/cifar_resnet20"
        assert row["parameters"] == sum(value.numel() for value in network.parameters())
        assert row["bytes"] == (folder / row["name"]).stat().st_size
        assert (row["where"], row["stripped"]) == ("state_dict", ["module."])
        assert row["problem"] is None
    assert main(["checkpoints", str(folder)]) == 0
    text = capsys.readouterr().out
    assert "cifar_resnet20" in text
    assert "net_10.pt" in text


def test_broken_checkpoints_are_named_and_the_rest_is_listed(
    folder: Path, network: nn.Module, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "net_[b]3.pt").write_bytes((folder / "net_1.pt").read_bytes()[:5000])
    next(network.parameters()).data[0] = float("nan")
    torch.save({"state_dict": network.state_dict(), "epoch": 11}, folder / "net_11.pt")
    code, found = answer(capsys, "checkpoints", str(folder))
    assert code == 3
    problems = {row["name"]: row["problem"] for row in found["checkpoints"] if row["problem"]}
    assert set(problems) == {"net_[b]3.pt", "net_11.pt"}
    assert "NaN" in problems["net_11.pt"]
    assert main(["checkpoints", str(folder)]) == 3
    captured = capsys.readouterr()
    assert "net_[b]3.pt" in captured.err
    assert "net_2.pt" in captured.out


def test_nothing_but_broken_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.pt").write_bytes(b"no checkpoint")
    assert main(["checkpoints", "a.pt"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert "a.pt" in captured.err
    (tmp_path / "b.pt").write_bytes(b"no checkpoint")
    code, found = answer(capsys, "checkpoints", str(tmp_path))
    assert code == 2
    assert len(found["checkpoints"]) == 2


def test_no_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = answer(capsys, "checkpoints", str(tmp_path))
    assert code == 2
    assert found["error"]["kind"] == "InputError"
    code, found = answer(capsys, "checkpoints", "absent/")
    assert code == 2


# -- layers ------------------------------------------------------------------------------------


def test_layers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = answer(capsys, "layers", str(folder / "net_1.pt"))
    assert code == 0
    assert found["architecture"] == "cmon/cifar_resnet20"
    assert found["input_size"] == 32
    layers = {layer["name"]: layer for layer in found["layers"]}
    assert layers["layer3"]["units"] == 64
    assert layers["layer3"]["shape"] == [64, 8, 8]
    assert layers["layer3"]["map_size"] == [8, 8]
    # The stages; with --all every layer that does not only pass on what it gets.
    assert list(layers) == ["layer1", "layer2", "layer3"]
    code, found = answer(capsys, "layers", str(folder), "--all")
    every = {layer["name"]: layer for layer in found["layers"]}
    assert len(every) > 20
    assert "Identity" not in {layer["type"] for layer in every.values()}
    assert [name for name in every if every[name]["stage"]] == list(layers)
    assert main(["layers", str(folder)]) == 0
    assert "--layer auto is layer2,layer3" in capsys.readouterr().out
    assert main(["layers", str(folder), "--match", "layer3*"]) == 0
    text = capsys.readouterr().out
    assert "8 x 8" in text
    assert "layer2" not in text


def test_no_layer_of_that_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = answer(capsys, "layers", str(folder), "--match", "block*")
    assert code == 2
    assert "block*" in found["error"]["message"]


# -- cache -------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    store = Store(tmp_path / "cache")
    for number in range(3):
        key = store.key("text_embeddings", words=[str(number)])
        store.put(key, {"embeddings": np.full((100, 8), number, dtype=np.float32)})
        os.utime(store.path(key), (1e9 + number, 1e9 + number))
    return store.root


def test_cache_info(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = answer(capsys, "cache", "info", "--cache-dir", str(cache))
    assert code == 0
    assert found["entries"] == found["kinds"]["text_embeddings"]["entries"] == 3
    assert found["bytes"] == sum(path.stat().st_size for path in cache.rglob("*.h5"))
    assert main(["cache", "info", "--cache-dir", str(cache)]) == 0
    assert "text_embeddings" in capsys.readouterr().out


def test_cache_verify(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(capsys, "cache", "verify", "--cache-dir", str(cache))[0] == 0
    victim = sorted(cache.rglob("*.h5"))[0]
    content = bytearray(victim.read_bytes())
    content[-100] ^= 1
    victim.write_bytes(content)
    code, found = answer(capsys, "cache", "verify", "--dry-run", "--cache-dir", str(cache))
    assert code == 1, "damage stays where it is"
    assert len(found["damaged"]) == 1
    assert victim.exists()
    code, found = answer(capsys, "cache", "verify", "--cache-dir", str(cache))
    assert code == 0
    assert not victim.exists()


def test_cache_prune(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    each = next(cache.rglob("*.h5")).stat().st_size
    code, found = answer(capsys, "cache", "prune", "--cache-dir", str(cache))
    assert (code, found["removed"], found["kept"]) == (0, 0, 3)
    limit = f"{2 * each / 1000:.3f}kB"
    code, found = answer(capsys, "cache", "prune", "--max-size", limit, "--cache-dir", str(cache))
    assert (found["removed"], found["kept"]) == (1, 2)
    code, found = answer(capsys, "cache", "prune", "--older-than", "30d", "--cache-dir", str(cache))
    assert (found["removed"], found["kept"]) == (2, 0)


def test_cache_prune_all(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "prune", "--all", "--max-size", "1GB", "--cache-dir", str(cache)]) == 2
    assert len(list(cache.rglob("*.h5"))) == 3
    assert main(["cache", "prune", "--all", "--cache-dir", str(cache)]) == 0
    assert list(cache.rglob("*.h5")) == []


# -- doctor ------------------------------------------------------------------------------------


def test_doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    cache = tmp_path / "cache"
    code, found = answer(capsys, "doctor", "--cache-dir", str(cache))
    states = {finding["name"]: finding for finding in found["findings"]}
    assert found["ok"] == (code == 0) == all(f["state"] != "problem" for f in found["findings"])
    for name in ("python", "libraries", "torchvision", "ViT-B-16/openai", "SLURM", "terminal", "plot font"):
        assert name in states
    assert str(cache) in states["cache"]["value"]
    assert torch.__version__.split("+")[0] in states["libraries"]["value"]
    assert not cache.exists(), "looking changes nothing"
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    main(["doctor", "--cache-dir", str(cache)])
    said = capsys.readouterr().out
    assert "inside job 42" in said
    # Commands are lines of their own, so that they can be copied from a terminal of any width.
    for command in (finding["command"] for finding in found["findings"] if finding["command"]):
        assert f"    {command}" in said.splitlines()


def test_doctor_calls_a_missing_right_a_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    code, found = answer(capsys, "doctor", "--cache-dir", str(tmp_path / "file" / "cache"))
    assert code == 1
    assert [finding["name"] for finding in found["findings"] if finding["state"] == "problem"] == ["cache"]


# -- numbers -----------------------------------------------------------------------------------


def test_numbers_for_people() -> None:
    assert [readable_size(n) for n in (0, 999, 1000, 9.5e9, 123e6, 2e12)] == [
        *("0 bytes", "999 bytes", "1.0 kB", "9.5 GB", "123 MB", "2.0 TB")
    ]
    assert [readable_count(n) for n in (0, 9999, 269_722, 11_689_512, 7e9)] == [
        *("0", "9999", "270 k", "11.7 M", "7 G")
    ]
