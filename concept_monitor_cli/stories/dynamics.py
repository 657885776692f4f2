"""The story of `dynamics`: when has a layer become what it will be, and how alike are layers and runs?

Everything is computed from the pooled activations that a `dissect` left in the cache; no network is run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from concept_monitor_cli.ahead import one_ahead
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional import dynamics as measures
from concept_monitor_cli.functional.dynamics import CenteredGrams, Centred, cka_matrix, turned
from concept_monitor_cli.monitor.epochs import affordable
from concept_monitor_cli.options import DynamicsOptions
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.report.dynamics_figures import curves, matrix
from concept_monitor_cli.report.style import save
from concept_monitor_cli.run import TABLES
from concept_monitor_cli.stories.activations import RecordedLayer, recorded_layers, usable
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.stories.part import earlier, figure_path, is_among, places
from concept_monitor_cli.stories.stats import plain_rows
from concept_monitor_cli.wording import counted

if TYPE_CHECKING:
    import pandas as pd

# Measures of two sets that cost a decomposition for each pair: taken along time and to the end only.
_PAIRED: dict[str, Callable[[Centred, Centred], float]] = {
    "svcca": measures.svcca,
    "pwcca": measures.pwcca,
    "procrustes": measures.procrustes,
}
_CANONICAL = ("svcca", "pwcca")
# What a row is of, and what that is compared with.
_PLACE = ("run", "epoch", "checkpoint", "layer")
_OTHER = tuple(f"other_{column}" for column in _PLACE)


@dataclass(frozen=True)
class Convergence:
    """When a layer has become what it will be.

    Attributes:
        run, layer: which.
        from_epoch: the first epoch from which its similarity to the last stays at the threshold or above.
        before: the highest similarity at an epoch before that; `None` where there is none.
        speed: for each epoch but the last, 1 minus the similarity to the next.
    """

    run: str
    layer: str
    from_epoch: int
    before: float | None
    speed: dict[int, float]


@dataclass
class DynamicsResult:
    """What a `dynamics` found.

    Attributes:
        out: where the tables and plots are.
        images: how many images count.
        similarity, dimension: rows of the tables as plain values.
        convergence: a line for each layer of each run.
        words: the same as a sentence for each run.
        plots: the pictures.
    """

    out: Path
    images: int = 0
    similarity: list[dict[str, Any]] = field(default_factory=list)
    dimension: list[dict[str, Any]] = field(default_factory=list)
    convergence: list[Convergence] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    plots: list[Path] = field(default_factory=list)


def dynamics(options: DynamicsOptions, progress: Progress = SILENT) -> DynamicsResult:
    """Compare the layers of a run, or of several, with each other at all epochs.

    Args:
        options: which runs, layers, epochs.
        progress: told what happens.

    Raises:
        InputError: no run, other probing images, or no pooled activations in the cache.
    """
    import pandas as pd

    # Of the tables it matters only which layers there are at which epochs.
    opened = [OpenRun(root, options, progress, columns=()) for root in options.runs or (options.out,)]
    _check_images(opened)
    sets = [
        each for run, name in zip(opened, _names(opened), strict=True) for each in recorded_layers(run, name)
    ]
    result = DynamicsResult(opened[0].run.root)
    similarity, result.images = _similarities(sets, options, progress)
    more, dimension = _decomposed(sets, options, progress)
    similarity = pd.concat([similarity, more], ignore_index=True)
    run = opened[0].run
    tables = {"similarity": similarity, "dimension": dimension}
    for name, rows in tables.items():
        run.write_csv(name, _with_rest(opened, name, rows))
    result.similarity, result.dimension = (
        plain_rows(TABLES[name].frame(rows)) for name, rows in tables.items()
    )
    result.convergence = convergence(similarity, options.threshold)
    result.words = in_words(result.convergence, options.threshold)
    for name in dict.fromkeys(each.run for each in sets) if options.plot_formats else ():
        figures = {
            "similarity": matrix(similarity, name),
            "convergence": curves(similarity, dimension, name, options.threshold),
        }
        for stem, figure in figures.items():
            result.plots += save(
                figure,
                figure_path(opened[0], stem, name, part=any(each.is_part for each in opened)),
                options.plot_formats,
                caption=opened[0].caption,
            )
    return result


def _with_rest(opened: Sequence[OpenRun], name: str, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows that were made now and, of a part of the runs, those of the table before that these do not renew.

    Of layers and epochs that the runs still have. Rows of runs that are not named now go, as they do where
    all is asked for.
    """
    import pandas as pd

    before = earlier(opened[0].run, name) if any(run.is_part for run in opened) else None
    if before is None:
        return rows
    has = {
        (called, *place)
        for run, called in zip(opened, _names(opened), strict=True)
        for place in places(run.all_moments, _PLACE[1:])
    }
    ends = [_PLACE, _OTHER] if name == "similarity" else [_PLACE]
    own = [*(column for end in ends for column in end), "measure"]
    stays = ~is_among(before, own, places(rows, own))
    for end in ends:
        stays &= is_among(before, end, has)
    return pd.concat([rows, before[stays]], ignore_index=True)


