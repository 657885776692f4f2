"""The scenes, drawn behind and around the objects that stand in them."""

from __future__ import annotations

from random import Random

from concept_monitor_cli.builtin import paints, things
from concept_monitor_cli.builtin.raster import GRID, Canvas, Paint
from concept_monitor_cli.builtin.vocabulary import BY_CATEGORY, OBJECTS, TEXTURES

#: Objects that are at home in each scene; one that stands twice is there twice as often.
HOME = {
    "field": ("windmill", "house", "tree", "flower", "tent", "balloon", "bird", "cloud"),
    "sea": ("boat", "boat", "lighthouse", "bird", "cloud", "balloon"),
    "street": ("car", "car", "bicycle", "lamp", "tree", "house"),
    "desert": ("cactus", "cactus", "tent", "car", "airplane", "cloud"),
    "forest": ("tree", "tent", "bird", "flower", "bicycle", "house"),
    "arctic": ("house", "tent", "airplane", "bird", "boat", "tree"),
    "room": ("table", "lamp", "flower", "table", "lamp", "bicycle"),
    "mountain": ("balloon", "airplane", "house", "tent", "cloud", "tree"),
}
_FLIES = ("airplane", "balloon", "cloud", "bird")


def place_object(
    canvas: Canvas,
    rng: Random,
    name: str,
    wardrobe: things.Wardrobe,
    centre: float,
    feet: float,
    height: float,
) -> None:
    """Draw an object of the vocabulary; `centre`, `feet` and `height` are in pixels of the canvas."""
    draw, aspect = things.OBJECTS[name]
    width = height * aspect
    canvas.place(name, centre - width / 2, feet - height, width, height, rng.random() < 0.5)
    draw(canvas, wardrobe, None)
    canvas.place(None, 0, 0, GRID, GRID)


def _sky(canvas: Canvas, rng: Random, horizon: float, *names: str) -> None:
    name = rng.choice(names or ("blue", "blue", "blue", "white", "orange", "pink", "grey"))
    tops = {
        "blue": (92, 158, 232),
        "white": (222, 232, 242),
        "orange": (246, 150, 66),
        "pink": (240, 150, 184),
        "grey": (150, 154, 162),
    }
    lows = {
        "blue": (186, 220, 246),
        "white": (246, 246, 242),
        "orange": (252, 208, 120),
        "pink": (252, 208, 190),
        "grey": (200, 202, 206),
    }
    canvas.rectangle(0, 0, 1, horizon / GRID, paints.gradient(tops[name], lows[name], 0, horizon))
    if rng.random() < 0.35:
        radius = rng.uniform(0.05, 0.09)
        canvas.ellipse(
            (rng.uniform(0.1, 0.9), rng.uniform(0.08, 0.25)), radius, radius, paints.plain((255, 226, 90))
        )


def _hills(canvas: Canvas, rng: Random, horizon: float, paint: Paint, height: float) -> None:
    for _ in range(rng.choice((2, 3))):
        canvas.ellipse(
            (rng.uniform(0, 1), horizon / GRID + 0.02),
            rng.uniform(0.3, 0.55),
            rng.uniform(0.4, 1) * height,
            paint,
        )


