"""Where concept sets come from: files, open_clip's ImageNet names, our own list, the probe set's labels."""

from __future__ import annotations

import codecs
import csv
import io
import unicodedata
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from importlib import resources
from pathlib import Path

from concept_monitor_cli.concepts.concept_set import CATEGORIES, ConceptSet, tidy
from concept_monitor_cli.errors import InputError

MAX_LENGTH = 200
"""Characters of one concept. A longer line is a paragraph, or no word list: CLIP reads 77 tokens."""

# Format characters that nobody sees and that make two equal words differ: zero-width space, soft hyphen,
# marks of writing direction, stray byte order marks. The joiners U+200C and U+200D carry meaning and stay.
_INVISIBLE = frozenset("\u00ad\u200b\u200e\u200f\u2060\ufeff") | {
    chr(c) for c in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
}

# ImageNet is a list of objects; these ten of its classes (alp, cliff, coral reef, geyser, lakeshore,
# promontory, sandbar, beach, valley, volcano) are places.
_IMAGENET_SCENES = frozenset({970, *range(972, 981)})


def load_concepts(spec: str | Path, *, probe_concepts: ConceptSet | None = None) -> ConceptSet:
    """A concept set by what the user wrote.

    Args:
        spec: `broden` (the probe set's own labels), `imagenet` (open_clip's 1,000 clean class names),
            `common` (our list of some 1,000 visual words in six categories), `builtin` (the renderer's
            vocabulary), or a file: `.csv`/`.tsv` with a header `concept[,category]`, anything else one
            concept a line.
        probe_concepts: the labels of the probe set, for `broden`.

    Raises:
        InputError: no such file or name, no text, no concept in it, a line too long, a malformed table,
            or `broden` with a probe set that has no labels.
    """
    text = str(spec)
    if text == "broden":
        if probe_concepts is None or not len(probe_concepts):
            raise InputError(
                "the probe set has no labels of its own",
                where="--concepts broden",
                hint="give a Broden directory as --probe, or --concepts common or a text file",
            )
        return probe_concepts
    if text in _NAMED:
        return _NAMED[text]()
    path = Path(spec).expanduser()
    if not path.exists():
        names = ["broden", *_NAMED]
        close = get_close_matches(text, names, n=1)
        hint = f"--concepts {close[0]}" if close else f"a file that exists, or one of {', '.join(names)}"
        raise InputError("there is no such concept file or list", where=text, hint=hint)
    if not path.is_file():
        raise InputError("the concept file is not a file", where=path)
    if path.suffix.lower() in (".csv", ".tsv"):
        return read_concept_table(path)
    return read_concept_lines(path)


def read_concept_lines(path: Path) -> ConceptSet:
    """One concept a line, UTF-8 with or without a byte order mark, any line ends. Categories stay unknown."""
    lines = _lines(_decode(path))
    concepts, notes = _checked(enumerate(lines, start=1), path)
    return _nonempty(ConceptSet.clean(path.name, concepts, notes=notes), path)


def read_concept_table(path: Path) -> ConceptSet:
    """A table with a header that names a column `concept` and perhaps one `category`; others are left out.

    The separator is a comma, or a semicolon or tab where the header has one and no comma.
    """
    lines = _lines(_decode(path))
    while lines and not lines[0].strip():
        lines.pop(0)
    if not lines:
        raise InputError("the concept file is empty", where=path)
    separator = next((s for s in ",;\t" if s in lines[0]), ",")
    try:
        rows = list(csv.reader(io.StringIO("\n".join(lines)), delimiter=separator, strict=True))
    except csv.Error as error:
        raise InputError(f"the concept table cannot be read: {error}", where=path) from error
    header = [tidy(cell).lower() for cell in rows[0]]
    if "concept" not in header:
        raise InputError(
            f"the concept table has no column `concept` (its header is {', '.join(rows[0])!r})",
            where=path,
            hint="begin it with the line `concept,category`, or call it .txt where it is one concept a line",
        )
    column = header.index("concept")
    kind_column = header.index("category") if "category" in header else None
    names: list[tuple[int, str]] = []
    kinds: list[str] = []
    for number, row in enumerate(rows[1:], start=2):
        if len(row) > len(header):
            raise InputError(
                f"row {number} has {len(row)} cells, the header {len(header)}",
                where=path,
                hint='put a concept with a separator in it into quotes: "red, white and blue",color',
            )
        names.append((number, row[column] if column < len(row) else ""))
        kind = row[kind_column] if kind_column is not None and kind_column < len(row) else ""
        kinds.append("color" if tidy(kind).lower() == "colour" else kind)
    concepts, notes = _checked(names, path)
    result = ConceptSet.clean(path.name, concepts, kinds, notes=notes)
    others = sorted({kind for kind in result.categories if kind and kind not in CATEGORIES})
    if others:
        note = f"{path.name}: categories other than {', '.join(CATEGORIES)}: {', '.join(others)}"
        result = ConceptSet(result.name, result.concepts, result.categories, (*result.notes, note))
    return _nonempty(result, path)


