"""What a network whose images are blue first is really shown, by every command that runs networks.

Three runs over the same photos: a network dissected blue first; its twin, with the channels of its first
layer in the opposite order, dissected red first, whose every answer must be the same; and the first network
dissected red first, which must find nothing of the first run in the cache that they share.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from concept_monitor_cli.options import (
    AblateOptions,
    AtlasOptions,
    AttributeOptions,
    CircuitsOptions,
    DissectOptions,
    EvolutionsOptions,
    ExplainOptions,
    PictureOptions,
    TuningOptions,
)
from concept_monitor_cli.stories.ablate import ablate
from concept_monitor_cli.stories.atlas import atlas
from concept_monitor_cli.stories.attribute import attribute
from concept_monitor_cli.stories.circuits import circuits
from concept_monitor_cli.stories.dissect import dissect
from concept_monitor_cli.stories.evolutions import evolutions
from concept_monitor_cli.stories.explain import explain
from concept_monitor_cli.stories.picture import picture
from concept_monitor_cli.stories.tuning import tuning

SIDE, EACH, COLOURS = 8, 6, ("blue", "green", "red")
PIXELS = ("gradient", "gradient-x-input", "smooth", "guided", "guided-grad-cam")
MEAN, STD = (0.1, 0.4, 0.6), (0.2, 0.25, 0.5)

NETWORK = """
from torch import nn

class Watched(nn.Sequential):
    pass

def network(num_classes=3):
    return Watched(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(), nn.AvgPool2d(4),
        nn.Flatten(), nn.Linear(24, num_classes),
    )
"""

COMMANDS: dict[str, tuple[Callable[..., object], type[Any], dict[str, object]]] = {
    "attribute": (attribute, AttributeOptions, {"layers": ("3",), "count": 2, "path": 4}),
    "attribute pixels": (
        attribute,
        AttributeOptions,
        {"layers": ("3",), "count": 1, "methods": PIXELS, "path": 4},
    ),
    "attribute --check": (
        attribute,
        AttributeOptions,
        {"layers": ("3",), "count": 1, "methods": ("grad-cam",), "check": True},
    ),
    "explain": (explain, ExplainOptions, {"layers": ("3",), "count": 1, "groups": 1, "path": 4}),
    "picture": (picture, PictureOptions, {"layers": ("3",), "units": (0, 1), "steps": 4}),
    "circuits": (circuits, CircuitsOptions, {"draws": 4, "top": 1}),
    "evolutions": (
        evolutions,
        EvolutionsOptions,
        {"layers": ("1",), "controls": 2, "least": 2, "exact": True},
    ),
    "atlas": (atlas, AtlasOptions, {"layers": ("3",), "method": "pca", "tiles": False}),
    "tuning": (tuning, TuningOptions, {"layers": ("3",)}),
    "ablate": (ablate, AblateOptions, {"layers": ("1",), "units": (0, 1), "controls": 2}),
}


def weights(epoch: int) -> dict[str, Tensor]:
    """Of a fresh network."""
    torch.manual_seed(epoch)
    known = nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3),
        nn.ReLU(),
        nn.Identity(),
        nn.Identity(),
        nn.Linear(24, 3),
    )
    return known.state_dict()


@contextmanager
def shown_to_networks() -> Iterator[list[Tensor]]:
    """The images that go into any network of the kind above, batch by batch."""
    seen: list[Tensor] = []

    def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if type(module).__name__ == "Watched" and not inputs[0].is_meta:
            seen.append(inputs[0].detach().clone())

    handle = register_module_forward_pre_hook(look)
    try:
        yield seen
    finally:
        handle.remove()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The three runs, and what networks were shown when they were made."""
    root = tmp_path_factory.mktemp("blue-first")
    (root / "network.py").write_text(NETWORK)
    rng = np.random.default_rng(0)
    for k, colour in enumerate(COLOURS):
        (root / "photos" / colour).mkdir(parents=True)
        for number in range(EACH):
            pixels = rng.integers(0, 150, (SIDE, SIDE, 3))
            pixels[:4, :4, 2 - k] = 240
            Image.fromarray(pixels.astype(np.uint8)).save(root / "photos" / colour / f"{number}.png")
    (root / "words.txt").write_text("\n".join(COLOURS) + "\n")
    shown = {}
    for name, order, flipped in (("blue", "bgr", False), ("twin", "rgb", True), ("red", "rgb", False)):
        folder = root / f"ckpts-{'twin' if flipped else 'own'}"
        folder.mkdir(exist_ok=True)
        for epoch in (0, 1):
            state = weights(epoch)
            if flipped:
                state["0.weight"] = state["0.weight"].flip(1)
            torch.save({"state_dict": state, "epoch": epoch}, folder / f"epoch_{epoch}.pth")
        with shown_to_networks() as seen:
            dissect(
                DissectOptions(
                    checkpoints=(str(folder),),
                    layers=("1", "3"),
                    model=f"{root / 'network.py'}:network",
                    input_size=SIDE,
                    crop=1.0,
                    mean=MEAN,
                    std=STD,
                    channel_order=order,
                    probe=str(root / "photos"),
                    concepts=str(root / "words.txt"),
                    encoder="builtin",
                    out=root / name,
                    cache_dir=cache_of(root, name),
                    stability=False,
                    device="cpu",
                    plot_formats=(),
                )
            )
        shown[name] = seen
    return SimpleNamespace(root=root, shown=shown)


