"""`cmon picture`: the image that excites a unit most."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from concept_monitor_cli.cli.app import cmon_app, cmon_command
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.cli.tables import plain_table
from concept_monitor_cli.options import PictureOptions
from concept_monitor_cli.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable

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
        ("cmon picture --units 3 --diverse 4", "does it look for several things?"),
        ("cmon picture --target beagle,goldfish", "classes, by what they are called"),
        ("cmon picture --caricature dog.jpg", "what the layer keeps of an image"),
        ("cmon picture --objective layer", "what excites the layer as a whole"),
        ("cmon picture --top 4 --warm", "films over the epochs"),
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
    console.result(result)
    if console.json:
        return
    if options.dry_run:
        console.print(
            f"{counted(result.wanted, 'pictures')} of {result.size} pixels, {result.found:,} of them in the "
            f"cache; the others cost about {result.passes:,} forward passes ({result.steps} steps each)"
        )
        return
    console.print(_table(result))
    for path in (*result.plots, *result.films):
        console.print(str(path))


def _median(rows: list[dict[str, Any]], column: str, beside: str = "") -> str:
    """The median of a column, and in brackets of the one that says what chance makes of it."""
    from statistics import median

    values = [row[column] for row in rows if row[column] is not None]
    said = f"{median(values):.2f}" if values else "-"
    return f"{said} ({_median(rows, beside)})" if beside else said


def _above(rows: list[dict[str, Any]]) -> str:
    ratios = [row["ratio"] for row in rows if row["ratio"] is not None]
    return f"{sum(ratio > 1 for ratio in ratios)} of {len(ratios)}"


def _recognised(rows: list[dict[str, Any]]) -> str:
    return f"{sum(row['class_place'] == 1 for row in rows)} of {len(rows)}"


def _table(result: PictureResult) -> Table:
    """A line for each layer and epoch, with what says something of the pictures that were made."""
    from rich.text import Text

    columns: dict[str, Callable[[list[dict[str, Any]]], str]] = {"pictures": lambda rows: str(len(rows))}
    objective = result.pictures[0]["objective"]
    if objective == "caricature":
        title = "how like its image each caricature is to the layer (cosine), medians"
        columns["like it (others)"] = lambda rows: _median(rows, "layer_cos", "layer_cos_chance")
    else:
        excited, beside = ("layer", "the start") if objective == "layer" else ("units", "others'")
        title = f"how strongly pictures excite their {excited} (best photo: 1), medians"
        columns[f"strength ({beside})"] = lambda rows: _median(rows, "ratio", "ratio_chance")
        columns["warped"] = lambda rows: _median(rows, "robust_ratio")
        columns["above 1"] = _above
    if objective == "class":
        columns["recognised"] = _recognised
    if objective == "diverse":
        columns["unlike (seeds)"] = lambda rows: _median(rows, "diversity", "diversity_floor")
    columns["drift (floor)"] = lambda rows: _median(rows, "drift", "drift_floor")
    if result.films:
        columns["still"] = lambda rows: _median(rows, "drift_still")
    table = plain_table(title)
    for name in ("layer", "epoch", *columns):
        table.add_column(name, justify="left" if name == "layer" else "right")
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in result.pictures:
        groups.setdefault((row["layer"], row["epoch"]), []).append(row)
    for (layer, epoch), rows in groups.items():
        table.add_row(Text(layer), str(epoch), *[said(rows) for said in columns.values()])
    return table
