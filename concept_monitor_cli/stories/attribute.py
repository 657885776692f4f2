"""The story of `attribute`: where in an image does the network's answer come from, at every epoch?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from concept_monitor_cli.concepts.class_names import ClassNames, image_classes
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional import attribution as method
from concept_monitor_cli.options import AttributeOptions, AttributionMethod
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.report.attribution_figures import Explained, strips
from concept_monitor_cli.report.style import save
from concept_monitor_cli.run import TABLES, CheckpointRecord
from concept_monitor_cli.run.folder import file_name
from concept_monitor_cli.stories.asked_images import class_label, class_number, photos_of, recorder_of
from concept_monitor_cli.stories.attribute_faithfulness import faithfulness
from concept_monitor_cli.stories.attribute_making import Attributions, Map, Photo, Target
from concept_monitor_cli.stories.attribute_pointing import pointing, things
from concept_monitor_cli.stories.attribute_sanity import sanity
from concept_monitor_cli.stories.classes import output_names
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.stories.stats import plain_rows

if TYPE_CHECKING:
    import pandas as pd

_PIXELS = "pixels"


@dataclass
class AttributeResult:
    """What an `attribute` found.

    Attributes:
        out: the run.
        layer: whose maps the CAMs are.
        attributions: rows of `attributions.csv` as plain values.
        sanity, faithfulness: rows of `sanity.csv` and `faithfulness.csv`, with `--check`.
        pointing: rows of `pointing.csv`, with `--check` where masks show the classes.
        tables, plots: what was written.
    """

    out: Path
    layer: str = ""
    attributions: list[dict[str, Any]] = field(default_factory=list)
    sanity: list[dict[str, Any]] = field(default_factory=list)
    faithfulness: list[dict[str, Any]] = field(default_factory=list)
    pointing: list[dict[str, Any]] = field(default_factory=list)
    tables: list[Path] = field(default_factory=list)
    plots: list[Path] = field(default_factory=list)


def attribute(options: AttributeOptions, progress: Progress = SILENT) -> AttributeResult:
    """Explain a run's answers to some images at its epochs.

    Args:
        options: which run, epochs, images and class; by which methods.
        progress: told what happens.

    Raises:
        InputError: no run; no such layer, class, image or epoch; a method that does not fit the network.
    """
    opened = OpenRun(options.out, replace(options, layers=()), progress)
    wanted = set(opened.table["epoch"].tolist())
    records = [record for record in opened.run.checkpoints() if record.epoch in wanted]
    flat = [name for name in options.methods if name in method.LAYER_METHODS or name == "guided-grad-cam"]
    recorder = recorder_of(opened, options, records[-1], needs_maps=f"--method {flat[0]}" if flat else None)
    networks = [recorder.network(record) for record in records]
    making = Attributions(recorder.store, recorder.device, options.seed, options.path)
    photos = photos_of(opened, networks[-1], options.images, options.count, where="--image")
    said = [making.logits(networks[-1], photo) for photo in photos]
    meta = networks[-1].checkpoint.meta
    names = output_names(opened, len(said[0]), meta, options.class_names, progress)
    if names is None:
        progress.notice("what the classes are called is not known: they are numbers (--class-names)")
    targets = _targets(photos, said, names, options)
    result = AttributeResult(options.out, layer=networks[-1].looks[0].layer.name)
    maps: dict[tuple[AttributionMethod, int, int], Map] = {}
    total = len(networks) * len(photos) * len(options.methods)
    with progress.task("attributing", total, "maps") as advance:
        for epoch, network in enumerate(networks):
            for number, (photo, target) in enumerate(zip(photos, targets, strict=True)):
                for name in options.methods:
                    maps[name, epoch, number] = making.map(network, photo, target, name)
                    advance(1)
    logits = [[making.logits(network, photo) for photo in photos] for network in networks]
    rows = _rows(records, photos, targets, logits, names, maps, options, result.layer)
    _write(opened, "attributions", rows, result.attributions, result)
    if options.check:
        found = sanity(networks[-1], records[-1], photos, targets, making, options, progress)
        _write(opened, "sanity", found, result.sanity, result)
        found = faithfulness(networks[-1], records[-1], photos, targets, making, options, progress)
        _write(opened, "faithfulness", found, result.faithfulness, result)
        masks = things(opened, networks[-1], photos, targets, names)
        if masks:
            layers = {name: _layer(name, result.layer) for name in options.methods}
            found = pointing(records, maps, masks, layers, options.seed)
            _write(opened, "pointing", found, result.pointing, result)
        elif opened.probe.has_masks:
            progress.notice("no mask of these images is called as their class, so nothing says where it is")
    for name in options.methods if options.plot_formats else ():
        figure = strips(
            [
                Explained(
                    photo.name,
                    class_label(target.wanted, names),
                    photo.pixels,
                    [maps[name, epoch, number].values for epoch in range(len(records))],
                    [
                        class_label(int(logits[epoch][number].argmax()), names)
                        for epoch in range(len(records))
                    ],
                )
                for number, (photo, target) in enumerate(zip(photos, targets, strict=True))
            ],
            [record.epoch for record in records],
            title=name if name not in method.LAYER_METHODS else f"{name} of {result.layer}",
        )
        stem = opened.run.plots / f"attributions.{file_name(name)}"
        result.plots += save(figure, stem, options.plot_formats, caption=opened.caption)
    return result


def _layer(name: AttributionMethod, layer: str) -> str:
    """What the maps of a method are of, as tables say it."""
    return layer if name in method.LAYER_METHODS or name == "guided-grad-cam" else _PIXELS


def _write(
    opened: OpenRun,
    name: str,
    rows: list[dict[str, Any]],
    plain: list[dict[str, Any]],
    result: AttributeResult,
) -> None:
    import pandas as pd

    table: pd.DataFrame = TABLES[name].frame(pd.DataFrame(rows))
    result.tables.append(opened.run.write_csv(name, table))
    plain += plain_rows(table)


# -- what is explained ---------------------------------------------------------------------------------------


def _targets(
    photos: Sequence[Photo], said: Sequence[Tensor], names: ClassNames | None, options: AttributeOptions
) -> list[Target]:
    """One class for each image, the same at all epochs: that asked for, its label, else the last answer."""
    count = len(said[0])
    against = -1
    if options.against is not None:
        against = class_number(options.against, count, names, "--against")
    if options.target is not None:
        wanted = class_number(options.target, count, names, "--target")
        if wanted == against:
            raise InputError("a class against itself explains nothing", where="--against")
        return [Target(wanted, against) for _ in photos]
    labels = np.full(len(photos), -1)
    if names is not None:
        labels = image_classes([photo.name for photo in photos], names.names)
    found = []
    for label, logits in zip(labels.tolist(), said, strict=True):
        wanted = label if label >= 0 else int(logits.argmax())
        if wanted == against:
            raise InputError(
                f"{class_label(wanted, names)} is the target of an image itself",
                where="--against",
                hint="name the --target, too",
            )
        found.append(Target(wanted, against))
    return found


# -- what is said of it --------------------------------------------------------------------------------------


def _rows(
    records: Sequence[CheckpointRecord],
    photos: Sequence[Photo],
    targets: Sequence[Target],
    logits: Sequence[Sequence[Tensor]],
    names: ClassNames | None,
    maps: dict[tuple[AttributionMethod, int, int], Map],
    options: AttributeOptions,
    layer: str,
) -> list[dict[str, Any]]:
    rows = []
    for (name, epoch, number), found in maps.items():
        target, outputs = targets[number], logits[epoch][number]
        values = torch.from_numpy(found.values)

        def cosine(
            other_epoch: int, other: int, values: Tensor = values, name: AttributionMethod = name
        ) -> float:
            return method.map_cosine(values, torch.from_numpy(maps[name, other_epoch, other].values))

        others = [cosine(epoch, other) for other in range(len(photos)) if other != number]
        x, y = method.peak(values)
        rows.append(
            {
                "epoch": records[epoch].epoch,
                "checkpoint": records[epoch].name,
                "layer": _layer(name, layer),
                "method": name,
                "image": photos[number].name,
                "target": class_label(target.wanted, names),
                "against": "" if target.against < 0 else class_label(target.against, names),
                "predicted": class_label(int(outputs.argmax()), names),
                "logit": float(target.of(outputs[None])[0]),
                "probability": float(outputs.double().softmax(0)[target.wanted]),
                "positive": float(values.clamp_min(0).sum()),
                "negative": float(values.clamp_max(0).sum()),
                "peak_x": x,
                "peak_y": y,
                "cos_previous": cosine(epoch - 1, number) if epoch else None,
                "cos_last": cosine(len(records) - 1, number),
                "cos_other": float(np.nanmean(others)) if np.isfinite(others).any() else None,
                "completeness_error": found.completeness_error,
            }
        )
    return rows
