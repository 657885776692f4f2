"""The options of the commands that read a finished run, and of those that look at what is there."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from concept_monitor_cli.options.common import (
    DryRunOptions,
    InputSizeOptions,
    LoadingOptions,
    OneRunOptions,
    Options,
    OutOptions,
    ReadingOptions,
    SeedOptions,
    StoreOptions,
    TrainingOptions,
    one_detector_option,
)
from concept_monitor_cli.options.declare import (
    CONFIDENCE,
    NETWORK,
    OUTPUT,
    PAGE,
    PART,
    PICTURE,
    REMOVE,
    TRAINING,
    argument,
    declare,
    option,
)
from concept_monitor_cli.options.kinds import Method
from concept_monitor_cli.options.values import (
    count,
    duration,
    from_zero,
    number,
    path,
    size,
    spec,
    unit_list,
)


@dataclass(frozen=True, kw_only=True)
class _ClassesOptions(Options):
    classes: tuple[str, ...] = option(
        (),
        "Count the units whose concept is one of these: car,horse.",
        panel=PART,
        metavar="WORDS",
        shown="none",
    )


@dataclass(frozen=True, kw_only=True)
class EmbedOptions(OneRunOptions):
    """The options of `cmon embed`."""

    without: ClassVar[tuple[str, ...]] = (*ReadingOptions.without, "workers")

    anchors: tuple[str, ...] = option(
        (),
        "Words that mark places in the picture: a comma list, or a .txt file with one a line.",
        panel=PART,
        flags=("--anchors", "-a"),
        metavar="WORDS",
        shown="the most frequent concepts",
    )
    units: tuple[int, ...] = option(
        (),
        "Units whose way is followed: 256,479 or 10-19.",
        panel=PART,
        flags=("--units", "-u"),
        metavar="LIST",
        read=unit_list,
        shown="none",
    )
    detector: str | None = one_detector_option()
    method: Method = option(
        "umap",
        "To two dimensions: umap, one fit over all epochs and anchors, or pca.",
        panel=PICTURE,
        metavar="NAME",
    )
    neighbors: int = option(15, "UMAP's n_neighbors.", panel=PICTURE, metavar="N", read=number(int, least=2))
    min_dist: float = option(
        0.1, "UMAP's min_dist.", panel=PICTURE, metavar="D", read=number(float, least=0, most=1)
    )


@dataclass(frozen=True, kw_only=True)
class StatsOptions(OneRunOptions):
    """The options of `cmon stats`."""

    without: ClassVar[tuple[str, ...]] = (*ReadingOptions.without, "workers", "seed")

    against: Path | None = option(
        None,
        "Another run, to be drawn beside this one.",
        panel=PART,
        metavar="RUN",
        read=path,
        shown="none",
    )


@dataclass(frozen=True, kw_only=True)
class UnitsOptions(_ClassesOptions, OneRunOptions):
    """The options of `cmon units`."""

    units: tuple[int, ...] = option(
        (),
        "Units to draw over the epochs: 256,479 or 10-19.",
        panel=PART,
        flags=("--units", "--unit", "-u"),
        metavar="LIST",
        read=unit_list,
        shown="the best of every epoch",
    )
    match: str | None = option(
        None,
        "Units whose label or description has this text in it, as whole words.",
        panel=PART,
        metavar="TEXT",
        shown="all",
    )
    top: int = option(5, "Units, and images of each, to draw.", panel=PICTURE, metavar="N", read=count)
    resamples: int = option(
        100,
        "How often the probing images are drawn again to see which changes are more than luck; 0 leaves "
        "that out.",
        panel=CONFIDENCE,
        metavar="N",
        read=from_zero,
    )


@dataclass(frozen=True, kw_only=True)
class _TextOptions(Options):
    text: str = field(metadata=declare("Any words.", argument=True, metavar="TEXT"))


@dataclass(frozen=True, kw_only=True)
class SearchOptions(OneRunOptions, _TextOptions):
    """The options of `cmon search`."""

    without: ClassVar[tuple[str, ...]] = (*OneRunOptions.without, "seed")

    top: int = option(3, "So many units of each epoch.", panel=PICTURE, metavar="N", read=count)


@dataclass(frozen=True, kw_only=True)
class RetentionOptions(ReadingOptions):
    """The options of `cmon retention`."""

    without: ClassVar[tuple[str, ...]] = (*ReadingOptions.without, "device", "workers", "cache_dir", "seed")

    runs: tuple[Path, ...] = argument(
        (),
        "A run whose checkpoints are the stages of a pruning. Several make a curve each.",
        metavar="RUN",
        read=path,
        shown="the run in --out",
    )
    by_run: bool = option(
        False, "The runs are the stages of one pruning, each at its last epoch.", panel=PART
    )


@dataclass(frozen=True, kw_only=True)
class CompareOptions(_ClassesOptions, ReadingOptions):
    """The options of `cmon compare`."""

    without: ClassVar[tuple[str, ...]] = (*ReadingOptions.without, "seed")

    run_a: Path = field(metadata=declare("The folder of one run.", argument=True, metavar="RUN_A", read=path))
    run_b: Path = field(
        metadata=declare("The folder of the other.", argument=True, metavar="RUN_B", read=path)
    )
    more: tuple[Path, ...] = argument(
        (), "Further runs, for the interpretable units of all of them.", metavar="[RUN]...", read=path
    )
    out: Path = option(
        Path("cmon-compare"),
        "Where the tables and plots of the comparison go.",
        panel=OUTPUT,
        flags=("--out", "-o"),
        metavar="DIR",
        read=path,
    )
    accuracies: Path | None = option(
        None,
        "A CSV with the columns run,train,test: do runs with more interpretable units generalise better?",
        panel=PART,
        metavar="FILE",
        read=path,
        shown="none",
    )
    match: tuple[str, ...] = option(
        (),
        "Layers of other names that belong together: layer4=blocks.11, a comma list for several.",
        panel=PART,
        metavar="A=B",
        shown="layers of the same name",
    )


@dataclass(frozen=True, kw_only=True)
class ReportOptions(OneRunOptions):
    """The options of `cmon report`."""

    without: ClassVar[tuple[str, ...]] = (*ReadingOptions.without, "seed", "plot_formats", "style")

    other: Path | None = argument(
        None, "Another run, whose charts stand beside.", metavar="OTHER", read=path, shown="none"
    )
    units: tuple[int, ...] = option(
        (),
        "Units that are followed from the start and whose images come first: 256,479 or 10-19.",
        panel=PART,
        flags=("--units", "-u"),
        metavar="LIST",
        read=unit_list,
        shown="none",
    )
    images: int = option(5, "Images per unit and epoch; 0 for none.", panel=PAGE, metavar="N", read=from_zero)
    image_megabytes: float = option(
        6.0,
        "Most space for images. The most certain units come first.",
        panel=PAGE,
        metavar="MB",
        read=number(float, least=0),
    )
    tensorboard: Path | None = option(
        None,
        "Also write scalars and a projector for TensorBoard's --logdir.",
        panel=OUTPUT,
        metavar="DIR",
        read=path,
        shown="none",
    )
    csv: Path | None = option(
        None, "Also write all tables as CSV.", panel=OUTPUT, metavar="DIR", read=path, shown="none"
    )
    parquet: Path | None = option(
        None, "Also write all tables as Parquet.", panel=OUTPUT, metavar="DIR", read=path, shown="none"
    )


@dataclass(frozen=True, kw_only=True)
class StatusOptions(OutOptions):
    """The options of `cmon submit status`."""


@dataclass(frozen=True, kw_only=True)
class CheckpointsOptions(LoadingOptions, TrainingOptions, StoreOptions):
    """The options of `cmon checkpoints`."""

    probe: str | None = option(
        None,
        "Show some of these to the last checkpoint, to see how the images of its training looked.",
        panel=NETWORK,
        metavar="PHOTOS",
        read=spec,
    )


@dataclass(frozen=True, kw_only=True)
class LayersOptions(InputSizeOptions, LoadingOptions):
    """The options of `cmon layers`."""

    checkpoint: str = field(
        metadata=declare(
            "A checkpoint. Of a folder or a glob, the first one is taken.",
            argument=True,
            metavar="CKPT",
            eager=True,
        )
    )
    match: tuple[str, ...] = option(
        (),
        "Names like this, of all layers: 'layer4*', '*attn*'.",
        panel=NETWORK,
        flags=("--match", "-m"),
        metavar="PATTERN",
        shown="the stages",
    )
    all: bool = option(False, "Every layer, not only the stages of the network.", panel=NETWORK)


@dataclass(frozen=True, kw_only=True)
class VerifyOptions(DryRunOptions, StoreOptions):
    """The options of `cmon cache verify`."""


@dataclass(frozen=True, kw_only=True)
class PruneOptions(StoreOptions):
    """The options of `cmon cache prune`."""

    max_size: int | None = option(
        None,
        "Least recently used entries, until this much is left: 500MB, 20GB.",
        panel=REMOVE,
        metavar="SIZE",
        read=size,
    )
    older_than: float | None = option(
        None,
        "Entries that were not used for so long: 12h, 30d, 8w.",
        panel=REMOVE,
        metavar="TIME",
        read=duration,
    )
    stale: bool = option(False, "Entries of other versions of cmon.", panel=REMOVE)
    all: bool = option(False, "Everything.", panel=REMOVE, risky=bool)


@dataclass(frozen=True, kw_only=True)
class DemoOptions(SeedOptions, StoreOptions):
    """The options of `cmon demo`."""

    folder: Path = argument(Path("cmon-demo"), "Where to.", metavar="DIR", read=path)
    training_epochs: int = option(
        5, "How long to train.", panel=TRAINING, name="epochs", metavar="N", read=count
    )


@dataclass(frozen=True, kw_only=True)
class FetchOptions(DryRunOptions):
    """The options of `cmon fetch`."""

    name: str | None = argument(
        None, "What to fetch: broden, ade20k, coco-panoptic, dtd, clip.", metavar="NAME", shown="a list"
    )
    to: Path = option(Path(), "The folder it is put into.", panel=OUTPUT, metavar="DIR", read=path, shown=".")
