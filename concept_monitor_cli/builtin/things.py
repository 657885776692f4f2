"""The objects and their parts, each drawn into the canvas's current frame.

Every function draws its object into the unit square: feet at y = 1, as tall as the frame. `Wardrobe` holds
the paints of one object, so that the same house can be of red brick or of striped purple.

Above 500 lines, because every object of the vocabulary is one function of the same form.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import numpy as np

from concept_monitor_cli.builtin import paints
from concept_monitor_cli.builtin.raster import Canvas, Paint, turn
from concept_monitor_cli.builtin.vocabulary import TEXTURES

_ZERO = np.zeros(1, np.float32)

VIVID = ("blue", "green", "orange", "pink", "purple", "red", "yellow", "white", "brown", "grey", "black")

DARK = (40.0, 40.0, 46.0)
PANE = ((150.0, 202.0, 236.0), (52.0, 70.0, 104.0), (250.0, 230.0, 130.0), (222.0, 240.0, 248.0))


class Wardrobe:
    """Paints for one object.

    Args:
        rng: where the choices come from.
        colour: a colour name for the body, or None for any.
        texture: a texture for the body, or None.
        material: a material for the body, or None.
        plain: leave texture and material out where none is given.
    """

    def __init__(
        self,
        rng: Random,
        colour: str | None = None,
        texture: str | None = None,
        material: str | None = None,
        plain: bool = False,
    ) -> None:
        self.rng = rng
        self.name = colour or rng.choice(VIVID)
        self.second = paints.other_colour(rng, self.name)
        draw = rng.random()
        if not plain and colour is None and texture is None and material is None:
            if draw < 0.12:
                texture = rng.choice(TEXTURES)
            elif draw < 0.24:
                material = rng.choice(("wood", "brick", "metal", "stone", "fabric"))
        self.texture, self.material = texture, material

    def body(self, size: float) -> Paint:
        """The paint of the main surface of a thing of `size` canvas pixels."""
        if self.material is not None:
            return paints.material(self.rng, self.material, min(1.0, 0.35 + size / 160))
        first = paints.shade(self.rng, self.name)
        if self.texture is not None:
            second = paints.shade(self.rng, self.second)
            return paints.texture(self.rng, self.texture, first, second, max(12.0, size * 0.22))
        return paints.plain(first)

    def any(self, *avoid: str) -> Paint:
        """An even colour other than the body's."""
        return paints.plain(paints.shade(self.rng, paints.other_colour(self.rng, self.name, *avoid)))

    def one_of(self, *names: str) -> Paint:
        """An even colour of one of these names."""
        return paints.plain(paints.shade(self.rng, self.rng.choice(names)))


def draw_window(c: Canvas, w: Wardrobe, left: float, top: float, right: float, bottom: float) -> None:
    """A window with a cross in it."""
    frame = paints.plain((244, 242, 236) if w.rng.random() < 0.7 else (70, 50, 40))
    pane = paints.plain(w.rng.choice(PANE))
    dx, dy = (right - left) * 0.14, (bottom - top) * 0.12
    c.rectangle(left, top, right, bottom, frame, "window")
    c.rectangle(left + dx, top + dy, right - dx, bottom - dy, pane, "window")
    cx, cy = (left + right) / 2, (top + bottom) / 2
    c.rectangle(cx - dx * 0.3, top, cx + dx * 0.3, bottom, frame, "window")
    c.rectangle(left, cy - dy * 0.3, right, cy + dy * 0.3, frame, "window")


def _door(c: Canvas, w: Wardrobe, left: float, top: float, right: float, bottom: float = 1.0) -> None:
    paint = w.one_of("brown", "red", "green", "blue", "brown", "white", "black")
    height, width = bottom - top, right - left
    c.rectangle(left, top, right, bottom, paint, "door")
    panel = paints.plain(tuple(v * 0.72 for v in paint.shader(_ZERO, _ZERO)[0]))
    for y in (0.1, 0.54):
        c.rectangle(
            left + width * 0.18,
            top + height * y,
            right - width * 0.18,
            top + height * (y + 0.34),
            panel,
            "door",
        )
    c.ellipse(
        (right - width * 0.12, top + height * 0.52),
        width * 0.07,
        height * 0.035,
        paints.plain((240, 214, 90)),
        "door",
    )


