"""Which axis of a layer's output holds the units, and how a unit's map becomes one number.

By rank: 4-D outputs have space (channels first, or last as in Swin),
3-D ones tokens, 2-D ones are pooled already. All functions are pure; sums are taken in fp32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from concept_monitor_cli.errors import InputError

Kind = Literal["channels-first", "channels-last", "tokens", "flat"]
"""Axes of an output: (B, C, h, w), (B, h, w, C), (B, tokens, C), (B, C)."""

Pooling = Literal["auto", "mean", "max", "cls", "tokens"]
"""How a map becomes a number.

`auto`: mean over space; for tokens what the network's own head reads: the class token where there is one,
unless the network says that it pools the patch tokens (BEiT, EVA-02), then their mean or maximum.
`mean`, `max`: over space or over the patch tokens. `cls`: the class token. `tokens`: the mean of the patch
tokens. `cls` and `tokens` mean `auto` for layers without tokens.
"""

POOLINGS: tuple[Pooling, ...] = get_args(Pooling)

# Networks that carry their images as (B, h, w, C) between blocks and do not say so in an attribute.
_CHANNELS_LAST_FAMILIES = ("SwinTransformer",)
_MAX_PREFIX = 16


@dataclass(frozen=True)
class Layout:
    """What the axes of a layer's output mean.

    Args:
        kind: the order of the axes.
        prefix: tokens before the patch tokens (class, distillation, register tokens); 0 unless `tokens`.
        class_token: whether the first of them is a class token.
        head: how the network's own head pools the tokens where it does not read the class token: `mean`,
            `max`, or `attention`; empty where it reads that, or does not say.
        grid: height and width of the maps; None where there are none (tokens that form no square).
        note: what had to be assumed, one sentence; empty where nothing was.
        batch_second: whether the output is (tokens, B, C): torch's `batch_first=False`.
    """

    kind: Kind
    prefix: int = 0
    class_token: bool = False
    grid: tuple[int, int] | None = None
    note: str = ""
    head: str = ""
    batch_second: bool = False


def _square(count: int) -> tuple[int, int] | None:
    side = math.isqrt(count) if count > 0 else 0
    return (side, side) if side and side * side == count else None


def _ancestors(model: nn.Module, name: str) -> list[nn.Module]:
    """The modules around a layer, the nearest first, ending with the network itself."""
    found = [model]
    for part in name.split(".")[:-1] if name else []:
        found.append(cast("nn.Module", getattr(found[-1], part)))
    return found[::-1]


def prefix_tokens(model: nn.Module, name: str = "") -> tuple[int | None, bool]:
    """How many tokens stand before the patch tokens, and whether the first is a class token.

    timm says it in `num_prefix_tokens` (0, 1, 2 with a distillation token, more with registers); torchvision,
    open_clip and others own a `class_token`, `cls_token` or `class_embedding`. The nearest enclosing module
    that says anything counts, so an image tower inside a larger network is read right.

    Args:
        model: the network.
        name: the layer whose tokens are meant.

    Returns:
        (count, has class token); count is None where the network does not say.
    """
    for module in _ancestors(model, name):
        names = ("cls_token", "class_token", "class_embedding")
        tokens = [t for t in (getattr(module, n, None) for n in names) if isinstance(t, Tensor)]
        count = getattr(module, "num_prefix_tokens", None)
        if isinstance(count, int):
            # NaFlexViT keeps its class token in a module inside.
            reads = getattr(module, "has_class_token", False) or getattr(module, "global_pool", "") == "token"
            return count, count > 0 and bool(tokens or reads)
        if tokens:
            # Some keep class and distillation token in one parameter (1, 2, D).
            return (tokens[0].shape[-2] if tokens[0].ndim >= 2 else 1), True
    return None, False


# What networks call the pooling of their head, where it is not the class token.
_HEADS = {
    "avg": "mean",
    "mean": "mean",
    "avgmax": "mean",
    "max": "max",
    "map": "attention",
    "prr": "attention",
}


def head_pooling(model: nn.Module, name: str = "") -> str:
    """How the head of a network of tokens pools them, where it ignores the class token.

    timm says it in `global_pool` (`token`, `avg`, `max`, `map`, ...; MAE's code in a bool of that name),
    open_clip in `pool_type` and `attn_pool`, transformers in `config.use_mean_pooling`. The nearest enclosing
    module that says anything counts.

    Args:
        model: the network.
        name: the layer whose tokens are meant.

    Returns:
        `mean`, `max`, `attention`; empty where the class token is read or nothing is said.
    """
    for module in _ancestors(model, name):
        said = getattr(module, "global_pool", None)
        if isinstance(said, bool):  # MAE
            return "mean" if said else ""
        if isinstance(said, str) and said:
            return _HEADS.get(said, "")
        said = getattr(module, "pool_type", None)
        if isinstance(said, str):  # open_clip
            attends = isinstance(getattr(module, "attn_pool", None), nn.Module)
            return "attention" if attends else _HEADS.get(said, "")
        said = getattr(getattr(module, "config", None), "use_mean_pooling", None)
        if isinstance(said, bool):  # transformers: BEiT, Data2Vec
            return "mean" if said else ""
    return ""


def _token_layout(count: int, model: nn.Module, name: str) -> Layout:
    layout = _arrangement(count, model, name)
    if not layout.class_token or count <= layout.prefix:  # nothing but the class token: it is all there is
        return layout
    return replace(layout, head=head_pooling(model, name))


def _arrangement(count: int, model: nn.Module, name: str) -> Layout:
    prefix, has_class = prefix_tokens(model, name)
    if prefix is None:
        if _square(count):
            return Layout("tokens", grid=_square(count))
        if count > 1 and _square(count - 1):
            note = (
                f"{name}: the first of {count} tokens was taken for a class token, the others form a square"
            )
            return Layout("tokens", 1, True, _square(count - 1), note)
        note = (
            f"{name}: {count} tokens of unknown arrangement; all are treated as patch tokens, without a map"
        )
        return Layout("tokens", note=note)
    patches = count - prefix
    if _square(patches) or patches == 0:
        return Layout("tokens", prefix, has_class, _square(patches))
    if _square(count):
        # CaiT, XCiT: the class token joins only in the last blocks.
        note = f"{name}: {count} tokens form a square, so the class token is not yet among them"
        return Layout("tokens", grid=_square(count), note=note if prefix else "")
    if patches < 0:
        note = f"{name}: fewer tokens ({count}) than the network has prefix tokens ({prefix}); all are pooled"
        return Layout("tokens", note=note)
    note = f"{name}: {patches} patch tokens form no square, so there is no map"
    return Layout("tokens", prefix, has_class, note=note)


def _kind_by_module(module: nn.Module) -> Kind | None:
    """The axis order that a module's type fixes; None for containers, activations and the like."""
    if isinstance(module, nn.LayerNorm):
        # timm's and torchvision's LayerNorm2d derive from LayerNorm and normalise axis 1.
        return "channels-last" if "2d" not in type(module).__name__.lower() else "channels-first"
    if isinstance(module, nn.Linear):
        return "channels-last"
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.GroupNorm, nn.InstanceNorm2d)):
        return "channels-first"
    pools = (
        nn.MaxPool2d,
        nn.AvgPool2d,
        nn.AdaptiveAvgPool2d,
        nn.AdaptiveMaxPool2d,
        nn.Upsample,
        nn.PixelShuffle,
    )
    return "channels-first" if isinstance(module, pools) else None


