"""Attributions of real architectures: which layers can be asked, and what is said where none can."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
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


@pytest.mark.parametrize(
    ("name", "layer", "more", "shape"),
    [
        ("resnet18", "layer3", {}, (256, 2, 2)),
        ("vit_tiny_patch16_224", "blocks.1", VIT, (192, 4, 4)),
        ("swin_tiny_patch4_window7_224", "layers.0", SWIN, (96, 8, 8)),
    ],
)
def test_layers_taken_apart(
    name: str, layer: str, more: dict[str, object], shape: tuple[int, ...], shared_data: Path
) -> None:
    asked, model = explainer(name, layer, **more)
    with tarfile.open(shared_data / "cifar10_images.tar.xz") as archive:  # a real photo of 32 pixels
        member = next(each for each in archive if each.name.endswith((".png", ".jpg")))
        file = archive.extractfile(member)
        assert file is not None
        photo = Photo(member.name, np.asarray(Image.open(io.BytesIO(file.read())).convert("RGB")))
    targets = [Target(2), Target(4)]
    seen = asked.in_layer(photo, targets)
    assert seen.activations.shape == shape
    assert seen.gradients.shape == (2, *shape)
    image = torch.from_numpy(photo.pixels.copy()).permute(2, 0, 1)[None].float() / 255
    # Beside it: the output of the module with a gradient of its own, and a network whose layer puts out 0.
    kept = {}
    module = model.get_submodule(layer)
    handle = module.register_forward_hook(lambda _m, _i, out: kept.setdefault("A", out))
    logits = model((image - 0.5) / 0.5)
    handle.remove()
    handle = module.register_forward_hook(lambda _m, _i, out: torch.zeros_like(out))
    nothing = model((image - 0.5) / 0.5)
    handle.remove()
    for number, target in enumerate(targets):
        slope = torch.autograd.grad(logits[0, target.wanted], kept["A"], retain_graph=True)[0]
        whole = float((kept["A"] * slope).sum().detach())
        inside = float((seen.activations.astype(float) * seen.gradients[number]).sum())
        size = float((kept["A"] * slope).abs().sum().detach())
        assert inside + seen.elsewhere[number] == pytest.approx(whole, abs=1e-5 * size)
        assert seen.change[number] == pytest.approx(
            float((logits - nothing)[0, target.wanted].detach()), abs=1e-5
        )
    assert bool((seen.elsewhere != 0).any()) == (name == "vit_tiny_patch16_224")
    # Along a path the parts come nearer to the change, whatever the architecture.
    if name == "resnet18":
        fine = asked.in_layer(photo, targets, 64)
        total = (fine.activations.astype(float) * fine.gradients).sum((1, 2, 3))
        assert total == pytest.approx(fine.change, rel=0.02)
        assert asked.in_layer(photo, targets, 64).gradients.tolist() == fine.gradients.tolist()
    assert not any(each._forward_hooks for each in model.modules())


def test_a_path_is_the_mean_of_gradients_at_its_midpoints() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 4, 4), nn.Tanh(), nn.Conv2d(4, 5, 2), nn.Flatten(), nn.Linear(245, 5)
    )
    info = describe_layers(model, ["0"], SIDE)["0"]
    asked = Explainer(model.eval(), info, PREPROCESSING, 0, torch.device("cpu"))
    seen = asked.in_layer(PHOTO, [Target(3)], 3)
    tail = model[1:].double()
    A = torch.from_numpy(seen.activations).double()

    def logit(values: torch.Tensor) -> float:
        with torch.no_grad():
            return float(tail(values[None])[0, 3])

    step = 1e-5
    for k, y, x in ((0, 0, 0), (2, 3, 5), (3, 7, 7)):
        total = 0.0
        for number in range(3):
            point = (number + 0.5) / 3 * A
            up, down = point.clone(), point.clone()
            up[k, y, x] += step
            down[k, y, x] -= step
            total += (logit(up) - logit(down)) / (2 * step) / 3
        assert float(seen.gradients[0, k, y, x]) == pytest.approx(total, rel=1e-4, abs=1e-7)
    assert seen.change[0] == pytest.approx(logit(A) - logit(torch.zeros_like(A)), abs=1e-5)


def test_products_are_those_of_captum() -> None:
    attr = pytest.importorskip("captum.attr", reason="captum is not installed")
    asked, model = explainer("resnet18", "layer3")
    seen = asked.in_layer(PHOTO, [Target(2)])
    image = (torch.from_numpy(PHOTO.pixels).permute(2, 0, 1)[None].float() / 255 - 0.5) / 0.5
    theirs = attr.LayerGradientXActivation(model, model.layer3).attribute(image, target=2)[0].detach()
    ours = torch.from_numpy(seen.activations * seen.gradients[0])
    assert float((ours - theirs).abs().max()) < 1e-6 * float(theirs.abs().max().clamp_min(1))


def test_taking_apart_after_the_last_block_of_a_vit_is_refused() -> None:
    asked, _ = explainer("vit_tiny_patch16_224", "blocks.2", **VIT)
    with pytest.raises(InputError, match="say nothing of the answer"):
        asked.in_layer(PHOTO, [Target(2)])
