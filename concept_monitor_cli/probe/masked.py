"""Probing sets with masks of one's own: COCO panoptic folders, and folders of index PNGs with a class list.

Their images and masks have many sizes. The masks are brought to 112 x 112 (Broden's size for 224-pixel
images) by taking the nearest pixel; the images are shown to networks as whole frames, so that both line up.
"""

from __future__ import annotations

import contextlib
import csv
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.probe.annotations import (
    MASK_SIDE,
    UNLABELLED,
    ImageLabels,
    Label,
    LabelMap,
    nearest_rows,
    open_mask,
    read_mask_file,
    require_same_frame,
    rgb_numbers,
)
from concept_monitor_cli.probe.files import inside, list_files, list_images, natural_key, require_files

_SIZE = (MASK_SIDE, MASK_SIDE)
_SUFFIXES = re.compile(r"(-(other|merged|stuff))+$")


@dataclass(frozen=True)
class MaskedImage:
    """An image and its mask. `segments`: for COCO, the number in the mask -> the label's index."""

    name: str
    image: Path
    mask: Path
    segments: Mapping[int, int] | None = None


class MaskLabels:
    """Reads one mask per image.

    Args:
        images: the images and their masks.
        labels: the labels.
        ignored: numbers in index PNGs that mean unlabelled.
    """

    mask_size = _SIZE

    def __init__(
        self, images: Sequence[MaskedImage], labels: tuple[Label, ...], ignored: frozenset[int] = frozenset()
    ) -> None:
        self.labels = labels
        self._images = tuple(images)
        self._numbers = {label.number: label.index for label in labels} | dict.fromkeys(ignored, UNLABELLED)

    def read(self, index: int) -> ImageLabels:
        """See `LabelSource`."""
        image = self._images[index]
        mask = open_mask(image.mask)
        if image.segments is not None:
            numbers, known = rgb_numbers(mask, image.mask), {0: UNLABELLED, **image.segments}
        else:
            numbers, known = _indices(mask, image.mask), self._numbers
        require_same_frame((mask.height, mask.width), _frame(image.image), image.mask)
        label_map = _relabelled(numbers, known, image)
        small: LabelMap = np.ascontiguousarray(nearest_rows(label_map, _SIZE))
        present = [self.labels[i].category for i in np.unique(small) if i != UNLABELLED]
        return ImageLabels((small,) if present else (), (), tuple(sorted(set(present))))

    def content(self, index: int) -> bytes:
        """See `LabelSource`."""
        image = self._images[index]
        segments = None if image.segments is None else sorted(image.segments.items())
        return repr((segments, sorted(self._numbers.items()))).encode() + read_mask_file(image.mask)


def _relabelled(numbers: npt.NDArray[np.int64], known: Mapping[int, int], image: MaskedImage) -> LabelMap:
    values, places = np.unique(numbers, return_inverse=True)
    indices = np.empty(len(values), dtype=np.int32)
    for place, value in enumerate(values.tolist()):
        if value not in known:
            what = "segment" if image.segments is not None else "label number"
            raise InputError(
                f"a mask holds {what} {value}, which the list of them does not have",
                where=image.mask,
                hint=None if image.segments is not None else "list it, or leave its line blank: unlabelled",
            )
        indices[place] = known[value]
    return indices[places.reshape(numbers.shape)]


def _indices(mask: Image.Image, path: Path) -> npt.NDArray[np.int64]:
    if mask.mode not in ("P", "L", "1", "I", "I;16"):
        raise InputError(
            f"a mask has {mask.mode} pixels, not class numbers",
            where=path,
            hint="convert colour-coded masks to PNGs with one number per pixel (grey or palette)",
        )
    return np.asarray(mask).astype(np.int64)


