"""Mask files: from bytes to a number in each pixel."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.probe.decode import UnreadableImageError, check_size


def read_mask_file(path: Path) -> bytes:
    """The bytes of a mask file.

    Raises:
        InputError: it is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError("a mask is missing", where=path, hint="unpack the data set again") from None
    except OSError as error:
        raise InputError(f"a mask cannot be read: {error.strerror}", where=path) from error


def open_mask(
    path: Path, size: tuple[int, int] | None = None, formats: Sequence[str] = ("PNG",)
) -> Image.Image:
    """A mask's file, unpacked.

    Args:
        path: the file.
        size: the height and width that it must have.
        formats: Pillow's names of those that it may have.

    Raises:
        InputError: missing, damaged, of another format or size.
    """
    data = read_mask_file(path)
    try:
        with Image.open(io.BytesIO(data), formats=tuple(formats)) as image:
            check_size(image)
            if size is not None and (image.height, image.width) != size:
                raise InputError(
                    f"a mask is {image.height} x {image.width} (height x width), not {size[0]} x {size[1]}",
                    where=path,
                )
            image.load()
            return image
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(
            f"a mask is damaged, or of another format than {', '.join(formats)}", where=path
        ) from None
    except (UnreadableImageError, Image.DecompressionBombError) as error:
        raise InputError(f"a mask is too large: {error}", where=path) from error
    except Exception as error:  # decoders raise nearly anything on damaged files
        raise InputError(f"a mask cannot be read: {error}", where=path) from error


def rgb_numbers(image: Image.Image, path: Path) -> npt.NDArray[np.int64]:
    """Numbers coded as `R + 256 G + 65536 B`, `(h, w)`; a grey PNG holds the numbers themselves."""
    if image.mode in ("L", "I;16", "I", "1"):
        return np.asarray(image).astype(np.int64)
    if image.mode not in ("RGB", "RGBA", "P"):
        raise InputError(f"a mask has pixels of type {image.mode}, not RGB", where=path)
    channels = np.asarray(image.convert("RGB")).astype(np.int64)
    numbers: npt.NDArray[np.int64] = channels[..., 0] + 256 * channels[..., 1] + 65536 * channels[..., 2]
    return numbers


def nearest_rows(values: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[Any]:
    """A map brought to `size`: the pixel under each new pixel's centre. Labels cannot be averaged."""
    height, width = values.shape
    rows = ((np.arange(size[0]) + 0.5) * height / size[0]).astype(np.int64)
    columns = ((np.arange(size[1]) + 0.5) * width / size[1]).astype(np.int64)
    small: npt.NDArray[Any] = values[rows[:, None], columns]
    return small


def require_same_frame(mask: tuple[int, int], image: tuple[int, int], path: Path) -> None:
    """Check that a mask covers the same frame as its image: the same size, or that scaled.

    Args:
        mask: its height and width.
        image: its height and width.
        path: the mask's file.

    Raises:
        InputError: it does not.
    """
    # Scaled sizes are rounded to whole pixels: allow for one on either side.
    slack = max(image) + max(mask)
    if mask != image and abs(mask[0] * image[1] - mask[1] * image[0]) > slack:
        raise InputError(
            f"a mask is {mask[0]} x {mask[1]} (height x width), its image {image[0]} x {image[1]}", where=path
        )


def class_numbers(image: Image.Image, path: Path, colours: Mapping[int, int]) -> npt.NDArray[np.int64]:
    """The number in each pixel of an index mask, `(h, w)`.

    Grey and palette pixels hold their number; grey saved as colours, and numbers in the red channel alone,
    hold it too. Other colours need a list of them.

    Args:
        image: of `open_mask`.
        path: its file, for messages.
        colours: `R + 256 G + 65536 B` -> number; empty where the class list has none.

    Returns:
        numbers; a colour that the list does not have as `UNKNOWN_COLOUR` and its code.

    Raises:
        InputError: these pixels hold no numbers.
    """
    if image.format == "JPEG":
        binary = black_and_white(image)
        if binary is not None:
            return binary
        raise InputError(
            "a mask is a JPEG file, which keeps no numbers", where=path, hint="save the masks as PNG files"
        )
    if colours and image.mode != "F" and not image.mode.startswith("I"):
        numbers = _by_colour(image, colours)
        if image.mode not in ("L", "P", "1") or (numbers < UNKNOWN_COLOUR).mean() > 0.5:
            return numbers
    if image.mode in ("P", "L", "1") or image.mode.startswith("I"):
        return np.asarray(image).astype(np.int64)
    if image.mode == "F":
        values = np.asarray(image)
        if np.isfinite(values).all() and (values == np.rint(values)).all() and abs(values).max() < 2**31:
            return values.astype(np.int64)
    if image.mode in ("LA", "RGB", "RGBA"):
        channels = np.asarray(image.convert("RGB"))
        red, green, blue = channels[..., 0], channels[..., 1], channels[..., 2]
        if np.array_equal(green, blue) and (np.array_equal(red, green) or not green.any()):
            return red.astype(np.int64)
    raise InputError(
        f"a mask has {image.mode} pixels, not class numbers",
        where=path,
        hint="add class_dict.csv there, with the columns name,r,g,b and a line for each colour; or save the "
        "masks with one number per pixel (grey or palette)",
    )


_NEAR = 48  # how far JPEG may carry a grey from black or white; seen at borders with qualities from 75
_MOST = 0.95  # share of pixels that are so near


def black_and_white(image: Image.Image) -> npt.NDArray[np.int64] | None:
    """A black and white picture as 0 and 255, `(h, w)`; None: it has greys or colours, or is all white."""
    channels = np.asarray(image.convert("RGB"))
    low, high = channels.min(axis=2), channels.max(axis=2)
    if ((high <= _NEAR) | (low >= 255 - _NEAR)).mean() < _MOST or low.min() >= 255 - _NEAR:
        return None
    return np.where(low > 127, 255, 0).astype(np.int64)


UNKNOWN_COLOUR = 1 << 24
"""Added to the code of a colour that stands for no number."""


def _by_colour(image: Image.Image, colours: Mapping[int, int]) -> npt.NDArray[np.int64]:
    channels = np.asarray(image.convert("RGB")).astype(np.int64)
    codes = channels[..., 0] + 256 * channels[..., 1] + 65536 * channels[..., 2]
    known = np.array(sorted(colours), dtype=np.int64)
    numbers = np.array([colours[int(code)] for code in known], dtype=np.int64)
    places = np.minimum(np.searchsorted(known, codes), len(known) - 1)
    return np.where(known[places] == codes, numbers[places], codes + UNKNOWN_COLOUR)
