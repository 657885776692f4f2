"""What weights say of the way between two layers, in networks where the answer is known."""

from __future__ import annotations

from late import Late

import concept_monitor_cli._torchvision  # noqa: F401  isort: skip
import pytest
import torch
from torch import Tensor, nn

from concept_monitor_cli.models.channel_paths import NoPathError, path_matrix, trace_path
from concept_monitor_cli.models.cifar import create_model

timm = Late("timm")
torchvision = Late("torchvision")


def settled(model: nn.Module, seed: int = 0) -> nn.Module:
    """Norms with statistics and scales of their own."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var = torch.rand(module.num_features, generator=generator) + 0.5
            module.running_mean = torch.randn(module.num_features, generator=generator) * 0.1
            module.weight.data = torch.randn(module.num_features, generator=generator)
    return model.eval()


def outputs(model: nn.Module, names: list[str], x: Tensor) -> list[Tensor]:
    kept: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, name=name: kept.__setitem__(name, out.clone())
        )
        for name in names
    ]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return [kept[name] for name in names]


class Linear(nn.Module):
    """No nonlinearity between `first` and `last`: the matrix is exact."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 1)
        self.second = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2)
        self.norm = nn.BatchNorm2d(6)
        self.short = nn.Sequential(nn.Conv2d(4, 6, 1, stride=2, bias=False), nn.BatchNorm2d(6))
        self.last = nn.Identity()
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = self.last(self.norm(self.second(x)) + self.short(x))
        return self.head(self.relu(x).mean((2, 3)))


def test_a_linear_way_is_exact_on_flat_maps() -> None:
    torch.manual_seed(0)
    model = settled(Linear())
    flat = torch.randn(1, 3, 1, 1).expand(1, 3, 8, 8)
    other = torch.randn(1, 3, 1, 1).expand(1, 3, 8, 8)
    matrix = path_matrix(trace_path(model, "first", "last"), [flat])
    one, two = (outputs(model, ["first", "last"], x) for x in (flat, other))
    before, after = (a.mean((2, 3)).double() - b.mean((2, 3)).double() for a, b in zip(one, two, strict=True))
    torch.testing.assert_close(matrix @ before[0], after[0], rtol=1e-4, atol=1e-5)


def test_a_block_with_fixed_gates_against_loops() -> None:
    """Sum over taps, norm, share of positions above 0, sum over taps, norm, shortcut, share: by hand."""
    torch.manual_seed(1)
    model = settled(create_model("cifar_resnet20", num_classes=10)).requires_grad_(False)
    x = torch.rand(4, 3, 8, 8)
    names = ["layer2.0", "layer2.1.bn1", "layer2.1.bn2", "layer2.1"]
    start, mid, _, end = outputs(model, names, x)
    matrix = path_matrix(trace_path(model, "layer2.0", "layer2.1"), [x[:2], x[2:]])
    block = model.get_submodule("layer2.1")
    size = start.shape[2]
    width = start.shape[1]

    def gate(values: Tensor, k: int, i: int) -> float:
        """Share of positions above 0, each counted by how active channel `i` is there before the block."""
        on = total = 0.0
        for n in range(len(start)):
            for y in range(size):
                for z in range(size):
                    active = abs(float(start[n, i, y, z]))
                    on += active * (float(values[n, k, y, z]) > 0)
                    total += active
        return on / total

    def folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> list[list[float]]:
        table = []
        for k in range(width):
            scale = float(norm.weight[k]) / float(norm.running_var[k] + norm.eps) ** 0.5
            row = []
            for i in range(width):
                total = 0.0
                for dy in range(3):
                    for dx in range(3):
                        seen = sum(
                            0 <= y + dy - 1 < size and 0 <= z + dx - 1 < size
                            for y in range(size)
                            for z in range(size)
                        )
                        total += float(conv.weight[k, i, dy, dx]) * seen / size**2
                row.append(scale * total)
            table.append(row)
        return table

    one, two = folded(block.conv1, block.bn1), folded(block.conv2, block.bn2)
    # The sum before the last ReLU is positive where the block's output is.
    for k in (0, 3, width - 1):
        for i in range(0, width, 5):
            way = sum(two[k][j] * gate(mid, j, i) * one[j][i] for j in range(width)) + float(i == k)
            assert float(matrix[k, i]) == pytest.approx(gate(end, k, i) * way, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("resnet18", "layer3", "layer4"),
        ("densenet121", "features.pool0", "features.transition1"),
        ("mobilenet_v2", "features.1", "features.3"),
    ],
)
def test_torchvision_networks_can_be_followed(name: str, first: str, second: str) -> None:
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, num_classes=3).eval()
    x = torch.rand(2, 3, 32, 32)
    matrix = path_matrix(trace_path(model, first, second), [x])
    start, end = outputs(model, [first, second], x)
    assert matrix.shape == (end.shape[1], start.shape[1])
    assert matrix.isfinite().all()
    assert matrix.abs().sum() > 0


