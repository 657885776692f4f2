"""A finished run for notebooks: its tables as DataFrames, its images as pictures."""

from __future__ import annotations

from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.library.saying import Logged
from concept_monitor_cli.monitor.history import History
from concept_monitor_cli.monitor.statistics import ALL
from concept_monitor_cli.options import EpochFilter, ReadingOptions
from concept_monitor_cli.progress import Progress
from concept_monitor_cli.run import TABLES, CheckpointRecord, RunFolder
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.stories.stats import statistics_of

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

_WHERE = ("epoch", "checkpoint", "layer", "detector", "category")


def open_run(
    folder: str | PathLike[str] = "cmon-out",
    *,
    cache_dir: str | PathLike[str] | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Run:
    """Open the folder that a `dissect`, a `dissect_model` or a `Monitor` wrote.

    Args:
        folder: the run (`--out`).
        cache_dir: the store of the `dissect`; `None` for the user's cache folder.
        device: where words are embedded, if they must be.
        progress: told about long work; `None`: Python's logging.

    Returns:
        The run. It shows what was there when each part was first asked for.

    Raises:
        InputError: there is no run.

    >>> import concept_monitor_cli as cmon
    >>> cmon.open_run("no-such-folder")
    Traceback (most recent call last):
    ...
    concept_monitor_cli.errors.InputError: there is no run here yet
    where: no-such-folder
    try: run `cmon dissect CKPTS --layer NAME` first, or name another run with --out
    """
    return Run(Path(folder), None if cache_dir is None else Path(cache_dir), device, progress or Logged())


class Run:
    """A run, opened for reading. Made by `open_run`; `dissect_model` and a `Monitor` have one, too.

    Attributes:
        folder: where it is.

    >>> import concept_monitor_cli as cmon
    >>> from concept_monitor_cli.models.cifar import create_model
    >>> network = create_model("cifar_resnet20", num_classes=10)
    >>> run = cmon.dissect_model(network, "builtin", layers="layer1", probe_limit=60, floors=False)
    >>> run.layers, run.epochs, run.detectors
    (['layer1'], [0], ['clip-dissect'])
    >>> run.concepts(layer="layer1", epoch=0, rank=1).shape[0]
    16
    >>> len(run.top_images("layer1", unit=7)) > 0
    True
    """

    def __init__(self, folder: Path, cache_dir: Path | None, device: str, progress: Progress) -> None:
        self.folder = folder
        self._run = RunFolder.open(folder)
        self._options = ReadingOptions(out=folder, cache_dir=cache_dir, device=device)
        self._progress = progress

    def __repr__(self) -> str:
        layers, epochs = ", ".join(self.layers), self.epochs
        span = f"epochs {epochs[0]} to {epochs[-1]}" if len(epochs) > 1 else f"epoch {epochs[0]}"
        return f"<run {str(self.folder)!r}: {layers}; {span}; {', '.join(self.detectors)}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: the best concept of every unit at the last epoch."""
        shown = self.concepts(epoch=self.epochs[-1], rank=1).head(20)
        html: str = shown.to_html(index=False)
        return html

    # -- what is in it -----------------------------------------------------------------------------

    @cached_property
    def info(self) -> dict[str, Any]:
        """The content of `run.json`: what was run on what."""
        return self._run.info()

    @property
    def layers(self) -> list[str]:
        """Names of the layers, as in the tables."""
        return list(self.info["layers"])

    @property
    def detectors(self) -> list[str]:
        """Names of the detectors."""
        return list(self.info["detectors"])

    @cached_property
    def checkpoints(self) -> list[CheckpointRecord]:
        """Every checkpoint by epoch: its name, path, epoch and status."""
        return self._run.checkpoints()

    @property
    def epochs(self) -> list[int]:
        """The epochs that have tables, ascending."""
        return sorted({int(epoch) for epoch in self._opened.table["epoch"]})

    @property
    def notices(self) -> list[str]:
        """What was assumed and left out when the run was made."""
        return list(self.info["notices"])

    @property
    def plots(self) -> list[Path]:
        """The pictures that commands have drawn so far."""
        return sorted(path for path in self._run.plots.glob("*") if path.is_file())

    # -- tables ------------------------------------------------------------------------------------

    def concepts(
        self,
        *,
        layer: str | None = None,
        detector: str | None = None,
        epoch: int | None = None,
        rank: int | None = None,
    ) -> pd.DataFrame:
        """The concept table, restricted to what is named.

        Args:
            layer: of the run.
            detector: of the run.
            epoch: of the run.
            rank: 1 for the best concept of every unit alone.

        Raises:
            InputError: the run has no such layer, detector or epoch.
        """
        frame = self._run.concepts(
            layers=[] if layer is None else [layer],
            detector=detector,
            epochs=None if epoch is None else [epoch],
        )
        return frame if rank is None else frame[frame["rank"] == rank].reset_index(drop=True)

    @property
    def tables(self) -> list[str]:
        """Names of the tables that are there besides the concepts."""
        return sorted(path.stem for path in self._run.tables.glob("*.csv"))

    def table(self, name: str) -> pd.DataFrame:
        """A table that a command has written, `tables/NAME.csv`.

        Args:
            name: one of `tables`.

        Raises:
            InputError: it is not there.
        """
        path = self._run.tables / f"{name}.csv"
        if not path.is_file():
            there = ", ".join(self.tables) or "none yet"
            raise InputError(f"the run has no table {name!r}", where=self.folder, hint=f"it has: {there}")
        if name in TABLES:
            return TABLES[name].read_csv(path)
        import pandas as pd

        return pd.read_csv(path)

    def statistics(self) -> pd.DataFrame:
        """What `cmon stats` counts, without writing it: the rows of `statistics.csv`."""
        return TABLES["statistics"].frame(statistics_of(self._opened))

    def scalars(self, epoch: int) -> dict[str, float]:
        """The numbers of `statistics.csv` for whole layers at one epoch, for a logger.

        Args:
            epoch: of the run.

        Returns:
            `LAYER/DETECTOR/COLUMN` -> number; those that are missing are left out.
        """
        options = ReadingOptions(
            out=self.folder,
            cache_dir=self._options.cache_dir,
            device=self._options.device,
            epochs=EpochFilter((epoch,)),
        )
        rows = statistics_of(OpenRun(self.folder, options, self._progress))
        found: dict[str, float] = {}
        for row in rows[rows["category"] == ALL].to_dict("records"):
            for column, value in row.items():
                if column not in _WHERE and isinstance(value, int | float) and value == value:
                    found[f"{row['layer']}/{row['detector']}/{column}"] = float(value)
        return found

    # -- images ------------------------------------------------------------------------------------

    @property
    def image_names(self) -> list[str]:
        """Names of the probing images, in the order of the recordings."""
        return list(self._opened.probe.ids)

    def image(self, name: str) -> Image.Image:
        """A probing image.

        Args:
            name: one of `image_names`.

        Raises:
            InputError: it is not one of them, or the images are gone, or others now.
        """
        from PIL import Image

        if name not in self._opened.probe.ids:
            raise InputError(f"the run has no image {name!r}", where=self.folder, hint="see image_names")
        return Image.fromarray(self._opened.image(name))

    def top_images(
        self,
        layer: str,
        unit: int,
        *,
        epoch: int | None = None,
        detector: str | None = None,
        count: int = 5,
    ) -> list[str]:
        """Names of the images that excite a unit most, the strongest first.

        Args:
            layer: of the run.
            unit: from 0.
            epoch: `None` for the last.
            detector: whose recording; `None` for the run's first. Which images these are depends on what it
                looks at: mean activations, or the peaks of maps.
            count: how many.

        Raises:
            InputError: there is no such layer, unit or epoch, or the store has the recording no more.
        """
        history = self._history(layer, detector)
        epochs = history.epochs.tolist()
        wanted = epochs[-1] if epoch is None else epoch
        if wanted not in epochs:
            raise InputError(f"{layer} has no epoch {wanted}", where=self.folder, hint=f"it has: {epochs}")
        with self._opened.recording(history, epochs.index(wanted)) as entry:
            top = entry.read("top_images")
        if not 0 <= unit < len(top):
            raise InputError(f"{layer} has no unit {unit}", where=self.folder, hint=f"0 to {len(top) - 1}")
        ids = self._opened.probe.ids
        return [ids[number] for number in top[unit, :count].tolist() if number >= 0]

    def _history(self, layer: str, detector: str | None) -> History:
        for history in self._opened.histories:
            if history.layer == layer and detector in (None, history.detector):
                return history
        wanted = layer if detector is None else f"{layer} by {detector}"
        there = ", ".join(f"{each.layer} by {each.detector}" for each in self._opened.histories)
        raise InputError(f"the run has no {wanted}", where=self.folder, hint=f"it has: {there}")

    @cached_property
    def _opened(self) -> OpenRun:
        return OpenRun(self.folder, self._options, self._progress)
