"""Networks of Hugging Face's transformers, built from timm's classes.

The same computation under timm's names (see `checkpoints.transformers_names`); tests compare the outputs
with those of transformers itself. Neither the library nor any code of the checkpoint is needed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

import concept_monitor_cli._torchvision  # noqa: F401  isort: skip
from timm import layers as timm_layers
from timm.models.beit import Beit
from timm.models.convnext import ConvNeXt
from timm.models.resnet import BasicBlock, Bottleneck, ResNet, make_blocks
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer

from concept_monitor_cli.checkpoints.architectures import Shapes
from concept_monitor_cli.checkpoints.transformers_names import Family
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.models.constructors import Constructor
from concept_monitor_cli.models.differences import compare
from concept_monitor_cli.models.sources import ModelSource

LIBRARY = "transformers"
# Channels of a head where `config.json` is missing: those of all published ViTs, DeiTs, BEiTs and DINOv2s.
_HEAD_CHANNELS = 64
# transformers' activations under torch's names, exact and approximated.
_ACTIVATIONS: Mapping[str, Any] = {
    "gelu": nn.GELU,
    "gelu_new": partial(nn.GELU, approximate="tanh"),
    "gelu_pytorch_tanh": partial(nn.GELU, approximate="tanh"),
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "swish": nn.SiLU,
    "quick_gelu": timm_layers.QuickGELU,
}


class _TokensViT(VisionTransformer):  # type: ignore[misc]
    """A vision transformer whose classifier looks at several of its tokens.

    Args:
        reads: "cls"; "cls+mean", the class token beside the mean of the patches' (DINOv2); "both", the mean
            of the answers of a classifier on the class token and of one on the distillation token (DeiT).
        distilled: whether there is a distillation token.
    """

    def __init__(self, *, reads: str = "cls", distilled: bool = False, **kwargs: Any) -> None:
        classes = kwargs.pop("num_classes", 0)
        super().__init__(num_classes=0, **kwargs)
        self.reads, self.num_classes = reads, classes
        if distilled:
            self.dist_token = nn.Parameter(torch.zeros(1, 1, self.embed_dim))
            self.num_prefix_tokens += 1
            rows = self.patch_embed.num_patches + self.num_prefix_tokens
            self.pos_embed = nn.Parameter(torch.zeros(1, rows, self.embed_dim))
        if self.reg_token is not None:  # DINOv2 gives its registers no position
            self.pos_embed = nn.Parameter(torch.zeros(1, self.patch_embed.num_patches + 1, self.embed_dim))
        if classes:
            width = self.embed_dim * (2 if reads == "cls+mean" else 1)
            self.head = nn.Linear(width, classes)
            if reads == "both":
                self.head_dist = nn.Linear(width, classes)

    def _pos_embed(self, x: Tensor) -> Tensor:
        first = [self.cls_token.expand(len(x), -1, -1)]
        if hasattr(self, "dist_token"):
            first.append(self.dist_token.expand(len(x), -1, -1))
        tokens = torch.cat([*first, x], dim=1) + self.pos_embed
        if self.reg_token is None:
            return tokens
        registers = self.reg_token.expand(len(x), -1, -1)
        return torch.cat([tokens[:, :1], registers, tokens[:, 1:]], dim=1)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, tokens, C) -> (B, num_classes)."""
        first = x[:, 0]
        if pre_logits or not self.num_classes:
            return first
        if self.reads == "cls+mean":
            first = torch.cat([first, x[:, self.num_prefix_tokens :].mean(dim=1)], dim=1)
        out: Tensor = self.head(first)
        return (out + self.head_dist(x[:, 1])) / 2 if self.reads == "both" else out


def build_vit(
    *, eps: float, act: str, reads: str, distilled: bool, registers: int, swiglu: bool, **kwargs: Any
) -> nn.Module:
    """ViT, DeiT and DINOv2."""
    model: nn.Module = _TokensViT(
        reads=reads,
        distilled=distilled,
        reg_tokens=registers,
        norm_layer=partial(nn.LayerNorm, eps=eps),
        act_layer=nn.SiLU if swiglu else _activation(act),
        global_pool="token",
        mlp_layer=timm_layers.SwiGLUPacked if swiglu else timm_layers.Mlp,
        **kwargs,
    )
    return model


def build_beit(*, eps: float, act: str, pooled: bool, **kwargs: Any) -> nn.Module:
    """BEiT."""
    model: nn.Module = Beit(
        norm_layer=partial(nn.LayerNorm, eps=eps),
        global_pool="avg" if pooled else "token",
        use_rel_pos_bias=True,
        **kwargs,
    )
    _set_activation(model, act)
    return model


def build_swin(*, eps: float, act: str, **kwargs: Any) -> nn.Module:
    """Swin."""
    model: nn.Module = SwinTransformer(norm_layer=partial(nn.LayerNorm, eps=eps), **kwargs)
    _set_activation(model, act)
    return model


def build_convnext(*, eps: float, act: str, **kwargs: Any) -> nn.Module:
    """ConvNeXt; `eps` is that of the last normalisation, the others have 1e-6."""
    model: Any = ConvNeXt(norm_eps=1e-6, **kwargs)
    model.head.norm.eps = eps
    _set_activation(model, act)
    made: nn.Module = model
    return made


