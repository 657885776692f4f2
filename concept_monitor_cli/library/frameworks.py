"""Other people's training libraries, imported only where they are asked for."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from concept_monitor_cli.errors import InputError


def imported(*names: str) -> ModuleType:
    """The first of these modules that is installed.

    Args:
        names: dotted.

    Raises:
        InputError: none of them is.
    """
    import concept_monitor_cli._torchvision  # noqa: F401 - several of them import torchvision

    for name in names:
        try:
            return import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise
    package = names[0].partition(".")[0]
    raise InputError(f"{package} is not installed", where=names[0], hint=f"pip install {package}")
