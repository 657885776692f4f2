"""The story of `atlas`: what a layer tells apart, as a map of cells with pictures, over the epochs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from concept_monitor_cli.concepts.class_names import ClassNames
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional import atlas as method
from concept_monitor_cli.functional.pictures import generator
from concept_monitor_cli.options import AtlasOptions
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.space.projection import project
from concept_monitor_cli.stories.asked_images import class_number, recorder_of
from concept_monitor_cli.stories.atlas_making import Atlases, Samples
from concept_monitor_cli.stories.atlas_tables import At, Cells, show
from concept_monitor_cli.stories.classes import output_names
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.stories.picture_making import PASSES_PER_STEP
from concept_monitor_cli.stories.recorder import Network
from concept_monitor_cli.wording import counted

# A forward pass that carries a tangent costs about two.
_SAMPLE_PASSES = 2
# Pictures of cells whose units are dealt out anew: what a picture of anything reaches.
_FLOOR_TILES = 8


@dataclass
class AtlasResult:
    """What an `atlas` found.

    Attributes:
        out: the run.
        layer: of what.
        cells: rows of `atlas.csv` as plain values.
        epochs: rows of `atlas-epochs.csv`.
        wanted, found: pictures of cells, and how many of them the cache had; with `--dry-run` before samples
            were taken at most so many are wanted.
        passes: about how many forward passes the others cost, and samples that are not there yet.
        size, steps: how pictures are made; size is the side in pixels.
        tables, plots: what was written.
    """

    out: Path
    layer: str = ""
    cells: list[dict[str, Any]] = field(default_factory=list)
    epochs: list[dict[str, Any]] = field(default_factory=list)
    wanted: int = 0
    found: int = 0
    passes: int = 0
    size: int = 0
    steps: int = 0
    tables: list[Path] = field(default_factory=list)
    plots: list[Path] = field(default_factory=list)


def atlas(options: AtlasOptions, progress: Progress = SILENT) -> AtlasResult:
    """Lay out what a run's layer says of places in images, at its epochs.

    Args:
        options: which run, layer, epochs and classes; how.
        progress: told what happens.

    Returns:
        What was found; with `--dry-run` what it would cost.

    Raises:
        InputError: no run; no such layer, class or epoch; a layer without maps; too few images for a cell.
    """
    opened = OpenRun(options.out, replace(options, layers=()), progress)
    wanted = set(opened.table["epoch"].tolist())
    records = [record for record in opened.run.checkpoints() if record.epoch in wanted]
    recorder = recorder_of(opened, options, records[-1], needs_maps="cmon atlas", look_only=options.dry_run)
    networks = [recorder.network(record) for record in records]
    _check(networks[-1])
    making = Atlases(recorder, options, progress)
    result = AtlasResult(options.out, layer=networks[-1].looks[0].layer.name, steps=options.steps)
    if options.tiles:
        result.size = making.climb(networks[-1]).side
    unseen = [network for network in networks if not making.sampled(network)]
    images = len(networks[-1].architecture.pixels)
    if options.dry_run and unseen:
        side = _side(images, options)
        result.wanted = len(networks) * side * side + _FLOOR_TILES if options.tiles else 0
        result.passes = _SAMPLE_PASSES * images * len(unseen)
        result.passes += result.wanted * options.steps * PASSES_PER_STEP
        return result
    with progress.task("taking samples", images * len(unseen), "images") as advance:
        samples = [making.samples(network, advance) for network in networks]
    names = _names(opened, networks[-1], samples, options, progress)
    cells = _cells(samples, names, options, progress)
    moments = [
        At(record, network, seen, each)
        for record, network, seen, each in zip(records, networks, samples, cells, strict=True)
    ]
    luck = _by_luck(moments[-1].cells)
    if options.tiles:
        _count(making, moments, luck, result)
        if options.dry_run:
            return result
        _make(making, moments, luck, result, progress)
    elif options.dry_run:
        return result
    loose = _loose(moments[-1], options, progress)
    show(opened, recorder, making, moments, luck, loose, names, options, result, progress)
    return result


def _check(network: Network) -> None:
    """An atlas is of the maps of a layer.

    Raises:
        InputError: a basis, or a layer without places.
    """
    look = network.looks[0]
    if look.key is not None:
        raise InputError(
            f"{look.layer.name} is a basis, and an atlas is of the units of a layer",
            where=f"--layer {look.layer.name}",
            hint=f"name the layer: --layer {look.tapped.name}",
        )
    if look.tapped.map_size in (None, (1, 1)):
        raise InputError(
            f"{look.layer.name} has no activation maps, so no places to take samples from",
            where=f"--layer {look.layer.name}",
            hint="name a layer before the pooling; `cmon layers` lists them",
        )


def _names(
    opened: OpenRun,
    network: Network,
    samples: Sequence[Samples],
    options: AtlasOptions,
    progress: Progress,
) -> ClassNames | None:
    """What classes are called; says where there are none."""
    said = samples[-1].attributions
    if said is None:
        if options.target is not None:
            raise InputError(
                f"nothing is known of classes: {samples[-1].why_not}",
                where=f"--target {options.target}",
                hint="leave it out",
            )
        progress.notice(f"classes are left out: {samples[-1].why_not}")
        return None
    names = output_names(opened, said.shape[1], network.checkpoint.meta, options.class_names, progress)
    if names is None:
        progress.notice("what the classes are called is not known: they are numbers (--class-names)")
    return names


# -- the layout ----------------------------------------------------------------------------------------------


def _side(count: int, options: AtlasOptions) -> int:
    if options.cells is not None:
        return options.cells
    return method.CLASS_CELLS if options.target is not None else method.grid_side(count)


def _cells(
    samples: Sequence[Samples], names: ClassNames | None, options: AtlasOptions, progress: Progress
) -> list[Cells]:
    """Where the samples of each epoch lie, and their cells.

    Raises:
        InputError: too few samples for a single cell.
    """
    classes = _classes(samples, names, options)
    chosen = _chosen(samples, classes, options)
    places = _places(samples, chosen, classes, options, progress)
    side = _side(max(map(len, chosen)), options)
    if options.cells is None and options.target is None and options.layout == "joint":
        side = method.joint_side(places)
    fewest = method.FEWEST if options.target is None else method.CLASS_FEWEST
    found = []
    for own, where in zip(chosen, places, strict=True):
        cells = method.cells_of(where, side)
        numbers, counts = method.filled(cells, fewest)
        found.append(Cells(own, where, side, cells, numbers, counts, classes))
    if not len(found[-1].numbers):
        raise InputError(
            f"{counted(len(chosen[-1]), 'samples')} are too few: no cell has {fewest} of them at the last "
            "epoch",
            where="--target" if options.target is not None else "--cells",
            hint="take fewer rows of cells (--cells 2), or a run with more probing images",
        )
    return found


def _classes(samples: Sequence[Samples], names: ClassNames | None, options: AtlasOptions) -> tuple[int, ...]:
    """The numbers of the classes that are asked for: none, one or two."""
    said = samples[-1].attributions
    if options.target is None or said is None:
        return ()
    first = class_number(options.target, said.shape[1], names, "--target")
    if options.against is None:
        return (first,)
    second = class_number(options.against, said.shape[1], names, "--against")
    if first == second:
        raise InputError("a class against itself is no way to go", where="--against")
    return first, second


def _chosen(samples: Sequence[Samples], classes: Sequence[int], options: AtlasOptions) -> list[Tensor]:
    """Which samples are in the atlas at each epoch."""
    if not classes:
        return [torch.arange(len(each.activations)) for each in samples]

    def of(each: Samples) -> Tensor:
        assert each.attributions is not None
        own = [method.class_samples(each.attributions, number) for number in classes]
        found: Tensor = torch.unique(torch.cat(own))
        return found

    if options.layout == "last":
        return [of(samples[-1])] * len(samples)
    return [of(each) for each in samples]


def _places(
    samples: Sequence[Samples],
    chosen: Sequence[Tensor],
    classes: Sequence[int],
    options: AtlasOptions,
    progress: Progress,
) -> list[Tensor]:
    """Where they lie, `(n, 2)` in [0, 1]: in one layout of all epochs, or where the last epoch has them."""
    laid = list(zip(samples, chosen, strict=True))
    if options.layout == "last":
        laid = laid[-1:]
    rows = [method.standardised(each.activations)[own] for each, own in laid]
    components = 1 if len(classes) == 2 else 2
    points = project(
        torch.cat(rows).float().numpy(),
        method=options.method,
        seed=options.seed,
        components=components,
        progress=progress,
    )
    flat = torch.from_numpy(points).double()
    if components == 1:
        flat = torch.cat([flat, flat], 1)
    flat = method.unit_square(flat)
    parts = list(torch.split(flat, [len(own) for _, own in laid]))
    if len(classes) == 2:
        for (each, own), part in zip(laid, parts, strict=True):
            assert each.attributions is not None
            first, second = classes
            part[:, 0] = torch.from_numpy(method.between(each.attributions[own], second, first))
    return parts * len(samples) if options.layout == "last" else parts


def _loose(moment: At, options: AtlasOptions, progress: Progress) -> float:
    """How alike samples of a cell are in an atlas of an epoch's samples in which no units go together."""
    standard = method.standardised(moment.samples.activations)[moment.cells.chosen]
    rows = method.loosened(standard, generator(options.seed, "atlas loosened"))
    points = project(rows.float().numpy(), method=options.method, seed=options.seed, progress=progress)
    flat = method.unit_square(torch.from_numpy(points))
    return method.coherence(rows, method.cells_of(flat, moment.cells.side))


