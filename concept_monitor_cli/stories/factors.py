"""The story of `factors`: images, pixels and units clustered by the same factors.

Everything is computed from the pooled activations that a `dissect` left in the cache and from the probing
images. Only for units at every position of their maps (`--images positions`) are the networks run again.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from concept_monitor_cli.concepts.class_names import image_classes, image_folders, spelling
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.factor_measures import Neighbourhoods, neighbourhoods
from concept_monitor_cli.models.geometry import Geometry
from concept_monitor_cli.options import CHANNELS as ORDINARY
from concept_monitor_cli.options import FactorsOptions, split_name
from concept_monitor_cli.probe import decode_probe
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.report import factor_figures
from concept_monitor_cli.report.factor_figures import FactorLook
from concept_monitor_cli.report.style import save
from concept_monitor_cli.run import TABLES
from concept_monitor_cli.stories.activations import RecordedLayer, recorded_layers
from concept_monitor_cli.stories.factor_fits import (
    Blocks,
    EpochFactors,
    Setting,
    choose_rank,
    over_epochs,
    reference_epoch,
)
from concept_monitor_cli.stories.factor_tables import ImageClasses, Predictions, Tables
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.stories.recorder import Recorder
from concept_monitor_cli.stories.stats import plain_rows

if TYPE_CHECKING:
    import pandas as pd

#: Side of the images whose pixels are factorised (the paper's were CIFAR's).
PIXEL_SIDE = 32
_GEOMETRY = Geometry(PIXEL_SIDE, mode="squash")
_PIXEL_ROWS = 512
# Images in a row of a figure.
_SHOWN = 8


@dataclass
class FactorsResult:
    """What a `factors` found.

    Attributes:
        out: the run.
        rank: how many factors.
        images: how many images.
        layers: the layers that were factorised.
        classes: how many classes the images have; 0 where that is not known.
        factors, residual, spectrum: rows of the tables as plain values.
        accuracy: share of the images that the network names right, by its recorded outputs; `None` where they
            are not recorded.
        impurity: mean over the images at the last epoch.
        chance_impurity: what random neighbours give.
        tables, plots: what was written.
    """

    out: Path
    rank: int = 0
    images: int = 0
    layers: tuple[str, ...] = ()
    classes: int = 0
    factors: list[dict[str, Any]] = field(default_factory=list)
    classes_of_factors: list[dict[str, Any]] = field(default_factory=list)
    residual: list[dict[str, Any]] = field(default_factory=list)
    spectrum: list[dict[str, Any]] = field(default_factory=list)
    accuracy: float | None = None
    impurity: float | None = None
    chance_impurity: float | None = None
    tables: list[Path] = field(default_factory=list)
    plots: list[Path] = field(default_factory=list)


def factors(options: FactorsOptions, progress: Progress = SILENT) -> FactorsResult:
    """Factorise the activations of a run's layers, at all epochs, and the pixels of its images.

    Args:
        options: which run, layers, epochs; how many factors, and how they are found.
        progress: told what happens.

    Raises:
        InputError: no run, no pooled activations, images that are gone, negative activations, too many
            factors, or a file of superclasses that does not fit.
    """
    check_options(options)
    # The classifier and bases of the run are of use, whichever layers are asked for.
    opened = OpenRun(options.out, replace(options, layers=()), progress)
    plain = [each for each in recorded_layers(opened, opened.name) if split_name(each.layer)[1] == ORDINARY]
    classes = _classes(opened, options.superclasses)
    chosen, outputs = _layers(plain, classes, options, progress)
    if options.images == "positions":
        chosen = _at_positions(opened, chosen, options)
    blocks = Blocks(chosen, _pixels(opened) if options.pixels else (), options, progress)
    result = FactorsResult(opened.run.root, images=len(opened.probe), classes=len(classes.names))
    result.layers = tuple(dict.fromkeys(each.layer for layers in chosen.values() for each in layers))
    setting = Setting(options, 0 if options.rank == "auto" else options.rank, _groups(classes, options))
    tables = Tables(opened, classes, options)
    if options.rank == "auto":
        reference = reference_epoch(blocks, options.reference)
        at_reference = [*blocks.channels(), *blocks.layers(reference)]
        setting.members, ranks = choose_rank(at_reference, setting, progress)
        tables.add("factor-rank", ranks)
    result.rank = setting.members
    last: EpochFactors | None = None
    near: Neighbourhoods | None = None
    seen: Tensor | None = None
    end = max(chosen)
    # Factors of the images that are the same at all epochs have one set of rows, under this epoch.
    once = None if options.mode == "free" else _epoch_of_images(blocks, options)
    for each in over_epochs(blocks, setting, progress):
        tables.at(each)
        if once in (None, each.epoch):
            around = neighbourhoods(each.F, neighbours=options.neighbours, seed=options.seed)
            predictions = _predictions(outputs, each.epoch, classes)
            tables.of_images(each, around, predictions)
            if each.epoch == (once or end):
                near, seen = around, None if predictions is None else predictions.correct
        if each.epoch == end:
            last = each
    assert last is not None
    assert near is not None
    frames = tables.frames()
    result.tables = [opened.run.write_csv(name, rows) for name, rows in frames.items()]
    for name in set(TABLES) - set(frames):
        if name.startswith("factor-"):
            (opened.run.tables / f"{name}.csv").unlink(missing_ok=True)  # of an earlier setting
    result.factors = plain_rows(TABLES["factors"].frame(frames["factors"]))
    result.residual = plain_rows(TABLES["factor-residual"].frame(frames["factor-residual"]))
    result.spectrum = plain_rows(TABLES["factor-spectrum"].frame(frames["factor-spectrum"]))
    if "factor-classes" in frames:
        result.classes_of_factors = plain_rows(TABLES["factor-classes"].frame(frames["factor-classes"]))
    result.impurity = _number(float(near.impurity.nanmean()))
    result.chance_impurity = _number(near.chance)
    result.accuracy = None if seen is None else float(seen.double().mean())
    if options.plot_formats:
        _draw(opened, last, near, seen, classes, frames, options, result)
    return result


def check_options(options: FactorsOptions) -> None:
    """Refuse options that would do nothing beside others.

    Raises:
        InputError: says which.
    """
    sparse = options.group_sparse
    refused = {
        "--warm": (
            options.warm and (options.mode != "free" or options.solver == "published"),
            "begins at the factors of the next epoch, which only --mode free with --solver hals can",
        ),
        "--reference": (
            options.reference is not None and options.mode != "anchored",
            "is the epoch of --mode anchored",
        ),
        "--group-sparse": (
            sparse and (options.pixels or options.solver == "published"),
            "is for activations only, by --solver hals: add --no-pixels",
        ),
        "--lambda-pixels, --lambda-units": (
            sparse and bool(options.lambda_pixels or options.lambda_units),
            "has no part in --group-sparse, where columns have unit length",
        ),
    }
    for where, (wrong, why) in refused.items():
        if wrong:
            raise InputError(f"the option {why}", where=where)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value


def _epoch_of_images(blocks: Blocks, options: FactorsOptions) -> int:
    """The epoch under which rows about images stand where their factors are the same at all epochs."""
    return reference_epoch(blocks, options.reference if options.mode == "anchored" else None)


# -- inputs --------------------------------------------------------------------------------------------------


def _classes(opened: OpenRun, file: Path | None) -> ImageClasses:
    """The classes of the images by their folders, and their superclasses by the user's file."""
    ids = opened.probe.ids
    names = image_folders(ids)
    if len(names) < 2:
        if file is not None:
            raise InputError(
                "the images lie in no folders of classes, so they have no superclasses either",
                where=f"--superclasses {file}",
                hint="leave it out, or dissect images that lie in a folder for each class",
            )
        opened.progress.notice(
            "the images lie in no folders of classes: purity and classes of factors are left out"
        )
        return ImageClasses((), torch.full((len(ids),), -1), {})
    above = {} if file is None else read_superclasses(file, names)
    return ImageClasses(tuple(names), torch.from_numpy(image_classes(ids, names)), above)


