"""Hugging Face's `CLIPModel` as an open_clip model: the same network under other names."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

JSONObject = dict[str, Any]

# transformers.CLIPVisionConfig and CLIPTextConfig, where a config leaves something out.
_VISION = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
_VISION |= {"image_size": 224, "patch_size": 32}
_TEXT = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8}
_TEXT |= {"max_position_embeddings": 77, "vocab_size": 49408}
_BOTH = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}

# OpenAI's byte pairs, which open_clip brings along.
_VOCABULARY = 49408


def as_open_clip(config: Mapping[str, Any]) -> JSONObject | None:
    """open_clip's config of a `CLIPModel`, or None where open_clip cannot build the same network.

    Args:
        config: of Hugging Face's `config.json`.
    """
    if config.get("model_type") != "clip":
        return None
    vision = {**_VISION, **_BOTH, **_part(config, "vision")}
    text = {**_TEXT, **_BOTH, **_part(config, "text")}
    acts = {vision["hidden_act"], text["hidden_act"]}
    eps = {float(vision["layer_norm_eps"]), float(text["layer_norm_eps"])}
    if (
        len(acts) > 1
        or not acts <= {"quick_gelu", "gelu"}
        or eps != {1e-5}
        or text["vocab_size"] != _VOCABULARY
    ):
        return None
    if int(vision.get("num_channels", 3)) != 3 or int(vision["hidden_size"]) % int(
        vision["num_attention_heads"]
    ):
        return None
    return {
        "embed_dim": int(config.get("projection_dim", 512)),
        "quick_gelu": acts == {"quick_gelu"},
        "vision_cfg": {
            "image_size": vision["image_size"],
            "layers": vision["num_hidden_layers"],
            "width": vision["hidden_size"],
            "head_width": vision["hidden_size"] // vision["num_attention_heads"],
            "patch_size": vision["patch_size"],
            "mlp_ratio": vision["intermediate_size"] / vision["hidden_size"],
        },
        "text_cfg": {
            "context_length": text["max_position_embeddings"],
            "vocab_size": text["vocab_size"],
            "width": text["hidden_size"],
            "heads": text["num_attention_heads"],
            "layers": text["num_hidden_layers"],
            "mlp_ratio": text["intermediate_size"] / text["hidden_size"],
        },
    }


def _part(config: Mapping[str, Any], name: str) -> JSONObject:
    # Configs of before transformers 4.2x repeat a part as `*_config_dict`, which then counts.
    part = config.get(f"{name}_config_dict") or config.get(f"{name}_config") or {}
    return {key: value for key, value in part.items() if value is not None}


def own_words(folder: Path, vocabulary: Mapping[str, int]) -> bool:
    """Whether a tokenizer that lies in a folder has other words than OpenAI's.

    Args:
        folder: of the model.
        vocabulary: OpenAI's: token -> number.
    """
    for name, keys in (("vocab.json", ()), ("tokenizer.json", ("model", "vocab"))):
        try:
            found: Any = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        for key in keys:
            found = found.get(key, {}) if isinstance(found, dict) else {}
        if isinstance(found, dict) and len(found) > 2:
            return any(vocabulary.get(token) != number for token, number in found.items())
    return False


def is_hf_clip(names: Sequence[str]) -> bool:
    """Whether the names of weights are those of a Hugging Face `CLIPModel`."""
    return any(name.endswith("vision_model.embeddings.patch_embedding.weight") for name in names)


_LAYER = re.compile(r"(vision|text)_model\.encoder\.layers\.(\d+)\.(.+)")
_INSIDE = {
    "self_attn.out_proj": "attn.out_proj", "layer_norm1": "ln_1", "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
}  # fmt: skip
_OUTSIDE = {
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm": "visual.ln_pre",  # spelt so in transformers
    "vision_model.post_layernorm": "visual.ln_post",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm": "ln_final",
    "logit_scale": "logit_scale",
}
_PROJECTIONS = {"visual_projection.weight": "visual.proj", "text_projection.weight": "text_projection"}


def to_open_clip(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of a Hugging Face `CLIPModel` under open_clip's names, in float32.

    Raises:
        ValueError: a weight that a `CLIPModel` does not have.
    """
    found: dict[str, torch.Tensor] = {}
    attention: dict[str, dict[str, torch.Tensor]] = {}
    for name, value in weights.items():
        if name.endswith(".position_ids"):  # 0, 1, 2 ...
            continue
        value = value.float()
        if name in _PROJECTIONS:
            found[_PROJECTIONS[name]] = value.T.contiguous()
            continue
        match = _LAYER.fullmatch(name)
        stem, _, end = name.rpartition(".")
        if match is None:
            place = _OUTSIDE.get(name) or (f"{_OUTSIDE[stem]}.{end}" if stem in _OUTSIDE else None)
        else:
            tower = "visual." if match[1] == "vision" else ""
            block, (inner, _, end) = f"{tower}transformer.resblocks.{match[2]}.", match[3].rpartition(".")
            if inner in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"):
                attention.setdefault(f"{block}attn.in_proj_{end}", {})[inner[-6]] = value
                continue
            place = f"{block}{_INSIDE[inner]}.{end}" if inner in _INSIDE else None
        if place is None:
            raise ValueError(f"{name} is no weight of a CLIPModel")
        found[place] = value
    for place, parts in attention.items():
        found[place] = torch.cat([parts[part] for part in "qkv" if part in parts])
    return found
