"""`Monitor` in the training loops of other libraries, which are imported only when they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    from concept_monitor_cli.library.monitoring import Monitor

Saver = TypeVar("Saver")


def lightning_callback(monitor: Monitor, *, every_n_steps: int | None = None) -> Any:
    """A callback for Lightning's `Trainer` that visits the network at the end of every training epoch.

    The network is the `LightningModule`, or the part of it that has the layers, as `cmon dissect` finds it in
    Lightning's checkpoints. Only the first of several processes visits it.

    Args:
        monitor: its epochs are Lightning's, counted from 0. With `name="epoch={epoch}-step={step}.ckpt"`
            its tables name checkpoints as Lightning's own `ModelCheckpoint` does.
        every_n_steps: visit after every so many optimizer steps instead; the tables' epoch is then the step.

    Returns:
        A `lightning.pytorch.Callback`, or one of `pytorch_lightning` where only that is installed.

    Raises:
        InputError: neither is installed.

    >>> import concept_monitor_cli as cmon
    >>> from lightning.pytorch import Trainer
    >>> monitor = cmon.Monitor("builtin", layers="layer3")
    >>> callback = cmon.lightning_callback(monitor)
    >>> trainer = Trainer(max_epochs=3, accelerator="cpu", logger=False, callbacks=[callback])
    >>> callback in trainer.callbacks
    True
    """
    from concept_monitor_cli.library.lightning import LightningMonitor

    return LightningMonitor(monitor, every_n_steps=every_n_steps)


def trainer_callback(monitor: Monitor, *, on: Literal["save", "epoch"] = "save") -> Any:
    """A callback for the `Trainer` of transformers.

    Only the first of several processes visits the network.

    Args:
        monitor: the tables' epoch is the trainer's step, as it is for `cmon dissect` of its checkpoints. With
            `name="checkpoint-{step}/model.safetensors"` the tables name them as `cmon dissect` does.
        on: visit whenever a checkpoint is saved, or at the end of every epoch.

    Returns:
        A `transformers.TrainerCallback`.

    Raises:
        InputError: transformers is not installed.

    >>> import concept_monitor_cli as cmon
    >>> import torch, transformers
    >>> monitor = cmon.Monitor("builtin", layers="layer3")
    >>> callback = cmon.trainer_callback(monitor)
    >>> trainer = transformers.Trainer(torch.nn.Linear(2, 2), callbacks=[callback])
    >>> callback in trainer.callback_handler.callbacks
    True
    """
    from concept_monitor_cli.library.transformers import TrainerMonitor

    return TrainerMonitor(monitor, on=on)


def monitor_saver(saver: Saver, monitor: Monitor) -> Saver:
    """Have a monitor visit the network whenever timm's `CheckpointSaver` saves it.

    In timm's `train.py`, after `saver = utils.CheckpointSaver(...)`:

        saver = cmon.monitor_saver(saver, cmon.Monitor("photos/", layers="layer4"))

    Args:
        saver: a `timm.utils.CheckpointSaver`, or anything with `model` and `save_checkpoint(epoch, metric)`.
        monitor: its epochs are timm's, counted from 0. With `name="checkpoint-{epoch}.pth.tar"` the tables
            name checkpoints as timm does.

    Returns:
        The same saver.

    >>> class Saver:
    ...     model = "the network"
    ...     def save_checkpoint(self, epoch, metric=None):
    ...         return metric, epoch
    >>> saver = monitor_saver(Saver(), lambda model, epoch: print(f"{model} at {epoch}"))
    >>> saver.save_checkpoint(3, metric=0.7)
    the network at 3
    (0.7, 3)
    """
    target: Any = saver
    save: Callable[..., Any] = target.save_checkpoint

    @wraps(save)
    def save_checkpoint(epoch: int, *args: Any, **kwargs: Any) -> Any:
        saved = save(epoch, *args, **kwargs)
        monitor(target.model, epoch)
        return saved

    target.save_checkpoint = save_checkpoint
    return saver
