"""A canvas with label maps, shapes on it, and noise: numpy arithmetic only.

Everything is element by element on fixed-width numbers (no sums over arrays, no library's rasteriser), so
that the same seed gives the same picture on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from concept_monitor_cli.builtin.vocabulary import INDEX

Float = NDArray[np.float32]
Mask = NDArray[np.bool_]
Point = tuple[float, float]
Shader = Callable[[Float, Float], Float]
"""Coordinates x and y of n pixels -> their colours, (n, 3), 0..255."""

GRID = 192
"""Pictures are drawn on a canvas of this side and halved, which smooths the edges."""

MAPS = ("texture", "material", "part", "object")
"""Categories whose labels are painted; colours are read off the result, a scene is one word."""


@dataclass(frozen=True)
class Paint:
    """How a region looks, and what it is made of.

    Args:
        shader: the colour of each pixel.
        material: a word of the vocabulary, or None.
        texture: a word of the vocabulary, or None.
    """

    shader: Shader
    material: str | None = None
    texture: str | None = None


def hash01(ix: NDArray[Any], iy: NDArray[Any], seed: int) -> Float:
    """A number in [0, 1) for each pair of whole numbers: exact integer mixing, no generator's state."""
    h = (ix.astype(np.int64) & 0xFFFFFFFF).astype(np.uint32) * np.uint32(0x9E3779B1)
    h ^= (iy.astype(np.int64) & 0xFFFFFFFF).astype(np.uint32) * np.uint32(0x85EBCA77)
    h ^= np.uint32((seed * 0xC2B2AE3D) & 0xFFFFFFFF)
    h ^= h >> np.uint32(15)
    h *= np.uint32(0x2C1B3C6D)
    h ^= h >> np.uint32(12)
    h *= np.uint32(0x297A2D39)
    h ^= h >> np.uint32(15)
    return np.multiply((h >> np.uint32(8)).astype(np.float32), np.float32(2.0**-24), dtype=np.float32)


def noise(x: Float, y: Float, width: float, height: float, seed: int) -> Float:
    """Smooth noise in [0, 1) with grains of about `width` x `height` pixels."""
    u, v = x / np.float32(width), y / np.float32(height)
    iu, iv = np.floor(u), np.floor(v)
    fu, fv = u - iu, v - iv
    fu, fv = fu * fu * (3 - 2 * fu), fv * fv * (3 - 2 * fv)
    iu, iv = iu.astype(np.int32), iv.astype(np.int32)
    top = hash01(iu, iv, seed) * (1 - fu) + hash01(iu + 1, iv, seed) * fu
    low = hash01(iu, iv + 1, seed) * (1 - fu) + hash01(iu + 1, iv + 1, seed) * fu
    return np.asarray(top * (1 - fv) + low * fv, np.float32)


def turn(degrees: float) -> tuple[float, float]:
    """Cosine and sine, rounded so that no machine's last digit matters."""
    angle = math.radians(degrees)
    return round(math.cos(angle), 9), round(math.sin(angle), 9)


def rotate(x: Float, y: Float, degrees: float) -> tuple[Float, Float]:
    """Coordinates in a frame turned by `degrees`."""
    c, s = (np.float32(value) for value in turn(degrees))
    return x * c + y * s, y * c - x * s


