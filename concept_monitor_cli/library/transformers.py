"""`Monitor` as a callback of the `Trainer` of transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.library.frameworks import imported

if TYPE_CHECKING:
    from concept_monitor_cli.library.monitoring import Monitor

    TrainerCallback = object
else:
    TrainerCallback = imported("transformers").TrainerCallback


class TrainerMonitor(TrainerCallback):
    """See `adapters.trainer_callback`."""

    def __init__(self, monitor: Monitor, *, on: str = "save") -> None:
        if on not in ("save", "epoch"):
            raise InputError(f"{on!r} is no moment of a training", where="on=", hint="save or epoch")
        self.monitor = monitor
        self.on = on

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the trainer."""
        if self.on == "save":
            self._visit(state, kwargs["model"])

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the trainer."""
        if self.on == "epoch":
            self._visit(state, kwargs["model"])

    def _visit(self, state: Any, model: Any) -> None:
        if state.is_world_process_zero:
            self.monitor(model, int(state.global_step))
