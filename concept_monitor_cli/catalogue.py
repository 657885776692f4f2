"""Which detectors there are, found without importing them: `cmon --help` must not wait for torch.

A detector of the package is a file in `lenses/names/`; its name, its line of help and whether it is the
default are read from the file's text. Detectors of other packages announce themselves by an entry point.
"""

from __future__ import annotations

import ast
import difflib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from concept_monitor_cli.errors import InputError

#: The group of entry points in which other packages name their detectors: `name = "package.module:Class"`.
ENTRY_POINTS = "concept_monitor_cli.lenses"

_FOLDER = Path(__file__).parent / "lenses" / "names"
_PACKAGE = "concept_monitor_cli.lenses.names"
# A class up to its first method: what is announced stands there, and the rest need not be parsed.
_CLASS = re.compile(r"^class \w.*?(?=^    (?:async def |def |@)|^[^\s)]|\Z)", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(?P<place>[^:]+\.py|[A-Za-z_]\w*(\.\w+)+|[A-Za-z_]\w*):(?P<attribute>[A-Za-z_]\w*)")


@dataclass(frozen=True)
class Listed:
    """A detector as it is announced.

    Attributes:
        name: as in the tables and on the command line.
        place: the module that has it.
        attribute: its class in that module.
        summary: one line of help.
        default: whether it is taken where none is named.
    """

    name: str
    place: str
    attribute: str
    summary: str = ""
    default: bool = False


@cache
def detectors() -> dict[str, Listed]:
    """The detectors of the package and of installed plug-ins, by name; the default one first."""
    from importlib.metadata import entry_points  # brings email along, 30 ms

    found = {listed.name: listed for listed in _own()}
    for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name):
        package = point.dist.name if point.dist is not None else point.module
        found.setdefault(point.name, Listed(point.name, point.module, point.attr, f"From {package}."))
    return found


def default_detectors() -> tuple[str, ...]:
    """What is taken where none is named."""
    return tuple(listed.name for listed in _own() if listed.default)


def is_code(name: str) -> bool:
    """Whether a detector is named by its code, `file.py:Class` or `package.module:Class`."""
    return ":" in name


def find_detector(name: str) -> Listed:
    """The detector of that name, or in that place.

    Args:
        name: a name, `file.py:Class` or `package.module:Class`.

    Raises:
        InputError: there is none of that name, or it is no place of a class.
    """
    if name in detectors():
        return detectors()[name]
    if is_code(name):
        match = re.fullmatch(_CODE, name)
        if match is None:
            raise InputError(f"{name!r} is no place of a class", hint="write file.py:Class")
        return Listed(name, match["place"], match["attribute"])
    alike = difflib.get_close_matches(name, detectors(), n=1)
    choices = ", ".join(detectors())
    raise InputError(
        f"there is no {name!r}",
        hint=(f"did you mean {alike[0]}? " if alike else "")
        + f"choose from {choices}, or write file.py:Class",
    )


@cache
def _own() -> tuple[Listed, ...]:
    """The detectors of the package, the default one first; installed plug-ins are never taken unasked."""
    own = [found for path in sorted(_FOLDER.glob("*.py")) for found in _in_file(path)]
    return tuple(sorted(own, key=lambda listed: (not listed.default, listed.name)))


def _in_file(path: Path) -> list[Listed]:
    """The detectors of one file: its classes with a name that is written down."""
    found = []
    for match in _CLASS.finditer(path.read_text(encoding="utf-8")):
        (node,) = ast.parse(match[0]).body
        assert isinstance(node, ast.ClassDef)
        written: dict[str, Any] = {
            statement.target.id: statement.value.value
            for statement in node.body
            if isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(statement.value, ast.Constant)
        }
        if "name" in written:
            about = {key: written[key] for key in ("name", "summary", "default") if key in written}
            found.append(Listed(place=f"{_PACKAGE}.{path.stem}", attribute=node.name, **about))
    return found
