"""Several names of one thing in one entry: `tench, Tinca tinca`, `floor;flooring`."""

from __future__ import annotations

import re
from dataclasses import replace

from concept_monitor_cli.concepts.concept_set import CATEGORIES
from concept_monitor_cli.concepts.reading import WordList
from concept_monitor_cli.wording import counted

# A last part like this belongs to a phrase: `red, white and blue`.
_PHRASE = re.compile(r"\b(and|or|with|but|that|which|on|in)\b", re.IGNORECASE)

_TIGHT = re.compile(r"[^\W\d_],[^\W\d_]")


def first_names(words: WordList, *, commas: bool | None = None) -> WordList:
    """The entries with the first of several names each, which is said.

    A semicolon always separates names. A comma does so in lists keyed by numbers or codes, and in lists a
    third of whose entries have one; a few commas belong to phrases. Where what follows is always one of
    Broden's categories, it is the category.

    Args:
        words: the list; its notes get a sentence.
        commas: whether the list separates names with commas (ImageNet's); None: its entries tell.
    """
    words = _cut(words, ";")
    if commas is False:
        return words
    full = [entry for entry in words.entries if entry.name.strip()]
    with_comma = [entry for entry in full if not entry.whole and "," in entry.name.strip().rstrip(",")]
    if not with_comma:
        return words
    last = [entry.name.rpartition(",")[2].strip().lower() for entry in with_comma]
    if len(with_comma) == len(full) and all(
        not entry.whole and entry.name.count(",") == 1 and kind in CATEGORIES
        for entry, kind in zip(full, last, strict=True)
    ):
        parts = [entry.name.partition(",") for entry in words.entries]
        entries = [
            replace(entry, name=name, category=kind.strip().lower())
            for entry, (name, _, kind) in zip(words.entries, parts, strict=True)
        ]
        words.note("what follows the comma in each entry is read as its category")
        return WordList(words.path, entries, words.notes)
    phrases = sum(bool(_PHRASE.search(part)) for part in last)
    # Nobody writes a phrase without a blank after the comma: `hot dog,hotdog`.
    tight = [entry for entry in with_comma if _TIGHT.search(entry.name) and ", " not in entry.name]
    if not commas and tight and len(tight) == len(with_comma):
        return _cut(words, ",")
    if not commas and (3 * len(with_comma) < len(full) or 4 * phrases > len(with_comma)):
        return words
    return _cut(words, ",")


def _cut(words: WordList, separator: str) -> WordList:
    several = [e for e in words.entries if not e.whole and separator in e.name.strip().rstrip(separator)]
    if not several:
        return words
    entries = [
        replace(entry, name=_first(entry.name, separator), code=entry.code or entry.name)
        if separator in entry.name and not entry.whole
        else entry
        for entry in words.entries
    ]
    example = several[0].name.strip()
    words.note(
        f"{counted(len(several), 'entries')} with several names separated by {separator!r}, such as "
        f"{example[:60]!r}: the first is taken"
    )
    return WordList(words.path, entries, words.notes)


def _first(name: str, separator: str) -> str:
    return next((part.strip() for part in name.split(separator) if part.strip()), "")
