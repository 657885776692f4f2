"""The story of `search`: which units are nearest to a text, at every epoch?"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from concept_monitor_cli.catalogue import default_detectors
from concept_monitor_cli.errors import CmonError, InputError
from concept_monitor_cli.monitor.epochs import evenly
from concept_monitor_cli.monitor.history import History
from concept_monitor_cli.options import SearchOptions
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.report.style import save
from concept_monitor_cli.report.unit_figures import top_units_over_epochs
from concept_monitor_cli.run import TABLES
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.stories.stats import plain_rows
from concept_monitor_cli.stories.units import looks_of

if TYPE_CHECKING:
    import pandas as pd

    from concept_monitor_cli.space import UnitVectors

# A picture with more epochs cannot be read.
_MOST_EPOCHS = 4


@dataclass
class SearchResult:
    """What a `search` found.

    Attributes:
        out: the run folder.
        rows: the rows of `search.csv`, missing numbers as None.
        plots: the nearest units with their images.
    """

    out: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    plots: list[Path] = field(default_factory=list)


def search(options: SearchOptions, progress: Progress = SILENT) -> SearchResult:
    """Find the units that stand nearest to a text in the space of words, at every epoch.

    Args:
        options: the text, the run, how many units.
        progress: told what happens.

    Returns:
        What was found; `tables/search.csv` and the plots are in the run folder.

    Raises:
        InputError: there is no run, its units have no places among words, or its encoder cannot embed the
            text.
    """
    import pandas as pd

    text = " ".join(options.text.split())
    if not text:
        raise InputError("the text is empty", where="TEXT", hint='for example: cmon search "watermark"')
    opened = OpenRun(options.out, options, progress)
    direction = opened.embedded(text)
    parts, nearest = [], {}
    for history in opened.histories:
        placed = opened.placed(history)
        if placed is None:
            progress.notice(f"{history.layer} ({history.detector}) has no places in concept space")
            continue
        random = opened.untrained_placed(history)
        rows = near(history, placed, direction, options.top, random)
        parts.append(rows.assign(text=text))
        nearest[history.layer, history.detector] = rows
    if not parts:
        raise InputError(
            "no unit of this run has a place among words",
            where=opened.run.root,
            hint=f"dissect with --detector {default_detectors()[0]} and an --encoder",
        )
    table = pd.concat(parts, ignore_index=True)
    opened.run.write_csv("search", table)
    result = SearchResult(options.out, rows=plain_rows(TABLES["search"].frame(table)))
    for history in opened.histories:
        found = nearest.get((history.layer, history.detector))
        if found is None:
            continue
        try:
            result.plots += _draw(opened, history, found, options)
        except CmonError as error:
            progress.notice(f"the units of {history.layer} are not drawn: {error.what}")
    return result


def near(
    history: History,
    placed: UnitVectors,
    direction: NDArray[np.float64],
    top: int,
    random: UnitVectors | None = None,
) -> pd.DataFrame:
    """The units of a layer that are nearest to a direction, at every epoch: the rows of `search.csv`.

    Args:
        history: the layer.
        placed: its units in the space of words.
        direction: `(D,)`, of unit length.
        top: how many units of each epoch.
        random: the layer with random weights.

    Returns:
        a row for each of them: `cosine` to the text; `average`, the mean over all live units of that epoch;
        `chance`, the largest among the units with random weights, NaN where they are not known.
    """
    import pandas as pd

    chance = float("nan") if random is None else float(_cosines(random, direction).max())
    cosine = _cosines(placed, direction)
    sure = {int(unit): row for row, unit in enumerate(history.units)}
    columns = {int(epoch): column for column, epoch in enumerate(history.epochs)}
    units = placed.units.reset_index(drop=True)
    rows = []
    for epoch in sorted({int(each) for each in units["epoch"].unique()}):
        own = units[units["epoch"] == epoch]
        values = cosine[own.index.to_numpy()]
        numbers = own["unit"].to_numpy(dtype=np.int64)
        order = np.lexsort((numbers, -values))[:top]
        for place, row in enumerate(order, start=1):
            unit = int(numbers[row])
            rows.append(
                {
                    "epoch": epoch,
                    "checkpoint": str(own["checkpoint"].iloc[row]),
                    "layer": history.layer,
                    "detector": history.detector,
                    "place": place,
                    "unit": unit,
                    "cosine": float(values[row]),
                    "average": float(values.mean()),
                    "chance": chance,
                    "concept": str(own["concept"].iloc[row]),
                    "interpretable": bool(history.interpretable[sure[unit], columns[epoch]]),
                }
            )
    return pd.DataFrame(rows)


def _cosines(placed: UnitVectors, direction: NDArray[np.float64]) -> NDArray[np.float64]:
    vectors = placed.vectors.astype(np.float64)
    cosines: NDArray[np.float64] = vectors @ direction / np.linalg.norm(vectors, axis=1)
    return cosines


def _draw(opened: OpenRun, history: History, found: pd.DataFrame, options: SearchOptions) -> list[Path]:
    """The nearest units of some epochs, with the images that excite them most."""
    columns = evenly(range(len(history.epochs)), _MOST_EPOCHS)
    looks = {}
    for column in columns:
        epoch = int(history.epochs[column])
        units = found.loc[found["epoch"] == epoch, "unit"].tolist()
        looks[epoch] = looks_of(opened, history, column, units, options.top)
    if not any(looks.values()):
        return []
    nearest = f"Units nearest to “{textwrap.shorten(options.text, 60)}”"
    figure = top_units_over_epochs(looks, layer=history.layer, which=nearest)
    path = opened.run.plots / f"search.{history.layer}.{history.detector}"
    return save(figure, path, options.plot_formats, caption=opened.caption)
