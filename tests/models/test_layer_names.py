"""Layers by pattern and by tensor, sequence-first layers, images of one channel and of many."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from concept_monitor_cli.errors import CmonError, InputError
from concept_monitor_cli.models.dependencies import weights_of_layers
from concept_monitor_cli.models.layers import describe_layers, list_layers, matches, resolve_layers
from concept_monitor_cli.models.pooling import pool, spatial_maps
from concept_monitor_cli.models.taps import tap


@pytest.mark.parametrize(
    ("name", "pattern", "fits"),
    [
        ("layer1", "layer*", True),
        ("layer1.0", "layer*", False),
        ("layer1.0.conv2", "layer1.*.conv2", True),
        ("layer1.0.conv2", "**.conv2", True),
        ("layer1.0.conv2", "**", True),
        ("conv1", "conv[12]", True),
        ("conv3", "conv[12]", False),
        ("conv3", "conv[!12]", True),
        ("conv1x", "conv?", False),
        ("conv1.x", "conv?x", False),
        ("conv1", "conv1", False),
    ],
)
def test_patterns(name: str, pattern: str, fits: bool) -> None:
    assert matches(name, pattern) is fits


class Several(nn.Module):
    """Puts out maps, a vector and, in a dictionary, both again."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv = nn.Conv2d(3, 4, 3)
        self.other = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Any:
        maps = self.conv(x)
        vector = self.other(x).mean((2, 3))
        if self.kind == "tuple":
            return maps, vector
        return {"maps": maps, "more": [vector, maps[:, :2]]}


class Network(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.block = Several(kind)
        self.unused = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        found = self.block(x)
        maps = found[0] if isinstance(found, tuple) else found["maps"]
        return torch.as_tensor(self.fc(maps.mean((2, 3))))


def test_one_of_several_tensors() -> None:
    network = Network("tuple").eval()
    assert [layer.name for layer in list_layers(network, 8)][:2] == ["block:0", "block:1"]
    found = describe_layers(network, ["block:0", "block:1"], 8)
    assert [found[name].shape for name in ("block:0", "block:1")] == [(4, 6, 6), (4,)]
    images = torch.randn(3, 3, 8, 8)
    with tap(network, ["block:1", "block:0"]) as read:
        outputs = read(images)
    torch.testing.assert_close(outputs["block:0"], network.block.conv(images))
    torch.testing.assert_close(outputs["block:1"], network.block.other(images).mean((2, 3)))
    assert "block.other.weight" in weights_of_layers(network, ["block:1"], 8)
    nested = describe_layers(Network("dict"), ["block:maps", "block:more:0", "block:more:1"], 8)
    assert [info.units for info in nested.values()] == [4, 4, 2]


@pytest.mark.parametrize(
    ("name", "said", "hint"),
    [
        ("block", "2 tensors", "--layer block:0 (4 x 6 x 6), --layer block:1 (4)"),
        ("block:2", "no tensor '2'", "--layer block:0"),
        ("fc:0", "no tensor '0'", "leave ':0' out"),
        ("blok:0", "no layer 'blok:0'", "did you mean block"),
        ("x*", "no layer 'x*'", "`cmon layers`"),
        ("unused", "takes no part", "contains it"),
    ],
)
def test_layers_that_cannot_be_read(name: str, said: str, hint: str) -> None:
    with pytest.raises(InputError) as error:
        describe_layers(Network("tuple"), [name], 8)
    assert said in error.value.what
    assert hint in (error.value.hint or "")


def test_a_pattern_leaves_out_what_cannot_be_read() -> None:
    network = Network("tuple")
    names = resolve_layers(network, ["*", "block:1", "fc"])
    assert names == ["block", "unused", "fc", "block:1"]
    found = describe_layers(network, names, 8, optional={"block", "unused"})
    assert list(found) == ["fc", "block:1"]


class SequenceFirst(nn.Module):
    """As OpenAI's CLIP: (tokens, images, channels) between the blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 4, 4)
        self.blocks = nn.Sequential(*[nn.TransformerEncoderLayer(6, 2, 8) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.conv(x).flatten(2).permute(2, 0, 1)
        return torch.as_tensor(self.blocks(tokens)).mean(0)


def test_a_sequence_first_layer_has_its_units_on_the_last_axis() -> None:
    network = SequenceFirst().eval()
    info = describe_layers(network, ["blocks.1"], 16)["blocks.1"]
    assert (info.shape, info.units, info.map_size) == ((16, 6), 6, (4, 4))
    images = torch.randn(5, 3, 16, 16)
    with tap(network, ["blocks.1"]) as read:
        output = read(images)["blocks.1"]
    assert output.shape == (16, 5, 6)
    torch.testing.assert_close(pool(output, info.layout), network(images))
    maps = spatial_maps(output, info.layout)
    torch.testing.assert_close(maps[2, 3, 1, 0], output[4, 2, 3])


def small(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU())


def test_channels() -> None:
    assert describe_layers(small(3), ["0"], 8)["0"].channels == 3
    assert describe_layers(small(1), ["0"], 8)["0"].channels == 1
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    assert describe_layers(flat, ["1"], 8)["1"].channels == 1
    with pytest.raises(InputError, match="takes images of 13 channels, and photos have 3"):
        list_layers(small(13), 8)
    with pytest.raises(CmonError, match="8 x 8 grey images") as error:
        list_layers(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(5, 2)), 8)
    assert "--input-size" in (error.value.hint or "")
