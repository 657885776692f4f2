"""Class lists: which number, or which colour, of a mask stands for which class."""

from __future__ import annotations

import ast
import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.probe.annotations import Label

CLASS_LISTS = (
    "classes.csv",
    "classes.txt",
    "codes.txt",
    "class_names.txt",
    "labels.txt",
    "label_names.txt",
    "class_list.txt",
    "categories.txt",
    "_classes.csv",
    "object150_info.csv",
    "objectInfo150.txt",
    "objectInfo150.csv",
    "class_dict.csv",
    "label_colors.txt",
    "labelmap.txt",
    "classes.json",
    "id2label.json",
    "config.json",
    "config_v1.2.json",
    "config_v2.0.json",
)
_UNLABELLED_NAMES = frozenset(
    [
        "background",
        "bg",
        "void",
        "unlabeled",
        "unlabelled",
        "ignore",
        "ignored",
        "unclassified",
        "not classified",
        "no label",
        "unknown",
        "none",
        "nothing",
        "null",
        "n/a",
        "undefined",
        "unannotated",
        "no class",
    ]
)

# Pascal VOC comes without a class list: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/segexamples/
_VOC = (
    "background,aeroplane,bicycle,bird,boat,bottle,bus,car,cat,chair,cow,dining table,dog,horse,motorbike,"
    "person,potted plant,sheep,sofa,train,tv monitor"
)
# Cityscapes' `id` (`*_labelIds.png`) and `trainId` (`*_labelTrainIds.png`, also BDD100K's), from
# cityscapesscripts/helpers/labels.py. Its classes that are left out of evaluation are void.
_CITYSCAPES = (
    "unlabeled,ego vehicle,rectification border,out of roi,static,dynamic,ground,road,sidewalk,parking,"
    "rail track,building,wall,fence,guard rail,bridge,tunnel,pole,polegroup,traffic light,traffic sign,"
    "vegetation,terrain,sky,person,rider,car,truck,bus,caravan,trailer,train,motorcycle,bicycle"
)
_CITYSCAPES_VOID = ("ego vehicle", "rectification border", "out of roi", "static", "dynamic")
_CITYSCAPES_TRAIN = (
    "road,sidewalk,building,wall,fence,pole,traffic light,traffic sign,vegetation,terrain,sky,person,rider,"
    "car,truck,bus,train,motorcycle,bicycle"
)

Listed = tuple[int, str, str]  # number, name, category


@dataclass(frozen=True)
class ClassList:
    """What the numbers in masks mean.

    Attributes:
        labels: the classes.
        unlabelled: numbers that the list names as no class: background, void, blank lines.
        numbered: whether the list says its numbers; else the first line is 0.
        source: the file, or whose list it is, for messages.
        colours: for lists of colours, `R + 256 G + 65536 B` -> number; else empty.
        assumed: for masks that came without a list, what is taken for it, as a sentence for the user.
    """

    labels: tuple[Label, ...]
    unlabelled: frozenset[int]
    numbered: bool
    source: str
    colours: Mapping[int, int] = field(default_factory=dict)
    assumed: str = ""

    @property
    def numbers(self) -> tuple[int, ...]:
        """All numbers that the list names, classes or not, ascending."""
        return tuple(sorted({label.number for label in self.labels} | self.unlabelled))


def find_classes(*folders: Path) -> ClassList | None:
    """The class list that lies in the first of these folders that has one; `None` where none has.

    Raises:
        InputError: malformed.
    """
    for folder in folders:
        for name in CLASS_LISTS:
            if (folder / name).is_file() and (found := read_classes(folder / name)) is not None:
                return found
    return None


