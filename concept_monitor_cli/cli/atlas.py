"""`cmon atlas`: a map of what a layer tells apart."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

from concept_monitor_cli.cli.app import cmon_app, cmon_command
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.cli.tables import plain_table
from concept_monitor_cli.options import AtlasOptions
from concept_monitor_cli.wording import counted

if TYPE_CHECKING:
    from rich.table import Table

    from concept_monitor_cli.stories.atlas import AtlasResult

app = cmon_app()


@cmon_command(
    app,
    "atlas",
    examples=[
        ("cmon atlas --layer layer4", "of the run in ./cmon-out, all epochs in one map"),
        ("cmon atlas --layout last --epochs 0,5,10", "the same patches in a cell at all epochs"),
        ("cmon atlas --target beagle --epochs last", "only what says something for one class"),
        ('cmon atlas --target beagle --against "tabby cat"', "from one class to another"),
        ("cmon atlas --no-tiles", "quickly: photos only"),
        ("cmon atlas --dry-run", "how many pictures, and what they cost"),
    ],
)
def atlas(console: Console, options: AtlasOptions) -> None:
    """Lay out what a layer tells apart as a map, with a picture for each place.

    One place of each probing image is a sample. Samples that the layer finds alike lie near
    each other, and each cell of the map gets a picture of its mean, a patch of a photo, its
    concept and the class it says most for; beside each number stands what luck gives. Writes
    tables/atlas.csv, atlas-samples.csv, atlas-epochs.csv, pictures/ and maps into the run.
    """
    from concept_monitor_cli.stories import atlas as making

    result = making.atlas(options, console)
    console.result(result)
    if console.json:
        return
    if options.dry_run:
        console.print(
            f"{counted(result.wanted, 'pictures')} of {result.size} pixels, {result.found:,} of them in the "
            f"cache; the others and the samples cost about {result.passes:,} forward passes"
        )
        return
    console.print(_table(result))
    for plot in result.plots:
        console.print(str(plot))


def _beside(value: float | None, floor: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" + ("" if floor is None else f" ({floor:.2f})")


def _median(rows: list[dict[str, Any]], column: str) -> float | None:
    values = [row[column] for row in rows if row[column] is not None]
    return median(values) if values else None


def _table(result: AtlasResult) -> Table:
    """A line for each epoch."""
    table = plain_table(f"what {result.layer} tells apart, medians over cells (by luck)")
    for name in ("epoch", "cells", "alike", "concept", "class", "own nearest", "purity", "drift"):
        table.add_column(name, justify="right")
    for row in result.epochs:
        own = [cell for cell in result.cells if cell["epoch"] == row["epoch"]]
        table.add_row(
            str(row["epoch"]),
            str(row["cells"]),
            _beside(row["coherence"], row["coherence_floor"]),
            _beside(_median(own, "correlation"), _median(own, "correlation_floor")),
            _beside(_median(own, "class_share"), _median(own, "class_share_floor")),
            _beside(row["nearest"], row["nearest_floor"]),
            _beside(row["epoch_purity"], row["epoch_purity_floor"]),
            _beside(row["drift"], row["drift_floor"]),
        )
    return table
