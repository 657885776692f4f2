"""The options of the commands that ask what a network makes of a layer, from `vectors` to `ablate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.options.common import (
    NetworksAgainOptions,
    OneRunOptions,
    Options,
    ReadingOptions,
    class_names_option,
    epochs_option,
    one_detector_option,
)
from concept_monitor_cli.options.declare import LISTED, METHOD, OUTPUT, PART, argument, option
from concept_monitor_cli.options.kinds import BasisSpec, EpochFilter, TcavTarget, VectorKind
from concept_monitor_cli.options.values import count, from_zero, named_folder, number, path, share, unit_list


@dataclass(frozen=True, kw_only=True)
class _ClassNamesOptions(Options):
    class_names: str | None = class_names_option()


@dataclass(frozen=True, kw_only=True)
class VectorsOptions(_ClassNamesOptions, NetworksAgainOptions, OneRunOptions):
    """The options of `cmon vectors`."""

    without: ClassVar[tuple[str, ...]] = ("precision", "dry_run", "detector")

    words: tuple[str, ...] = option(
        (),
        "Only these concepts; a comma list for several. Where no label has that name, the encoder says on "
        "which images they are.",
        panel=PART,
        metavar="WORDS",
        shown="all labels; without any, the concepts of the units",
    )
    concepts: tuple[str, ...] = option(
        (),
        "A concept by a folder of other images that show it, beside the run's own; repeat for several.",
        panel=PART,
        name="concept",
        metavar="NAME=DIR",
        read=named_folder,
        shown="none",
    )
    factors: bool = option(
        False, "The images that have most of each factor of `cmon factors` are concepts, too.", panel=PART
    )
    clusters: int | None = option(
        None,
        "Parts of images that the last of the layers sees alike at the last epoch are concepts, too: so many "
        "clusters of the positions of its maps (runs the networks).",
        panel=PART,
        metavar="N",
        read=number(int, least=2),
        shown="none; 25 is usual",
    )
    relative: bool = option(
        False,
        "Concepts against each other: images without any of them do not count.",
        panel=METHOD,
    )
    tcav_target: TcavTarget = option(
        "logit",
        "What is moved: logit (the class's score) or loss (its log-probability).",
        panel=METHOD,
        metavar="TYPE",
    )
    kind: VectorKind = option(
        "fast",
        "fast (difference of means), ridge (regression, undoes correlations of units) or sgd (published).",
        panel=METHOD,
        metavar="TYPE",
    )
    least: int = option(10, "Concepts on fewer images are left out.", panel=METHOD, metavar="N", read=count)
    area: float = option(
        0.05,
        "Of an image that a concept must cover where masks say where it is; less counts neither way.",
        panel=METHOD,
        metavar="SHARE",
        read=share,
    )
    top: int = option(
        50, "Concepts of each class to list, the strongest first.", panel=LISTED, metavar="N", read=count
    )


@dataclass(frozen=True, kw_only=True)
class EvolutionsOptions(_ClassNamesOptions, NetworksAgainOptions, OneRunOptions):
    """The options of `cmon evolutions`."""

    without: ClassVar[tuple[str, ...]] = ("precision", "dry_run")

    detector: str | None = one_detector_option()
    exact: bool = option(
        False,
        "Also set back every unit on its own in a pass of the network (slow in early layers).",
        panel=METHOD,
    )
    images: int = option(
        250,
        "Most images of a class to look at, drawn at random.",
        panel=METHOD,
        metavar="N",
        read=number(int, least=2),
    )
    least: int = option(
        10,
        "Classes on fewer images are left out.",
        panel=METHOD,
        metavar="N",
        read=number(int, least=2),
    )
    controls: int = option(
        20,
        "Random sets of units beside each quarter of the units that is set back; 0 leaves the check out.",
        panel=METHOD,
        metavar="N",
        read=from_zero,
    )
    top: int = option(
        20,
        "Units of each class to list, the strongest first, beside the strongest class of each unit.",
        panel=LISTED,
        metavar="N",
        read=count,
    )


@dataclass(frozen=True, kw_only=True)
class FailuresOptions(_ClassNamesOptions, NetworksAgainOptions, ReadingOptions):
    """The options of `cmon failures`."""

    without: ClassVar[tuple[str, ...]] = ("precision", "dry_run")

    table: Path | None = argument(
        None,
        "A CSV with the columns image, failed (1 or 0) and perhaps class.",
        metavar="TABLE",
        read=path,
        shown="wrong predictions of the network",
    )
    detector: str | None = one_detector_option()
    attribution: bool = option(
        True,
        "Also how what each unit adds to the score of the image's class separates them (one way back through "
        "the networks).",
        panel=METHOD,
    )
    least: int = option(
        10,
        "Fewest failed, and succeeded, images in classes that have both; epochs and classes with fewer are "
        "left out.",
        panel=METHOD,
        metavar="N",
        read=count,
    )
    top: int = option(
        10,
        "Units to show, and to list for each single class, those that separate most.",
        panel=LISTED,
        metavar="N",
        read=count,
    )


@dataclass(frozen=True, kw_only=True)
class CircuitsOptions(NetworksAgainOptions, OneRunOptions):
    """The options of `cmon circuits`."""

    without: ClassVar[tuple[str, ...]] = ("precision", "dry_run")

    epochs: EpochFilter | None = epochs_option(PART, "last", "These")
    detector: str | None = one_detector_option()
    units: tuple[int, ...] = option(
        (),
        "Draw the circuits of these units of every layer: 256,479 or 10-19.",
        panel=PART,
        flags=("--units", "-u"),
        metavar="LIST",
        read=unit_list,
        shown="those with the surest concepts",
    )
    draws: int = option(
        32,
        "Images on which each unit is silenced, drawn in proportion to its activation.",
        panel=METHOD,
        metavar="N",
        read=count,
    )
    edges: int = option(
        10, "Edges into and out of each unit to list, the strongest.", panel=LISTED, metavar="N", read=count
    )
    top: int = option(
        6, "Units of each layer whose circuits are drawn.", panel=LISTED, metavar="N", read=count
    )


@dataclass(frozen=True, kw_only=True)
class AblateOptions(_ClassNamesOptions, NetworksAgainOptions, OneRunOptions):
    """The options of `cmon ablate`."""

    without: ClassVar[tuple[str, ...]] = ("precision", "dry_run")

    epochs: EpochFilter | None = epochs_option(PART, "last", "These")
    detector: str | None = one_detector_option()
    words: tuple[str, ...] = option(
        (),
        "Cut the interpretable units of these concepts; a comma list for several.",
        panel=PART,
        metavar="WORDS",
        shown="the most frequent ones",
    )
    units: tuple[int, ...] = option(
        (),
        "Cut these units, all at once, too: 256,479 or 10-19.",
        panel=PART,
        flags=("--units", "-u"),
        metavar="LIST",
        read=unit_list,
        shown="none",
    )
    basis: str | None = option(
        None,
        "Cut directions, not units: members of vectors[:RUN] (what `cmon vectors` found), saved:FILE (.npy, "
        ".npz, .safetensors), pca:R, nmf:R or random:R[:seed]. --words takes those of that name, each on its "
        "own; --units some by number, all at once.",
        panel=PART,
        metavar="BASIS",
        check=BasisSpec.parse,
        shown="units",
    )
    curve: bool = option(
        False,
        "Also cut the 1, 2, 5, 10, 20, 30, 40 and 50 most, and least, interpretable units.",
        panel=PART,
    )
    top: int = option(
        10,
        "Concepts to cut, the most frequent first, where none is named.",
        panel=PART,
        metavar="N",
        read=count,
    )
    spurious: Path | None = option(
        None,
        "Photos with and without something: two folders, with and without, of the classes' folders each. Is "
        "the network as good on both, before and after?",
        panel=PART,
        metavar="DIR",
        read=path,
        shown="none",
    )
    write: Path | None = option(
        None,
        "Write a checkpoint without the units. Name one concept (--words) or --units, and one --layer.",
        panel=OUTPUT,
        metavar="FILE",
        read=path,
        shown="none",
    )
    value: Literal["zero", "mean"] = option(
        "zero",
        "What units of the written checkpoint put out: zero or mean.",
        panel=OUTPUT,
        metavar="TYPE",
    )
    controls: int = option(
        20,
        "Random sets of other units with like mean activations, for each set.",
        panel=METHOD,
        metavar="N",
        read=count,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.basis is None:
            return
        if BasisSpec.parse(self.basis) is None:
            raise InputError("channels are cut without --basis", where="--basis")
        if self.curve:
            raise InputError(
                "--curve cuts units by how interpretable they are, which directions of a basis are not known "
                "to be",
                where="--curve",
                hint="leave out --curve or --basis",
            )
        if self.write is not None:
            raise InputError(
                "a checkpoint can be written without units, not without directions",
                where="--write",
                hint="leave out --write or --basis",
            )