def read_classes(path: Path) -> ClassList | None:
    """A class list. `None` for a `config.json` that is none (Mapillary's is one, others have that name too).

    - text: a name per line, the first for the number 0, or `0 name`, `0: name` and the like, or colours as
      `64 128 64 name` (CamVid) or `name:64,128,64::` (CVAT);
    - CSV: columns `index` and `name`, and `category` if wanted (default `object`), or `name,r,g,b`;
      ADE20K's `objectInfo150` is read likewise;
    - JSON: `{"0": "name"}`, `{"name": 0}`, a list of names, Mapillary's `config.json`.

    Blank lines and names such as `background` and `void` mean unlabelled.

    Raises:
        InputError: malformed.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"not a readable class list: {error}", where=path) from error
    colours: dict[int, int] = {}
    if path.suffix == ".json":
        listed = _json_classes(text, path)
        if listed is None:
            return None
        numbered = True
    else:
        listed, numbered, colours = _text_classes(text, path)
    return _class_list(listed, numbered=numbered, source=path.name, where=path, colours=colours)


def known_classes(masks: str, names: Iterable[str]) -> ClassList | None:
    """The published class list of masks that come without one, by their folder and how they are called.

    Args:
        masks: path of their folder.
        names: the masks' files.
    """
    stems = [name.rpartition(".")[0] for name in list(names)[:50]]
    folder = masks.replace("\\", "/").rstrip("/").rpartition("/")[2]
    if folder in ("SegmentationClass", "SegmentationClassAug"):
        return _of_names(_VOC, "Pascal VOC's classes")
    if folder == "trimaps":
        pets: list[Listed] = [(1, "pet", "object"), (2, "background", ""), (3, "not classified", "")]
        said = (
            "trimaps are read as those of Oxford-IIIT Pet: 1 is 'pet', 2 (background) and 3 "
            "(border) unlabelled"
        )
        return replace(
            _class_list(pets, numbered=True, source="the trimaps of Oxford-IIIT Pet"), assumed=said
        )
    if any(stem.endswith("_labelIds") for stem in stems):
        return _of_names(_CITYSCAPES, "the classes of Cityscapes", void=_CITYSCAPES_VOID)
    if any(stem.endswith(("TrainIds", "_train_id")) for stem in stems) or "sem_seg/masks" in masks:
        return _of_names(_CITYSCAPES_TRAIN, "the training classes of Cityscapes")
    return None


def _of_names(text: str, source: str, void: Sequence[str] = ()) -> ClassList:
    """A list whose masks hold 255 where nothing is labelled, as their authors say."""
    listed = [
        (number, "void" if name in void else name, "object") for number, name in enumerate(text.split(","))
    ]
    listed.append((255, "void", "object"))
    classes = _class_list(listed, numbered=True, source=source)
    return replace(classes, assumed=f"the masks have no class list and are read with {source}")


def _class_list(
    listed: Sequence[Listed],
    *,
    numbered: bool,
    source: str,
    where: Path | None = None,
    colours: Mapping[int, int] | None = None,
) -> ClassList:
    labels: list[Label] = []
    unlabelled: set[int] = set()
    for number, name, category in listed:
        if is_unlabelled(name):
            unlabelled.add(number)
        else:
            labels.append(Label(len(labels), number, name, category, (category,)))
    if not labels:
        raise InputError("the class list names no class", where=where)
    return ClassList(tuple(labels), frozenset(unlabelled), numbered, source, dict(colours or {}))


def is_unlabelled(name: str) -> bool:
    """Whether a name in a class list means that nothing is labelled: `background`, `_background_`, blank."""
    plain = re.sub(r"[\s_-]+", " ", name).strip().casefold()
    return not plain or plain in _UNLABELLED_NAMES


# -- text ----------------------------------------------------------------------------------------------------

_NUMBERED = re.compile(
    r"\s*(?:class|label|id)?\s*[\[(]?\s*(\d{1,9})(?:\s*(?:->|=>|[\])]?\s*[:=,;.\t-]|[\])])\s*|\s+)(\S.*)",
    re.IGNORECASE,
)
_NUMBER_LAST = re.compile(r"(.*?\S)(?:\s*[:=,;\t]\s*|\s+)(\d{1,9})\s*")
_QUOTED = re.compile(r"""\s*(["'])(.*)\1\s*[,;]?\s*""")
_COLOUR_FIRST = re.compile(r"\s*(\d{1,3})[\s,]+(\d{1,3})[\s,]+(\d{1,3})[\s,]+(\D.*)")
_CVAT = re.compile(r"([^:]+):(\d{1,3}),(\d{1,3}),(\d{1,3}):[^:]*:[^:]*")


def _text_classes(text: str, path: Path) -> tuple[list[Listed], bool, dict[int, int]]:
    """What a text or CSV file lists, whether with numbers, and its colours."""
    if text.lstrip()[:1] in ("{", "[") and (literal := _literal(text)) is not None:
        return _listed(literal), True, {}
    lines = text.splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    first = lines[0] if lines else ""
    delimiter = next((sign for sign in ("\t", ",", ";") if sign in first), ",")
    header = [cell.strip().strip('"').lower() for cell in first.split(delimiter)]
    name_at = _column(header, "name", "class", "label", "class_name", "label_name", "class name")
    if name_at is not None and len(header) > 1:
        colours_at = [_column(header, short, long) for short, long in _CHANNELS]
        if all(at is not None for at in colours_at):
            return _colour_table(lines, delimiter, name_at, [at for at in colours_at if at is not None], path)
        number_at = _column(
            header, "index", "idx", "id", "number", "value", "pixel value", "class_id", "label_id"
        )
        if number_at is not None:
            return _number_table(lines, delimiter, header, number_at, name_at, path), True, {}
    if path.suffix != ".txt":
        raise InputError("the class list needs the columns index and name, or name,r,g,b", where=path)
    return _plain_lines(lines, path)


_CHANNELS = (("r", "red"), ("g", "green"), ("b", "blue"))


def _column(header: Sequence[str], *names: str) -> int | None:
    return next((header.index(name) for name in names if name in header), None)


def _plain_lines(lines: Sequence[str], path: Path) -> tuple[list[Listed], bool, dict[int, int]]:
    lines = [line for line in lines if not line.lstrip().startswith("#")]
    filled = [line for line in lines if line.strip()]
    for pattern, name_group, channels in ((_COLOUR_FIRST, 4, (1, 2, 3)), (_CVAT, 1, (2, 3, 4))):
        matches = [pattern.fullmatch(line) for line in filled]
        if filled and all(matches):
            found = [match for match in matches if match is not None]
            rows = [
                ([int(match[channel]) for channel in channels], match[name_group].strip()) for match in found
            ]
            return _coloured(rows, path)
    for pattern, number_at, name_at in ((_NUMBERED, 1, 2), (_NUMBER_LAST, 2, 1)):
        numbered = [pattern.fullmatch(line) for line in filled]
        if filled and all(numbered):
            pairs = [
                (int(match[number_at]), _bare(match[name_at])) for match in numbered if match is not None
            ]
            numbers = sorted(number for number, _ in pairs)
            counts = numbers in (list(range(len(pairs))), list(range(1, len(pairs) + 1)))
            names = {name for _, name in pairs}
            # `type 1`, `type 2` are names; `sky 1`, `grass 2` have numbers.
            if len(set(numbers)) == len(pairs) and (number_at == 1 or (counts and len(names) == len(pairs))):
                return [(number, name, "object") for number, name in pairs], True, {}
    if len(filled) == 1 and filled[0].count(",") > 1:  # all in one line
        lines = filled[0].split(",")
    if lines and lines[0].strip() == "__ignore__":  # labelme: this name stands for -1
        lines = lines[1:]
    return [(number, _bare(line), "object") for number, line in enumerate(lines)], False, {}


def _bare(name: str) -> str:
    """A name without quotation marks around it."""
    match = _QUOTED.fullmatch(name)
    return (match[2] if match else name).strip()


def _number_table(
    lines: Sequence[str], delimiter: str, header: Sequence[str], number_at: int, name_at: int, path: Path
) -> list[Listed]:
    category_at = header.index("category") if "category" in header else None
    # ADE20K lists synonyms: "wall, walls" or "door;double door".
    synonyms = "[;,]" if delimiter == "\t" or path.stem in ("objectInfo150", "object150_info") else ";"
    listed: dict[int, Listed] = {}
    try:
        for row in csv.reader(lines[1:], delimiter=delimiter, strict=True):
            if not any(cell.strip() for cell in row):
                continue
            number = int(row[number_at])
            if number < 0 or number in listed:
                raise ValueError(f"class {number} is negative or stands there twice")
            name = re.split(synonyms, row[name_at])[0].strip()
            category = row[category_at].strip() if category_at is not None else ""
            listed[number] = (number, name, category or "object")
    except (ValueError, IndexError, csv.Error) as error:
        raise InputError(f"malformed class list: {error}", where=path) from error
    return list(listed.values())


def _colour_table(
    lines: Sequence[str], delimiter: str, name_at: int, colours_at: Sequence[int], path: Path
) -> tuple[list[Listed], bool, dict[int, int]]:
    try:
        rows = [
            ([int(row[at]) for at in colours_at], row[name_at].strip())
            for row in csv.reader(lines[1:], delimiter=delimiter, strict=True)
            if any(cell.strip() for cell in row)
        ]
    except (ValueError, IndexError, csv.Error) as error:
        raise InputError(f"malformed class list: {error}", where=path) from error
    return _coloured(rows, path)


def _coloured(
    rows: Sequence[tuple[Sequence[int], str]], path: Path
) -> tuple[list[Listed], bool, dict[int, int]]:
    listed: list[Listed] = []
    colours: dict[int, int] = {}
    for number, ((red, green, blue), name) in enumerate(rows):
        if not all(0 <= channel <= 255 for channel in (red, green, blue)):
            raise InputError(f"malformed class list: the colour of {name!r} is outside 0..255", where=path)
        code = red + 256 * green + 65536 * blue
        if code in colours:
            raise InputError(f"malformed class list: {name!r} has the colour of another class", where=path)
        colours[code] = number
        listed.append((number, name, "object"))
    return listed, False, colours


# -- JSON ----------------------------------------------------------------------------------------------------


def _json_classes(text: str, path: Path) -> list[Listed] | None:
    try:
        data = json.loads(text)
        if path.name.startswith("config"):
            return _config_classes(data)
        return _listed(data)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"malformed class list: {error}"[:300], where=path) from error


