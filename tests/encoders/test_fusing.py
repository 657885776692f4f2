"""Batch normalisations that go into convolutions, and those that must not."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from concept_monitor_cli.encoders import fusing
from concept_monitor_cli.encoders.fusing import fuse_batch_norms

PIXELS = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(1))


class Blocks(nn.Module):
    """A dozen convolutions with a batch normalisation each, and a mean; `mix` says what a block does."""

    def __init__(self, mix: Callable[[nn.Module, Tensor], Tensor] | None = None, *, groups: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(nn.Module() for _ in range(12))
        self.mix = mix or (lambda block, x: block.norm(block.conv(x)).relu())
        for number, block in enumerate(self.blocks):
            first = number == 0
            block.conv = nn.Conv2d(
                3 if first else 8, 8, 3, padding=1, bias=number % 2 == 0, groups=1 if first else groups
            )
            block.norm = nn.BatchNorm2d(8, affine=number % 3 != 0)
            _make_up(block.norm)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = self.mix(block, x)
        return x.mean((2, 3))


def _make_up(norm: nn.BatchNorm2d) -> None:
    norm.running_mean.normal_(0, 0.3)
    norm.running_var.uniform_(0.05, 2)
    if norm.affine:
        nn.init.uniform_(norm.weight, -1.5, 1.5)
        nn.init.normal_(norm.bias)


def _norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize("groups", [1, 4, 8])
def test_what_comes_out_is_the_same_to_rounding(groups: int) -> None:
    network = Blocks(groups=groups)
    exact, plain = copy.deepcopy(network).double()(PIXELS.double()), network(PIXELS)
    assert fuse_batch_norms(network, network, PIXELS) == 12
    assert _norms(network) == 0
    fused = network(PIXELS)
    assert not torch.equal(fused, plain)
    rounding = (plain - exact).abs().max()
    assert (fused - exact).abs().max() < 4 * rounding


def _twice(block: nn.Module, x: Tensor) -> Tensor:
    made = block.conv(x)
    return block.norm(made).relu() + 0.1 * block.other(made)


def _beside(block: nn.Module, x: Tensor) -> Tensor:
    made = block.conv(x)
    return block.norm(made).relu() + 0.1 * made


def _asking(block: nn.Module, x: Tensor) -> Tensor:
    return block.norm(block.conv(x)).relu() * block.norm.running_var.mean()


def _again(block: nn.Module, x: Tensor) -> Tensor:
    return block.norm(block.conv(x if x.shape[1] == 3 else block.norm(block.conv(x)))).relu()


def _by_keyword(block: nn.Module, x: Tensor) -> Tensor:
    return block.norm(input=block.conv(x)).relu()


@pytest.mark.parametrize("mix", [_twice, _beside, _asking, _again, _by_keyword])
def test_who_else_hears_a_convolution_keeps_hearing_the_same(
    mix: Callable[[nn.Module, Tensor], Tensor],
) -> None:
    network = Blocks(mix)
    for block in network.blocks:
        block.other = nn.Identity()
    before = network(PIXELS)
    fused = fuse_batch_norms(network, network, PIXELS)
    # The first block of `_again` has but one call of each.
    assert fused == (1 if mix is _again else 0)
    assert _norms(network) == 12 - fused
    if fused:
        assert torch.allclose(network(PIXELS), before, atol=1e-6)
    else:
        assert torch.equal(network(PIXELS), before)


def test_normalisations_that_are_more_than_a_factor_stay() -> None:
    class Louder(nn.BatchNorm2d):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input).square()

    network = Blocks()
    network.blocks[0].norm = nn.BatchNorm2d(8, track_running_stats=False).eval()
    network.blocks[1].norm = Louder(8).eval()
    parametrizations.weight_norm(network.blocks[2].conv)
    before = network(PIXELS)
    assert fuse_batch_norms(network, network, PIXELS) == 9
    assert _norms(network) == 3
    assert torch.allclose(network(PIXELS), before, atol=1e-5)


def test_few_normalisations_are_not_worth_it() -> None:
    network = Blocks()
    for block in network.blocks[: 12 - fusing.WORTHWHILE + 1]:
        block.norm = nn.Identity()

    def never(_: Tensor) -> Tensor:
        raise AssertionError

    assert fuse_batch_norms(network, never, PIXELS) == 0


def test_numbers_of_tensors_that_are_gone_confuse_nothing() -> None:
    """Python gives a new tensor the number (`id`) of one that was freed."""

    def passing(block: nn.Module, x: Tensor) -> Tensor:
        for _ in range(5):
            block.other(x * 1.0)
        return block.norm(block.conv(block.other(x * 1.0))).relu()

    network = Blocks(passing)
    for block in network.blocks:
        block.other = nn.Sequential(nn.Identity(), nn.Identity())
    assert fuse_batch_norms(network, network, PIXELS) == 12


@pytest.mark.parametrize(
    "name", ["resnet18", "efficientnet_b0", "mobilenetv3_small_100", "tf_efficientnet_lite0"]
)
def test_networks_of_timm(name: str) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            _make_up(module)
    network.eval()
    images = torch.randn(2, 3, 64, 64)
    count, before = _norms(network), network(images)
    assert fuse_batch_norms(network, network, images[:1]) == count
    assert _norms(network) == 0
    assert torch.allclose(network(images), before, rtol=1e-4, atol=1e-4 * float(before.detach().abs().max()))
