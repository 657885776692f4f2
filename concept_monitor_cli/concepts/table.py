"""Word lists in tables: CSV, TSV, and rows from JSON."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

from concept_monitor_cli.concepts.columns import (
    NAME_HEADERS,
    category_in,
    choose_columns,
    is_header,
    kind_of,
)
from concept_monitor_cli.concepts.reading import Entry, WordList, lines_of
from concept_monitor_cli.concepts.synonyms import first_names
from concept_monitor_cli.concepts.tidy import tidy
from concept_monitor_cli.errors import InputError


def read_table(path: Path, text: str, separator: str | None = None) -> WordList:
    """The names in a table of text.

    The separator is a comma, or a semicolon or tab where the first line has one and no comma. The column of
    names is found by its header (`concept`, `name`, `label`, `class`, `word` ...), or, in a table without a
    header, by its content: numbers, codes of WordNet and file names are no concepts.

    Args:
        path: the file, for messages.
        text: its content.
        separator: where it is known.

    Raises:
        InputError: a malformed table, or one in which the column is not clear.
    """
    lines = lines_of(text)
    skipped = 0
    while skipped < len(lines) and (not lines[skipped].strip() or lines[skipped].startswith("# ")):
        skipped += 1
    if skipped < len(lines) and (excel := re.fullmatch(r"sep=(.)", lines[skipped].strip(), re.IGNORECASE)):
        separator = excel[1]
        skipped += 1
    if skipped == len(lines):
        raise InputError("the concept file is empty", where=path)
    if separator is None:
        separator = next((s for s in ",;\t" if s in lines[skipped]), ",")
    try:
        rows = list(csv.reader(io.StringIO("\n".join(lines[skipped:])), delimiter=separator, strict=True))
    except csv.Error as error:
        raise InputError(f"the concept table cannot be read: {error}", where=path) from error
    return table_words(path, rows, first=1 + skipped, commas=False if separator == "," else None)


def table_words(
    path: Path, rows: Sequence[Sequence[str]], *, first: int = 1, commas: bool | None = None
) -> WordList:
    """The names in the rows of a table, the first of which may name the columns.

    Args:
        path: the file, for messages.
        rows: the cells.
        first: number of the first row.
        commas: whether commas in a cell separate synonyms; None: the cells tell.

    Raises:
        InputError: a row with more cells than the first, or no clear column of names.
    """
    header = list(rows[0]) if is_header(rows[0]) else None
    body = list(enumerate(rows, start=first))[header is not None :]
    _require_width(path, body, len(rows[0]), header is not None)
    words = WordList(path, [])
    cells = [row for _, row in body]
    name_at, category_at, code_at = choose_columns(header, cells)
    if header is None and not _clear_without_header(cells):
        name_at = None
    if name_at is None and (body or header is None):
        raise InputError(
            f"the concept table has no column `concept` (its {'header' if header else 'first line'} is "
            f"{', '.join(rows[0])[:200]!r})",
            where=path,
            hint=f"name the column of the words: {', '.join(NAME_HEADERS[:4])}, word, label or class",
        )
    if header is None:
        words.note(f"no header, so its first line is read as a concept: {rows[0][name_at or 0]!r}")
    elif tidy(header[name_at or 0]).lower() != "concept" and body:
        words.note(f"the concepts are those of column {header[name_at or 0]!r}")
    for number, row in body:
        words.entries.append(
            Entry(
                f"line {number}",
                row[name_at] if name_at is not None and name_at < len(row) else "",
                category_in(row[category_at]) if category_at is not None and category_at < len(row) else "",
                tidy(row[code_at]) if code_at is not None and code_at < len(row) else "",
            )
        )
    return first_names(words, commas=True if code_at is not None else commas)


def _require_width(path: Path, body: Sequence[tuple[int, Sequence[str]]], width: int, header: bool) -> None:
    for number, row in body:
        if len(row) > width:
            raise InputError(
                f"row {number} has {len(row)} cells, the {'header' if header else 'first'} {width}",
                where=path,
                hint='put a concept with a separator in it into quotes: "red, white and blue",color',
            )


def _clear_without_header(rows: Sequence[Sequence[str]]) -> bool:
    """Whether rows without a header can mean one thing only: one column of words among numbers and codes."""
    width = max((len(row) for row in rows), default=0)
    kinds = [kind_of([row[at] if at < len(row) else "" for row in rows]) for at in range(width)]
    wordlike = [kind for kind in kinds if kind in ("word", "category")]
    return width == 1 or kinds.count("word") == 1 or (len(wordlike) == 1 and len(set(kinds)) > 1)
