"""Two networks and the way between their layers: against loops over points, units and images."""

from __future__ import annotations

from late import Late

import concept_monitor_cli._torchvision  # noqa: F401  isort: skip
import pytest
import torch
from torch import Tensor, nn

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.evolutions import midpoints
from concept_monitor_cli.models.geometry import Geometry, Preprocessing
from concept_monitor_cli.models.layers import LayerInfo, describe_layers
from concept_monitor_cli.models.pooling import by_position, units_second
from concept_monitor_cli.record.evolved import Side, evolved, scores_set_back

timm = Late("timm")

SIDE = 16
CPU = torch.device("cpu")


class Block(nn.Module):
    """A residual block with a ReLU in place, which is called twice."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(self.relu(self.conv1(x)))
        out += x
        return self.relu(out)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.relu = nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(inplace=True)
        self.layer1, self.layer2 = Block(6), Block(6)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer2(self.layer1(self.relu(self.stem(x)))).mean((2, 3)))


class Vectors(nn.Module):
    """Layers without positions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(3 * SIDE * SIDE, 7), nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.first(x.flatten(1))))


class Pixels:
    def __init__(self, count: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.values = torch.randint(0, 256, (count, SIDE, SIDE, 3), generator=generator, dtype=torch.uint8)

    def __len__(self) -> int:
        return len(self.values)

    def rows(self, start: int, stop: int):
        return self.values[start:stop].numpy()


PREPROCESSING = Preprocessing(Geometry(SIDE, SIDE), (0.5,) * 3, (0.25,) * 3, "the test")


def vit() -> nn.Module:
    return timm.create_model(
        "vit_tiny_patch16_224",
        img_size=SIDE,
        patch_size=8,
        embed_dim=24,
        depth=2,
        num_heads=3,
        num_classes=4,
    )


def swin() -> nn.Module:
    return timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=SIDE,
        patch_size=2,
        window_size=4,
        embed_dim=12,
        depths=(1, 1),
        num_heads=(2, 2),
        num_classes=4,
    )


def sides(factory: type[nn.Module] | object, count: int = 7) -> tuple[Side, Side]:
    made = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = factory().eval()  # type: ignore[operator]
        made.append(Side(model, Pixels(count), PREPROCESSING))
    return made[0], made[1]


def images_of(side: Side) -> Tensor:
    return ((side.pixels.values.permute(0, 3, 1, 2).float() / 255) - 0.5) / 0.25  # type: ignore[attr-defined]