def _wheel(c: Canvas, centre: tuple[float, float], radius: float, hub: Paint) -> None:
    c.ellipse(centre, radius, radius, paints.plain((28, 28, 30)), "wheel", round_pixels=True)
    c.ellipse(centre, radius * 0.6, radius * 0.6, hub, "wheel", round_pixels=True)
    c.ellipse(centre, radius * 0.2, radius * 0.2, paints.plain(DARK), "wheel", round_pixels=True)


def windmill(c: Canvas, w: Wardrobe, only: tuple[str, ...] | None = None) -> None:
    """A tapered tower with a cap and four blades."""
    rng = w.rng
    c.polygon([(0.36, 0.4), (0.64, 0.4), (0.74, 1), (0.26, 1)], w.body(c.unit * 0.6))
    cap = w.one_of("red", "brown", "grey", "black", "blue")
    c.polygon([(0.33, 0.41), (0.4, 0.27), (0.5, 0.22), (0.6, 0.27), (0.67, 0.41)], cap, "roof")
    if only is None or "door" in only:
        _door(c, w, 0.44, 0.8, 0.56)
    if only is None or "window" in only:
        draw_window(c, w, 0.45, 0.53, 0.55, 0.64)
    cloth = w.one_of("white", "white", "yellow", "brown", "red")
    start = rng.uniform(5, 85)
    for quarter in range(4):
        cos, sin = turn(start + 90 * quarter)

        def at(r: float, s: float, cos: float = cos, sin: float = sin) -> tuple[float, float]:
            return 0.5 + cos * r - sin * s, 0.36 + sin * r + cos * s

        c.polygon([at(0.08, 0.0), at(0.46, 0.0), at(0.46, 0.12), at(0.1, 0.1)], cloth, "blade")
        c.line(at(0, 0), at(0.47, 0), 0.025, paints.plain((66, 44, 30)), "blade")
        for rung in (0.2, 0.33):
            c.line(at(rung, 0), at(rung, 0.11), 0.012, paints.plain((66, 44, 30)), "blade")
    c.ellipse((0.5, 0.36), 0.035, 0.035, paints.plain(DARK))


def house(c: Canvas, w: Wardrobe, only: tuple[str, ...] | None = None) -> None:
    """Walls, a gabled roof, often a door, windows and a chimney."""
    rng = w.rng
    has = {
        name: rng.random() < 0.8 if only is None else name in only for name in ("door", "window", "chimney")
    }
    roof = w.one_of("red", "brown", "grey", "black", "orange", "blue", "purple")
    if has["chimney"]:
        c.rectangle(0.68, 0.08, 0.8, 0.4, paints.material(rng, "brick", 0.4), "chimney")
        c.rectangle(0.66, 0.05, 0.82, 0.1, paints.plain((90, 84, 80)), "chimney")
    c.rectangle(0.08, 0.45, 0.92, 1, w.body(c.unit))
    eave = rng.choice((0.0, 0.14))
    c.polygon([(0, 0.47), (0.5 - eave, 0.1), (0.5 + eave, 0.1), (1, 0.47)], roof, "roof")
    door_at = rng.choice((0.16, 0.4, 0.62))
    if has["door"]:
        _door(c, w, door_at, 0.64, door_at + 0.2)
    if has["window"]:
        for left in (0.16, 0.41, 0.64):
            if not (has["door"] and abs(left - door_at) < 0.1):
                draw_window(c, w, left, 0.58, left + 0.18, 0.78)


