"""The story of `units`: the life of every unit, and what it looks at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from concept_monitor_cli.monitor.comparison import check_classes, class_counts
from concept_monitor_cli.monitor.confidence import FALSE_CHANGES
from concept_monitor_cli.monitor.epochs import evenly
from concept_monitor_cli.monitor.floors import p_floor
from concept_monitor_cli.monitor.history import History
from concept_monitor_cli.monitor.matches import match_counts, matches
from concept_monitor_cli.monitor.summary import by_luck, named
from concept_monitor_cli.monitor.uses import last_concepts, read_uses
from concept_monitor_cli.options import UnitsOptions
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.report.range_figures import ranges_over_epochs
from concept_monitor_cli.report.regions import regions_of
from concept_monitor_cli.report.style import save
from concept_monitor_cli.report.unit_figures import Look, class_table, top_units_over_epochs, unit_over_epochs
from concept_monitor_cli.run.made import MadePicture, made_pictures, read_picture
from concept_monitor_cli.stories.embed import check_units
from concept_monitor_cli.stories.lives import write_lives
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.stories.part import figure_path
from concept_monitor_cli.stories.stats import plain_rows

if TYPE_CHECKING:
    import pandas as pd

    from concept_monitor_cli.probe import ProbeSet

# A picture with more epochs cannot be read.
_MOST_EPOCHS = 8
_MOST_EPOCHS_SIDE_BY_SIDE = 5


@dataclass
class UnitsResult:
    """What a `units` found.

    Attributes:
        out: the run folder.
        units: the rows of `units.csv` (of the units asked for, where some are) as plain values.
        moments: of the units asked for: their concept at every epoch.
        layers: per layer and detector, how many units are born, die, change, and change with confidence;
            beside it what luck gives at most, and how many units are interpretable with random weights.
        classes: per epoch, layer and class, how many units have it as their concept.
        matches: with `--match`, per layer, detector and epoch, how many units match.
        found: with `--match`, the rows of `text-matches.csv`.
        uses: of the units asked for: what they do for the classes, in sentences, where `vectors`,
            `evolutions` or `ablate` have run.
        plots: the pictures.
    """

    out: Path
    units: list[dict[str, Any]] = field(default_factory=list)
    moments: list[dict[str, Any]] = field(default_factory=list)
    layers: list[dict[str, Any]] = field(default_factory=list)
    classes: list[dict[str, Any]] = field(default_factory=list)
    matches: list[dict[str, Any]] = field(default_factory=list)
    found: list[dict[str, Any]] = field(default_factory=list)
    uses: list[str] = field(default_factory=list)
    plots: list[Path] = field(default_factory=list)


def units(options: UnitsOptions, progress: Progress = SILENT) -> UnitsResult:
    """Follow every unit of a run over the epochs.

    Args:
        options: which run, layers and epochs; which units to draw.
        progress: told what happens.

    Returns:
        What was found; `tables/units.csv`, `tables/changes.csv` (where confidence could be tested; both of
        all epochs only), `tables/text-matches.csv` (with `--match`) and the plots are in the run folder.

    Raises:
        InputError: there is no run, or no such layer, unit or epoch in it; images or activations that the
            pictures need are gone.
    """
    import pandas as pd

    opened = OpenRun(options.out, options, progress)
    check_units(options.units, opened.table)
    for word in check_classes(options.classes, opened.table["concept"].unique()):
        progress.notice(f"no unit has a concept called {word!r} at any epoch")
    result = UnitsResult(options.out)
    if options.match is not None:
        _search(opened, options.match, result)
    table = write_lives(opened, resamples=options.resamples, seed=options.seed, progress=progress)
    for history in opened.histories:
        own = history.rows(table)
        result.layers.append(_layer_summary(opened, history, own))
    chosen = table[table["unit"].isin(options.units)] if options.units else table
    result.units = plain_rows(chosen)
    result.moments = _moments(opened, options.units)
    result.uses = _uses(opened, options.units)
    result.plots = _draw(opened, options)
    if options.classes:
        counts = pd.concat([class_counts(history, options.classes) for history in opened.histories])
        result.classes = plain_rows(counts)
        for detector, rows in counts.groupby("detector", sort=True):
            figure = class_table({opened.name: rows})
            result.plots += save(
                figure,
                figure_path(opened, "classes", str(detector)),
                options.plot_formats,
                caption=opened.caption,
            )
    return result


def _search(opened: OpenRun, text: str, result: UnitsResult) -> None:
    """The units whose label has a text in it."""
    untrained = {(history.layer, history.detector): opened.untrained(history) for history in opened.histories}
    found = matches(opened.table, text, untrained)
    opened.run.write_csv("text-matches", found)
    result.found = plain_rows(found)
    result.matches = match_counts(opened.table, found, untrained, text)


def _uses(opened: OpenRun, wanted: Sequence[int]) -> list[str]:
    known = read_uses(opened.run)
    told = []
    for history in opened.histories:
        by_unit = known.by_unit(history.layer, last_concepts(history))
        told += [
            f"{history.layer} unit {unit}: {sentence}"
            for unit in wanted
            for sentence in by_unit.get(unit, [])
        ]
    return list(dict.fromkeys(told))


def _layer_summary(opened: OpenRun, history: History, life: pd.DataFrame) -> dict[str, Any]:
    confident = life["confident_changes"]
    untested = confident.isna().any()
    rows = opened.rows(history)
    # Of each epoch's units that share may be there by luck; at worst others at every epoch.
    luck = by_luck(rows[rows["rank"] == 1], opened.fdr)
    untrained = opened.untrained(history)
    return {
        "layer": history.layer,
        "detector": history.detector,
        "units": len(life),
        "born": int(life["born"].notna().sum()),
        "born_by_luck": None if luck is None else min(luck, len(life)),
        "random_interpretable": None if untrained is None else named(untrained)[0],
        "died": int(life["died"].notna().sum()),
        "changed": int((life["changes"] > 0).sum()),
        "changes": int(life["changes"].sum()),
        "label_changes": int(life["label_changes"].sum()),
        "confident_changes": None if untested else int(confident.sum()),
        "confident_by_luck": None if untested else round(FALSE_CHANGES * int(history.could_change.sum())),
        "stable_from_first": int((life["stable_from"] == int(history.epochs[0])).sum()),
    }


def _moments(opened: OpenRun, wanted: Sequence[int]) -> list[dict[str, Any]]:
    if not wanted:
        return []
    table = opened.whole_table()
    columns = ["layer", "detector", "unit", "epoch", "concept", "category", "score", "p_value"]
    rows = table[table["unit"].isin(wanted) & (table["rank"] == 1)].sort_values(columns[:4])
    more = [name for name in ("effect", "stability", "concept_set") if name in rows]
    moments = plain_rows(rows[[*columns, "interpretable", "state", *more]])
    floors = {
        (record.layer, record.detector, record.epoch): p_floor(record.calibration)
        for history in opened.histories
        for record in opened.records(history)
    }
    for moment in moments:
        moment["p_floor"] = floors.get((moment["layer"], moment["detector"], moment["epoch"]))
    return moments


# -- pictures ----------------------------------------------------------------------------------


def _draw(opened: OpenRun, options: UnitsOptions) -> list[Path]:
    plots: list[Path] = []
    made = made_pictures(opened.run)
    for history in opened.histories:
        pictures = made.get(history.layer, {})
        name = f"{history.layer}.{history.detector}"
        for unit in options.units:
            if unit not in history.units:
                continue
            columns = _shown(opened, history, _MOST_EPOCHS)
            looks = [
                with_pictures(opened, looks_of(opened, history, column, [unit], options.top), pictures)[0]
                for column in columns
            ]
            figure = unit_over_epochs(looks, layer=history.layer, unit=unit)
            plots += save(
                figure, opened.run.plots / f"unit_{unit}.{name}", options.plot_formats, caption=opened.caption
            )
            ranges = opened.ranges(history)
            own = None if ranges is None else ranges[ranges["unit"] == unit]
            own = None if own is None else own[own["epoch"].isin(history.epochs[columns])]
            if own is not None and len(own):
                plots += save(
                    ranges_over_epochs(own, layer=history.layer, unit=unit),
                    opened.run.plots / f"ranges_{unit}.{name}",
                    options.plot_formats,
                    caption=opened.caption,
                )
        if not options.units:
            columns = _shown(opened, history, _MOST_EPOCHS_SIDE_BY_SIDE)
            best = [
                with_pictures(
                    opened,
                    looks_of(
                        opened, history, column, most_certain(history, column, options.top), options.top
                    ),
                    pictures,
                )
                for column in columns
            ]
            if any(best):
                figure = top_units_over_epochs(
                    {int(history.epochs[column]): looks for column, looks in zip(columns, best, strict=True)},
                    layer=history.layer,
                )
                plots += save(
                    figure,
                    opened.run.plots / f"top_units.{name}",
                    options.plot_formats,
                    caption=opened.caption,
                )
    return plots


def _shown(opened: OpenRun, history: History, most: int) -> list[int]:
    """The columns of a picture's epochs; what is left out is said."""
    columns = evenly(range(len(history.epochs)), most)
    if len(columns) < len(history.epochs):
        shown = ", ".join(str(history.epochs[column]) for column in columns)
        opened.progress.notice(f"the picture shows epochs {shown} (others: --epochs)")
    return columns