class Canvas:
    """A picture under way, with one label map per painted category.

    Shapes take coordinates of the current frame (`place`): (0, 0) is the upper left corner of the box of
    the thing being drawn, (1, 1) the lower right one. Later shapes cover earlier ones, labels included.
    """

    def __init__(self) -> None:
        self.rgb = np.zeros((GRID, GRID, 3), np.float32)
        self.maps = {name: np.full((GRID, GRID), -1, np.int16) for name in MAPS}
        axis = np.arange(GRID, dtype=np.float32) + np.float32(0.5)
        self._x = np.broadcast_to(axis[None, :], (GRID, GRID))
        self._y = np.broadcast_to(axis[:, None], (GRID, GRID))
        self.object: str | None = None
        self._box = (0.0, 0.0, float(GRID), float(GRID))
        self._mirror = False

    def place(
        self, name: str | None, x: float, y: float, width: float, height: float, mirror: bool = False
    ) -> None:
        """Set the frame (in canvas pixels) and the object that the following shapes belong to."""
        self.object, self._box, self._mirror = name, (x, y, width, height), mirror

    @property
    def unit(self) -> float:
        """The frame's smaller side in pixels."""
        return min(self._box[2], self._box[3])

    def _to_pixels(self, point: Point) -> Point:
        x, y, width, height = self._box
        u = 1 - point[0] if self._mirror else point[0]
        return x + u * width, y + point[1] * height

    def fill(self, mask: Mask, paint: Paint, part: str | None = None, at: tuple[int, int] = (0, 0)) -> None:
        """Paint where the mask is set; `at` is the row and column of the mask's corner."""
        rows, columns = np.nonzero(mask)
        if not len(rows):
            return
        rows, columns = rows + at[0], columns + at[1]
        x = columns.astype(np.float32) + np.float32(0.5)
        y = rows.astype(np.float32) + np.float32(0.5)
        self.rgb[rows, columns] = np.clip(paint.shader(x, y), 0, 255)
        labels = {"texture": paint.texture, "material": paint.material, "part": part, "object": self.object}
        for name, word in labels.items():
            self.maps[name][rows, columns] = -1 if word is None else INDEX[word]

    def _window(self, points: Sequence[Point], margin: float = 0) -> tuple[slice, slice]:
        left = max(0, math.floor(min(p[0] for p in points) - margin))
        right = min(GRID, math.ceil(max(p[0] for p in points) + margin))
        top = max(0, math.floor(min(p[1] for p in points) - margin))
        bottom = min(GRID, math.ceil(max(p[1] for p in points) + margin))
        return slice(top, max(top, bottom)), slice(left, max(left, right))

    def polygon(self, points: Sequence[Point], paint: Paint, part: str | None = None) -> None:
        """Fill a polygon (even-odd rule)."""
        corners = [self._to_pixels(p) for p in points]
        window = self._window(corners)
        x, y = self._x[window], self._y[window]
        inside = np.zeros(x.shape, np.bool_)
        for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
            if y0 == y1:
                continue
            crossing = np.float32(x0) + (y - np.float32(y0)) * np.float32((x1 - x0) / (y1 - y0))
            inside ^= ((y0 > y) != (y1 > y)) & (x < crossing)
        self.fill(inside, paint, part, (window[0].start, window[1].start))

    def rectangle(
        self, left: float, top: float, right: float, bottom: float, paint: Paint, part: str | None = None
    ) -> None:
        """Fill an upright rectangle."""
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], paint, part)

    def ellipse(
        self,
        centre: Point,
        rx: float,
        ry: float,
        paint: Paint,
        part: str | None = None,
        *,
        degrees: float = 0.0,
        inner: float = 0.0,
        round_pixels: bool = False,
    ) -> None:
        """Fill an ellipse or a ring.

        Args:
            centre: its centre.
            rx, ry: its radii in the frame's width and height.
            paint: the paint.
            part: a word of the vocabulary, or None.
            degrees: turned by so much.
            inner: share of the radius that is left out.
            round_pixels: take both radii in units of the frame's smaller side, so that a circle stays round.
        """
        cx, cy = self._to_pixels(centre)
        width, height = (self.unit, self.unit) if round_pixels else self._box[2:]
        a, b = max(rx * width, 0.5), max(ry * height, 0.5)
        window = self._window([(cx, cy)], max(a, b) + 1)
        dx, dy = self._x[window] - np.float32(cx), self._y[window] - np.float32(cy)
        if degrees:
            dx, dy = rotate(dx, dy, -degrees if self._mirror else degrees)
        radius = (dx / np.float32(a)) ** 2 + (dy / np.float32(b)) ** 2
        inside = (radius <= 1) & (radius >= np.float32(inner * inner))
        self.fill(inside, paint, part, (window[0].start, window[1].start))

    def line(self, start: Point, end: Point, width: float, paint: Paint, part: str | None = None) -> None:
        """A straight bar; `width` in units of the frame's smaller side."""
        (x0, y0), (x1, y1) = self._to_pixels(start), self._to_pixels(end)
        length = max(math.sqrt((x1 - x0) ** 2 + (y1 - y0) ** 2), 1e-6)
        half = max(width * self.unit, 1.5) / 2
        window = self._window([(x0, y0), (x1, y1)], half + 1)
        dx, dy = self._x[window] - np.float32(x0), self._y[window] - np.float32(y0)
        ux, uy = np.float32((x1 - x0) / length), np.float32((y1 - y0) / length)
        along, across = dx * ux + dy * uy, dy * ux - dx * uy
        inside = (along >= -half / 2) & (along <= length + half / 2) & (abs(across) <= half)
        self.fill(inside, paint, part, (window[0].start, window[1].start))