def tree(c: Canvas, w: Wardrobe, only: tuple[str, ...] | None = None) -> None:
    """A trunk with a crown of leaves, round or like a fir."""
    rng = w.rng
    bark = paints.plain(paints.shade(rng, "brown"))
    if w.texture is None and w.material is None:
        crown = paints.material(rng, "foliage", min(1.0, 0.3 + c.unit / 220))
    else:
        crown = w.body(c.unit)
    if rng.random() < 0.5:
        c.polygon([(0.44, 0.5), (0.56, 0.5), (0.6, 1), (0.4, 1)], bark, "trunk")
        for x, y, r in ((0.3, 0.42, 0.26), (0.7, 0.42, 0.26), (0.5, 0.26, 0.27), (0.5, 0.48, 0.24)):
            c.ellipse((x, y), r, r, crown)
    else:
        c.rectangle(0.43, 0.7, 0.57, 1, bark, "trunk")
        for top, low, half in ((0.36, 0.82, 0.42), (0.18, 0.6, 0.34), (0.0, 0.38, 0.25)):
            c.polygon([(0.5, top), (0.5 + half, low), (0.5 - half, low)], crown)


def car(c: Canvas, w: Wardrobe, only: tuple[str, ...] | None = None) -> None:
    """A car from the side."""
    body = w.body(c.unit)
    c.polygon([(0.2, 0.6), (0.32, 0.3), (0.66, 0.3), (0.82, 0.6)], body)
    pane = paints.plain(w.rng.choice(PANE[:2]))
    c.polygon([(0.27, 0.58), (0.36, 0.36), (0.48, 0.36), (0.48, 0.58)], pane, "window")
    c.polygon([(0.52, 0.58), (0.52, 0.36), (0.63, 0.36), (0.74, 0.58)], pane, "window")
    c.polygon([(0, 0.62), (0.06, 0.56), (0.82, 0.56), (0.97, 0.64), (1, 0.85), (0, 0.85)], body)
    c.rectangle(0.94, 0.66, 1, 0.73, paints.plain((254, 240, 160)))
    c.rectangle(0, 0.66, 0.04, 0.73, paints.plain((214, 40, 40)))
    hub = w.one_of("grey", "white")
    for x in (0.23, 0.76):
        _wheel(c, (x, 0.85), 0.15, hub)


def boat(c: Canvas, w: Wardrobe, only: tuple[str, ...] | None = None) -> None:
    """A sailing boat."""
    rng = w.rng
    hull = w.one_of("brown", "red", "blue", "black", "white", "green")
    if only is None or "sail" in only:
        c.line((0.5, 0.03), (0.5, 0.78), 0.03, paints.plain((92, 60, 34)))
        sail = w.body(c.unit)
        c.polygon([(0.53, 0.05), (0.92, 0.7), (0.53, 0.7)], sail, "sail")
        c.polygon([(0.47, 0.16), (0.47, 0.7), (0.14, 0.7)], sail, "sail")
    c.polygon([(0.0, 0.76), (1, 0.76), (0.84, 1), (0.16, 1)], hull, "hull")
    if rng.random() < 0.6:
        c.rectangle(0.05, 0.79, 0.95, 0.83, paints.plain((240, 236, 226)), "hull")


def airplane(c: Canvas, w: Wardrobe, only: tuple[str, ...] | None = None) -> None:
    """An airliner from the side, nose to the right."""
    body = w.body(c.unit)
    wing = w.any("white")
    c.polygon([(0.02, 0.18), (0.14, 0.18), (0.26, 0.48), (0.08, 0.5)], wing)
    c.polygon([(0.46, 0.46), (0.3, 0.1), (0.4, 0.1), (0.62, 0.46)], wing, "wing")
    c.ellipse((0.53, 0.52), 0.47, 0.13, body)
    c.polygon([(0.4, 0.55), (0.6, 0.55), (0.36, 0.97), (0.24, 0.97)], wing, "wing")
    pane = paints.plain((54, 76, 116))
    for step in range(5):
        c.ellipse((0.34 + 0.1 * step, 0.48), 0.022, 0.035, pane, "window")
    c.polygon([(0.88, 0.44), (0.96, 0.49), (0.88, 0.5)], pane, "window")


