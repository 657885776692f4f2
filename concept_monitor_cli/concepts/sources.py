"""Where concept sets come from: files, open_clip's ImageNet names, our own list, the probe set's labels."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from difflib import get_close_matches
from importlib import resources
from pathlib import Path

from concept_monitor_cli.concepts.concept_set import ConceptSet
from concept_monitor_cli.concepts.listing import read_listing
from concept_monitor_cli.concepts.reading import concept_set, read_text
from concept_monitor_cli.concepts.structured import read_structured
from concept_monitor_cli.concepts.table import read_table
from concept_monitor_cli.errors import InputError

# ImageNet is a list of objects; these ten of its classes (alp, cliff, coral reef, geyser, lakeshore,
# promontory, sandbar, beach, valley, volcano) are places.
_IMAGENET_SCENES = frozenset({970, *range(972, 981)})


def load_concepts(spec: str | Path, *, probe_concepts: ConceptSet | None = None) -> ConceptSet:
    """A concept set by what the user wrote.

    Args:
        spec: `broden` (the probe set's own labels), `imagenet` (open_clip's 1,000 clean class names),
            `common` (our list of some 1,000 visual words in six categories), `builtin` (the renderer's
            vocabulary), or a file (`read_concepts`).
        probe_concepts: the labels of the probe set, for `broden`.

    Raises:
        InputError: no such file or name, no text, no concept in it, a name that is no word, a malformed file,
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
    return read_concepts(path)


def read_concepts(path: Path) -> ConceptSet:
    """The words of a file.

    By its ending: `.csv` and `.tsv` are tables, `.json`, `.jsonl`, `.yaml`, `.yml` and `.py` what they say;
    anything else is one word a line, or one of these where its content shows that. Everything that was done
    to a line (numbers, codes, quotation marks, comments left out, underscores made blanks) stands in `notes`.

    Raises:
        InputError: not readable, malformed, or with a line that is no word.
    """
    text = read_text(path)
    suffix = path.suffix.lower()
    if not text.strip() and suffix not in (".csv", ".tsv"):
        raise InputError(
            "the concept file holds no concept",
            where=path,
            hint="write one word a line, or --concepts common",
        )
    if suffix in (".csv", ".tsv"):
        words = read_table(path, text, "\t" if suffix == ".tsv" and "\t" in text else None)
    elif suffix in _STRUCTURED:
        words = read_structured(path, text, suffix)
    else:
        words = read_listing(path, text)
    return concept_set(words)


_STRUCTURED = frozenset((".json", ".jsonl", ".ndjson", ".yaml", ".yml", ".py"))


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