def _check_images(opened: Sequence[OpenRun]) -> None:
    digests = {run.info["probe"]["digest"] for run in opened}
    if len(digests) > 1:
        raise InputError(
            "the runs have different probing images, so their activations cannot be compared",
            where=", ".join(str(run.run.root) for run in opened),
            hint="dissect them with the same --probe",
        )


def _names(opened: Sequence[OpenRun]) -> list[str]:
    """A name for each run; two folders of one name get the path."""
    names = [run.name for run in opened]
    return [str(run.run.root) if names.count(run.name) > 1 else run.name for run in opened]


def _order(n_images: int, seed: int) -> Tensor:
    """The permutation of the images that gives the chance values."""
    return torch.from_numpy(np.random.default_rng(seed).permutation(n_images))


def _similarities(
    sets: Sequence[RecordedLayer], options: DynamicsOptions, progress: Progress
) -> tuple[pd.DataFrame, int]:
    """All pairs by CKA, and how many images count."""
    import pandas as pd

    order: Tensor | None = None
    grams, shuffled = [], []
    with (
        progress.task("comparing activations", len(sets), "layers") as advance,
        closing(one_ahead(usable, sets, name="cmon-read")) as reading,
    ):
        for each, read in reading:
            values = read()
            if values.shape[1] == 0:
                raise InputError(f"no unit of {each.layer} has finite activations", where=each.checkpoint)
            order = _order(len(values), options.seed) if order is None else order
            one, other = CenteredGrams.in_orders(values, (None, order), options.block)
            grams.append(one)
            shuffled.append(other)
            advance(1)
    value, chance = cka_matrix(grams).numpy(), cka_matrix(grams, shuffled).numpy()
    images = grams[0].images
    if grams[0].dropped:
        progress.notice(f"{grams[0].dropped} images at the end make no block and do not count")
    rows = [
        _row(sets[i], sets[j], "cka", value[i, j], chance[i, j], images)
        for i in range(len(sets))
        for j in range(i, len(sets))
    ]
    return pd.DataFrame(rows), images


