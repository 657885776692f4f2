from __future__ import annotations

import argparse
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_help import same, small_network, small_weights
from safetensors.torch import save_file
from torch import Tensor, nn

from concept_monitor_cli.checkpoints import load_checkpoint
from concept_monitor_cli.errors import InputError


def prefixed(prefix: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in weights.items()}


# -- where the state dict is -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrap", "where"),
    [
        (lambda w: w, ""),
        (lambda w: {"state_dict": w, "epoch": 3}, "state_dict"),
        (
            lambda w: {
                "model": w,
                "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []},
            },
            "model",
        ),
        (lambda w: {"model_state_dict": w, "loss": 0.1}, "model_state_dict"),
        (lambda w: {"net": w, "acc": 93.2}, "net"),
        (lambda w: {"ema": w}, "ema"),
        (lambda w: {"state_dict_ema": w}, "state_dict_ema"),
        (lambda w: {"model": {"state_dict": w}}, "model.state_dict"),
        (lambda w: {"ema": {"module": w}, "epoch": torch.tensor(2)}, "ema.module"),
        (lambda w: {"module": w, "lr_scheduler": {"weights": torch.ones(2)}}, "module"),
        (lambda w: {"MODEL_STATE": w, "EPOCHS_RUN": 3}, "MODEL_STATE"),
        (lambda w: {"classifier_weights": w, "epoch": 1}, "classifier_weights"),
        (lambda w: {"state_dict": w, "class_weights": torch.ones(5)}, "state_dict"),
    ],
)
def test_the_state_dict_is_found(tmp_path: Path, wrap: Callable[[Any], Any], where: str) -> None:
    weights = small_weights()
    torch.save(wrap(weights), tmp_path / "c.pt")
    loaded = load_checkpoint(tmp_path / "c.pt")
    assert same(loaded.state_dict, weights)
    assert loaded.where == where
    assert loaded.ema == ("ema" in where)


def test_the_networks_own_weights_come_before_an_average(tmp_path: Path) -> None:
    own, average = small_weights(0), small_weights(1)
    torch.save({"ema": average, "state_dict_ema": average, "model": own}, tmp_path / "c.pt")
    loaded = load_checkpoint(tmp_path / "c.pt")
    assert same(loaded.state_dict, own)
    assert not loaded.ema
    assert loaded.others == ("ema", "state_dict_ema")


def test_two_state_dicts_under_unknown_names_are_not_guessed(tmp_path: Path) -> None:
    torch.save({"generator_a": small_weights(0), "generator_b": small_weights(1)}, tmp_path / "c.pt")
    with pytest.raises(InputError, match="generator_a"):
        load_checkpoint(tmp_path / "c.pt")


# -- wrappers ----------------------------------------------------------------------------------------


class Wrapped(nn.Module):
    """A Lightning-like module: the network in `self.model`, a criterion with a buffer beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.model = small_network()
        self.criterion = nn.CrossEntropyLoss(weight=torch.ones(5))


def test_lightning(tmp_path: Path) -> None:
    module = Wrapped()
    content = {
        "epoch": 4,
        "global_step": 2000,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": module.state_dict(),
        "loops": {"fit_loop": {"state_dict": {}}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []}],
        "hyper_parameters": {"lr": 0.1, "arch": "resnet18"},
    }
    torch.save(content, tmp_path / "epoch=4-step=2000.ckpt")
    loaded = load_checkpoint(tmp_path / "epoch=4-step=2000.ckpt")
    assert same(loaded.state_dict, dict(module.model.state_dict()))
    assert (loaded.epoch, loaded.step, loaded.epoch_source) == (4, 2000, "file")
    assert loaded.stripped == ("model.",)
    assert loaded.ignored == ("criterion.weight",)
    assert loaded.arch == "resnet18"


def test_data_parallel_inside_compile(tmp_path: Path) -> None:
    network = small_network()
    # torch.compile(module).state_dict() has `_orig_mod.` in front; compiling itself takes long to import.
    torch.save({"model": prefixed("_orig_mod.", nn.DataParallel(network).state_dict())}, tmp_path / "c.pt")
    loaded = load_checkpoint(tmp_path / "c.pt")
    assert same(loaded.state_dict, dict(network.state_dict()))
    assert loaded.stripped == ("_orig_mod.", "module.")


def test_of_an_online_network_and_its_target_the_one_that_is_trained(tmp_path: Path) -> None:
    """As BYOL's code calls them: known names with an ending."""
    own, target = small_weights(1), small_weights(2)
    both = {"target_network_state_dict": target, "online_network_state_dict": own}
    torch.save(both, tmp_path / "c.pt")
    loaded = load_checkpoint(tmp_path / "c.pt")
    assert same(loaded.state_dict, own)
    assert loaded.where == "online_network_state_dict"
    assert loaded.others == ("target_network_state_dict",)
    assert load_checkpoint(tmp_path / "c.pt", weights_key="target_network_state_dict").ema


