"""The options of the commands that make pictures of what networks see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.options.common import (
    NetworksAgainOptions,
    OneRunOptions,
    ReadingOptions,
    class_names_option,
)
from concept_monitor_cli.options.declare import MACHINE, METHOD, PART, argument, option
from concept_monitor_cli.options.kinds import (
    AtlasLayout,
    AttributionMethod,
    BlocksOf,
    Method,
    PictureObjective,
    PictureParameters,
)
from concept_monitor_cli.options.values import count, from_zero, number, spec, unit_list

#: How much being unlike each other counts in `--diverse`, beside exciting the unit.
DIVERSITY = 1.0


def _at_once_option() -> Any:
    """`--at-once`, of the commands that make pictures."""
    return option(
        None,
        "Pictures made at once. Another number changes them slightly.",
        panel=MACHINE,
        metavar="N",
        read=count,
        shown="8, on a GPU 64",
    )


@dataclass(frozen=True, kw_only=True)
class PictureOptions(NetworksAgainOptions, OneRunOptions):
    """The options of `cmon picture`."""

    without: ClassVar[tuple[str, ...]] = ("precision", "batch_size")

    units: tuple[int, ...] = option(
        (),
        "Whose pictures: 3,7 or 10-19.",
        panel=PART,
        flags=("--units", "-u"),
        metavar="LIST",
        read=unit_list,
        shown="by --top",
    )
    top: int = option(
        16,
        "The units surest of their concept at the last epoch, this many of each layer.",
        panel=PART,
        metavar="N",
        read=count,
    )
    pair: tuple[int, ...] = option(
        (),
        "The way from one unit to another in five pictures: 3,7.",
        panel=PART,
        metavar="J,K",
        read=unit_list,
        shown="none",
    )
    target: tuple[str, ...] = option(
        (),
        "Classes in place of units: names or numbers, a comma list.",
        panel=PART,
        metavar="CLASS",
        shown="none",
    )
    class_names: str | None = class_names_option()
    caricature: tuple[str, ...] = option(
        (),
        "What the layer keeps of images: probing images by their name or the end of it, or files.",
        panel=PART,
        metavar="IMAGE",
        shown="none",
    )
    diverse: int = option(
        1,
        "So many pictures of each unit, kept unlike each other: does it look for several things?",
        panel=METHOD,
        metavar="N",
        read=count,
    )
    diversity: float = option(
        DIVERSITY,
        "With --diverse: how much being unlike each other counts beside exciting the unit.",
        panel=METHOD,
        metavar="X",
        read=number(float, least=0),
    )
    warm: bool = option(
        False,
        "A film: each epoch goes on with the picture of the epoch before, in half the steps.",
        panel=METHOD,
    )
    objective: PictureObjective = option(
        "unit",
        "What is climbed: unit (as pooled in the run), unit- (down), neuron (the middle of its map) or layer "
        "(all units at all places).",
        panel=METHOD,
        metavar="TYPE",
    )
    parameters: PictureParameters = option(
        "fourier",
        "What a picture is made of: fourier, maco (phases, with the spectrum of the photos) or pixel.",
        panel=METHOD,
        metavar="TYPE",
    )
    steps: int | None = option(
        None, "Of the ascent.", panel=METHOD, metavar="N", read=count, shown="128, on a GPU 512"
    )
    size: int | None = option(
        None,
        "Side of a picture.",
        panel=METHOD,
        metavar="PIXELS",
        read=number(int, least=16),
        shown="the network's own, without a GPU at most 128",
    )
    warps: bool = option(True, "Shift, scale and turn the picture at every step.", panel=METHOD)
    crops: int = option(
        0,
        "In place of warps, the mean over so many enlarged squares of it, with noise; 32 go with maco.",
        panel=METHOD,
        metavar="N",
        read=from_zero,
    )
    tv: float = option(
        0.0,
        "Weight of total variation, which makes pictures smoother.",
        panel=METHOD,
        metavar="X",
        read=number(float, least=0),
    )
    floor: bool = option(
        True,
        "Of several epochs: pictures of the last one from a second seed, to see what drift is by luck.",
        panel=METHOD,
    )
    at_once: int | None = _at_once_option()

    def __post_init__(self) -> None:
        """What is asked for is one thing, and fits together."""
        super().__post_init__()
        named = {
            "--pair": self.pair,
            "--target": self.target,
            "--caricature": self.caricature,
            "--units": self.units,
        }
        given = [flag for flag, value in named.items() if value]
        if len(given) > 1:
            raise InputError(
                f"{given[0]} says itself what is pictured", where=given[1], hint="leave one of them out"
            )
        if self.pair and (len(self.pair) != 2 or self.pair[0] == self.pair[1]):
            raise InputError("a pair is two different units", where="--pair", hint="write --pair 3,7")
        if given and given[0] != "--units" and self.objective != "unit":
            raise InputError(
                f"{given[0]} has an objective of its own",
                where=f"--objective {self.objective}",
                hint="leave it out",
            )
        if self.objective == "layer" and self.units:
            raise InputError("a whole layer has no units to choose", where="--units", hint="leave it out")
        if self.diverse > 1 and (self.pair or self.caricature or self.objective != "unit"):
            raise InputError(
                "several pictures kept unlike each other are of units, directions or classes",
                where="--diverse",
                hint="leave out --pair, --caricature and --objective",
            )
        if self.crops and self.caricature:
            raise InputError(
                "a caricature is compared with the whole image, not with squares of it",
                where="--crops",
                hint="leave it out",
            )
        if self.crops and not self.warps:
            raise InputError("crops stand in place of warps", where="--no-warps", hint="leave it out")


@dataclass(frozen=True, kw_only=True)
class AtlasOptions(NetworksAgainOptions, OneRunOptions):
    """The options of `cmon atlas`."""

    without: ClassVar[tuple[str, ...]] = ("precision", "detector")

    target: str | None = option(
        None,
        "Only what says something for this class: its name or number.",
        panel=PART,
        metavar="CLASS",
        read=spec,
        shown="everything",
    )
    against: str | None = option(
        None,
        "With --target: from left to right, from what speaks for this class to what speaks for the other.",
        panel=PART,
        metavar="CLASS",
        read=spec,
        shown="none",
    )
    layout: AtlasLayout = option(
        "joint",
        "joint: all epochs in one map; last: every sample stays where the last epoch has it, so that a cell "
        "is the same patches at all epochs.",
        panel=METHOD,
        metavar="TYPE",
    )
    method: Method = option("umap", "To two dimensions: umap or pca.", panel=METHOD, metavar="NAME")
    cells: int | None = option(
        None,
        "Rows and columns of cells.",
        panel=METHOD,
        metavar="N",
        read=count,
        shown="so many that a cell has 20 samples, at most 20; of classes 8",
    )
    tiles: bool = option(True, "Make a picture for each cell; most of the time goes there.", panel=METHOD)
    steps: int = option(64, "Of a picture's ascent.", panel=METHOD, metavar="N", read=count)
    size: int | None = option(
        None,
        "Side of a picture.",
        panel=METHOD,
        metavar="PIXELS",
        read=number(int, least=16),
        shown="the network's own, at most 64, on a GPU 128",
    )
    class_names: str | None = class_names_option()
    at_once: int | None = _at_once_option()

    def __post_init__(self) -> None:
        """An atlas is of one layer, and two classes are two."""
        super().__post_init__()
        if len(self.layers) > 1:
            raise InputError(
                "an atlas is of one layer", where=f"--layer {','.join(self.layers)}", hint="name one of them"
            )
        if self.against is not None and self.target is None:
            raise InputError("against what?", where="--against", hint="name the first class: --target NAME")


@dataclass(frozen=True, kw_only=True)
class TuningOptions(NetworksAgainOptions, OneRunOptions):
    """The options of `cmon tuning`."""

    without: ClassVar[tuple[str, ...]] = ("precision", "dry_run", "detector")

    units: tuple[int, ...] = option(
        (),
        "Whose curves are kept and drawn: 3,7 or 10-19.",
        panel=PART,
        flags=("--units", "-u"),
        metavar="LIST",
        read=unit_list,
        shown="by --top",
    )
    top: int = option(
        12,
        "The units of each layer that the angle explains most at the last epoch, this many.",
        panel=PART,
        metavar="N",
        read=count,
    )


@dataclass(frozen=True, kw_only=True)
class AttributeOptions(NetworksAgainOptions, OneRunOptions):
    """The options of `cmon attribute`."""

    without: ClassVar[tuple[str, ...]] = (*OneRunOptions.without, "detector")

    images: tuple[str, ...] = option(
        (),
        "A probing image by its name or the end of it, or a file; a comma list for several.",
        panel=PART,
        name="image",
        metavar="NAME",
        shown="by --count",
    )
    count: int = option(
        6, "So many of the probing images, evenly chosen.", panel=PART, metavar="N", read=count
    )
    methods: tuple[AttributionMethod, ...] = option(
        ("grad-cam", "integrated"),
        "grad-cam, grad-cam++, hires-cam, layer-cam, xgrad-cam (of a layer), gradient, gradient-x-input, "
        "smooth, integrated, guided, guided-grad-cam (of pixels), or several.",
        panel=METHOD,
        name="method",
        metavar="TYPE",
    )
    target: str | None = option(
        None,
        "Of which class: its name or number.",
        panel=METHOD,
        metavar="CLASS",
        read=spec,
        shown="the image's label, else what the network says of it at the last epoch",
    )
    against: str | None = option(
        None,
        "What speaks for the target rather than for this class.",
        panel=METHOD,
        metavar="CLASS",
        read=spec,
        shown="none",
    )
    class_names: str | None = class_names_option()
    path: int = option(
        32,
        "Midpoints of integrated: with more, its sum comes nearer to the change of the logit.",
        panel=METHOD,
        metavar="N",
        read=number(int, least=1),
    )
    check: bool = option(
        False,
        "Is it the network that is seen, or only the image? Maps with layers of another network put in.",
        panel=METHOD,
    )

    def __post_init__(self) -> None:
        """Maps of a layer are of one layer."""
        super().__post_init__()
        if len(self.layers) > 1:
            raise InputError(
                "maps are of one layer", where=f"--layer {','.join(self.layers)}", hint="name one of them"
            )


@dataclass(frozen=True, kw_only=True)
class ExplainOptions(NetworksAgainOptions, ReadingOptions):
    """The options of `cmon explain`."""

    without: ClassVar[tuple[str, ...]] = ("precision", "batch_size")

    images: tuple[str, ...] = argument(
        (),
        "What is explained: files, or probing images by their name or the end of it.",
        metavar="IMAGE",
        shown="by --count",
    )
    count: int = option(
        3, "So many of the probing images, evenly chosen.", panel=PART, metavar="N", read=count
    )
    target: str | None = option(
        None,
        "The first class: its name or number.",
        panel=METHOD,
        metavar="CLASS",
        read=spec,
        shown="the image's label, else what the network says of it at the last epoch",
    )
    classes: int = option(
        5,
        "Classes that are explained: the target, and those with the largest logits at the last epoch.",
        panel=METHOD,
        metavar="N",
        read=number(int, least=1),
    )
    class_names: str | None = class_names_option()
    units: int = option(5, "Units named at each place.", panel=METHOD, metavar="N", read=number(int, least=1))
    by: BlocksOf = option(
        "activation",
        "Which units are named at a place: the strongest by activation, or by attribution to the target.",
        panel=METHOD,
        metavar="TYPE",
    )
    places: int = option(
        6,
        "Rows and columns of places, at most; smaller maps keep theirs.",
        panel=METHOD,
        metavar="N",
        read=number(int, least=1),
    )
    groups: int = option(
        6, "Groups of units of each image.", panel=METHOD, metavar="N", read=number(int, least=1)
    )
    on: BlocksOf = option(
        "activation",
        "What groups are fitted to: activation, or attribution to the target.",
        panel=METHOD,
        metavar="TYPE",
    )
    grid: bool = option(
        False,
        "A picture of what the layer says at each place, and of each group; most of the time goes there.",
        panel=METHOD,
    )
    path: int = option(
        32,
        "Points of the way from 0 to the layer's output over which gradients are averaged, so that parts "
        "add up to what the layer does to the logit. 0: the gradient at the output only, quicker.",
        panel=METHOD,
        metavar="N",
        read=from_zero,
    )

    def __post_init__(self) -> None:
        """An image is taken apart at one layer."""
        if len(self.layers) > 1:
            raise InputError(
                "an image is taken apart at one layer",
                where=f"--layer {','.join(self.layers)}",
                hint="name one of them",
            )
