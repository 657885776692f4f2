"""What layers say of pictures: in every layout and basis, as a recording says it of photos."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import concept_monitor_cli._torchvision  # noqa: F401
from concept_monitor_cli.bases import Basis
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional import pictures as P
from concept_monitor_cli.functional.rectifiers import redirected
from concept_monitor_cli.models.geometry import Geometry, Preprocessing
from concept_monitor_cli.models.layers import describe_layers
from concept_monitor_cli.models.pooling import Pooling
from concept_monitor_cli.record.forward import record
from concept_monitor_cli.record.in_basis import InBasis, layer_in_basis
from concept_monitor_cli.record.sight import looking, usable_side

SIDE = 32
PREPROCESSING = Preprocessing(Geometry(SIDE), (0.4, 0.5, 0.6), (0.2, 0.3, 0.25), "as planted")


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 5, 3, stride=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ).eval()


def timm_net(name: str, **kwargs: object) -> nn.Module:
    import timm

    torch.manual_seed(0)
    return timm.create_model(name, pretrained=False, num_classes=7, **kwargs).eval()


def vit() -> nn.Module:
    return timm_net("vit_tiny_patch16_224", img_size=SIDE, patch_size=8, depth=3)


def swin() -> nn.Module:
    small = {"window_size": 4, "depths": (1, 1), "num_heads": (3, 6)}
    return timm_net("swin_tiny_patch4_window7_224", img_size=SIDE, **small)


NETS = {
    "channels": (small, "2"),
    "flat": (small, "4"),
    "vit block": (vit, "blocks.1"),
    "vit last block": (vit, "blocks.2"),
    "swin": (swin, "layers.1"),
}


class Kept:
    """A consumer that keeps pooled activations."""

    needs_maps = False

    def __init__(self, layer: str) -> None:
        self.layers = (layer,)
        self.rows: list[Tensor] = []

    def start(self, layer: object, n_images: int) -> None:
        self.rows = []

    def update(self, layer: str, start: int, pooled: Tensor, maps: Tensor | None) -> None:
        self.rows.append(pooled.clone())

    def finish(self) -> None:
        pass


class Images:
    """Decoded images in memory."""

    def __init__(self, count: int) -> None:
        self.all = np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.all)

    def rows(self, start: int, stop: int) -> np.ndarray:
        return self.all[start:stop]


def as_pictures(images: Images) -> Tensor:
    return torch.from_numpy(images.all).permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("pooling", ["auto", "max"])
def test_pictures_are_read_as_photos_are(name: str, pooling: Pooling) -> None:
    make, layer = NETS[name]
    model, images = make(), Images(3)
    kept = Kept(layer)
    record(model, images, PREPROCESSING, [kept], pooling=pooling)
    info = describe_layers(model, [layer], SIDE)[layer]
    with looking(model, info, PREPROCESSING, pooling=pooling) as sight:
        pictures = as_pictures(images)
        expected = torch.cat(kept.rows)
        assert torch.allclose(sight.activations(pictures), expected, rtol=1e-4, atol=1e-5)
        assert torch.allclose(sight.pooled(pictures).detach(), expected, rtol=1e-4, atol=1e-5)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("name", NETS)
def test_pictures_climb_in_every_kind_of_network(name: str) -> None:
    make, layer = NETS[name]
    model = make()
    info = describe_layers(model, [layer], SIDE)[layer]
    units = torch.tensor([0, 4])
    with looking(model, info, PREPROCESSING) as sight:
        for objective in (
            lambda x: P.of_own(sight.pooled(x), units),
            lambda x: P.at_centre(sight.maps(x), units),
        ):
            begin = P.ascend(objective, P.Climb(side=SIDE, steps=0), 2)
            end = P.ascend(objective, P.Climb(side=SIDE, steps=15), 2, redirect=redirected)
            assert (objective(end.images) > objective(begin.images)).all()


@pytest.mark.parametrize("encoding", ["linear", "rectified"])
@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_members_of_a_basis_are_read_as_a_recording_reads_them(encoding: str, pooling: Pooling) -> None:
    rng = np.random.default_rng(1)
    basis = Basis.of(
        rng.normal(size=(5, 3)), encoding, bias=rng.normal(size=3), centre=rng.normal(size=5) * 0.1
    )
    model, images = small(), Images(3)
    info = describe_layers(model, ["2"], SIDE)["2"]
    kept = Kept("2@own")
    consumer = InBasis(kept, info, layer_in_basis(info, "2@own", 3), basis, pooling)
    record(model, images, PREPROCESSING, [consumer], pooling=pooling)
    with looking(model, info, PREPROCESSING, basis=basis, pooling=pooling) as sight:
        found = sight.activations(as_pictures(images))
        climbed = sight.pooled(as_pictures(images)).detach()
        maps = sight.maps(as_pictures(images)).detach()
    assert torch.allclose(found, torch.cat(kept.rows), rtol=1e-4, atol=1e-5)
    # What is climbed, literally: over the positions, the mean or the largest of a . d.
    with torch.no_grad():
        mean, std = (torch.tensor(v)[:, None, None] for v in (PREPROCESSING.mean, PREPROCESSING.std))
        channels = model[2](model[1](model[0]((as_pictures(images) - mean) / std))).double()
    for image in range(3):
        for member in range(3):
            d = torch.from_numpy(basis.matrix[:, member]).double()
            dots = [
                float(channels[image, :, y, x] @ d)
                for y in range(channels.shape[2])
                for x in range(channels.shape[3])
            ]
            expected = max(dots) if pooling == "max" else sum(dots) / len(dots)
            assert float(climbed[image, member]) == pytest.approx(expected, rel=1e-4, abs=1e-5)
            assert maps[image, member].flatten().tolist() == pytest.approx(dots, rel=1e-3, abs=1e-4)


def test_sizes_are_tried_in_order() -> None:
    assert usable_side(small(), 3, [20, 32], "cpu") == 20
    transformer = vit()
    assert usable_side(transformer, 3, [24, SIDE], "cpu") == SIDE
    with pytest.raises(InputError, match="takes no images of 24 pixels"):
        usable_side(transformer, 3, [24], "cpu")
