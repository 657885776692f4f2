"""`cmon retention`: which concepts survive pruning?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from concept_monitor_cli.cli.app import cmon_app, cmon_command
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.cli.tables import plain_table
from concept_monitor_cli.options import RetentionOptions

if TYPE_CHECKING:
    from concept_monitor_cli.stories.retention import RetentionResult

app = cmon_app()

# Points of the curve that are printed; the table has the others.
_PRINTED = (10, 25, 50, 100)


@cmon_command(
    app,
    "retention",
    examples=[
        ("cmon retention", "the run in ./cmon-out, whose checkpoints are stages of pruning"),
        ("cmon retention rewind0 rewind5 rewind16", "three ways of pruning in one picture"),
        ("cmon retention stage0 stage1 stage2 --by-run", "a run per stage, each at its last epoch"),
    ],
)
def retention(console: Console, options: RetentionOptions) -> None:
    """Ask which concepts survive pruning, and how many units stay interpretable.

    Of the x % most interpretable units at the first stage, how many have the same concept at every later
    stage? The sparsity of a stage is the share of its weights that are zero; its accuracy is what the
    checkpoint states (`accuracy`, `test_acc`, `val_acc`, `acc1` ...). Writes tables/pruning.csv,
    tables/retention.csv and plots into the first RUN, or into --out.
    """
    from concept_monitor_cli.stories import retention as reading

    result = reading.retention(options, console)
    console.result(result)
    if not console.json:
        _show(console, result)


def _show(console: Console, result: RetentionResult) -> None:
    from rich.text import Text

    table = plain_table()
    numbers = ("stage", "zero", "accuracy", "interpretable")
    for name in ("pruning", "layer", "stage", "checkpoint", *numbers[1:]):
        table.add_column(name, justify="right" if name in numbers else "left")
    for row in result.stages:
        zero = "unknown" if row["sparsity"] is None else f"{row['sparsity']:.1%}"
        table.add_row(
            Text(row["series"]),
            Text(row["layer"]),
            str(row["stage"]),
            Text(row["checkpoint"]),
            zero,
            "-" if row["accuracy"] is None else f"{row['accuracy']:.1%}",
            f"{row['interpretable']} of {row['units']}",
        )
    console.print(table)
    table = plain_table("units that keep their concept through every stage (by chance)")
    for name in ("pruning", "layer", *(f"best {percent} %" for percent in _PRINTED)):
        table.add_column(name, justify="left" if name in ("pruning", "layer") else "right")
    points = {(row["series"], row["layer"], row["detector"], row["percent"]): row for row in result.curves}
    for series, layer, detector in dict.fromkeys(key[:3] for key in points):
        shares = []
        for percent in _PRINTED:
            point = points[series, layer, detector, percent]
            share, chance = point["retention"], point["by_chance"]
            shares.append("-" if share is None else f"{share:.0%} ({chance:.0%})")
        table.add_row(Text(series), Text(f"{layer} ({detector})"), *shares)
    console.print(table)
    for plot in result.plots:
        console.print(str(plot))
