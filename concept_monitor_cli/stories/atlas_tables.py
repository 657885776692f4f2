"""What an atlas says, beside chance: rows, files and figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from concept_monitor_cli.concepts.class_names import ClassNames
from concept_monitor_cli.functional import atlas as method
from concept_monitor_cli.functional.pictures import generator
from concept_monitor_cli.options import AtlasOptions
from concept_monitor_cli.progress import Progress
from concept_monitor_cli.report.atlas_figures import Region, atlas_map
from concept_monitor_cli.report.style import save
from concept_monitor_cli.run import TABLES, CheckpointRecord, RunFolder
from concept_monitor_cli.run.folder import file_name
from concept_monitor_cli.store import atomic_write
from concept_monitor_cli.stories.asked_images import class_label
from concept_monitor_cli.stories.atlas_making import Atlases, Samples, Tile
from concept_monitor_cli.stories.explain_tables import GroupConcepts, group_concepts
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.stories.recorder import Network, Recorder
from concept_monitor_cli.stories.stats import plain_rows

if TYPE_CHECKING:
    from concept_monitor_cli.stories.atlas import AtlasResult

Pixels = NDArray[np.uint8]

# Side of the patch of a photo around a sample, as a share of the image.
_PATCH = 0.4


@dataclass(frozen=True)
class Cells:
    """Where the samples of an epoch lie.

    Attributes:
        chosen: `(n,)` int64, which samples are in the atlas.
        places: `(n, 2)` in [0, 1]: x, y from below.
        side: rows and columns of cells.
        cells: `(n,)` int64, the cell of each, `row * side + column`.
        numbers, counts: `(P,)`, the cells that have enough samples, and how many.
        classes: none, one or two that the atlas is of.
    """

    chosen: Tensor
    places: Tensor
    side: int
    cells: Tensor
    numbers: Tensor
    counts: Tensor
    classes: tuple[int, ...]


@dataclass(frozen=True)
class At:
    """An atlas at one epoch.

    Attributes:
        record, network: which.
        samples: of all images.
        cells: where those of the atlas lie.
    """

    record: CheckpointRecord
    network: Network
    samples: Samples
    cells: Cells

    @cached_property
    def activations(self) -> Tensor:
        """Of the samples in the atlas, `(n, C)` float64."""
        return self.samples.activations[self.cells.chosen].double()

    @cached_property
    def attributions(self) -> Tensor | None:
        """Of the samples in the atlas, `(n, K)`."""
        said = self.samples.attributions
        return None if said is None else said[self.cells.chosen]

    @cached_property
    def means(self) -> Tensor:
        """`m` of each cell, `(P, C)` float64."""
        return method.cell_means(self.activations, self.cells.cells, self.cells.numbers)

    @cached_property
    def whitening(self) -> Tensor:
        """`S`, of all samples of the epoch."""
        return method.whitening(self.samples.activations)

    @property
    def wanted(self) -> tuple[Tensor, Tensor]:
        """`m` and `S m`, `(P, C)` float32: what the cells' pictures climb."""
        return self.means.float(), (self.means @ self.whitening).float()

    def dealt_out(self, seed: int) -> tuple[Tensor, Tensor]:
        """The same of means whose units are dealt out anew, in one order for all cells: like nothing seen."""
        order = torch.randperm(self.means.shape[1], generator=generator(seed, "atlas units"))
        other = self.means[:, order]
        return other.float(), (other @ self.whitening).float()


