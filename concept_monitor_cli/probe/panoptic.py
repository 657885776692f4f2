"""COCO panoptic sets: a JSON file, and PNGs that code segments as colours."""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.probe.annotations import Label
from concept_monitor_cli.probe.files import inside, missing_files, natural_key
from concept_monitor_cli.probe.masked import MaskedImage, MaskLabels
from concept_monitor_cli.probe.skipped import Skipped

_TRIED = 50  # files that are looked for in each folder: the first ones may be missing
_SUFFIXES = re.compile(r"(-(other|merged|stuff))+$")


def panoptic_json(folder: Path) -> Path | None:
    """The panoptic JSON file of a folder, or of `annotations/` in it; `None` where there is none.

    Raises:
        InputError: several.
    """
    found = [
        path
        for place in (folder, folder / "annotations")
        if place.is_dir()
        for path in sorted(place.glob("*.json"), key=lambda path: natural_key(path.name))
        if "panoptic" in path.stem.lower() or b'"segments_info"' in _start(path)
    ]
    if len(found) > 1:
        raise InputError(
            f"{len(found)} panoptic JSON files",
            where=folder,
            hint=f"name the one you mean: --probe {found[0]}",
        )
    return found[0] if found else None


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(1 << 20)
    except OSError:
        return b""


def read_panoptic(path: Path) -> tuple[list[MaskedImage], MaskLabels, list[Skipped]]:
    """A COCO panoptic set: JSON with `segments_info`, PNGs that code segment ids as `R + 256 G + 65536 B`.

    Categories are `thing` and `stuff`, by `isthing`. Names lose COCO's `-merged`, `-other` and `-stuff`
    where they stay unique. PNGs are looked for in the folder named like the JSON file and in `masks/`,
    `panoptic/`; images in `images/`, the split's folder (`val2017/`), and beside the JSON file.

    Returns:
        images, labels, and what was left out because its image or its mask is missing.

    Raises:
        InputError: no such JSON, half of the files missing or more, names that leave the folder.
    """
    try:
        data = json.loads(path.read_bytes())
        categories = {int(c["id"]): (str(c["name"]), bool(c.get("isthing", 1))) for c in data["categories"]}
        images = {image["id"]: str(image["file_name"]) for image in data["images"]}
        annotations = [
            (
                a["image_id"],
                str(a["file_name"]),
                {int(s["id"]): int(s["category_id"]) for s in a["segments_info"]},
            )
            for a in data["annotations"]
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"not a COCO panoptic JSON file: {error!r}"[:300], where=path) from error
    if not annotations:
        raise InputError("the JSON file has no annotations", where=path)
    labels = _panoptic_labels(categories)
    index = {label.number: label.index for label in labels}
    for image_id, name, segments in annotations:
        if image_id not in images:
            raise InputError(f"annotation {name!r} belongs to an unknown image", where=path)
        unknown = [category for category in segments.values() if category not in index]
        if unknown:
            raise InputError(
                f"annotation {name!r} uses category {unknown[0]}, which is not listed", where=path
            )
    here = path.parent
    top = here.parent if here.name == "annotations" else here
    split = re.sub(r"^panoptic_", "", path.stem)
    masks_at = _place(
        [here / path.stem, top / path.stem, top / "masks", top / "panoptic", here / "masks", here],
        [name for _, name, _ in annotations],
        path,
    )
    images_at = _place(
        [top / "images" / split, top / "images", top / split, top],
        [images[image_id] for image_id, _, _ in annotations],
        path,
    )
    found = [
        MaskedImage(
            images[image_id],
            inside(images_at, images[image_id], named_in=path),
            inside(masks_at, name, named_in=path),
            {segment: index[category] for segment, category in segments.items()},
        )
        for image_id, name, segments in annotations
    ]
    no_image = missing_files([each.image for each in found], what="image", where=path)
    no_mask = missing_files([each.mask for each in found], what="mask", where=path)
    skipped = [
        Skipped(each.name, "the image is missing" if each.image in no_image else "its mask is missing")
        for each in found
        if each.image in no_image or each.mask in no_mask
    ]
    found = [each for each in found if each.image not in no_image and each.mask not in no_mask]
    return found, MaskLabels(found, labels), skipped


def _panoptic_labels(categories: Mapping[int, tuple[str, bool]]) -> tuple[Label, ...]:
    short = {
        number: _SUFFIXES.sub("", name) if len(name) < 100 else name
        for number, (name, _) in categories.items()
    }
    often = Counter(short.values())
    labels = []
    for index, (number, (name, thing)) in enumerate(sorted(categories.items())):
        shown = short[number] if often[short[number]] == 1 else name
        category = "thing" if thing else "stuff"
        labels.append(Label(index, number, shown, category, (category,)))
    return tuple(labels)


def _place(folders: Sequence[Path], names: Sequence[str], json_file: Path) -> Path:
    """The first folder that holds one of these files; if none does, the first that exists."""
    for folder in folders:
        for name in names[:_TRIED]:
            path = inside(folder, name, named_in=json_file)
            with contextlib.suppress(OSError, ValueError):  # too long for this file system, or no text
                if path.is_file():
                    return folder
    return next((folder for folder in folders if folder.is_dir()), folders[0])
