"""Pictures with known contents: every pixel's colour, texture, material, part and object, and the scene.

Each picture has a *subject*, a word of the vocabulary, and the subjects take turns, so that every word of
every category is the main thing of some pictures. Colours, textures, materials and parts are shown large
and by themselves; objects stand before a plain ground or in a scene; scenes hold a few objects.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray

from concept_monitor_cli.builtin import paints, things
from concept_monitor_cli.builtin.raster import GRID, MAPS, Canvas, Paint
from concept_monitor_cli.builtin.scenes import HOME, draw_scene, place_object
from concept_monitor_cli.builtin.vocabulary import (
    BY_CATEGORY,
    INDEX,
    MATERIALS,
    OBJECTS,
    SCENES,
    TEXTURES,
    VOCABULARY,
)

SIZE = 96
"""Side of the pictures and of their label maps."""

# How often each category's words are subjects in one cycle. Scenes and objects vary most, so they come
# more often; a cycle has 11 + 16 + 24 + 26 + 32 + 32 = 141 pictures.
_TURNS = {"color": 1, "texture": 2, "material": 2, "part": 2, "object": 2, "scene": 4}
CYCLE: tuple[str, ...] = tuple(
    word for category, words in BY_CATEGORY.items() for word in words for _ in range(_TURNS[category])
)


@dataclass(frozen=True)
class Rendering:
    """One picture and everything that is known about it.

    Args:
        image: (SIZE, SIZE, 3) uint8, RGB.
        subject: the word it was made for.
        scene: the scene's word, or None where there is none (a plain ground, a close-up).
        maps: for color, texture, material, part and object, (SIZE, SIZE) int16 positions in `VOCABULARY`,
            -1 where nothing of the category is.
        captions: what one could say about it, plainest first.
    """

    image: NDArray[np.uint8]
    subject: str
    scene: str | None
    maps: dict[str, NDArray[np.int16]]
    captions: tuple[str, ...]

    def coverage(self) -> NDArray[np.float64]:
        """Share of the picture that each word of `VOCABULARY` covers; a scene covers all of it."""
        counts = np.zeros(len(VOCABULARY), np.int64)
        for labels in self.maps.values():
            counts += np.bincount(labels[labels >= 0].ravel(), minlength=len(VOCABULARY))
        if self.scene is not None:
            counts[INDEX[self.scene]] = SIZE * SIZE
        return counts / (SIZE * SIZE)


def subject_of(index: int, seed: int = 0) -> str:
    """The subject of picture `index`: each cycle is a shuffled run through `CYCLE`."""
    cycle, place = divmod(index, len(CYCLE))
    order = list(range(len(CYCLE)))
    Random(f"order/{seed}/{cycle}").shuffle(order)
    return CYCLE[order[place]]


def render(index: int, seed: int = 0, subject: str | None = None) -> Rendering:
    """Draw one picture.

    Args:
        index: which picture of the series.
        seed: which series.
        subject: the word to draw it for; by default the series' own turn (`subject_of`).

    Raises:
        ValueError: the subject is not a word of the vocabulary.
    """
    subject = subject_of(index, seed) if subject is None else subject
    if subject not in INDEX:
        raise ValueError(f"not a word of the builtin vocabulary: {subject!r}")
    rng = Random(f"picture/{seed}/{index}/{subject}")
    canvas = Canvas()
    category = VOCABULARY[INDEX[subject]][1]
    scene: str | None = None
    if category == "scene":
        scene = subject
        draw_scene(canvas, rng, scene, ())
    elif category == "object":
        if rng.random() < 0.45:
            scene = next((s for s in rng.sample(SCENES, len(SCENES)) if subject in HOME[s]), "field")
            if rng.random() < 0.3:
                scene = rng.choice(SCENES)
            draw_scene(canvas, rng, scene, (subject,))
        else:
            _ground(canvas, rng)
            _portrait(canvas, rng, subject, things.Wardrobe(rng))
    elif category == "part":
        _ground(canvas, rng, quiet=True)
        side = rng.uniform(110, 165)
        canvas.place(
            None, rng.uniform(0, GRID - side), rng.uniform(0, GRID - side), side, side, rng.random() < 0.5
        )
        things.close_up(canvas, things.Wardrobe(rng, plain=rng.random() < 0.8), subject)
    elif category == "material":
        _surface(canvas, rng, lambda size: paints.material(rng, subject, 0.5 + size / 260), None, subject)
    elif category == "texture":
        first = rng.choice(BY_CATEGORY["color"])
        second = paints.other_colour(rng, first)
        _surface(
            canvas,
            rng,
            lambda size: paints.texture(
                rng,
                subject,
                paints.shade(rng, first),
                paints.shade(rng, second),
                rng.uniform(0.11, 0.21) * size,
            ),
            subject,
            None,
        )
    else:
        _colour_picture(canvas, rng, subject)
    return _finish(canvas, subject, scene)


def _finish(canvas: Canvas, subject: str, scene: str | None) -> Rendering:
    # halved in whole numbers; labels are those of the upper left of each four canvas pixels
    fine = np.floor(np.clip(canvas.rgb, 0, 255) + np.float32(0.5)).astype(np.uint16)
    quarters = fine[::2, ::2] + fine[1::2, ::2] + fine[::2, 1::2] + fine[1::2, 1::2]
    image = ((quarters + 2) // 4).astype(np.uint8)
    maps = {"color": paints.name_colours(fine[::2, ::2].astype(np.uint8))}
    maps.update({name: canvas.maps[name][::2, ::2].copy() for name in MAPS})
    rendering = Rendering(image, subject, scene, maps, ())
    return Rendering(image, subject, scene, maps, _captions(rendering))


def _captions(rendering: Rendering) -> tuple[str, ...]:
    coverage = rendering.coverage()

    def largest(category: str, within: NDArray[np.bool_] | None = None) -> str | None:
        labels = rendering.maps[category]
        labels = labels if within is None else labels[within]
        counts = np.bincount(labels[labels >= 0].ravel(), minlength=len(VOCABULARY))
        return VOCABULARY[int(counts.argmax())][0] if counts.any() and counts.max() > 40 else None

    words = [rendering.subject]
    words += [
        word
        for position, (word, _) in enumerate(VOCABULARY)
        if coverage[position] >= 0.04 and word != rendering.subject
    ]
    phrases = []
    thing = largest("object")
    place = f" in the {rendering.scene}" if rendering.scene else ""
    if thing is not None:
        on = rendering.maps["object"] == INDEX[thing]
        made = largest("texture", on) or largest("material", on) or largest("color", on)
        part = largest("part", on)
        phrases += [f"{made} {thing}", f"{made} {thing}{place}"]
        if part is not None:
            phrases.append(f"{thing} with {part}{place}")
    colour = largest("color")
    pattern = largest("texture") or largest("material") or largest("part")
    if pattern is not None and colour is not None:
        phrases.append(f"{colour} {pattern}")
    return tuple(dict.fromkeys(words + phrases))


# --- grounds, surfaces, colours -----------------------------------------------------------------------


def _ground(canvas: Canvas, rng: Random, quiet: bool = False) -> None:
    """Fill the canvas with a plain ground, a soft gradient, or now and then a material or a pattern."""
    canvas.place(None, 0, 0, GRID, GRID)
    draw = rng.random()
    name = rng.choice(BY_CATEGORY["color"])
    if draw < 0.14 and not quiet:
        paint = paints.material(rng, rng.choice(MATERIALS), 0.8)
    elif draw < 0.2 and not quiet:
        other = paints.other_colour(rng, name)
        paint = paints.texture(
            rng, rng.choice(TEXTURES), paints.shade(rng, name), paints.shade(rng, other), rng.uniform(22, 40)
        )
    elif draw < 0.6:
        paint = paints.gradient(paints.shade(rng, name), paints.shade(rng, name), 0, GRID)
    else:
        paint = paints.plain(paints.shade(rng, name))
    canvas.rectangle(0, 0, 1, 1, paint)


_SHAPES = ("disc", "square", "triangle", "diamond", "blob")


def _shape(canvas: Canvas, rng: Random, paint: Paint) -> None:
    kind = rng.choice(_SHAPES)
    if kind == "disc":
        canvas.ellipse((0.5, 0.5), 0.5, 0.5, paint)
    elif kind == "square":
        canvas.rectangle(0.04, 0.04, 0.96, 0.96, paint)
    elif kind == "triangle":
        canvas.polygon([(0.5, 0), (1, 0.95), (0, 0.95)], paint)
    elif kind == "diamond":
        canvas.polygon([(0.5, 0), (1, 0.5), (0.5, 1), (0, 0.5)], paint)
    else:
        canvas.ellipse((0.38, 0.42), 0.38, 0.4, paint)
        canvas.ellipse((0.64, 0.6), 0.36, 0.4, paint)


def _surface(
    canvas: Canvas, rng: Random, make: Callable[[float], Paint], texture: str | None, material: str | None
) -> None:
    """A texture or material: all over, as a large shape, as a wall or floor, or as an object's body."""
    draw = rng.random()
    canvas.place(None, 0, 0, GRID, GRID)
    if draw < 0.5:
        canvas.rectangle(0, 0, 1, 1, make(GRID))
    elif draw < 0.65:
        _ground(canvas, rng, quiet=True)
        side = rng.uniform(115, 165)
        canvas.place(None, rng.uniform(0, GRID - side), rng.uniform(0, GRID - side), side, side)
        _shape(canvas, rng, make(side))
    elif draw < 0.78:
        _ground(canvas, rng, quiet=True)
        edge = rng.uniform(0.25, 0.5)
        if rng.random() < 0.6:
            canvas.rectangle(0, edge, 1, 1, make(GRID))
        else:
            canvas.rectangle(0, 0, 1, 1 - edge, make(GRID))
    else:
        _ground(canvas, rng, quiet=True)
        plain = (
            "house",
            "car",
            "balloon",
            "table",
            "lamp",
            "tent",
            "boat",
            "lighthouse",
            "flower",
            "bird",
            "cloud",
            "tree",
        )
        _portrait(
            canvas,
            rng,
            rng.choice(plain),
            things.Wardrobe(rng, texture=texture, material=material),
            large=True,
        )


