"""`cmon picture`: the image that excites a unit most."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from concept_monitor_cli.cli.app import cmon_app, cmon_command
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.cli.tables import plain_table
from concept_monitor_cli.options import PictureOptions
from concept_monitor_cli.wording import counted

if TYPE_CHECKING:
    from rich.table import Table

    from concept_monitor_cli.stories.picture import PictureResult

app = cmon_app()


@cmon_command(
    app,
    "picture",
    examples=[
        ("cmon picture --layer layer4 --units 3,7", "of the run in ./cmon-out, at all epochs"),
        ("cmon picture robust --top 16 --epochs last", "the units surest of their concept"),
        ("cmon picture --layer fc --units 5 --size 128", "a class: units of the classifier are its logits"),
        ("cmon picture --pair 3,7 --epochs last", "from one unit to another in five pictures"),
        ("cmon picture --dry-run", "how many pictures, and what they cost"),
    ],
)
def picture(console: Console, options: PictureOptions) -> None:
    """Make the image that excites a unit most, by gradient ascent.

    Feature visualisation at every epoch from one start, beside the unit's best photo, with how
    far above its photos the picture excites the unit and what other units' pictures do to it.
    A picture costs some hundred forward passes; a stopped run goes on where it was. Writes
    pictures/, tables/pictures.csv and contact sheets into the run.
    """
    from concept_monitor_cli.stories import picture as making

    result = making.picture(options, console)
    console.result(asdict(result))
    if console.json:
        return
    if options.dry_run:
        console.print(
            f"{counted(result.wanted, 'pictures')} of {result.size} pixels, {result.found:,} of them in the "
            f"cache; the others cost about {result.passes:,} forward passes ({result.steps} steps each)"
        )
        return
    console.print(_table(result))
    for plot in result.plots:
        console.print(str(plot))


def _median(rows: list[dict[str, Any]], column: str) -> str:
    from statistics import median

    values = [row[column] for row in rows if row[column] is not None]
    return f"{median(values):.2f}" if values else "-"


def _table(result: PictureResult) -> Table:
    """A line for each layer and epoch."""
    from rich.text import Text

    table = plain_table("how strongly pictures excite their units (best photo: 1), medians")
    for name in ("layer", "epoch", "pictures", "strength (others')", "warped", "above 1", "drift (floor)"):
        table.add_column(name, justify="left" if name == "layer" else "right")
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in result.pictures:
        groups.setdefault((row["layer"], row["epoch"]), []).append(row)
    for (layer, epoch), rows in groups.items():
        ratios = [row["ratio"] for row in rows if row["ratio"] is not None]
        table.add_row(
            Text(layer),
            str(epoch),
            str(len(rows)),
            f"{_median(rows, 'ratio')} ({_median(rows, 'ratio_chance')})",
            _median(rows, "robust_ratio"),
            f"{sum(ratio > 1 for ratio in ratios)} of {len(ratios)}",
            f"{_median(rows, 'drift')} ({_median(rows, 'drift_floor')})",
        )
    return table
