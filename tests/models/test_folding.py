"""Ablations written into weights, against hooks."""

from __future__ import annotations

from late import Late

import concept_monitor_cli._torchvision  # noqa: F401  isort: skip
import pytest
import torch
from torch import Tensor, nn

from concept_monitor_cli.models.channel_paths import NoPathError
from concept_monitor_cli.models.cifar import create_model
from concept_monitor_cli.models.folding import constant_units

torchvision = Late("torchvision")


class Shared(nn.Module):
    """The convolution's output goes on by a second way."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 4, 1, bias=False), nn.Sigmoid()
        self.relu, self.head = nn.ReLU(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.head((self.relu(x) * self.act(x)).mean((2, 3)))


def hooked(model: nn.Module, layer: str, units: list[int], values: list[float], x: Tensor) -> Tensor:
    def change(_m: nn.Module, _i: object, out: Tensor) -> Tensor:
        changed = out.clone()
        for unit, value in zip(units, values, strict=True):
            changed[:, unit] = value
        return changed

    handle = model.get_submodule(layer).register_forward_hook(change)
    with torch.no_grad():
        out = model(x)
    handle.remove()
    return out


def lively(model: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return model.eval()


@pytest.mark.parametrize(
    ("layer", "values"), [("layer2.0", [0.0, 0.0]), ("layer3.0", [0.3, 1.7]), ("bn1", [-1.0, 2.0])]
)
def test_the_weights_say_what_a_hook_does(layer: str, values: list[float]) -> None:
    torch.manual_seed(0)
    model = lively(create_model("kuangliu_resnet18" if layer != "bn1" else "cifar_resnet20", num_classes=5))
    x = torch.rand(3, 3, 16, 16)
    expected = hooked(model, layer, [1, 6], values, x)
    with torch.no_grad():
        before = model(x)
    changed = constant_units(model, layer, [1, 6], values)
    with torch.no_grad():
        after = model(x)
    torch.testing.assert_close(after, expected, rtol=1e-5, atol=1e-5)
    assert (after - before).abs().max() > 1e-3
    assert all(name.rpartition(".")[2] in ("weight", "bias") for name in changed)


@pytest.mark.parametrize(
    ("make", "layer", "values", "reason"),
    [
        # The block's input goes on by its identity shortcut.
        (lambda: torchvision.models.resnet18(num_classes=2), "layer2.1", [0.0], "goes on by another way"),
        (Shared, "conv", [1.0], "no bias"),
        (Shared, "act", [0.0], "cannot be told"),
        (Shared, "relu", [0.0], "goes on by another way"),
        (
            lambda: lively(torchvision.models.vgg11_bn(num_classes=2)),
            "features.2",
            [-1.0],
            "changes the number",
        ),
    ],
)
def test_what_stands_in_the_way_is_said_and_nothing_changed(
    make: object, layer: str, values: list[float], reason: str
) -> None:
    model = make().eval()  # type: ignore[operator]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(NoPathError, match=reason):
        constant_units(model, layer, [0], values)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
