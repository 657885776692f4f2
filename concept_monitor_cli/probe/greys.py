"""Greys of more than 8 bits: one scale for a whole probing set, that of its own values.

A 16-bit file may hold the 12 bits of an X-ray, CT values below zero or floats of any size: what is black and
what is white can be seen in the set, not in the container.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np
import numpy.typing as npt
from PIL import Image

from concept_monitor_cli.probe.decode import UnreadableImageError, decode_image, deep_greys, deep_mode
from concept_monitor_cli.probe.images import EncodedImages, content_digest
from concept_monitor_cli.progress import Progress
from concept_monitor_cli.wording import counted

GreyRange = tuple[float, float]

_SAMPLE = 256  # images that the range is taken of
_PIXELS = 1 << 14  # of each
_COLOURS = 32  # images with colours of 16 bits that are looked at
_DARK = 64  # of 255: the lightest in 14 bits that are kept in 16
_PERCENT = (0.1, 99.9)  # what lies outside is black or white, so that a few hot pixels do not darken the rest
_DEPTHS: tuple[GreyRange, ...] = ((0, 1), *((0, 2**bits - 1) for bits in (8, 10, 12, 14, 16)))
_MARK = b"cmon-greys\0"


def may_be_deep(data: bytes) -> bool:
    """Whether an image file may hold more than 8 bits, by its first bytes."""
    if data[:4] == b"\x89PNG":
        return data[24:25] == b"\x10" and data[25:26] in (b"\0", b"\2", b"\4", b"\6")
    return data[:4] in (b"II*\0", b"MM\0*") or data[:2] in (b"P5", b"P2") or data[4:8] == b"jP  "


class ScaledImages:
    """Images of which those with deep greys are decoded with one scale. Their content is file and scale.

    Args:
        images: all of them.
        deep: numbers of those with deep greys.
        scale: which greys are black and white.
    """

    def __init__(self, images: EncodedImages, deep: Sequence[int], scale: GreyRange) -> None:
        self._images = images
        self._deep = frozenset(deep)
        self._head = _MARK + struct.pack("<dd", *scale)
        self.ids = images.ids

    def read(self, index: int) -> bytes:
        """The file's bytes, after the scale where it counts."""
        data = self._images.read(index)
        return self._head + data if index in self._deep else data

    def decode(self, data: bytes) -> Image.Image:
        """See `decode_image`."""
        if not data.startswith(_MARK):
            return self._images.decode(data)
        low, high = struct.unpack_from("<dd", data, len(_MARK))
        return decode_image(data[len(self._head) :], (low, high))


def scale_greys(
    images: EncodedImages,
    digests: Mapping[int, str],
    candidates: Sequence[int],
    given: GreyRange | None,
    progress: Progress,
) -> tuple[EncodedImages | ScaledImages, dict[int, str]]:
    """The images with one scale for those with deep greys, and their digests.

    Args:
        images: all of them.
        digests: of those that could be read, by their number.
        candidates: numbers of those that `may_be_deep`.
        given: the scale; `None`: that of the set.
        progress: is told of the scale.
    """
    deep = [row for row in candidates if row in digests and _is_deep(images, row)]
    _warn_of_dark_colours(images, sorted({*candidates} & {*digests} - {*deep}), progress)
    if not deep:
        if given is not None:
            progress.notice("--grey-range changes nothing: no image has greys of more than 8 bits")
        return images, dict(digests)
    scale: GreyRange | None = given
    if scale is not None:
        said = "as --grey-range says"
    else:
        scale, how = _own_scale(images, digests, deep)
        said = f"{how}; --grey-range LOW,HIGH says otherwise"
    if scale is None:
        return images, dict(digests)
    progress.notice(
        f"{counted(len(deep), 'images have')} greys of more than 8 bits: {scale[0]:g} is shown black, "
        f"{scale[1]:g} "
        f"white ({said})"
    )
    scaled = ScaledImages(images, deep, scale)
    # Their content depends on the scale now.
    changed = {row: content_digest(scaled.read(row)) for row in deep}
    return scaled, {**digests, **changed}


def _warn_of_dark_colours(images: EncodedImages, rows: Sequence[int], progress: Progress) -> None:
    """Of colours of 16 bits only the upper 8 are read: those that fill 10 or 12 come out nearly black."""
    some = []
    for row in rows:
        with suppress(OSError):
            data = images.read(row)
            if data[:4] == b"\x89PNG" and data[25:26] in (b"\2", b"\6"):
                some.append(row)
    lightest = 0.0
    for row in some[:: max(1, len(some) // _COLOURS)]:
        with suppress(OSError, UnreadableImageError):
            lightest = max(
                lightest, float(np.percentile(np.asarray(decode_image(images.read(row))), _PERCENT[1]))
            )
    if some and lightest < _DARK:
        progress.warning(
            f"{counted(len(some), 'images have')} colours of 16 bits, of which the upper 8 are read: "
            f"the lightest is {lightest:.0f} of 255. Save them as PNG files of 8 bits, as light as "
            "they should be seen"
        )


def _is_deep(images: EncodedImages, row: int) -> bool:
    try:
        return deep_mode(images.read(row)) is not None
    except OSError:
        return False


def _own_scale(
    images: EncodedImages, digests: Mapping[int, str], deep: Sequence[int]
) -> tuple[GreyRange | None, str]:
    # Those with the smallest digests: a draw that neither order nor names of the files decide.
    drawn = sorted(deep, key=lambda row: digests[row])[:_SAMPLE]
    values = [greys for row in drawn if len(greys := _some_greys(images, row))]
    if not values:
        return None, ""
    return own_scale(np.concatenate(values))


def own_scale(values: npt.NDArray[np.float64]) -> tuple[GreyRange, str]:
    """The scale of these greys, and how it was found.

    The smallest usual range (0..1, 0..255, of whole numbers also 10, 12, 14, 16 bits) that holds nearly all
    of them and is at least half filled by them; else from nearly the smallest to nearly the largest of them.
    """
    low, high = (float(value) for value in np.percentile(values, _PERCENT))
    whole = bool((values == np.rint(values)).all())
    for depth in _DEPTHS if whole else _DEPTHS[:2]:
        if depth[0] <= low and high <= depth[1]:
            if high - low >= (depth[1] - depth[0]) / 2:
                return depth, f"the set's greys reach from {low:g} to {high:g}"
            break
    if high <= low:  # nearly everything has one grey
        low, high = float(values.min()), float(values.max())
    if high <= low:
        high = low + 1
    return (low, high), f"{_PERCENT[0]} % of the set's greys are darker, {100 - _PERCENT[1]:.1f} % lighter"


def _some_greys(images: EncodedImages, row: int) -> npt.NDArray[np.float64]:
    """Greys of an image, evenly over it."""
    try:
        flat = deep_greys(images.read(row)).ravel()
    except (OSError, UnreadableImageError):
        return np.empty(0)
    some = flat[:: max(1, len(flat) // _PIXELS)].astype(np.float64)
    found: npt.NDArray[np.float64] = some[np.isfinite(some)]
    return found