def bicycle(c: Canvas, w: Wardrobe, only: tuple[str, ...] | None = None) -> None:
    """Two spoked wheels and a frame."""
    frame = paints.plain(paints.shade(w.rng, w.name))
    tyre = paints.plain((30, 30, 32))
    for x in (0.24, 0.76):
        centre = (x, 0.74)
        for spoke in range(4):
            cos, sin = turn(45 * spoke + 20)
            c.line(
                (x - cos * 0.2, 0.74 - sin * 0.2),
                (x + cos * 0.2, 0.74 + sin * 0.2),
                0.012,
                paints.plain((150, 150, 154)),
                "wheel",
            )
        c.ellipse(centre, 0.24, 0.24, tyre, "wheel", inner=0.8, round_pixels=True)
        c.ellipse(centre, 0.04, 0.04, tyre, "wheel", round_pixels=True)
    for start, end in (
        ((0.24, 0.74), (0.38, 0.42)),
        ((0.38, 0.42), (0.66, 0.42)),
        ((0.24, 0.74), (0.48, 0.74)),
        ((0.48, 0.74), (0.38, 0.42)),
        ((0.48, 0.74), (0.66, 0.42)),
        ((0.76, 0.74), (0.64, 0.28)),
    ):
        c.line(start, end, 0.045, frame)
    c.line((0.38, 0.42), (0.36, 0.34), 0.035, frame)
    c.line((0.28, 0.33), (0.45, 0.33), 0.055, paints.plain(DARK))
    c.line((0.64, 0.28), (0.76, 0.26), 0.04, paints.plain(DARK))


def lighthouse(c: Canvas, w: Wardrobe, only: tuple[str, ...] | None = None) -> None:
    """A tall tower with bands, a gallery and a lamp."""
    band = w.body(c.unit * 0.5)
    light = paints.plain((246, 244, 240) if w.name != "white" else (200, 40, 40))
    steps = 5
    for step in range(steps):
        top, low = 0.26 + 0.74 * step / steps, 0.26 + 0.74 * (step + 1) / steps
        a, b = 0.12 + 0.1 * (top - 0.26), 0.12 + 0.1 * (low - 0.26)
        paint = band if step % 2 == 0 else light
        c.polygon([(0.5 - a, top), (0.5 + a, top), (0.5 + b, low), (0.5 - b, low)], paint)
    if only is None or "door" in only:
        _door(c, w, 0.45, 0.87, 0.55)
    if only is None or "window" in only:
        for top in (0.44, 0.66):
            draw_window(c, w, 0.46, top, 0.54, top + 0.08)
    c.rectangle(0.4, 0.13, 0.6, 0.25, paints.plain((252, 230, 120)))
    c.rectangle(0.485, 0.13, 0.515, 0.25, paints.plain(DARK))
    c.rectangle(0.34, 0.24, 0.66, 0.275, paints.plain(DARK))
    c.polygon([(0.38, 0.135), (0.5, 0.02), (0.62, 0.135)], w.one_of("red", "black", "grey", "blue"), "roof")


def cactus(c: Canvas, w: Wardrobe, only: tuple[str, ...] | None = None) -> None:
    """A saguaro with two arms."""
    rng = w.rng
    if w.texture is None and w.material is None and rng.random() < 0.8:
        paint = paints.plain(paints.shade(rng, "green"))
    else:
        paint = w.body(c.unit)
    dark = paints.plain((24, 74, 38))
    left, right = rng.uniform(0.3, 0.45), rng.uniform(0.2, 0.4)
    for x, elbow in ((0.18, left + 0.25), (0.82, right + 0.25)):
        c.line((0.5, elbow), (x, elbow), 0.13, paint)
        c.line((x, elbow), (x, elbow - 0.26), 0.13, paint)
        c.ellipse((x, elbow - 0.28), 0.065, 0.065, paint, round_pixels=True)
    c.rectangle(0.39, 0.12, 0.61, 1, paint)
    c.ellipse((0.5, 0.13), 0.11, 0.11, paint, round_pixels=True)
    for x in (0.45, 0.55):
        c.rectangle(x - 0.008, 0.12, x + 0.008, 1, dark)