def _frame(path: Path) -> tuple[int, int]:
    """Height and width of an image as it is shown, upright."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    except Exception as error:
        raise InputError(f"an image cannot be read: {error}", where=path) from error
    return (width, height) if turned else (height, width)


# -- COCO panoptic -------------------------------------------------------------------------------------------


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


def read_panoptic(path: Path) -> tuple[list[MaskedImage], MaskLabels]:
    """A COCO panoptic set: JSON with `segments_info`, PNGs that code segment ids as `R + 256 G + 65536 B`.

    Categories are `thing` and `stuff`, by `isthing`. Names lose COCO's `-merged`, `-other` and `-stuff`
    where they stay unique. PNGs are looked for in the folder named like the JSON file and in `masks/`,
    `panoptic/`; images in `images/`, the split's folder (`val2017/`), and beside the JSON file.

    Raises:
        InputError: no such JSON, files missing, names that leave the folder.
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
        annotations[0][1],
        path,
    )
    images_at = _place(
        [top / "images" / split, top / "images", top / split, top], images[annotations[0][0]], path
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
    require_files([each.image for each in found], what="image", where=path)
    require_files([each.mask for each in found], what="mask", where=path)
    return found, MaskLabels(found, labels)


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


def _place(folders: Sequence[Path], name: str, json_file: Path) -> Path:
    """The first folder that holds this file; where none does, the first that exists, for the message."""
    for folder in folders:
        path = inside(folder, name, named_in=json_file)
        with contextlib.suppress(OSError):  # the name may be too long for this file system
            if path.is_file():
                return folder
    return next((folder for folder in folders if folder.is_dir()), folders[0])


# -- index PNGs ----------------------------------------------------------------------------------------------

_IMAGE_FOLDERS = ("images", "JPEGImages", "image", "imgs", "img")
_MASK_FOLDERS = ("masks", "SegmentationClass", "labels", "annotations", "mask")
_LISTS = (
    "classes.csv",
    "classes.txt",
    "codes.txt",
    "class_names.txt",
    "labels.txt",
    "objectInfo150.txt",
    "objectInfo150.csv",
)
_UNLABELLED_NAMES = frozenset(("", "background", "void", "unlabeled", "unlabelled", "ignore", "ignored"))
_IGNORED = 255
_MASK_ENDINGS = ("", "_P", "_L", "_mask", "_label", "_labels", "_seg")

# Pascal VOC comes without a class list: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/segexamples/
_VOC = (
    "background aeroplane bicycle bird boat bottle bus car cat chair cow dining-table dog horse motorbike "
    "person potted-plant sheep sofa train tv-monitor"
)


def mask_folders(folder: Path) -> tuple[Path, Path] | None:
    """The folders of images and masks of an index-PNG set; `None` where it is not one."""
    images = next((folder / name for name in _IMAGE_FOLDERS if (folder / name).is_dir()), None)
    masks = next((folder / name for name in _MASK_FOLDERS if (folder / name).is_dir()), None)
    if images is None or masks is None or not list_files(masks, (".png",)):
        return None
    return images, masks


def read_index_masks(
    folder: Path, images_at: Path, masks_at: Path
) -> tuple[list[MaskedImage], MaskLabels, int]:
    """A folder of images and of PNGs that hold a class number per pixel (CamVid, ADE20K, Pascal VOC).

    A mask belongs to the image of the same path and name (CamVid's `_P` and `_L` are allowed after it).

    Returns:
        images, labels, and how many images were left out for want of a mask (Pascal VOC: most have none).

    Raises:
        InputError: no class list, masks missing.
    """
    labels, ignored = read_classes(folder, voc=masks_at.name == "SegmentationClass")
    masks = {name[: -len(".png")]: name for name in list_files(masks_at, (".png",))}
    found, missing = [], []
    for name in list_images(images_at):
        stem = name.rpartition(".")[0]
        mask = next((masks[stem + ending] for ending in _MASK_ENDINGS if stem + ending in masks), None)
        if mask is None:
            missing.append(name)
        else:
            found.append(MaskedImage(name, images_at / name, masks_at / mask))
    partly = masks_at.name == "SegmentationClass"
    if not found or (missing and not partly):
        first = f", the first: {missing[0]}" if missing else ""
        raise InputError(
            f"{len(missing):,} of {len(missing) + len(found):,} images have no {masks_at.name}/ PNG{first}",
            where=folder,
            hint="a mask is a .png with the path and name of its image",
        )
    return found, MaskLabels(found, labels, ignored), len(missing)


def read_classes(folder: Path, *, voc: bool = False) -> tuple[tuple[Label, ...], frozenset[int]]:
    """The class list of an index-PNG set: its labels, and the numbers that mean unlabelled.

    `classes.txt` (also `codes.txt`, `labels.txt`, `class_names.txt`): a name per line, the first line for
    the number 0. `classes.csv`: columns `index` and `name`, and `category` if wanted (default `object`);
    ADE20K's `objectInfo150.txt` is read likewise. Blank lines and names such as `background` and `void`
    mean unlabelled; so does 255, and with explicit numbers 0, unless listed.

    Raises:
        InputError: no list, or a malformed one.
    """
    path = next((folder / name for name in _LISTS if (folder / name).is_file()), None)
    if path is None and voc:
        listed = [(number, name.replace("-", " "), "object") for number, name in enumerate(_VOC.split())]
        free = {_IGNORED}
    elif path is None:
        raise InputError(
            "masks without a class list",
            where=folder,
            hint="add classes.txt there: a name per line, the first for the number 0",
        )
    else:
        listed, free = _class_lines(path)
    labels: list[Label] = []
    for number, name, category in listed:
        free.discard(number)
        if name.casefold() in _UNLABELLED_NAMES:
            free.add(number)
        else:
            labels.append(Label(len(labels), number, name, category, (category,)))
    if not labels:
        raise InputError("the class list names no class", where=path)
    return tuple(labels), frozenset(free)


def _class_lines(path: Path) -> tuple[list[tuple[int, str, str]], set[int]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"not a readable class list: {error}", where=path) from error
    lines = text.splitlines()
    first = lines[0] if lines else ""
    delimiter = "\t" if "\t" in first else ","
    header = [cell.strip().lower() for cell in first.split(delimiter)]
    number_at = next(
        (header.index(name) for name in ("index", "idx", "id", "number", "value") if name in header), None
    )
    name_at = next((header.index(name) for name in ("name", "class", "label") if name in header), None)
    if path.suffix == ".txt" and (number_at is None or name_at is None):
        while lines and not lines[-1].strip():
            lines.pop()
        return [(number, line.strip(), "object") for number, line in enumerate(lines)], {_IGNORED}
    if number_at is None or name_at is None:
        raise InputError("the class list needs the columns index and name", where=path)
    category_at = header.index("category") if "category" in header else None
    listed: dict[int, tuple[int, str, str]] = {}
    try:
        for row in csv.reader(lines[1:], delimiter=delimiter, strict=True):
            if not any(cell.strip() for cell in row):
                continue
            number = int(row[number_at])
            if number < 0 or number in listed:
                raise ValueError(f"class {number} is negative or stands there twice")
            # ADE20K lists synonyms: "wall, walls" or "door;double door".
            name = re.split(r"[;,]", row[name_at])[0].strip() if delimiter == "\t" else row[name_at].strip()
            category = row[category_at].strip() if category_at is not None else ""
            listed[number] = (number, name, category or "object")
    except (ValueError, IndexError, csv.Error) as error:
        raise InputError(f"malformed class list: {error}", where=path) from error
    return list(listed.values()), {0, _IGNORED}


def as_plain(images: Sequence[MaskedImage]) -> tuple[list[Path], list[str]]:
    """Paths and names, for `FileImages`."""
    return [image.image for image in images], [image.name for image in images]
