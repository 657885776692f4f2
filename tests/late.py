"""Libraries that a single test needs are imported by it, not by every collection of tests."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class Late:
    """Stands for a module, which is imported when something of it is first asked for.

    `import timm` at the head of a test file costs every run seconds, whichever tests it is for:
    `timm = Late("timm")` costs only those that use it.

    Args:
        name: of the module.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):  # pytest asks everything in a test file for `__test__` and the like
            raise AttributeError(attribute)
        return getattr(import_module(self._name), attribute)
