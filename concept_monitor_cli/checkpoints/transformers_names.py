"""State dicts of Hugging Face's transformers under the names that timm has for the same networks.

ViT, DeiT, BEiT, DINOv2 (with and without registers), Swin, ConvNeXt and ResNet: the names that
`save_pretrained` writes (transformers 4 and 5) and those of the modules themselves in transformers 5. What
the names do not say (heads, epsilons) stands in the `config.json` beside the checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

Family = Literal["vit", "deit", "beit", "dinov2", "swin", "convnext", "resnet"]

_PATCHES = "embeddings.patch_embeddings.projection.weight"
_CONVNEXT = "embeddings.patch_embeddings.weight"
_RESNET = "embedder.embedder.convolution.weight"
# Not part of what the classifier looks at.
_UNUSED = ("pooler.dense.", "embeddings.mask_token")

_Rule = tuple[str, str]
_BLOCK: tuple[_Rule, ...] = (
    (r"attention\.(?:attention\.query|self\.query|q_proj)", "attn.q"),
    (r"attention\.(?:attention\.key|self\.key|k_proj)", "attn.k"),
    (r"attention\.(?:attention\.value|self\.value|v_proj)", "attn.v"),
    (r"attention\.(?:output\.dense|o_proj)", "attn.proj"),
    (
        r"(?:attention\.)?(?:(?:attention|self)\.)?(?:relative_position_bias\.)?relative_position_bias_table",
        "attn.relative_position_bias_table",
    ),
    (r"(?:intermediate\.dense|mlp\.fc1|mlp\.weights_in)", "mlp.fc1"),
    (r"(?:output\.dense|mlp\.fc2|mlp\.weights_out|mlp\.down_proj)", "mlp.fc2"),
    (r"mlp\.gate_proj", "mlp.gate"),
    (r"mlp\.up_proj", "mlp.up"),
    (r"(?:layernorm_before|norm1)", "norm1"),
    (r"(?:layernorm_after|norm2)", "norm2"),
)
_VIT: tuple[_Rule, ...] = (
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.distillation_token", "dist_token"),
    (r"embeddings\.register_tokens", "reg_token"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
    *(
        (r"(?:encoder\.layer|encoder\.layers|layers)\.(\d+)\." + old, rf"blocks.\1.{new}")
        for old, new in _BLOCK
    ),
    (r"(?:encoder\.layer|layers)\.(\d+)\.lambda_([12])", r"blocks.\1.gamma_\2"),
    (r"(?:encoder\.layer|layers)\.(\d+)\.layer_scale([12])\.lambda1", r"blocks.\1.ls\2.gamma"),
    (r"layernorm", "norm"),
    (r"pooler\.layernorm", "fc_norm"),
)
_SWIN: tuple[_Rule, ...] = (
    (r"embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
    (r"embeddings\.norm", "patch_embed.norm"),
    (r"embeddings\.position_embeddings", "absolute_pos_embed"),
    *(
        (r"encoder\.layers\.(\d+)\.blocks\.(\d+)\." + old, rf"layers.\1.blocks.\2.{new}")
        for old, new in _BLOCK
    ),
    (r"encoder\.layers\.(\d+)\.downsample\.(norm|reduction)", r"layers.+\1.downsample.\2"),
    (r"layernorm", "norm"),
)
_STAGE = r"encoder\.stages\.(\d+)\."
_CONVNEXT_RULES: tuple[_Rule, ...] = (
    (r"embeddings\.patch_embeddings", "stem.0"),
    (r"embeddings\.layernorm", "stem.1"),
    (_STAGE + r"downsampling_layer\.([01])", r"stages.\1.downsample.\2"),
    (_STAGE + r"layers\.(\d+)\.dwconv", r"stages.\1.blocks.\2.conv_dw"),
    (_STAGE + r"layers\.(\d+)\.layernorm", r"stages.\1.blocks.\2.norm"),
    (_STAGE + r"layers\.(\d+)\.pwconv([12])", r"stages.\1.blocks.\2.mlp.fc\3"),
    (_STAGE + r"layers\.(\d+)\.layer_scale_parameter", r"stages.\1.blocks.\2.gamma"),
    (r"layernorm", "head.norm"),
)
_RESNET_RULES: tuple[_Rule, ...] = (
    (r"embedder\.embedder\.convolution", "conv1"),
    (r"embedder\.embedder\.normalization", "bn1"),
    (_STAGE + r"layers\.(\d+)\.shortcut\.convolution", r"layer+\1.\2.downsample.0"),
    (_STAGE + r"layers\.(\d+)\.shortcut\.normalization", r"layer+\1.\2.downsample.1"),
    (_STAGE + r"layers\.(\d+)\.layer\.(\d+)\.convolution", r"layer+\1.\2.conv+\3"),
    (_STAGE + r"layers\.(\d+)\.layer\.(\d+)\.normalization", r"layer+\1.\2.bn+\3"),
)
_HEADS: dict[Family, str] = {"swin": "head.fc", "convnext": "head.fc", "resnet": "fc"}


@dataclass(frozen=True)
class Translated:
    """A network of transformers under timm's names.

    Attributes:
        family: which.
        tensors: its state dict under timm's names.
        left_out: names that are no part of it, as the file has them.
        config: what `config.json` says of it.
    """

    family: Family
    tensors: dict[str, Tensor]
    left_out: tuple[str, ...]
    config: Mapping[str, Any] = field(default_factory=dict)


def translate(
    state_dict: Mapping[str, Tensor], config: Mapping[str, Any], *, lazy: bool = False
) -> Translated | None:
    """The same network under timm's names.

    Args:
        state_dict: as transformers names it, in any module.
        config: the content of `config.json`, empty where there is none.
        lazy: only names and shapes matter yet: tensors that are put together have no values.

    Returns:
        None where this is none of the networks that are known.
    """
    for marker in (_PATCHES, _CONVNEXT, _RESNET):
        found = [name for name in state_dict if name == marker or name.endswith(f".{marker}")]
        if found:
            break
    else:
        return None
    base = min(found, key=len).removesuffix(marker)
    outer = base[:-1].rpartition(".")[0] + "." if "." in base[:-1] else ""
    inside = {name.removeprefix(base): value for name, value in state_dict.items() if name.startswith(base)}
    family = _family(inside, marker)
    rules = {"swin": _SWIN, "convnext": _CONVNEXT_RULES, "resnet": _RESNET_RULES}.get(family, _VIT)
    new: dict[str, Tensor] = {}
    left_out = [name for name in state_dict if not name.startswith(base)]
    for name, value in inside.items():
        if name.endswith("relative_position_index"):
            continue
        if name.startswith(_UNUSED) or (base == "" and name.startswith(("classifier.", "decoder."))):
            left_out.append(base + name)
            continue
        translated = _by_rules(name, rules)
        if translated is None:
            return None
        new[translated] = value
    new = _with_qkv(new, biased=family != "beit", lazy=lazy)
    for name, translated in _heads(state_dict, outer, _HEADS.get(family, "head")).items():
        if base:
            new[translated] = state_dict[name]
            left_out.remove(name)
    return Translated(family, new, tuple(left_out), config)


def _family(names: Mapping[str, Tensor], marker: str) -> Family:
    if marker != _PATCHES:
        return "convnext" if marker == _CONVNEXT else "resnet"
    if any(re.match(r"encoder\.layers\.\d+\.blocks\.", name) for name in names):
        return "swin"
    if any(".lambda_1" in name or "relative_position_bias" in name for name in names):
        return "beit"
    if any(".layer_scale1." in name for name in names):
        return "dinov2"
    return "deit" if "embeddings.distillation_token" in names else "vit"


def _by_rules(name: str, rules: Sequence[_Rule]) -> str | None:
    for old, new in rules:
        found = re.fullmatch(old + r"(\.(?:weight|bias|running_mean|running_var|num_batches_tracked))?", name)
        if found is not None:
            text = found.expand(new)
            # timm counts from one, or one stage later: "+3" is 4.
            text = re.sub(r"\+(\d+)", lambda number: str(int(number[1]) + 1), text)
            return text + (found[found.re.groups] or "")
    return None


def _with_qkv(tensors: Mapping[str, Tensor], *, biased: bool, lazy: bool) -> dict[str, Tensor]:
    """Queries, keys and values in one matrix, as timm has them, and the halves of gated layers too.

    Of BEiT the biases stay apart.
    """
    result: dict[str, Tensor] = {}
    for name, value in tensors.items():
        gated = re.fullmatch(r"(.*\.mlp\.)(gate|up)\.(weight|bias)", name)
        if gated is not None:
            if gated[2] == "gate":
                parts = [value, tensors[f"{gated[1]}up.{gated[3]}"]]
                result[f"{gated[1]}fc1.{gated[3]}"] = _joined(parts, lazy)
            continue
        found = re.fullmatch(r"(.*\.attn\.)([qkv])\.(weight|bias)", name)
        if found is None:
            result[name] = value
            continue
        block, letter, kind = found[1], found[2], found[3]
        if kind == "bias" and not biased:
            result[f"{block}{letter}_bias"] = value
        elif letter == "q":
            three = [tensors.get(f"{block}{other}.{kind}") for other in "qkv"]
            result[f"{block}qkv.{kind}"] = _joined([part for part in three if part is not None], lazy)
    return result


def _joined(parts: Sequence[Tensor], lazy: bool) -> Tensor:
    if lazy:
        rows = sum(part.shape[0] for part in parts)
        return torch.empty((rows, *parts[0].shape[1:]), dtype=parts[0].dtype, device="meta")
    return torch.cat(list(parts))


def _heads(names: Mapping[str, Tensor], outer: str, head: str) -> dict[str, str]:
    """Classifiers beside the network: name -> timm's."""
    found = {}
    for name in names:
        match = re.fullmatch(
            re.escape(outer) + r"(classifier|cls_classifier|distillation_classifier)\.(?:1\.)?(weight|bias)",
            name,
        )
        if match is not None:
            found[name] = ("head_dist" if match[1].startswith("dist") else head) + f".{match[2]}"
    return found
