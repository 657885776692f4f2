"""Attributions of real architectures: which layers can be asked, and what is said where none can."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import concept_monitor_cli._torchvision  # noqa: F401
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.models.geometry import Geometry, Preprocessing
from concept_monitor_cli.models.layers import describe_layers
from concept_monitor_cli.stories.attribute_making import Explainer, Photo, Target

SIDE = 32
PREPROCESSING = Preprocessing(Geometry(SIDE), (0.5,) * 3, (0.5,) * 3, "as planted")
PHOTO = Photo("noise", np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))


def explainer(name: str, layer: str, **more: object) -> tuple[Explainer, nn.Module]:
    import timm

    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=5, **more).eval()
    info = describe_layers(model, [layer], SIDE)[layer]
    return Explainer(model, info, PREPROCESSING, 0, torch.device("cpu")), model


VIT = {"img_size": SIDE, "patch_size": 8, "depth": 3}
SWIN = {"img_size": SIDE, "window_size": 4, "depths": (1, 1), "num_heads": (3, 6)}


@pytest.mark.parametrize(
    ("name", "layer", "more", "shape"),
    [
        ("resnet18", "layer3", {}, (2, 2)),
        ("vit_tiny_patch16_224", "blocks.1", VIT, (4, 4)),
        ("swin_tiny_patch4_window7_224", "layers.0", SWIN, (8, 8)),
        ("swin_tiny_patch4_window7_224", "layers.1", SWIN, (4, 4)),
    ],
)
def test_maps_of_layers_and_pixels(
    name: str, layer: str, more: dict[str, object], shape: tuple[int, int]
) -> None:
    asked, model = explainer(name, layer, **more)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    cam = asked.explain(PHOTO, Target(2), "grad-cam").values
    assert cam.shape == shape
    assert np.abs(cam).max() > 0
    pixels = asked.explain(PHOTO, Target(2, 4), "integrated")
    assert pixels.values.shape == (SIDE, SIDE)
    assert pixels.completeness_error < 0.1
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_patch_tokens_after_the_last_block_do_not_reach_the_class_token() -> None:
    # What the head reads is the class token, which takes nothing from the patches any more.
    asked, _ = explainer("vit_tiny_patch16_224", "blocks.2", **VIT)
    with pytest.raises(InputError, match="say nothing of the answer") as caught:
        asked.explain(PHOTO, Target(2), "grad-cam")
    assert "earlier" in str(caught.value.hint)


def test_guided_gradients_need_a_relu() -> None:
    asked, _ = explainer("vit_tiny_patch16_224", "blocks.1", **VIT)
    with pytest.raises(InputError, match="no ReLU"):
        asked.explain(PHOTO, Target(2), "guided")