def cache_of(root: Path, name: str) -> Path:
    """The twin's is its own: random networks are the same for it and the one dissected red first."""
    return root / ("cache-twin" if name == "twin" else "cache")


def again(runs: SimpleNamespace, name: str, command: str) -> list[Tensor]:
    """What networks are shown by a command that reads one of the runs."""
    story, kind, more = COMMANDS[command]
    options = kind(
        out=runs.root / name,
        cache_dir=cache_of(runs.root, name),
        model=f"{runs.root / 'network.py'}:network",
        device="cpu",
        plot_formats=(),
        **more,
    )
    with shown_to_networks() as seen:
        story(options)
    return seen


def test_photos_are_normalised_and_then_swapped(runs: SimpleNamespace) -> None:
    """Beside the arithmetic written out, in double precision."""
    expected = []
    for file in sorted((runs.root / "photos").rglob("*.png")):
        pixels = np.asarray(Image.open(file)).astype(float) / 255
        red, green, blue = ((pixels[..., k] - MEAN[k]) / STD[k] for k in range(3))
        expected.append(np.stack([blue, green, red]))
    shown = torch.cat(runs.shown["blue"]).double().numpy()
    apart = np.abs(shown[:, None] - np.stack(expected)[None]).max((2, 3, 4))
    assert (apart.min(1) < 1e-5).all()  # each image that is shown is one of these
    assert (apart.min(0) < 1e-5).all()  # and all of these are shown
    assert json.loads((runs.root / "blue/run.json").read_text())["settings"]["input"]["channels"] == "bgr"
    assert "channels" not in json.loads((runs.root / "red/run.json").read_text())["settings"]["input"]


@pytest.mark.parametrize("command", ["dissect", *COMMANDS])
def test_a_blue_first_network_is_shown_blue_first(runs: SimpleNamespace, command: str) -> None:
    blue, twin, red = (
        runs.shown[name] if command == "dissect" else again(runs, name, command)
        for name in ("blue", "twin", "red")
    )
    assert len(blue) == len(twin) > 0
    # Later pictures differ by what rounding becomes in the steps before.
    first = 1 if command == "picture" else len(blue)
    for one, other in zip(blue[:first], twin[:first], strict=True):
        assert one.shape == other.shape
        assert torch.allclose(one, other.flip(1), atol=1e-5)
    assert not torch.allclose(blue[0], twin[0], atol=0.1)
    # The same weights red first share the cache with it, and find nothing of what was made blue first.
    assert len(red) == len(blue)


def test_the_twin_gets_the_same_tables(runs: SimpleNamespace) -> None:
    own, twin = (sorted((runs.root / name / "tables/epoch_0001").rglob("*.csv")) for name in ("blue", "twin"))
    assert len(own) == len(twin) > 0
    for one, other in zip(own, twin, strict=True):
        pd.testing.assert_frame_equal(pd.read_csv(one), pd.read_csv(other), rtol=1e-4)