def test_averaged_model_of_torch(tmp_path: Path) -> None:
    network = small_network()
    torch.save(torch.optim.swa_utils.AveragedModel(network).state_dict(), tmp_path / "c.pt")
    loaded = load_checkpoint(tmp_path / "c.pt")
    assert same(loaded.state_dict, dict(network.state_dict()))


def test_a_lone_running_average_with_its_prefix(tmp_path: Path) -> None:
    weights = small_weights(0)
    torch.save(
        {"state_dict": {**prefixed("model.", weights), **prefixed("ema_model.", small_weights(1))}},
        tmp_path / "c.pt",
    )
    loaded = load_checkpoint(tmp_path / "c.pt")
    assert same(loaded.state_dict, weights)
    assert loaded.others == ("ema_model",)


# -- formats -----------------------------------------------------------------------------------------


def test_safetensors(tmp_path: Path) -> None:
    weights = small_weights()
    save_file(dict(weights), tmp_path / "model.safetensors", metadata={"format": "pt", "epoch": "7"})
    loaded = load_checkpoint(tmp_path / "model.safetensors")
    assert same(loaded.state_dict, {name: weights[name] for name in loaded.state_dict})
    assert loaded.state_dict.keys() == weights.keys()
    assert loaded.epoch == 7


def test_the_old_format_of_torch(tmp_path: Path) -> None:
    weights = small_weights()
    torch.save(
        {"state_dict": weights, "epoch": 5}, tmp_path / "c.pth.tar", _use_new_zipfile_serialization=False
    )
    loaded = load_checkpoint(tmp_path / "c.pth.tar")
    assert same(loaded.state_dict, weights)
    assert loaded.epoch == 5


def test_several_files_with_an_index(tmp_path: Path) -> None:
    import json

    weights = small_weights()
    names = list(weights)
    parts = {"m-00001-of-00002.safetensors": names[:9], "m-00002-of-00002.safetensors": names[9:]}
    for file, inside in parts.items():
        save_file({name: weights[name] for name in inside}, tmp_path / file)
    index = {"weight_map": {name: file for file, inside in parts.items() for name in inside}}
    (tmp_path / "m.safetensors.index.json").write_text(json.dumps(index))
    assert same(load_checkpoint(tmp_path / "m.safetensors.index.json").state_dict, weights)
    (tmp_path / "m-00002-of-00002.safetensors").unlink()
    with pytest.raises(InputError, match=r"00002-of-00002\.safetensors is missing"):
        load_checkpoint(tmp_path / "m.safetensors.index.json")


def test_plain_values_beside_the_weights_need_no_trust(tmp_path: Path) -> None:
    import datetime

    content = {
        "state_dict": small_weights(),
        "epoch": np.int64(6),
        "args": argparse.Namespace(arch="resnet50", lr=0.1, out=Path("somewhere")),
        "best_acc": np.float64(71.5),
        "seen": np.arange(5),
        "date": datetime.datetime(2024, 1, 31),
        "classes": ["cat", "dog"],
    }
    torch.save(content, tmp_path / "c.pt")
    loaded = load_checkpoint(tmp_path / "c.pt")
    assert loaded.epoch == 6
    assert loaded.arch == "resnet50"
    assert loaded.meta["classes"] == ["cat", "dog"]
    assert loaded.meta["args"] == {"arch": "resnet50", "lr": 0.1}
    assert loaded.meta["best_acc"] == 71.5


def test_a_pruned_network_is_folded(tmp_path: Path) -> None:
    from torch.nn.utils import prune

    network = small_network()
    prune.random_unstructured(network[0], "weight", amount=0.5)
    torch.save(network.state_dict(), tmp_path / "c.pt")
    loaded = load_checkpoint(tmp_path / "c.pt").state_dict
    assert torch.equal(loaded["0.weight"], network[0].weight)
    assert loaded.keys() == small_weights().keys()


# -- the file afterwards -----------------------------------------------------------------------------


