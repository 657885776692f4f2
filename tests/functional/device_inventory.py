"""What of `functional/` takes or gives tensors: found by looking at it, so that nothing is forgotten."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any, NamedTuple

import concept_monitor_cli.functional as package

_PREFIX = package.__name__ + "."
_WORD = re.compile(r"\w+")


def modules() -> list[Any]:
    """The public modules of the package, by name."""
    names = [found.name for found in pkgutil.walk_packages(package.__path__, _PREFIX)]
    return [importlib.import_module(name) for name in sorted(names) if "._" not in name]


def _callables(module: Any) -> Iterator[tuple[str, Callable[..., Any], type | None]]:
    """Public functions, and public methods of public classes: name, function, class."""
    short = module.__name__.removeprefix(_PREFIX)
    for name, each in vars(module).items():
        if name.startswith("_") or getattr(each, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(each):
            yield f"{short}.{name}", each, None
        elif inspect.isclass(each):
            for method, found in vars(each).items():
                function = getattr(found, "__func__", getattr(found, "fget", getattr(found, "func", found)))
                # The constructor and the call are public whatever their names; dataclasses have theirs made.
                own = inspect.isfunction(function) and function.__module__ == module.__name__
                written = own and "<string>" not in function.__code__.co_filename
                if written and (not method.startswith("_") or method in ("__init__", "__call__")):
                    yield f"{short}.{name}.{method}", function, each


def _words(function: Callable[..., Any]) -> set[str]:
    """Names in the annotations of a function, which are text here."""
    return {word for text in function.__annotations__.values() for word in _WORD.findall(str(text))}


def _holders() -> set[str]:
    """`Tensor`, functions of tensors, and the classes that hold tensors, or hold what holds them."""
    classes: dict[str, set[str]] = {}
    for module in modules():
        for name, each in vars(module).items():
            if inspect.isclass(each) and each.__module__ == module.__name__:
                fields = {
                    word
                    for text in inspect.get_annotations(each).values()
                    for word in _WORD.findall(str(text))
                }
                made = _words(each.__init__) if inspect.isfunction(each.__init__) else set()
                classes[name] = fields | made
    found = {"Tensor", "NextTokens"}
    while more := {name for name, words in classes.items() if words & found} - found:
        found |= more
    return found


class Public(NamedTuple):
    """A public function or method, and the class whose method it is."""

    function: Callable[..., Any]
    owner: type | None

    @property
    def code(self) -> CodeType:
        """What runs, without decorators."""
        return inspect.unwrap(self.function).__code__

    @property
    def says(self) -> str:
        """Its docstring, and that of its class."""
        return f"{inspect.getdoc(self.function) or ''} {inspect.getdoc(self.owner) if self.owner else ''}"


def public() -> dict[str, Public]:
    """Every public function and method that takes or gives tensors."""
    holders = _holders()
    return {
        name: Public(function, owner)
        for module in modules()
        for name, function, owner in _callables(module)
        if _words(function) & holders or (owner is not None and owner.__name__ in holders)
    }