def flower(c: Canvas, w: Wardrobe, only: tuple[str, ...] | None = None) -> None:
    """Petals round a disc, on a stalk with two leaves."""
    rng = w.rng
    green = paints.plain(paints.shade(rng, "green"))
    c.line((0.5, 0.4), (0.5, 1), 0.045, green)
    c.ellipse((0.36, 0.8), 0.15, 0.055, green, degrees=30)
    c.ellipse((0.64, 0.76), 0.15, 0.055, green, degrees=-30)
    name = (
        w.name
        if w.name not in ("green", "grey", "black", "brown")
        else rng.choice(("red", "pink", "yellow", "white"))
    )
    petal = w.body(c.unit * 0.6) if w.texture or w.material else paints.plain(paints.shade(rng, name))
    count, start = rng.choice((5, 6, 8)), rng.uniform(0, 60)
    for step in range(count):
        degrees = start + 360 * step / count
        cos, sin = turn(degrees)
        c.ellipse(
            (0.5 + cos * 0.2, 0.32 + sin * 0.2),
            0.15,
            0.62 / count + 0.02,
            petal,
            "petal",
            degrees=degrees,
            round_pixels=True,
        )
    c.ellipse(
        (0.5, 0.32),
        0.1,
        0.1,
        paints.plain((236, 178, 40) if name != "yellow" else (110, 66, 34)),
        round_pixels=True,
    )


def balloon(c: Canvas, w: Wardrobe, only: tuple[str, ...] | None = None) -> None:
    """A hot-air balloon."""
    first, second = w.body(c.unit), w.any()
    rope = paints.plain((84, 62, 44))
    for x in (0.36, 0.64):
        c.line((x, 0.55), (0.5 + (x - 0.5) * 0.6, 0.86), 0.015, rope)
    c.polygon([(0.17, 0.5), (0.83, 0.5), (0.6, 0.76), (0.4, 0.76)], first)
    c.ellipse((0.5, 0.37), 0.38, 0.36, first)
    if w.texture is None and w.material is None:
        c.ellipse((0.5, 0.37), 0.22, 0.36, second)
        c.polygon([(0.29, 0.5), (0.71, 0.5), (0.55, 0.76), (0.45, 0.76)], second)
        c.ellipse((0.5, 0.37), 0.08, 0.36, first)
        c.polygon([(0.42, 0.5), (0.58, 0.5), (0.52, 0.76), (0.48, 0.76)], first)
    weave = paints.plain((150, 98, 52))
    c.polygon([(0.38, 0.85), (0.62, 0.85), (0.59, 1), (0.41, 1)], weave, "basket")
    for y in (0.89, 0.94):
        c.rectangle(0.395, y, 0.605, y + 0.012, rope, "basket")


def table(c: Canvas, w: Wardrobe, only: tuple[str, ...] | None = None) -> None:
    """A table with four legs."""
    if w.texture or w.material or w.rng.random() < 0.4:
        top = w.body(c.unit)
        leg = w.one_of("brown", "black", "white", w.name)
    else:
        shade = paints.shade(w.rng, w.name)
        top = leg = paints.plain(shade)
    for left in (0.2, 0.71):
        c.rectangle(left, 0.5, left + 0.07, 0.86, leg, "leg")
    c.polygon([(0.12, 0.36), (0.88, 0.36), (1, 0.52), (0, 0.52)], top)
    c.rectangle(0, 0.52, 1, 0.6, top)
    for left in (0.04, 0.87):
        c.rectangle(left, 0.6, left + 0.09, 1, leg, "leg")


def lamp(c: Canvas, w: Wardrobe, only: tuple[str, ...] | None = None) -> None:
    """A standing lamp with a shade."""
    stand = paints.plain(DARK)
    c.ellipse((0.5, 0.96), 0.22, 0.045, stand)
    c.rectangle(0.475, 0.36, 0.525, 0.96, stand)
    c.ellipse((0.5, 0.44), 0.08, 0.07, paints.plain((255, 240, 150)))
    c.polygon([(0.34, 0.04), (0.66, 0.04), (0.84, 0.42), (0.16, 0.42)], w.body(c.unit * 0.6))
    c.rectangle(0.16, 0.4, 0.84, 0.425, paints.plain((250, 236, 180)))


