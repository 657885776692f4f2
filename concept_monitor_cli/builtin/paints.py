"""Colours, textures and materials as shaders."""

from __future__ import annotations

import functools
from random import Random

import numpy as np
from numpy.typing import NDArray

from concept_monitor_cli.builtin.raster import Float, Paint, hash01, noise, rotate
from concept_monitor_cli.builtin.vocabulary import COLOURS, INDEX

Rgb = tuple[float, float, float]

SHADES: dict[str, tuple[Rgb, ...]] = {
    "black": ((18, 18, 20), (36, 34, 38)),
    "blue": ((38, 84, 196), (74, 140, 226), (24, 46, 130), (140, 194, 240)),
    "brown": ((120, 72, 36), (150, 98, 56), (88, 54, 30)),
    "green": ((52, 146, 60), (104, 182, 74), (28, 92, 44), (150, 206, 110)),
    "grey": ((128, 128, 130), (164, 164, 168), (90, 92, 96)),
    "orange": ((242, 138, 26), (234, 112, 20), (250, 164, 62)),
    "pink": ((246, 150, 190), (236, 104, 164), (252, 190, 210)),
    "purple": ((126, 54, 166), (158, 96, 200), (86, 34, 122)),
    "red": ((208, 34, 38), (176, 22, 30), (228, 60, 52)),
    "white": ((250, 250, 250), (236, 238, 240)),
    "yellow": ((248, 220, 44), (252, 232, 110), (232, 198, 24), (236, 212, 150)),
}
"""What each colour name may look like; a pixel has the name of the nearest shade."""


@functools.cache
def _colour_table() -> NDArray[np.int16]:
    """Colour index of each of 32 x 32 x 32 cells of RGB, by whole-number distances."""
    axis = np.arange(32, dtype=np.int64) * 8 + 4
    cells = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    shades = np.array([shade for name in COLOURS for shade in SHADES[name]], dtype=np.int64)
    owner = np.array([INDEX[name] for name in COLOURS for _ in SHADES[name]], dtype=np.int16)
    distance = ((cells[:, None, :] - shades[None, :, :]) ** 2).sum(axis=-1)
    return np.asarray(owner[distance.argmin(axis=1)], dtype=np.int16)


def name_colours(rgb: NDArray[np.uint8]) -> NDArray[np.int16]:
    """The colour name of each pixel: (..., 3) uint8 -> (...) positions in `VOCABULARY`."""
    cell = (rgb >> 3).astype(np.int32)
    return np.asarray(_colour_table()[cell[..., 0] * 1024 + cell[..., 1] * 32 + cell[..., 2]], np.int16)


def shade(rng: Random, name: str) -> Rgb:
    """A shade of the colour, a little varied but still nearest to its own name."""
    r, g, b = rng.choice(SHADES[name])
    return r + rng.uniform(-7, 7), g + rng.uniform(-7, 7), b + rng.uniform(-7, 7)


def other_colour(rng: Random, *taken: str) -> str:
    """A colour name that is not among those taken."""
    return rng.choice([name for name in COLOURS if name not in taken])


def _rgb(colour: Rgb) -> Float:
    return np.array(colour, np.float32)


def _mix(a: Float, b: Float, t: Float) -> Float:
    return a + (b - a) * t[:, None]


def plain(colour: Rgb) -> Paint:
    """One even colour."""
    value = _rgb(colour)
    return Paint(lambda x, y: np.broadcast_to(value, (len(x), 3)))


def gradient(top: Rgb, low: Rgb, start: float, end: float) -> Paint:
    """From one colour to another between two rows of the canvas."""
    a, b = _rgb(top), _rgb(low)
    return Paint(lambda x, y: _mix(a, b, np.clip((y - start) / (end - start), 0, 1).astype(np.float32)))


