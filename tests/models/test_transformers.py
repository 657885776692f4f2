"""Networks of transformers compute the same, as that library saves them and as its modules are called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from concept_monitor_cli.checkpoints import load_checkpoint
from concept_monitor_cli.models.build import resolve_model
from concept_monitor_cli.models.preprocess import target_preprocessing

import concept_monitor_cli._torchvision  # noqa: F401  isort: skip

transformers = pytest.importorskip("transformers")

TOKENS = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 96,
    "image_size": 32,
    "patch_size": 8,
}
DINO = {key: value for key, value in TOKENS.items() if key != "intermediate_size"}
SWIN = {
    "embed_dim": 12,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "image_size": 32,
    "patch_size": 2,
    "window_size": 4,
}
CASES = {
    "ViT": ("ViT", "ForImageClassification", TOKENS),
    "ViT with tanh": ("ViT", "ForImageClassification", {**TOKENS, "hidden_act": "gelu_pytorch_tanh"}),
    "ViT without biases": ("ViT", "ForImageClassification", {**TOKENS, "qkv_bias": False}),
    "DeiT": ("DeiT", "ForImageClassification", TOKENS),
    "DeiT with teacher": ("DeiT", "ForImageClassificationWithTeacher", TOKENS),
    "BEiT": ("Beit", "ForImageClassification", {**TOKENS, "use_relative_position_bias": True}),
    "DINOv2": ("Dinov2", "ForImageClassification", {**DINO, "mlp_ratio": 2}),
    "DINOv2 gated": ("Dinov2", "ForImageClassification", {**DINO, "use_swiglu_ffn": True}),
    "DINOv2 with registers": ("Dinov2WithRegisters", "ForImageClassification", {**DINO, "mlp_ratio": 2}),
    "Swin": ("Swin", "ForImageClassification", SWIN),
    "ConvNeXt": (
        "ConvNext",
        "ForImageClassification",
        {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 2, 1, 1]},
    ),
    "ResNet": (
        "ResNet",
        "ForImageClassification",
        {
            "embedding_size": 8,
            "hidden_sizes": [16, 32, 64, 96],
            "depths": [1, 2, 1, 1],
            "layer_type": "bottleneck",
        },
    ),
    "ResNet of two stages": (
        "ResNet",
        "ForImageClassification",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    ),
    "ResNet-18": (
        "ResNet",
        "ForImageClassification",
        {"hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2], "layer_type": "basic"},
    ),
}


def trained(case: str) -> nn.Module:
    family, kind, settings = CASES[case]
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(num_labels=5, **settings)
    model: nn.Module = getattr(transformers, f"{family}{kind}")(config)
    for name, value in model.state_dict().items():  # nothing may be zero or one as it was made
        if value.is_floating_point():
            value.uniform_(0.5, 1.5) if "var" in name else value.normal_(0, 0.3)
    return model.eval()


def answers(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        out: Any = model(x)
    return out if isinstance(out, torch.Tensor) else out.logits


@pytest.mark.parametrize("way", ["save_pretrained", "own names", "in a module"])
@pytest.mark.parametrize("case", CASES)
def test_the_same_answers(tmp_path: Path, case: str, way: str) -> None:
    model = trained(case)
    path = tmp_path / "model.safetensors"
    model.save_pretrained(tmp_path)
    if way != "save_pretrained":
        path.unlink()
        path = tmp_path / "pytorch_model.bin"
        prefix = "" if way == "own names" else "model.backbone."
        torch.save({prefix + key: value for key, value in model.state_dict().items()}, path)
    for lazy in (True, False):
        loaded = load_checkpoint(path, lazy=lazy)
        source = resolve_model(None, loaded.state_dict, family=loaded.family, config=loaded.config)
    assert any("transformers" in note for note in (*loaded.notes, *source.notes))
    assert source.num_classes == 5
    network = source.restore(loaded.state_dict)
    size = target_preprocessing(source).geometry.size
    x = torch.randn(2, 3, size, size)
    torch.testing.assert_close(network(x), answers(model, x), rtol=1e-4, atol=1e-4)
