"""The story of `explain`: what is where in an image, which units see it, and what it says for which class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from concept_monitor_cli.concepts.class_names import ClassNames, image_classes
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.options import ExplainOptions
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.report.explanation import explanation_page
from concept_monitor_cli.run import TABLES, CheckpointRecord
from concept_monitor_cli.run.folder import file_name
from concept_monitor_cli.run.made import made_pictures
from concept_monitor_cli.store import atomic_write
from concept_monitor_cli.stories.asked_images import class_label, class_number, photos_of, recorder_of
from concept_monitor_cli.stories.attribute_making import Attributions, Photo, Target
from concept_monitor_cli.stories.classes import output_names
from concept_monitor_cli.stories.explain_grid import Grids, draw_grids, grid_rows
from concept_monitor_cli.stories.explain_making import UNTRAINED_DRAWS, Layers, Split, untrained_floors
from concept_monitor_cli.stories.explain_pages import Thumbnails, contents
from concept_monitor_cli.stories.explain_tables import (
    Explained,
    Moment,
    UnitsOfRun,
    class_rows,
    group_concepts,
    place_rows,
)
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.stories.picture_tables import concepts_at, history_of
from concept_monitor_cli.stories.picture_wishes import PHOTOS, Scale
from concept_monitor_cli.stories.recorder import Network, Recorder
from concept_monitor_cli.stories.stats import plain_rows
from concept_monitor_cli.wording import counted

# Passes that a gradient costs.
_BACKWARD = 2
# Sums that are further from the change of the logit, as a share of it, are said to be.
_OFF = 0.1


@dataclass
class ExplainResult:
    """What an `explain` found.

    Attributes:
        out: the run.
        layer: where outputs were taken apart.
        targets: image -> its target.
        explanations: rows of `explanations.csv` as plain values.
        wanted: images times epochs, and times networks with random weights.
        found: how many of these the cache has.
        passes: how many forward passes the others cost at most.
        pictures: with `--grid`, how many pictures of places and groups are wanted at most.
        picture_passes: how many forward passes these cost at most, as long as the cache has none.
        pages: a page for each image.
        tables, plots: what else was written.
    """

    out: Path
    layer: str = ""
    targets: dict[str, str] = field(default_factory=dict)
    explanations: list[dict[str, Any]] = field(default_factory=list)
    wanted: int = 0
    found: int = 0
    passes: int = 0
    pictures: int = 0
    picture_passes: int = 0
    pages: list[Path] = field(default_factory=list)
    tables: list[Path] = field(default_factory=list)
    plots: list[Path] = field(default_factory=list)


@dataclass(frozen=True)
class _Asked:
    """An image, and the classes it is explained for."""

    photo: Photo
    targets: tuple[Target, ...]


def explain(options: ExplainOptions, progress: Progress = SILENT) -> ExplainResult:
    """Take a run's answers to some images apart at a layer, at its epochs.

    Args:
        options: which run, images, layer, epochs and classes; how.
        progress: told what happens.

    Returns:
        What was found; with `--dry-run` what it would cost.

    Raises:
        InputError: no run; no such layer, class, image or epoch; a layer whose places do not reach the
            output.
    """
    opened = OpenRun(options.out, replace(options, layers=()), progress)
    wanted = set(opened.table["epoch"].tolist())
    records = [record for record in opened.run.checkpoints() if record.epoch in wanted]
    recorder = recorder_of(opened, options, records[-1], needs_maps="cmon explain", look_only=options.dry_run)
    networks = [recorder.network(record) for record in records]
    look = networks[-1].looks[0]
    if look.key is not None:
        raise InputError(
            f"{look.layer.name} is a basis, and an image is taken apart into the units of a layer",
            where=f"--layer {look.layer.name}",
            hint=f"name the layer: --layer {look.tapped.name}",
        )
    making = Attributions(recorder.store, recorder.device, options.seed)
    layers = Layers(making, options.path)
    photos = photos_of(opened, networks[-1], options.images, options.count, where="IMAGE")
    photos = list({photo.digest: photo for photo in photos}.values())
    result = ExplainResult(options.out, layer=look.layer.name)
    grids = Grids(opened, recorder, options, progress) if options.grid else None
    if grids is not None:
        result.pictures, result.picture_passes = grids.cost(networks, len(photos))
    if options.dry_run:
        _foresee(layers, networks, photos, opened, options, result, progress)
        return result
    said = [making.logits(networks[-1], photo) for photo in photos]
    names = _names(opened, networks[-1], len(said[0]), options, progress)
    asked = [
        _Asked(photo, _targets(photo, logits, names, options))
        for photo, logits in zip(photos, said, strict=True)
    ]
    _count(layers, networks, asked, options, result)
    if result.passes:
        progress.notice(
            f"{counted(len(photos), 'images')} at {counted(len(records), 'epochs')}: at most "
            f"{result.passes:,} forward passes"
        )
        _make(layers, networks, asked, result.wanted - result.found, progress)
    if grids is not None:
        progress.notice(
            f"at most {counted(result.pictures, 'pictures')} of places and groups: about "
            f"{result.picture_passes:,} forward passes where the cache has none"
        )
    _show(opened, recorder, layers, grids, networks, records, asked, names, options, result, progress)
    return result


# -- what is wanted ------------------------------------------------------------------------------------------


def _names(
    opened: OpenRun, network: Network, count: int, options: ExplainOptions, progress: Progress
) -> ClassNames | None:
    names = output_names(opened, count, network.checkpoint.meta, options.class_names, progress)
    if names is None:
        progress.notice("what the classes are called is not known: they are numbers (--class-names)")
    return names


def _targets(
    photo: Photo, logits: Tensor, names: ClassNames | None, options: ExplainOptions
) -> tuple[Target, ...]:
    """The class asked for, else the image's label, else the last answer; then the largest logits."""
    if options.target is not None:
        first = class_number(options.target, len(logits), names, "--target")
    else:
        label = -1 if names is None else int(image_classes([photo.name], names.names)[0])
        first = label if label >= 0 else int(logits.argmax())
    order = torch.sort(logits, descending=True, stable=True).indices.tolist()
    others = [number for number in order if number != first]
    return tuple(Target(number) for number in (first, *others[: options.classes - 1]))


