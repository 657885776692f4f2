"""`cmon search`: any text, and the units nearest to it."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from concept_monitor_cli.cli.app import cmon_app, cmon_command
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.cli.tables import plain_table
from concept_monitor_cli.options import SearchOptions

if TYPE_CHECKING:
    from rich.table import Table

app = cmon_app()


@cmon_command(
    app,
    "search",
    examples=[
        ('cmon search "watermark"', "of the run in ./cmon-out"),
        ('cmon search "a dog in the snow" standard --layer layer4 --epochs first,last', "of another run"),
    ],
)
def search(console: Console, options: SearchOptions) -> None:
    """Find the units that are nearest to a text, at every epoch.

    The text need not be a concept of the run: the run's encoder places it among the words, where the units
    stand. Beside the nearest ones stand the average unit of the layer and the nearest unit of the same layer
    with random weights: what is no nearer than that has nothing to do with the text. Writes
    tables/search.csv, and plots of the nearest units with their images.
    """
    from concept_monitor_cli.stories import search as reading

    result = reading.search(options, console)
    console.result(result)
    if not console.json:
        for _, rows in groupby(result.rows, key=lambda row: (row["layer"], row["detector"])):
            console.print(_table(options.text, list(rows)))
        for plot in result.plots:
            console.print(str(plot))


def _table(text: str, rows: list[dict[str, Any]]) -> Table:
    from rich.text import Text

    first = rows[0]
    table = plain_table(f"{first['layer']} ({first['detector']}): units nearest to {text!r}")
    for name in ("epoch", "unit", "cosine", "average", "random weights", "concept"):
        table.add_column(name, justify="left" if name == "concept" else "right")
    for row in rows:
        table.add_row(
            str(row["epoch"]) if row["place"] == 1 else "",
            str(row["unit"]),
            f"{row['cosine']:.3f}",
            f"{row['average']:.3f}" if row["place"] == 1 else "",
            ("-" if row["chance"] is None else f"{row['chance']:.3f}") if row["place"] == 1 else "",
            Text(row["concept"] if row["interpretable"] else f"{row['concept']} (by chance)"),
        )
    return table
