from __future__ import annotations

import re

from late import Late

import concept_monitor_cli._torchvision  # noqa: F401  isort: skip
import pytest
import torch
from torch import Tensor, nn

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.models.dependencies import weights_of_layers
from concept_monitor_cli.models.taps import tap

timm = Late("timm")
torchvision = Late("torchvision")


def meta(make: object, *args: object) -> nn.Module:
    with torch.device("meta"):
        return make(*args)  # type: ignore[operator, no-any-return]


def test_resnet(resnet18: nn.Module) -> None:
    used = weights_of_layers(resnet18, ["layer3"], 64)
    left = set(resnet18.state_dict()) - used
    assert left == {name for name in resnet18.state_dict() if name.startswith(("layer4.", "fc."))}
    assert "bn1.running_mean" in used
    everything = weights_of_layers(resnet18, ["layer1", "fc"], 64)
    assert everything == set(resnet18.state_dict())


@pytest.mark.parametrize(
    ("make", "layer", "behind", "size"),
    [
        (torchvision.models.vgg11_bn, "features.10", r"features\.(1[1-9]|2)|classifier", 224),
        (
            torchvision.models.vit_b_16,
            "encoder.layers.encoder_layer_9",
            r"encoder_layer_1[01]|encoder\.ln|heads",
            224,
        ),
        (torchvision.models.swin_t, "features.5", r"features\.[67]|norm\.|head", 224),
        (torchvision.models.convnext_tiny, "features.5", r"features\.[67]|classifier", 224),
        (lambda: timm.create_model("vit_tiny_patch16_224"), "blocks.9", r"blocks\.1[01]|norm\.|head", 224),
        (
            lambda: timm.create_model("deit_tiny_distilled_patch16_224"),
            "blocks.9",
            r"blocks\.1[01]|norm\.|head",
            224,
        ),
    ],
)
def test_real_networks(make: object, layer: str, behind: str, size: int) -> None:
    model = meta(make)
    names = set(model.state_dict())
    used = weights_of_layers(model, [layer], size)
    # Anchored at the start of a component's path, so that `blocks.0.norm1` does not count as `norm.`.
    pattern = re.compile(rf"^(encoder\.layers\.)?({behind})")
    assert names - used == {name for name in names if pattern.search(name)}
    assert names - used


def test_what_is_left_out_has_no_influence(resnet18: nn.Module) -> None:
    images = torch.randn(2, 3, 64, 64)
    used = weights_of_layers(resnet18, ["layer2.0", "layer1.1.bn2"], 64)
    with tap(resnet18, ["layer2.0", "layer1.1.bn2"]) as read:
        before = read(images)
    with torch.no_grad():
        for name, tensor in resnet18.state_dict().items():
            if name not in used:
                tensor.fill_(torch.nan if tensor.is_floating_point() else 7)
    with tap(resnet18, ["layer2.0", "layer1.1.bn2"]) as read:
        after = read(images)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_inner_layer_of_a_block(resnet18: nn.Module) -> None:
    used = weights_of_layers(resnet18, ["layer4.1.conv1"], 64)
    left = set(resnet18.state_dict()) - used
    assert left == {
        n for n in resnet18.state_dict() if n.startswith(("layer4.1.bn", "layer4.1.conv2", "fc."))
    }


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, 4)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        y: Tensor = self.head(self.attention(tokens, tokens, tokens)[0].mean(1))
        return y


def test_weights_used_without_their_module_being_called() -> None:
    used = weights_of_layers(Attention(), ["attention"], 16)
    assert {"attention.out_proj.weight", "attention.out_proj.bias"} <= used
    assert not any(name.startswith("head") for name in used)


class Borrowing(nn.Module):
    """Reads a parameter and buffers of modules that it never calls."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.table = nn.Module()
        self.table.register_buffer("scale", torch.ones(4, 1, 1))
        self.layer = nn.Identity()
        self.late = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.batch_norm(self.conv(x), self.norm.running_mean, self.norm.running_var)
        y = self.layer(y * self.table.scale)
        z: Tensor = self.late(y)
        return z


def test_buffers_used_without_their_module_being_called() -> None:
    model = Borrowing()
    used = weights_of_layers(model, ["layer"], 8)
    assert {"norm.running_mean", "norm.running_var", "table.scale", "conv.weight"} <= used
    assert not any(name.startswith("late") for name in used)


def test_tied_weights_count_under_all_their_names() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 3, 1)
            self.second = nn.Conv2d(3, 3, 1)
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.second(self.first(x))
            return y

    assert weights_of_layers(Tied(), ["first"], 8) == {"first.weight", "first.bias", "second.weight"}


class ReadsValues(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        z: Tensor = self.head(y * (1 if float(y.detach().sum()) > 0 else 2))
        return z


class ReadsValuesFirst(ReadsValues):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * (1 if float(x.detach().sum()) > 0 else 2))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_what_cannot_be_followed_counts_as_used() -> None:
    model = ReadsValuesFirst()
    assert weights_of_layers(model, ["conv"], 8) == set(model.state_dict())
    scripted = nn.Sequential(torch.jit.script(nn.Conv2d(3, 4, 1)), nn.Conv2d(4, 2, 1), nn.Conv2d(2, 2, 1))
    assert weights_of_layers(scripted, ["1"], 8) == set(scripted.state_dict())


def test_the_network_is_left_alone(resnet18: nn.Module) -> None:
    for parameter in resnet18.parameters():
        parameter.requires_grad_(False)
    weights_of_layers(resnet18, ["layer1"], 64)
    assert not any(parameter.requires_grad for parameter in resnet18.parameters())
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in resnet18.modules())


def test_an_unknown_layer_is_an_error(resnet18: nn.Module) -> None:
    with pytest.raises(InputError, match="no layer 'layer9'"):
        weights_of_layers(resnet18, ["layer9"], 64)