def draw_scene(canvas: Canvas, rng: Random, scene: str, subjects: tuple[str, ...]) -> None:
    """Draw a scene, and in it the objects that the picture is of, with others that are at home there."""
    canvas.place(None, 0, 0, GRID, GRID)
    horizon = rng.uniform(0.4, 0.6) * GRID
    low = horizon / GRID
    if scene == "field":
        _sky(canvas, rng, horizon)
        canvas.rectangle(0, low - 0.01, 1, 1, paints.material(rng, "grass", 0.7))
        if rng.random() < 0.5:
            rows = paints.plain(rng.choice(((236, 206, 70), (150, 98, 56), (170, 206, 90))))
            for step in range(-3, 5):
                x = step / 4 + 0.3
                canvas.polygon(
                    [
                        (0.5 + (x - 0.5) * 0.35, low),
                        (0.5 + (x - 0.5) * 0.35 + 0.015, low),
                        (x * 1.6 - 0.2, 1),
                        (x * 1.6 - 0.28, 1),
                    ],
                    rows,
                )
        if rng.random() < 0.7:
            _hills(canvas, rng, horizon, paints.plain((96, 160, 84)), 0.09)
    elif scene == "sea":
        _sky(canvas, rng, horizon)
        if rng.random() < 0.3:
            _hills(canvas, rng, horizon, paints.plain((104, 122, 116)), 0.07)
        canvas.rectangle(0, low, 1, 1, paints.material(rng, "water", rng.uniform(0.7, 1.0)))
    elif scene == "street":
        _street(canvas, rng, horizon)
    elif scene == "desert":
        _sky(canvas, rng, horizon, "blue", "orange", "orange", "pink", "white")
        dune = paints.material(rng, "sand", 0.8)
        canvas.rectangle(0, low - 0.01, 1, 1, dune)
        _hills(canvas, rng, horizon, dune, 0.14)
        canvas.ellipse((rng.uniform(0, 1), low + 0.2), 0.45, 0.09, paints.plain((208, 168, 96)))
    elif scene == "forest":
        _sky(canvas, rng, horizon, "blue", "white", "grey")
        canvas.rectangle(0, 0.3, 1, low + 0.05, paints.material(rng, "foliage", 0.7))
        canvas.rectangle(
            0,
            low,
            1,
            1,
            rng.choice(
                (paints.plain((70, 84, 40)), paints.plain((96, 70, 42)), paints.material(rng, "grass", 0.6))
            ),
        )
        for _ in range(rng.choice((5, 6, 7))):
            height = rng.uniform(0.45, 0.75) * GRID
            place_object(
                canvas,
                rng,
                "tree",
                things.Wardrobe(rng, plain=True),
                rng.uniform(0, GRID),
                horizon + rng.uniform(2, 36),
                height,
            )
    elif scene == "arctic":
        _sky(canvas, rng, horizon, "white", "blue", "grey", "blue")
        ice = paints.material(rng, "snow", 0.9)
        canvas.rectangle(0, low - 0.01, 1, 1, ice)
        for _ in range(rng.choice((2, 3, 4))):
            x, half, top = rng.uniform(0, 1), rng.uniform(0.1, 0.24), rng.uniform(0.12, 0.3)
            canvas.polygon(
                [
                    (x - half, low + 0.01),
                    (x - half * 0.3, low - top),
                    (x + half * 0.2, low - top * 0.7),
                    (x + half, low + 0.01),
                ],
                ice,
            )
            canvas.polygon(
                [(x + half * 0.2, low - top * 0.7), (x + half, low + 0.01), (x + half * 0.3, low + 0.01)],
                paints.plain((158, 196, 236)),
            )
    elif scene == "room":
        _room(canvas, rng, low)
    else:
        _sky(canvas, rng, GRID, "blue", "white", "pink", "orange", "grey")
        rock = (
            paints.material(rng, "stone", 0.7)
            if rng.random() < 0.5
            else paints.plain(rng.choice(((112, 110, 118), (128, 116, 108), (96, 104, 122))))
        )
        for _ in range(rng.choice((2, 3))):
            x, half, top = rng.uniform(0.05, 0.95), rng.uniform(0.35, 0.6), rng.uniform(0.06, 0.3)
            base = 0.9
            canvas.polygon([(x - half, base), (x, top), (x + half, base)], rock)
            canvas.polygon(
                [(x, top), (x + half, base), (x + half * 0.25, base), (x + 0.03, top + 0.3)],
                paints.plain((78, 80, 92)),
            )
            cap = (base - top) * 0.3 / base
            t = cap / (base - top)
            canvas.polygon(
                [
                    (x, top),
                    (x + half * t, top + cap),
                    (x + half * t * 0.3, top + cap * 0.8),
                    (x - half * t * 0.2, top + cap * 1.15),
                    (x - half * t * 0.6, top + cap * 0.75),
                    (x - half * t, top + cap),
                ],
                paints.plain((248, 250, 254)),
            )
        canvas.rectangle(
            0,
            0.84,
            1,
            1,
            rng.choice(
                (
                    paints.material(rng, "grass", 0.6),
                    paints.plain((96, 118, 78)),
                    paints.plain((120, 112, 104)),
                )
            ),
        )
        horizon = 0.84 * GRID
    _populate(canvas, rng, scene, subjects, horizon)


