"""How a photo becomes the square that a network sees. Pure data: nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

Mode = Literal["crop", "squash"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Channels = Literal["rgb", "bgr"]


@dataclass(frozen=True)
class Geometry:
    """The geometric half of preprocessing: from an image of any size to `size` x `size` pixels.

    - `crop`: the shorter side becomes `resize` (aspect kept), then the centre square of `size` is cut out:
      the same pixels as torchvision's `Resize(resize)` + `CenterCrop(size)` on a PIL image. `resize=None`
      only cuts.
    - `squash`: the whole frame becomes a square of `resize` (`None`: of `size`), aspect not kept, then the
      centre `size` is cut out: torchvision's `Resize((resize, resize))` + `CenterCrop(size)`. With
      `resize=None` nothing is cut off, so masks of the whole frame stay in line with the pixels.

    A square larger than what it is cut from is padded with black, as torchvision does.

    Attributes:
        size: side of the result, in pixels.
        resize: side before cutting, in pixels, or `None` as said above.
        mode: `crop` or `squash`.
        interpolation: Pillow's filter, with its anti-aliasing.
    """

    size: int
    resize: int | None = None
    mode: Mode = "crop"
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        if self.size < 1 or (self.resize is not None and self.resize < 1):
            raise ValueError(f"sizes must be positive: size={self.size}, resize={self.resize}")
        if self.mode not in get_args(Mode):
            raise ValueError(f"unknown mode {self.mode!r}, not one of {get_args(Mode)}")
        if self.interpolation not in get_args(Interpolation):
            raise ValueError(f"unknown interpolation {self.interpolation!r}, not {get_args(Interpolation)}")

    @property
    def whole_frame(self) -> bool:
        """Whether every part of the image is kept, so that masks of the whole image line up."""
        return self.mode == "squash" and self.resize in (None, self.size)

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The part of an image that becomes the square, in its own pixels: left, top, right, bottom.

        Where the square is padded, it reaches beyond the image.

        Args:
            width: of the image, in pixels.
            height: likewise.

        Example:
            >>> Geometry(224, 256).box(512, 256)
            (144.0, 16.0, 368.0, 240.0)
        """
        if self.mode == "squash":
            share = self.size / (self.resize or self.size)
            sides = share * width, share * height
        else:
            side = self.size * (min(width, height) / self.resize if self.resize else 1.0)
            sides = side, side
        left, top = (width - sides[0]) / 2, (height - sides[1]) / 2
        return left, top, left + sides[0], top + sides[1]

    def to_json(self) -> dict[str, str | int | None]:
        """The fields as plain values, for keys of the store and for `run.json`."""
        return {
            "size": self.size,
            "resize": self.resize,
            "mode": self.mode,
            "interpolation": self.interpolation,
        }

    def __str__(self) -> str:
        if self.mode == "crop":
            first = "" if self.resize is None else f"shorter side to {self.resize} ({self.interpolation}), "
            return f"{first}centre {self.size} x {self.size}"
        side = self.resize or self.size
        cut = "" if side == self.size else f", centre {self.size} x {self.size}"
        return f"whole frame to {side} x {side} ({self.interpolation}){cut}"


@dataclass(frozen=True)
class Preprocessing:
    """What a network expects of its input: geometry, `(pixel / 255 - mean) / std` per channel, channel order.

    Attributes:
        geometry: from the image to the square.
        mean: per channel R, G, B, in units of 0..1.
        std: per channel R, G, B, in units of 0..1.
        source: a sentence for the user: what was assumed, and from where.
        channels: the order in which the network sees them, once normalised: `bgr` for networks whose images
            were read by OpenCV.
    """

    geometry: Geometry
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    source: str
    channels: Channels = "rgb"

    def __str__(self) -> str:
        mean, std = (" ".join(f"{value:.3g}" for value in values) for values in (self.mean, self.std))
        swapped = "" if self.channels == "rgb" else ", blue first"
        return f"{self.geometry}, mean {mean}, std {std}{swapped} - {self.source}"

    @property
    def colour_key(self) -> dict[str, Any]:
        """What a network's input depends on beside the decoded pixels, for keys of the store.

        `channels` only where they are not red first: keys from before there was an order stay as they were.
        """
        order = {} if self.channels == "rgb" else {"channels": self.channels}
        return {"mean": list(self.mean), "std": list(self.std), **order}

    def to_json(self) -> dict[str, object]:
        """The fields as plain values, for `run.json`. Channels only where they are not red first."""
        return {"geometry": self.geometry.to_json(), **self.colour_key, "source": self.source}
