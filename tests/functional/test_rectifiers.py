"""Redirected and guided gradients: by hand, with values that stay bit for bit what they were."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from concept_monitor_cli.functional.rectifiers import guided, redirected

RELU: dict[str, Callable[[Tensor], Tensor]] = {
    "nn.ReLU": nn.ReLU(),
    "nn.ReLU in place": nn.ReLU(inplace=True),
    "F.relu": F.relu,
    "F.relu in place": lambda x: F.relu(x, True),
    "F.relu_": lambda x: F.relu_(x),
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "method": lambda x: x.relu(),
    "method in place": lambda x: x.relu_(),
}
RELU6: dict[str, Callable[[Tensor], Tensor]] = {
    "nn.ReLU6": nn.ReLU6(),
    "nn.ReLU6 in place": nn.ReLU6(inplace=True),
    "F.relu6": F.relu6,
    "F.relu6 in place": lambda x: F.relu6(x, True),
    "F.hardtanh": lambda x: F.hardtanh(x, 0, 6),
    "F.hardtanh by name": lambda x: F.hardtanh(x, min_val=0, max_val=6),
    "nn.Hardtanh in place": nn.Hardtanh(0, 6, inplace=True),
}
OTHERS: dict[str, Callable[[Tensor], Tensor]] = {
    "nn.Hardtanh": nn.Hardtanh(),
    "clamp": lambda x: x.clamp(0),
    "gelu": F.gelu,
}
INPUTS = [[-1.0, -2.0], [3.0, -1.0], [7.0, 8.0]]


def run(
    relu: Callable[[Tensor], Tensor], mode: object, weights: list[list[float]]
) -> tuple[Tensor, Tensor, int]:
    """Values, gradient of their weighted sum, and how many calls were met."""
    x = torch.tensor(INPUTS, requires_grad=True)
    with mode as met:  # type: ignore[attr-defined]
        y = relu(x * 1)
    (slope,) = torch.autograd.grad((y * torch.tensor(weights)).sum(), x)
    return y, slope, met.met


@pytest.mark.parametrize("name", RELU)
def test_redirected_relu_by_hand(name: str) -> None:
    # Image 0 is silent: what pushes up passes. Image 1 is not: nothing but the ordinary gradient.
    y, slope, met = run(RELU[name], redirected(), [[2.0, -3.0], [4.0, 5.0], [-6.0, 7.0]])
    assert met == 1
    assert torch.equal(y, torch.tensor(INPUTS).clamp(0))
    assert slope.tolist() == [[2, 0], [4, 0], [-6, 7]]


@pytest.mark.parametrize("name", RELU6)
def test_redirected_relu6_by_hand(name: str) -> None:
    # Image 2 is above 6 everywhere: what pushes down passes.
    y, slope, met = run(RELU6[name], redirected(), [[2.0, -3.0], [4.0, 5.0], [-6.0, 7.0]])
    assert met == 1
    assert torch.equal(y, torch.tensor(INPUTS).clamp(0, 6))
    assert slope.tolist() == [[2, 0], [4, 0], [-6, 0]]


@pytest.mark.parametrize("name", RELU)
def test_guided_relu_by_hand(name: str) -> None:
    y, slope, met = run(RELU[name], guided(), [[2.0, -3.0], [4.0, 5.0], [-6.0, 7.0]])
    assert met == 1
    assert torch.equal(y, torch.tensor(INPUTS).clamp(0))
    assert slope.tolist() == [[0, 0], [4, 0], [0, 7]]


@pytest.mark.parametrize("name", RELU6)
def test_guided_relu6_by_hand(name: str) -> None:
    _, slope, _ = run(RELU6[name], guided(), [[2.0, -3.0], [4.0, 5.0], [-6.0, 7.0]])
    assert slope.tolist() == [[0, 0], [4, 0], [0, 0]]


@pytest.mark.parametrize("name", OTHERS)
def test_other_functions_are_left_alone(name: str) -> None:
    plain = torch.tensor(INPUTS, requires_grad=True)
    OTHERS[name](plain).sum().backward()
    _, slope, met = run(OTHERS[name], redirected(), [[1.0] * 2] * 3)
    assert met == 0
    assert torch.equal(slope, plain.grad)


def test_in_place_means_in_place() -> None:
    # A network may use what its in-place ReLU left in the tensor.
    x = torch.tensor([[-1.0, 2.0]], requires_grad=True)
    with guided():
        inside = x * 1
        nn.ReLU(inplace=True)(inside)
        assert inside.tolist() == [[0, 2]]
    (slope,) = torch.autograd.grad((inside * torch.tensor([[3.0, 4.0]])).sum(), x)
    assert slope.tolist() == [[0, 4]]


def test_a_real_network_has_the_same_output_and_all_its_relus_are_met() -> None:
    from torchvision.models import resnet18

    import concept_monitor_cli._torchvision  # noqa: F401

    torch.manual_seed(0)
    model = resnet18(num_classes=5).eval().requires_grad_(False)
    images = torch.randn(2, 3, 64, 64, requires_grad=True)
    expected = model(images)
    (plain,) = torch.autograd.grad(expected[:, 2].sum(), images)
    with redirected() as mode:
        found = model(images)
    assert mode.met == 17
    assert torch.equal(found, expected)
    # Nothing is silent, so nothing is redirected.
    (slope,) = torch.autograd.grad(found[:, 2].sum(), images)
    assert torch.equal(slope, plain)
    with guided():
        found = model(images)
    (other,) = torch.autograd.grad(found[:, 2].sum(), images)
    assert torch.equal(found, expected)
    assert not torch.allclose(other, plain)


def test_nothing_is_swapped_where_no_gradient_is_taken() -> None:
    with guided() as mode:
        F.relu(torch.ones(2))
    assert mode.met == 0