def _kind_by_family(model: nn.Module, name: str) -> Kind | None:
    for module in _ancestors(model, name):
        fmt = getattr(module, "output_fmt", None)  # timm
        if fmt is not None and str(getattr(fmt, "value", fmt)).upper() in {"NHWC", "NCHW"}:
            last = str(getattr(fmt, "value", fmt)).upper() == "NHWC"
            return "channels-last" if last else "channels-first"
        if type(module).__name__.startswith(_CHANNELS_LAST_FAMILIES):
            return "channels-last"
    return None


def _image_layout(shape: tuple[int, int, int], module: nn.Module, model: nn.Module, name: str) -> Layout:
    first, middle, last = shape
    # Images are square here, and so are their maps, whichever axes they lie on.
    fits_first, fits_last = middle == last, first == middle
    kind: Kind
    note = ""
    if fits_first != fits_last:
        kind = "channels-first" if fits_first else "channels-last"
    else:
        told = _kind_by_module(module) or _kind_by_family(model, name)
        kind = told or "channels-first"
        if told is None:
            note = f"{name}: output {first} x {middle} x {last} was read as channels, height, width"
    return Layout(kind, grid=(middle, last) if kind == "channels-first" else (first, middle), note=note)


def detect_layout(
    shape: tuple[int, ...],
    *,
    module: nn.Module | None = None,
    model: nn.Module | None = None,
    name: str = "",
    kind: Kind | None = None,
) -> Layout:
    """What the axes of a layer's output mean.

    For 4-D outputs the two equal axes that lie together are space. Where that leaves both readings open
    (all three equal, or none), the type of the module decides, then the network's family, then channels
    first, and `Layout.note` says so.

    Args:
        shape: of the output, without the batch.
        module: the layer.
        model: the network, which knows its prefix tokens and its family.
        name: the layer's name.
        kind: the user's word, instead of detection.

    Raises:
        InputError: for an output of another rank, or a `kind` that does not fit it.
    """
    module = nn.Identity() if module is None else module
    model = module if model is None else model
    ranks: dict[Kind, int] = {"channels-first": 3, "channels-last": 3, "tokens": 2, "flat": 1}
    if kind is not None and ranks[kind] != len(shape):
        raise InputError(f"layer {name!r} puts out {shape} per image, which is not {kind}", where=name)
    if len(shape) == 1:
        return Layout("flat", grid=(1, 1))
    if len(shape) == 2:
        return _token_layout(shape[0], model, name)
    if len(shape) == 3:
        sizes = (shape[0], shape[1], shape[2])
        if kind is not None:
            return Layout(kind, grid=sizes[1:] if kind == "channels-first" else sizes[:2])
        return _image_layout(sizes, module, model, name)
    raise InputError(
        f"layer {name!r} puts out {len(shape)} axes per image ({shape}); 1 to 3 are understood",
        where=name,
        hint="choose a layer that puts out maps, tokens or a vector; `cmon layers` lists them",
    )


