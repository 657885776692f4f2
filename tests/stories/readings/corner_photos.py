"""Photos of three classes that differ in the colour of two corners: upper left and lower right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 16
COLOURS = ("red", "green", "blue")


def corner_photos(photos: Path) -> None:
    """Eight photos of each colour, as `photos/COLOUR/NUMBER.png`."""
    rng = np.random.default_rng(0)
    for k, colour in enumerate(COLOURS):
        folder = photos / colour
        folder.mkdir(parents=True)
        for number in range(8):
            pixels = rng.integers(0, 120, (SIDE, SIDE, 3))
            for corner in (slice(0, 4), slice(12, 16)):
                pixels[corner, corner, k] = 230
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
