"""`cmon circuits`: what is each unit fed by, and each concept built of?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from concept_monitor_cli.cli.app import cmon_app, cmon_command
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.cli.tables import plain_table
from concept_monitor_cli.options import CircuitsOptions
from concept_monitor_cli.wording import counted

if TYPE_CHECKING:
    from rich.table import Table

    from concept_monitor_cli.stories.circuits import CircuitsResult

app = cmon_app()

_SHOWN = 8


@cmon_command(
    app,
    "circuits",
    examples=[
        ("cmon circuits", "between all layers of the run in ./cmon-out, at its last epoch"),
        ("cmon circuits --layer layer3,layer4 --units 256,479", "the circuits of two units"),
        ("cmon circuits --draws 200 --epochs first,last", "with less sampling error, at two epochs"),
    ],
)
def circuits(console: Console, options: CircuitsOptions) -> None:
    """Silence each unit of a layer, and see which units of the next layer miss it.

    An edge is what a unit adds to the mean of another; its p-value comes from a network with random weights.
    Beside it stands what the weights let expect, through blocks, norms and ReLUs. Which concepts build or
    inhibit which is tested by permuted labels. Writes tables/circuit.csv, circuit-layers.csv,
    circuit-concepts.csv, circuit-unions.csv and plots into the run.
    """
    from concept_monitor_cli.stories import circuits as reading

    result = reading.circuits(options, console)
    console.result(result)
    if not console.json:
        from rich.text import Text

        console.print(_table(result))
        for line in _sentences(result):
            console.print(Text(line))
        for plot in result.plots:
            console.print(str(plot))


def _table(result: CircuitsResult) -> Table:
    """A line for each pair of layers at the last epoch."""
    from rich.text import Text

    table = plain_table(f"edges between layers ({counted(result.images, 'images')})")
    for name in ("from", "to", "edges beyond chance", "as weights say", "concepts", "unions"):
        table.add_column(name, justify="left" if name in ("from", "to") else "right")
    last = max(row["epoch"] for row in result.layers)
    for row in result.layers:
        if row["epoch"] != last:
            continue
        by_chance = row["confident_by_chance"]
        table.add_row(
            Text(row["from_layer"]),
            Text(row["to_layer"]),
            f"{row['confident']:,} ({'-' if by_chance is None else f'{by_chance:,.0f}'})",
            "-" if row["weight_correlation"] is None else f"r = {row['weight_correlation']:.2f}",
            f"{row['concepts']} ({row['concepts_by_chance']})",
            f"{row['unions']} ({row['unions_by_chance']})",
        )
    return table


def _sentences(result: CircuitsResult) -> list[str]:
    """What is built of what, the surest first; unions; why there are no weights."""
    last = max(row["epoch"] for row in result.layers)

    def order(row: dict[str, Any]) -> tuple[float, float]:
        return row["p_value"], -(row["share"] - row["chance"])

    own = sorted((row for row in result.concepts if row["epoch"] == last), key=order)
    lines = [
        f"{row['from_concept']} ({row['from_layer']}) {row['kind']} {row['to_concept']} "
        f"({row['to_layer']}): {row['share']:.0%} of its edges, by chance {row['chance']:.0%} "
        f"(p {row['p_value']:.2g})"
        for row in own[:_SHOWN]
    ]
    united = {
        (row["to_layer"], row["to_unit"]): row
        for row in sorted(result.unions, key=lambda row: -row["p_value"])
        if row["confident"] and row["epoch"] == last
    }
    lines += [
        f"unit {row['to_unit']} of {row['to_layer']} unites {row['first_concept']} and "
        f"{row['second_concept']}: {row['exactly_one']:.0%} of its top images show exactly one, of all "
        f"images {row['chance']:.0%}"
        for row in sorted(united.values(), key=lambda row: row["p_value"])[:_SHOWN]
    ]
    lines += [
        f"{row['from_layer']} to {row['to_layer']}: the weights do not tell, {row['no_weight']}"
        for row in result.layers
        if row["no_weight"] and row["epoch"] == last
    ]
    return lines
