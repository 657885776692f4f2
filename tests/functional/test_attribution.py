"""Attribution maps beside the same formulas in plain loops, and what is known of them in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional import attribution as M
from concept_monitor_cli.functional.rectifiers import guided


def numbers(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def twin(name: str, A: list, G: list) -> list[list[float]]:
    """A map of one image by the published formulas, place by place."""
    units, height, width = len(A), len(A[0]), len(A[0][0])
    places = [(y, x) for y in range(height) for x in range(width)]
    found = [[0.0] * width for _ in range(height)]
    for k in range(units):
        total = sum(A[k][y][x] for y, x in places)
        weight = 0.0
        if name == "grad-cam":
            weight = sum(G[k][y][x] for y, x in places) / len(places)
        elif name == "xgrad-cam" and total != 0:
            weight = sum(G[k][y][x] * A[k][y][x] for y, x in places) / total
        elif name == "grad-cam++":
            for y, x in places:
                g = G[k][y][x]
                if g != 0:  # alpha of the paper, with y = exp(logit): derivatives are powers of g
                    alpha = g**2 / (2 * g**2 + total * g**3)
                    weight += alpha * max(g, 0)
        for y, x in places:
            g, a = G[k][y][x], A[k][y][x]
            found[y][x] += {"hires-cam": g * a, "layer-cam": max(g, 0) * a}.get(name, weight * a)
    return found


@pytest.mark.parametrize("name", M.LAYER_METHODS)
def test_maps_by_layers_are_their_formulas(name: M.LayerMethod) -> None:
    A = torch.rand(2, 4, 3, 5, generator=numbers(1), dtype=torch.float64)
    A[0, 2] = 0  # a dead unit
    G = torch.randn(2, 4, 3, 5, generator=numbers(2), dtype=torch.float64)
    G[1, 1, 2] = 0
    found = M.LAYER_METHODS[name](A, G)
    for image in range(2):
        expected = torch.tensor(twin(name, A[image].tolist(), G[image].tolist()), dtype=torch.float64)
        assert torch.allclose(found[image], expected, atol=1e-12)


def test_grad_cam_plus_plus_refuses_negative_activations() -> None:
    with pytest.raises(InputError, match="at least 0"):
        M.grad_cam_plus_plus(torch.tensor([[[[-0.1]]]]), torch.ones(1, 1, 1, 1))


def test_pooling_and_a_linear_head_have_known_maps() -> None:
    # y = sum_k W_k mean(A_k) + b, so G is W_k / (h w) everywhere: Grad-CAM is CAM / (h w).
    A = torch.rand(1, 4, 3, 3, generator=numbers(3), dtype=torch.float64)
    W = torch.randn(4, generator=numbers(4), dtype=torch.float64)
    G = (W / 9).view(1, 4, 1, 1).expand_as(A)
    cam = torch.einsum("k,bkyx->byx", W, A)
    assert torch.allclose(M.grad_cam(A, G), cam / 9)
    assert torch.allclose(M.hires_cam(A, G).sum(), W @ A.mean((2, 3))[0])
    assert torch.allclose(M.xgrad_cam(A, G), M.grad_cam(A, G))


def network() -> nn.Module:
    torch.manual_seed(0)
    # Smooth, so that a straight way needs few steps.
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Softplus(), nn.Conv2d(4, 5, 3), nn.Softplus(), nn.Flatten(), nn.Linear(80, 3)
    )
    return model.double().requires_grad_(False)


def test_the_image_gradient_is_that_of_finite_differences_image_by_image() -> None:
    model = network()
    images = torch.rand(2, 3, 8, 8, generator=numbers(5), dtype=torch.float64)
    found = M.image_gradient(lambda x: model(x)[:, 1], images)
    for image, channel, y, x in [(0, 0, 3, 3), (1, 2, 7, 0)]:
        step = torch.zeros_like(images)
        step[image, channel, y, x] = 1e-6
        both = model(images + step)[:, 1] - model(images - step)[:, 1]
        assert found[image, channel, y, x].item() == pytest.approx(both[image].item() / 2e-6, rel=1e-5)


def test_integrated_gradients_add_up_to_the_change_of_the_logit() -> None:
    model = network()
    image = torch.rand(3, 8, 8, generator=numbers(6), dtype=torch.float64)
    grey = torch.full((3, 1, 1), 0.5, dtype=torch.float64)

    def score(x: Tensor) -> Tensor:
        return model(x * 4)[:, 2]

    found, error = M.integrated_gradient(score, image, grey)
    ends = score(torch.stack([image, grey.expand_as(image)]))
    assert found.sum().item() == pytest.approx((ends[0] - ends[1]).item(), rel=1e-4)
    assert error < 1e-4
    assert error == pytest.approx(abs(found.sum().item() / (ends[0] - ends[1]).item() - 1), rel=1e-6)
    _, coarse = M.integrated_gradient(score, image, grey, steps=1)
    assert coarse > 10 * error
    assert math.isnan(M.integrated_gradient(lambda x: 0 * x.sum((1, 2, 3)), image, grey)[1])


def test_of_a_linear_logit_the_methods_agree() -> None:
    image = torch.rand(3, 4, 4, generator=numbers(7), dtype=torch.float64)
    weights = torch.randn(3, 4, 4, generator=numbers(8), dtype=torch.float64)
    mean = torch.tensor([0.4, 0.5, 0.6], dtype=torch.float64)[:, None, None]

    def score(x: Tensor) -> Tensor:
        return (x * weights).sum((1, 2, 3)) + 3

    expected = (weights * (image - mean)).sum(0)
    assert torch.allclose(M.gradient_times_input(score, image, mean), expected)
    assert torch.allclose(M.integrated_gradient(score, image, mean)[0], expected)
    assert torch.allclose(M.smooth_gradient(score, image, numbers(0)), weights.sum(0))


def test_smoothing_draws_noise_of_a_share_of_the_range() -> None:
    image = torch.zeros(1, 2, 2, dtype=torch.float64)
    image[0, 0, 0] = 2.0

    def score(x: Tensor) -> Tensor:
        return x.square().sum((1, 2, 3)) / 2  # the gradient is x itself

    found = M.smooth_gradient(score, image, numbers(1), copies=20_000)
    assert torch.allclose(found, image[0], atol=0.01)
    few = torch.stack([M.smooth_gradient(score, image, numbers(s), copies=1) - image[0] for s in range(4000)])
    assert few.std().item() == pytest.approx(0.15 * 2, rel=0.03)
    again = M.smooth_gradient(score, image, numbers(5), copies=3)
    assert torch.equal(again, M.smooth_gradient(score, image, numbers(5), copies=3))


def test_peaks_and_cosines_by_hand() -> None:
    one = torch.tensor([[0.0, 1.0], [0.5, 0.0]])
    assert M.peak(one) == (0.75, 0.25)
    assert M.peak(torch.tensor([[2.0, 1.0, 2.0]])) == (0.5, 0.5)
    assert all(math.isnan(value) for value in M.peak(torch.ones(2, 2)))
    assert M.map_cosine(one, 3 * one) == pytest.approx(1)
    assert M.map_cosine(one, -one) == pytest.approx(-1)
    assert math.isnan(M.map_cosine(one, torch.zeros(2, 2)))


def test_enlarged_maps_keep_their_corners() -> None:
    found = M.enlarged(torch.tensor([[[0.0, 4.0], [0.0, 4.0]]]), 4, 4)
    assert found[0, 0].tolist() == [0, 1, 3, 4]


@pytest.mark.parametrize("name", ["grad-cam", "hires-cam"])
def test_captum_agrees(name: str) -> None:
    attr = pytest.importorskip("captum.attr")
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)
    ).eval()
    images = torch.randn(3, 3, 10, 10, generator=numbers(9))
    if name == "hires-cam":
        # Gradient times activation, before anything is cut.
        theirs = attr.LayerGradientXActivation(model, model[3]).attribute(images, target=2).sum(1)
        mine = M.hires_cam
    else:
        theirs = attr.LayerGradCam(model, model[3]).attribute(images, target=2)[:, 0]
        mine = M.grad_cam
    A = model[:4](images).detach().requires_grad_()
    (G,) = torch.autograd.grad(model[4:](A)[:, 2].sum(), A)
    assert torch.allclose(mine(A.detach(), G), theirs.detach(), atol=1e-6)


@pytest.mark.parametrize("name", M.LAYER_METHODS)
def test_pytorch_grad_cam_agrees(name: str) -> None:
    pytest.importorskip("cv2")
    theirs = pytest.importorskip("pytorch_grad_cam")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    methods = {
        "grad-cam": theirs.GradCAM,
        "grad-cam++": theirs.GradCAMPlusPlus,
        "hires-cam": theirs.HiResCAM,
        "layer-cam": theirs.LayerCAM,
        "xgrad-cam": theirs.XGradCAM,
    }
    torch.manual_seed(2)
    # Its maps are enlarged to the image: here they are as large.
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(800, 4),
    ).eval()
    with torch.no_grad():
        model[5].weight *= 100  # it adds 1e-6 to squares of gradients (grad-cam++)
    images = torch.randn(3, 3, 10, 10, generator=numbers(9))
    with methods[name](model=model, target_layers=[model[3]]) as cam:
        expected = cam(input_tensor=images, targets=[targets.ClassifierOutputTarget(2)] * 3)
    A = model[:4](images).detach().requires_grad_()
    (G,) = torch.autograd.grad(model[4:](A)[:, 2].sum(), A)
    # It cuts maps at 0 and stretches them from 0 to 1.
    found = M.LAYER_METHODS[name](A.detach(), G).clamp_min(0)
    found = found - found.amin((1, 2), keepdim=True)
    found = found / found.amax((1, 2), keepdim=True)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
    assert float(found.mean()) > 0.01


def test_captum_agrees_on_guided_gradients_where_it_swaps_the_relus() -> None:
    # It swaps modules of the type nn.ReLU only: of ReLU6 and F.relu it gives the plain gradient.
    attr = pytest.importorskip("captum.attr")
    torch.manual_seed(2)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)
    ).eval()
    images = torch.randn(2, 3, 10, 10, generator=numbers(10))
    theirs = attr.GuidedBackprop(model).attribute(images, target=1)
    with guided():
        mine = M.image_gradient(lambda x: model(x)[:, 1], images)
    assert torch.allclose(mine, theirs.detach(), atol=1e-6)
