"""Concept-Monitor: which human concept does each unit of a network detect, epoch by epoch.

For notebooks and training loops (`docs/library.md`):

>>> import concept_monitor_cli as cmon
>>> [name for name in dir(cmon) if not name.startswith("_")]  # doctest: +ELLIPSIS
['CmonError', 'InputError', ...]
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from concept_monitor_cli.errors import CmonError, InputError
    from concept_monitor_cli.library.adapters import lightning_callback, monitor_saver, trainer_callback
    from concept_monitor_cli.library.loggers import to_tensorboard, to_wandb
    from concept_monitor_cli.library.models import dissect_model
    from concept_monitor_cli.library.monitoring import Monitor
    from concept_monitor_cli.library.runs import Run, open_run
    from concept_monitor_cli.library.visits import Visit

__all__ = [
    "CmonError",
    "InputError",
    "Monitor",
    "Run",
    "Visit",
    "dissect_model",
    "lightning_callback",
    "monitor_saver",
    "open_run",
    "to_tensorboard",
    "to_wandb",
    "trainer_callback",
]

# Imported when first asked for: `import concept_monitor_cli` must not wait for torch.
_PLACES = {
    "CmonError": "errors",
    "InputError": "errors",
    "Monitor": "library.monitoring",
    "Run": "library.runs",
    "Visit": "library.visits",
    "dissect_model": "library.models",
    "lightning_callback": "library.adapters",
    "monitor_saver": "library.adapters",
    "open_run": "library.runs",
    "to_tensorboard": "library.loggers",
    "to_wandb": "library.loggers",
    "trainer_callback": "library.adapters",
}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__} - {"Any", "TYPE_CHECKING", "annotations", "import_module"})
