"""From the bytes of a word list to its lines, and from the names in them to a concept set."""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from concept_monitor_cli.concepts.concept_set import CATEGORIES, ConceptSet
from concept_monitor_cli.concepts.plain import is_unlabelled, plain_names, problem_with
from concept_monitor_cli.concepts.tidy import tidy
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.wording import counted

MAX_LENGTH = 200
"""Characters of one concept. A longer line is a paragraph, or no word list: CLIP reads 77 tokens."""

# Format characters that nobody sees and that make two equal words differ: zero-width space, soft hyphen,
# marks of writing direction, stray byte order marks. The joiners U+200C and U+200D carry meaning and stay.
_INVISIBLE = frozenset("\u00ad\u200b\u200e\u200f\u2060\ufeff") | {
    chr(c) for c in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
}

# Office files and archives, PDF, pickles, gzip: some have no zero byte.
_NO_TEXT = (b"PK\3\4", b"%PDF", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"\x1f\x8b", b"{\\rtf")


@dataclass(frozen=True)
class Entry:
    """A name in a word list.

    Attributes:
        place: where it stands, for messages: `line 3`, `entry 3`.
        name: as it stands there.
        category: `""` where unknown.
        code: the data set's own number of it (`n01440764`), `""` where it has none.
        whole: it stood in quotation marks, so commas in it separate nothing.
    """

    place: str
    name: str
    category: str = ""
    code: str = ""
    whole: bool = False


@dataclass
class WordList:
    """The names of a file, in its order.

    Attributes:
        path: the file.
        entries: the names.
        notes: how the file was read, each one sentence for the user, without the file's name.
    """

    path: Path
    entries: list[Entry]
    notes: list[str] = field(default_factory=list)

    def note(self, sentence: str) -> None:
        """Keep a sentence for the user."""
        self.notes.append(sentence)


def read_text(path: Path) -> str:
    """The text of a file: UTF-8, or UTF-16 with a byte order mark.

    Raises:
        InputError: it cannot be read, or is no text in one of these encodings.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"the concept file cannot be read: {error.strerror}", where=path) from error
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if not wide and (b"\0" in data or data.startswith(_NO_TEXT)):
        raise InputError(
            "the concept file is not a text file",
            where=path,
            hint="save it as UTF-8 text, one word a line, or as CSV",
        )
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"the concept file is not {'UTF-16, as it begins' if wide else 'UTF-8'} (line {line})",
            where=path,
            hint=f"iconv -f LATIN1 -t UTF-8 {path.name} > concepts.txt, where it is Latin-1",
        ) from error
    if "\0" in text:
        raise InputError("the concept file is not a text file", where=path)
    return text


def lines_of(text: str) -> list[str]:
    """The lines of a text, whatever ends them; a last empty one is left out."""
    # Not str.splitlines: it also cuts at form feeds and U+2028, which would shift line numbers.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def visible(text: str) -> str:
    """`text` without control characters and characters that nobody sees."""
    if text.isprintable() and text.isascii():
        return text
    # White space of every kind becomes a blank in `tidy`, so it is no control character here.
    return "".join(c for c in text if c.isspace() or not (unicodedata.category(c) == "Cc" or c in _INVISIBLE))


def concept_set(words: WordList) -> ConceptSet:
    """The concept set of a word list: names made plain, checked, without blanks and duplicates.

    Raises:
        InputError: no name, one that is too long, or one that is no word (brackets, quotation marks, markup,
            digits alone); names the line.
    """
    path = words.path
    entries, notes = _without_invisible(words)
    plain = plain_names([entry.name for entry in entries], [tidy(e.category).lower() for e in entries])
    for entry, name in zip(entries, plain, strict=True):
        if len(name) > MAX_LENGTH:
            raise InputError(
                f"{entry.place} has {len(name)} characters: too long for a concept ({MAX_LENGTH})",
                where=path,
                hint="a concept file holds one word or short phrase a line",
            )
        problem = problem_with(name)
        if problem is not None:
            raise InputError(
                f"{entry.place} is no concept: {name[:60]!r} {problem}",
                where=path,
                hint="a word or short phrase a line; or JSON, YAML, or a CSV file with a column `concept`",
            )
    changed = [(e.name, name) for e, name in zip(entries, plain, strict=True) if name != tidy(e.name)]
    if changed:
        notes.append(
            f"{counted(len(changed), 'names')} made plain words, such as {tidy(changed[0][0])!r} to "
            f"{changed[0][1]!r}"
        )
    result = ConceptSet.clean(
        path.name,
        plain,
        [entry.category for entry in entries],
        codes=[entry.code or tidy(entry.name) for entry in entries],
        notes=[f"{path.name}: {note}" for note in notes],
    )
    return _with_notes(result, path)


def _without_invisible(words: WordList) -> tuple[list[Entry], list[str]]:
    entries: list[Entry] = []
    cleaned: list[str] = []
    for entry in words.entries:
        name = visible(entry.name)
        if name != entry.name:
            cleaned.append(entry.place)
            entry = replace(entry, name=name)
        entries.append(entry)
    notes = list(words.notes)
    if cleaned:
        what = {"line": "lines", "entry": "entries"}.get(kind := cleaned[0].split()[0], kind)
        notes.append(
            f"control or invisible characters removed in {counted(len(cleaned), what)}, the first is "
            f"{cleaned[0]}"
        )
    return entries, notes


def _with_notes(concepts: ConceptSet, path: Path) -> ConceptSet:
    """The set with notes on categories that are not Broden's and on names that differ only in case.

    Raises:
        InputError: the set is empty.
    """
    if not len(concepts):
        raise InputError(
            "the concept file holds no concept",
            where=path,
            hint="write one word a line, or --concepts common",
        )
    notes = list(concepts.notes)
    others = sorted({kind for kind in concepts.categories if kind and kind not in CATEGORIES})
    if others:
        more = f" and {len(others) - 10} more" if len(others) > 10 else ""
        notes.append(
            f"{path.name}: categories other than {', '.join(CATEGORIES)}: {', '.join(others[:10])}{more}"
        )
    seen: dict[str, str] = {}
    alike: list[tuple[str, str]] = []
    for name in dict.fromkeys(concepts.concepts):
        first = seen.setdefault(name.lower(), name)
        if first != name:
            alike.append((first, name))
    if alike:
        notes.append(
            f"{path.name}: {counted(len(alike), 'names differ')} only in "
            f"case, such as {alike[0][0]!r} and {alike[0][1]!r}: most encoders read them as one"
        )
    return ConceptSet(concepts.name, concepts.concepts, concepts.categories, tuple(notes), concepts.codes)


def first_lines(entries: Sequence[Entry]) -> str:
    """`line 1`, or `line 1 and 4 more`."""
    more = f" and {len(entries) - 1} more" if len(entries) > 1 else ""
    return entries[0].place + more


def without_unlabelled(words: WordList) -> WordList:
    """A list of classes without those that mean no class (`background`, `void`); said in a note."""
    gone = [entry for entry in words.entries if entry.name.strip() and is_unlabelled(entry.name)]
    if not gone:
        return words
    words.note(f"{tidy(gone[0].name)!r} is no concept and left out ({first_lines(gone)})")
    left = [entry for entry in words.entries if not entry.name.strip() or not is_unlabelled(entry.name)]
    return WordList(words.path, left, words.notes)
