"""The numbers of a visit, for the boards on which a training's curves are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Logger = Callable[[Mapping[str, float], int], None]


def to_tensorboard(writer: Any, prefix: str = "cmon/") -> Logger:
    """A logger for `Monitor` that writes scalars with TensorBoard.

    Args:
        writer: a `torch.utils.tensorboard.SummaryWriter`.
        prefix: of the tags.

    >>> class Printing:
    ...     def add_scalar(self, tag, value, step):
    ...         print(tag, value, step)
    >>> to_tensorboard(Printing())({"layer4/my-detector/interpretable": 7.0}, 3)
    cmon/layer4/my-detector/interpretable 7.0 3
    """

    def log(scalars: Mapping[str, float], epoch: int) -> None:
        for name, value in scalars.items():
            writer.add_scalar(f"{prefix}{name}", value, epoch)

    return log


def to_wandb(run: Any, prefix: str = "cmon/") -> Logger:
    """A logger for `Monitor` that writes scalars with Weights & Biases, online or offline.

    They are drawn over `cmon/epoch`, so that they do not need the step that the training itself logs at.

    Args:
        run: what `wandb.init` gave.
        prefix: of the names.

    >>> class Printing:
    ...     def define_metric(self, name, step_metric=None):
    ...         pass
    ...     def log(self, numbers):
    ...         print(numbers)
    >>> to_wandb(Printing())({"layer4/my-detector/interpretable": 7.0}, 3)
    {'cmon/epoch': 3, 'cmon/layer4/my-detector/interpretable': 7.0}
    """
    counter = f"{prefix}epoch"
    run.define_metric(counter)
    run.define_metric(f"{prefix}*", step_metric=counter)

    def log(scalars: Mapping[str, float], epoch: int) -> None:
        run.log({counter: epoch, **{f"{prefix}{name}": value for name, value in scalars.items()}})

    return log
