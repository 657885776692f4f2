"""The words that the renderer draws, and the category of each.

The order is part of the format: a label map holds positions in `VOCABULARY`, and the Broden directory
numbers its labels by position + 1.
"""

from __future__ import annotations

COLOURS = ("black", "blue", "brown", "green", "grey", "orange", "pink", "purple", "red", "white", "yellow")
TEXTURES = ("striped", "dotted", "chequered", "grid", "zigzag", "spiralled", "honeycombed", "blotchy")
MATERIALS = (
    "wood",
    "brick",
    "metal",
    "grass",
    "water",
    "sand",
    "stone",
    "fabric",
    "glass",
    "snow",
    "asphalt",
    "foliage",
)
PARTS = (
    "wheel",
    "window",
    "sail",
    "roof",
    "door",
    "blade",
    "wing",
    "trunk",
    "petal",
    "leg",
    "hull",
    "chimney",
    "basket",
)
OBJECTS = (
    "windmill",
    "house",
    "tree",
    "car",
    "boat",
    "airplane",
    "bicycle",
    "lighthouse",
    "cactus",
    "flower",
    "balloon",
    "table",
    "lamp",
    "bird",
    "cloud",
    "tent",
)
SCENES = ("field", "sea", "street", "desert", "forest", "arctic", "room", "mountain")

BY_CATEGORY: dict[str, tuple[str, ...]] = {
    "color": COLOURS,
    "texture": TEXTURES,
    "material": MATERIALS,
    "part": PARTS,
    "object": OBJECTS,
    "scene": SCENES,
}
"""Broden's six categories, with the words of each."""

VOCABULARY: tuple[tuple[str, str], ...] = tuple(
    (word, category) for category, words in BY_CATEGORY.items() for word in words
)
"""Every (word, category). No word occurs in two categories."""

INDEX: dict[str, int] = {word: position for position, (word, _) in enumerate(VOCABULARY)}
"""Position of each word in `VOCABULARY`."""
