"""Small data sets made on the spot, and a progress that listens."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from concept_monitor_cli.progress import Silent


class Told(Silent):
    """A progress that keeps what it was told."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.notices: list[str] = []

    def warning(self, message: str) -> None:
        self.warnings.append(message)

    def notice(self, message: str) -> None:
        self.notices.append(message)


def picture(width: int = 20, height: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(array: np.ndarray, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG", **options)
    return stream.getvalue()


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def write_csv(path: Path, header: str, rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header.split(","))
        writer.writerows(rows)


def coded(numbers: np.ndarray) -> np.ndarray:
    """Numbers as Broden and COCO code them: R + 256 G + 65536 B."""
    return np.stack([numbers & 255, numbers >> 8 & 255, numbers >> 16 & 255], axis=-1).astype(np.uint8)


LABELS = [
    (1, "orange-c", "color(2)"),
    (2, "house", "object(2);part(1)"),
    (3, "window", "object(1);part(2)"),
    (300, "street-s", "scene(1)"),
    (5, "striped", "texture(1)"),
    (6, "orange", "object(1)"),
    (7, "never", ""),
]
INDEX = "image,split,ih,iw,sh,sw,color,object,part,material,scene,texture"


def map_of(values: Sequence[Sequence[int]]) -> np.ndarray:
    return np.array(values, dtype=np.int64)


MAPS = {
    "a_color.png": map_of([[1, 1, 0, 0], [0, 0, 0, 0]]),
    "a_object.png": map_of([[2, 2, 0, 6], [2, 2, 2, 2]]),
    "a_part_1.png": map_of([[0, 3, 0, 0], [0, 3, 0, 0]]),
    "a_part_2.png": map_of([[2, 2, 2, 2], [0, 0, 0, 0]]),
    "b_object.png": map_of([[0, 0, 0, 0], [0, 0, 0, 0]]),
}


def tiny_broden(folder: Path, *, index_rows: Sequence[Sequence[object]] | None = None) -> Path:
    """Three images of 8 x 4 with masks of 4 x 2."""
    for number, name in enumerate("abc"):
        save(folder / "images" / "set" / f"{name}.png", picture(8, 4, number))
    for name, numbers in MAPS.items():
        save(folder / "images" / "set" / name, coded(numbers))
    size = (4, 8, 2, 4)
    if index_rows is None:
        parts = "set/a_part_1.png;set/a_part_2.png"
        index_rows = [
            ("set/b.png", "val", *size, "", "set/b_object.png", "", "", "300", "5;0"),
            ("set/a.png", "train", *size, "set/a_color.png", "set/a_object.png", parts, "", "", ""),
            ("set/c.png", "train", *size, "", "", "", "", "", ""),
        ]
    write_csv(folder / "index.csv", INDEX, index_rows)
    rows = [(number, name, category, 1, 1.0, "") for number, name, category in LABELS]
    write_csv(folder / "label.csv", "number,name,category,frequency,coverage,syns", rows)
    categories = ("color", "object", "part", "material", "scene", "texture")
    write_csv(
        folder / "category.csv", "name,first,last,count,frequency", [(c, 1, 1, 1, 1) for c in categories]
    )
    return folder


def tiny_panoptic(folder: Path) -> Path:
    """COCO's official layout: two images, one of them portrait, ids that need three bytes."""
    categories = [
        {"id": 1, "name": "person", "isthing": 1},
        {"id": 187, "name": "sky-other-merged", "isthing": 0},
        {"id": 175, "name": "wall-other-merged", "isthing": 0},
        {"id": 176, "name": "wall-wood", "isthing": 0},
    ]
    images, annotations = [], []
    for number, (width, height) in enumerate([(30, 20), (20, 30)]):
        name = f"{number:012d}"
        save(folder / "val2017" / f"{name}.jpg", picture(width, height, number))
        ids = np.zeros((height, width), dtype=np.int64)
        ids[: height // 2] = 70_000 + number
        ids[height // 2 :, : width // 2] = 258
        save(folder / "annotations" / "panoptic_val2017" / f"{name}.png", coded(ids))
        images.append({"id": number, "file_name": f"{name}.jpg", "width": width, "height": height})
        segments = [{"id": 70_000 + number, "category_id": 187}, {"id": 258, "category_id": 1}]
        annotations.append({"image_id": number, "file_name": f"{name}.png", "segments_info": segments})
    data = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations" / "panoptic_val2017.json").write_text(json.dumps(data))
    return folder


def tiny_index_masks(folder: Path, *, classes: str = "background\nroad\n\nsky\n") -> Path:
    """Two images with grey index masks; the second mask has palette pixels."""
    for number, name in enumerate(("seq1/frame2", "seq1/frame10")):
        save(folder / "images" / f"{name}.jpg", picture(24, 16, number))
        values = np.zeros((16, 24), dtype=np.uint8)
        values[:8] = 3
        values[8:, :12] = 1
        values[15, 23] = 255
        path = folder / "masks" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        mask = Image.fromarray(values)
        if number:
            mask.putpalette([200, 10, 10] * 256)  # colours say nothing: the index counts
        mask.save(path)
    (folder / "classes.txt").write_text(classes)
    return folder
