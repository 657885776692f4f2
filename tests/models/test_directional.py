"""What places say for all classes in one pass, beside a gradient for each class."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import concept_monitor_cli._torchvision  # noqa: F401
from concept_monitor_cli.models.directional import at_places
from concept_monitor_cli.models.gradients import gradient_tap, gradients
from concept_monitor_cli.models.layers import describe_layers, evaluation
from concept_monitor_cli.models.pooling import spatial_maps

SIDE = 32
VIT = {"img_size": SIDE, "patch_size": 8, "depth": 2}
SWIN = {"img_size": SIDE, "window_size": 4, "depths": (1, 1), "num_heads": (3, 6)}


def network(name: str, **more: object) -> nn.Module:
    import timm

    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name, pretrained=False, num_classes=4, **more)
    return model.eval()


@pytest.mark.parametrize(
    ("name", "layer", "more"),
    [
        ("resnet18", "layer3", {}),
        ("tf_efficientnet_lite0", "blocks.3", {}),
        ("vit_tiny_patch16_224", "blocks.0", VIT),
        ("swin_tiny_patch4_window7_224", "layers.0", SWIN),
    ],
)
def test_one_pass_says_what_a_gradient_for_each_class_says(
    name: str, layer: str, more: dict[str, object]
) -> None:
    model = network(name, **more)
    info = describe_layers(model, [layer], SIDE)[layer]
    images = torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    rows, columns = torch.tensor([1, 0, 1]), torch.tensor([1, 1, 0])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = at_places(model, info, images, rows, columns)
    assert found.why_not == ""
    assert found.attributions is not None
    with evaluation(model), gradient_tap(model, [layer]) as run:
        seen = run(images)
        each = torch.arange(3)
        A = spatial_maps(seen.outputs[layer].detach(), info.layout)[each, :, rows, columns]
        for number in range(4):
            slope = gradients(seen.result[:, number], seen.outputs, keep_graph=True)[layer]
            G = spatial_maps(slope, info.layout)[each, :, rows, columns]
            size = float((A * G).abs().sum())
            assert torch.allclose(found.attributions[:, number], (A * G).sum(1), atol=1e-5 * size)
    assert torch.allclose(found.activations, A, atol=1e-6)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_what_has_no_classes_or_no_derivative_says_so() -> None:
    class Odd(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

    class Strange(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = Odd.apply(x)  # type: ignore[no-untyped-call]
            return found

    images, place = torch.rand(2, 3, 8, 8), torch.tensor([1, 2])
    for tail, said in (
        (nn.Sequential(Strange(), nn.Flatten(), nn.Linear(128, 3)), "forward-mode"),
        (nn.Identity(), "one number for each class"),
    ):
        model = nn.Sequential(nn.Conv2d(3, 2, 1), tail)
        info = describe_layers(model, ["0"], 8)["0"]
        found = at_places(model, info, images, place, place)
        assert found.attributions is None
        assert said in found.why_not
        assert torch.allclose(found.activations, model[0](images)[torch.arange(2), :, place, place])
        assert not any(module._forward_hooks for module in model.modules())


def test_a_layer_that_works_in_place_afterwards() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    info = describe_layers(model, ["0"], 8)["0"]
    images, place = torch.rand(2, 3, 8, 8), torch.tensor([3, 4])
    found = at_places(model, info, images, place, place)
    a = model[0](images)[torch.arange(2), :, place, place]
    assert torch.allclose(found.activations, a)
    assert found.attributions is not None
    assert torch.allclose(found.attributions, a.clamp_min(0) / 64 @ model[4].weight.T, atol=1e-6)
