"""The story of `picture`: the image that excites a unit most, over the epochs, beside its best photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional import pictures as method
from concept_monitor_cli.monitor.history import History
from concept_monitor_cli.options import CHANNELS, PictureOptions, split_name
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.report.picture_figures import Cell, contact_sheet, over_epochs, ratios
from concept_monitor_cli.report.style import save
from concept_monitor_cli.run import TABLES, CheckpointRecord
from concept_monitor_cli.run.folder import file_name
from concept_monitor_cli.store import atomic_write
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.stories.picture_making import BLENDS, PASSES_PER_STEP, Maker, Scale, Wish
from concept_monitor_cli.stories.picture_tables import (
    PHOTOS,
    Eyes,
    Shown,
    concepts_at,
    cosine_distances,
    pixels_of,
    strengths,
)
from concept_monitor_cli.stories.recorder import Network, Recorder
from concept_monitor_cli.stories.stats import plain_rows
from concept_monitor_cli.study.looks import Look
from concept_monitor_cli.wording import counted

if TYPE_CHECKING:
    import pandas as pd

# The second seed, which shows what another start alone makes of a picture.
_SECOND = 1


@dataclass
class PictureResult:
    """What a `picture` made.

    Attributes:
        out: the run.
        pictures: the rows of `pictures.csv` as plain values.
        wanted: how many pictures were asked for, those of the second seed included.
        found: how many of these the cache had.
        passes: about how many forward passes of one image the others cost.
        steps, size, at_once: how they are made; size is the side in pixels.
        plots, tables: what was written.
    """

    out: Path
    pictures: list[dict[str, Any]] = field(default_factory=list)
    wanted: int = 0
    found: int = 0
    passes: int = 0
    steps: int = 0
    size: int = 0
    at_once: int = 0
    plots: list[Path] = field(default_factory=list)
    tables: list[Path] = field(default_factory=list)


@dataclass(frozen=True)
class _Task:
    """The pictures of a layer at one epoch from one seed."""

    record: CheckpointRecord
    network: Network
    look: Look
    wishes: tuple[Wish, ...]
    seed: int
    scale: Scale | None


def picture(options: PictureOptions, progress: Progress = SILENT) -> PictureResult:
    """Make pictures of a run's units at its epochs.

    Args:
        options: which run, layers, units and epochs; how pictures are made.
        progress: told what happens.

    Returns:
        What was made; with `--dry-run` what would be.

    Raises:
        InputError: no run; no such layer, unit or epoch; checkpoints, images or code that are gone; a size
            that the network does not take.
    """
    # A layer that was not dissected can be looked at as well, so the run is opened with all of its own.
    opened = OpenRun(options.out, replace(options, layers=()), progress)
    layers = options.layers or tuple(dict.fromkeys(history.layer for history in opened.histories))
    recorder = Recorder(opened, options, layers=layers, look_only=options.dry_run)
    maker = Maker(recorder, options, progress)
    records = _records(opened)
    tasks = list(_tasks(opened, recorder, records, options))
    result = PictureResult(options.out, steps=maker.steps, at_once=maker.ascents.at_once)
    missing = [maker.missing(task.network, task.look, task.wishes, task.seed, task.scale) for task in tasks]
    result.size = max(maker.climb(task.network, task.look.tapped.channels, 0).side for task in tasks)
    result.wanted = sum(len(task.wishes) for task in tasks)
    made = sum(map(len, missing))
    result.found = result.wanted - made
    # A batch that is not full costs as much as a full one.
    rows = sum(-(-len(wishes) // maker.ascents.at_once) * maker.ascents.at_once for wishes in missing)
    result.passes = rows * maker.steps * PASSES_PER_STEP
    if options.dry_run:
        return result
    if made:
        progress.notice(
            f"{counted(made, 'pictures')} of {result.size} pixels, {maker.steps} steps each: about "
            f"{result.passes:,} forward passes"
        )
        with progress.task("making pictures", made * maker.steps, "steps") as advance:
            for task, wishes in zip(tasks, missing, strict=True):
                if wishes:
                    maker.make(task.network, task.look, wishes, task.seed, task.scale, advance)
    _show(opened, recorder, maker, tasks, options, result, progress)
    return result


# -- what is wanted ------------------------------------------------------------------------------------------


def _records(opened: OpenRun) -> list[CheckpointRecord]:
    """The checkpoints of the epochs asked for."""
    wanted = set(opened.table["epoch"].tolist())
    return [record for record in opened.run.checkpoints() if record.epoch in wanted]


def history_of(opened: OpenRun, layer: str) -> History | None:
    """The labels of a layer: those of the first detector whose labels are concepts."""
    own = [history for history in opened.histories if history.layer == layer]
    words = [history for history in own if opened.traits[history.detector].in_word_space]
    return next(iter([*words, *own]), None)


def _tasks(
    opened: OpenRun, recorder: Recorder, records: Sequence[CheckpointRecord], options: PictureOptions
) -> list[_Task]:
    """Every layer at every epoch; the last epoch once more from a second seed."""
    found: list[_Task] = []
    chosen: dict[str, tuple[Wish, ...]] = {}
    for record in records:
        network = recorder.network(record)
        for look in network.looks:
            name = look.layer.name
            if name not in chosen:
                chosen[name] = _wishes(history_of(opened, name), look, options)
            scale = None
            if options.pair and not options.dry_run:
                scale = Scale.of(recorder.pooled(record, name), PHOTOS)
            found.append(_Task(record, network, look, chosen[name], options.seed, scale))
    if options.floor and len(records) > 1:
        last = [task for task in found if task.record is records[-1]]
        found += [replace(task, seed=options.seed + _SECOND) for task in last]
    if options.pair and options.dry_run:
        # What a pair's pictures depend on is only known once the photos were looked at.
        raise InputError(
            "--pair has no dry run", where="--dry-run", hint="it is five pictures for each epoch"
        )
    return found


def _wishes(history: History | None, look: Look, options: PictureOptions) -> tuple[Wish, ...]:
    """Whose pictures are wanted.

    Raises:
        InputError: a unit that the layer does not have, or no units named of a layer without labels.
    """
    name, count = look.layer.name, look.layer.units
    units = options.pair or options.units
    if not units:
        if history is None:
            raise InputError(
                f"the run did not dissect {name}, so nothing says which of its units to take",
                where=f"--layer {name}",
                hint="name them: --units 3,7",
            )
        units = tuple(surest(history, options.top))
    beyond = [unit for unit in units if unit >= count]
    if beyond:
        raise InputError(
            f"{name} has no unit {beyond[0]}", where="--units", hint=f"units count from 0 to {count - 1}"
        )
    if options.pair:
        first, second = options.pair
        return tuple(Wish(first, second, share) for share in BLENDS)
    return tuple(Wish(unit) for unit in dict.fromkeys(units))


def surest(history: History, count: int) -> list[int]:
    """The live units surest of their concept at the last epoch, interpretable ones first, ties by number."""
    last = len(history.epochs) - 1
    rows = np.flatnonzero(history.live[:, last])
    if not len(rows):
        rows = np.arange(len(history.units))
    certainty = np.nan_to_num(history.certainty(last)[rows], nan=-np.inf)
    order = np.lexsort((history.units[rows], -certainty, ~history.interpretable[rows, last]))
    return [int(unit) for unit in history.units[rows[order[:count]]]]


# -- what is shown -------------------------------------------------------------------------------------------


def _show(
    opened: OpenRun,
    recorder: Recorder,
    maker: Maker,
    tasks: Sequence[_Task],
    options: PictureOptions,
    result: PictureResult,
    progress: Progress,
) -> None:
    """Write pictures, table and plots."""
    import pandas as pd

    scales = {id(task): _scale(recorder, task) for task in tasks if task.seed == options.seed}
    eyes = Eyes.of(recorder.context)
    if eyes is None:
        progress.notice(
            "the run has no encoder that can look at new pictures: what it would see in them, and drift, are "
            "left out"
        )
    shown: dict[tuple[str, int], Shown] = {}
    floors: dict[str, list[float]] = {}
    for task in tasks:
        found = maker.load(task.network, task.look, task.wishes, task.seed, task.scale)
        pixels = [pixels_of(each, options.parameters) for each in found]
        embeddings = None if eyes is None else eyes.look_at(pixels)
        layer, epoch = task.look.layer.name, task.record.epoch
        if task.seed != options.seed:
            first = shown[layer, epoch].embeddings
            if first is not None and embeddings is not None:
                floors[layer] = cosine_distances(first, embeddings)
            continue
        concepts, others = concepts_at(history_of(opened, layer), epoch, [wish.unit for wish in task.wishes])
        shown[layer, epoch] = Shown(
            epoch, task.record.name, layer, found, scales[id(task)], pixels, embeddings, concepts, others
        )
    rows: list[dict[str, Any]] = []
    before: dict[str, Tensor | None] = {}
    for each in shown.values():
        rows += _rows(opened, each, before.get(each.layer), floors.get(each.layer), eyes, maker, options)
        before[each.layer] = each.embeddings
    table = TABLES["pictures"].frame(pd.DataFrame(rows))
    result.tables.append(opened.run.write_csv("pictures", table))
    result.pictures = plain_rows(table)
    if options.plot_formats:
        _draw(opened, shown, table, options, result)


def _scale(recorder: Recorder, task: _Task) -> Scale:
    return task.scale or Scale.of(recorder.pooled(task.record, task.look.layer.name), PHOTOS)


def _file(each: Shown, wish: Wish, options: PictureOptions) -> str:
    """Where a picture is written, below the run."""
    more = [] if options.objective == "unit" else [options.objective.replace("unit-", "down")]
    more += [] if options.parameters == "fourier" else [options.parameters]
    name = f"unit_{wish.unit:04d}"
    if wish.other >= 0:
        name += f"_to_{wish.other:04d}_{wish.share:.2f}"
    return f"pictures/epoch_{each.epoch:04d}/{file_name(each.layer)}/{'.'.join([name, *more])}.png"


def _rows(
    opened: OpenRun,
    each: Shown,
    before: Tensor | None,
    floors: list[float] | None,
    eyes: Eyes | None,
    maker: Maker,
    options: PictureOptions,
) -> list[dict[str, Any]]:
    """The rows of a layer at one epoch; its pictures are written."""
    from PIL import Image

    drift = None
    if before is not None and each.embeddings is not None:
        drift = cosine_distances(before, each.embeddings)
    above = strengths(each.pictures, each.scale)
    seen = each.cosines(eyes)
    power = method.high_frequency(
        torch.stack([torch.from_numpy(picture.image) for picture in each.pictures])
    ).tolist()
    rows = []
    for number, made in enumerate(each.pictures):
        file = _file(each, made.wish, options)
        with atomic_write(opened.run.root / file) as temporary:
            Image.fromarray(each.pixels[number]).save(temporary, format="PNG")
        best = int(each.scale.best[made.wish.unit][0])
        rows.append(
            {
                "epoch": each.epoch,
                "checkpoint": each.checkpoint,
                "layer": each.layer,
                "unit": made.wish.unit,
                "other_unit": made.wish.other if made.wish.other >= 0 else None,
                "share": made.wish.share if made.wish.other >= 0 else None,
                "objective": _objective(each.layer, options),
                "parameterisation": options.parameters,
                "seed": options.seed,
                "steps": maker.steps,
                **above[number],
                "silent_start": made.silent,
                "high_frequency": power[number],
                "photo_high_frequency": _photo_power(opened, best, made.image.shape[-1]),
                "concept": each.concepts[number],
                **seen[number],
                "drift": None if drift is None else drift[number],
                "drift_floor": None if floors is None else floors[number],
                "file": file,
            }
        )
    return rows


def _objective(layer: str, options: PictureOptions) -> str:
    """What was climbed, by its name in the table."""
    if options.pair:
        return "pair"
    in_basis = split_name(layer)[1] != CHANNELS
    return "direction" if in_basis and options.objective == "unit" else options.objective


def _square(photo: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    from PIL import Image

    return np.asarray(Image.fromarray(photo).resize((side, side), Image.Resampling.BICUBIC))


def _photo_power(opened: OpenRun, image: int, side: int) -> float:
    """The share of high frequencies in a unit's best photo at the size of the picture: what is natural."""
    pixels = torch.from_numpy(_square(np.asarray(opened.probe.image(image)), side).copy())
    return float(method.high_frequency(pixels.permute(2, 0, 1)[None].float() / 255)[0])


