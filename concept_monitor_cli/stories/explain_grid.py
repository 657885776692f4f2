"""Activation grids: a picture of what a layer says at each place of an image, and of each group of units.

Olah et al. 2018, "The Building Blocks of Interpretability", Distill; pictures are made as those of the cells
of an atlas (`atlas_making`), of the activations at a place instead of the mean of a cell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from concept_monitor_cli.functional import atlas as method
from concept_monitor_cli.functional.pictures import generator
from concept_monitor_cli.options import AtlasOptions, ExplainOptions
from concept_monitor_cli.progress import Progress
from concept_monitor_cli.report.explanation_figures import GridGroup, activation_grid
from concept_monitor_cli.report.style import save
from concept_monitor_cli.run.folder import file_name
from concept_monitor_cli.stories.atlas_making import Atlases, Tile
from concept_monitor_cli.stories.atlas_tables import tile_pixels, write_tile
from concept_monitor_cli.stories.explain_making import Split
from concept_monitor_cli.stories.explain_tables import Explained, Moment
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.stories.picture_making import PASSES_PER_STEP
from concept_monitor_cli.stories.recorder import Network, Recorder

# Pictures of places whose units are dealt out anew: what a picture of anything reaches.
_FLOOR_TILES = 8
# A forward pass that carries a tangent costs about two.
_SAMPLE_PASSES = 2


@dataclass(frozen=True)
class Seen:
    """Pictures beside what they are of.

    Attributes:
        tiles: one for each place, or group.
        files: where they are written, below the run.
        own, other: `(n,)`, cosine of the picture's activations to its own and, in the mean, to the others'.
        nearest: `(n,)` bool, whether its own is the nearest.
    """

    tiles: list[Tile]
    files: list[str]
    own: Tensor
    other: Tensor
    nearest: Tensor


@dataclass(frozen=True)
class Grid:
    """The pictures of an image at one epoch.

    Attributes:
        places: row by row.
        groups: of the groups of units.
        own_floor, nearest_floor: what pictures of some places reach whose units are dealt out anew: median
            and share; `None` but for the last epoch.
    """

    places: Seen
    groups: Seen
    own_floor: float | None
    nearest_floor: float | None


@dataclass
class Grids:
    """Makes the grids of a run's networks, each picture once.

    Args:
        opened: the run.
        recorder: its networks.
        options: of the command.
        progress: told what happens.
    """

    opened: OpenRun
    recorder: Recorder
    options: ExplainOptions
    progress: Progress
    _whitenings: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Pictures are made as those of an atlas of the same seed."""
        given = AtlasOptions(out=self.options.out, seed=self.options.seed)
        self.making = Atlases(self.recorder, given, self.progress)

    def cost(self, networks: Sequence[Network], images: int) -> tuple[int, int]:
        """How many pictures are wanted at most, and about how many forward passes all of it costs."""
        size = networks[-1].looks[0].tapped.map_size
        assert size is not None
        rows, columns = (min(length, self.options.places) for length in size)
        each = rows * columns + self.options.groups
        pictures = images * (each * len(networks) + min(_FLOOR_TILES, rows * columns))
        unseen = sum(not self.making.sampled(network) for network in networks)
        samples = unseen * _SAMPLE_PASSES * len(networks[-1].architecture.pixels)
        return pictures, samples + pictures * self.making.options.steps * PASSES_PER_STEP

    def of(self, explained: Explained, networks: Sequence[Network], stem: str) -> list[Grid]:
        """The grids of an image, one for each epoch; the files are written.

        Args:
            explained: the image.
            networks: at the same epochs.
            stem: what the image is called in files.
        """
        found = []
        for network, moment in zip(networks, explained.moments, strict=True):
            last = moment is explained.moments[-1]
            found.append(self._grid(network, moment, explained.layer, stem, last))
        return found

    def _grid(self, network: Network, moment: Moment, layer: str, stem: str, last: bool) -> Grid:
        split = moment.split
        S = self._whitening(network)
        places, groups = at_places(split), split.H
        columns = split.grid[1]
        folder = f"pictures/epoch_{moment.epoch:04d}/{file_name(layer)}"
        names = [f"place_{n // columns:02d}_{n % columns:02d}" for n in range(len(places))]
        files = [f"{folder}/grid.{stem}.{name}.png" for name in names]
        of_groups = [f"{folder}/grid.{stem}.group_{group}.png" for group in range(len(groups))]
        own_floor = nearest_floor = None
        if last:
            numbers = generator(self.options.seed, "explain grid")
            other = places[:, torch.randperm(places.shape[1], generator=numbers)]
            few = torch.linspace(0, len(places) - 1, min(_FLOOR_TILES, len(places))).round().long()
            tiles = self._tiles(network, other[few], S, "pictures by luck")
            own, _, nearest = _cosines(tiles, other, few)
            own_floor, nearest_floor = float(own.median()), float(nearest.double().mean())
        return Grid(
            self._seen(network, places, S, files, "pictures of places"),
            self._seen(network, groups, S, of_groups, "pictures of groups"),
            own_floor,
            nearest_floor,
        )

    def _seen(self, network: Network, means: Tensor, S: Tensor, files: list[str], what: str) -> Seen:
        tiles = self._tiles(network, means, S, what)
        for file, tile in zip(files, tiles, strict=True):
            write_tile(self.opened.run, file, tile)
        return Seen(tiles, files, *_cosines(tiles, means, torch.arange(len(means))))

    def _tiles(self, network: Network, means: Tensor, S: Tensor, what: str) -> list[Tile]:
        wanted = means.float(), (means @ S).float()
        missing = len(self.making.missing(network, *wanted))
        if not missing:
            return self.making.tiles(network, *wanted)
        with self.progress.task(f"making {what}", missing * self.making.options.steps, "steps") as advance:
            return self.making.tiles(network, *wanted, advance)

    def _whitening(self, network: Network) -> Tensor:
        """`S` of what the layer says of the probing images."""
        place = network.checkpoint.digest
        if place not in self._whitenings:
            images = 0 if self.making.sampled(network) else len(network.architecture.pixels)
            with self.progress.task("taking samples", images, "images") as advance:
                samples = self.making.samples(network, advance)
            self._whitenings[place] = method.whitening(samples.activations)
        return self._whitenings[place]