def test_the_file_may_be_written_over_afterwards(tmp_path: Path) -> None:
    weights = small_weights()
    torch.save(weights, tmp_path / "last.pt")
    loaded = load_checkpoint(tmp_path / "last.pt")
    with (tmp_path / "last.pt").open("r+b") as file:
        file.write(b"\xff" * (tmp_path / "last.pt").stat().st_size)
    assert same(loaded.state_dict, weights)


def test_an_optimizers_state_is_not_read(tmp_path: Path) -> None:
    import resource

    ballast = torch.ones(50_000_000)  # 200 MB
    torch.save(
        {"model": small_weights(), "optimizer": {"state": {0: {"exp_avg": ballast}}, "param_groups": []}},
        tmp_path / "c.pt",
    )
    del ballast
    before = (
        resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        + resource.getrusage(resource.RUSAGE_SELF).ru_majflt
    )
    load_checkpoint(tmp_path / "c.pt")
    after = (
        resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        + resource.getrusage(resource.RUSAGE_SELF).ru_majflt
    )
    assert after - before < 20_000  # pages of 4 KiB; reading it all would touch 48,000


@pytest.mark.parametrize("lazy", [True, False])
def test_lazy_tells_the_same(tmp_path: Path, lazy: bool) -> None:
    torch.save({"state_dict": small_weights(), "epoch": 3}, tmp_path / "c.pt")
    loaded = load_checkpoint(tmp_path / "c.pt", lazy=lazy)
    assert same(loaded.state_dict, small_weights())
    assert loaded.epoch == 3


# -- epochs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "name", "epoch", "source"),
    [
        ({"epoch": 5}, "epoch_7.pt", 5, "file"),
        ({"epoch": torch.tensor(5)}, "c.pt", 5, "file"),
        ({"epoch": 5.0}, "c.pt", 5, "file"),
        ({"meta": {"epoch": 8, "iter": 100}}, "c.pt", 8, "file"),
        ({"epoch": True}, "c.pt", None, None),
        ({"epoch": 2.5}, "c.pt", None, None),
        ({"epoch": -1}, "c.pt", None, None),
        ({"epoch": "five"}, "c.pt", None, None),
        ({"global_step": 400}, "c.pt", 400, "step"),
        ({"step": 400}, "epoch_7.pt", 7, "name"),
        ({"step": 400}, "model_7.pt", 400, "step"),
        ({}, "epoch_7.pt", 7, "name"),
        ({}, "7.pth", 7, "name"),
        ({}, "resnet18-best.pt", None, None),
    ],
)
def test_the_epoch(
    tmp_path: Path, content: dict[str, Any], name: str, epoch: int | None, source: str | None
) -> None:
    torch.save({"state_dict": small_weights(), **content}, tmp_path / name)
    loaded = load_checkpoint(tmp_path / name)
    assert (loaded.epoch, loaded.epoch_source) == (epoch, source)


# -- values ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_broken_weights_are_named(tmp_path: Path, value: float, dtype: torch.dtype) -> None:
    weights = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in small_weights().items()
    }
    torch.save(weights, tmp_path / "good.pt")
    weights["3.weight"][0, 0, 0, 0] = value
    torch.save(weights, tmp_path / "bad.pt")
    load_checkpoint(tmp_path / "good.pt").require_finite()
    loaded = load_checkpoint(tmp_path / "bad.pt")
    assert loaded.nonfinite == ("3.weight",)
    with pytest.raises(InputError, match=r"3\.weight") as error:
        loaded.require_finite()
    assert error.value.where == str(tmp_path / "bad.pt")


def test_loading_ends_when_it_is_told_to(tmp_path: Path) -> None:
    path = tmp_path / "epoch_1.pth"
    torch.save({"state_dict": small_weights()}, path)
    stop = threading.Event()
    assert load_checkpoint(path, stop=stop).state_dict
    stop.set()
    with pytest.raises(CancelledError):
        load_checkpoint(path, stop=stop)


def test_files_load_in_threads_at_once(tmp_path: Path) -> None:
    """torch's list of harmless names is the whole process's: one load must not take it away from another."""
    path = tmp_path / "epoch_1.pth"
    torch.save({"state_dict": small_weights(), "args": argparse.Namespace(lr=0.1)}, path)
    with ThreadPoolExecutor(4) as pool:
        loaded = list(pool.map(lambda _: load_checkpoint(path), range(60)))
    assert all(checkpoint.state_dict for checkpoint in loaded)