def _listed(data: Any) -> list[Listed]:
    """A list of names, `{"0": "name"}` or `{"name": 0}`.

    Raises:
        ValueError, TypeError, AttributeError: it is none of them.
    """
    if isinstance(data, list):
        pairs = list(enumerate(data))
    elif all(isinstance(value, int) for value in data.values()):
        pairs = [(number, name) for name, number in data.items()]
    else:
        pairs = [(int(number), name) for number, name in data.items()]
    listed = [(int(number), str(name).strip(), "object") for number, name in pairs]
    if any(not isinstance(name, str) or number < 0 for number, name in pairs):
        raise ValueError("names must be text and numbers not negative")
    if len({number for number, _, _ in listed}) < len(listed):
        raise ValueError("a number stands there twice")
    return listed


def _literal(text: str) -> Any:
    """JSON or a Python literal in a text file; None where it is neither, or no list of classes."""
    for read in (json.loads, ast.literal_eval):
        try:
            _listed(found := read(text))
        except (ValueError, TypeError, AttributeError, SyntaxError, RecursionError, MemoryError):
            continue
        return found
    return None


def _config_classes(data: Any) -> list[Listed] | None:
    """Mapillary Vistas: `{"labels": [{"name": ..., "readable": ...}, ...]}`, numbered by their order."""
    labels = data.get("labels") if isinstance(data, dict) else None
    if not isinstance(labels, list) or not labels or not all(isinstance(label, dict) for label in labels):
        return None
    names = [label.get("readable", label.get("name")) for label in labels]
    if not all(isinstance(name, str) for name in names):
        return None
    return [(number, str(name).strip(), "object") for number, name in enumerate(names)]
