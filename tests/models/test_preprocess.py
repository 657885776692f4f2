from __future__ import annotations

from typing import Any

import concept_monitor_cli._torchvision  # noqa: F401  isort: skip
import numpy as np
import pytest
import torch
from PIL import Image

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.models.build import ModelSource, list_architectures
from concept_monitor_cli.models.geometry import Geometry, Preprocessing
from concept_monitor_cli.models.preprocess import target_preprocessing


def source(library: str, name: str, **kwargs: Any) -> ModelSource:
    return ModelSource(library, name, kwargs, 10, 3)


def picture(width: int = 301, height: int = 230) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height // 10 + 1, width // 10 + 1, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def prepared(image: Image.Image, wanted: Preprocessing) -> torch.Tensor:
    """The image as our preprocessing has it, by the project's own geometry."""
    from concept_monitor_cli.probe.decode import shape_image

    pixels = shape_image(image, wanted.geometry)
    mean, std = np.array(wanted.mean), np.array(wanted.std)
    return torch.from_numpy(((pixels / 255 - mean) / std).transpose(2, 0, 1)).float()


@pytest.mark.parametrize(
    "name", ["resnet18", "inception_v3", "vit_b_16", "efficientnet_b0", "swin_v2_t", "vit_h_14"]
)
def test_as_torchvision_does(name: str) -> None:
    from torchvision import models

    weights = list(models.get_model_weights(name))
    reference = next((w for w in weights if w.name == "IMAGENET1K_V1"), weights[0]).transforms()
    wanted = target_preprocessing(source("torchvision", name))
    image = picture(640, 560)
    torch.testing.assert_close(prepared(image, wanted), reference(image), atol=1e-5, rtol=0)
    assert name in wanted.source


@pytest.mark.parametrize(
    "name",
    [
        "resnet50",
        "vit_base_patch16_224",
        "convnext_tiny",
        "tf_efficientnet_lite1",
        "vit_base_patch16_clip_224",
    ],
)
def test_as_timm_does(name: str) -> None:
    import timm
    from timm.data import create_transform, resolve_data_config

    config = timm.get_pretrained_cfg(name)
    reference = create_transform(**resolve_data_config({}, pretrained_cfg=config.to_dict()))
    wanted = target_preprocessing(source("timm", name))
    image = picture(640, 560)
    torch.testing.assert_close(prepared(image, wanted), reference(image), atol=1e-5, rtol=0)
    assert f"{name}.{config.tag}" in wanted.source


@pytest.mark.parametrize("library", ["torchvision", "timm", "cmon"])
def test_every_architecture_has_one_or_says_why_not(library: str) -> None:
    oblong = 0
    for name in list_architectures(library):
        try:
            wanted = target_preprocessing(source(library, name))
        except InputError:
            oblong += 1
            continue
        assert wanted.geometry.size >= 32
        assert all(value > 0 for value in wanted.std)
        assert "assumed" in wanted.source
    assert oblong <= 10  # timm has five networks for people standing upright


def test_oblong_images_are_refused() -> None:
    with pytest.raises(InputError, match="1024 x 768 pixels, and only squares"):
        target_preprocessing(source("timm", "vit_base_patch16_sapiens2"))


def test_a_bundled_network_sees_32_pixels() -> None:
    wanted = target_preprocessing(source("cmon", "cifar_resnet18"))
    assert wanted.geometry == Geometry(32, 32, "crop", "bilinear")
    assert "CIFAR-10" in wanted.source


def test_nothing_known_is_said_so() -> None:
    wanted = target_preprocessing(source("user", "net.py:Net"))
    assert wanted.geometry == Geometry(224, 256, "crop", "bilinear")
    assert "nothing is known of net.py:Net" in wanted.source


def test_options_change_what_they_name() -> None:
    resnet = source("torchvision", "resnet18")
    default = target_preprocessing(resnet)
    small = target_preprocessing(resnet, input_size=64)
    assert small.geometry == Geometry(64, 73, "crop", "bilinear")  # 256 / 224 as before
    assert (small.mean, small.std) == (default.mean, default.std)
    assert small.source.startswith("--input-size as given")
    assert target_preprocessing(resnet, input_size=32, crop=1).geometry == Geometry(
        32, 32, "crop", "bilinear"
    )
    assert target_preprocessing(resnet, crop=0.5).geometry.resize == 448
    assert target_preprocessing(resnet, interpolation="bicubic").geometry.interpolation == "bicubic"
    grey = target_preprocessing(resnet, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    assert (grey.mean, grey.std) == ((0.5,) * 3, (0.2,) * 3)
    assert grey.geometry == default.geometry
    assert "--mean, --std as given" in grey.source


def test_only_what_was_assumed_is_called_so() -> None:
    resnet = source("torchvision", "resnet18")
    given = {"input_size": 224, "crop": 1.0, "mean": (0.5,) * 3, "std": (0.2,) * 3}
    four = target_preprocessing(resnet, **given).source  # type: ignore[arg-type]
    assert four == "--input-size, --crop, --mean, --std as given; bilinear interpolation assumed"
    three = target_preprocessing(resnet, input_size=224, mean=(0.5,) * 3, std=(0.2,) * 3).source
    assert three.startswith("--input-size, --mean, --std as given; for the rest assumed")
    five = target_preprocessing(resnet, interpolation="bicubic", **given).source  # type: ignore[arg-type]
    assert five == "as given by options"


def test_the_size_of_a_table_of_positions_is_kept() -> None:
    wanted = target_preprocessing(source("timm", "vit_tiny_patch16_224", img_size=96))
    assert wanted.geometry.size == 96
    assert "96 pixels" in wanted.source
    with pytest.raises(InputError, match="96 pixels"):
        target_preprocessing(source("timm", "vit_tiny_patch16_224", img_size=96), input_size=128)


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"input_size": 0}, "--input-size"),
        ({"crop": 0.0}, "--crop"),
        ({"crop": 224.0}, "--crop"),
        ({"interpolation": "cubic"}, "--interpolation"),
        ({"mean": (123.7, 116.3, 103.5)}, "--mean"),
        ({"mean": (0.5, float("nan"), 0.5)}, "--mean"),
        ({"std": (0.2, 0.0, 0.2)}, "--std"),
    ],
)
def test_values_without_sense(options: dict[str, Any], where: str) -> None:
    with pytest.raises(InputError) as error:
        target_preprocessing(source("torchvision", "resnet18"), **options)
    assert error.value.where == where