def _decomposed(
    sets: Sequence[RecordedLayer], options: DynamicsOptions, progress: Progress
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What needs a decomposition of the activations, each made once: similarities along time, and dimensions.

    Of large layers at an even choice of epochs, which is said.
    """
    import pandas as pd

    by_layer: dict[tuple[str, str], list[RecordedLayer]] = {}
    for each in sets:
        by_layer.setdefault((each.run, each.layer), []).append(each)
    chosen = []
    for own in by_layer.values():
        # A decomposition takes the third power of the smaller number, of units or of images.
        places = affordable(len(own), min(own[-1].read().shape), named=options.epochs is not None)
        chosen.append([own[place] for place in places])
        if len(places) < len(own):
            shown = ", ".join(str(each.epoch) for each in chosen[-1])
            progress.notice(
                f"{own[0].layer}: cka of all epochs, other measures of epochs {shown} (others: --epochs)"
            )
    along = _AlongTime(options.seed)
    with progress.task("canonical correlations", sum(map(len, chosen)), "layers") as advance:
        for own in chosen:
            along.take(own, advance)
    for layer, units in along.lacking.items():
        progress.notice(
            f"no svcca and pwcca of {layer}: its {counted(units, 'units')} would need "
            f"{measures.IMAGES_PER_UNIT * units:,} images, fewer show chance"
        )
    return pd.DataFrame(along.similarity), pd.DataFrame(along.dimension)


class _AlongTime:
    """Every epoch of a layer beside the next and the last one, and its dimensions.

    Args:
        seed: of the chance values.

    Attributes:
        similarity, dimension: rows of the tables.
        lacking: layer -> its units, where the images are too few for canonical correlations.
    """

    def __init__(self, seed: int) -> None:
        self.similarity: list[dict[str, Any]] = []
        self.dimension: list[dict[str, Any]] = []
        self.lacking: dict[str, int] = {}
        self._seed = seed
        self._noise: dict[tuple[int, ...], dict[str, float]] = {}

    def take(self, epochs: Sequence[RecordedLayer], advance: Callable[[int], object]) -> None:
        """One layer of one run; three of its epochs are held at a time."""

        def seen(each: RecordedLayer) -> _Seen:
            values = usable(each)
            centred = Centred(turned(values), values.dtype)
            self._measure(each, centred, tuple(values.shape))
            advance(1)
            return _Seen(each, centred, values.shape[1])

        *earlier, end = epochs
        last = seen(end)
        now = seen(earlier[0]) if earlier else last
        for following in earlier[1:]:
            later = seen(following)
            self._compare(now, later)
            self._compare(now, last)
            now = later
        if earlier:
            self._compare(now, last)

    def _compare(self, first: _Seen, second: _Seen) -> None:
        images, units = len(first.centred.values), max(first.units, second.units)
        shuffled = second.centred.permuted(_order(images, self._seed))
        for name, measure in _PAIRED.items():
            if name in _CANONICAL and images < measures.IMAGES_PER_UNIT * units:
                self.lacking[first.layer.layer] = units
                continue
            value, chance = measure(first.centred, second.centred), measure(first.centred, shuffled)
            self.similarity.append(_row(first.layer, second.layer, name, value, chance, images))

    def _measure(self, each: RecordedLayer, centred: Centred, shape: tuple[int, ...]) -> None:
        """Its dimensions, beside those of independent units of the same number."""
        if shape not in self._noise:
            noise = torch.randn(shape, generator=torch.Generator().manual_seed(self._seed))
            self._noise[shape] = _dimensions_of(Centred(turned(noise), noise.dtype))
        self.dimension += [
            {
                "epoch": each.epoch,
                "checkpoint": each.checkpoint,
                "layer": each.layer,
                "run": each.run,
                "measure": name,
                "value": value,
                "chance": self._noise[shape][name],
                "images": shape[0],
            }
            for name, value in _dimensions_of(centred).items()
        ]


class _Seen(NamedTuple):
    layer: RecordedLayer
    centred: Centred
    units: int


def _row(
    first: RecordedLayer, second: RecordedLayer, measure: str, value: float, chance: float, images: int
) -> dict[str, Any]:
    return {
        "epoch": first.epoch,
        "checkpoint": first.checkpoint,
        "layer": first.layer,
        "run": first.run,
        "other_epoch": second.epoch,
        "other_checkpoint": second.checkpoint,
        "other_layer": second.layer,
        "other_run": second.run,
        "measure": measure,
        "value": float(value),
        "chance": float(chance),
        "images": images,
    }


def _dimensions_of(values: Centred) -> dict[str, float]:
    """The measures of dimension of some activations; what decomposes them is done once."""
    known = measures.singular_values(values)
    return {
        "effective_rank": measures.effective_rank(values, known),
        "participation_ratio": measures.participation_ratio(values, known),
        "two_nearest_neighbours": measures.two_nearest_neighbours(values),
    }


def convergence(similarity: pd.DataFrame, threshold: float) -> list[Convergence]:
    """When each layer of each run has become what it will be, by its CKA to its last epoch.

    Args:
        similarity: rows of `similarity.csv`.
        threshold: from which similarity on a layer counts as near its end.
    """
    own = similarity[
        (similarity["measure"] == "cka")
        & (similarity["run"] == similarity["other_run"])
        & (similarity["layer"] == similarity["other_layer"])
    ]
    found = []
    for (run, layer), rows in own.groupby(["run", "layer"], sort=False):
        places = zip(rows["epoch"].tolist(), rows["other_epoch"].tolist(), strict=True)
        pairs = dict(zip(places, rows["value"].tolist(), strict=True))
        last = max(epoch for epoch, _ in pairs)
        # A table that was written part by part need not have every pair.
        epochs = sorted({epoch for epoch, _ in pairs if (epoch, last) in pairs})
        near = np.array([pairs[epoch, last] >= threshold for epoch in epochs])
        near[-1] = True
        start = _stays_from(near)
        earlier = [pairs[epoch, last] for epoch in epochs[:start]]
        speed = {now: 1 - pairs[now, later] for now, later in pairwise(epochs) if (now, later) in pairs}
        found.append(
            Convergence(str(run), str(layer), epochs[start], max(earlier) if earlier else None, speed)
        )
    return found


def in_words(lines: Sequence[Convergence], threshold: float) -> list[str]:
    """When layers came near their end, a sentence for each run: `layer1 is within 0.9 of its end from ...`.

    Args:
        lines: of `convergence`.
        threshold: what it was asked with.
    """
    sentences = []
    for run in dict.fromkeys(line.run for line in lines):
        said: list[str] = []
        for line in lines:
            if line.run != run or not line.speed:  # a single epoch is its own end
                continue
            verb = "" if said else f" is within {threshold:g} of its end"
            settled = line.from_epoch in line.speed
            when = f"from epoch {line.from_epoch} on" if settled else "only at its last epoch"
            said.append(f"{line.layer}{verb} {when}")
        if said:
            sentences.append(", ".join(said))
    return sentences


def _stays_from(holds: NDArray[np.bool_]) -> int:
    """The first place from which on something holds."""
    broken = np.flatnonzero(~holds)
    return int(broken[-1]) + 1 if len(broken) else 0
