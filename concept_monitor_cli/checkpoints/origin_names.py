"""State dicts under the names of the code that a network was published with, under the names that timm has.

- Image towers of CLIP as OpenAI and open_clip save them (`visual.transformer.resblocks.0.ln_1.weight`):
  vision transformers, and residual networks with attention pooling (`visual.attnpool.q_proj.weight`).
- DINOv2: registers with positions of their own, gated layers called `w12` and `w3`, and blocks in chunks
  (`blocks.1.7.norm1.weight` is block 7), as its training code saves them.

The same changes as in timm's own converters of published weights (`checkpoint_filter_fn`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from concept_monitor_cli.checkpoints.architectures import Shape
from concept_monitor_cli.checkpoints.locate import is_average

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Renamed:
    """A network under timm's names.

    Attributes:
        tensors: its state dict under timm's names.
        prefix: what stood in front of its names.
        left_out: names that are no part of it, as the file has them.
        whose: whose names these were, for a sentence.
    """

    tensors: dict[str, Tensor]
    prefix: str
    left_out: tuple[str, ...]
    whose: str


def under_timms_names(state_dict: State, *, lazy: bool = False) -> Renamed | None:
    """The same network under timm's names.

    Args:
        state_dict: as the code of its publication names it, in any module.
        lazy: only names and shapes matter yet: tensors that are changed have no values.

    Returns:
        None where this is none of the networks that are known.
    """
    for marker, whose, rename in _ORIGINS:
        found = [name for name in state_dict if name == marker or name.endswith(f".{marker}")]
        bases = [name.removesuffix(marker) for name in found]
        for base in sorted(bases, key=lambda base: (is_average(base), base.count("."), base)):
            inside = {
                name.removeprefix(base): value for name, value in state_dict.items() if name.startswith(base)
            }
            renamed = rename(inside, lazy)
            if renamed is not None:
                left_out = tuple(name for name in state_dict if not name.startswith(base))
                return Renamed(renamed, base, left_out, whose)
    return None


def _changed(value: Tensor, shape: Shape, change: Callable[[Tensor], Tensor], lazy: bool) -> Tensor:
    return torch.empty(shape, dtype=value.dtype, device="meta") if lazy else change(value)


_CLIP_VIT = (
    (r"conv1\.weight", "patch_embed.proj.weight"),
    (r"ln_pre\.(\w+)", r"norm_pre.\1"),
    (r"ln_post\.(\w+)", r"norm.\1"),
    (r"transformer\.resblocks\.(\d+)\.ln_([12])\.(\w+)", r"blocks.\1.norm\2.\3"),
    (r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(\w+)", r"blocks.\1.attn.qkv.\2"),
    (r"transformer\.resblocks\.(\d+)\.attn\.out_proj\.(\w+)", r"blocks.\1.attn.proj.\2"),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_fc\.(\w+)", r"blocks.\1.mlp.fc1.\2"),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_proj\.(\w+)", r"blocks.\1.mlp.fc2.\2"),
)
_KIND = {"1": "conv1_1x1", "2": "conv2_kxk", "3": "conv3_1x1"}
_CLIP_RESNET = (
    (r"conv(\d)\.weight", lambda m: f"stem.conv{m[1]}.conv.weight"),
    (r"bn(\d)\.(\w+)", lambda m: f"stem.conv{m[1]}.bn.{m[2]}"),
    (
        r"layer(\d)\.(\d+)\.(conv|bn)([123])\.(\w+)",
        lambda m: f"stages.{int(m[1]) - 1}.{m[2]}.{_KIND[m[4]]}.{m[3]}.{m[5]}",
    ),
    (
        r"layer(\d)\.(\d+)\.downsample\.([01])\.(\w+)",
        lambda m: f"stages.{int(m[1]) - 1}.{m[2]}.shortcut.conv.{'conv' if m[3] == '0' else 'bn'}.{m[4]}",
    ),
    (r"attnpool\.positional_embedding", lambda m: "head.pos_embed"),
    (r"attnpool\.([qkv])_proj\.(\w+)", lambda m: f"head.{m[1]}.{m[2]}"),
    (r"attnpool\.c_proj\.(\w+)", lambda m: f"head.proj.{m[1]}"),
)


def _clip_vit(inside: State, lazy: bool) -> dict[str, Tensor] | None:
    renamed: dict[str, Tensor] = {}
    for name, value in inside.items():
        if name == "class_embedding":
            renamed["cls_token"] = _changed(value, (1, 1, *value.shape), lambda v: v[None, None], lazy)
        elif name == "positional_embedding":
            renamed["pos_embed"] = _changed(value, (1, *value.shape), lambda v: v[None], lazy)
        elif name == "proj":
            size = value.shape[::-1]
            renamed["head.weight"] = _changed(value, size, lambda v: v.t().contiguous(), lazy)
            renamed["head.bias"] = _changed(value, size[:1], lambda v: v.new_zeros(v.shape[1]), lazy)
        else:
            new = _by_rules(name, _CLIP_VIT)
            if new is None:
                return None
            renamed[new] = value
    return renamed


def _clip_resnet(inside: State, lazy: bool) -> dict[str, Tensor] | None:
    names = {name: _by_rules(name, _CLIP_RESNET) for name in inside}
    if None in names.values():
        return None
    return {str(names[name]): value for name, value in inside.items()}


def _by_rules(name: str, rules: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]) -> str | None:
    for old, new in rules:
        found = re.fullmatch(old, name)
        if found is not None:
            return found.expand(new) if isinstance(new, str) else new(found)
    return None


_CHUNKED = re.compile(r"blocks\.\d+\.(\d+)\.(?=\D)")
_GATED = {"w12": "fc1", "w3": "fc2"}


def _dinov2(inside: State, lazy: bool) -> dict[str, Tensor] | None:
    renamed: dict[str, Tensor] = {}
    for name, value in inside.items():
        new = _CHUNKED.sub(r"blocks.\1.", name, count=1) if _CHUNKED.match(name) else name
        new = re.sub(r"\.mlp\.(w12|w3)\.", lambda found: f".mlp.{_GATED[found[1]]}.", new)
        renamed[new] = value
    registers = renamed.pop("register_tokens", None)
    if registers is not None:
        positions = renamed.get("pos_embed")
        if positions is None or positions.ndim != 3:
            return None
        count, rows, width = positions.shape
        first = renamed["cls_token"]
        renamed["reg_token"] = registers
        renamed["cls_token"] = _changed(first, tuple(first.shape), lambda v: v + positions[:, :1], lazy)
        renamed["pos_embed"] = _changed(positions, (count, rows - 1, width), lambda v: v[:, 1:], lazy)
    if renamed.keys() == inside.keys():
        return None
    renamed.pop("mask_token", None)
    return renamed


_ORIGINS: tuple[tuple[str, str, Callable[[State, bool], dict[str, Tensor] | None]], ...] = (
    ("class_embedding", "CLIP", _clip_vit),
    ("attnpool.positional_embedding", "CLIP", _clip_resnet),
    ("cls_token", "DINOv2", _dinov2),
)
