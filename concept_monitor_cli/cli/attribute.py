"""`cmon attribute`: where in an image does the network's answer come from?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from concept_monitor_cli.cli.app import cmon_app, cmon_command
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.cli.tables import plain_table
from concept_monitor_cli.options import AttributeOptions

if TYPE_CHECKING:
    from rich.table import Table

    from concept_monitor_cli.stories.attribute import AttributeResult

app = cmon_app()


@cmon_command(
    app,
    "attribute",
    examples=[
        ("cmon attribute", "six probing images, at all epochs of the run in ./cmon-out"),
        ("cmon attribute --image dog.jpg --target beagle --layer layer4", "any photo, one class"),
        ('cmon attribute --target beagle --against "tabby cat"', "what speaks for one rather than the other"),
        ("cmon attribute --method guided,gradient --check", "is it the network, or only the image?"),
    ],
)
def attribute(console: Console, options: AttributeOptions) -> None:
    """Show where in an image the network's answer comes from, at every epoch.

    The CAM family at a layer and gradients of pixels, raw and signed, for one class held over
    the epochs. --check puts the layers of another network in and says what is left of the
    maps: what stays was the image, not the network. Writes tables/attributions.csv,
    sanity.csv, faithfulness.csv and pointing.csv (--check) and a strip of epochs for each image into the run.
    """
    from concept_monitor_cli.stories import attribute as explaining

    result = explaining.attribute(options, console)
    console.result(result)
    if console.json:
        return
    console.print(_maps(result))
    if result.sanity:
        console.print(_checks(result))
        console.print(_curves(result))
    if result.pointing:
        console.print(_pointing(result))
    for plot in result.plots:
        console.print(str(plot))


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _new(title: str, names: tuple[str, ...]) -> Table:

    table = plain_table(title)
    for number, name in enumerate(names):
        table.add_column(name, justify="left" if number == 0 else "right")
    return table


def _mean(rows: list[dict[str, Any]], column: str) -> float | None:
    values = [row[column] for row in rows if row[column] is not None]
    return sum(values) / len(values) if values else None


def _maps(result: AttributeResult) -> Table:
    """A line for each method and epoch."""
    from rich.text import Text

    table = _new(
        "maps of the target, means over images",
        ("method", "epoch", "logit", "probability", "like the last epoch's", "like other images'"),
    )
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in result.attributions:
        groups.setdefault((row["method"], row["epoch"]), []).append(row)
    for (method, epoch), rows in groups.items():
        columns = ("logit", "probability", "cos_last", "cos_other")
        table.add_row(Text(method), str(epoch), *(_text(_mean(rows, column)) for column in columns))
    return table


def _checks(result: AttributeResult) -> Table:
    """What is left of the maps, a line for each method and change of the network."""
    from rich.text import Text

    table = _new(
        "what is left of the maps (rank correlation of absolute values)",
        ("method", "test", "up to", "left", "unrelated maps"),
    )
    for row in result.sanity:
        if row["measure"] == "absolute spearman":
            table.add_row(
                Text(row["method"]),
                row["test"],
                Text(row["randomised"]),
                _text(row["value"]),
                _text(row["floor"]),
            )
    return table


def _curves(result: AttributeResult) -> Table:
    """Deletion and insertion of each method, and of maps that know nothing of the network."""
    from rich.text import Text

    table = _new(
        "probability of the class while pixels are deleted and inserted in the order of the map",
        ("method", "curve", "value", "random order", "gain (95 %)"),
    )
    for row in result.faithfulness:
        if row["scale"] == "probability" and row["method"] != "random":
            gain = f"{_text(row['gain'])} ({_text(row['gain_low'])} to {_text(row['gain_high'])})"
            table.add_row(Text(row["method"]), row["curve"], _text(row["value"]), _text(row["chance"]), gain)
    return table


def _pointing(result: AttributeResult) -> Table:
    """How often maps point at the thing that they explain, a line for each method and epoch."""
    from rich.text import Text

    images = result.pointing[0]["images"]
    table = _new(
        f"peaks on the thing, of {images} images with a mask of their class",
        ("method", "epoch", "hits", "random", "centre", "other maps", "inside", "random"),
    )
    for row in result.pointing:
        columns = ("hits", "chance", "centre", "others", "inside", "inside_chance")
        table.add_row(Text(row["method"]), str(row["epoch"]), *(_text(row[name]) for name in columns))
    return table