def show(
    opened: OpenRun,
    recorder: Recorder,
    making: Atlases,
    moments: Sequence[At],
    luck: Tensor,
    loose: float,
    names: ClassNames | None,
    options: AtlasOptions,
    result: AtlasResult,
    progress: Progress,
) -> None:
    """Write tables, tiles and maps.

    Args:
        opened: the run.
        recorder: its networks.
        making: samples and tiles.
        moments: the epochs in order.
        luck: the cells of the last epoch of which there are pictures with units dealt out anew.
        loose: how alike samples of a cell are in an atlas of the last epoch in which no units go together.
        names: of the classes.
        options: of the command.
        result: gets the rows and what was written.
        progress: told what happens.
    """
    layer = result.layer
    rows: list[dict[str, Any]] = []
    epochs: list[dict[str, Any]] = []
    places: list[dict[str, Any]] = []
    purity = _purity(moments, options)
    before: At | None = None
    for number, moment in enumerate(moments):
        pooled = recorder.pooled(moment.record, layer).double()
        concepts = group_concepts(recorder.context, pooled, moment.wanted[1].double(), options.seed)
        tiles = making.tiles(moment.network, *moment.wanted) if options.tiles else None
        said = _cell_rows(opened, moment, before, concepts, tiles, names, options, layer)
        rows += said
        places += _sample_rows(opened, moment, names, layer)
        summary = _summary(moment, before, tiles)
        summary |= {"layer": layer, "epoch_purity": None, "epoch_purity_floor": None}
        if moment is moments[-1]:
            summary["coherence_floor"] = loose
        if purity is not None:
            summary |= {"epoch_purity": float(purity[number]), "epoch_purity_floor": _share(moments, number)}
        if options.tiles and moment is moments[-1]:
            summary |= _luck(making, moment, luck, options)
        epochs.append(summary)
        if options.plot_formats:
            result.plots += _draw(opened, moment, said, tiles, options, layer)
        before = moment
    for name, found, plain in (
        ("atlas", rows, result.cells),
        ("atlas-samples", places, None),
        ("atlas-epochs", epochs, result.epochs),
    ):
        import pandas as pd

        table = TABLES[name].frame(pd.DataFrame(found))
        result.tables.append(opened.run.write_csv(name, table))
        if plain is not None:
            plain += plain_rows(table)
    if recorder.context.encoder is None:
        progress.notice("the run has no encoder: cells have no concepts")


# -- numbers -------------------------------------------------------------------------------------------------


def _purity(moments: Sequence[At], options: AtlasOptions) -> Tensor | None:
    """Whether epochs lie on islands of their own; of one layout of several epochs only."""
    if len(moments) < 2 or options.layout == "last":
        return None
    epochs = torch.cat([torch.full((len(each.cells.chosen),), e) for e, each in enumerate(moments)])
    return method.epoch_purity(torch.cat([each.cells.places for each in moments]), epochs)


def _share(moments: Sequence[At], number: int) -> float:
    """What purity is where epochs lie among each other: an epoch's share of all other samples."""
    total = sum(len(each.cells.chosen) for each in moments)
    return (len(moments[number].cells.chosen) - 1) / (total - 1)


def _drifts(moment: At, before: At | None) -> tuple[list[float | None], float | None]:
    """`1 - cos` of each cell's mean to the same cell's at the epoch before, and the mean to other cells."""
    if before is None:
        return [None] * len(moment.means), None
    place = {int(cell): number for number, cell in enumerate(before.cells.numbers)}
    unit = torch.nn.functional.normalize
    apart = 1 - unit(moment.means, dim=1) @ unit(before.means, dim=1).T
    own: list[float | None] = []
    others: list[float] = []
    for number, cell in enumerate(moment.cells.numbers.tolist()):
        here = place.get(cell)
        own.append(None if here is None else float(apart[number, here]))
        others += [float(value) for other, value in enumerate(apart[number]) if other != here]
    return own, float(np.mean(others)) if others else None


def _summary(moment: At, before: At | None, tiles: Sequence[Tile] | None) -> dict[str, Any]:
    """A row of `atlas-epochs.csv`."""
    cells = moment.cells
    standard = method.standardised(moment.samples.activations)[cells.chosen]
    drift, drift_floor = _drifts(moment, before)
    known = [value for value in drift if value is not None]
    row: dict[str, Any] = {
        "epoch": moment.record.epoch,
        "checkpoint": moment.record.name,
        "samples": len(cells.chosen),
        "cells": len(cells.numbers),
        "coherence": method.coherence(standard, cells.cells),
        "coherence_floor": None,
        "shared": None,
        "nearest": None,
        "nearest_floor": None,
        "own_cos": None,
        "own_cos_floor": None,
        "drift": float(np.median(known)) if known else None,
        "drift_floor": drift_floor,
    }
    if before is not None:
        mine, theirs = set(cells.numbers.tolist()), set(before.cells.numbers.tolist())
        row["shared"] = len(mine & theirs) / len(mine | theirs) if mine | theirs else None
    if tiles:
        own, _, nearest = _cosines(tiles, moment.means, torch.arange(len(moment.means)))
        row["own_cos"], row["nearest"] = float(own.median()), float(nearest.double().mean())
    return row


