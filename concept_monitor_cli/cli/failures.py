"""`cmon failures`: which units tell failed from succeeded cases of a class?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from concept_monitor_cli.cli.app import cmon_app, cmon_command
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.cli.tables import plain_table
from concept_monitor_cli.options import FailuresOptions

if TYPE_CHECKING:
    from rich.table import Table

    from concept_monitor_cli.stories.failures import FailuresResult

app = cmon_app()

_CONCEPT = 24


@cmon_command(
    app,
    "failures",
    examples=[
        ("cmon failures", "wrong against right predictions, at all epochs of the run in ./cmon-out"),
        ("cmon failures missed.csv --out RUN", "a table: image,failed"),
        ("cmon failures --layer layer4 --epochs last --top 30", "one layer, one epoch, more units"),
    ],
)
def failures(console: Console, options: FailuresOptions) -> None:
    """Ask which units tell failed from succeeded cases of the same class.

    Failed are the images that the network gets wrong, or those of a table. For each unit: how often it is
    more active on a failed image than on a succeeded one of the same class (AUC, .5 is chance), so that a
    unit of a difficult class does not count; and the same of what it adds to the score of the image's class.
    Beside each stands what failures give that are permuted within their class. Writes tables/failures.csv and
    plots into the run.
    """
    from concept_monitor_cli.stories import failures as reading

    result = reading.failures(options, console)
    console.result(result)
    if not console.json:
        console.print(_layers(result))
        console.print(_units(result, options.top))
        for plot in result.plots:
            console.print(str(plot))


def _layers(result: FailuresResult) -> Table:
    """A line for each layer and epoch."""
    from rich.text import Text

    table = plain_table(f"failed against succeeded images of the same class ({result.source})")
    for name in ("layer", "epoch", "failed", "succeeded", "classes", "units that separate"):
        table.add_column(name, justify="left" if name == "layer" else "right")
    for line in sorted(result.layers, key=lambda line: (line.layer, line.epoch)):
        table.add_row(
            Text(line.layer),
            str(line.epoch),
            f"{line.failed:,}",
            f"{line.succeeded:,}",
            str(line.classes),
            f"{line.significant} of {line.units}",
        )
    return table


def _units(result: FailuresResult, count: int) -> Table:
    """The strongest units of each layer at the last epoch."""
    from rich.text import Text

    last = max(line.epoch for line in result.layers)
    table = plain_table(f"units that separate most at epoch {last} (AUC; .50 is chance)")
    for name in ("layer", "unit", "concept", "AUC", "chance", "p", "by score"):
        table.add_column(name, justify="left" if name in ("layer", "concept") else "right")
    for layer in dict.fromkeys(line.layer for line in result.layers):
        rows = [
            row
            for row in result.failures
            if (row["epoch"], row["layer"], row["class"]) == (last, layer, "all") and row["auc"] is not None
        ]
        for row in sorted(rows, key=lambda row: -abs(row["auc"] - 0.5))[:count]:
            concept = row["concept"] or "-"
            concept = concept if row["interpretable"] or not row["concept"] else f"({concept})"
            table.add_row(
                Text(layer),
                str(row["unit"]),
                Text(concept[:_CONCEPT]),
                f"{row['auc']:.2f}" + ("*" if row["significant"] else " "),
                f"{row['low']:.2f}-{row['high']:.2f}",
                f"{row['p_value']:.2g}",
                "-" if row["auc_attribution"] is None else f"{row['auc_attribution']:.2f}",
            )
    table.caption = "*: separates, 5 % false discoveries in the layer; (concept): no more than chance"
    table.caption_justify = "left"
    return table
