"""Geometries give the very pixels of torchvision, and of open_clip."""

from __future__ import annotations

import numpy as np
import pytest
from late import Late
from PIL import Image

import concept_monitor_cli._torchvision  # noqa: F401 # isort: skip
from probe_help import picture

from concept_monitor_cli.models.geometry import Geometry, Preprocessing
from concept_monitor_cli.probe.decode import shape_image

T = Late("torchvision.transforms")

SIZES = [(64, 64), (500, 333), (333, 500), (37, 91), (91, 37), (224, 300), (31, 31), (640, 17), (1, 1)]
INTERPOLATIONS = ["nearest", "bilinear", "bicubic", "lanczos"]


def _torchvision(image: Image.Image, steps: list[object]) -> np.ndarray:
    return np.asarray(T.Compose(steps)(image))


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_crop_is_torchvisions(size, interpolation):
    image = Image.fromarray(picture(*size))
    mode = T.InterpolationMode(interpolation)
    for resize, crop in [(256, 224), (33, 32), (64, 64), (48, 97), (37, 20), (224, 224)]:
        expected = _torchvision(image, [T.Resize(resize, mode, antialias=True), T.CenterCrop(crop)])
        pixels = shape_image(image, Geometry(crop, resize, "crop", interpolation))
        np.testing.assert_array_equal(pixels, expected, err_msg=f"{resize} -> {crop}")


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_squash_is_torchvisions(size, interpolation):
    image = Image.fromarray(picture(*size))
    mode = T.InterpolationMode(interpolation)
    for resize, crop in [(None, 64), (72, 64), (31, 31)]:
        side = resize or crop
        expected = _torchvision(image, [T.Resize((side, side), mode, antialias=True), T.CenterCrop(crop)])
        pixels = shape_image(image, Geometry(crop, resize, "squash", interpolation))
        np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_cut_alone_is_torchvisions(size):
    image = Image.fromarray(picture(*size))
    expected = _torchvision(image, [T.CenterCrop(40)])
    np.testing.assert_array_equal(shape_image(image, Geometry(40)), expected)


def test_real_photos_as_open_clip_sees_them(imagenet_samples):
    from open_clip.transform import PreprocessCfg, image_transform_v2

    for mode, name in (("shortest", "crop"), ("squash", "squash")):
        config = PreprocessCfg(
            size=96, mean=(0, 0, 0), std=(1, 1, 1), interpolation="bicubic", resize_mode=mode
        )
        transform = image_transform_v2(config, is_train=False)
        geometry = Geometry(96, 96, name, "bicubic")
        for path in sorted(imagenet_samples.glob("*.jpg"))[:25]:
            image = Image.open(path).convert("RGB")
            expected = (transform(image) * 255).round().byte().permute(1, 2, 0).numpy()
            np.testing.assert_array_equal(shape_image(image, geometry), expected)


def test_what_a_geometry_says_about_itself():
    assert str(Geometry(224, 256)) == "shorter side to 256 (bilinear), centre 224 x 224"
    assert str(Geometry(224)) == "centre 224 x 224"
    assert str(Geometry(224, None, "squash", "bicubic")) == "whole frame to 224 x 224 (bicubic)"
    assert Geometry(224, None, "squash").whole_frame
    assert Geometry(224, 224, "squash").whole_frame
    assert not Geometry(224, 248, "squash").whole_frame
    assert not Geometry(224, 224, "crop").whole_frame
    json = Preprocessing(Geometry(32), (0, 0, 0), (1, 1, 1), "a guess").to_json()
    assert json["geometry"] == {"size": 32, "resize": None, "mode": "crop", "interpolation": "bilinear"}


@pytest.mark.parametrize(
    "wrong",
    [{"size": 0}, {"size": 1, "resize": -1}, {"size": 1, "mode": "pad"}, {"size": 1, "interpolation": "x"}],
)
def test_impossible_geometries(wrong):
    with pytest.raises(ValueError):
        Geometry(**wrong)
