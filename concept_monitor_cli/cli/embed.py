"""`cmon embed`: how the units of a run move through concept space."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from concept_monitor_cli.cli.app import cmon_app, cmon_command
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.cli.tables import plain_table
from concept_monitor_cli.options import EmbedOptions

if TYPE_CHECKING:
    from concept_monitor_cli.stories.embed import EmbedResult

app = cmon_app()

_PICTURE = "Picture"


@cmon_command(
    app,
    "embed",
    resumable=True,
    examples=[
        ("cmon embed --anchors windmill,field", "the run in ./cmon-out"),
        ("cmon embed --anchors words.txt --units 256,479 --layer layer4", "follow two units"),
        ("cmon embed -a sky,water --style paper --plot-format pdf", "for a paper"),
    ],
)
def embed(console: Console, options: EmbedOptions) -> None:
    """Place every unit of a run, at every epoch, among words: how do the units move?

    A unit stands at the weighted mean of its concepts in the encoder's text space; words of your choice, the
    anchors, stand in the same space. Writes tables/embedding.csv, tables/anchors.csv and plots into the run
    that `cmon dissect` made in --out.
    """
    from concept_monitor_cli.stories import embed as embedding

    result = embedding.embed(options, console)
    console.result(result)
    if not console.json:
        _show(console, result)


def _show(console: Console, result: EmbedResult) -> None:
    from rich.text import Text

    console.print(f"anchors: {', '.join(result.anchors)}")
    table = plain_table()
    heads = ("epoch", "spread", "random weights", "to the nearest anchor", "random weights")
    table.add_column("layer")
    for head in heads:
        table.add_column(head, justify="right")
    for row in result.spread:
        numbers = (
            row[name]
            for name in ("spread", "spread_floor_random", "anchor_distance", "anchor_distance_floor_random")
        )
        shown = ("-" if number is None or math.isnan(number) else f"{number:.3f}" for number in numbers)
        table.add_row(Text(row["layer"]), str(row["epoch"]), *shown)
    console.print(table)
    if result.tracked:
        table = plain_table()
        for name in ("layer", "unit", "epoch", "concept", "nearest anchor", "distance"):
            table.add_column(name, justify="right" if name in ("unit", "epoch", "distance") else "left")
        for row in result.tracked:
            table.add_row(
                Text(row["layer"]),
                str(row["unit"]),
                str(row["epoch"]),
                Text(str(row["concept"])),
                Text(str(row["nearest_anchor"])),
                f"{row['anchor_distance']:.3f}",
            )
        console.print(table)
    for path in result.plots:
        console.print(str(path))
