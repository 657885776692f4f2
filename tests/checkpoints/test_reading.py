"""Checkpoints as training code writes them: the network in each is found, with the true network's weights."""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import concept_monitor_cli._torchvision  # noqa: F401
from concept_monitor_cli.checkpoints import Checkpoint, NoWeightsError, load_checkpoint
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.models.build import resolve_model

Weights = dict[str, Tensor]


class _Phase(enum.Enum):
    TRAIN = 1


def _network(seed: int = 0) -> nn.Module:
    import torchvision

    torch.manual_seed(seed)
    network: nn.Module = torchvision.models.squeezenet1_1(num_classes=10).eval()
    return network


def _weights(prefix: str = "", seed: int = 0) -> Weights:
    return {prefix + name: value.clone() for name, value in _network(seed).state_dict().items()}


def _assert_same_outputs(loaded: Checkpoint, network: nn.Module) -> None:
    built = resolve_model(None, loaded.state_dict, family=loaded.family, config=loaded.config).build()
    built.load_state_dict(loaded.state_dict)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(built.eval()(images), network.eval()(images), atol=1e-5)


_LAYOUTS: dict[str, Callable[[], dict[str, Any]]] = {
    "partial": lambda: {"state_dict": _weights("net."), "hp": functools.partial(torch.optim.Adam, lr=0.1)},
    "enum": lambda: {"model": _weights(), "phase": _Phase.TRAIN},
    "loss": lambda: {"model": _weights(), "loss": nn.CrossEntropyLoss(), "path": Path("a/b")},
    "queue": lambda: {"state_dict": {**_weights("module.encoder_q."), "module.queue": torch.rand(8, 16)}},
    "bottom_up": lambda: {"model": _weights("backbone.bottom_up.")},
    "decoder": lambda: {"model": {**_weights(), "decoder_embed.weight": torch.rand(8, 4)}},
    "student": lambda: {
        "student": _weights("module.backbone."),
        "teacher": _weights("backbone.", 1),
        "loss": {"center": torch.zeros(1, 16)},
    },
    "ema": lambda: {"model": _weights(), "model_ema": _weights(seed=1)},
}


@pytest.mark.parametrize("layout", _LAYOUTS)
def test_the_network_is_found(tmp_path: Path, layout: str) -> None:
    torch.save(_LAYOUTS[layout](), tmp_path / "model.pt")
    _assert_same_outputs(load_checkpoint(tmp_path / "model.pt"), _network())


@pytest.mark.parametrize("key", ["teacher", "model_ema"])
def test_the_other_state_dict_is_taken_by_its_key(tmp_path: Path, key: str) -> None:
    torch.save(_LAYOUTS["student" if key == "teacher" else "ema"](), tmp_path / "model.pt")
    loaded = load_checkpoint(tmp_path / "model.pt", weights_key=key)
    assert loaded.where == key
    _assert_same_outputs(loaded, _network(1))


def test_a_prefix_chooses_one_of_two_networks(tmp_path: Path) -> None:
    torch.save({**_weights("one."), **_weights("two.", 1)}, tmp_path / "model.pt")
    _assert_same_outputs(load_checkpoint(tmp_path / "model.pt", prefix="two"), _network(1))
    with pytest.raises(InputError, match="no name begins with"):
        load_checkpoint(tmp_path / "model.pt", prefix="three")


@pytest.mark.parametrize("new", [False, True])
@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm"])
@pytest.mark.filterwarnings("ignore")
def test_a_reparametrised_network_computes_the_same(tmp_path: Path, kind: str, new: bool) -> None:
    network = _network()
    apply = getattr(nn.utils.parametrizations if new else nn.utils, kind)
    for module in list(network.modules()):
        if isinstance(module, nn.Conv2d):
            apply(module)
    network.eval()
    torch.save(network.state_dict(), tmp_path / "model.pt")
    _assert_same_outputs(load_checkpoint(tmp_path / "model.pt"), network)


@pytest.mark.parametrize("suffix", ["mask", "weight_mask"])
def test_a_mask_beside_the_weight_is_applied(tmp_path: Path, suffix: str) -> None:
    network, masks = _network(), {}
    state = network.state_dict()
    for name in [name for name, value in state.items() if value.ndim == 4]:
        masks[name.removesuffix("weight") + suffix] = (torch.rand_like(state[name]) > 0.5).float()
        state[name] = state[name].clone()
    torch.save({**state, **masks}, tmp_path / "model.pt")
    for name, mask in masks.items():
        network.get_parameter(name.removesuffix(suffix) + "weight").data.mul_(mask)
    _assert_same_outputs(load_checkpoint(tmp_path / "model.pt"), network)


def test_parts_without_their_index_are_joined(tmp_path: Path) -> None:
    items = list(_weights().items())
    save_file(dict(items[:20]), tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(InputError, match="part 1 of 2"):
        load_checkpoint(tmp_path / "model-00001-of-00002.safetensors")
    save_file(dict(items[20:]), tmp_path / "model-00002-of-00002.safetensors")
    _assert_same_outputs(load_checkpoint(tmp_path / "model-00001-of-00002.safetensors"), _network())
    with pytest.raises(NoWeightsError, match="part 2 of 2"):
        load_checkpoint(tmp_path / "model-00002-of-00002.safetensors")


def test_a_partition_of_zero3_is_called_so(tmp_path: Path) -> None:
    empty = {name: torch.empty(0) for name in _weights()}
    torch.save({"module": empty, "param_shapes": [{}]}, tmp_path / "zero_pp_rank_0_model_states.pt")
    with pytest.raises(InputError, match="ZeRO-3"):
        load_checkpoint(tmp_path / "zero_pp_rank_0_model_states.pt")


def test_what_training_keeps_beside_the_weights_is_no_failure(tmp_path: Path) -> None:
    optimizer = torch.optim.Adam(_network().parameters())
    torch.save(optimizer.state_dict(), tmp_path / "rank_0_optim_states.pt")
    torch.save({"seed": 1}, tmp_path / "sampler.bin")
    for name in ("rank_0_optim_states.pt", "sampler.bin"):
        with pytest.raises(NoWeightsError):
            load_checkpoint(tmp_path / name)
