"""`cmon factors`: images, pixels and units clustered by the same factors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from concept_monitor_cli.cli.app import cmon_app, cmon_command
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.cli.tables import plain_table
from concept_monitor_cli.options import FactorsOptions

if TYPE_CHECKING:
    from rich.table import Table

    from concept_monitor_cli.stories.factors import FactorsResult

app = cmon_app()


@cmon_command(
    app,
    "factors",
    examples=[
        ("cmon factors", "the run in ./cmon-out, one set of factors for all epochs"),
        ("cmon factors robust --mode free --warm", "each epoch its own factors, matched to the next epoch's"),
        ("cmon factors --superclasses coarse.csv", "which superclasses gather in a factor"),
        ("cmon factors --no-pixels --group-sparse", "activations only; factors that leave classes out"),
    ],
)
def factors(console: Console, options: FactorsOptions) -> None:
    """Cluster images, pixels and the units of all layers by the same factors.

    A coupled non-negative factorisation of what `dissect` recorded (negative layers are left out) and of the
    images' pixels. Says which classes, images and units gather in each factor, how strong
    it is in each layer at each epoch, and how separate factors are, beside chance. Writes
    tables/factors.csv, tables/factor-*.csv and plots into the run.
    """
    from concept_monitor_cli.stories import factors as reading

    result = reading.factors(options, console)
    console.result(result)
    if not console.json:
        for table in (_factors(result), _layers(result)):
            console.print(table)
        console.print(_closing(result))
        for plot in result.plots:
            console.print(str(plot))


def _table(title: str, names: dict[str, str]) -> Table:

    table = plain_table(title)
    for name, side in names.items():
        table.add_column(name, justify="right" if side == "right" else "left")
    return table


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _factors(result: FactorsResult) -> Table:
    """A line for each factor at the last epoch."""
    from rich.text import Text

    table = _table(
        f"{result.rank} factors of {result.images:,} images",
        {"factor": "right", "purity (chance)": "right", "found again": "right", "classes": "left"},
    )
    last = max(row["epoch"] for row in result.factors)
    classes: dict[int, list[str]] = {}
    ends = [row["epoch"] for row in result.classes_of_factors]
    for row in result.classes_of_factors:
        if row["kind"] == "class" and row["epoch"] == max(ends):
            classes.setdefault(row["factor"], []).append(row["name"])
    # A factor has its concept in the layer that was named in a basis, which need not be the first.
    concepts = {
        row["factor"]: row["concept"] for row in result.factors if row["epoch"] == last and row["concept"]
    }
    seen: set[int] = set()
    for row in result.factors:
        if row["epoch"] != last or row["factor"] in seen:
            continue
        seen.add(row["factor"])
        said = ", ".join(classes.get(row["factor"], []))
        if row["factor"] in concepts:
            said += f" [{concepts[row['factor']]}]"
        table.add_row(
            str(row["factor"]),
            f"{_text(row['purity'])} ({_text(row['chance_purity'])})",
            _text(row["stability"]),
            Text(said),
        )
    return table


def _layers(result: FactorsResult) -> Table:
    """A line for each layer and epoch: what is left, and how separate the factors are."""
    from rich.text import Text

    table = _table(
        "what factors leave of each layer, and how separate they are in it",
        {
            "layer": "left",
            "epoch": "right",
            "left (own fit, chance)": "right",
            "leading eigenvalue (chance)": "right",
            "effective rank": "right",
        },
    )
    separate = {(row["layer"], row["epoch"]): row for row in result.spectrum}
    rows = [row for row in result.residual if row["layer"] in result.layers]
    for row in sorted(rows, key=lambda row: result.layers.index(row["layer"])):
        own = separate.get((row["layer"], row["epoch"]), {})
        left = f"{_text(row['residual'])} ({_text(row['own_residual'])}, {_text(row['chance'])})"
        table.add_row(
            Text(row["layer"]),
            str(row["epoch"]),
            left,
            f"{_text(own.get('leading'))} ({_text(own.get('chance_leading'))})",
            _text(own.get("effective_rank")),
        )
    return table


def _closing(result: FactorsResult) -> str:
    said = f"impurity of the images {_text(result.impurity)} bits (chance {_text(result.chance_impurity)})"
    return said if result.accuracy is None else f"{said}; accuracy {result.accuracy:.3f}"
