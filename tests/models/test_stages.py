"""The stages of networks, as somebody names them who knows the architecture."""

from __future__ import annotations

import concept_monitor_cli._torchvision  # noqa: F401 # isort: skip - before torchvision and timm

import pytest
import torch
from torch import nn

from concept_monitor_cli.models.cifar import create_model
from concept_monitor_cli.models.layers import list_layers
from concept_monitor_cli.models.stages import stages


def names(model: nn.Module, size: int) -> list[str]:
    return [layer.name for layer in stages(model, list_layers(model, size))]


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("resnet18", 64, [f"layer{i}" for i in range(1, 5)]),
        ("vit_b_16", 224, [f"encoder.layers.encoder_layer_{i}" for i in range(12)]),
        ("efficientnet_b0", 64, [f"features.{i}" for i in range(9)]),
        ("convnext_tiny", 64, [f"features.{i}" for i in range(8)]),
    ],
)
def test_networks_of_torchvision(name: str, size: int, expected: list[str]) -> None:
    from torchvision import models

    with torch.device("meta"):
        model = getattr(models, name)()
    assert names(model, size) == expected


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("vit_tiny_patch16_224", 224, [f"blocks.{i}" for i in range(12)]),
        ("tf_efficientnet_lite0", 64, [f"blocks.{i}" for i in range(7)]),
        ("convnext_atto", 64, [f"stages.{i}" for i in range(4)]),
    ],
)
def test_networks_of_timm(name: str, size: int, expected: list[str]) -> None:
    import timm

    with torch.device("meta"):
        model = timm.create_model(name)
    assert names(model, size) == expected


def test_a_bundled_network() -> None:
    assert names(create_model("cifar_resnet20"), 32) == ["layer1", "layer2", "layer3"]


def test_a_head_of_several_layers_is_no_stage() -> None:
    model = create_model("cifar_resnet20")
    model.fc = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    assert names(model, 32) == ["layer1", "layer2", "layer3"]


def test_a_plain_stack_ends_a_stage_with_each_size_of_map() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.Identity(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 64, 10),
    )
    assert names(model, 32) == ["1", "4", "6"]


def test_a_network_without_maps_shows_its_layers() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 16), nn.ReLU(), nn.Linear(16, 4))
    assert names(model, 8) == ["0", "1", "2", "3"]
