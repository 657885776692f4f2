"""Changes in a layer, many at once, against a pass for each; and skip paths round it."""

from __future__ import annotations

from late import Late

import concept_monitor_cli._torchvision  # noqa: F401  isort: skip
import pytest
import torch
from torch import Tensor, nn

from concept_monitor_cli.models.interventions import Edit, interventions, set_units
from concept_monitor_cli.models.layers import describe_layers
from concept_monitor_cli.record.scores import class_scores

timm = Late("timm")
torchvision = Late("torchvision")


class Plain(nn.Module):
    """A ReLU in place after the layer, and the layer's ReLU used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 5, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.first(x))
        return self.head(self.relu(self.second(x)).mean((2, 3)))


class Skip(Plain):
    """A path round `second`."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.first(x))
        return self.head((x[:, :5] + self.second(x)).mean((2, 3)))


class Viewed(Plain):
    """Takes the number of images before the layer: copies land in the positions."""

    def forward(self, x: Tensor) -> Tensor:
        count = len(x)
        x = self.second(self.relu(self.first(x)))
        return self.head(x.reshape(count, 5, -1).mean(2))


def twin(model: nn.Module, layer: str, calls: int, images: Tensor, units: list[int], value: float) -> Tensor:
    """One pass in which some channels (axis 1) are set after the layer's last call."""
    seen = 0

    def change(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor | None:
        nonlocal seen
        seen += 1
        if seen < calls:
            return None
        changed = output.clone()
        for unit in units:
            changed[:, unit] = value
        return changed

    handle = model.get_submodule(layer).register_forward_hook(change)
    with torch.inference_mode():
        out = model(images)
    handle.remove()
    return out


def images(count: int, side: int = 8) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("layer", ["first", "second", "relu"])
@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("rows", [4, 512])
def test_copies_get_what_a_pass_for_each_change_gives(layer: str, count: int, rows: int) -> None:
    torch.manual_seed(0)
    model = Plain().eval()
    info = describe_layers(model, [layer], 8)[layer]
    sets = [[0], [3], [1, 4]]
    edits: list[Edit] = [set_units(units, 0.7) for units in sets]
    x = images(count)
    before = model(x).detach()
    with interventions(model, info, lambda out: class_scores(out, model), rows=rows) as run:
        found = run(x, edits)
    assert run.together
    assert found.shape == (3, count, 4)
    for place, units in enumerate(sets):
        assert torch.allclose(found[place], twin(model, layer, info.calls, x, units, 0.7), atol=1e-5)
    # Something changes, and nothing is left behind.
    assert float((found[0] - before).abs().max()) > 1e-3
    assert torch.equal(model(x), before)


@pytest.mark.parametrize("network", [Skip, Viewed])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_path_round_the_layer_is_noticed(network: type[Plain], count: int) -> None:
    """Each change then has its own pass, and the scores are right all the same."""
    torch.manual_seed(1)
    model = network().eval()
    info = describe_layers(model, ["second"], 8)["second"]
    x = images(count)
    with interventions(model, info, lambda out: class_scores(out, model)) as run:
        found = run(x, [set_units([unit], 0.0) for unit in range(4)])
    assert run.together is False
    assert run.why_not
    for unit in range(4):
        assert torch.allclose(found[unit], twin(model, "second", 1, x, [unit], 0.0), atol=1e-5)


def test_each_unit_can_be_given_a_value_of_its_own() -> None:
    torch.manual_seed(2)
    model = Plain().eval()
    info = describe_layers(model, ["second"], 8)["second"]
    seen: list[Tensor] = []
    edit = set_units([4, 1], torch.tensor([0.25, -2.0]))

    def spy(output: Tensor) -> None:
        edit(output)
        seen.append(output.clone())

    with interventions(model, info, lambda out: out) as run:
        run(images(2), [spy])
    assert bool((seen[0][:, 4] == 0.25).all())
    assert bool((seen[0][:, 1] == -2).all())
    assert len(seen[0][:, 0].unique()) > 2


def test_the_hook_is_gone_after_a_failure() -> None:
    model = Plain().eval()
    info = describe_layers(model, ["second"], 8)["second"]

    def broken(output: Tensor) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError), interventions(model, info, lambda out: out) as run:
        run(images(2), [broken])
    assert not model.second._forward_hooks


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("resnet18", "layer3"),
        ("vit_tiny_patch16_224", "blocks.0"),
        ("swin_tiny_patch4_window7_224", "layers.0"),
    ],
)
def test_networks_in_use(name: str, layer: str) -> None:
    """Tokens and channels last: units are on another axis."""
    torch.manual_seed(3)
    if name == "resnet18":
        model: nn.Module = torchvision.models.resnet18(num_classes=5).eval()
    elif name.startswith("vit"):
        model = timm.create_model(
            name, img_size=32, patch_size=8, depth=2, num_classes=4, embed_dim=24, num_heads=2
        ).eval()
    else:
        model = timm.create_model(
            name, img_size=32, window_size=4, embed_dim=16, depths=(1, 1), num_heads=(1, 2), num_classes=4
        ).eval()
    info = describe_layers(model, [layer], 32)[layer]
    x = images(3, 32)
    with interventions(model, info, lambda out: class_scores(out, model)) as run:
        found = run(x, [set_units([0], 1.0), set_units([2, 5], 1.0)])
    assert run.together

    def change(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        changed = output.clone()
        axis = 1 if name == "resnet18" else output.ndim - 1
        changed.select(axis, 2).fill_(1.0)
        changed.select(axis, 5).fill_(1.0)
        return changed

    handle = model.get_submodule(layer).register_forward_hook(change)
    with torch.inference_mode():
        expected = model(x)
    handle.remove()
    assert torch.allclose(found[1], expected, atol=1e-5)
    with torch.inference_mode():
        assert float((found[1] - model(x)).abs().max()) > 1e-4