def bird(c: Canvas, w: Wardrobe, only: tuple[str, ...] | None = None) -> None:
    """A bird from the side, wing raised."""
    rng = w.rng
    body = w.body(c.unit)
    wing = w.any()
    c.polygon([(0.02, 0.4), (0.3, 0.56), (0.22, 0.74), (0.0, 0.62)], body)
    c.ellipse((0.48, 0.62), 0.28, 0.2, body, degrees=-12)
    c.ellipse((0.74, 0.42), 0.15, 0.15, body)
    c.polygon([(0.87, 0.38), (1, 0.45), (0.86, 0.49)], paints.plain((244, 152, 30)))
    c.ellipse((0.78, 0.39), 0.025, 0.025, paints.plain((14, 14, 16)))
    c.ellipse((0.78, 0.385), 0.009, 0.009, paints.plain((250, 250, 250)))
    if rng.random() < 0.5:
        c.polygon([(0.34, 0.56), (0.62, 0.56), (0.36, 0.08), (0.2, 0.14)], wing, "wing")
    else:
        c.ellipse((0.42, 0.6), 0.2, 0.12, wing, "wing", degrees=-20)
    for x in (0.44, 0.54):
        c.line((x, 0.8), (x, 0.98), 0.025, paints.plain((236, 140, 30)))


def cloud(c: Canvas, w: Wardrobe, only: tuple[str, ...] | None = None) -> None:
    """A heap of round puffs."""
    rng = w.rng
    if w.texture or w.material:
        paint = w.body(c.unit)
    else:
        paint = paints.plain(paints.shade(rng, rng.choice(("white", "white", "white", "grey", "pink"))))
    for x, y, r in ((0.22, 0.66, 0.2), (0.78, 0.66, 0.2), (0.42, 0.44, 0.27), (0.64, 0.5, 0.22)):
        c.ellipse((x, y), r, r * 1.25, paint)
    c.rectangle(0.2, 0.6, 0.8, 0.9, paint)


def tent(c: Canvas, w: Wardrobe, only: tuple[str, ...] | None = None) -> None:
    """A ridge tent with an open door."""
    side = w.body(c.unit)
    c.polygon([(0.36, 0.1), (0.72, 0.16), (1, 0.98), (0.66, 1)], side)
    c.polygon([(0.36, 0.1), (0.7, 1), (0, 1)], w.any("black"))
    c.polygon([(0.36, 0.36), (0.48, 1), (0.22, 1)], paints.plain((38, 34, 40)), "door")
    c.line((0.36, 0.1), (0.36, 0.02), 0.02, paints.plain(DARK))


Draw = Callable[[Canvas, Wardrobe, "tuple[str, ...] | None"], None]

OBJECTS: dict[str, tuple[Draw, float]] = {
    "windmill": (windmill, 0.95),
    "house": (house, 1.1),
    "tree": (tree, 0.9),
    "car": (car, 1.75),
    "boat": (boat, 1.0),
    "airplane": (airplane, 1.6),
    "bicycle": (bicycle, 1.3),
    "lighthouse": (lighthouse, 0.62),
    "cactus": (cactus, 0.8),
    "flower": (flower, 0.8),
    "balloon": (balloon, 0.8),
    "table": (table, 1.4),
    "lamp": (lamp, 0.7),
    "bird": (bird, 1.15),
    "cloud": (cloud, 1.9),
    "tent": (tent, 1.3),
}
"""Each object's function and its width by height."""


