"""Options that many commands share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.options.declare import (
    CHECKPOINTS,
    MACHINE,
    NETWORK,
    OUTPUT,
    PART,
    TRUTH,
    argument,
    declare,
    option,
)
from concept_monitor_cli.options.kinds import (
    EpochFilter,
    PlotFormat,
    PlotFormats,
    PlotStyle,
    Precision,
    Source,
)
from concept_monitor_cli.options.values import count, device, from_zero, of_text, path, spec


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a user asks of a command, as plain, frozen data.

    Attributes:
        without: inherited fields that the command has no use for, and does not offer.
        sources: where each option's value came from, e.g. `{"layer": "flag"}`; for `run.json`.
    """

    without: ClassVar[tuple[str, ...]] = ()

    sources: Mapping[str, Source] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The options as plain JSON values, without `sources`, for `run.json`."""
        return {
            item.name: _plain(getattr(self, item.name)) for item in fields(self) if item.name != "sources"
        }


@dataclass(frozen=True, kw_only=True)
class StoreOptions(Options):
    """The options of what only needs the store of intermediate results."""

    cache_dir: Path | None = option(
        None,
        "Where embeddings, decoded images and activations are kept for later runs.",
        panel=MACHINE,
        metavar="DIR",
        read=path,
        shown="the user's cache folder",
    )

    @property
    def cache(self) -> Path:
        """The folder of the store: `cache_dir`, else the user's cache folder."""
        return self.cache_dir if self.cache_dir is not None else default_cache_dir()


@dataclass(frozen=True, kw_only=True)
class MachineOptions(Options):
    """What the work is done on."""

    device: str = option(
        "auto",
        "auto (CUDA, else MPS, else CPU), cpu, cuda, cuda:1 or mps.",
        panel=MACHINE,
        metavar="NAME",
        read=device,
    )
    precision: Precision = option(
        "fp32",
        "Of the forward passes: fp32, bf16 or fp16. Scores are always computed in fp32.",
        panel=MACHINE,
        metavar="TYPE",
    )
    batch_size: int = option(64, "Images per forward pass.", panel=MACHINE, metavar="N", read=count)
    workers: int | None = option(
        None,
        "How many images are decoded at a time.",
        panel=MACHINE,
        metavar="N",
        read=count,
        shown="one per usable core",
    )


@dataclass(frozen=True, kw_only=True)
class SeedOptions(Options):
    """The option of what draws at random."""

    seed: int = option(0, "Of every random choice.", panel=MACHINE, metavar="N", read=from_zero)


@dataclass(frozen=True, kw_only=True)
class OutOptions(Options):
    """The option of what works on a run."""

    out: Path = option(
        Path("cmon-out"),
        "The folder of the run.",
        panel=OUTPUT,
        flags=("--out", "-o"),
        metavar="DIR",
        read=path,
    )


@dataclass(frozen=True, kw_only=True)
class DryRunOptions(Options):
    """The option of what can be tried without doing it."""

    dry_run: bool = option(False, "Say what would be done, and do nothing.", panel=OUTPUT)


# The fields of the last base come first, and so they do in `--help`.
@dataclass(frozen=True, kw_only=True)
class CommonOptions(DryRunOptions, OutOptions, SeedOptions, StoreOptions, MachineOptions):
    """What every command that works on a run understands: `dissect` writes it, the others read it."""


@dataclass(frozen=True, kw_only=True)
class PlotOptions(Options):
    """The option of what draws plots."""

    plot_formats: tuple[PlotFormat, ...] = option(
        ("png",),
        "File type of the plots: png, svg, pdf, or several.",
        panel=OUTPUT,
        name="plot_format",
        metavar="TYPE",
    )
    style: PlotStyle = option(
        "screen",
        "Look of the plots. paper: as wide as one or two columns of a page, letters of 6 to 8 points, told "
        "apart without colour, too.",
        metavar="LOOK",
        panel=OUTPUT,
    )

    def __post_init__(self) -> None:
        """The file types carry the look: whoever is told where to draw knows how."""
        object.__setattr__(self, "plot_formats", PlotFormats(self.plot_formats, self.style))


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(Options):
    """Which checkpoints, and in which order."""

    checkpoints: tuple[str, ...] = field(
        metadata=declare(
            "A folder of checkpoints, a file, or a glob. Several may be given. torchvision/NAME and "
            "timm/NAME are the pretrained weights in the library's cache.",
            argument=True,
            metavar="CKPTS",
            # Their folder may hold settings, so it must be known before those are read.
            eager=True,
        )
    )
    order: str = option(
        "auto",
        "Of the checkpoints. auto: by epoch; name: as their names sort, from 0 on; or a pattern that says "
        "where the epoch stands: 'net_{epoch}_*'.",
        panel=CHECKPOINTS,
        metavar="RULE",
        read=spec,
    )
    series: str | None = option(
        None,
        "Which checkpoints, where several networks or trainings are there: a name or a part of it.",
        panel=CHECKPOINTS,
        metavar="NAME",
        read=spec,
        shown="the longest",
    )


def trust_option(panel: str) -> Any:
    """`--trust-pickle`, which stands under another heading where a run is read."""
    return option(
        False,
        "Load checkpoints that can only be read by running the code in them. For your own files only.",
        panel=panel,
        risky=bool,
    )