def _cost(classes: int, path: int) -> int:
    """Forward passes of an image at one epoch, at most: a gradient goes back to the layer only."""
    return 2 + max(path, 1) * (1 + _BACKWARD * classes)


def _count(
    layers: Layers,
    networks: Sequence[Network],
    asked: Sequence[_Asked],
    options: ExplainOptions,
    result: ExplainResult,
) -> None:
    """How much is wanted, in the cache, and to be made."""
    for each in asked:
        found = sum(layers.known(network, each.photo, each.targets) for network in networks)
        found += layers.untrained_known(networks[-1], each.photo, each.targets)
        wanted = len(networks) + UNTRAINED_DRAWS
        result.wanted += wanted
        result.found += found
        result.passes += (wanted - found) * _cost(len(each.targets), options.path)


def _foresee(
    layers: Layers,
    networks: Sequence[Network],
    photos: Sequence[Photo],
    opened: OpenRun,
    options: ExplainOptions,
    result: ExplainResult,
    progress: Progress,
) -> None:
    """Count without running anything: which classes an image is asked for is only known of stored answers."""
    for photo in photos:
        logits = layers.making.stored_logits(networks[-1], photo)
        if logits is None:
            wanted = len(networks) + UNTRAINED_DRAWS
            result.wanted += wanted
            result.passes += wanted * _cost(options.classes, options.path)
        else:
            names = _names(opened, networks[-1], len(logits), options, progress)
            asked = _Asked(photo, _targets(photo, logits, names, options))
            _count(layers, networks, [asked], options, result)


def _make(
    layers: Layers, networks: Sequence[Network], asked: Sequence[_Asked], count: int, progress: Progress
) -> None:
    """Make what the store lacks, network by network: a stopped run goes on where it was."""
    with progress.task("explaining", count, "images") as advance:
        for network in networks:
            for each in asked:
                if not layers.known(network, each.photo, each.targets):
                    layers.seen(network, each.photo, each.targets)
                    advance(1)
        silent = False
        for draw in range(UNTRAINED_DRAWS):
            for each in asked:
                silent |= layers.untrained(networks[-1], each.photo, each.targets, draw) is None
                advance(1)
    if silent:
        progress.notice(
            "with random weights the layer does not reach the output: what such a network says is left out"
        )


# -- what is shown -------------------------------------------------------------------------------------------