def close_up(c: Canvas, w: Wardrobe, part: str) -> None:
    """One part alone, large, in the canvas's current frame (no object label: the rest is out of sight)."""
    rng = w.rng
    if part == "wheel":
        if rng.random() < 0.5:
            _wheel(c, (0.5, 0.5), 0.46, w.one_of("grey", "white", w.name))
        else:
            for spoke in range(6):
                cos, sin = turn(30 * spoke + rng.uniform(-3, 3))
                c.line(
                    (0.5 - cos * 0.4, 0.5 - sin * 0.4),
                    (0.5 + cos * 0.4, 0.5 + sin * 0.4),
                    0.02,
                    w.one_of("grey"),
                    "wheel",
                )
            c.ellipse(
                (0.5, 0.5), 0.47, 0.47, paints.plain((28, 28, 30)), "wheel", inner=0.8, round_pixels=True
            )
            c.ellipse((0.5, 0.5), 0.07, 0.07, paints.plain((28, 28, 30)), "wheel", round_pixels=True)
    elif part == "window":
        draw_window(c, w, 0.12, 0.05, 0.88, 0.95)
    elif part == "sail":
        sail = w.body(c.unit)
        c.line((0.5, -0.02), (0.5, 1.2), 0.03, paints.plain((92, 60, 34)))
        c.polygon([(0.54, 0.0), (1.0, 0.95), (0.54, 0.95)], sail, "sail")
        if rng.random() < 0.7:
            c.polygon([(0.46, 0.14), (0.46, 0.95), (0.04, 0.95)], sail, "sail")
    elif part == "roof":
        c.rectangle(0.0, 0.62, 1.0, 1.6, w.any())
        roof = w.one_of("red", "brown", "grey", "black", "orange", "blue", "purple")
        eave = rng.choice((0.0, 0.16))
        c.polygon([(-0.12, 0.66), (0.5 - eave, 0.1), (0.5 + eave, 0.1), (1.12, 0.66)], roof, "roof")
    elif part == "door":
        c.rectangle(0.22, -0.02, 0.78, 1.02, paints.plain((236, 230, 220)))
        _door(c, w, 0.27, 0.04, 0.73, 1.02)
    elif part == "blade":
        cloth = w.one_of("white", "yellow", "brown", "red")
        start = rng.uniform(0, 90)
        for quarter in range(rng.choice((3, 4, 4))):
            cos, sin = turn(start + 90 * quarter)

            def at(r: float, s: float, cos: float = cos, sin: float = sin) -> tuple[float, float]:
                return 0.5 + cos * r - sin * s, 0.5 + sin * r + cos * s

            c.polygon([at(0.1, 0.0), at(0.66, 0.0), at(0.66, 0.18), at(0.13, 0.15)], cloth, "blade")
            c.line(at(0, 0), at(0.67, 0), 0.035, paints.plain((66, 44, 30)), "blade")
            for rung in (0.25, 0.4, 0.55):
                c.line(at(rung, 0), at(rung, 0.165), 0.018, paints.plain((66, 44, 30)), "blade")
        c.ellipse((0.5, 0.5), 0.05, 0.05, paints.plain(DARK))
    elif part == "wing":
        wing = w.body(c.unit) if rng.random() < 0.5 else w.any()
        if rng.random() < 0.5:
            c.polygon([(-0.6, 0.78), (1.6, 0.78), (1.6, 1.1), (-0.6, 1.1)], w.any())
            c.polygon([(0.3, 0.86), (0.82, 0.86), (0.34, 0.0), (0.06, 0.0)], wing, "wing")
        else:
            c.ellipse((0.5, 0.95), 0.75, 0.3, w.any())
            dim = paints.plain(tuple(v * 0.78 for v in wing.shader(_ZERO, _ZERO)[0]))
            for step in range(5):
                x, y = 0.62 - 0.13 * step, 0.02 + 0.05 * step * step / 2
                feather = [(0.3, 0.92), (0.84 - 0.1 * step, 0.92), (x, y), (x - 0.14, y + 0.06)]
                c.polygon(feather, wing if step % 2 == 0 else dim, "wing")
    elif part == "trunk":
        bark = paints.plain(paints.shade(rng, "brown"))
        dark = paints.plain((62, 38, 22))
        c.polygon(
            [(0.32, -0.6), (0.68, -0.6), (0.72, 0.8), (0.86, 1.3), (0.14, 1.3), (0.28, 0.8)], bark, "trunk"
        )
        for _ in range(7):
            x, y = rng.uniform(0.34, 0.66), rng.uniform(0, 0.8)
            c.line((x, y), (x + rng.uniform(-0.02, 0.02), y + 0.18), 0.02, dark, "trunk")
        leaves = paints.material(rng, "foliage", 0.9)
        for x in (0.1, 0.5, 0.9):
            c.ellipse((x, -0.12), 0.34, 0.24, leaves)
    elif part == "petal":
        name = w.name if w.name not in ("green", "grey", "black", "brown") else "pink"
        petal = paints.plain(paints.shade(rng, name))
        edge = paints.plain(tuple(v * 0.84 for v in petal.shader(_ZERO, _ZERO)[0]))
        count, start = rng.choice((5, 6, 8)), rng.uniform(0, 60)
        for step in range(count):
            degrees = start + 360 * step / count
            cos, sin = turn(degrees)
            centre = (0.5 + cos * 0.38, 0.5 + sin * 0.38)
            for paint, shrink in ((edge, 1.0), (petal, 0.86)):
                c.ellipse(
                    centre,
                    0.3 * shrink,
                    (1.2 / count + 0.04) * shrink,
                    paint,
                    "petal",
                    degrees=degrees,
                    round_pixels=True,
                )
        c.ellipse(
            (0.5, 0.5),
            0.15,
            0.15,
            paints.plain((236, 178, 40) if name != "yellow" else (110, 66, 34)),
            round_pixels=True,
        )
    elif part == "leg":
        leg = w.one_of("brown", "black", "white", w.name)
        top = w.body(c.unit)
        for left in (0.02, 0.38, 0.78) if rng.random() < 0.4 else (0.06, 0.7):
            c.polygon([(left, 0.16), (left + 0.22, 0.16), (left + 0.17, 1.0), (left + 0.05, 1.0)], leg, "leg")
        c.rectangle(-0.3, 0.0, 1.3, 0.18, top)
    elif part == "hull":
        hull = w.one_of("brown", "red", "blue", "black", "white", "green")
        c.line((0.5, -0.7), (0.5, 0.3), 0.03, paints.plain((92, 60, 34)))
        c.polygon([(-0.1, 0.24), (1.1, 0.24), (0.88, 0.92), (0.12, 0.92)], hull, "hull")
        c.polygon(
            [(-0.075, 0.32), (1.075, 0.32), (1.05, 0.4), (-0.05, 0.4)], paints.plain((240, 236, 226)), "hull"
        )
        for x in (0.25, 0.5, 0.75):
            c.ellipse((x, 0.56), 0.05, 0.05, paints.plain((250, 230, 140)), "hull", round_pixels=True)
    elif part == "chimney":
        roof = w.one_of("red", "brown", "grey", "black", "orange", "blue", "purple")
        c.rectangle(0.26, 0.16, 0.74, 1.3, paints.material(rng, "brick", 0.7), "chimney")
        c.rectangle(0.18, 0.04, 0.82, 0.18, paints.plain((90, 84, 80)), "chimney")
        if rng.random() < 0.6:
            for step, radius in enumerate((0.09, 0.12, 0.15)):
                c.ellipse(
                    (0.52 + 0.1 * step, -0.06 - 0.14 * step),
                    radius,
                    radius * 0.8,
                    paints.plain((224, 224, 226)),
                )
        c.polygon([(-0.9, 1.3), (-0.9, 1.02), (1.9, 0.72), (1.9, 1.3)], roof, None)
    elif part == "basket":
        rope = paints.plain((84, 62, 44))
        for x in (0.12, 0.88):
            c.line((x, -0.5), (x, 0.3), 0.02, rope)
        weave = paints.plain(rng.choice(((150, 98, 52), (176, 122, 70), (122, 76, 40))))
        c.polygon([(0.02, 0.24), (0.98, 0.24), (0.9, 0.96), (0.1, 0.96)], weave, "basket")
        for y in (0.36, 0.5, 0.64, 0.78):
            c.rectangle(0.08, y, 0.92, y + 0.04, rope, "basket")
        for x in (0.24, 0.42, 0.58, 0.76):
            c.rectangle(x - 0.015, 0.24, x + 0.015, 0.96, rope, "basket")
        c.rectangle(-0.02, 0.2, 1.02, 0.28, rope, "basket")
    else:
        raise ValueError(f"no such part: {part}")
