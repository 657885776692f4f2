"""Scores and gradients in one pass, against autograd image by image: residual networks and transformers."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from late import Late

import concept_monitor_cli._torchvision  # noqa: F401  isort: skip
import numpy as np
import pytest
import torch
from test_forward import Pixels, preprocessing
from torch import Tensor, nn

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.models.layers import describe_layers
from concept_monitor_cli.models.pooling import Layout, pool, shift_gradient
from concept_monitor_cli.record import record
from concept_monitor_cli.record.requests import (
    OUTPUT,
    Activations,
    Contributions,
    Gradients,
    Logits,
    Pass,
    Recording,
)
from concept_monitor_cli.store import Store

timm = Late("timm")
torchvision = Late("torchvision")


class Residual(nn.Module):
    """A skip path, and a ReLU in place after a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.conv = nn.Conv2d(6, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        x = self.relu(x + self.norm(self.conv(x)))
        return self.head(x.mean((2, 3)))


def recorded(
    tmp_path: Path,
    model: nn.Module,
    images: np.ndarray,
    requests: dict[str, list[Recording]],
    batch_size: int = 4,
) -> dict[tuple[str, str], dict[str, np.ndarray]]:
    """What requests leave in the store, by layer and kind."""
    store = Store(tmp_path)
    size = images.shape[1]
    names = [name for name in requests if name]
    infos = describe_layers(model, names, size)
    keys = {}
    with ExitStack() as stack:
        passes: list[Pass] = []
        for name, asked in requests.items():
            for request in asked:
                key = store.key(request.kind, layer=name, **request.settings())
                layer = infos[name] if name else OUTPUT
                passes.append(request.begin(stack, store, key, layer, len(images)))
                keys[name, request.kind] = key
        info = record(
            model,
            Pixels(images),
            preprocessing(size),
            [consumer for each in passes for consumer in each.consumers],
            scores=[consumer for each in passes for consumer in each.scores],
            batch_size=batch_size,
        )
        assert all(each.complete(info) is None for each in passes)
    found = {}
    for place, key in keys.items():
        entry = store.get(key)
        assert entry is not None
        with entry:
            arrays = ("pooled",) if place[1] == "activations" else ("logits",)
            arrays = ("gradients", "classes") if place[1] in ("gradients", "contributions") else arrays
            found[place] = {name: entry.read(name) for name in arrays}
    return found


def twin(model: nn.Module, layer: str, images: np.ndarray, classes: list[int]) -> tuple[Tensor, Tensor]:
    """Scores, and the gradient at a layer's last call, one image at a time; -1: the predicted class."""
    scores, slopes = [], []
    for pixels, own in zip(images, classes, strict=True):
        kept: list[Tensor] = []

        def keep(_module: nn.Module, _inputs: object, output: Tensor, kept: list[Tensor] = kept) -> Tensor:
            output.retain_grad()
            kept.append(output)
            return output.clone()

        handle = model.get_submodule(layer).register_forward_hook(keep)
        said = model(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255)[0]
        handle.remove()
        said[int(said.argmax()) if own < 0 else own].backward()
        assert kept[-1].grad is not None
        scores.append(said.detach())
        slopes.append(kept[-1].grad[0])
    return torch.stack(scores), torch.stack(slopes)


def test_gradients_are_those_of_every_image_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Residual().eval()
    images = np.random.default_rng(0).integers(0, 256, (11, 8, 8, 3), dtype=np.uint8)
    classes = [0, 1, 2, 3, -1, 0, 1, -1, 3, 2, 2]
    asked: list[Recording] = [Gradients(tuple(classes)), Activations()]
    requests = {"": [Logits()], "stem": asked, "norm": asked, "relu": asked}
    found = recorded(tmp_path, model, images, requests)
    for layer in ("stem", "norm", "relu"):
        scores, slopes = twin(model, layer, images, classes)
        assert np.allclose(found["", "logits"]["logits"], scores.numpy(), atol=1e-5)
        got = found[layer, "gradients"]
        assert np.allclose(got["gradients"], slopes.sum((2, 3)).numpy(), atol=1e-5)
        expected = [int(scores[i].argmax()) if own < 0 else own for i, own in enumerate(classes)]
        assert got["classes"].tolist() == expected
    assert np.abs(found["stem", "gradients"]["gradients"]).max() > 0
    assert all(weight.requires_grad for weight in model.parameters())
    assert not model.stem._forward_hooks


def test_contributions_are_gradients_times_outputs_and_exact_before_a_linear_head(tmp_path: Path) -> None:
    torch.manual_seed(4)
    model = Residual().eval()
    images = np.random.default_rng(4).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)
    classes = (0, 1, 2, 3, 3, -1, 0)
    asked: list[Recording] = [Gradients(classes), Contributions(classes), Activations()]
    found = recorded(tmp_path, model, images, {"stem": asked, "relu": asked})
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    # Gradients and products in one pass do not mix.
    for layer in ("stem", "relu"):
        _, slopes = twin(model, layer, images, list(classes))
        assert np.allclose(found[layer, "gradients"]["gradients"], slopes.sum((2, 3)).numpy(), atol=1e-5)
    products = found["stem", "contributions"]["gradients"]
    slopes = twin(model, "stem", images, list(classes))[1]
    # At its place in the network, before the ReLU works on it.
    assert np.allclose(products, (slopes * model.stem(x)).sum((2, 3)).detach().numpy(), atol=1e-5)
    assert not np.allclose(
        products, found["stem", "gradients"]["gradients"] * found["stem", "activations"]["pooled"], atol=1e-3
    )
    last = found["relu", "contributions"]
    weights = model.head.weight.detach().numpy()[last["classes"]]
    assert np.allclose(last["gradients"], weights * found["relu", "activations"]["pooled"], atol=1e-5)


