"""What the page of an explained image carries: numbers, words and small pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from concept_monitor_cli.functional.building_blocks import spans
from concept_monitor_cli.options import ExplainOptions
from concept_monitor_cli.probe import ProbeSet
from concept_monitor_cli.report.images import data_uri, thumbnail
from concept_monitor_cli.run.made import MadePicture
from concept_monitor_cli.stories.explain_grid import Grid, grid_json
from concept_monitor_cli.stories.explain_making import Parts
from concept_monitor_cli.stories.explain_tables import (
    TOP_UNITS,
    Explained,
    Moment,
    UnitsOfRun,
    strongest,
    units_at_places,
)

# Pixels of a side.
_THUMBNAIL, _PHOTO = 72, 448
# Units of a group and photos that stand beside it.
_GROUP_UNITS, _GROUP_PHOTOS = 4, 4


@dataclass
class Thumbnails:
    """Small pictures of a page, each once.

    Args:
        probe: the run's images.
        root: the run's folder, which the files of pictures are named from.
    """

    probe: ProbeSet
    root: Path
    _made: dict[int | str, str] = field(default_factory=dict)

    def of(self, which: int | str) -> str:
        """A probing image by its row, or a file, as a `data:` address."""
        if which not in self._made:
            if isinstance(which, int):
                image = Image.fromarray(np.asarray(self.probe.image(which)))
            else:
                with Image.open(self.root / which) as opened:
                    image = opened.convert("RGB")
            self._made[which] = data_uri(thumbnail(image, _THUMBNAIL))
        return self._made[which]


class _Pictures:
    """The pictures of one page by their numbers."""

    def __init__(self, thumbnails: Thumbnails) -> None:
        self._thumbnails = thumbnails
        self._places: dict[int | str, int] = {}

    def number(self, which: int | str) -> int:
        return self._places.setdefault(which, len(self._places))

    @property
    def addresses(self) -> list[str]:
        return [self._thumbnails.of(which) for which in self._places]


def contents(
    explained: Explained,
    units: Sequence[UnitsOfRun],
    pictures: Mapping[tuple[int, int], MadePicture],
    thumbnails: Thumbnails,
    options: ExplainOptions,
    caption: str,
    grids: Sequence[Grid] = (),
) -> dict[str, Any]:
    """The data of a page, plain values for JSON.

    Args:
        explained: the image.
        units: what the run says of the layer's units, at each epoch.
        pictures: (epoch, unit) -> what `cmon picture` made.
        thumbnails: small pictures.
        options: what was asked for.
        caption: what the run's names are worth.
        grids: pictures of its places and groups, at each epoch; empty where none were asked for.
    """
    on_page = _Pictures(thumbnails)
    height, width = explained.moments[0].split.A.shape[1:]
    concepts = explained.concepts
    groups = []
    for group, direction in enumerate(explained.H):
        top = [unit for unit in strongest(direction, _GROUP_UNITS) if float(direction[unit]) > 0]
        groups.append(
            {
                "units": [[unit, _number(float(direction[unit]))] for unit in top],
                "photos": [on_page.number(int(row)) for row in explained.photos[group][:_GROUP_PHOTOS]],
                "concept": None
                if concepts is None
                else [
                    concepts.names[group],
                    _number(concepts.correlations[group]),
                    _number(concepts.floor[group]),
                ],
            }
        )
    epochs = [
        _epoch(moment, known, groups, pictures, on_page, options)
        for moment, known in zip(explained.moments, units, strict=True)
    ]
    for each, grid in zip(epochs, grids, strict=False):
        each["grid"] = grid_json(grid, on_page.number)
    return {
        "image": explained.photo.name,
        "photo": _photo(explained.photo.pixels),
        "layer": explained.layer,
        "caption": caption,
        "map": [height, width],
        "rows": spans(height, options.places),
        "columns": spans(width, options.places),
        "classes": explained.targets,
        "by": options.by,
        "on": options.on,
        "path": options.path,
        "groups": groups,
        "epochs": epochs,
        "pictures": on_page.addresses,
    }


def _photo(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> str:
    """The image as the network sees it; small ones keep their pixels."""
    image = Image.fromarray(pixels)
    times = max(1, _PHOTO // max(image.size))
    return data_uri(image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST))


def _number(value: float) -> float | None:
    """Four digits; `None` for what is not finite."""
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _numbers(parts: Parts, number: int) -> list[float | None]:
    """Attribution and its floor; share, its floor, and that of networks with random weights."""
    columns = (parts.values, parts.floor, parts.shares, parts.share_floor, parts.share_untrained)
    return [_number(float(column[number])) for column in columns]


def _epoch(
    moment: Moment,
    units: UnitsOfRun,
    groups: Sequence[Mapping[str, Any]],
    pictures: Mapping[tuple[int, int], MadePicture],
    on_page: _Pictures,
    options: ExplainOptions,
) -> dict[str, Any]:
    at_places = units_at_places(moment, units, options)
    gains, left, gains_by_luck, left_by_luck = moment.explained
    named = {each.unit for place in at_places for each in place}
    named |= {unit for group in groups for unit, _ in group["units"]}
    classes = []
    for taken in moment.classes:
        own = taken.parts["unit"]
        top = strongest(own.values, TOP_UNITS)
        named |= set(top)
        classes.append(
            {
                "total": _number(taken.total),
                "floor": _number(taken.total_floor),
                "elsewhere": _number(taken.elsewhere),
                "error": _number(taken.completeness_error),
                "units": [[unit, *_numbers(own, unit)] for unit in top],
                "others": _number(float(own.values.sum() - own.values[top].sum())),
                "places": [
                    _numbers(taken.parts["place"], place) for place in range(len(taken.parts["place"].values))
                ],
                "groups": [
                    _numbers(taken.parts["group"], group) for group in range(len(taken.parts["group"].values))
                ],
            }
        )
    return {
        "epoch": moment.epoch,
        "predicted": moment.predicted,
        "logits": [_number(value) for value in moment.logits],
        "probabilities": [_number(value) for value in moment.probabilities],
        "classes": classes,
        "at": [
            [
                [
                    each.unit,
                    _number(each.activation),
                    _number(each.of_best),
                    _number(each.typical),
                    [_number(value) for value in each.attributions],
                ]
                for each in place
            ]
            for place in at_places
        ],
        "where": [[_number(value) for value in cell] for cell in moment.split.where().flatten(1).tolist()],
        "explained": [
            [_number(float(own)), _number(float(luck))]
            for own, luck in zip(gains, gains_by_luck, strict=True)
        ],
        "left": [_number(left), _number(left_by_luck)],
        "units": {
            str(unit): [
                units.concepts[unit],
                on_page.number(int(units.scale.best[unit][0])),
                on_page.number(pictures[moment.epoch, unit].file) if (moment.epoch, unit) in pictures else -1,
            ]
            for unit in sorted(named)
        },
    }
