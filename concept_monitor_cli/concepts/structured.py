"""Word lists in JSON, YAML and Python notation: which of their values are the names."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from concept_monitor_cli.concepts.columns import CATEGORY_HEADERS, NAME_HEADERS, choose_columns, kind_of
from concept_monitor_cli.concepts.concept_set import CATEGORIES
from concept_monitor_cli.concepts.plain import WNID
from concept_monitor_cli.concepts.reading import Entry, WordList, lines_of, without_unlabelled
from concept_monitor_cli.concepts.synonyms import first_names
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.wording import counted

# Where published files keep their names: COCO and LVIS (`categories`), YOLO (`names`), Hugging Face
# (`id2label`, `names` in a dataset card), detectron2 (`thing_classes`), mmdetection (`classes`).
_HOLDERS = (
    "concepts", "names", "id2label", "class_names", "classes", "words", "labels", "label_names", "categories",
    "thing_classes", "stuff_classes", "vocabulary", "label2id", "class_to_idx", "annotations", "data",
)  # fmt: skip
_DEPTH = 6
_HINT = "a list of words, or a file with a key such as `names` or `categories`; or one word a line as .txt"

_CLOSING = {"[": "]", "{": "}", "(": ")"}
_ASSIGNED = re.compile(r"\s*(?:#.*\n\s*)*[A-Za-z_][\w.]*\s*(?::[^=\n]+)?=\s*[\[({]")


def looks_structured(text: str) -> bool:
    """Whether a text without a telling name is JSON or a Python list, tuple, dictionary or assignment."""
    stripped = text.strip()
    if stripped[:1] in _CLOSING:
        lines = stripped.splitlines()
        # Of a word list, a line alone may stand in brackets.
        return stripped.rstrip(",;").endswith(tuple(_CLOSING.values())) and (
            len(lines) > 1 or "," in stripped or ":" in stripped or stripped[0] == "["
        )
    return bool(_ASSIGNED.match(text))


def read_structured(path: Path, text: str, suffix: str) -> WordList:
    """The names in JSON, JSON lines, YAML or Python notation.

    Args:
        path: the file, for messages.
        text: its content.
        suffix: of its name, lower case: decides between the notations.

    Raises:
        InputError: malformed, or without a list of names in it.
    """
    words = WordList(path, [])
    words.entries = _entries(_parsed(path, text, suffix), words)
    return first_names(words, commas=True if any(entry.code for entry in words.entries) else None)


def _parsed(path: Path, text: str, suffix: str) -> Any:
    if suffix in (".yaml", ".yml"):
        return _yaml(path, text)
    if suffix in (".jsonl", ".ndjson"):
        return [_json(path, line, number) for number, line in enumerate(lines_of(text), 1) if line.strip()]
    if suffix == ".json":
        return _json(path, text)
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    lines = [line for line in lines_of(text) if line.strip()]
    if len(lines) > 1 and all(
        line.lstrip().startswith("{") and line.rstrip().endswith("}") for line in lines
    ):
        return [_json(path, line, number) for number, line in enumerate(lines, 1)]
    return _python(path, text)


def _json(path: Path, text: str, line: int | None = None) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        number = line or getattr(error, "lineno", 1)
        message = getattr(error, "msg", "nested too deeply")
        raise InputError(
            f"not valid JSON (line {number}): {message}", where=path, hint="or one word a line, as .txt"
        ) from error


def _yaml(path: Path, text: str) -> Any:
    import yaml

    try:
        # Every scalar as text: `no`, `on` and `1` are words here.
        return yaml.load(text, Loader=getattr(yaml, "CBaseLoader", yaml.BaseLoader))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" (line {mark.line + 1})" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise InputError(f"not valid YAML{line}: {problem}"[:300], where=path, hint=_HINT) from error


def _python(path: Path, text: str) -> Any:
    """A literal, or the largest literal that a module assigns. Nothing is run."""
    try:
        tree = ast.parse(text.strip())
        values = [
            node.value
            for node in tree.body
            if isinstance(node, (ast.Expr, ast.Assign, ast.AnnAssign)) and node.value is not None
        ]
        # A set has no order but that in which it is written.
        found = [ast.literal_eval(_Ordered().visit(v)) for v in values if _is_literal(v)]
        found = [value for value in found if isinstance(value, (list, tuple, dict))]
    except SyntaxError as error:
        raise InputError(
            f"neither JSON nor a Python list (line {error.lineno or 1}): {error.msg}", where=path, hint=_HINT
        ) from error
    except (ValueError, TypeError, MemoryError, RecursionError) as error:
        raise InputError(f"neither JSON nor a Python list: {error}"[:300], where=path, hint=_HINT) from error
    if not found:
        raise InputError("no list of words in it", where=path, hint=_HINT)
    return max(found, key=len)


class _Ordered(ast.NodeTransformer):
    def visit_Set(self, node: ast.Set) -> ast.AST:
        return ast.List(elts=node.elts, ctx=ast.Load())


def _is_literal(node: ast.expr) -> bool:
    allowed = (ast.List, ast.Tuple, ast.Set, ast.Dict, ast.Constant, ast.Load, ast.UnaryOp, ast.USub)
    return all(isinstance(part, allowed) for part in ast.walk(node))


def _entries(data: Any, words: WordList, depth: int = 0) -> list[Entry]:
    if isinstance(data, Mapping):
        return _of_mapping(data, words, depth)
    if isinstance(data, (list, tuple)):
        return _of_sequence(data, words)
    raise InputError(f"no list of words but {_shown(data)}", where=words.path, hint=_HINT)


def _of_sequence(data: Sequence[Any], words: WordList) -> list[Entry]:
    if all(isinstance(item, Mapping) for item in data) and data:
        header = list(dict.fromkeys(str(key) for item in data for key in item))
        rows = [[_cell(item.get(key, "")) for key in header] for item in data]
        return _of_rows(header, rows, words)
    if all(isinstance(item, (list, tuple)) for item in data) and data:
        if len(data) == 1 and all(isinstance(item, str) for item in data[0]) and len(data[0]) > 2:
            return _of_sequence(data[0], words)
        return _of_rows(None, [[_cell(cell) for cell in item] for item in data], words)
    return [Entry(f"entry {number}", _word(item, number, words)) for number, item in enumerate(data, 1)]


def _of_rows(header: list[str] | None, rows: list[list[str]], words: WordList) -> list[Entry]:
    name_at, category_at, code_at = choose_columns(header, rows)
    if category_at is not None and header is not None and header[category_at].lower() == CATEGORY_HEADERS[3]:
        category_at = None  # COCO's supercategories are another division
    if name_at is None:
        found = ", ".join(header) if header else ", ".join(rows[0])
        raise InputError(
            f"no names in it, only {found[:200]}",
            where=words.path,
            hint=f"name them by a key such as {', '.join(NAME_HEADERS[:4])} or label",
        )

    def cell(row: list[str], at: int | None) -> str:
        return row[at] if at is not None and at < len(row) else ""

    return [
        Entry(f"entry {number}", cell(row, name_at), cell(row, category_at), cell(row, code_at))
        for number, row in enumerate(rows, 1)
    ]


def _of_mapping(data: Mapping[Any, Any], words: WordList, depth: int) -> list[Entry]:
    keys = [str(key) for key in data]
    values = list(data.values())
    if not data:
        return []
    if kind_of(keys) == "number":
        order = sorted(range(len(keys)), key=lambda at: float(keys[at]) if _is_number(keys[at]) else at)
        values = [values[at] for at in order]
        if all(isinstance(value, (list, tuple)) for value in values):
            return _of_rows(None, [[_cell(cell) for cell in value] for value in values], words)
        if all(isinstance(value, Mapping) for value in values):
            return _of_sequence(values, words)
        # `{0: 'tench, Tinca tinca'}`: a list of classes, whose names have synonyms.
        entries = [
            Entry(f"entry {keys[at]}", _word(data_of, at, words))
            for at, data_of in zip(order, values, strict=True)
        ]
        return _classes(entries, words)
    if all(WNID.fullmatch(key) for key in keys):
        rows = [
            [key, *([_cell(v)] if not isinstance(v, (list, tuple)) else map(_cell, v))]
            for key, v in data.items()
        ]
        return _of_rows(None, rows, words)
    held = {str(key).lower(): value for key, value in data.items()}
    for name in _HOLDERS:
        if isinstance(held.get(name), (list, tuple, Mapping)) and held[name] and depth < _DEPTH:
            words.note(f"the concepts are those under {name!r}")
            return _entries(held[name], words, depth + 1)
    return _of_named(keys, values, words, depth)


def _of_named(keys: list[str], values: list[Any], words: WordList, depth: int) -> list[Entry]:
    """Of a mapping whose keys are words: name -> number, name -> category, category -> names."""
    if all(isinstance(v, int) or (isinstance(v, str) and v.isdecimal()) for v in values):
        order = sorted(range(len(keys)), key=lambda at: int(values[at]))
        return [Entry(f"entry {place}", keys[at]) for place, at in enumerate(order, 1)]
    if all(isinstance(v, str) and v.strip().lower() in CATEGORIES for v in values):
        pairs = zip(keys, values, strict=True)
        return [Entry(f"entry {n}", key, value.strip().lower()) for n, (key, value) in enumerate(pairs, 1)]
    if all(isinstance(v, (list, tuple)) and all(isinstance(word, str) for word in v) for v in values):
        kinds = all(key.strip().lower() in CATEGORIES for key in keys)
        listed = [(key, word) for key, value in zip(keys, values, strict=True) for word in value]
        if not kinds and len(keys) > 1:
            words.note(f"the lists under its {counted(len(keys), 'keys are')} read as one")
        return [
            Entry(f"entry {n}", word, key.strip().lower() if kinds else "")
            for n, (key, word) in enumerate(listed, 1)
        ]
    inner = [value for value in values if isinstance(value, (Mapping, list, tuple)) and value]
    if inner and depth < _DEPTH:
        found = next((found for value in inner if (found := _below(value, depth + 1)) is not None), None)
        if found is not None or len(inner) == 1:
            return _entries(inner[0] if found is None else found, words, depth + 1)
    raise InputError(
        f"no list of words in it, but the keys {', '.join(keys)[:120]}", where=words.path, hint=_HINT
    )


def _below(value: Any, depth: int) -> Any:
    """The first list of names further down, by the key it stands under."""
    if depth >= _DEPTH:
        return None
    children = value.items() if isinstance(value, Mapping) else ((None, item) for item in value[:100])
    later = []
    for key, item in children:
        if str(key).lower() in _HOLDERS and isinstance(item, (list, tuple, Mapping)) and item:
            return item
        if isinstance(item, (list, tuple, Mapping)):
            later.append(item)
    return next((found for item in later if (found := _below(item, depth + 1)) is not None), None)


def _classes(entries: list[Entry], words: WordList) -> list[Entry]:
    listed = without_unlabelled(WordList(words.path, entries, words.notes))
    return first_names(listed, commas=True).entries


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _cell(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(_cell(item) for item in value)
    return "" if value is None else str(value)


def _word(value: Any, number: int, words: WordList) -> str:
    if isinstance(value, str):
        return value
    raise InputError(f"entry {number} is {_shown(value)}, no word", where=words.path, hint=_HINT)


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text[:40]}{'...' if len(text) > 40 else ''}"
