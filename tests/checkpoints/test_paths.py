"""Checkpoints under names that are no UTF-8."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from concept_monitor_cli.checkpoints import load_checkpoint
from concept_monitor_cli.checkpoints.paths import in_utf8, is_utf8, printable


@pytest.mark.parametrize(("folder", "name"), [(b"fot\xe9", b"epoch_1"), (b"photo", b"\xe9poque_1")])
@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_a_sound_checkpoint_is_read(tmp_path: Path, folder: bytes, name: bytes, ending: str) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + folder)) / os.fsdecode(
        name + b"." + ending.encode()
    )
    path.parent.mkdir()
    weights = {"conv.weight": torch.randn(2, 3)}
    if ending == "pt":
        with path.open("wb") as file:
            torch.save({"state_dict": weights, "epoch": 1}, file)
    else:
        path.write_bytes(save(weights))
    assert not is_utf8(path)
    for lazy in (False, True):
        found = load_checkpoint(path, lazy=lazy).state_dict["conv.weight"]
        assert torch.equal(torch.as_tensor(found), weights["conv.weight"])


def test_names() -> None:
    assert printable("fot\udce9.pt") == "fot\\xe9.pt"
    assert printable("épo.pt") == "épo.pt"
    assert in_utf8(Path("épo.pt")) == Path("épo.pt")