def texture(rng: Random, name: str, first: Rgb, second: Rgb, period: float) -> Paint:
    """A pattern of two colours.

    Args:
        rng: where its angle and place come from.
        name: one of `TEXTURES`.
        first: the ground.
        second: the figure.
        period: in canvas pixels.
    """
    a, b, seed = _rgb(first), _rgb(second), rng.getrandbits(30)
    angle = (
        rng.choice((0, 0, 90, 90, 30, 45, 60, 120, 135, 150)) if name == "striped" else rng.uniform(-12, 12)
    )
    if name == "grid":
        angle = rng.uniform(-6, 6)
    if name == "chequered":
        angle = rng.choice((0, 0, 0, 45))
    dx, dy = rng.uniform(0, period), rng.uniform(0, period)
    cx, cy = 96 + rng.uniform(-30, 30), 96 + rng.uniform(-30, 30)
    hand = rng.choice((-1.0, 1.0))

    def figure(x: Float, y: Float) -> NDArray[np.bool_]:
        x1, y1 = rotate(x + np.float32(dx), y + np.float32(dy), angle)
        u, v = x1 / np.float32(period), y1 / np.float32(period)
        if name == "striped":
            return np.asarray(u - np.floor(u) < 0.5)
        if name == "dotted":
            row = np.floor(v)
            w = u + (row % 2) * np.float32(0.5)
            return np.asarray((w - np.floor(w) - 0.5) ** 2 + (v - row - 0.5) ** 2 < 0.085)
        if name == "chequered":
            return np.asarray((np.floor(u * 1.6) + np.floor(v * 1.6)) % 2 == 0)
        if name == "grid":
            return np.asarray((u - np.floor(u) < 0.2) | (v - np.floor(v) < 0.2))
        if name == "zigzag":
            w = v + abs(u - np.floor(u) - np.float32(0.5)) * np.float32(1.1)
            return np.asarray(w - np.floor(w) < 0.5)
        if name == "honeycombed":
            # hexagons round the points of two interleaved lattices; lines where a point is far from both
            far = np.full(len(u), 9.0, np.float32)
            rise = np.float32(1.7320508)
            for shift in (np.float32(0.0), np.float32(0.5)):
                p = abs(u - shift - np.floor(u - shift + np.float32(0.5)))
                q = v / rise - shift
                q = abs(q - np.floor(q + np.float32(0.5))) * rise
                far = np.minimum(far, np.maximum(p, p * np.float32(0.5) + q * np.float32(0.8660254)))
            return np.asarray(far > 0.41)
        if name == "spiralled":
            rx, ry = x - np.float32(cx), y - np.float32(cy)
            turns = np.arctan2(ry, rx) * np.float32(hand / (2 * np.pi))
            w = np.sqrt(rx * rx + ry * ry) / np.float32(period * 1.2) + turns
            return np.asarray(w - np.floor(w) < 0.5)
        if name == "blotchy":
            w = noise(x, y, period * 0.75, period * 0.75, seed) * np.float32(0.7)
            w = w + noise(x, y, period * 0.35, period * 0.35, seed + 1) * np.float32(0.3)
            return np.asarray(w > 0.53)
        raise ValueError(f"no such texture: {name}")

    return Paint(lambda x, y: np.where(figure(x, y)[:, None], b, a), texture=name)