def _imagenet() -> ConceptSet:
    import concept_monitor_cli._torchvision  # noqa: F401, I001 - must come before open_clip
    import open_clip

    names = list(open_clip.IMAGENET_CLASSNAMES)
    kinds = ["scene" if index in _IMAGENET_SCENES else "object" for index in range(len(names))]
    return ConceptSet.clean("imagenet", names, kinds)


def _common() -> ConceptSet:
    text = resources.files("concept_monitor_cli.concepts").joinpath("common.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(text)))
    return ConceptSet.clean("common", [row["concept"] for row in rows], [row["category"] for row in rows])


def _builtin() -> ConceptSet:
    from concept_monitor_cli.builtin import VOCABULARY

    return ConceptSet.clean("builtin", [word for word, _ in VOCABULARY], [kind for _, kind in VOCABULARY])


_NAMED: dict[str, Callable[[], ConceptSet]] = {"imagenet": _imagenet, "common": _common, "builtin": _builtin}


def _decode(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"the concept file cannot be read: {error.strerror}", where=path) from error
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InputError(
            "the concept file is UTF-16, not UTF-8",
            where=path,
            hint=f"iconv -f UTF-16 -t UTF-8 {path.name} > concepts.txt",
        )
    if b"\0" in data:
        raise InputError("the concept file is not a text file (it holds zero bytes)", where=path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"the concept file is not UTF-8 (line {line})",
            where=path,
            hint=f"iconv -f LATIN1 -t UTF-8 {path.name} > concepts.txt, where it is Latin-1",
        ) from error


def _lines(text: str) -> list[str]:
    # Not str.splitlines: it also cuts at form feeds and U+2028, which would shift line numbers.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _checked(numbered: Iterable[tuple[int, str]], path: Path) -> tuple[list[str], list[str]]:
    concepts: list[str] = []
    cleaned: list[int] = []
    for number, raw in numbered:
        # White space of every kind becomes a blank in `tidy`, so it is no control character here.
        concept = "".join(
            c for c in raw if c.isspace() or not (unicodedata.category(c) == "Cc" or c in _INVISIBLE)
        )
        if concept != raw:
            cleaned.append(number)
        if len(tidy(concept)) > MAX_LENGTH:
            raise InputError(
                f"line {number} has {len(tidy(concept))} characters: too long for a concept ({MAX_LENGTH})",
                where=path,
                hint="a concept file holds one word or short phrase a line",
            )
        concepts.append(concept)
    notes = []
    if cleaned:
        lines = f"{len(cleaned)} line{'' if len(cleaned) == 1 else 's'}"
        notes.append(
            f"{path.name}: control or invisible characters removed in {lines}, the first is line {cleaned[0]}"
        )
    return concepts, notes


def _nonempty(concepts: ConceptSet, path: Path) -> ConceptSet:
    if not len(concepts):
        raise InputError(
            "the concept file holds no concept",
            where=path,
            hint="write one word a line, or --concepts common",
        )
    seen: dict[str, str] = {}
    alike: list[tuple[str, str]] = []
    for name in dict.fromkeys(concepts.concepts):
        first = seen.setdefault(name.lower(), name)
        if first != name:
            alike.append((first, name))
    if not alike:
        return concepts
    note = (
        f"{path.name}: {len(alike)} name{'' if len(alike) == 1 else 's'} differ only in case, such as "
        f"{alike[0][0]!r} and {alike[0][1]!r}: most encoders read them as one"
    )
    return ConceptSet(concepts.name, concepts.concepts, concepts.categories, (*concepts.notes, note))
