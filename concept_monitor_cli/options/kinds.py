"""The types of options: words to choose from, shares of checkpoints, epochs, bases."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from concept_monitor_cli.errors import InputError

Precision = Literal["fp32", "bf16", "fp16"]
Similarity = Literal["cos", "cos-cubed", "rank-reorder", "wpmi", "soft-wpmi"]
Pooling = Literal["auto", "mean", "max", "cls", "tokens"]
Null = Literal["shuffled", "untrained"]
IouNormaliser = Literal["category", "mask", "none"]
LabelRule = Literal["supported", "iou"]
FormulaSearch = Literal["auto", "optimal", "beam"]
PlotFormat = Literal["png", "svg", "pdf"]
ChannelOrder = Literal["rgb", "bgr"]
PlotStyle = Literal["screen", "paper"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Method = Literal["umap", "pca"]
VectorKind = Literal["fast", "ridge", "sgd"]
TcavTarget = Literal["logit", "loss"]
# In the order of `evaluation/`, which must not be imported here: it brings torch along.
MeasureName = Literal[
    "labels",
    "contributions",
    "weights",
    "simulation",
    "cutoff",
    "ranges",
    "clarity",
    "groups",
    "sanity",
    "cosy",
]
# What the quality of a label may be: as in `evaluation/simulation.py`.
Quality = Literal[
    "showing",
    "correlation",
    "auprc",
    "f1",
    "iou",
    "auc",
    "activation_difference",
    "inverse_auprc",
    "inverse_auc",
]
FactorMode = Literal["shared", "anchored", "free"]
FactorSolver = Literal["hals", "published"]
FactorRows = Literal["pooled", "positions"]
PictureObjective = Literal["unit", "unit-", "neuron", "layer"]
PictureParameters = Literal["fourier", "maco", "pixel"]
AttributionMethod = Literal[
    "grad-cam",
    "grad-cam++",
    "hires-cam",
    "layer-cam",
    "xgrad-cam",
    "gradient",
    "gradient-x-input",
    "smooth",
    "integrated",
    "guided",
    "guided-grad-cam",
]
AtlasLayout = Literal["joint", "last"]
BlocksOf = Literal["activation", "attribution"]
Kept = Literal["dynamics", "factors"]
Source = Literal["flag", "environment", "file", "default"]
Triple = tuple[float, float, float]

SIMILARITIES: tuple[str, ...] = get_args(Similarity)


@dataclass(frozen=True)
class Shard:
    """One of several equal shares of the checkpoints: `2/8` is the second of eight.

    Attributes:
        index: from 1 to `count`.
        count: number of shares.
    """

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read `2/8`.

        Raises:
            InputError: not of that form, or outside 1..count.
        """
        index, slash, count = text.partition("/")
        if not (slash and index.strip().isdecimal() and count.strip().isdecimal()):
            raise InputError(f"{text!r} is not a share", where="--shard", hint="write it as 2/8")
        shard = cls(int(index), int(count))
        if not 1 <= shard.index <= shard.count:
            raise InputError(
                f"there is no share {text!r}",
                where="--shard",
                hint=f"count from 1/{count} to {count}/{count}",
            )
        return shard

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


@dataclass(frozen=True)
class ImageShard:
    """How the images of each checkpoint are shared: `2`, over two tasks, or `1/2`, and this is the first.

    Attributes:
        count: number of parts.
        index: from 1 to `count`; `None` where SLURM says it.
    """

    count: int
    index: int | None = None

    @classmethod
    def parse(cls, text: str) -> ImageShard:
        """Read `2` or `1/2`.

        Raises:
            InputError: not of that form, or outside 1..count.
        """
        if text.strip().isdecimal() and int(text):
            return cls(int(text))
        try:
            shard = Shard.parse(text)
        except InputError as error:
            hint = error.hint if "/" in text else "write 2 for two tasks, or 1/2 for the first of them"
            raise InputError(
                f"{text!r} is no part of the images", where="--shard-images", hint=hint
            ) from error
        return cls(shard.count, shard.index)

    def __str__(self) -> str:
        return str(self.count) if self.index is None else f"{self.index}/{self.count}"


class PlotFormats(tuple[PlotFormat, ...]):
    """The file types that plots are written as, and how these look.

    Attributes:
        style: for a screen or for a page of paper.
    """

    style: PlotStyle

    def __new__(cls, formats: Iterable[PlotFormat] = (), style: PlotStyle = "screen") -> PlotFormats:
        """File types in the order in which they are written."""
        made = super().__new__(cls, formats)
        made.style = style
        return made


