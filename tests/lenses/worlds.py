"""Small probing sets in Broden's layout and recordings of masks, made for the detectors that count pixels."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from concept_monitor_cli.functional.dissection import UnitMasks
from concept_monitor_cli.probe import load_probe
from concept_monitor_cli.store import Entry, Store
from concept_monitor_cli.study import Context

SIDE = 14
OBJECTS, COLORS, SCENES = 12, 5, 6
KINDS = ("color", "object", "part", "material", "scene", "texture")
Dense = NDArray[np.bool_]


@dataclass
class World:
    """A probing set of some photos, each there several times.

    Attributes:
        context: as detectors get it.
        photo: (N,) which photo each image is.
        objects: (photos, side, side) the object at each pixel, -1 for none.
        colors: the same for colours.
    """

    context: Context
    photo: NDArray[np.int64]
    objects: NDArray[np.int64]
    colors: NDArray[np.int64]
    made: int = 0

    def entry(self, masks: Dense, *, live: NDArray[np.bool_] | None = None) -> Entry:
        """A recording of units with these masks, (photos, C, side, side): alike on all copies of a photo."""
        unit_masks = UnitMasks.from_dense(masks[self.photo])
        arrays: dict[str, Any] = {
            name: getattr(unit_masks, name) for name in ("image", "unit", "offsets", "edges")
        }
        arrays["live"] = np.ones(masks.shape[1], dtype=bool) if live is None else live
        meta = {"n_images": len(self.photo), "n_units": masks.shape[1], "size": [SIDE, SIDE], "notes": []}
        store = self.context.store
        return store.put(
            store.key("masks", test=int(np.random.default_rng().integers(1 << 60))), arrays, meta
        )


def make_world(root: Path, photos: int, *, copies: int = 1, seed: int = 0) -> World:
    """Noise images with a few objects, four colours and sometimes a scene."""
    rng = np.random.default_rng(seed)
    (root / "set" / "images").mkdir(parents=True)
    objects = np.full((photos, SIDE, SIDE), -1)
    colors = np.zeros((photos, SIDE, SIDE), dtype=np.int64)
    rows = []
    for i in range(photos):
        for _ in range(3):
            top, left = rng.integers(0, SIDE - 4, 2)
            height, width = rng.integers(2, 7, 2)
            objects[i, top : top + height, left : left + width] = min(int(rng.zipf(1.5)) - 1, OBJECTS - 1)
        colors[i] = np.kron(rng.integers(0, COLORS, (2, 2)), np.ones((7, 7), dtype=int))
        scene = str(300 + rng.integers(0, SCENES)) if rng.random() < 0.5 else ""
        pixels = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        for copy in range(copies):
            name = f"{i:03d}_{copy}"
            Image.fromarray(pixels).save(root / "set" / "images" / f"{name}.png")
            for kind, numbers in (("object", objects[i] + 1), ("color", colors[i] + 101)):
                coded = np.stack([numbers, 0 * numbers, 0 * numbers], axis=-1).astype(np.uint8)
                Image.fromarray(coded).save(root / "set" / "images" / f"{name}_{kind}.png")
            parts = (f"{name}_color.png", f"{name}_object.png", "", "", scene, "")
            rows.append((f"{name}.png", "train", SIDE, SIDE, SIDE, SIDE, *parts))
    _write(root / "set" / "index.csv", ["image", "split", "ih", "iw", "sh", "sw", *KINDS], rows)
    labels = [(1 + k, f"object {k}", "object(1)") for k in range(OBJECTS)]
    labels += [(101 + k, f"color {k}", "color(1)") for k in range(COLORS)]
    labels += [(300 + k, f"scene {k}", "scene(1)") for k in range(SCENES)]
    header = ["number", "name", "category", "frequency", "coverage", "syns"]
    _write(root / "set" / "label.csv", header, [(*label, 1, 1.0, "") for label in labels])
    _write(
        root / "set" / "category.csv",
        ["name", "first", "last", "count", "frequency"],
        [(kind, 1, 1, 1, 1) for kind in KINDS],
    )
    probe = load_probe(str(root / "set"))
    context = Context(Store(root / "store"), probe, None, None, None)  # type: ignore[arg-type]
    photo = np.array([int(Path(name).stem.split("_")[0]) for name in probe.ids])
    return World(context, photo, objects, colors)


def blind_masks(photos: int, units: int, *, seed: int, fires_on: int | None = None) -> Dense:
    """Units that know nothing of the labels: a patch on random photos, on a third of them by default."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((photos, units, SIDE, SIDE), dtype=bool)
    for unit in range(units):
        for i in rng.choice(photos, fires_on or photos // 3, replace=False):
            size = rng.integers(1, 6)
            top, left = rng.integers(0, SIDE - size + 1, 2)
            masks[i, unit, top : top + size, left : left + size] = True
    return masks


def _write(path: Path, header: list[str], rows: list[tuple[Any, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
