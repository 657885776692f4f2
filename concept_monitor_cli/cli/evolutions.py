"""`cmon evolutions`: which change of which unit between two epochs changed a class?"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from concept_monitor_cli.cli.app import cmon_app, cmon_command
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.cli.tables import plain_table
from concept_monitor_cli.options import EvolutionsOptions
from concept_monitor_cli.wording import counted

if TYPE_CHECKING:
    from rich.table import Table

    from concept_monitor_cli.stories.evolution_tables import Held
    from concept_monitor_cli.stories.evolutions import EvolutionsResult

app = cmon_app()


@cmon_command(
    app,
    "evolutions",
    examples=[
        ("cmon evolutions", "all consecutive epochs of the run in ./cmon-out"),
        ("cmon evolutions --layer layer4 --epochs first,last", "one layer, from the first epoch to the last"),
        ("cmon evolutions --layer layer4 --exact", "every unit set back in a pass of its own, too"),
    ],
)
def evolutions(console: Console, options: EvolutionsOptions) -> None:
    """Ask which change of which unit between two epochs changed a class.

    For the images of each class: by how much its score would differ if one unit were as it was at the epoch
    before. Beside it stand the unit's change of concept, and what as large a change of another unit would
    have brought. As a check, quarters of the units are set back, beside random sets. Where only pooling and a
    linear head follow the layer, no network is run. Writes tables/evolutions.csv, tables/evolution-*.csv and
    plots into the run.
    """
    import pandas as pd

    from concept_monitor_cli.monitor.evolutions import evolution_sentences
    from concept_monitor_cli.stories import evolutions as reading

    result = reading.evolutions(options, console)
    console.result(result)
    if not console.json:
        from rich.text import Text

        console.print(_table(result))
        for sentence in evolution_sentences(pd.DataFrame(result.evolutions)):
            console.print(Text(sentence))
        for line in result.held:
            if words := _beside_others(line):
                console.print(Text(words))
        for plot in result.plots:
            console.print(str(plot))


def _table(result: EvolutionsResult) -> Table:
    """A line for each layer and pair of epochs; medians over classes."""
    from rich.text import Text

    table = plain_table(f"score of a class between two epochs, {counted(result.images, 'images')}")
    for name in ("layer", "epochs", "change", "by the layer", "fast agrees", "best quarter (random)"):
        table.add_column(name, justify="left" if name == "layer" else "right")
    for line in result.held:
        mine = [row for row in result.classes if _is(row, line)]
        best = [row for row in result.parts if _is(row, line) and row["part"] == 1]
        agrees = [row["fast_agrees"] for row in mine if row["fast_agrees"] is not None]
        controls = [row["control"] for row in best if row["control"] is not None]
        random = f"{median(controls):+.2f}" if controls else "-"
        table.add_row(
            Text(line.layer),
            f"{line.from_epoch} to {line.to_epoch}",
            f"{median(row['change'] for row in mine):+.2f}",
            f"{median(row['by_layer'] for row in mine):+.2f}",
            f"{median(agrees):.2f}" if agrees else "-",
            f"{median(row['set_back'] for row in best):+.2f} ({random})" if best else "-",
        )
    return table


def _is(row: dict[str, object], line: Held) -> bool:
    return (row["layer"], row["from_epoch"], row["to_epoch"]) == (line.layer, line.from_epoch, line.to_epoch)


def _beside_others(line: Held) -> str:
    """Whether units that changed their concept bring more than others; empty where that is not known."""
    if not line.confident or not line.others:
        return ""
    return (
        f"{line.layer}, {line.from_epoch} to {line.to_epoch}: {counted(line.confident, 'units')} with a "
        f"confident change of concept brought a class {line.of_confident:.2g} up or down, the other "
        f"{line.others} {line.of_others:.2g} (p {line.p:.1g})"
    )
