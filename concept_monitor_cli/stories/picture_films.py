"""Films of pictures over the epochs: a frame for each epoch, as GIF and as WebP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, features

from concept_monitor_cli.store import atomic_write

Pixels = NDArray[np.uint8]

#: How long a frame is shown, and the last one, milliseconds.
FRAME, LAST_FRAME = 500, 1500
#: Smaller pictures are enlarged by whole times up to this side, so that the epoch below can be read.
SMALLEST = 96
_STRIP = 14


def write_film(pictures: Sequence[Pixels], epochs: Sequence[int], stem: Path) -> list[Path]:
    """Write a film with the number of the epoch below each picture.

    Args:
        pictures: `(s, s, 3)` each.
        epochs: of each.
        stem: path without an ending.

    Returns:
        The files: `.gif`, and `.webp` where this Pillow can write it.
    """
    frames = [frame(pixels, epoch) for pixels, epoch in zip(pictures, epochs, strict=True)]
    durations = [FRAME] * (len(frames) - 1) + [LAST_FRAME]
    first, rest = frames[0], frames[1:]
    about = {"save_all": True, "append_images": rest, "duration": durations, "loop": 0}
    written = []
    stem.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(stem.with_name(f"{stem.name}.gif")) as temporary:
        first.save(temporary, format="GIF", **about)
    written.append(stem.with_name(f"{stem.name}.gif"))
    if features.check("webp"):
        with atomic_write(stem.with_name(f"{stem.name}.webp")) as temporary:
            first.save(temporary, format="WEBP", quality=85, **about)
        written.append(stem.with_name(f"{stem.name}.webp"))
    return written


def frame(pixels: Pixels, epoch: int) -> Image.Image:
    """A picture above a strip that says which epoch it is of."""
    times = max(1, -(-SMALLEST // pixels.shape[0]))
    large = pixels.repeat(times, axis=0).repeat(times, axis=1)
    height, width = large.shape[:2]
    whole = Image.new("RGB", (width, height + _STRIP), "white")
    whole.paste(Image.fromarray(large), (0, 0))
    ImageDraw.Draw(whole).text((3, height), f"epoch {epoch}", fill="black", font=ImageFont.load_default(10))
    return whole
