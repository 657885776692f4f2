"""Which column of a table holds the concepts, and which their categories."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from concept_monitor_cli.concepts.concept_set import CATEGORIES
from concept_monitor_cli.concepts.plain import MID, WNID
from concept_monitor_cli.concepts.tidy import tidy

# Best first. `class`, `label` and `id` hold numbers in some files and names in others: a column counts only
# where its cells are words.
NAME_HEADERS = (
    "concept", "concepts", "name", "names", "class_name", "classname", "category_name", "label_name",
    "display_name", "displayname", "word", "words", "label", "labels", "class", "classes", "object", "noun",
    "sign_name", "species", "species_name", "common_name", "object_name", "label_text", "class_label",
    "breed", "term", "text", "english", "readable_name", "synonyms", "description", "title", "tag", "lemma",
    "phrase",
)  # fmt: skip
CATEGORY_HEADERS = ("category", "categories", "kind", "supercategory")
_OTHER_HEADERS = frozenset(
    ("index", "idx", "id", "number", "no", "nr", "wnid", "synset", "mid", "labelname", "label_id", "class_id",
     "category_id", "file", "filename", "path", "count", "frequency", "freq", "coverage", "color", "colour",
     "r", "g", "b", "train", "val", "ratio", "stuff", "isthing", "image_count", "instance_count", "def",
     "syns", "line", "rank", "url", "score", "line_number", "sources")
)  # fmt: skip

_STRONG_ALWAYS = frozenset(("concept", "concepts"))
_STRONG = _STRONG_ALWAYS | {
    "name", "names", "class_name", "classname", "label", "labels", "word", "words", "class", "classes",
    "display_name", "displayname", "category_name", "label_name",
}  # fmt: skip

Kind = Literal["empty", "number", "code", "file", "category", "word"]

_NUMBER = re.compile(r"[-+]?\d[\d.,e+-]*%?", re.IGNORECASE)
_FILE = re.compile(r".+\.(jpe?g|png|gif|bmp|webp|tiff?|npy|pt|txt|json|xml)", re.IGNORECASE)
_COUNTED = re.compile(r"(.+?)\s*\(\d+\)")  # Broden: object(6)


def key_of(header: str) -> str:
    """A header as it is compared: `Class Name` and `class-name` are `class_name`."""
    split = tidy(header)
    if split != "LabelName":  # Open Images: a code
        split = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", split)
    key = re.sub(r"[\s\-_]+", "_", split.lower())
    return "index" if key.startswith("unnamed:") else key  # what pandas calls its index


def is_header(cells: Sequence[str]) -> bool:
    """Whether a first row names the columns of a table, by words that data sets use for it."""
    keys = [key_of(cell) for cell in cells if cell.strip()]
    if not keys:
        return False
    strong = _STRONG.intersection(keys)
    named = [key for key in keys if key in NAME_HEADERS or key in CATEGORY_HEADERS]
    known = [*named, *(key for key in keys if key in _OTHER_HEADERS)]
    # A list of words may begin with `object` or `text`: such a header has a second column beside it.
    return (
        bool(strong and (len(keys) == 1 or len(known) > 1 or keys[0] in strong))
        or (bool(named) and len(known) > 1)
        or bool(_STRONG_ALWAYS.intersection(keys))
    )


def category_in(cell: str) -> str:
    """The first category of a cell: of `object(6);part(2)` the object."""
    first = re.split(r"[;|/]", cell)[0]
    match = _COUNTED.fullmatch(first.strip())
    kind = tidy(match[1] if match else first).lower()
    return "color" if kind == "colour" else kind


def kind_of(cells: Sequence[str]) -> Kind:
    """What a column holds, by its cells."""
    full = [cell.strip() for cell in cells if cell.strip()]
    if not full:
        return "empty"
    if all(_NUMBER.fullmatch(cell) for cell in full):
        return "number"
    if all(WNID.fullmatch(cell) or MID.fullmatch(cell) for cell in full):
        return "code"
    if all(_FILE.fullmatch(cell) for cell in full):
        return "file"
    if all(category_in(cell) in CATEGORIES for cell in full):
        return "category"
    return "word"


def choose_columns(
    header: Sequence[str] | None, rows: Sequence[Sequence[str]]
) -> tuple[int | None, int | None, int | None]:
    """(concepts, categories, codes): the numbers of these columns; None where there is none.

    Args:
        header: the columns' names; None where the table has none.
        rows: the cells; a short row lacks its last ones.
    """
    width = len(header) if header is not None else max((len(row) for row in rows), default=0)
    columns = [[row[at] if at < len(row) else "" for row in rows] for at in range(width)]
    kinds = [kind_of(column) for column in columns]
    code_at = next((at for at, kind in enumerate(kinds) if kind == "code"), None)
    if header is None:
        name_at = next((at for at, kind in enumerate(kinds) if kind == "word"), None)
        if name_at is None:
            name_at = next((at for at, kind in enumerate(kinds) if kind == "category"), None)
        others = [at for at, kind in enumerate(kinds) if kind == "category" and at != name_at]
        return name_at, others[0] if others else None, code_at
    keys = [key_of(cell) for cell in header]
    # A column called `concept` is it, whatever is in it; words are looked for under the other headers.
    wanted = [keys.index(name) for name in NAME_HEADERS if name in keys]
    words = [at for at in wanted if kinds[at] in ("word", "category", "empty")]
    name_at = wanted[0] if wanted and keys[wanted[0]] == "concept" else words[0] if words else None
    category_at = next((keys.index(name) for name in CATEGORY_HEADERS[:3] if name in keys), None)
    return name_at, category_at if category_at != name_at else None, code_at
