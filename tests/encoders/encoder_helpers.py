"""What the tests of encoders share: the config of a tiny model, and pixels that need no photo."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from late import Late

# isort: split
import concept_monitor_cli._torchvision  # noqa: F401

# isort: split

from concept_monitor_cli.models.geometry import Geometry

open_clip = Late("open_clip")

__all__ = ["TINY_CONFIG", "NoisePixels", "TinyClip", "open_clip"]

TINY_CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


class TinyClip(NamedTuple):
    weights: Path
    config: Path


class NoisePixels:
    """Decoded noise in blocks of 5: what `embed_images` needs of `probe.Pixels`, counting the rows read."""

    def __init__(self, n_images: int, size: int = 32, seed: int = 0, block: int = 5):
        self.geometry = Geometry(size, size, "crop", "bicubic")
        generator = np.random.default_rng(seed)
        self.values: npt.NDArray[np.uint8] = generator.integers(
            0, 256, (n_images, size, size, 3), dtype=np.uint8
        )
        self.block = block
        self.read = 0
        self.embedded: list[str] = []

    def __len__(self) -> int:
        return len(self.values)

    def rows(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        self.read += stop - start
        return self.values[start:stop]

    def blocks(self) -> Iterator[tuple[int, int, str]]:
        for start in range(0, len(self), self.block):
            stop = min(start + self.block, len(self))
            yield start, stop, sha256(self.values[start:stop].tobytes()).hexdigest()

    def done(self, digest: str) -> None:
        self.embedded.append(digest)
