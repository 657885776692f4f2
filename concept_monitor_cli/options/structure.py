"""The options of the commands that ask how layers are built: `cmon dynamics` and `cmon factors`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.options.common import ReadingOptions
from concept_monitor_cli.options.declare import LISTED, METHOD, PART, argument, option
from concept_monitor_cli.options.kinds import FactorMode, FactorSolver
from concept_monitor_cli.options.values import count, from_zero, number, of_text, path, share


@dataclass(frozen=True, kw_only=True)
class DynamicsOptions(ReadingOptions):
    """The options of `cmon dynamics`."""

    without: ClassVar[tuple[str, ...]] = (*ReadingOptions.without, "device", "workers", "detector")

    runs: tuple[Path, ...] = argument(
        (), "Run folders with the same probing images.", metavar="[RUN]...", read=path
    )
    threshold: float = option(
        0.9,
        "A layer is near its end where its CKA to the last epoch stays above this.",
        panel=PART,
        metavar="SHARE",
        read=share,
    )
    block: int = option(
        64,
        "Images in a block of Gram matrices. More take more memory; results hardly change.",
        panel=METHOD,
        metavar="N",
        read=number(int, least=4),
    )


@of_text
def rank(text: str) -> int | str:
    """A number of factors, or `auto`."""
    if text == "auto":
        return text
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"{text!r} is no number of factors", hint="write 20 or auto")
    return int(text)


@dataclass(frozen=True, kw_only=True)
class FactorsOptions(ReadingOptions):
    """The options of `cmon factors`."""

    without: ClassVar[tuple[str, ...]] = (*ReadingOptions.without, "device", "detector")

    run: Path | None = argument(None, "The run folder.", metavar="[RUN]", read=path, shown="the run in --out")
    rank: int | Literal["auto"] = option(
        20,
        "How many factors; auto: the most that random starts agree on.",
        panel=METHOD,
        metavar="N|auto",
        read=rank,
    )
    mode: FactorMode = option(
        "shared",
        "Over epochs: shared (one set), anchored (those of one epoch) or free (each its own).",
        panel=METHOD,
        metavar="TYPE",
    )
    reference: int | None = option(
        None,
        "The epoch of anchored factors.",
        panel=METHOD,
        metavar="EPOCH",
        read=from_zero,
        shown="the last",
    )
    warm: bool = option(False, "Free factors begin at those of the next epoch.", panel=METHOD)
    solver: FactorSolver = option(
        "hals",
        "hals, or published: the paper's iteration, which ends far from the best fit.",
        panel=METHOD,
        metavar="TYPE",
    )
    balance: bool = option(
        True, "Every layer and colour channel counts alike; else the largest decides.", panel=METHOD
    )
    group_sparse: bool = option(
        False, "Factors are exactly 0 in classes they have no part in (with --no-pixels).", panel=METHOD
    )
    pixels: bool = option(
        True, "Factorise the images' colour channels at 32 pixels a side, too.", panel=METHOD
    )
    rectify: bool = option(False, "Negative activations count as 0.", panel=METHOD)
    lambda_pixels: float = option(
        0.0,
        "Weight of squared loadings of pixels.",
        panel=METHOD,
        metavar="X",
        read=number(float, least=0),
    )
    lambda_units: float = option(
        0.0,
        "Weight of squared loadings of units.",
        panel=METHOD,
        metavar="X",
        read=number(float, least=0),
    )
    lambda_images: float = option(
        0.0,
        "Weight of squared strengths in images; with --group-sparse of the group penalty (0: .005).",
        panel=METHOD,
        metavar="X",
        read=number(float, least=0),
    )
    superclasses: Path | None = option(
        None,
        "A CSV with the columns class,superclass: which superclasses gather in a factor?",
        panel=LISTED,
        metavar="FILE",
        read=path,
        shown="none",
    )
    classifier: str | None = option(
        None,
        "Whose largest unit is the network's answer, for accuracy beside impurity.",
        panel=LISTED,
        metavar="LAYER",
        shown="the recorded layer with a unit for each class",
    )
    starts: int = option(
        5,
        "Fits from random starts by which stability is measured; 0 leaves it out.",
        panel=LISTED,
        metavar="N",
        read=from_zero,
    )
    neighbours: int = option(
        30, "Images around each image that count.", panel=LISTED, metavar="N", read=count
    )
    top: int = option(
        20, "Images of a factor, and units in each layer, to list.", panel=LISTED, metavar="N", read=count
    )

    @property
    def root(self) -> Path:
        """The folder of the run."""
        return self.out if self.run is None else self.run
