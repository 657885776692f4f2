"""Word lists of one name a line, as they are published: numbered, quoted, with codes, comments or bullets."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from concept_monitor_cli.concepts.columns import is_header
from concept_monitor_cli.concepts.concept_set import CATEGORIES
from concept_monitor_cli.concepts.reading import (
    Entry,
    WordList,
    first_lines,
    lines_of,
    without_unlabelled,
)
from concept_monitor_cli.concepts.structured import looks_structured, read_structured
from concept_monitor_cli.concepts.synonyms import first_names
from concept_monitor_cli.concepts.table import read_table
from concept_monitor_cli.concepts.tidy import tidy
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.wording import counted

_COMMENT = re.compile(r"(#|//|;|%)")
_TRAILING_COMMENT = re.compile(r"\s+(#|//).*$")
_MARKER = re.compile(
    r"\s*(?:[-*+•–·▪]|\(?\d{1,6}[.)](?=\s)|\d{1,6}\s*[:.)](?=\s*[^\W\d_]))\s+|\s*\d{1,6}\s*[:=]\s*"
)
_NUMBER_FIRST = re.compile(r"\s*(\d{1,7})\s+(?:[-–—:=]\s+)?(?=\S)")
_NUMBER_LAST = re.compile(r"\s+(\d{1,12}|\d*\.\d+(?:e-?\d+)?)\s*$")
_CODE_FIRST = re.compile(r"\s*(n\d{8}|/[mg]/[0-9a-z_]{2,})(?:\s*,\s*|\s+)(?=\S)")
_PLACE = re.compile(r"\s*/[a-z]/\S+\s*$")
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "„": "“", "`": "`"}
_KEY_VALUE = re.compile(r"\s*([^:]+?)\s*:\s*(\S.*)$")
_YAML_KEY = re.compile(r"\s*[\w-]+\s*:\s*$")
_CELEBA = re.compile(r"\S+\.(jpg|png)(\s+-?1)+\s*")

# What labelme and VIA write for regions without a class.
_NO_CLASS = frozenset(("__ignore__", "_background_"))


def read_listing(path: Path, text: str) -> WordList:
    """The names in a text without a telling ending: one a line, or JSON, YAML or a table where it is that.

    Raises:
        InputError: a form that is not known.
    """
    if looks_structured(text):
        return read_structured(path, text, "")
    lines = lines_of(text)
    full = [line for line in lines if line.strip() and not _COMMENT.match(line.strip())]
    if len(full) > 1 and _YAML_KEY.match(full[0]) and re.match(r"\s+\S|\s*-\s", full[1]):
        return read_structured(path, text, ".yaml")
    if len(full) > 2 and full[0].strip().isdecimal() and _CELEBA.fullmatch(full[2]):
        return _celeba(path, full[1])
    tabs = {line.strip().count("\t") for line in full}
    if len(full) > 0 and tabs and 0 not in tabs:
        if len(tabs) == 1:
            return read_table(path, _without_comments(lines), "\t")
        odd = next(
            n
            for n, line in enumerate(lines, 1)
            if line.strip().count("\t") not in (0, full[0].strip().count("\t"))
        )
        raise InputError(
            f"line {odd} has another number of tabs than the lines before it",
            where=path,
            hint="one word a line, or a table with the same columns in each line",
        )
    if full and "," in full[0] and is_header(full[0].split(",")) and all("," in line for line in full):
        return read_table(path, _without_comments(lines), ",")
    words = WordList(path, [Entry(f"line {number}", line) for number, line in enumerate(lines, 1)])
    for step in (_comments, _quotes, _markers, _codes, _numbers_first, _numbers_last, _keys, _one_line):
        words = step(words)
    if all(_PLACE.fullmatch(entry.name) for entry in _full(words)) and _full(words):
        words.entries = [replace(entry, category="scene") for entry in words.entries]
    coded = bool(_full(words)) and all(entry.code for entry in _full(words))
    return first_names(words, commas=True if coded else None)


def _full(words: WordList) -> list[Entry]:
    return [entry for entry in words.entries if entry.name.strip()]


def _without_comments(lines: list[str]) -> str:
    return "\n".join("" if _COMMENT.match(line.strip()) else line.strip(" \r\n") for line in lines)


def _celeba(path: Path, line: str) -> WordList:
    """list_attr_celeba.txt: the count of photos, the attributes' names, a line per photo."""
    words = WordList(path, [Entry("line 2", name) for name in line.split()])
    words.note("read as CelebA's attributes: the names in line 2")
    return words


def _changed(words: WordList, change: Callable[[Entry], Entry | None], what: str) -> WordList:
    """The list with `change` made to each entry (None: left out), and a note where it changed any."""
    after = [(entry, change(entry) if entry.name.strip() else entry) for entry in words.entries]
    touched = [old for old, new in after if new is not old]
    if touched:
        words.note(f"{what} in {counted(len(touched), 'lines')}, the first is {touched[0].place}")
    return WordList(words.path, [new for _, new in after if new is not None], words.notes)


def _comments(words: WordList) -> WordList:
    def change(entry: Entry) -> Entry | None:
        if _COMMENT.match(entry.name.strip()):
            return None
        shorter = _TRAILING_COMMENT.sub("", entry.name)
        return entry if shorter == entry.name else replace(entry, name=shorter)

    return _changed(words, change, "comments left out")


