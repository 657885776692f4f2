"""Files that are no checkpoints, or not only: each is refused with what, where and what to do."""

from __future__ import annotations

import io
import pickle
import random
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoint_help import Config, Marker, Packed, Scaled, same, small_network, small_weights
from late import Late
from safetensors.torch import save_file

from concept_monitor_cli.checkpoints import load_checkpoint
from concept_monitor_cli.errors import InputError

dcp = Late("torch.distributed.checkpoint")


def refused(path: Path, **options: bool) -> InputError:
    with pytest.raises(InputError) as error:
        load_checkpoint(path, **options)
    assert error.value.where == str(path)
    assert all("\n" not in line for line in error.value.lines())
    return error.value


# -- code ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("form", ["zip", "old", "plain pickle"])
def test_a_pickle_that_wants_to_run_code_runs_none(tmp_path: Path, form: str, protocol: int) -> None:
    marker, path = tmp_path / "it-ran", tmp_path / "c.pt"
    content = {"state_dict": small_weights(), "extra": Marker(marker)}
    if form == "plain pickle":
        path.write_bytes(pickle.dumps(content, protocol=protocol))
    else:
        zipped = form == "zip"
        torch.save(content, path, _use_new_zipfile_serialization=zipped, pickle_protocol=max(protocol, 2))
    for lazy in (False, True):
        error = refused(path, lazy=lazy)
        told = ("nothing was run", "without running code", "not a checkpoint")
        assert any(text in error.what for text in told)
        assert not marker.exists()


def test_the_test_file_does_run_code_when_trusted(tmp_path: Path) -> None:
    """Otherwise the test above could not fail."""
    marker, path = tmp_path / "it-ran", tmp_path / "c.pt"
    torch.save({"state_dict": small_weights(), "extra": Marker(marker)}, path)
    assert same(load_checkpoint(path, trust_pickle=True).state_dict, small_weights())
    assert marker.exists()


