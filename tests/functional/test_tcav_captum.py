"""Sign shares beside captum's TCAV, with vectors put in by hand. captum is no requirement of the tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from concept_monitor_cli.functional.concept_vectors import ClassGradients, sign_shares


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 16, 3)
        self.relu, self.head = nn.ReLU(), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.second(self.relu(self.first(x))).sum((2, 3))))


def test_shares_are_those_of_captum(tmp_path: Path) -> None:
    pytest.importorskip("captum.concept", reason="captum is not installed")
    from captum.attr import LayerGradientXActivation
    from captum.concept import TCAV, Concept
    from captum.concept._core.cav import CAV

    torch.manual_seed(0)
    model, wanted = Network().eval(), 2
    images = 3 * torch.randn(60, 3, 6, 6)
    kept: list[Tensor] = []
    handle = model.relu.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    scores = model(images)
    handle.remove()
    (slope,) = torch.autograd.grad(scores[:, wanted].sum(), kept[0])
    gradients = ClassGradients.of(slope.sum((2, 3)), torch.full((60,), wanted), 4)
    V = torch.randn(6, 5)
    ours = sign_shares(gradients, V)[wanted]
    for m in range(5):
        # The same vector at every position, in captum's flat space.
        flat = V[:, m][:, None, None].expand(6, 6, 6).reshape(-1)
        pair = [Concept(0, "with", None), Concept(1, "without", None)]
        method = LayerGradientXActivation(model, None, multiply_by_inputs=False)
        tcav = TCAV(model, ["relu"], layer_attr_method=method, save_path=str(tmp_path))
        stats = {"weights": torch.stack([flat, -flat]), "classes": [0, 1], "accs": 0.5}
        tcav.cavs["0-1"]["relu"] = CAV(pair, "relu", stats)
        tcav.compute_cavs = lambda *_given, _tcav=tcav, **_more: _tcav.cavs
        share = tcav.interpret(images, [pair], target=wanted)["0-1"]["relu"]["sign_count"][0]
        assert float(ours[m]) == pytest.approx(float(share), abs=1e-6)
    # No sum is so near 0 that rounding decides its sign.
    assert float((gradients.own @ V.double()).abs().min()) > 1e-6
    assert len({round(float(share), 3) for share in ours}) > 3
    assert bool(((ours > 0.02) & (ours < 0.98)).any())
