"""A training, watched from within its loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from concept_monitor_cli.errors import CmonError, InputError
from concept_monitor_cli.library.models import NAME
from concept_monitor_cli.library.runs import Run, open_run
from concept_monitor_cli.library.saying import Logged
from concept_monitor_cli.library.visits import Visit, Visitor
from concept_monitor_cli.progress import Progress
from concept_monitor_cli.study import UnusableCheckpointError

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from concept_monitor_cli.library.inputs import Images, Words
    from concept_monitor_cli.library.settings import Settings

#: Gets the numbers of whole layers after a visit (`Run.scalars`), and the epoch or step they are of.
Logger = Callable[[Mapping[str, float], int], None]


class Monitor:
    """Dissects a network again and again while it is trained, into one run.

    A call costs one forward pass over the probing images (two for some detectors) and a copy of the weights;
    the first one also a pass for floors, and the embedding of images and words. Memory does not grow with the
    number of calls. The training goes on as if there were no monitor: see `dissect_model`.

    The run is whole after every call, and every command reads it. A training that is taken up again continues
    it; what the run had of epochs that are trained once more is replaced.

    Args:
        images: see `dissect_model`, as are `layers`, `concepts`, `encoder`, `name`, `keep_weights`,
            `progress` and `settings`.
        layers: names of layers.
        concepts: words.
        encoder: image-text encoder.
        out: the folder of the run.
        every: visit only every so many epochs (or steps, whatever the loop counts in): those that it divides.
        name: of a checkpoint in the tables; `{epoch}` stands for the epoch and `{step}` for the step.
        keep_weights: write the weights of every visit into the run.
        overwrite: start the run anew with the first visit.
        loggers: get the numbers of every visit: `to_tensorboard(writer)`, `to_wandb(run)`, or functions of
            one's own.
        progress: told what happens.
        settings: further options of `cmon dissect` by their names.

    Attributes:
        visits: how many there were.
        failed: epoch -> why, of visits that came to nothing after a first one had succeeded: weights that are
            NaN, a full disk. A warning says so, and the training goes on.

    Raises:
        InputError: an option that makes no sense.

    >>> import concept_monitor_cli as cmon
    >>> from concept_monitor_cli.models.cifar import create_model
    >>> network = create_model("cifar_resnet20", num_classes=10)
    >>> monitor = cmon.Monitor("builtin", layers="layer1", every=5, probe_limit=60, floors=False)
    >>> for epoch in range(8):
    ...     visit = monitor(network, epoch)  # after training it for an epoch
    >>> monitor.run.epochs
    [0, 5]
    """

    def __init__(
        self,
        images: Images,
        *,
        layers: str | Sequence[str],
        concepts: Words | None = None,
        encoder: str | None = None,
        out: str | PathLike[str] = "cmon-out",
        every: int = 1,
        name: str = NAME,
        keep_weights: bool = True,
        overwrite: bool = False,
        loggers: Sequence[Logger] = (),
        progress: Progress | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        if every < 1:
            raise InputError(f"every {every} epochs", where="every=", hint="give 1 or more")
        _check_name(name)
        self.every = every
        self.visits = 0
        self.failed: dict[int, str] = {}
        self._out, self._name, self._loggers = Path(out), name, tuple(loggers)
        self._cache_dir = settings.get("cache_dir")
        self._progress = progress or Logged()
        self._visitor = Visitor(
            images,
            out=self._out,
            layers=layers,
            concepts=concepts,
            encoder=encoder,
            keep_weights=keep_weights,
            overwrite=overwrite,
            settings=settings,
            progress=self._progress,
        )
        self._visitor.refuse_fitted_bases()

    def __call__(self, model: nn.Module, epoch: int, *, step: int | None = None) -> Visit | None:
        """Visit the network, if it is its turn.

        Args:
            model: the network, as it is being trained.
            epoch: or step: what the tables call `epoch`. Not negative.
            step: stands for `{step}` in `name`, where that is another number.

        Returns:
            What was done; `None` where `every` leaves this epoch out, or the visit failed (`failed`).

        Raises:
            InputError, CmonError: the first visit failed.
        """
        if epoch < 0:
            raise InputError(f"there is no epoch {epoch}", where="epoch=", hint="count from 0")
        if epoch % self.every:
            return None
        name = self._name.format(epoch=epoch, step=epoch if step is None else step)
        try:
            visit = self._visitor.visit(model, epoch, name)
        except (CmonError, OSError, MemoryError, RuntimeError) as error:
            if isinstance(error, UnusableCheckpointError):
                self._visitor.write_failed(epoch, name, error)
            elif not self.visits:
                raise
            self.failed[epoch] = error.what if isinstance(error, CmonError) else str(error)
            self._progress.warning(f"{name} is not monitored: {self.failed[epoch]}")
            return None
        self.visits += 1
        if self._loggers:
            scalars = self.run.scalars(epoch)
            for logger in self._loggers:
                logger(scalars, epoch)
        return visit

    @property
    def run(self) -> Run:
        """The run, as it is now.

        Raises:
            InputError: there was no visit yet.
        """
        return open_run(self._out, cache_dir=self._cache_dir, progress=self._progress)


def _check_name(name: str) -> None:
    """Refuse a pattern of names that cannot tell epochs apart."""
    try:
        first, second = (name.format(epoch=number, step=number) for number in (0, 1))
    except (KeyError, IndexError, ValueError) as error:
        raise InputError(f"{name!r} is no pattern of names", where="name=", hint=NAME) from error
    if first == second:
        raise InputError(f"{name!r} names every epoch alike", where="name=", hint=NAME)