def _street(canvas: Canvas, rng: Random, horizon: float) -> None:
    low = max(horizon / GRID, 0.52)
    _sky(canvas, rng, horizon)
    x = -0.05
    while x < 1.0:
        width, top = rng.uniform(0.2, 0.36), rng.uniform(0.04, 0.3)
        wardrobe = things.Wardrobe(rng, material="brick" if rng.random() < 0.3 else None, plain=True)
        canvas.rectangle(x, top, x + width, low + 0.02, wardrobe.body(70))
        pane = paints.plain(rng.choice(things.PANE))
        columns = 2 if width < 0.28 else 3
        y = top + 0.05
        while y < low - 0.1:
            for column in range(columns):
                left = x + width * (column + 0.25) / columns
                canvas.rectangle(left, y, left + width * 0.5 / columns, y + 0.075, pane, "window")
            y += 0.13
        x += width + 0.005
    canvas.rectangle(0, low, 1, low + 0.07, paints.plain((178, 174, 170)))
    canvas.rectangle(0, low + 0.07, 1, 1, paints.material(rng, "asphalt", 0.8))
    middle = (low + 1.07) / 2
    for step in range(5):
        left = step * 0.24 + 0.02
        canvas.polygon(
            [
                (left, middle),
                (left + 0.13, middle),
                (left + 0.12, middle + 0.03),
                (left - 0.01, middle + 0.03),
            ],
            paints.plain((244, 240, 226)),
        )


def _room(canvas: Canvas, rng: Random, low: float) -> None:
    low = max(low, 0.56)
    wall = rng.choice(BY_CATEGORY["color"])
    draw = rng.random()
    if draw < 0.2:
        paper = paints.texture(
            rng,
            rng.choice(TEXTURES),
            paints.shade(rng, wall),
            paints.shade(rng, paints.other_colour(rng, wall)),
            26,
        )
    else:
        paper = paints.plain(paints.shade(rng, wall))
    canvas.rectangle(0, 0, 1, low, paper)
    floor = (
        paints.material(rng, "wood", 0.8)
        if rng.random() < 0.75
        else paints.material(rng, rng.choice(("stone", "fabric")), 0.7)
    )
    canvas.rectangle(0, low, 1, 1, floor)
    canvas.rectangle(0, low - 0.025, 1, low + 0.015, paints.plain((242, 240, 234)))
    for side, flip in ((0.0, 1.0), (1.0, -1.0)):
        # side walls in perspective make the place read as an inside
        canvas.polygon(
            [(side, 0), (side + flip * 0.13, 0.12), (side + flip * 0.13, low), (side, 1.0)],
            paints.plain((206, 200, 190)),
        )
    canvas.polygon([(0, 0), (1, 0), (0.87, 0.12), (0.13, 0.12)], paints.plain((236, 234, 228)))
    if rng.random() < 0.6:
        left = rng.uniform(0.2, 0.58)
        things.draw_window(canvas, things.Wardrobe(rng), left, 0.18, left + 0.2, 0.42)
    else:
        left = rng.uniform(0.2, 0.58)
        canvas.rectangle(left, 0.18, left + 0.22, 0.38, paints.plain((120, 78, 40)))
        canvas.rectangle(
            left + 0.02,
            0.2,
            left + 0.2,
            0.36,
            paints.plain(paints.shade(rng, rng.choice(BY_CATEGORY["color"]))),
        )
    if rng.random() < 0.5:
        canvas.ellipse((0.5, 0.88), 0.32, 0.08, paints.material(rng, "fabric", 0.5))


def _populate(canvas: Canvas, rng: Random, scene: str, subjects: tuple[str, ...], horizon: float) -> None:
    """Put objects into the scene, the far ones first, the subjects largest."""
    names = list(subjects)
    for _ in range(rng.choice((1, 1, 2)) if not subjects else rng.choice((0, 0, 1))):
        names.insert(0, rng.choice(HOME[scene]) if rng.random() < 0.75 else rng.choice(OBJECTS))
    slots = rng.sample((0.2, 0.5, 0.8), 3)
    for place, name in enumerate(names):
        main = name in subjects
        aspect = things.OBJECTS[name][1]
        height = rng.uniform(0.42, 0.62) * GRID if main else rng.uniform(0.2, 0.38) * GRID
        height = height * (0.75 if aspect > 1.4 else 1.0)
        if name == "lighthouse":
            height *= 1.25
        if name in _FLIES and scene != "room" and (name != "bird" or rng.random() < 0.5):
            feet = rng.uniform(height * 0.8, max(height * 0.9, horizon * 0.95))
        else:
            feet = rng.uniform(max(horizon + 8, height * 0.9), GRID * 0.97)
        centre = (slots[place % 3] + rng.uniform(-0.08, 0.08)) * GRID
        place_object(canvas, rng, name, things.Wardrobe(rng), centre, feet, height)
