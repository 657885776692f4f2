from __future__ import annotations

import json

from late import Late

import concept_monitor_cli._torchvision  # noqa: F401  isort: skip
import pytest
import torch
from torch import Tensor, nn

from concept_monitor_cli.errors import CmonError, InputError
from concept_monitor_cli.models.layers import (
    LayerInfo,
    describe_layers,
    evaluation,
    list_layers,
    meta_copy,
    nearest_names,
    resolve_layers,
)

timm = Late("timm")


def test_names_are_checked_and_repeats_count_once(resnet18: nn.Module) -> None:
    assert resolve_layers(resnet18, [" layer4", "layer3", "layer4"]) == ["layer4", "layer3"]


@pytest.mark.parametrize(
    ("asked", "offered"),
    [("layer5", "layer4"), ("Layer4", "layer4"), ("conv2", "layer1.0.conv2"), ("model.layer4", "layer4")],
)
def test_an_unknown_name_offers_the_nearest(resnet18: nn.Module, asked: str, offered: str) -> None:
    with pytest.raises(InputError) as error:
        resolve_layers(resnet18, [asked])
    assert asked in error.value.what
    assert error.value.hint is not None
    assert offered in error.value.hint


def test_a_vit_block_is_found_by_its_number() -> None:
    known = [f"encoder.layers.encoder_layer_{i}" for i in range(12)]
    assert "encoder.layers.encoder_layer_3" in nearest_names("encoder_layer_3", known)


@pytest.mark.parametrize("names", [[], [""], [" "]])
def test_no_name_is_an_error(resnet18: nn.Module, names: list[str]) -> None:
    with pytest.raises(InputError, match="no layer named"):
        resolve_layers(resnet18, names)


def test_what_is_known_of_a_layer(resnet18: nn.Module) -> None:
    infos = {info.name: info for info in list_layers(resnet18, 64)}
    layer4 = infos["layer4"]
    assert (layer4.type, layer4.shape, layer4.units) == ("Sequential", (512, 2, 2), 512)
    assert layer4.parameters == sum(p.numel() for p in resnet18.layer4.parameters())
    assert layer4.map_size == (2, 2)
    assert layer4.calls == 1
    assert infos["layer4.1.relu"].calls == 2
    assert (infos["fc"].shape, infos["fc"].units, infos["fc"].map_size) == ((1000,), 1000, (1, 1))
    assert list(infos) == [name for name, _ in resnet18.named_modules() if name in infos]


def test_looking_leaves_no_trace(resnet18: nn.Module) -> None:
    before = {name: tensor.clone() for name, tensor in resnet18.state_dict().items()}
    resnet18.train()
    resnet18.layer1.eval()
    list_layers(resnet18, 64)
    assert all(not module._forward_hooks for module in resnet18.modules())
    assert resnet18.training
    assert resnet18.layer2.training
    assert not resnet18.layer1.training
    assert all(torch.equal(before[name], tensor) for name, tensor in resnet18.state_dict().items())
    assert not any(tensor.is_meta for tensor in resnet18.state_dict().values())


def test_a_network_on_the_meta_device_is_enough() -> None:
    with torch.device("meta"):
        model = timm.create_model("vit_tiny_patch16_224")
    assert {info.name for info in list_layers(model, 224)} >= {"blocks.0", "blocks.11", "norm", "head"}


class ReadsValues(nn.Module):
    """Cannot run on meta tensors: it looks at numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv(x))
        return y * (1 if float(y.detach().sum()) > 0 else 2)


def test_a_network_that_needs_numbers_is_run_for_real() -> None:
    model = ReadsValues().train()
    mean = model.norm.running_mean.clone()
    assert [info.name for info in list_layers(model, 8)] == ["conv", "norm"]
    assert torch.equal(model.norm.running_mean, mean)
    assert all(not module._forward_hooks for module in model.modules())
    assert model.training


def test_a_size_that_does_not_fit_is_an_error() -> None:
    model = timm.create_model("vit_tiny_patch16_224")
    with pytest.raises(CmonError, match="100 x 100"):
        list_layers(model, 100)
    assert all(not module._forward_hooks for module in model.modules())


class Odd(nn.Module):
    """Layers that cannot be dissected, for one reason each."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair()
        self.folded = Folded()
        self.unused = nn.Linear(3, 3)
        self.good = nn.Conv2d(3, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.pair(x)
        self.folded(x)
        y: Tensor = self.good(left + right)
        return y


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x * 2


class Folded(nn.Module):
    """Folds windows into the batch, as window attention does."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(-1, 3, 4, 4)


def test_layers_without_clear_units_are_left_out_and_named_when_asked_for() -> None:
    model = Odd()
    assert [info.name for info in list_layers(model, 8)] == ["pair:0", "pair:1", "good"]
    for name, message in [("pair", "2 tensors"), ("folded", "one row for each"), ("unused", "takes no part")]:
        with pytest.raises(InputError, match=message) as error:
            describe_layers(model, [name], 8)
        assert error.value.where == name


def test_axis_order_set_by_the_user(resnet18: nn.Module) -> None:
    info = describe_layers(resnet18, ["layer4"], 64, kinds={"layer4": "channels-last"})["layer4"]
    assert (info.layout.kind, info.units) == ("channels-last", 2)


def test_a_module_with_two_names() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.second = self.first
            self.flat = nn.Flatten()

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.second(self.first(self.flat(x)[:, :4]))
            return y

    info = describe_layers(Twice(), ["second"], 8)["second"]
    assert (info.name, info.calls) == ("second", 2)


def test_attention_and_recurrent_modules_are_read_by_their_output() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Conv2d(3, 8, 4, 4)
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.layer(self.embed(x).flatten(2).transpose(1, 2))
            return y

    infos = {info.name: info for info in list_layers(Net(), 16)}
    # In inference torch fuses the layer and skips its parts; the trace must see them all the same.
    assert infos["layer.self_attn"].shape == (16, 8)
    assert infos["layer.linear1"].units == 16


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_torchscript_parts_are_left_out() -> None:
    model = nn.Sequential(torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 1))), nn.Conv2d(4, 2, 1))
    assert [info.name for info in list_layers(model, 8)] == ["1"]


def test_meta_copy_shares_nothing_and_keeps_ties() -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    model["b"].weight = model["a"].weight
    model["a"].table = torch.zeros(3)
    copy = meta_copy(model)
    assert copy["a"].weight is copy["b"].weight
    assert copy["a"].weight.is_meta
    assert copy["a"].table.is_meta
    assert not model["a"].weight.is_meta


def test_evaluation_restores_modes_after_a_failure() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Dropout())
    model[1].eval()
    seen = []

    def fail() -> None:
        with evaluation(model):
            seen.append(model[0].training)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert seen == [False]
    assert (model.training, model[0].training, model[1].training) == (True, True, False)


def test_what_is_known_of_a_layer_survives_json(resnet18: nn.Module) -> None:
    for info in list_layers(resnet18, 64):
        assert LayerInfo.from_json(json.loads(json.dumps(info.to_json()))) == info