def read_superclasses(file: Path, classes: list[str]) -> dict[str, str]:
    """The superclass of every class.

    Args:
        file: a CSV file with the columns `class` and `superclass`; case, `_` and `-` do not matter.
        classes: those that must be there; further ones in the file are passed over.

    Raises:
        InputError: no such file or columns, a class that it lacks, or one with two superclasses.
    """
    where = f"--superclasses {file}"
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines)
            columns = [name.strip().casefold() for name in reader.fieldnames or []]
            rows = [dict(zip(columns, row.values(), strict=False)) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"the superclasses cannot be read: {error}", where=where) from error
    if not {"class", "superclass"} <= set(columns):
        raise InputError(
            f"the file has the columns {', '.join(columns) or 'none'}",
            where=where,
            hint="its first line must be class,superclass",
        )
    found: dict[str, str] = {}
    for row in rows:
        name, above = spelling(str(row["class"] or "")), str(row["superclass"] or "").strip()
        if name and found.setdefault(name, above) != above:
            raise InputError(f"{row['class']} has two superclasses, {found[name]} and {above}", where=where)
    missing = [name for name in classes if not found.get(spelling(name))]
    if missing:
        raise InputError(
            f"no superclass for {missing[0]}" + (f" and {len(missing) - 1} more" if missing[1:] else ""),
            where=where,
            hint="add a line for every class of the images",
        )
    return {name: found[spelling(name)] for name in classes}