def names_code(value: Any) -> bool:
    """Whether the value of `--model` names a file or module of code."""
    return ":" in str(value)


@dataclass(frozen=True, kw_only=True)
class LoadingOptions(Options):
    """How the network of a checkpoint is found and read."""

    model: str | None = option(
        None,
        "Architecture: a torchvision or timm name, package.module:factory or file.py:factory.",
        panel=NETWORK,
        metavar="NAME",
        read=spec,
        shown="recognised from the weights",
        risky=names_code,
    )
    trust_pickle: bool = trust_option(NETWORK)
    prefix: str | None = option(
        None,
        "The network whose weights' names begin so, where a checkpoint has several: encoder_q.",
        panel=NETWORK,
        metavar="NAMES",
        shown="looked for",
    )
    weights_key: str | None = option(
        None,
        "The state dict under this name, where a checkpoint has several: teacher, model_ema.",
        panel=NETWORK,
        metavar="NAME",
        shown="looked for",
    )

    @property
    def loading(self) -> dict[str, Any]:
        """How checkpoints are read: the arguments of `load_checkpoint`."""
        return {
            "trust_pickle": self.trust_pickle,
            "model": self.model,
            "prefix": self.prefix,
            "weights_key": self.weights_key,
        }


@dataclass(frozen=True, kw_only=True)
class InputSizeOptions(Options):
    """How large the network sees its images."""

    input_size: int | None = option(
        None,
        "Side of the square that the network sees. Checkpoints do not say; a wrong guess spoils the labels.",
        panel=NETWORK,
        metavar="PIXELS",
        read=count,
        shown="the architecture's own",
    )


def epochs_option(panel: str, shown: str = "all", which: str = "Only these") -> Any:
    """`--epochs`, which has another place and default in some commands."""
    return option(
        None,
        f"{which}: 0,5,10 or 0:30:5 (0, 5, ..., 30) or 20: or first,last.",
        panel=panel,
        metavar="LIST",
        read=of_text(EpochFilter.parse),
        shown=shown,
    )


def class_names_option() -> Any:
    """`--class-names`, of the commands that ask what the classes of a network are."""
    return option(
        None,
        "Of the network's classes, in order: a text file with one a line, cifar10, cifar100, imagenet, or "
        "folders (of the probing images).",
        panel=TRUTH,
        metavar="NAMES",
        read=spec,
        shown="the checkpoint's, else the folders of the probing images",
    )


def one_detector_option() -> Any:
    """`--detector` of the commands that read the concepts of one."""
    return option(
        None,
        "Whose concepts, of a run with several detectors.",
        panel=PART,
        flags=("--detector", "-d"),
        metavar="NAME",
        shown="the run's first",
    )


@dataclass(frozen=True, kw_only=True)
class NetworksAgainOptions(Options):
    """What is needed to run the networks of a finished run once more."""

    model: str | None = option(
        None,
        "The network's code once more, where the run was made with some and its networks are to run again.",
        panel=MACHINE,
        metavar="NAME",
        read=spec,
        shown="the run's",
        risky=names_code,
    )
    trust_pickle: bool = trust_option(MACHINE)


@dataclass(frozen=True, kw_only=True)
class ReadingOptions(PlotOptions, CommonOptions):
    """What every command that reads a finished run understands."""

    without: ClassVar[tuple[str, ...]] = ("precision", "batch_size", "dry_run")

    layers: tuple[str, ...] = option(
        (),
        "Only these layers; a comma list for several.",
        panel=PART,
        name="layer",
        flags=("--layer", "-l"),
        metavar="NAME",
        shown="all of the run",
    )
    detector: str | None = option(
        None,
        "Only this one, of a run with several.",
        panel=PART,
        flags=("--detector", "-d"),
        metavar="NAME",
        shown="all of the run",
    )
    epochs: EpochFilter | None = epochs_option(PART)

    @classmethod
    def of(cls, options: CommonOptions) -> ReadingOptions:
        """How the run that another command works on is read: whole, on the same machine."""
        return ReadingOptions(**{item.name: getattr(options, item.name) for item in fields(CommonOptions)})


@dataclass(frozen=True, kw_only=True)
class OneRunOptions(ReadingOptions):
    """What every command that reads one finished run understands: it is named by its place or by --out."""

    run: Path | None = argument(None, "The run's folder.", metavar="RUN", read=path, shown="the run in --out")

    def __post_init__(self) -> None:
        """The folder that is named by its place is the one that is read and written."""
        super().__post_init__()
        if self.run is None:
            return
        if self.sources.get("out", "default") == "flag" and self.out != self.run:
            raise InputError(
                f"two runs are named: {self.run} and, with --out, {self.out}",
                where="RUN",
                hint="name it once: `cmon stats RUN` or `cmon stats --out RUN`",
            )
        object.__setattr__(self, "out", self.run)


def default_cache_dir() -> Path:
    """The user's cache folder of cmon, e.g. `~/.cache/cmon`."""
    import platformdirs

    return platformdirs.user_cache_path("cmon", appauthor=False)


def _plain(value: object) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value)
