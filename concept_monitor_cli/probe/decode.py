"""From the bytes of an image file to RGB pixels, and from those to the square that a network sees."""

from __future__ import annotations

import contextlib
import functools
import io
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from concept_monitor_cli.models.geometry import Geometry

Pixels8 = npt.NDArray[np.uint8]

EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".webp", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif"),
)
"""File names with these endings count as images (any case)."""

FOREIGN = (
    *(".heic", ".heif", ".hif", ".heics", ".jxl", ".jxr", ".avifs", ".jpx", ".jpf", ".j2k", ".j2c", ".bpg"),
    *(".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf", ".raw", ".psd", ".xcf", ".svg", ".eps"),
    *(
        ".exr",
        ".hdr",
        ".tga",
        ".pcx",
        ".ico",
        ".icns",
        ".qoi",
        ".pfm",
        ".dds",
        ".sgi",
        ".ras",
        ".xbm",
        ".xpm",
    ),
    *(".dcm", ".dicom", ".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".czi", ".lif", ".ndpi", ".svs", ".mrxs"),
)
"""File names with these endings are images too, of formats that are not read (any case)."""

# Only formats that Pillow reads by itself: EPS, for one, would start Ghostscript on a stranger's file.
_FORMATS = ("JPEG", "MPO", "PNG", "BMP", "DIB", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

# EXIF tag 0x0112: how the camera was held, and what undoes it.
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@functools.cache
def formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are read: those of ours that this build of Pillow knows."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


class UnreadableImageError(Exception):
    """These bytes are no image that can be read. The text is the reason, in a few words."""


def decode_image(data: bytes, greys: tuple[float, float] | None = None) -> Image.Image:
    """RGB pixels of an image file, upright.

    What torchvision's loader (`convert("RGB")`) gives, except where that is plainly wrong:

    - transparent pixels show white, not the colour that happens to be stored under them;
    - greys of more than 8 bits are scaled to 8 bits (`convert` cuts them off at 255: nearly all white);
    - the camera's orientation (EXIF) is applied.

    Of moving pictures, the first frame. Colour profiles are not applied (torchvision does not either).

    Args:
        data: the file's bytes.
        greys: which greys of more than 8 bits are black and white; `None`: what can be said of one image,
            integers are of the smallest usual depth (8, 10, 12, 14, 16 bits) that holds them, floats 0..1.

    Raises:
        UnreadableImageError: empty, cut off, damaged, not an image, or larger than Pillow's safety limit
            (`PIL.Image.MAX_IMAGE_PIXELS`, 89 million: a small file can unpack into gigabytes).
    """
    if not data:
        raise UnreadableImageError("empty file")
    try:
        with Image.open(io.BytesIO(data), formats=formats()) as image:
            check_size(image)
            image.load()
            return _rgb(_upright(image), greys)
    except UnreadableImageError:
        raise
    except MemoryError:  # says something about this machine, not about the file
        raise
    except UnidentifiedImageError:
        raise UnreadableImageError("not an image") from None
    except Image.DecompressionBombError:
        raise UnreadableImageError("larger than Pillow's safety limit") from None
    except Exception as error:  # decoders raise nearly anything on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImageError(f"damaged: {reason[:100]}") from error


def check_size(image: Image.Image) -> None:
    """Refuse an image that would unpack into more than Pillow's safety limit, where Pillow only warns.

    Raises:
        UnreadableImageError: it would.
    """
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise UnreadableImageError(f"{image.width} x {image.height} pixels, more than Pillow's safety limit")


@contextlib.contextmanager
def quiet_pillow() -> Iterator[None]:
    """Without Pillow's warnings: `check_size` and the reasons of unreadable images say what matters.

    Warnings are a matter of the whole process: enter this outside of threads.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def shape_image(image: Image.Image, geometry: Geometry) -> Pixels8:
    """An RGB image in a geometry: `(size, size, 3)` uint8, bit-identical to torchvision on PIL images."""
    if geometry.mode == "squash":
        side = geometry.resize or geometry.size
        image = _resized(image, side, side, geometry)
    elif geometry.resize is not None:
        width, height = image.size
        # torchvision cuts the longer side's length off, it does not round it.
        if width <= height:
            image = _resized(image, geometry.resize, int(geometry.resize * height / width), geometry)
        else:
            image = _resized(image, int(geometry.resize * width / height), geometry.resize, geometry)
    return np.asarray(_centre(image, geometry.size))


def _resized(image: Image.Image, width: int, height: int, geometry: Geometry) -> Image.Image:
    if image.size == (width, height):
        return image
    return image.resize((width, height), _FILTERS[geometry.interpolation])


def _centre(image: Image.Image, size: int) -> Image.Image:
    width, height = image.size
    if width < size or height < size:
        # Black on both sides; of an odd number of columns or rows, the larger half right and below.
        padded = Image.new("RGB", (max(width, size), max(height, size)))
        padded.paste(image, (max(size - width, 0) // 2, max(size - height, 0) // 2))
        image, (width, height) = padded, padded.size
    if (width, height) == (size, size):
        return image
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # camera notes are often broken, and the pixels fine
        return image
    turn = _UPRIGHT.get(orientation)
    return image if turn is None else image.transpose(turn)


def is_deep(mode: str) -> bool:
    """Whether a Pillow mode holds greys of more than 8 bits."""
    return mode.startswith("I") or mode == "F"


def deep_mode(data: bytes) -> str | None:
    """Pillow's mode of an image file with greys of more than 8 bits; `None` for others. Decodes nothing."""
    try:
        with Image.open(io.BytesIO(data), formats=formats()) as image:
            return image.mode if is_deep(image.mode) else None
    except MemoryError:
        raise
    except Exception:  # it will be named as unreadable when it is decoded
        return None


def deep_greys(data: bytes) -> npt.NDArray[Any]:
    """The values of an image file with greys of more than 8 bits as they are stored, `(h, w)`.

    Raises:
        UnreadableImageError: damaged, or larger than Pillow's safety limit.
    """
    try:
        with Image.open(io.BytesIO(data), formats=formats()) as image:
            check_size(image)
            return np.asarray(image)
    except (UnreadableImageError, MemoryError):
        raise
    except Exception as error:  # decoders raise nearly anything on damaged files
        raise UnreadableImageError(f"damaged: {error}") from error


def _rgb(image: Image.Image, greys: tuple[float, float] | None) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if is_deep(image.mode):
        stored = np.asarray(image)
        return Image.fromarray(_eight_bits(stored) if greys is None else _scaled(stored, *greys)).convert(
            "RGB"
        )
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        colours = image.convert("RGBA")
        if colours.getchannel("A").getextrema() == (255, 255):
            return colours.convert("RGB")
        white = Image.new("RGBA", colours.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, colours).convert("RGB")
    return image.convert("RGB")


def _scaled(grey: npt.NDArray[Any], low: float, high: float) -> Pixels8:
    """Greys from `low` (black) to `high` (white)."""
    values = grey.astype(np.float64)
    if not np.isfinite(values).all():
        raise UnreadableImageError("greys that are no numbers")
    scaled: Pixels8 = np.rint(np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    return scaled


def _eight_bits(grey: npt.NDArray[Any]) -> Pixels8:
    """Greys of more than 8 bits: integers of the smallest depth that holds them, floats as 0..1."""
    low, high = grey.min(), grey.max()
    if grey.dtype.kind == "f":
        if not (low >= 0 and high <= 1):
            raise UnreadableImageError("floating-point greys outside 0..1")
        rounded: Pixels8 = np.rint(grey * 255).astype(np.uint8)
        return rounded
    if low < 0 or high > 65535:
        raise UnreadableImageError("32-bit greys")
    top = next(2**bits - 1 for bits in (8, 10, 12, 14, 16) if high < 2**bits)
    scaled: Pixels8 = ((grey.astype(np.uint32) * 255 + top // 2) // top).astype(np.uint8)
    return scaled