def _draw(
    opened: OpenRun,
    shown: dict[tuple[str, int], Shown],
    table: pd.DataFrame,
    options: PictureOptions,
    result: PictureResult,
) -> None:
    """A contact sheet for each layer and epoch; over the epochs a row for each unit, and the ratios."""
    plots, formats = opened.run.plots, options.plot_formats
    by_layer: dict[str, dict[int, list[Cell]]] = {}
    for (layer, epoch), each in shown.items():
        own = table[(table["layer"] == layer) & (table["epoch"] == epoch)]
        lines = {
            (row["unit"], row["share"] if row["share"] is not None else 0.0): row for row in plain_rows(own)
        }
        cells = [
            Cell(
                unit=made.wish.unit,
                concept=each.concepts[number],
                picture=each.pixels[number],
                photo=np.asarray(opened.probe.image(int(each.scale.best[made.wish.unit][0]))),
                ratio=lines[made.wish.unit, made.wish.share]["ratio"],
                chance=lines[made.wish.unit, made.wish.share]["ratio_chance"],
                note=f"{made.wish.share:g} of the way to {made.wish.other}" if made.wish.other >= 0 else "",
            )
            for number, made in enumerate(each.pictures)
        ]
        by_layer.setdefault(layer, {})[epoch] = cells
        figure = contact_sheet(cells, layer=layer, epoch=epoch)
        stem = plots / f"pictures.{file_name(layer)}.epoch_{epoch:04d}"
        result.plots += save(figure, stem, formats, caption=opened.caption)
    for layer, epochs in by_layer.items():
        if len(epochs) > 1 and not options.pair:
            result.plots += save(
                over_epochs(epochs, layer=layer),
                plots / f"pictures.{file_name(layer)}",
                formats,
                caption=opened.caption,
            )
    if len({epoch for _, epoch in shown}) > 1 and not options.pair:
        result.plots += save(ratios(table), plots / "picture_ratios", formats, caption=opened.caption)
