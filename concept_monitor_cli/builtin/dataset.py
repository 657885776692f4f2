"""A small classification task made of renderings, for the demo and the tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from concept_monitor_cli.builtin.renderer import SIZE, render
from concept_monitor_cli.builtin.vocabulary import OBJECTS
from concept_monitor_cli.progress import SILENT, Progress


def classification_set(
    n: int, seed: int, size: int = SIZE, *, progress: Progress = SILENT
) -> tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...]]:
    """Pictures of one object each (some within a scene), to be told apart by the object.

    Args:
        n: how many pictures; the classes take turns.
        seed: which series. Train and validation take different ones. Series 0 is the builtin probe set's.
        size: side of the pictures in pixels.
        progress: told of each picture.

    Returns:
        images (n, size, size, 3) uint8, labels (n,) int64, the 16 class names.
    """
    images = np.empty((n, size, size, 3), np.uint8)
    labels = np.arange(n, dtype=np.int64) % len(OBJECTS)
    with progress.task("Rendering pictures for training", n) as advance:
        for index in range(n):
            picture = Image.fromarray(render(index, seed, OBJECTS[labels[index]]).image)
            if size != SIZE:
                picture = picture.resize((size, size), Image.Resampling.BICUBIC)
            images[index] = np.asarray(picture)
            advance(1)
    return images, labels, OBJECTS