def test_activations_are_the_same_with_and_without_gradients(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = Residual().eval()
    images = np.random.default_rng(1).integers(0, 256, (9, 8, 8, 3), dtype=np.uint8)
    alone = recorded(tmp_path / "a", model, images, {"relu": [Activations()]})
    beside = recorded(tmp_path / "b", model, images, {"relu": [Activations(), Gradients()]})
    assert np.allclose(
        alone["relu", "activations"]["pooled"], beside["relu", "activations"]["pooled"], atol=1e-6
    )
    # The predicted class for all, where no class is named.
    scores, slopes = twin(model, "relu", images, [-1] * 9)
    assert beside["relu", "gradients"]["classes"].tolist() == scores.argmax(1).tolist()
    assert np.allclose(beside["relu", "gradients"]["gradients"], slopes.sum((2, 3)).numpy(), atol=1e-5)


@pytest.mark.parametrize("layer", ["layer3", "layer4.1.relu"])
def test_torchvision_resnets_with_a_relu_that_is_used_twice(tmp_path: Path, layer: str) -> None:
    torch.manual_seed(2)
    model = torchvision.models.resnet18(num_classes=5).eval()
    images = np.random.default_rng(2).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    found = recorded(tmp_path, model, images, {layer: [Gradients((0, 1, 2, 3, 4))]})
    _, slopes = twin(model, layer, images, [0, 1, 2, 3, 4])
    assert np.allclose(found[layer, "gradients"]["gradients"], slopes.sum((2, 3)).numpy(), atol=1e-4)


def test_transformers_by_what_their_activations_are_pooled_by(tmp_path: Path) -> None:
    """The class token's gradient for a ViT; the sum over positions, channels last, for a Swin."""
    torch.manual_seed(3)
    images = np.random.default_rng(3).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, num_classes=4, embed_dim=24, num_heads=2
    ).eval()
    found = recorded(tmp_path / "vit", vit, images, {"blocks.1": [Gradients((0, 1, 2))]})
    _, slopes = twin(vit, "blocks.1", images, [0, 1, 2])
    assert np.allclose(found["blocks.1", "gradients"]["gradients"], slopes[:, 0].numpy(), atol=1e-5)
    swin = timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=32,
        window_size=4,
        embed_dim=16,
        depths=(1, 1),
        num_heads=(1, 2),
        num_classes=4,
    ).eval()
    found = recorded(tmp_path / "swin", swin, images, {"layers.0": [Gradients((0, 1, 2))]})
    _, slopes = twin(swin, "layers.0", images, [0, 1, 2])
    assert slopes.shape[-1] == 16
    assert np.allclose(found["layers.0", "gradients"]["gradients"], slopes.sum((1, 2)).numpy(), atol=1e-5)


class Cut(nn.Module):
    """The layer `side` has no part in the scores."""

    def __init__(self) -> None:
        super().__init__()
        self.side, self.head = nn.Conv2d(3, 2, 1), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        self.side(x)
        return self.head(x.mean((2, 3)))


def test_a_layer_that_does_not_reach_the_scores_is_named(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    with pytest.raises(InputError, match="'side' puts out changes no score"):
        recorded(tmp_path, Cut().eval(), images, {"side": [Gradients()]})


def test_a_network_without_a_score_for_each_class_is_refused(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Conv2d(2, 5, 3)).eval()
    with pytest.raises(InputError, match="not a score for each class"):
        recorded(tmp_path, model, images, {"": [Logits()], "0": [Gradients()]})


def test_one_pass_asks_each_image_about_one_class(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    asked: dict[str, list[Recording]] = {"stem": [Gradients((0, 0, 0, 0))], "relu": [Gradients((1, 1, 1, 1))]}
    with pytest.raises(ValueError, match="different classes"):
        recorded(tmp_path, Residual().eval(), images, asked)


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_a_shift_of_all_positions_moves_the_pooled_activation_by_as_much(pooling: str) -> None:
    """So the gradient of a shift is the gradient with respect to the pooled activation."""
    output = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    layout = Layout("channels-first", grid=(4, 4))
    moved = pool(output + 0.5, layout, pooling) - pool(output, layout, pooling)  # type: ignore[arg-type]
    assert torch.allclose(moved, torch.full((2, 3), 0.5), atol=1e-6)
    assert torch.equal(shift_gradient(torch.ones(2, 3, 4, 4), layout, pooling), torch.full((2, 3), 16.0))  # type: ignore[arg-type]
