"""A small open_clip model with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from encoder_helpers import TINY_CONFIG, TinyClip, open_clip
from safetensors.torch import save_file

from concept_monitor_cli.store import Store


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> TinyClip:
    """Weights and config of a random open_clip model, made by open_clip itself."""
    folder = tmp_path_factory.mktemp("tiny_clip")
    config = folder / "tiny-clip.json"
    config.write_text(json.dumps(TINY_CONFIG))
    open_clip.add_model_config(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = open_clip.create_model("tiny-clip")
    weights = folder / "tiny.safetensors"
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, weights)
    return TinyClip(weights, config)


@pytest.fixture(scope="session")
def tiny_resnet(tmp_path_factory: pytest.TempPathFactory) -> TinyClip:
    """With 19 batch normalisations, whose statistics are made up."""
    folder = tmp_path_factory.mktemp("resnet")
    vision = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16, "head_width": 32}
    tiny = TinyClip(folder / "tiny-resnet.pt", folder / "tiny-resnet.json")
    tiny.config.write_text(json.dumps({**TINY_CONFIG, "vision_cfg": vision}))
    open_clip.add_model_config(tiny.config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = open_clip.create_model("tiny-resnet", load_weights=False)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
    torch.save(network.state_dict(), tiny.weights)
    return tiny


@pytest.fixture
def encoder_store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")