@dataclass(frozen=True)
class EpochFilter:
    """Which epochs of a run to take: `0,5,10`, `0:30:5` (0, 5, ..., 30), `:10`, `20:`, `first`, `last`.

    Epochs are names, not positions, so a range includes both its ends.

    Attributes:
        parts: single epochs, `(start, stop, step)` ranges with `None` for an open end, `first` or `last`.
    """

    parts: tuple[int | str | tuple[int | None, int | None, int], ...]

    @classmethod
    def parse(cls, text: str) -> EpochFilter:
        """Read the text of `--epochs`.

        Raises:
            InputError: a part that is neither a number, a range, `first` nor `last`.
        """
        parts = tuple(cls._part(part.strip(), text) for part in text.split(",") if part.strip())
        if not parts:
            raise cls._error(text, text)
        return cls(parts)

    @staticmethod
    def _error(part: str, text: str) -> InputError:
        where = "--epochs" if part == text else f"--epochs {text}"
        return InputError(
            f"{part!r} names no epochs", where=where, hint="write 0,5,10 or 0:30:5 or first,last or 20:"
        )

    @classmethod
    def _part(cls, part: str, text: str) -> int | str | tuple[int | None, int | None, int]:
        if part in ("first", "last"):
            return part
        numbers = part.split(":")
        if not all(number.isdecimal() or (number == "" and len(numbers) > 1) for number in numbers):
            raise cls._error(part, text)
        if len(numbers) == 1:
            return int(part)
        if len(numbers) > 3:
            raise cls._error(part, text)
        start, stop = (int(number) if number else None for number in numbers[:2])
        step = int(numbers[2]) if len(numbers) == 3 and numbers[2] else 1
        if step < 1:
            raise cls._error(part, text)
        return start, stop, step

    def select(self, available: Iterable[int]) -> tuple[int, ...]:
        """The epochs of `available` that are asked for, ascending.

        Raises:
            InputError: an epoch named by itself is not available, or nothing is left.
        """
        epochs = sorted(set(available))
        chosen: set[int] = set()
        for part in self.parts:
            if isinstance(part, tuple):
                start, stop, step = part
                # Steps count from the start that was given, else from the first epoch there is.
                start = start if start is not None else (epochs[0] if epochs else 0)
                chosen.update(
                    epoch
                    for epoch in epochs
                    if epoch >= start and (stop is None or epoch <= stop) and (epoch - start) % step == 0
                )
            elif isinstance(part, str):
                chosen.update(epochs[:1] if part == "first" else epochs[-1:])
            elif part in epochs:
                chosen.add(part)
            else:
                near = sorted(epochs, key=lambda epoch: (abs(epoch - part), epoch))[:5]
                raise InputError(
                    f"there is no epoch {part}",
                    where="--epochs",
                    hint=f"the nearest are {', '.join(map(str, sorted(near)))}" if near else None,
                )
        if not chosen:
            span = f"there are {epochs[0]} to {epochs[-1]}" if epochs else "there are no epochs at all"
            raise InputError("no epoch is left", where=f"--epochs {self}", hint=span)
        return tuple(sorted(chosen))

    def __str__(self) -> str:
        def show(part: int | str | tuple[int | None, int | None, int]) -> str:
            if not isinstance(part, tuple):
                return str(part)
            start, stop, step = ("" if number is None else str(number) for number in part)
            return f"{start}:{stop}" + (f":{step}" if step != "1" else "")

        return ",".join(show(part) for part in self.parts)


CHANNELS = "channels"
#: `--layer auto`: the last stages of the network.
AUTO = "auto"
BasisKind = Literal["random", "pca", "nmf", "saved", "vectors"]


@dataclass(frozen=True)
class BasisSpec:
    """What counts as a unit, where it is not the channels: `random:R[:seed]`, `pca:R`, `nmf:R`, `saved:FILE`,
    `vectors:RUN`.

    Attributes:
        text: as it was written.
        kind: how it is made.
        size: `R`; `None` where a file says.
        seed: of random directions.
        file: of a saved one; of concept vectors the folder of the run that found them.
    """

    text: str
    kind: BasisKind
    size: int | None = None
    seed: int = 0
    file: Path | None = None

    @classmethod
    def parse(cls, text: str) -> BasisSpec | None:
        """Read one value of `--basis`; `None` for the channels.

        Raises:
            InputError: it is no basis.
        """
        text = text.strip()
        kind, _, rest = text.partition(":")
        if text == CHANNELS:
            return None
        if kind == "saved" and rest:
            return cls(text, "saved", file=Path(rest).expanduser())
        if kind == "vectors" and (rest or text == kind):
            return cls(text, "vectors", file=Path(rest or "cmon-out").expanduser())
        if kind in ("pca", "nmf") and rest.isdecimal() and int(rest) > 0:
            return cls(text, "pca" if kind == "pca" else "nmf", int(rest))
        size, _, seed = rest.partition(":")
        if kind == "random" and size.isdecimal() and int(size) > 0 and (seed.isdecimal() or not seed):
            return cls(text, "random", int(size), int(seed or 0))
        raise InputError(
            f"{text!r} is no basis",
            where="--basis",
            hint="write channels, random:R[:seed], pca:R, nmf:R, vectors:RUN or saved:FILE",
        )

    @property
    def name(self) -> str:
        """What stands behind the `@` of a layer in tables and file names."""
        if self.kind == "vectors":
            return "vectors"
        if self.file is not None:
            return f"saved-{re.sub(r'[^A-Za-z0-9_.-]+', '-', self.file.stem)}"
        return f"{self.kind}{self.size}" + (f"s{self.seed}" if self.seed else "")

    @property
    def fitted(self) -> bool:
        """Whether it is made of a layer's activations."""
        return self.kind in ("pca", "nmf")


def basis_name(layer: str, spec: BasisSpec) -> str:
    """The name of a layer in a basis: `layer4@pca8`."""
    return f"{layer}@{spec.name}"


def split_name(name: str) -> tuple[str, str]:
    """Layer and basis of a name in a table; the basis is `channels` where the name has none."""
    layer, _, basis = name.partition("@")
    return layer, basis or CHANNELS


def nearest(name: str, names: Iterable[str], *, count: int = 3) -> list[str]:
    """The names most like a mistyped one, best first; none where none is alike."""
    return difflib.get_close_matches(name, list(names), n=count, cutoff=0.6)
