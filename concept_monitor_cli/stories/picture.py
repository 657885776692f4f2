"""The story of `picture`: the image that excites a unit most, over the epochs, beside its best photos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from concept_monitor_cli.options import PictureOptions
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.report.picture_figures import Cell, contact_sheet, over_epochs, ratios
from concept_monitor_cli.report.picture_rows_figures import Row, picture_rows
from concept_monitor_cli.report.style import save
from concept_monitor_cli.run import TABLES
from concept_monitor_cli.run.folder import file_name
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.stories.picture_films import write_film
from concept_monitor_cli.stories.picture_groups import image_groups
from concept_monitor_cli.stories.picture_making import Maker
from concept_monitor_cli.stories.picture_rows import Chance, Rows, alone, members
from concept_monitor_cli.stories.picture_tables import (
    Eyes,
    Shown,
    concepts_at,
    cosine_distances,
    history_of,
    pixels_of,
)
from concept_monitor_cli.stories.picture_tasks import Plan, plan
from concept_monitor_cli.stories.picture_wishes import Task
from concept_monitor_cli.stories.stats import plain_rows
from concept_monitor_cli.wording import counted

Place = tuple[str, int]

# Photos beside several pictures of a unit.
_BESIDE = 4


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
        plots, tables, films: what was written.
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
    films: list[Path] = field(default_factory=list)


def picture(options: PictureOptions, progress: Progress = SILENT) -> PictureResult:
    """Make pictures of a run's units at its epochs.

    Args:
        options: which run, layers, units and epochs; how pictures are made.
        progress: told what happens.

    Returns:
        What was made; with `--dry-run` what would be.

    Raises:
        InputError: no run; no such layer, unit, class, image or epoch; checkpoints, images or code that are
            gone; a size that the network does not take; a pair of which a unit is dead.
    """
    # A layer that was not dissected can be looked at as well, so the run is opened with all of its own.
    opened = OpenRun(options.out, replace(options, layers=()), progress)
    planned = plan(opened, options, progress)
    maker, tasks = planned.maker, planned.tasks
    result = PictureResult(options.out, steps=maker.steps, at_once=maker.rows(tasks[0]))
    missing = [maker.missing(task) for task in tasks]
    result.size = max(maker.climb(task).side for task in tasks)
    result.wanted = sum(len(task.wishes) for task in tasks)
    made = sum(map(len, missing))
    result.found = result.wanted - made
    result.passes = sum(
        maker.passes(task, len(wishes)) for task, wishes in zip(tasks, missing, strict=True)
    ) + sum({task.record.epoch: maker.photo_passes(task) for task in tasks}.values())
    if options.dry_run:
        return result
    if made:
        progress.notice(
            f"{counted(made, 'pictures')} of {result.size} pixels, {maker.steps} steps each: about "
            f"{result.passes:,} forward passes"
        )
        steps = sum(maker.steps_of(task) * len(wishes) for task, wishes in zip(tasks, missing, strict=True))
        with progress.task("making pictures", steps, "steps") as advance:
            for task, wishes in zip(tasks, missing, strict=True):
                if wishes:
                    maker.make(task, wishes, advance)
    _show(opened, planned, options, result, progress)
    return result


# -- what is shown -------------------------------------------------------------------------------------------


def _show(
    opened: OpenRun, planned: Plan, options: PictureOptions, result: PictureResult, progress: Progress
) -> None:
    """Write pictures, table and plots."""
    import pandas as pd

    maker, tasks = planned.maker, planned.tasks
    of_epochs = {(task.layer, task.record.epoch): task for task in tasks if task.role == "shown"}
    # Before the encoder, which is known once something was recorded.
    scales = {place: None if options.caricature else maker.scale(task) for place, task in of_epochs.items()}
    if options.caricature or options.objective == "layer":
        planned.recorder.pooled(tasks[0].record, tasks[0].layer)
    eyes = Eyes.of(planned.recorder.context)
    if eyes is None:
        progress.notice(
            "the run has no encoder that can look at new pictures: what it would see in them, and drift, are "
            "left out"
        )
    shown: dict[Place, Shown] = {}
    for (layer, epoch), task in of_epochs.items():
        found = maker.load(task)
        pixels = [pixels_of(each, options) for each in found]
        embeddings = None if eyes is None else eyes.look_at(pixels)
        of_units = not options.caricature and options.objective != "layer"
        history = history_of(opened, layer) if of_units else None
        concepts, others = concepts_at(history, epoch, [wish.unit for wish in task.wishes])
        shown[layer, epoch] = Shown(
            epoch, task.record.name, layer, found, scales[layer, epoch], pixels, embeddings, concepts, others
        )
    chances = _chances(maker, tasks, shown, eyes, options)
    rows = Rows(opened, maker, options, planned.names, eyes)
    written: dict[Place, list[dict[str, Any]]] = {}
    before: dict[str, Tensor | None] = {}
    for place, each in shown.items():
        chance = chances.get(each.layer, Chance())
        written[place] = rows.of(each, of_epochs[place], before.get(each.layer), chance)
        before[each.layer] = each.embeddings
    table = TABLES["pictures"].frame(pd.DataFrame([row for own in written.values() for row in own]))
    result.tables.append(opened.run.write_csv("pictures", table))
    result.pictures = plain_rows(table)
    if options.warm:
        result.films = _films(rows, shown)
    if options.plot_formats:
        _draw(rows, shown, written, result)
        if len({epoch for _, epoch in shown}) > 1 and not (options.pair or options.caricature):
            stem = opened.run.plots / "picture_ratios"
            result.plots += save(ratios(table), stem, options.plot_formats, caption=opened.caption)


def _chances(
    maker: Maker,
    tasks: Sequence[Task],
    shown: Mapping[Place, Shown],
    eyes: Eyes | None,
    options: PictureOptions,
) -> dict[str, Chance]:
    """Layer -> what chance makes of its pictures at the last epoch."""
    found: dict[str, Chance] = {}
    of_seeds: dict[str, list[Any]] = {}
    for task in tasks:
        if task.role == "shown":
            continue
        chance = found.setdefault(task.layer, Chance())
        made, each = maker.load(task), shown[task.layer, task.record.epoch]
        if task.role == "alone":
            of_seeds.setdefault(task.layer, []).append(made)
            if len(of_seeds[task.layer]) == options.diverse and each.scale is not None:
                chance.alone = alone(of_seeds[task.layer], each.scale)
        elif eyes is not None and each.embeddings is not None:
            embeddings = eyes.look_at([pixels_of(picture, options) for picture in made])
            distances = cosine_distances(each.embeddings, embeddings)
            if task.role == "seed":
                chance.seed = distances
            else:
                chance.still = distances
    return found


def _films(rows: Rows, shown: Mapping[Place, Shown]) -> list[Path]:
    """A film of each picture over the epochs."""
    written = []
    for layer in dict.fromkeys(layer for layer, _ in shown):
        own = [each for (name, _), each in shown.items() if name == layer]
        folder = rows.opened.run.root / "pictures" / "films" / file_name(layer)
        for number, picture in enumerate(own[0].pictures):
            stem = folder / rows.stem(picture.wish)
            written += write_film([each.pixels[number] for each in own], [each.epoch for each in own], stem)
    return written


def _draw(
    rows: Rows,
    shown: Mapping[Place, Shown],
    written: Mapping[Place, Sequence[Mapping[str, Any]]],
    result: PictureResult,
) -> None:
    """A sheet for each layer and epoch; over the epochs a row for each unit or image."""
    opened, options = rows.opened, rows.options
    formats, caption = options.plot_formats, opened.caption
    by_layer: dict[str, dict[int, list[Cell]]] = {}
    for (layer, epoch), each in shown.items():
        lines = [_numbers(row) for row in written[layer, epoch]]
        cells = [rows.cell(each, number, line) for number, line in enumerate(lines)]
        by_layer.setdefault(layer, {})[epoch] = cells
        if options.diverse > 1:
            title = f"{layer}, epoch {epoch}: pictures of each unit, strength below (best photo 1); photos"
            figure = picture_rows(_several(rows, each, cells, lines), title=title)
        elif options.caricature:
            title = f"{layer}, epoch {epoch}: what it keeps of images (likeness to them, to others)"
            figure = picture_rows(_of_images({epoch: cells}), title=title)
        else:
            figure = contact_sheet(cells, layer=layer, epoch=epoch)
        stem = opened.run.plots / f"pictures.{file_name(layer)}.epoch_{epoch:04d}"
        result.plots += save(figure, stem, formats, caption=caption)
    for layer, epochs in by_layer.items():
        if len(epochs) < 2 or options.pair or options.diverse > 1:
            continue
        if options.caricature:
            title = f"{layer}: what it keeps of images (likeness to them, to others)"
            figure = picture_rows(_of_images(epochs), title=title)
        else:
            figure = over_epochs(epochs, layer=layer)
        stem = opened.run.plots / f"pictures.{file_name(layer)}"
        result.plots += save(figure, stem, formats, caption=caption)


def _of_images(epochs: Mapping[int, Sequence[Cell]]) -> list[Row]:
    """The caricatures of each image over the epochs, beside it."""
    last = list(epochs.values())[-1]
    return [
        Row(
            cell.title,
            "",
            [cells[number].picture for cells in epochs.values()],
            [f"epoch {epoch}: {cells[number].strength}" for epoch, cells in epochs.items()],
            [cell.photo],
            ["the image"],
        )
        for number, cell in enumerate(last)
    ]


def _numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row in which no number is NaN."""
    return {
        name: None if isinstance(value, float) and np.isnan(value) else value for name, value in row.items()
    }


