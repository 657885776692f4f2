"""The story of `evolutions`: which change of which unit between two epochs changed a class?"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.options import EvolutionsOptions
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.record.requests import Activations, Logits
from concept_monitor_cli.report.evolution_figures import origins, parts_set_back, strongest_units
from concept_monitor_cli.report.style import save
from concept_monitor_cli.run import TABLES
from concept_monitor_cli.stories.evolution_making import Pair, asked_images, effects_of
from concept_monitor_cli.stories.evolution_tables import (
    Held,
    Labels,
    beside_others,
    class_rows,
    part_rows,
    unit_rows,
)
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.stories.recorder import Recorder
from concept_monitor_cli.stories.stats import plain_rows
from concept_monitor_cli.stories.vectors import checkpoints_of, classes_of, distinct_images, plain_layers
from concept_monitor_cli.wording import counted

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class EvolutionsResult:
    """What an `evolutions` found.

    Attributes:
        out: where the tables and plots are.
        images: how many images were looked at.
        evolutions, classes, parts: rows of the tables as plain values.
        held: a line for each layer and pair of epochs.
        plots: the pictures.
    """

    out: Path
    images: int
    evolutions: list[dict[str, Any]] = field(default_factory=list)
    classes: list[dict[str, Any]] = field(default_factory=list)
    parts: list[dict[str, Any]] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)
    plots: list[Path] = field(default_factory=list)


def evolutions(options: EvolutionsOptions, progress: Progress = SILENT) -> EvolutionsResult:
    """Ask, for consecutive epochs of a run, what the change of each unit brought each class.

    Args:
        options: which run, layers, epochs.
        progress: told what happens.

    Raises:
        InputError: no run, one epoch only, checkpoints that are gone, or networks without classes.
    """
    import pandas as pd

    opened = OpenRun(options.out, options, progress)
    layers = plain_layers(opened, progress)
    records = checkpoints_of(opened)
    if len(records) < 2:
        raise InputError(
            f"{counted(len(records), 'epochs')}: nothing changes from one to another",
            where=opened.run.root,
            hint="name at least two with --epochs, or dissect more checkpoints",
        )
    rows = distinct_images(opened.context_of(None, (), opened.concepts))
    recorder = Recorder(opened, options, layers=layers)
    recorder.prepare(records[-1], [Activations(), Logits()])
    classes = classes_of(opened, recorder, records[-1], options.class_names, options, progress)
    labels = Labels.of(opened, progress)
    parts: dict[str, list[pd.DataFrame]] = {"evolutions": [], "evolution-classes": [], "evolution-parts": []}
    held, looked_at = [], 0
    for earlier, later in pairwise(records):
        for each in (earlier, later):
            recorder.prepare(each, [Activations(), Logits()])
        asked = asked_images(classes, rows, recorder.logits(later), options, progress)
        looked_at = max(looked_at, len(asked.images))
        for layer in layers:
            pair = Pair(earlier, later, layer)
            seen = effects_of(recorder, pair, asked, options, progress)
            frame, every = unit_rows(pair, seen, asked, classes, labels, options)
            parts["evolutions"].append(frame)
            held.append(beside_others(pair, every, labels))
            totals = class_rows(pair, seen, asked, classes, recorder)
            parts["evolution-classes"].append(totals)
            if options.controls:
                parts["evolution-parts"].append(part_rows(pair, seen, asked, classes, totals, options))
    frames = {name: TABLES[name].frame(pd.concat(found)) for name, found in parts.items() if found}
    for name, frame in frames.items():
        opened.run.write_csv(name, frame)
    if not options.controls:
        # An earlier one would not belong to the tables beside it.
        (opened.run.tables / "evolution-parts.csv").unlink(missing_ok=True)
    result = EvolutionsResult(opened.run.root, looked_at, held=held)
    result.evolutions = plain_rows(frames["evolutions"])
    result.classes = plain_rows(frames["evolution-classes"])
    if "evolution-parts" in frames:
        result.parts = plain_rows(frames["evolution-parts"])
    if options.plot_formats:
        figures = {
            "evolutions": strongest_units(frames["evolutions"]),
            "evolution_classes": origins(frames["evolution-classes"]),
        }
        if "evolution-parts" in frames:
            figures["evolution_parts"] = parts_set_back(frames["evolution-parts"])
        for stem, figure in figures.items():
            result.plots += save(
                figure, opened.run.plots / stem, options.plot_formats, caption=opened.caption
            )
    return result