def test_on_a_coarser_grid_a_position_counts_by_the_positions_it_stands_for() -> None:
    """Behind a stride of 2 a place is counted by the mean of four of the first layer."""
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 2, stride=2), nn.ReLU(), nn.Conv2d(5, 2, 1)
    ).eval()
    x = torch.randn(2, 3, 6, 6)
    matrix = path_matrix(trace_path(model, "0", "3"), [x[:1], x[1:]])
    first, mid = outputs(model, ["0", "1"], x)
    for i in range(4):
        way = torch.zeros(5, dtype=torch.float64)
        for k in range(5):
            on = total = 0.0
            for n in range(2):
                for y in range(3):
                    for z in range(3):
                        block = first[n, i, 2 * y : 2 * y + 2, 2 * z : 2 * z + 2]
                        active = float(block.double().abs().mean())
                        on += active * (float(mid[n, k, y, z]) > 0)
                        total += active
            way[k] = on / total * float(model[1].weight[k, i].double().sum())
        expected = model[3].weight[:, :, 0, 0].double() @ way
        torch.testing.assert_close(matrix[:, i], expected.detach(), rtol=1e-4, atol=1e-7)


def test_slopes_are_those_of_the_function() -> None:
    torch.manual_seed(2)

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.act, self.second = nn.Conv2d(3, 4, 1), nn.SiLU(inplace=True), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(torch.relu(self.act(self.first(x))))

    model = Two().eval()
    x = torch.randn(3, 3, 5, 5)
    matrix = path_matrix(trace_path(model, "first", "second"), [x])
    given = outputs(model, ["first"], x)[0].double()
    sigma = given.sigmoid()
    active = given.abs().movedim(1, -1).flatten(0, 2)  # (images and positions, channels)

    def mean(slope: Tensor) -> Tensor:
        """`(k, i)`: of channel k, positions counted by how active channel i is there."""
        return slope.double().movedim(1, -1).flatten(0, 2).T @ (active / active.sum(0))

    # Both steps keep channels apart, so only the diagonal is passed on.
    both = (mean(sigma * (1 + given * (1 - sigma))) * mean(given > 0)).diagonal()
    expected = model.second.weight[:, :, 0, 0].double() * both
    torch.testing.assert_close(matrix, expected.detach(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "first", "second", "reason"),
    [
        ("vit_tiny_patch16_224", "blocks.0", "blocks.1", "mixes channels"),
        ("efficientnet_b0", "blocks.0", "blocks.1", "followed|mixes channels"),
    ],
)
def test_where_there_is_no_way_it_is_said_why(name: str, first: str, second: str, reason: str) -> None:
    sizes = {"img_size": 32} if name.startswith("vit") else {}
    model = timm.create_model(name, num_classes=2, **sizes).eval()
    with pytest.raises(NoPathError, match=reason):
        path_matrix(trace_path(model, first, second), [torch.rand(2, 3, 32, 32)])


def test_layers_in_the_wrong_order_have_no_way() -> None:
    model = Linear().eval()
    with pytest.raises(NoPathError, match="does not lead to"):
        trace_path(model, "last", "first")
    with pytest.raises(NoPathError, match="single tensor"):
        trace_path(model, "nothing", "last")