def at_places(split: Split) -> Tensor:
    """What the layer says at each place, `(P, C)` float64, row by row; of larger maps the means of cells."""
    return split.cell_activations().flatten(1).T.contiguous()


def _cosines(tiles: Sequence[Tile], means: Tensor, which: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    seen = torch.from_numpy(np.stack([tile.activation for tile in tiles]))
    return method.own_and_other(seen, means, which)


def grid_rows(explained: Explained, moment: Moment, grid: Grid) -> list[dict[str, Any]]:
    """Rows of `explanation-grid.csv` of an image at one epoch."""
    columns = moment.split.grid[1]
    rows = []
    for part, seen in (("place", grid.places), ("group", grid.groups)):
        for number, file in enumerate(seen.files):
            place = part == "place"
            rows.append(
                {
                    "epoch": moment.epoch,
                    "checkpoint": moment.checkpoint,
                    "layer": explained.layer,
                    "image": explained.photo.name,
                    "part": part,
                    "row": number // columns if place else None,
                    "column": number % columns if place else None,
                    "group": None if place else number,
                    "own_cos": float(seen.own[number]),
                    "own_cos_floor": grid.own_floor,
                    "other_cos": float(seen.other[number]),
                    "nearest": bool(seen.nearest[number]),
                    "nearest_floor": grid.nearest_floor,
                    "file": file,
                }
            )
    return rows


def grid_json(grid: Grid, number_of: Callable[[str], int]) -> Mapping[str, Any]:
    """What the page of an image says of its grid at one epoch.

    Args:
        grid: of the image.
        number_of: gives a file its number among the page's pictures.
    """

    def seen(of: Seen) -> list[list[Any]]:
        columns = zip(of.files, of.own.tolist(), of.other.tolist(), strict=True)
        return [[number_of(file), round(own, 3), _number(other)] for file, own, other in columns]

    return {"places": seen(grid.places), "groups": seen(grid.groups), "floor": grid.own_floor}


def _number(value: float) -> float | None:
    return round(value, 3) if np.isfinite(value) else None


def draw_grids(
    opened: OpenRun, explained: Explained, grids: Sequence[Grid], stem: str, options: ExplainOptions
) -> list[Path]:
    """A figure for each epoch; none where no grids were made."""
    plots: list[Path] = []
    for moment, grid in zip(explained.moments, grids, strict=False):
        where = moment.split.where()
        groups = [
            GridGroup(
                f"group {number}" + (f": {explained.concepts.names[number]}" if explained.concepts else ""),
                tile_pixels(tile),
                where[number].numpy(),
            )
            for number, tile in enumerate(grid.groups.tiles)
        ]
        figure = activation_grid(
            explained.photo.pixels,
            [tile_pixels(tile) for tile in grid.places.tiles],
            moment.split.grid,
            groups,
            title=f"{explained.photo.name}: {explained.layer}, epoch {moment.epoch}",
        )
        place = opened.run.plots / f"grid.{file_name(explained.layer)}.{stem}.epoch_{moment.epoch:04d}"
        plots += save(figure, place, options.plot_formats, caption=opened.caption)
    return plots