def material(rng: Random, name: str, scale: float = 1.0) -> Paint:
    """A procedural material.

    Args:
        rng: where its variations come from.
        name: one of `MATERIALS`.
        scale: size of its grain; 1 for something seen from near.
    """
    seed, angle = rng.getrandbits(30), rng.choice((0, 90))
    lift = rng.uniform(-10, 10)
    k = max(scale, 0.35)
    dx, dy = rng.uniform(0, 500), rng.uniform(0, 500)
    cloth = shade(rng, rng.choice(("red", "blue", "purple", "pink", "orange", "green", "white")))
    brick_colour = _rgb(rng.choice(((176, 74, 52), (158, 58, 46), (190, 92, 62))))

    def shader(x: Float, y: Float) -> Float:
        x, y = x + np.float32(dx), y + np.float32(dy)
        if name == "wood":
            u, v = (x, y) if angle == 0 else (y, x)
            plank = np.floor(v / np.float32(26 * k))
            edge = v / np.float32(26 * k) - plank
            grain = noise(u + plank * 31, v, 46 * k, 3.2 * k, seed)
            tone = hash01(plank, plank * 0, seed)
            colour = _mix(
                _rgb((92, 56, 28)), _rgb((164, 108, 62)), grain * np.float32(0.6) + tone * np.float32(0.4)
            )
            return np.where((edge < 0.07)[:, None], _rgb((58, 34, 18)), colour)
        if name == "brick":
            row = np.floor(y / np.float32(17 * k))
            u = x / np.float32(38 * k) + (row % 2) * np.float32(0.5)
            column = np.floor(u)
            mortar = (u - column < 0.08) | (y / np.float32(17 * k) - row < 0.16)
            tone = hash01(column, row, seed)[:, None] * 44 - 22
            speck = noise(x, y, 3, 3, seed)[:, None] * 16 - 8
            return np.where(
                mortar[:, None], _rgb((198, 190, 180)), brick_colour + tone * _rgb((1, 0.7, 0.6)) + speck
            )
        if name == "metal":
            u, v = rotate(x, y, 28)
            w = u / np.float32(64 * k)
            sheen = abs(w - np.floor(w) - np.float32(0.5)) * 2
            brushed = noise(u, v, 1.6, 40, seed)
            colour = (
                _mix(_rgb((98, 104, 112)), _rgb((226, 230, 234)), sheen * sheen) + brushed[:, None] * 20 - 10
            )
            p, q = x / np.float32(34 * k), y / np.float32(34 * k)
            rivet = (p - np.floor(p) - 0.5) ** 2 + (q - np.floor(q) - 0.5) ** 2
            seam = (p - np.floor(p) < 0.05) | (q - np.floor(q) < 0.05)
            colour = np.where((rivet < 0.012)[:, None], _rgb((62, 66, 72)), colour)
            return np.where(seam[:, None], _rgb((74, 78, 84)), colour)
        if name == "grass":
            blades = noise(x + noise(x, y, 30, 30, seed) * 12, y, 2.6 * k + 0.6, 15 * k, seed)
            patch = noise(x, y, 50, 30, seed + 1)
            return _mix(
                _rgb((30, 92, 34)), _rgb((134, 196, 74)), blades * np.float32(0.75) + patch * np.float32(0.25)
            )
        if name == "water":
            wave = noise(x, y + noise(x, y, 26, 14, seed) * 5, 30 * k + 4, 5.5 * k + 1, seed + 1)
            deep = noise(x, y, 90, 40, seed + 2)
            colour = _mix(
                _rgb((20, 70, 156)), _rgb((70, 150, 216)), deep * np.float32(0.5) + wave * np.float32(0.5)
            )
            return np.where((wave > 0.8)[:, None], _rgb((176, 216, 246)), colour)
        if name == "sand":
            bend = noise(x, y, 60, 60, seed) * 26
            w = (y + bend) / np.float32(13 * k)
            ripple = abs(w - np.floor(w) - np.float32(0.5)) * 2
            grain = hash01(np.floor(x / 2), np.floor(y / 2), seed)
            colour = _mix(_rgb((222, 190, 122)), _rgb((246, 224, 164)), ripple)
            return colour + (grain[:, None] * 34 - 17)
        if name == "stone":
            row = np.floor(y / np.float32(30 * k))
            u = x / np.float32(38 * k) + hash01(row, row * 0, seed)
            column = np.floor(u)
            du, dv = (u - column) * 2 - 1, (y / np.float32(30 * k) - row) * 2 - 1
            body = du**4 + dv**4 < 0.72
            tone = hash01(column, row, seed)[:, None] * 70 + noise(x, y, 5, 5, seed)[:, None] * 34
            return np.where(body[:, None], _rgb((96, 96, 94)) + tone, _rgb((58, 56, 54)))
        if name == "fabric":
            fold = noise(x, y, 44 * k + 8, 130 * k + 20, seed)[:, None] * 70 - 35
            p, q = np.floor(x / np.float32(3.5)), np.floor(y / np.float32(3.5))
            weave = np.where((p + q) % 2 == 0, 13, -13)[:, None]
            thread = hash01(p, q, seed)[:, None] * 14 - 7
            return (_rgb(cloth) * np.float32(0.86) + fold + weave + thread).astype(np.float32)
        if name == "glass":
            u, _ = rotate(x, y, 35)
            w = u / np.float32(58 * k)
            w = w - np.floor(w)
            glare = (w < 0.16) | ((w > 0.24) & (w < 0.3))
            colour = _mix(_rgb((132, 188, 220)), _rgb((176, 220, 238)), noise(x, y, 70, 70, seed))
            return np.where(glare[:, None], _rgb((236, 248, 252)), colour)
        if name == "snow":
            drift = noise(x, y, 60 * k + 10, 22 * k + 6, seed)
            sparkle = hash01(np.floor(x / 2), np.floor(y / 2), seed) > 0.965
            colour = _mix(
                _rgb((208, 222, 242)), _rgb((250, 252, 255)), np.clip(drift * np.float32(1.5), 0, 1)
            )
            return np.where(sparkle[:, None], _rgb((182, 206, 240)), colour)
        if name == "asphalt":
            speck = hash01(np.floor(x / np.float32(2.2)), np.floor(y / np.float32(2.2)), seed)
            patch = noise(x, y, 70, 50, seed) * 16
            colour = _rgb((62, 62, 68)) + (speck * speck * 66 + patch)[:, None]
            crack = abs(noise(x, y, 46, 46, seed + 3) - np.float32(0.5)) < 0.008
            return np.where(crack[:, None], _rgb((26, 26, 30)), colour)
        if name == "foliage":
            best = np.zeros(len(x), np.float32)
            for layer in range(2):
                p, q = rotate(x, y, 40 if layer else -40)
                p, q = p / np.float32(11 * k + 2), q / np.float32(18 * k + 3)
                ip, iq = np.floor(p), np.floor(q)
                leaf = ((p - ip - 0.5) / 0.42) ** 2 + ((q - iq - 0.5) / 0.48) ** 2 < 1
                tone = np.float32(0.25) + hash01(ip, iq, seed + layer) * np.float32(0.75)
                best = np.where(leaf & (tone > best), tone, best)
            return _mix(_rgb((18, 62, 30)), _rgb((116, 188, 74)), best)
        raise ValueError(f"no such material: {name}")

    return Paint(lambda x, y: shader(x, y) + np.float32(lift), material=name)
