"""The options of the commands that ask what classes make of a layer: `cmon vectors`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from concept_monitor_cli.options.common import NetworksAgainOptions, OneRunOptions, Options
from concept_monitor_cli.options.declare import LISTED, METHOD, PART, TRUTH, option
from concept_monitor_cli.options.kinds import VectorKind
from concept_monitor_cli.options.values import count, share, spec


@dataclass(frozen=True, kw_only=True)
class _ClassNamesOptions(Options):
    class_names: str | None = option(
        None,
        "Of the network's classes, in order: a text file with one a line, cifar10, cifar100, imagenet, or "
        "folders (of the probing images).",
        panel=TRUTH,
        metavar="NAMES",
        read=spec,
        shown="the checkpoint's, else the folders of the probing images",
    )


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