class _StagesResNet(ResNet):  # type: ignore[misc]
    """A ResNet with any number of stages; timm's own has four."""

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> (B, C, h, w)."""
        x = self.maxpool(self.act1(self.bn1(self.conv1(x))))
        for name, stage in self.named_children():
            if re.fullmatch(r"layer\d+", name):
                x = stage(x)
        return x


def build_resnet(
    *, bottleneck: bool, act: str, stem_width: int, channels: list[int], layers: list[int], **kwargs: Any
) -> nn.Module:
    """ResNet (the stride is in the 3x3 convolution); timm's stem has 64 channels, here it has any number."""
    block, made = Bottleneck if bottleneck else BasicBlock, _activation(act)
    model: Any = _StagesResNet(block, layers, channels=channels, act_layer=made, **kwargs)
    if stem_width != model.bn1.num_features:
        model.conv1 = nn.Conv2d(kwargs["in_chans"], stem_width, 7, stride=2, padding=3, bias=False)
        model.bn1 = nn.BatchNorm2d(stem_width)
        stages, _ = make_blocks(
            (block,) * len(channels),
            channels,
            layers,
            stem_width,
            act_layer=made,
            norm_layer=nn.BatchNorm2d,
            cardinality=1,
            base_width=64,
        )
        for name, stage in stages:
            setattr(model, name, stage)
    network: nn.Module = model
    return network


def _activation(name: str) -> Any:
    if name not in _ACTIVATIONS:
        raise InputError(
            f"the activation {name!r} of config.json is not known", hint="--model file.py:factory"
        )
    return _ACTIVATIONS[name]


def _set_activation(model: nn.Module, name: str) -> None:
    made = _activation(name)
    if made is nn.GELU:  # what timm has
        return
    for module in model.modules():
        if isinstance(getattr(module, "act", None), nn.GELU):
            module.act = made()


_FACTORIES: Mapping[str, Callable[..., nn.Module]] = {
    "vit": build_vit,
    "deit": build_vit,
    "dinov2": build_vit,
    "beit": build_beit,
    "swin": build_swin,
    "convnext": build_convnext,
    "resnet": build_resnet,
}