def _layers(
    plain: list[RecordedLayer], classes: ImageClasses, options: FactorsOptions, progress: Progress
) -> tuple[dict[int, list[RecordedLayer]], dict[int, RecordedLayer]]:
    """The layers to factorise, and what the classifier put out, by epoch.

    Layers with negative activations are left out where the user did not name them. An epoch that lacks a
    layer is left out.
    """
    names = list(dict.fromkeys(each.layer for each in plain))
    classifier = _classifier(plain, names, classes, options, progress)
    outputs = {each.epoch: each for each in plain if each.layer == classifier}
    missing = [name for name in options.layers if name not in names]
    if missing:
        raise InputError(
            f"the run has recorded no activations of {missing[0]}",
            where=options.out,
            hint=f"it has: {', '.join(names)}",
        )
    if options.layers:
        names = [name for name in names if name in options.layers]
    else:
        names = [name for name in names if name != classifier]
    if not options.layers and not options.rectify:
        negative = {each.layer for each in plain if each.layer in names and bool((each.read() < 0).any())}
        names = [name for name in names if name not in negative]
        if negative and names:
            progress.notice(
                f"left out for activations below 0: {', '.join(sorted(negative))} (--rectify makes them 0)"
            )
        if not names:
            raise InputError(
                "all layers of the run have activations below 0, which non-negative factors cannot make",
                where=options.out,
                hint="dissect layers behind their ReLU, or count them as 0 with --rectify",
            )
    by_epoch: dict[int, list[RecordedLayer]] = {}
    for each in plain:
        if each.layer in names:
            by_epoch.setdefault(each.epoch, []).append(each)
    whole = {epoch: layers for epoch, layers in sorted(by_epoch.items()) if len(layers) == len(names)}
    partial = sorted(set(by_epoch) - set(whole))
    if partial:
        progress.notice(f"epochs {', '.join(map(str, partial))} lack a layer and are left out")
    if not whole:
        raise InputError("no epoch of the run has all of these layers", where=options.out)
    return whole, outputs


def _at_positions(
    opened: OpenRun, chosen: Mapping[int, list[RecordedLayer]], options: FactorsOptions
) -> dict[int, list[RecordedLayer]]:
    """The same layers with every position of their maps; recorded when they are first read.

    Raises:
        InputError: a layer has no maps.
    """
    names = list(dict.fromkeys(each.layer for layers in chosen.values() for each in layers))
    recorder = Recorder(opened, options, layers=names)
    checkpoints = {(record.name, record.epoch): record for record in opened.run.checkpoints()}

    def maps(each: RecordedLayer) -> Tensor:
        return recorder.maps(checkpoints[each.checkpoint, each.epoch], each.layer)

    def at(each: RecordedLayer) -> RecordedLayer:
        positions = maps(each)[0, 0].numel()
        return replace(each, read=lambda: maps(each).flatten(1), positions=positions)

    return {epoch: [at(each) for each in layers] for epoch, layers in chosen.items()}


def _classifier(
    plain: list[RecordedLayer],
    names: list[str],
    classes: ImageClasses,
    options: FactorsOptions,
    progress: Progress,
) -> str | None:
    """The recorded layer whose units are the images' classes, in the order of their folders."""
    if options.classifier is not None and options.classifier not in names:
        raise InputError(
            f"the run has recorded no layer {options.classifier}",
            where="--classifier",
            hint=f"it has: {', '.join(names)}",
        )
    units = {each.layer: each for each in plain}
    wide = {name: units[name].read().shape[1] for name in names} if classes.names else {}
    fitting = [name for name in names if wide.get(name) == len(classes.names)]
    if options.classifier is not None:
        if options.classifier not in fitting:
            raise InputError(
                f"{options.classifier} has not as many units as the images have classes, "
                f"{len(classes.names)}",
                where="--classifier",
            )
        return options.classifier
    if len(fitting) != 1:
        if classes.names:
            progress.notice(
                "no accuracy beside impurity: the run has recorded no layer with a unit for each class "
                "(dissect the classifier, too, or name it with --classifier)"
            )
        return None
    progress.notice(
        f"{fitting[0]} has a unit for each of the {len(classes.names)} classes: taken as the network's "
        "answer, classes in the order of their names"
    )
    return fitting[0]


def _predictions(
    outputs: Mapping[int, RecordedLayer], epoch: int, classes: ImageClasses
) -> Predictions | None:
    if epoch not in outputs:
        return None
    named = outputs[epoch].read().argmax(1)
    return Predictions(named, named == classes.of_images)


def _groups(classes: ImageClasses, options: FactorsOptions) -> Tensor | None:
    if not options.group_sparse:
        return None
    if not classes.names:
        raise InputError(
            "groups of images are their classes, and they lie in no folders of classes",
            where="--group-sparse",
        )
    return classes.of_images


