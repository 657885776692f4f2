"""How the network that is dissected expects its images, by its architecture.

A checkpoint does not say it in words. The configuration that torchvision or timm keeps for the architecture
is the usual rule, and where it is wrong it spoils labels silently: `Preprocessing.source` always says what
was assumed. Whether the checkpoint's own statistics speak against it is found out in `evidence`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, cast, get_args

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.models.build import ModelSource
from concept_monitor_cli.models.geometry import Channels, Geometry, Interpolation, Mode, Preprocessing

Triple = tuple[float, float, float]

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)
# Per-channel mean and standard deviation over the pixels of CIFAR-10's training images.
CIFAR10_MEAN: Triple = (0.4914, 0.4822, 0.4465)
CIFAR10_STD: Triple = (0.2470, 0.2435, 0.2616)
# torchvision's and timm's share of the resized image that is kept: 224 of 256.
CROP = 0.875


@dataclass(frozen=True)
class _Default:
    size: int
    resize: int | None
    mode: Mode
    interpolation: Interpolation
    mean: Triple
    std: Triple
    source: str


def target_preprocessing(
    source: ModelSource,
    *,
    input_size: int | None = None,
    crop: float | None = None,
    mean: Triple | None = None,
    std: Triple | None = None,
    interpolation: str | None = None,
    channels: Channels | None = None,
) -> Preprocessing:
    """The preprocessing of a network: its library's configuration, changed by what the user says.

    Args:
        source: the network.
        input_size: side of the square that it sees, pixels. The resize before the crop keeps its proportion.
        crop: share of the resized image that the crop keeps: 0.875 for 224 of 256, 1 for no crop.
        mean: per channel, for pixels in 0..1.
        std: likewise.
        interpolation: filter of the resize.
        channels: their order; red first where nothing is said.

    Returns:
        The preprocessing, with a sentence on where it comes from.

    Raises:
        InputError: a value that makes no sense, or a network whose image size is fixed to another one.
    """
    default = _default(source)
    changed = []
    if input_size is not None and input_size != default.size:
        if input_size < 1:
            raise InputError(f"{input_size} is no image size", where="--input-size")
        built_for = source.kwargs.get("img_size") or source.kwargs.get("image_size")
        if built_for is not None and built_for != input_size:
            raise InputError(
                f"the weights are those of a network for images of {built_for} pixels, not {input_size}",
                where="--input-size",
                hint="leave it out",
            )
        resize = default.resize and max(math.floor(default.resize * input_size / default.size), input_size)
        default = replace(default, size=input_size, resize=resize)
    if input_size is not None:
        changed.append("--input-size")
    if crop is not None:
        if not 0 < crop <= 1:
            raise InputError(f"{crop:g} is no share of an image", where="--crop", hint="0.875 for 224 of 256")
        default = replace(default, resize=math.floor(default.size / crop))
        changed.append("--crop")
    if interpolation is not None:
        if interpolation not in get_args(Interpolation):
            raise InputError(
                f"there is no interpolation {interpolation!r}",
                where="--interpolation",
                hint=", ".join(get_args(Interpolation)),
            )
        default = replace(default, interpolation=cast(Interpolation, interpolation))
        changed.append("--interpolation")
    for option, values in (("--mean", mean), ("--std", std)):
        if values is None:
            continue
        if len(values) != 3 or not all(math.isfinite(value) for value in values):
            raise InputError("three numbers are needed, for red, green and blue", where=option)
        if any(value > 2 for value in values):
            raise InputError(
                f"{' '.join(f'{value:g}' for value in values)} is not for pixels in 0..1",
                where=option,
                hint="divide by 255",
            )
        if option == "--std" and any(value <= 0 for value in values):
            raise InputError("standard deviations must be positive", where=option)
        default = replace(default, mean=values) if option == "--mean" else replace(default, std=values)
        changed.append(option)
    text = default.source
    if len(changed) == 5:
        text = "as given by options"
    elif len(changed) == 4 and interpolation is None:
        text = f"{', '.join(changed)} as given; {default.interpolation} interpolation assumed"
    elif changed:
        text = f"{', '.join(changed)} as given; for the rest {text}"
    geometry = Geometry(default.size, default.resize, default.mode, default.interpolation)
    return Preprocessing(geometry, default.mean, default.std, text, channels or "rgb")


def _default(source: ModelSource) -> _Default:
    if source.library == "torchvision":
        return _of_torchvision(source)
    if source.library == "timm":
        return _of_timm(source)
    if source.library == "transformers":
        return _of_transformers(source)
    if source.library == "cmon":
        return _Default(
            size=32,
            resize=32,
            mode="crop",
            interpolation="bilinear",
            mean=CIFAR10_MEAN,
            std=CIFAR10_STD,
            source=f"assumed for {source.name}: 32 pixels, mean and std of CIFAR-10 "
            "(--input-size --mean --std if it was trained otherwise)",
        )
    return _Default(
        size=224,
        resize=256,
        mode="crop",
        interpolation="bilinear",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        source=f"nothing is known of {source.name}: assumed are 224 pixels, mean and std of ImageNet "
        "(--input-size --crop --mean --std if it was trained otherwise)",
    )


def _of_transformers(source: ModelSource) -> _Default:
    size = int(source.kwargs.get("img_size", 224))
    half = source.name in ("vit", "beit")
    return _Default(
        size=size,
        resize=None if half else math.floor(size / CROP),
        mode="squash" if half else "crop",
        interpolation="bilinear" if source.name == "vit" else "bicubic",
        mean=(0.5, 0.5, 0.5) if half else IMAGENET_MEAN,
        std=(0.5, 0.5, 0.5) if half else IMAGENET_STD,
        source=f"assumed: what the image processor of transformers does for {source.name} by default "
        "(--input-size --crop --mean --std if it was trained otherwise)",
    )


def _of_torchvision(source: ModelSource) -> _Default:
    import concept_monitor_cli._torchvision  # noqa: F401  isort: skip
    from torchvision import models

    weights = list(models.get_model_weights(source.name))
    # The weights of the original recipe, where there are several; what they share is the usual 224 pixels.
    chosen = next((entry for entry in weights if entry.name == "IMAGENET1K_V1"), weights[0])
    preset: Any = chosen.transforms()
    size, resize = preset.crop_size[0], preset.resize_size[0]
    built_for = source.kwargs.get("image_size")
    if built_for is not None:
        size, resize = built_for, math.floor(built_for / CROP)
    return _Default(
        size=size,
        resize=resize,
        mode="crop",
        interpolation=_interpolation(preset.interpolation.value, source),
        mean=_triple(preset.mean),
        std=_triple(preset.std),
        source=f"assumed: what torchvision does for {source.name} ({chosen.name})"
        + _resized(built_for)
        + "; a checkpoint does not tell "
        "(--input-size --crop --mean --std if it was trained otherwise, say on 32-pixel images)",
    )


def _of_timm(source: ModelSource) -> _Default:
    import concept_monitor_cli._torchvision  # noqa: F401  isort: skip
    import timm
    from timm.data import resolve_data_config

    config = timm.get_pretrained_cfg(source.name)
    found = resolve_data_config({}, pretrained_cfg={} if config is None else config.to_dict())
    height, width = found["input_size"][1:]
    if height != width:
        raise InputError(
            f"{source.name} sees {height} x {width} pixels, and only squares are supported", where="--model"
        )
    size, built_for = height, source.kwargs.get("img_size")
    if built_for is not None:
        size = built_for
    # timm's "border" shrinks the longer side and pads; the nearest of ours is the usual crop.
    modes: dict[str, Mode] = {"center": "crop", "squash": "squash", "border": "crop"}
    named = source.name if config is None or not config.tag else f"{source.name}.{config.tag}"
    padded = (
        "; timm pads the shorter side here, we crop the longer one" if found["crop_mode"] == "border" else ""
    )
    return _Default(
        size=size,
        resize=math.floor(size / found["crop_pct"]),
        mode=modes[found["crop_mode"]],
        interpolation=_interpolation(found["interpolation"], source),
        mean=_triple(found["mean"]),
        std=_triple(found["std"]),
        source=f"assumed: what timm does for {named}"
        + _resized(built_for)
        + padded
        + "; a checkpoint does not tell (--input-size --crop --mean --std if it was trained otherwise)",
    )


def _resized(built_for: int | None) -> str:
    return (
        "" if built_for is None else f", at the {built_for} pixels that the table of positions was made for"
    )


def _interpolation(name: str, source: ModelSource) -> Interpolation:
    # timm's "random" is for training; its own evaluation takes bilinear then.
    name = "bilinear" if name == "random" else name
    if name not in get_args(Interpolation):
        raise InputError(f"{source.name} wants the interpolation {name!r}", where="--interpolation")
    return cast(Interpolation, name)


def _triple(values: Any) -> Triple:
    values = tuple(float(value) for value in values)
    # A network for grey images has one mean; our images have three equal channels.
    red, green, blue = values * 3 if len(values) == 1 else values
    return red, green, blue


def grey(wanted: Preprocessing) -> Preprocessing:
    """The preprocessing of a network that takes grey images: the averages of the three means and stds."""
    mean, std = (sum(values) / len(values) for values in (wanted.mean, wanted.std))
    source = f"{wanted.source}; the network takes one channel, so the images are made grey"
    return Preprocessing(wanted.geometry, (mean,) * 3, (std,) * 3, source)
