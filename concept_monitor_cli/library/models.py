"""A network that is at hand, dissected as it is."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from concept_monitor_cli.library.runs import Run, open_run
from concept_monitor_cli.library.saying import Logged
from concept_monitor_cli.library.visits import Visitor
from concept_monitor_cli.progress import Progress

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from concept_monitor_cli.library.inputs import Images, Words
    from concept_monitor_cli.library.settings import Settings

NAME = "epoch_{epoch:04d}.pth"


def dissect_model(
    model: nn.Module,
    images: Images,
    *,
    layers: str | Sequence[str],
    concepts: Words | None = None,
    encoder: str | None = None,
    out: str | PathLike[str] = "cmon-out",
    epoch: int = 0,
    name: str = NAME,
    keep_weights: bool = True,
    overwrite: bool = False,
    progress: Progress | None = None,
    **settings: Unpack[Settings],
) -> Run:
    """Find the concept of every unit of some layers of a network that is in memory.

    The tables are those that `cmon dissect` makes of the saved network, byte for byte. The network is left as
    it is: its mode, hooks, gradients, buffers, device and the random states of the program; a copy is run.
    Where its weights are those of a known network but it computes something else, or where it is not known at
    all, the copy is run as it is, and a notice says so.

    Args:
        model: the network, on any device, in any mode. `DataParallel`, `DistributedDataParallel` and
            `torch.compile` are looked through.
        images: what may follow `--probe` (a folder, `builtin`, ...), uint8 pixels `(N, H, W, 3)`, or a list
            of PIL images. Not normalised: that is done as the network wants it (`input_size`, `mean`, `std`).
        layers: their names, as in `model.named_modules()`; a list, or one text with commas.
        concepts: what may follow `--concepts`, a list of words, or words with categories. `None`: the default
            that belongs to the images.
        encoder: as `--encoder`; `None`: the default that belongs to the images.
        out: the folder of the run; a run that is there gets this epoch added.
        epoch: of the network, in the tables.
        name: of the checkpoint, in the tables; `{epoch}` stands for the epoch.
        keep_weights: write the weights into the run (`weights/`): `evaluate` looks at them again.
        overwrite: start the run anew.
        progress: told what happens; `None`: Python's logging.
        settings: further options of `cmon dissect` by their names, see `Settings`.

    Returns:
        The run.

    Raises:
        InputError: nothing can be done with this input, or the run is another training's.
        CmonError: the work failed.

    >>> import concept_monitor_cli as cmon
    >>> from concept_monitor_cli.models.cifar import create_model
    >>> network = create_model("cifar_resnet20", num_classes=10)
    >>> run = cmon.dissect_model(network, "builtin", layers="layer1", probe_limit=60, floors=False)
    >>> run.concepts(rank=1).shape[0]
    16
    """
    visitor = Visitor(
        images,
        out=Path(out),
        layers=layers,
        concepts=concepts,
        encoder=encoder,
        keep_weights=keep_weights,
        overwrite=overwrite,
        settings=settings,
        progress=progress or Logged(),
    )
    visitor.visit(model, epoch, name.format(epoch=epoch))
    return open_run(out, cache_dir=settings.get("cache_dir"), progress=progress)