def resolve_family(family: Family, shapes: Shapes, config: Mapping[str, Any]) -> ModelSource:
    """The network of transformers that has these parameters.

    Args:
        family: of the network.
        shapes: under timm's names.
        config: the content of `config.json`, empty where there is none.

    Raises:
        InputError: it differs from what can be built, or does something that timm's class does not.
    """
    assert family in get_args(Family)
    kwargs, notes = _arguments(family, shapes, config)
    head = next((key for key in ("head.weight", "head.fc.weight", "fc.weight") if key in shapes), None)
    classes = shapes[head][0] if head else None
    kwargs["num_classes"] = classes or 0
    stem = next(key for key in ("patch_embed.proj.weight", "stem.0.weight", "conv1.weight") if key in shapes)
    channels = shapes[stem][1]
    kwargs["in_chans"] = channels
    maker = constructor(family)
    try:
        difference = compare(shapes, maker.shapes(**kwargs))
    except (AssertionError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise InputError(f"recognised as {LIBRARY}/{family}, but cannot be built: {error}") from error
    # A final normalisation that is saved although nothing follows it.
    if difference:
        raise InputError(
            f"recognised as {LIBRARY}/{family}, but differs from it: {difference.text()}",
            hint="--model file.py:factory",
        )
    return ModelSource(
        library=LIBRARY,
        name=family,
        kwargs=kwargs,
        num_classes=classes,
        in_chans=channels,
        notes=tuple(notes),
        recognised=True,
        code=maker.code,
        factory=maker.factory,
    )


def constructor(family: Family) -> Constructor:
    """The factory of a family."""
    code = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    return Constructor(LIBRARY, family, _FACTORIES[family], code=f"{code} timm-{version('timm')}")


def _arguments(family: Family, shapes: Shapes, config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    notes = ["transformers' names taken for timm's: layers are called as in timm"]
    if not config:
        notes.append("assumed, since config.json is missing: transformers' own defaults")
    if family == "resnet":
        return _resnet(shapes, config), notes
    act = str(config.get("hidden_act", "gelu"))
    if family == "convnext":
        return _convnext(shapes, config, act), notes
    if family == "swin":
        return _swin(shapes, config, act), notes
    width, _, patch, _ = shapes["patch_embed.proj.weight"]
    heads = config.get("num_attention_heads")
    if heads is None and family == "beit":
        heads = shapes["blocks.0.attn.relative_position_bias_table"][1]
    if heads is None:
        heads = max(width // _HEAD_CHANNELS, 1)
        notes.append(f"assumed: {heads} heads of {width // heads} channels")
    common = {
        "patch_size": patch,
        "embed_dim": width,
        "depth": _count(shapes, r"blocks\.(\d+)\."),
        "num_heads": heads,
        "eps": float(config.get("layer_norm_eps", 1e-6 if family == "dinov2" else 1e-12)),
        "act": act,
    }
    if family == "beit":
        return _beit(shapes, config, common), notes
    return _vit(family, shapes, config, common), notes


def _vit(family: Family, shapes: Shapes, config: Mapping[str, Any], common: dict[str, Any]) -> dict[str, Any]:
    width, patch = common["embed_dim"], common["patch_size"]
    registers = shapes["reg_token"][1] if "reg_token" in shapes else 0
    distilled = "dist_token" in shapes
    swiglu = family == "dinov2" and bool(config.get("use_swiglu_ffn", False))
    hidden = shapes["blocks.0.mlp.fc1.weight"][0]
    swiglu = swiglu or hidden != shapes["blocks.0.mlp.fc2.weight"][1]
    prefix = 1 + distilled
    side = round((shapes["pos_embed"][1] - prefix) ** 0.5)
    reads = "both" if "head_dist.weight" in shapes else "cls"
    if "head.weight" in shapes and shapes["head.weight"][1] == 2 * width:
        reads = "cls+mean"
    return {
        **common,
        "img_size": side * patch,
        "mlp_ratio": hidden / width,
        "qkv_bias": "blocks.0.attn.qkv.bias" in shapes,
        "init_values": 1.0 if "blocks.0.ls1.gamma" in shapes else None,
        "reads": reads,
        "distilled": distilled,
        "registers": registers,
        "swiglu": swiglu,
    }


def _beit(shapes: Shapes, config: Mapping[str, Any], common: dict[str, Any]) -> dict[str, Any]:
    rows = shapes["blocks.0.attn.relative_position_bias_table"][0]
    side = round(((rows - 3) ** 0.5 + 1) / 2)  # (2 side - 1)^2 + 3
    return {
        **common,
        "img_size": side * common["patch_size"],
        "mlp_ratio": shapes["blocks.0.mlp.fc1.weight"][0] / common["embed_dim"],
        "qkv_bias": "blocks.0.attn.q_bias" in shapes,
        "use_abs_pos_emb": "pos_embed" in shapes,
        "init_values": 0.1 if "blocks.0.gamma_1" in shapes else None,
        "pooled": "fc_norm.weight" in shapes,
    }


def _swin(shapes: Shapes, config: Mapping[str, Any], act: str) -> dict[str, Any]:
    width, _, patch, _ = shapes["patch_embed.proj.weight"]
    stages = _count(shapes, r"layers\.(\d+)\.")
    tables = [shapes[f"layers.{i}.blocks.0.attn.relative_position_bias_table"] for i in range(stages)]
    window = (round(max(rows for rows, _ in tables) ** 0.5) + 1) // 2
    size = config.get("image_size", 224)
    return {
        "img_size": size[0] if isinstance(size, list) else size,
        "patch_size": patch,
        "embed_dim": width,
        "depths": [_count(shapes, rf"layers\.{i}\.blocks\.(\d+)\.") for i in range(stages)],
        "num_heads": [heads for _, heads in tables],
        "window_size": int(config.get("window_size", window)),
        "mlp_ratio": shapes["layers.0.blocks.0.mlp.fc1.weight"][0] / width,
        "qkv_bias": "layers.0.blocks.0.attn.qkv.bias" in shapes,
        "eps": float(config.get("layer_norm_eps", 1e-5)),
        "act": act,
    }


def _convnext(shapes: Shapes, config: Mapping[str, Any], act: str) -> dict[str, Any]:
    stages = _count(shapes, r"stages\.(\d+)\.")
    return {
        "depths": [_count(shapes, rf"stages\.{i}\.blocks\.(\d+)\.") for i in range(stages)],
        "dims": [shapes[f"stages.{i}.blocks.0.conv_dw.weight"][0] for i in range(stages)],
        "patch_size": shapes["stem.0.weight"][2],
        "ls_init_value": 1e-6 if "stages.0.blocks.0.gamma" in shapes else None,
        "eps": float(config.get("layer_norm_eps", 1e-12)),
        "act": act,
    }


def _resnet(shapes: Shapes, config: Mapping[str, Any]) -> dict[str, Any]:
    if config.get("downsample_in_bottleneck") or config.get("downsample_in_first_stage"):
        raise InputError(
            "a ResNet of transformers with its strides in other places than usual",
            hint="--model file.py:factory",
        )
    bottleneck = "layer1.0.conv3.weight" in shapes
    stages = _count(shapes, r"layer(\d+)\.")
    last = "conv3" if bottleneck else "conv2"
    out = [shapes[f"layer{i + 1}.0.{last}.weight"][0] for i in range(stages)]
    return {
        "layers": [_count(shapes, rf"layer{i + 1}\.(\d+)\.") for i in range(stages)],
        "channels": [width // 4 for width in out] if bottleneck else out,
        "stem_width": shapes["conv1.weight"][0],
        "bottleneck": bottleneck,
        "act": str(config.get("hidden_act", "relu")),
    }


def _count(shapes: Shapes, pattern: str) -> int:
    return len({found[1] for key in shapes if (found := re.match(pattern, key))})
