"""A later layer with units of an earlier one silent, against a pass for each."""

from __future__ import annotations

from late import Late

import concept_monitor_cli._torchvision  # noqa: F401  isort: skip
import pytest
import torch
from torch import Tensor, nn

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.models.knockouts import knockouts
from concept_monitor_cli.models.layers import describe_layers

timm = Late("timm")
torchvision = Late("torchvision")


class Plain(nn.Module):
    """A ReLU in place after the layer, and the layer's ReLU used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.last = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.relu(self.second(self.relu(self.first(x)))))


class Skip(Plain):
    """A path round `second`, and a head that would break on other rows than these."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.first(x))
        return self.last(x + self.second(x))


class Viewed(Plain):
    """Takes the number of images before the layer: rows would land in the positions."""

    def forward(self, x: Tensor) -> Tensor:
        count = len(x)
        x = self.second(self.relu(self.first(x)))
        return self.last(x.reshape(count, 6, 8, 8))


def twin(
    model: nn.Module, names: tuple[str, str], calls: tuple[int, int], x: Tensor, axis: int, unit: int
) -> Tensor:
    """One pass with one unit at 0 after the first layer's last call; the second layer's mean."""
    seen, kept = [0, 0], []

    def change(_m: nn.Module, _i: object, out: Tensor) -> Tensor | None:
        seen[0] += 1
        if seen[0] != calls[0] or unit < 0:
            return None
        changed = out.clone()
        changed.select(axis, unit).zero_()
        return changed

    def read(_m: nn.Module, _i: object, out: Tensor) -> None:
        seen[1] += 1
        if seen[1] == calls[1]:
            kept.append(out.clone())

    handles = [
        model.get_submodule(names[0]).register_forward_hook(change),
        model.get_submodule(names[1]).register_forward_hook(read),
    ]
    with torch.inference_mode():
        model(x)
    for handle in handles:
        handle.remove()
    out = kept[0]
    return out.movedim(axis, 1).flatten(2).mean(2)


CASES = [
    (Plain, "first", "last", True),
    (Plain, "second", "relu", True),
    (Skip, "second", "last", False),
    (Viewed, "second", "last", False),
]


@pytest.mark.parametrize(("kind", "first", "second", "together"), CASES)
@pytest.mark.parametrize("count", [1, 4])
def test_rows_are_what_a_pass_for_each_gives(
    kind: type[nn.Module], first: str, second: str, together: bool, count: int
) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    infos = describe_layers(model, [first, second], 8)
    x = torch.rand(count, 3, 8, 8)
    rows = torch.tensor([0, count - 1, 0, 0, count - 1, 0, 0])
    units = torch.tensor([0, 5, 3, -1, 2, 1, 4])
    with knockouts(model, infos[first], infos[second]) as run:
        found = run.without(x, rows, units)
        before, after = run.plain(x)
    assert run.together is together
    assert bool(run.why_not) is not together
    calls = infos[first].calls, infos[second].calls
    for place, (row, unit) in enumerate(zip(rows.tolist(), units.tolist(), strict=True)):
        expected = twin(model, (first, second), calls, x, 1, unit)[row]
        torch.testing.assert_close(found[place], expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(after.mean(2), twin(model, (first, second), calls, x, 1, -1))
    assert before.shape[:2] == (count, 6)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("name", "size", "first", "second", "axis"),
    [
        ("vit_tiny_patch16_224", 32, "blocks.2", "blocks.3", 2),
        ("swin_tiny_patch4_window7_224", 56, "layers.0", "layers.1", 3),
    ],
)
def test_transformers_are_changed_at_all_tokens(
    name: str, size: int, first: str, second: str, axis: int
) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=2, img_size=size).eval()
    infos = describe_layers(model, [first, second], size)
    x = torch.rand(2, 3, size, size)
    with knockouts(model, infos[first], infos[second]) as run:
        found = run.without(x, torch.tensor([0, 1]), torch.tensor([3, 20]))
    assert run.together
    for place, unit in enumerate((3, 20)):
        expected = twin(model, (first, second), (1, 1), x, axis, unit)[place]
        torch.testing.assert_close(found[place], expected, rtol=1e-4, atol=1e-5)


def test_inside_a_residual_block_each_pair_has_a_pass_from_its_image() -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=2).eval()
    first, second = "layer4.1.bn1", "layer4.1"
    infos = describe_layers(model, [first, second], 64)
    x = torch.rand(2, 3, 64, 64)
    with knockouts(model, infos[first], infos[second]) as run:
        found = run.without(x, torch.tensor([0, 1, 1]), torch.tensor([3, 20, 7]))
    assert run.together is False
    for place, (row, unit) in enumerate(((0, 3), (1, 20), (1, 7))):
        expected = twin(model, (first, second), (1, 1), x, 1, unit)[row]
        torch.testing.assert_close(found[place], expected, rtol=1e-4, atol=1e-5)


def test_layers_in_the_wrong_order_are_refused() -> None:
    model = Plain().eval()
    infos = describe_layers(model, ["first", "last"], 8)
    with (
        knockouts(model, infos["last"], infos["first"]) as run,
        pytest.raises(InputError, match="come after"),
    ):
        run.plain(torch.rand(2, 3, 8, 8))