def _cosines(tiles: Sequence[Tile], means: Tensor, which: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    seen = torch.from_numpy(np.stack([tile.activation for tile in tiles]))
    return method.own_and_other(seen, means, which)


def _luck(making: Atlases, moment: At, luck: Tensor, options: AtlasOptions) -> dict[str, float]:
    """What pictures of means reach whose units are dealt out anew."""
    means, directions = moment.dealt_out(options.seed)
    tiles = making.tiles(moment.network, means[luck], directions[luck])
    own, _, nearest = _cosines(tiles, means, luck)
    return {"own_cos_floor": float(own.median()), "nearest_floor": float(nearest.double().mean())}


# -- rows ----------------------------------------------------------------------------------------------------


def _cell_rows(
    opened: OpenRun,
    moment: At,
    before: At | None,
    concepts: GroupConcepts | None,
    tiles: Sequence[Tile] | None,
    names: ClassNames | None,
    options: AtlasOptions,
    layer: str,
) -> list[dict[str, Any]]:
    """The rows of an epoch; its tiles are written."""
    cells = moment.cells
    drift, _ = _drifts(moment, before)
    near = _typical(moment)
    classes = _classes(moment, names, options)
    cosines = None if not tiles else _cosines(tiles, moment.means, torch.arange(len(moment.means)))
    rows = []
    for number, cell in enumerate(cells.numbers.tolist()):
        y, x = divmod(cell, cells.side)
        row: dict[str, Any] = {
            "epoch": moment.record.epoch,
            "checkpoint": moment.record.name,
            "layer": layer,
            **_of(moment, names),
            "layout": options.layout,
            "cell_x": x,
            "cell_y": y,
            "count": int(cells.counts[number]),
            "concept": "" if concepts is None else concepts.names[number],
            "correlation": None if concepts is None else concepts.correlations[number],
            "correlation_floor": None if concepts is None else concepts.floor[number],
            **classes[number],
            "own_cos": None,
            "other_cos": None,
            "nearest": None,
            "drift": drift[number],
            "photo": opened.probe.ids[near[number]],
            "file": "",
        }
        if tiles and cosines is not None:
            own, other, nearest = cosines
            row |= {
                "own_cos": float(own[number]),
                "other_cos": float(other[number]),
                "nearest": bool(nearest[number]),
                "file": _write(opened, moment, tiles[number], layer, x, y),
            }
        rows.append(row)
    return rows


def _of(moment: At, names: ClassNames | None) -> dict[str, str]:
    """The classes of an atlas."""
    said = [class_label(number, names) for number in moment.cells.classes]
    return {"target": said[0] if said else "", "against": said[1] if len(said) > 1 else ""}


def _classes(moment: At, names: ClassNames | None, options: AtlasOptions) -> list[dict[str, Any]]:
    """What each cell says most for, and how many of its samples do, beside samples dealt out anew."""
    cells, said = moment.cells, moment.attributions
    if said is None:
        nothing = {"class": "", "attribution": None, "class_share": None, "class_share_floor": None}
        return [dict(nothing) for _ in cells.numbers]
    mean = method.cell_means(said, cells.cells, cells.numbers)
    share = method.class_share(said, cells.cells, cells.numbers)
    numbers = generator(options.seed, "atlas classes")
    luck = [
        method.class_share(said, method.dealt_out(cells.cells, numbers), cells.numbers)
        for _ in range(method.DRAWS)
    ]
    floor = torch.stack(luck).mean(0)
    best = mean.max(1)
    return [
        {
            "class": class_label(int(best.indices[number]), names),
            "attribution": float(best.values[number]),
            "class_share": float(share[number]),
            "class_share_floor": float(floor[number]),
        }
        for number in range(len(cells.numbers))
    ]


def _typical(moment: At) -> list[int]:
    """The image whose sample is nearest to the mean of each cell, by its row."""
    found = []
    for number, cell in enumerate(moment.cells.numbers.tolist()):
        own = torch.nonzero(moment.cells.cells == cell)[:, 0]
        alike = torch.nn.functional.cosine_similarity(
            moment.activations[own], moment.means[number][None], dim=1
        )
        found.append(int(moment.cells.chosen[own[alike.argmax()]]))
    return found


def _sample_rows(opened: OpenRun, moment: At, names: ClassNames | None, layer: str) -> list[dict[str, Any]]:
    cells, said = moment.cells, moment.attributions
    best = None if said is None else said.max(1)
    rows = []
    for number, sample in enumerate(cells.chosen.tolist()):
        y, x = divmod(int(cells.cells[number]), cells.side)
        rows.append(
            {
                "epoch": moment.record.epoch,
                "checkpoint": moment.record.name,
                "layer": layer,
                "image": opened.probe.ids[sample],
                "row": int(moment.samples.rows[sample]),
                "column": int(moment.samples.columns[sample]),
                "x": float(cells.places[number, 0]),
                "y": float(cells.places[number, 1]),
                "cell_x": x,
                "cell_y": y,
                "class": "" if best is None else class_label(int(best.indices[number]), names),
                "attribution": None if best is None else float(best.values[number]),
            }
        )
    return rows


# -- files ---------------------------------------------------------------------------------------------------


def tile_pixels(tile: Tile) -> Pixels:
    """A tile as it is looked at and written, `(s, s, 3)`."""
    image = torch.from_numpy(tile.image)
    if len(image) == 1:
        image = image.expand(3, -1, -1)
    found: Pixels = (image.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    return found


def _stem(moment: At, layer: str) -> str:
    """What an atlas is called in files: its layer, and the numbers of its classes."""
    return ".".join([file_name(layer), *(f"class_{number}" for number in moment.cells.classes)])


def _write(opened: OpenRun, moment: At, tile: Tile, layer: str, x: int, y: int) -> str:
    folder = f"pictures/epoch_{moment.record.epoch:04d}/{_stem(moment, layer)}"
    file = f"{folder}/cell_{x:02d}_{y:02d}.png"
    write_tile(opened.run, file, tile)
    return file


def write_tile(run: RunFolder, file: str, tile: Tile) -> None:
    """Write a picture into a run.

    Args:
        run: whose.
        file: below it.
        tile: the picture.
    """
    from PIL import Image

    with atomic_write(run.root / file) as temporary:
        Image.fromarray(tile_pixels(tile)).save(temporary, format="PNG")


def patch(pixels: Pixels, row: int, column: int, height: int, width: int) -> Pixels:
    """The part of an image around a place of a map: a square of two fifths of its side, inside the image."""
    side = max(1, round(_PATCH * min(pixels.shape[:2])))
    top = round((row + 0.5) / height * pixels.shape[0] - side / 2)
    left = round((column + 0.5) / width * pixels.shape[1] - side / 2)
    top = min(max(top, 0), pixels.shape[0] - side)
    left = min(max(left, 0), pixels.shape[1] - side)
    return pixels[top : top + side, left : left + side]


def _draw(
    opened: OpenRun,
    moment: At,
    rows: Sequence[dict[str, Any]],
    tiles: Sequence[Tile] | None,
    options: AtlasOptions,
    layer: str,
) -> list[Any]:
    size = moment.network.looks[0].tapped.map_size
    assert size is not None
    regions = []
    for number, (row, image) in enumerate(zip(rows, _typical(moment), strict=True)):
        shown = moment.network.architecture.pixels.rows(image, image + 1)[0]
        place = int(moment.samples.rows[image]), int(moment.samples.columns[image])
        regions.append(
            Region(
                x=row["cell_x"],
                y=row["cell_y"],
                count=row["count"],
                concept=row["concept"],
                label=row["class"],
                photo=patch(shown, *place, *size),
                tile=None if tiles is None else tile_pixels(tiles[number]),
            )
        )
    of = _of_text(rows)
    figure = atlas_map(
        regions, moment.cells.side, title=f"{layer}, epoch {moment.record.epoch}{of}", x_axis=_axis(rows)
    )
    stem = opened.run.plots / f"atlas.{_stem(moment, layer)}.epoch_{moment.record.epoch:04d}"
    return save(figure, stem, options.plot_formats, caption=opened.caption)


def _of_text(rows: Sequence[dict[str, Any]]) -> str:
    if not rows or not rows[0]["target"]:
        return ""
    against = f" against {rows[0]['against']}" if rows[0]["against"] else ""
    return f": {rows[0]['target']}{against}"


def _axis(rows: Sequence[dict[str, Any]]) -> str:
    if not rows or not rows[0]["against"]:
        return ""
    return f"says more for {rows[0]['target']}  ←  →  says more for {rows[0]['against']}"