def _several(rows: Rows, each: Shown, cells: Sequence[Cell], lines: Sequence[Mapping[str, Any]]) -> list[Row]:
    """The pictures of each unit beside photos of its groups, else beside its best ones."""
    groups = image_groups(rows.opened, each.layer, each.epoch)
    found = []
    for places in members(each):
        first = cells[places[0]]
        own = groups.get(first.unit, [])
        if own:
            share = max(1, _BESIDE // len(own))
            taken = [(image, group) for group in own for image in group.images[:share]][:_BESIDE]
            photos = [image for image, _ in taken]
            notes = [f"group {group.number}: {group.concept}" for _, group in taken]
        else:
            assert each.scale is not None
            photos = each.scale.best[first.unit][:_BESIDE].tolist()
            notes = [f"photo {number + 1}" for number in range(len(photos))]
        found.append(
            Row(
                first.title,
                _said([lines[place] for place in places]),
                [cells[place].picture for place in places],
                [_note(lines[place]) for place in places],
                [np.asarray(rows.opened.probe.image(int(image))) for image in photos],
                notes,
            )
        )
    return found


def _said(lines: Sequence[Mapping[str, Any]]) -> str:
    """How unlike the pictures of a unit are."""
    values = [line["diversity"] for line in lines]
    if None in values:
        return ""
    alone = lines[0]["diversity_floor"]
    floor = "" if alone is None else f", other seeds alone {alone:.2f}"
    return f"unlike each other {np.mean(values):.2f}{floor}"


def _note(line: Mapping[str, Any]) -> str:
    strength = "dead" if line["ratio"] is None else f"{line['ratio']:.1f}"
    return strength if line["group"] is None else f"{strength}, like group {line['group']}"