def _colour_picture(canvas: Canvas, rng: Random, name: str) -> None:
    draw = rng.random()
    canvas.place(None, 0, 0, GRID, GRID)
    if draw < 0.3:
        canvas.rectangle(
            0, 0, 1, 1, paints.gradient(paints.shade(rng, name), paints.shade(rng, name), 0, GRID)
        )
    elif draw < 0.6:
        canvas.rectangle(0, 0, 1, 1, paints.plain(paints.shade(rng, paints.other_colour(rng, name))))
        for _ in range(rng.choice((1, 2, 3))):
            side = rng.uniform(100, 160)
            canvas.place(
                None, rng.uniform(-10, GRID - side + 10), rng.uniform(-10, GRID - side + 10), side, side
            )
            _shape(canvas, rng, paints.plain(paints.shade(rng, name)))
    elif draw < 0.8:
        canvas.rectangle(0, 0, 1, 1, paints.plain(paints.shade(rng, name)))
        for _ in range(rng.choice((1, 2, 3))):
            side = rng.uniform(30, 70)
            canvas.place(None, rng.uniform(0, GRID - side), rng.uniform(0, GRID - side), side, side)
            _shape(canvas, rng, paints.plain(paints.shade(rng, paints.other_colour(rng, name))))
    else:
        canvas.rectangle(0, 0, 1, 1, paints.plain(paints.shade(rng, name)))
        _portrait(canvas, rng, rng.choice(OBJECTS), things.Wardrobe(rng, colour=name))


def _portrait(canvas: Canvas, rng: Random, name: str, wardrobe: things.Wardrobe, large: bool = False) -> None:
    aspect = things.OBJECTS[name][1]
    room = GRID * (rng.uniform(0.8, 1.0) if large else rng.uniform(0.5, 0.95))
    height = min(room, room / aspect * (1.15 if aspect > 1.4 else 1.0))
    width = height * aspect
    margin = max(GRID - width, 0) / 2 + 4
    centre = GRID / 2 + rng.uniform(-margin, margin) * 0.8
    feet = rng.uniform(min(height, GRID - 2), GRID - 2)
    place_object(canvas, rng, name, wardrobe, centre, feet, height)