# -- pictures ------------------------------------------------------------------------------------------------


def _by_luck(cells: Cells) -> Tensor:
    """Evenly chosen cells of the last epoch whose units are dealt out anew: their numbers among the cells."""
    count = min(_FLOOR_TILES, len(cells.numbers))
    return torch.linspace(0, len(cells.numbers) - 1, count).round().long()


def _count(making: Atlases, moments: Sequence[At], luck: Tensor, result: AtlasResult) -> None:
    """How many pictures are wanted, in the cache, and to be made."""
    missing = 0
    for moment in moments:
        missing += len(making.missing(moment.network, *moment.wanted))
        result.wanted += len(moment.cells.numbers)
    means, directions = moments[-1].dealt_out(making.options.seed)
    missing += len(making.missing(moments[-1].network, means[luck], directions[luck]))
    result.wanted += len(luck)
    result.found = result.wanted - missing
    result.passes = missing * making.options.steps * PASSES_PER_STEP


def _make(
    making: Atlases, moments: Sequence[At], luck: Tensor, result: AtlasResult, progress: Progress
) -> None:
    """Make what the store lacks."""
    missing = result.wanted - result.found
    if not missing:
        return
    progress.notice(
        f"{counted(missing, 'pictures')} of {result.size} pixels, {result.steps} steps each: about "
        f"{result.passes:,} forward passes (--no-tiles for a map without)"
    )
    with progress.task("making pictures", missing * result.steps, "steps") as advance:
        for moment in moments:
            making.tiles(moment.network, *moment.wanted, advance)
        means, directions = moments[-1].dealt_out(making.options.seed)
        making.tiles(moments[-1].network, means[luck], directions[luck], advance)