def _pixels(opened: OpenRun) -> list[Tensor]:
    """The colour channels of the images at 32 pixels a side, `(N, 1024)` float32 each in [0, 1]."""
    probe, (pixels,) = decode_probe(
        opened.store,
        opened.probe,
        [_GEOMETRY],
        workers=opened.options.workers,
        progress=opened.progress,
    )
    if len(probe) != len(opened.probe):
        raise InputError("some images of the run cannot be read any more", where=opened.run.root)
    channels = [torch.empty(len(pixels), PIXEL_SIDE**2) for _ in range(3)]
    for start in range(0, len(pixels), _PIXEL_ROWS):
        stop = min(len(pixels), start + _PIXEL_ROWS)
        rows = torch.from_numpy(pixels.rows(start, stop))
        for place, values in enumerate(channels):
            values[start:stop] = rows[..., place].flatten(1).float() / 255
    pixels.close()
    return channels


# -- pictures ------------------------------------------------------------------------------------------------


def _draw(
    opened: OpenRun,
    last: EpochFactors,
    near: Neighbourhoods,
    correct: Tensor | None,
    classes: ImageClasses,
    frames: Mapping[str, pd.DataFrame],
    options: FactorsOptions,
    result: FactorsResult,
) -> None:
    def image(number: int) -> NDArray[np.uint8]:
        return np.asarray(opened.probe.image(number))

    plots, formats = opened.run.plots, options.plot_formats
    looks = _looks(last, near, frames, image)
    figures = {
        "factors": factor_figures.cards(looks, last.epoch),
        "factor_similarity": factor_figures.similarity_matrices(
            {part.name: part.W for part in last.layers}, last.epoch
        ),
        "factor_spectrum": factor_figures.spectra(frames["factor-spectrum"]),
        "factor_strength": factor_figures.strengths(frames["factors"]),
        "factor_neighbours": factor_figures.neighbour_bars(looks),
        "factor_purity": factor_figures.purest_and_most_impure(near.impurity, near.chance, image, _SHOWN),
    }
    if last.channels:
        figures["factor_pictures"] = factor_figures.pictures(looks)
    if classes.names:
        figures["factor_classes"] = factor_figures.class_table(
            frames["factors"], _weights(last, classes), list(classes.names)
        )
    if correct is not None:
        figures["factor_accuracy"] = factor_figures.accuracy_by_impurity(near.impurity, correct)
    for stem, figure in figures.items():
        result.plots += save(figure, plots / stem, formats)


def _weights(last: EpochFactors, classes: ImageClasses) -> NDArray[np.float64]:
    from concept_monitor_cli.functional.factor_measures import class_weights

    weights: NDArray[np.float64] = class_weights(last.F, classes.of_images, len(classes.names)).numpy()
    return weights


def _looks(
    last: EpochFactors,
    near: Neighbourhoods,
    frames: Mapping[str, pd.DataFrame],
    image: Callable[[int], NDArray[np.uint8]],
) -> list[FactorLook]:
    """What the figures show of every factor."""
    rows = frames["factors"]
    # A factor's purity is the same in all layers; its concept is that of the deepest layer that has one.
    mine = rows[rows["epoch"] == last.epoch]
    pure = mine.drop_duplicates("factor").set_index("factor")
    concepts = mine[mine["concept"] != ""].set_index("factor")["concept"].to_dict()  # the last one stays
    named = frames.get("factor-classes")
    found = []
    for k in range(last.F.shape[1]):
        weights = last.F[:, k]
        top = torch.argsort(weights, descending=True, stable=True)[:_SHOWN].tolist()
        top = [number for number in top if float(weights[number]) > 0]
        words: dict[str, list[str]] = {"class": [], "superclass": []}
        if named is not None:
            own = named[(named["factor"] == k) & (named["epoch"] == named["epoch"].max())]
            for kind in words:
                words[kind] = own[own["kind"] == kind].sort_values("place")["name"].tolist()
        found.append(
            FactorLook(
                factor=k,
                images=[image(number) for number in top],
                classes=tuple(words["class"]),
                superclasses=tuple(words["superclass"]),
                concept=str(concepts.get(k, "")),
                purity=pure["purity"].tolist()[k],
                chance_purity=pure["chance_purity"].tolist()[k],
                picture=_picture(last, k),
                neighbours=near.counts[top[0]].numpy() if top else None,
                chance_neighbours=near.expected(top[0]).numpy() if top else None,
            )
        )
    return found


def _picture(last: EpochFactors, k: int) -> NDArray[np.float64] | None:
    """The factor in the pixels, `(32, 32, 3)`, at least 0."""
    if not last.channels:
        return None
    columns = torch.stack([part.W[:, k] * part.norm for part in last.channels], dim=1)
    picture: NDArray[np.float64] = columns.reshape(PIXEL_SIDE, PIXEL_SIDE, 3).numpy()
    return picture
