"""`Monitor` as a callback of Lightning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from concept_monitor_cli.library.frameworks import imported

if TYPE_CHECKING:
    from concept_monitor_cli.library.monitoring import Monitor

    Callback = object
else:
    Callback = imported("lightning.pytorch", "pytorch_lightning").Callback


class LightningMonitor(Callback):
    """See `adapters.lightning_callback`."""

    def __init__(self, monitor: Monitor, *, every_n_steps: int | None = None) -> None:
        super().__init__()
        self.monitor = monitor
        self.every_n_steps = every_n_steps
        self._last_step = -1

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Called by Lightning."""
        step = int(trainer.global_step)
        # Called for every batch, also for those of one accumulated step.
        if self.every_n_steps and step % self.every_n_steps == 0 and step != self._last_step:
            self._last_step = step
            self._visit(trainer, pl_module, step)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Called by Lightning."""
        if not self.every_n_steps:
            self._visit(trainer, pl_module, int(trainer.current_epoch))

    def _visit(self, trainer: Any, pl_module: Any, epoch: int) -> None:
        if trainer.is_global_zero and not trainer.fast_dev_run:
            self.monitor(pl_module, epoch, step=int(trainer.global_step))