def test_a_dangerous_function_is_named_and_trust_is_not_offered(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    torch.save({"state_dict": small_weights(), "extra": Marker(tmp_path / "it-ran")}, path)
    error = refused(path)
    assert "posix.system" in error.what
    assert "--trust-pickle" not in str(error.hint)


def test_a_harmless_class_is_left_out_and_named(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    torch.save({"state_dict": small_weights(), "config": Config()}, path)
    for trust in (False, True):
        loaded = load_checkpoint(path, trust_pickle=trust)
        assert same(loaded.state_dict, small_weights())
        assert loaded.unread == ("checkpoint_help.Config",)
        assert loaded.meta["config"] == {"lr": 0.1}


def test_an_object_among_the_weights_is_left_out(tmp_path: Path) -> None:
    torch.save({**small_weights(), "config": Config()}, tmp_path / "c.pt")
    assert same(load_checkpoint(tmp_path / "c.pt").state_dict, small_weights())


def test_weights_that_only_their_code_can_make_need_trust(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    torch.save({"state_dict": {**small_weights(), "extra": Scaled(torch.ones(3))}}, path)
    error = refused(path)
    assert "extra" in error.what
    assert "--trust-pickle" in str(error.hint)
    assert load_checkpoint(path, trust_pickle=True).state_dict["extra"].tolist() == [2, 2, 2]


def test_a_state_dict_that_only_its_code_can_make_needs_trust(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    weights = small_weights()
    torch.save({"state_dict": Packed(list(weights), list(weights.values())), "epoch": 3}, path)
    error = refused(path)
    assert "state_dict" in error.what
    assert "--trust-pickle" in str(error.hint)
    assert same(load_checkpoint(path, trust_pickle=True).state_dict, weights)


def test_trusted_code_that_is_not_here(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    torch.save({"state_dict": {**small_weights(), "extra": Scaled(torch.ones(3))}}, path)
    path.write_bytes(path.read_bytes().replace(b"checkpoint_help", b"checkpoint_gone"))
    assert "checkpoint_gone" in refused(path, trust_pickle=True).what


# -- damage --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["zip", "old", "safetensors"])
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_a_truncated_file(tmp_path: Path, form: str, kept: float) -> None:
    path = tmp_path / ("c.safetensors" if form == "safetensors" else "c.pt")
    if form == "safetensors":
        save_file(dict(small_weights()), path)
    else:
        torch.save({"state_dict": small_weights()}, path, _use_new_zipfile_serialization=form == "zip")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    error = refused(path)
    assert error.hint


def test_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    path.write_bytes(b"")
    assert "empty" in refused(path).what


def zip_of_something(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "<w/>")


def tar_of_something(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("epoch_1.pth")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"abc"))


def first_tar_format(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "storages", "tensors", "pickle"):
            archive.addfile(tarfile.TarInfo(name))


def torchscript(path: Path) -> None:
    torch.jit.save(torch.jit.trace(small_network().eval(), torch.zeros(1, 3, 8, 8)), path)


def keras(path: Path) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        file["dense/kernel"] = [1.0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda path: path.write_text("<!DOCTYPE html><html>404</html>"), "web page"),
        (lambda path: path.write_text("  <html>login</html>"), "web page"),
        (
            lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
            "Git LFS",
        ),
        (lambda path: path.write_text("epoch,loss\n1,0.5\n"), "not a checkpoint"),
        (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100)), "not a checkpoint"),
        (lambda path: path.write_bytes(bytes(5000)), "nothing but zeros"),
        (lambda path: path.write_bytes(b"\x1f\x8b\x08" + bytes(100)), "gzip"),
        (zip_of_something, "word/document.xml"),
        (tar_of_something, "epoch_1.pth"),
        (first_tar_format, "first torch versions"),
        (torchscript, "TorchScript"),
        (keras, "HDF5"),
    ],
)
def test_a_foreign_file(tmp_path: Path, make: Callable[[Path], object], what: str) -> None:
    path = tmp_path / "c.pth"
    make(path)
    error = refused(path)
    assert what in error.what


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ({}, "empty"),
        ({"epoch": 3, "best": 0.5}, "epoch, best"),
        ([1, 2, 3], "a list"),
        (torch.zeros(3, 4), "a Tensor"),
        (
            {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
            "optimizer",
        ),
        ({"state_dict": {}}, "no weights"),
        ({"loss": torch.tensor(1.0)}, "no weights"),
    ],
)
def test_a_file_of_torch_without_weights(tmp_path: Path, content: object, what: str) -> None:
    path = tmp_path / "c.pt"
    torch.save(content, path)
    assert what in refused(path).what


def test_quantised_and_sparse_weights(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    torch.save({"conv.weight": torch.eye(4).to_sparse(), "b": torch.ones(3)}, path)
    assert "conv.weight is quantised or sparse" in refused(path).what


def test_a_tensor_that_claims_to_be_larger_than_its_file(tmp_path: Path) -> None:
    """One number of a few bytes, seen as 40 GB: cloning it would take all memory."""
    path = tmp_path / "c.pt"
    torch.save({"conv.weight": torch.ones(1).expand(10_000_000_000), "b": torch.ones(3)}, path)
    assert path.stat().st_size < 10_000
    assert "conv.weight claims to be larger" in refused(path).what


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "cannot be opened" in refused(tmp_path / "c.pt").what


@pytest.mark.parametrize("form", ["zip", "old", "safetensors", "folder"])
def test_random_damage_is_refused_or_harmless(tmp_path: Path, form: str) -> None:
    """Nothing but InputError comes out of a damaged file, whatever was damaged."""
    path = load = tmp_path / ("c.safetensors" if form == "safetensors" else "c.pt")
    if form == "folder":
        load = tmp_path / "c"
        dcp.save({"model": small_weights(), "epoch": 3}, checkpoint_id=str(load))
        path = load / ".metadata"
    elif form == "safetensors":
        save_file(dict(small_weights()), path)
    else:
        torch.save({"state_dict": small_weights()}, path, _use_new_zipfile_serialization=form == "zip")
    sound = path.read_bytes()
    generator = random.Random(0)
    refusals = 0
    for _ in range(60):
        data = bytearray(sound)
        for _ in range(generator.choice([1, 3, 20])):
            data[generator.randrange(min(len(data), 3000))] = generator.randrange(256)
        path.write_bytes(data)
        try:
            load_checkpoint(load).nonfinite  # noqa: B018
        except InputError:
            refusals += 1
    assert refusals > 0
