"""Probing sets in Broden's directory layout (Bau et al. 2017), of 224 or 227 pixels."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.probe.annotations import ImageLabels, Label, LabelMap
from concept_monitor_cli.probe.files import inside, missing_files
from concept_monitor_cli.probe.maskfiles import open_mask, read_mask_file, rgb_numbers
from concept_monitor_cli.probe.skipped import Skipped

_FIXED = ("image", "split", "ih", "iw", "sh", "sw")
_IN_CATEGORY = re.compile(r"([^();]+)(?:\(([0-9]{1,12})\))?")
_SUFFIX = {"color": "-c", "scene": "-s"}
_LIMIT = 1 << 16  # a label map codes 16 bits


@dataclass(frozen=True)
class Row:
    """A line of `index.csv`.

    Attributes:
        image: the image's path under `images/`.
        masks: category -> paths under `images/` of its label maps.
        scalars: category -> numbers of labels of the whole image.
        line: where it stands in the file, for messages.
    """

    image: str
    masks: Mapping[str, tuple[str, ...]]
    scalars: Mapping[str, tuple[int, ...]]
    line: int


class BrodenLabels:
    """Reads the label maps of a Broden directory.

    Args:
        folder: the directory.
        rows: its images, of `read_index`.
        labels: of `read_labels`.
        mask_size: height and width of every label map.
    """

    def __init__(
        self, folder: Path, rows: Sequence[Row], labels: tuple[Label, ...], mask_size: tuple[int, int]
    ) -> None:
        self.labels = labels
        self.mask_size = mask_size
        self._folder = folder / "images"
        self._rows = tuple(rows)
        self._index = {label.number: label.index for label in labels}
        self._table = np.full(_LIMIT, -2, dtype=np.int32)
        self._table[0] = -1
        for label in labels:
            self._table[label.number] = label.index

    def read(self, index: int) -> ImageLabels:
        """See `LabelSource`."""
        row = self._rows[index]
        maps: list[LabelMap] = []
        categories = {category for category, numbers in row.scalars.items() if numbers}
        for category, names in row.masks.items():
            for name in names:
                label_map = self._map(self._folder / name)
                if label_map.max() >= 0:
                    maps.append(label_map)
                    categories.add(category)
        scalars = sorted({self._index[number] for numbers in row.scalars.values() for number in numbers})
        return ImageLabels(tuple(maps), tuple(scalars), tuple(sorted(categories)))

    def content(self, index: int) -> bytes:
        """See `LabelSource`."""
        row = self._rows[index]
        parts = [repr(sorted(row.scalars.items())).encode()]
        for category, names in row.masks.items():
            parts += [repr((category, len(names))).encode()]
            parts += [read_mask_file(self._folder / name) for name in names]
        return b"".join(len(part).to_bytes(8, "little") + part for part in parts)

    def _map(self, path: Path) -> LabelMap:
        numbers = rgb_numbers(open_mask(path, self.mask_size), path)
        if numbers.max() >= _LIMIT:
            raise InputError("a mask uses its blue channel, which label maps leave empty", where=path)
        label_map: LabelMap = self._table[numbers]
        if label_map.min() < -1:
            number = int(numbers[label_map < -1][0])
            raise InputError(
                f"a mask holds label number {number}, which label.csv does not have (with a category)",
                where=path,
            )
        return label_map


def is_broden(folder: Path) -> bool:
    """Whether a folder is laid out like Broden."""
    return (folder / "index.csv").is_file() and (folder / "images").is_dir()


def read_index(folder: Path, labels: Sequence[Label]) -> tuple[list[Row], tuple[int, int]]:
    """The images of a Broden directory in the order of `index.csv`, and the size of its masks.

    Raises:
        InputError: malformed lines, paths that leave the folder, unknown label numbers, masks of several
            sizes, no images.
    """
    path = folder / "index.csv"
    header, lines = read_table(path, _FIXED)
    named = _category_names(folder)
    categories = [name for name in header if name not in _FIXED and (named is None or name in named)]
    known = {label.number for label in labels}
    rows: list[Row] = []
    sizes: dict[tuple[int, int], int] = {}
    seen: set[str] = set()
    for number, line in lines:
        where = f"{path}, line {number}"
        image = line["image"]
        inside(folder, image, named_in=where)
        if image in seen:
            raise InputError(f"image {image!r} stands there twice", where=where)
        seen.add(image)
        sizes.setdefault((_whole(line["sh"], "sh", where), _whole(line["sw"], "sw", where)), number)
        masks: dict[str, tuple[str, ...]] = {}
        scalars: dict[str, tuple[int, ...]] = {}
        for category in categories:
            pieces = [piece.strip() for piece in line[category].split(";") if piece.strip()]
            numbers = [
                int(piece) for piece in pieces if piece.isascii() and piece.isdigit() and len(piece) < 9
            ]
            names = [piece for piece in pieces if not (piece.isascii() and piece.isdigit())]
            if len(numbers) + len(names) != len(pieces):
                raise InputError(f"a label number of {category!r} is too long", where=where)
            for name in names:
                inside(folder, name, named_in=where)
            for label in numbers:
                if label and label not in known:
                    raise InputError(
                        f"label number {label} is not in label.csv (with a category)", where=where
                    )
            if names:
                masks[category] = tuple(names)
            if any(numbers):
                scalars[category] = tuple(label for label in numbers if label)
        rows.append(Row(image, masks, scalars, number))
    if not rows:
        raise InputError("index.csv names no images", where=path)
    if len(sizes) > 1:
        first, second = list(sizes.items())[:2]
        raise InputError(
            f"masks of several sizes: {first[0]} in line {first[1]}, {second[0]} in line {second[1]}",
            where=path,
            hint="use one of Broden's resolutions alone",
        )
    (size,) = sizes
    if min(size) < 1 or max(size) > 1 << 14:
        raise InputError(f"masks of {size[0]} x {size[1]} pixels", where=path)
    return rows, size


def check_files(folder: Path, rows: Sequence[Row]) -> tuple[list[Row], list[Skipped]]:
    """The images that are there with all their masks, and the others.

    Raises:
        InputError: half of the images or masks, or more, are not there; names the first and says how many.
    """
    images = folder / "images"
    where = folder / "index.csv"
    gone = missing_files([images / row.image for row in rows], what="image", where=where)
    masks = [(row.image, images / name) for row in rows for names in row.masks.values() for name in names]
    no_mask = missing_files([path for _, path in masks], what="mask", where=where)
    lacking = {image: path.name for image, path in masks if path in no_mask}
    skipped = [
        Skipped(
            row.image,
            "the image is missing"
            if images / row.image in gone
            else f"a mask is missing: {lacking[row.image]}",
        )
        for row in rows
        if images / row.image in gone or row.image in lacking
    ]
    left = {each.id for each in skipped}
    return [row for row in rows if row.image not in left], skipped


def read_labels(folder: Path) -> tuple[Label, ...]:
    """The labels of a Broden directory that occur in it, in the order of `label.csv`.

    A label's category is the one in which it covers most: by the coverage in `c_*.csv`, else by the counts
    in brackets in `label.csv`, else the first named. Names lose Broden's suffixes: `blue-c` is the colour
    blue, `street-s` the scene. Labels without a category occur nowhere and are left out.

    Raises:
        InputError: missing or malformed files.
    """
    path = folder / "label.csv"
    coverage = _coverage(folder)
    labels: list[Label] = []
    seen: set[int] = set()
    for line_number, line in read_table(path, ("number", "name", "category"))[1]:
        where = f"{path}, line {line_number}"
        number = _whole(line["number"], "number", where)
        if not 0 < number < _LIMIT:
            raise InputError(f"label number {number} is outside 1..{_LIMIT - 1}", where=where)
        if number in seen:
            raise InputError(f"label number {number} stands there twice", where=where)
        seen.add(number)
        counts: dict[str, int] = {}
        for piece in filter(str.strip, line["category"].split(";")):
            match = _IN_CATEGORY.fullmatch(piece.strip())
            if match is None:
                raise InputError(f"malformed category {piece!r}", where=where)
            counts[match[1].strip()] = int(match[2] or 0)
        if not counts:
            continue
        # sorted() keeps the order of equals, so the first named wins.
        order = sorted(counts, key=lambda name: (-coverage.get((name, number), 0.0), -counts[name]))
        name = line["name"].strip()
        for category in order:
            suffix = _SUFFIX.get(category)
            if suffix and name.endswith(suffix):
                name = name[: -len(suffix)]
                break
        if not name:
            raise InputError(f"label number {number} has no name", where=where)
        labels.append(Label(len(labels), number, name, order[0], tuple(order)))
    if not labels:
        raise InputError("label.csv has no labels", where=path)
    return tuple(labels)


def read_table(path: Path, required: Sequence[str]) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """A CSV file with a header: its column names, and its lines with their numbers. Blank lines are left out.

    Raises:
        InputError: missing, not UTF-8, without one of the required columns, or a line with too many or too
            few cells.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            missing = [name for name in required if name not in header]
            if missing:
                raise InputError(
                    f"no column {', '.join(missing)}", where=path, hint=f"found: {', '.join(header)[:200]}"
                )
            if len(set(header)) < len(header):
                raise InputError("two columns have the same name", where=path)
            lines = []
            for cells in reader:
                if not any(cells):
                    continue
                if len(cells) != len(header):
                    raise InputError(
                        f"{len(cells)} cells instead of {len(header)}",
                        where=f"{path}, line {reader.line_num}",
                    )
                lines.append((reader.line_num, dict(zip(header, cells, strict=True))))
            return header, lines
    except FileNotFoundError:
        raise InputError(f"{path.name} is missing", where=path.parent) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"not a readable CSV file: {error}", where=path) from error


def _category_names(folder: Path) -> set[str] | None:
    path = folder / "category.csv"
    if not path.exists():
        return None
    return {line["name"].strip() for _, line in read_table(path, ("name",))[1]}


def _coverage(folder: Path) -> dict[tuple[str, int], float]:
    """(category, label number) -> how many images' worth of pixels it covers there."""
    found: dict[tuple[str, int], float] = {}
    for path in sorted(folder.glob("c_*.csv")):
        for line_number, line in read_table(path, ("number", "coverage"))[1]:
            where = f"{path}, line {line_number}"
            try:
                coverage = float(line["coverage"] or 0)
            except ValueError:
                raise InputError(f"coverage {line['coverage']!r} is no number", where=where) from None
            found[path.stem[2:], _whole(line["number"], "number", where)] = coverage
    return found


def _whole(text: str, column: str, where: str) -> int:
    text = text.strip()
    if not (text.isascii() and text.isdigit() and len(text) < 9):
        raise InputError(f"{column} {text!r} is no whole number", where=where)
    return int(text)