def units(shape: tuple[int, ...], layout: Layout) -> int:
    """The number of units C of an output of this shape (without the batch)."""
    return shape[0] if layout.kind in {"channels-first", "flat"} else shape[-1]


def resolve_pooling(layout: Layout, pooling: Pooling, name: str = "") -> tuple[Pooling, str]:
    """The pooling that a layer really gets, and a sentence where it is not the one asked for.

    Args:
        layout: of the layer's output.
        pooling: what was asked for.
        name: the layer's name, for the sentence.

    Returns:
        (`mean`, `max` or `cls`; a sentence, empty where there is nothing to say).

    Raises:
        InputError: for an unknown pooling.
    """
    if pooling not in POOLINGS:
        raise InputError(f"unknown pooling {pooling!r}", hint="one of " + ", ".join(POOLINGS))
    if layout.kind != "tokens":
        if pooling in {"mean", "max"}:
            return pooling, ""
        said = (
            ""
            if pooling == "auto"
            else f"{name}: has no tokens, so the mean over space is taken, not {pooling!r}"
        )
        return "mean", said if layout.kind != "flat" else ""
    if pooling == "auto" and layout.class_token and layout.head:
        return _like_the_head(layout, name)
    if pooling in {"auto", "cls"}:
        if layout.class_token:
            return "cls", ""
        return "mean", f"{name}: has no class token, so the mean of the patch tokens is taken"
    return ("max" if pooling == "max" else "mean"), ""


def _like_the_head(layout: Layout, name: str) -> tuple[Pooling, str]:
    how: Pooling = "max" if layout.head == "max" else "mean"
    taken = "maximum" if how == "max" else "mean"
    if layout.head == "attention":
        why = "the network's head pools the tokens by attention and singles out no class token"
    else:
        why = "the network's head pools the patch tokens and ignores the class token"
    return how, f"{name}: {why}, so the {taken} of the patch tokens is taken (--pooling cls: the class token)"