def _show(
    opened: OpenRun,
    recorder: Recorder,
    layers: Layers,
    grids: Grids | None,
    networks: Sequence[Network],
    records: Sequence[CheckpointRecord],
    asked: Sequence[_Asked],
    names: ClassNames | None,
    options: ExplainOptions,
    result: ExplainResult,
    progress: Progress,
) -> None:
    """Take apart what was seen; write tables and pages."""
    import pandas as pd

    units = [_units(opened, recorder, record, result.layer) for record in records]
    last = recorder.pooled(records[-1], result.layer).double()
    pictures = made_pictures(opened.run).get(result.layer, {})
    thumbnails = Thumbnails(opened.probe, opened.run.root)
    rows: list[dict[str, Any]] = []
    places: list[dict[str, Any]] = []
    pictured: list[dict[str, Any]] = []
    for each in asked:
        explained = _explained(layers, networks, records, each, names, options, last, recorder)
        result.targets[each.photo.name] = explained.targets[0]
        for moment, known in zip(explained.moments, units, strict=True):
            rows += class_rows(explained, moment, known)
            places += place_rows(explained, moment, known, options)
        made = [] if grids is None else grids.of(explained, networks, _stem(each.photo))
        for moment, grid in zip(explained.moments, made, strict=False):
            pictured += grid_rows(explained, moment, grid)
        if options.plot_formats:
            result.plots += draw_grids(opened, explained, made, _stem(each.photo), options)
        page = explanation_page(
            contents(explained, units, pictures, thumbnails, options, opened.caption, made)
        )
        path = opened.run.root / "explanations" / f"{_stem(each.photo)}.html"
        with atomic_write(path) as temporary:
            temporary.write_text(page, encoding="utf-8")
        result.pages.append(path)
        progress.detail(f"wrote {path}")
    _say_how_far_off(rows, result.targets, options, progress)
    tables = [("explanations", rows), ("explanation-places", places)]
    for name, found in [*tables, *([] if grids is None else [("explanation-grid", pictured)])]:
        table = TABLES[name].frame(pd.DataFrame(found))
        result.tables.append(opened.run.write_csv(name, table))
        if name == "explanations":
            result.explanations = plain_rows(table)


def _say_how_far_off(
    rows: Sequence[dict[str, Any]], targets: dict[str, str], options: ExplainOptions, progress: Progress
) -> None:
    """Say where parts add up to something else than what the layer does to the target's logit."""
    errors = [
        row["completeness_error"]
        for row in rows
        if row["part"] == "total" and row["target"] == targets[row["image"]]
    ]
    far = [error for error in errors if error > _OFF]
    if far:
        finer = 32 if options.path < 32 else 4 * options.path
        progress.notice(
            "parts sum to something else than what the layer does to the target's logit, off by up to "
            f"{max(far):.0%} ({len(far)} of {counted(len(errors), 'sums')}): --path {finer} comes nearer"
        )


def _stem(photo: Photo) -> str:
    """What an image's page is called: images of one name in other folders keep pages of their own."""
    return f"{file_name(Path(photo.name).stem)[:80]}-{photo.digest[:8]}"


def _units(opened: OpenRun, recorder: Recorder, record: CheckpointRecord, layer: str) -> UnitsOfRun:
    """What the run says of the layer's units at one epoch."""
    scale = Scale.of(recorder.pooled(record, layer), PHOTOS)
    concepts, _ = concepts_at(history_of(opened, layer), record.epoch, range(len(scale.mean)))
    return UnitsOfRun(scale, concepts)


def _explained(
    layers: Layers,
    networks: Sequence[Network],
    records: Sequence[CheckpointRecord],
    asked: _Asked,
    names: ClassNames | None,
    options: ExplainOptions,
    pooled: Tensor,
    recorder: Recorder,
) -> Explained:
    """One image at all epochs, in groups of the last one."""
    photo, targets = asked.photo, asked.targets
    floors = untrained_floors(
        layers, networks[-1], photo, targets, options.on, options.groups, options.places
    )
    splits: list[Split] = []
    H: Tensor | None = None
    for network in reversed(networks):
        seen = layers.seen(network, photo, targets)
        splits.insert(0, Split(seen, H, options.on, options.groups, options.places))
        H = splits[0].H
    moments = []
    for network, record, split in zip(networks, records, splits, strict=True):
        logits = layers.making.logits(network, photo)
        moments.append(
            Moment(
                epoch=record.epoch,
                checkpoint=record.name,
                predicted=class_label(int(logits.argmax()), names),
                logits=[float(logits[target.wanted]) for target in targets],
                probabilities=[float(logits.double().softmax(0)[target.wanted]) for target in targets],
                split=split,
                classes=[
                    split.taken(number, None if floors is None else floors[number], options.seed)
                    for number in range(len(targets))
                ],
                explained=split.explained(options.seed),
            )
        )
    assert H is not None
    return Explained(
        photo,
        networks[-1].looks[0].layer.name,
        [class_label(target.wanted, names) for target in targets],
        moments,
        H,
        torch.sort(pooled @ H.T, dim=0, descending=True, stable=True).indices[:PHOTOS].T,
        group_concepts(recorder.context, pooled, H, options.seed),
    )