def last_output(model: nn.Module, layer: LayerInfo, x: Tensor, instead: Tensor | None = None) -> tuple:
    """Scores, and what the layer put out at its last call; or with something in its place."""
    kept: list[Tensor] = []

    def hook(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor | None:
        kept.append(output.detach().clone())
        return None if instead is None or len(kept) != layer.calls else instead.clone()

    handle = model.get_submodule(layer.name).register_forward_hook(hook)
    try:
        return model(x), kept[-1]
    finally:
        handle.remove()


CASES = [
    (Residual, "layer1", True),
    (Residual, "stem", True),
    (Residual, "layer2.relu", True),
    (Residual, "layer2.conv1", False),
    (vit, "blocks.0", True),
    (swin, "layers.0", True),
    (Vectors, "first", True),
]
NAMES = [f"{factory.__name__}-{name}" for factory, name, _ in CASES]


@pytest.mark.parametrize(
    ("factory", "name", "together"), CASES, ids=[f"{f.__name__}-{n}" for f, n, _ in CASES]
)
@pytest.mark.parametrize("batch", [1, 3])
def test_what_units_brought_is_what_loops_say(factory: object, name: str, together: bool, batch: int) -> None:
    earlier, later = sides(factory)
    layer = describe_layers(later.model, [name], SIDE)[name]
    chosen, classes = [5, 1, 2, 6], torch.tensor([0, 0, 3, 3])
    found = evolved(earlier, later, layer, chosen, classes, device=CPU, batch_size=batch)
    assert (found.why_not == "") == together
    x = images_of(later)[chosen]
    old = last_output(earlier.model, layer, x)[1]
    scores, new = last_output(later.model, layer, x)
    own = torch.arange(4), classes
    change = by_position(new - old, layer.layout).double()

    def slope(point: float) -> tuple[Tensor, Tensor]:
        leaf = (old + point * (new - old)).requires_grad_()
        said = last_output(later.model, layer, x, leaf)[0][own]
        (gradient,) = torch.autograd.grad(said.sum(), leaf)
        return said.detach(), by_position(gradient, layer.layout).double()

    middle = sum(slope(point)[1] for point in midpoints()) / 8
    assert torch.allclose(found.path.double(), (middle * change).sum(2), atol=1e-4)
    assert torch.allclose(found.fast.double(), (slope(1.0)[1] * change).sum(2), atol=1e-4)
    assert torch.allclose(found.before, slope(0.0)[0].double(), atol=1e-4)
    assert torch.allclose(found.after, scores[own].detach().double(), atol=1e-4)
    units = change.shape[1]
    for place, mine in enumerate([[0, 1], [2, 3]]):
        for unit in range(0, units, 5):
            others = [
                float((middle[mine, other] * change[mine, unit]).sum(1).mean()) ** 2
                for other in range(units)
                if other != unit
            ]
            expected = (sum(others) / (units - 1)) ** 0.5
            assert float(found.elsewhere[place, unit]) == pytest.approx(expected, rel=1e-3, abs=1e-6)
    # Nothing is left behind.
    assert torch.equal(later.model(x), scores)
    assert all(weight.requires_grad for weight in later.model.parameters())


@pytest.mark.parametrize(
    ("factory", "name", "together"), CASES, ids=[f"{f.__name__}-{n}" for f, n, _ in CASES]
)
@pytest.mark.parametrize("batch", [1, 3])
def test_units_set_back_get_what_a_pass_for_each_gives(
    factory: object, name: str, together: bool, batch: int
) -> None:
    earlier, later = sides(factory)
    layer = describe_layers(later.model, [name], SIDE)[name]
    chosen, classes = [0, 3, 4], torch.tensor([1, 2, 2])
    sets = [[0], [2, 5], list(range(layer.units))]
    found = scores_set_back(earlier, later, layer, chosen, classes, sets, device=CPU, batch_size=batch)
    x = images_of(later)[chosen]
    old = last_output(earlier.model, layer, x)[1]
    new = last_output(later.model, layer, x)[1]
    for place, units in enumerate(sets):
        mixed = new.clone()
        units_second(mixed, layer.layout)[:, units] = units_second(old, layer.layout)[:, units]
        with torch.no_grad():
            said = last_output(later.model, layer, x, mixed)[0][torch.arange(3), classes]
        assert torch.allclose(found[:, place], said.double(), atol=1e-4)


def test_along_the_path_the_parts_sum_to_the_whole_and_one_gradient_does_not() -> None:
    earlier, later = sides(Residual, 40)
    with torch.no_grad():
        for weight in later.model.parameters():
            weight *= 3
    layer = describe_layers(later.model, ["layer1"], SIDE)["layer1"]
    found = evolved(earlier, later, layer, list(range(40)), torch.arange(40) // 10, device=CPU)
    whole = found.after - found.before
    path, fast = (
        float((each.double().sum(1) - whole).abs().mean() / whole.abs().mean())
        for each in (found.path, found.fast)
    )
    assert path < 0.01 < 0.05 < fast


class Deaf(Residual):
    """Its scores do not hear layer1."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        self.layer1(x.clone())
        return self.head(x.mean((2, 3)))


def test_a_layer_that_cannot_be_asked_is_refused() -> None:
    earlier, later = sides(Deaf)
    layer = describe_layers(later.model, ["layer1"], SIDE)["layer1"]
    with pytest.raises(InputError, match="changes no score"):
        evolved(earlier, later, layer, [0, 1], torch.tensor([0, 0]), device=CPU)
    earlier, later = sides(Residual)
    wide = nn.Sequential(nn.Conv2d(3, 9, 3, 2, 1))
    layer = describe_layers(later.model, ["stem"], SIDE)["stem"]
    earlier.model.stem = wide[0]
    earlier.model.forward = lambda x: earlier.model.stem(x)  # type: ignore[method-assign]
    with pytest.raises(InputError, match="9 x 8 x 8 at one epoch and 6 x 8 x 8"):
        evolved(earlier, later, layer, [0, 1], torch.tensor([0, 0]), device=CPU)