def _quotes(words: WordList) -> WordList:
    """`"dog",` -> `dog`, and of several quoted words in a line each."""
    entries: list[Entry] = []
    touched: list[Entry] = []
    for entry in words.entries:
        text = entry.name.strip()
        # A comma or semicolon at the end separates nothing.
        bare = text.rstrip(",;").rstrip() if text.rstrip(",;").strip() else text
        new = [entry] if bare == text else [replace(entry, name=bare)]
        if len(bare) > 1 and _QUOTES.get(bare[0]) == bare[-1]:
            inner = bare[1:-1]
            if bare[0] in inner or bare[-1] in inner:
                new = _quoted_cells(entry, bare)
            else:
                new = [replace(entry, name=inner, whole=True)]
        if new != [entry]:
            touched.append(entry)
        entries += new
    if touched:
        words.note(
            f"quotation marks or commas at the end removed in {counted(len(touched), 'lines')}, "
            f"the first is {touched[0].place}"
        )
    return WordList(words.path, entries, words.notes)


def _quoted_cells(entry: Entry, text: str) -> list[Entry]:
    try:
        (cells,) = csv.reader([text], quotechar=text[0], skipinitialspace=True, strict=True)
    except (csv.Error, ValueError, TypeError):
        return [entry]
    return [replace(entry, name=cell, whole=True) for cell in cells]


def _markers(words: WordList) -> WordList:
    def change(entry: Entry) -> Entry:
        match = _MARKER.match(entry.name)
        rest = entry.name[match.end() :] if match else ""
        # `- "dog"`: the marks stand inside.
        if len(rest) > 1 and _QUOTES.get(rest.strip()[:1]) == rest.strip()[-1:]:
            return replace(entry, name=rest.strip()[1:-1], whole=True)
        return replace(entry, name=rest) if rest.strip() else entry

    return _classes(words, _changed(words, change, "bullets or numbers before the words left out"))


def _classes(before: WordList, words: WordList) -> WordList:
    """Of a numbered list, which is one of classes: without `background`, `void` and the like."""
    numbered = all(re.match(r"\s*\d|.*\d\s*$", entry.name) for entry in _full(before)) and _full(before)
    return (
        without_unlabelled(words)
        if numbered or any(tidy(entry.name) in _NO_CLASS for entry in words.entries)
        else words
    )


def _codes(words: WordList) -> WordList:
    def change(entry: Entry) -> Entry:
        match = _CODE_FIRST.match(entry.name)
        return replace(entry, name=entry.name[match.end() :], code=match[1]) if match else entry

    return _changed(words, change, "codes before the words left out")


def _numbers_first(words: WordList) -> WordList:
    return _numbers(words, _NUMBER_FIRST, "before")


def _numbers_last(words: WordList) -> WordList:
    return _numbers(words, _NUMBER_LAST, "after")


def _numbers(words: WordList, pattern: re.Pattern[str], where: str) -> WordList:
    """Numbers that count the lines: every line has one, and no two the same."""
    full = _full(words)
    found = [pattern.search(entry.name) if where == "after" else pattern.match(entry.name) for entry in full]
    numbers = [match[1] for match in found if match]
    if len(full) < 2 or len(numbers) < len(full) or len(set(numbers)) < len(numbers):
        return words
    what = f"numbers {where} the words left out"
    return _classes(words, _changed(words, lambda e: replace(e, name=pattern.sub("", e.name, count=1)), what))


def _keys(words: WordList) -> WordList:
    """`dog: object`: the category, where each line has one; other `key: value` lines are refused."""
    full = _full(words)
    found = [(entry, _KEY_VALUE.fullmatch(entry.name)) for entry in full]
    pairs = [(entry, match) for entry, match in found if match and "::" not in entry.name]
    if not pairs:
        return words
    kinds = {match[2].strip().strip(",").lower() for _, match in pairs}
    if len(pairs) == len(full) and kinds <= set(CATEGORIES):
        words.note("what follows the colon in each line is read as its category")

        def split(entry: Entry) -> Entry:
            match = _KEY_VALUE.fullmatch(entry.name)
            return replace(entry, name=match[1], category=match[2].strip().lower()) if match else entry

        return WordList(words.path, [split(entry) for entry in words.entries], words.notes)
    if 2 * len(pairs) > len(full) and len(full) > 1:
        raise InputError(
            f"{pairs[0][0].place} is no concept: {tidy(pairs[0][0].name)[:60]!r} has a key and a value",
            where=words.path,
            hint="one word a line; or YAML with `names:`, or a CSV file with a column `concept`",
        )
    return words


def _one_line(words: WordList) -> WordList:
    """`dog, cat, sky`: a list in one line."""
    full = _full(words)
    if len(full) != 1 or full[0].whole:
        return words
    separator = ";" if full[0].name.count(";") > 1 else ","
    cells = [cell.strip() for cell in full[0].name.split(separator)]
    if len(cells) < 3 or re.match(r"(and|or)\b", cells[-1]) or re.search(r"\b(and|or|with)\b", cells[-1]):
        return words
    words.note(
        f"{first_lines(full)} is read as a list separated by {'commas' if separator == ',' else 'semicolons'}"
    )
    return WordList(words.path, [replace(full[0], name=cell) for cell in cells], words.notes)