def batch_first(output: Tensor, layout: Layout) -> Tensor:
    """The output with its images on the first axis; a view."""
    return output.transpose(0, 1) if layout.batch_second else output


def pool(output: Tensor, layout: Layout, pooling: Pooling = "auto") -> Tensor:
    """One number per image and unit.

    Args:
        output: (B, C, h, w), (B, h, w, C), (B, tokens, C) or (B, C), any float type.
        layout: which of these it is.
        pooling: see `Pooling`.

    Returns:
        (B, C) float32, never a view of `output`.
    """
    how, _ = resolve_pooling(layout, pooling)
    output = batch_first(output, layout)
    if layout.kind == "flat":
        return output.to(torch.float32, copy=True)
    if layout.kind == "tokens":
        if how == "cls":
            return output[:, 0].to(torch.float32, copy=True)
        # Where only prefix tokens are left (CaiT's class attention), they are all there is to pool.
        patches = output[:, layout.prefix :] if output.shape[1] > layout.prefix else output
        return patches.float().amax(1) if how == "max" else patches.mean(1, dtype=torch.float32)
    axes = (2, 3) if layout.kind == "channels-first" else (1, 2)
    return output.float().amax(axes) if how == "max" else output.mean(axes, dtype=torch.float32)


def unit_axis(layout: Layout) -> int:
    """The axis of a layer's output that holds the units, images on the first (`batch_first`)."""
    return {"channels-first": 1, "channels-last": 3, "tokens": 2, "flat": 1}[layout.kind]


def units_second(output: Tensor, layout: Layout) -> Tensor:
    """A view `(B, C, ...)` of a layer's output, whatever its layout; the positions are what is left."""
    return batch_first(output, layout).movedim(unit_axis(layout), 1)


def by_position(output: Tensor, layout: Layout) -> Tensor:
    """A layer's output as `(B, C, P)`, P positions: 1 for vectors."""
    units = units_second(output, layout)
    return units.flatten(2) if units.ndim > 2 else units[:, :, None]


def shift_gradient(gradient: Tensor, layout: Layout, pooling: Pooling = "auto") -> Tensor:
    """The gradient with respect to a shift of each unit at all positions that are pooled.

    Such a shift changes the pooled activation by as much, whether that is a mean, a maximum or the class
    token's. So this is the gradient that belongs to pooled activations.

    Args:
        gradient: with respect to the layer's output, and shaped like it.
        layout: which axes these are.
        pooling: what the activations are pooled by.

    Returns:
        (B, C) float32.
    """
    how, _ = resolve_pooling(layout, pooling)
    gradient = batch_first(gradient, layout)
    if layout.kind == "flat":
        return gradient.to(torch.float32, copy=True)
    if layout.kind == "tokens":
        if how == "cls":
            return gradient[:, 0].to(torch.float32, copy=True)
        patches = gradient[:, layout.prefix :] if gradient.shape[1] > layout.prefix else gradient
        return patches.sum(1, dtype=torch.float32)
    return gradient.sum((2, 3) if layout.kind == "channels-first" else (1, 2), dtype=torch.float32)


def spatial_maps(output: Tensor, layout: Layout) -> Tensor:
    """The activation maps `A_k(x)`.

    Args:
        output: as for `pool`.
        layout: which of these it is; patch tokens are laid out on their square, row by row.

    Returns:
        (B, C, h, w) float32; 1 x 1 for vectors. May be a view of `output`.

    Raises:
        InputError: where the layer has no maps (`Layout.grid` is None).
    """
    if layout.grid is None:
        raise InputError("the layer's tokens form no square, so it has no activation maps")
    output = batch_first(output, layout).float()
    if layout.kind == "channels-first":
        return output
    if layout.kind == "channels-last":
        return output.permute(0, 3, 1, 2)
    if layout.kind == "flat":
        return output[:, :, None, None]
    patches = output[:, layout.prefix :]
    height, width = layout.grid
    return patches.reshape(len(patches), height, width, -1).permute(0, 3, 1, 2)