def most_certain(history: History, column: int, count: int) -> list[int]:
    """The interpretable units with the largest effects at one epoch, each concept once; ties by number."""
    rows = np.flatnonzero(history.interpretable[:, column])
    keys = (history.units[rows], -history.scores[rows, column], -history.certainty(column)[rows])
    rows = rows[np.lexsort(keys)]
    _, first = np.unique(history.labels[rows, column], return_index=True)
    return [int(unit) for unit in history.units[rows[np.sort(first)[:count]]]]


def looks_of(
    opened: OpenRun,
    history: History,
    column: int,
    wanted: Sequence[int],
    images: int,
) -> list[Look]:
    """What some units look at, at one epoch: their concepts, favourite images, and where in them they fire.

    That is known for detectors that count pixels; their favourite images are those in which a unit's map
    peaks highest, those of others the ones that the unit responds to most as a whole.

    Args:
        opened: the run.
        history: the layer.
        column: of the history: which epoch.
        wanted: the units.
        images: how many images of each.
    """
    if not wanted:
        return []
    rows = opened.rows(history)
    rows = rows[(rows["epoch"] == history.epochs[column]) & rows["unit"].isin(wanted)]
    by_unit = dict(iter(rows.sort_values("rank").groupby("unit")))
    with opened.recording(history, column) as entry:
        top = entry.read("top_images")[list(wanted), :images]
        regions = regions_of(entry, opened.probe)
    looks = []
    for unit, chosen in zip(wanted, top, strict=True):
        own = by_unit[unit]
        first = own.iloc[0]
        live = first["state"] == "live"
        shown = [int(image) for image in chosen if image >= 0] if live else []
        looks.append(
            Look(
                epoch=int(history.epochs[column]),
                unit=unit,
                concepts=tuple(own["concept"]) if live else (),
                category=str(first["category"]),
                score=float(first["score"]),
                interpretable=bool(first["interpretable"]),
                images=[_pixels(opened.probe, image) for image in shown],
                masks=[regions.region(unit, image) if regions else None for image in shown],
            )
        )
    return looks


def with_pictures(
    opened: OpenRun, looks: Sequence[Look], made: Mapping[tuple[int, int], MadePicture]
) -> list[Look]:
    """The same with the pictures that `cmon picture` made of the units at these epochs.

    Args:
        opened: the run.
        looks: units of a layer.
        made: (epoch, unit) -> the layer's pictures.
    """
    found = []
    for look in looks:
        own = made.get((look.epoch, look.unit))
        if own is not None:
            look = replace(look, picture=np.asarray(read_picture(opened.run, own.file)))
        found.append(look)
    return found


def _pixels(probe: ProbeSet, image: int) -> NDArray[np.uint8]:
    return np.asarray(probe.image(image))
