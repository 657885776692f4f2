"""`cmon ablate`: what is lost when the units of a concept are cut out?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from concept_monitor_cli.cli.app import cmon_app, cmon_command
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.cli.tables import plain_table
from concept_monitor_cli.options import AblateOptions
from concept_monitor_cli.wording import counted

if TYPE_CHECKING:
    from rich.table import Table

    from concept_monitor_cli.stories.ablate import AblateResult

app = cmon_app()

_SETS = {"units": "--units", "directions": "--units"}


@cmon_command(
    app,
    "ablate",
    examples=[
        ("cmon ablate", "the most frequent concepts of the run in ./cmon-out"),
        ("cmon ablate --words snow,sand --layer layer4", "the units of two concepts"),
        ("cmon ablate --layer layer4 --units 256,479 --curve", "two units, and the most interpretable ones"),
        ("cmon ablate --words snow --spurious snow-or-not/", "photos with and without it, before and after"),
        ("cmon ablate --words snow --layer layer4 --write edited.pth", "a checkpoint without its units"),
        ("cmon ablate --basis vectors --words snow", "the direction of a concept, after `cmon vectors`"),
    ],
)
def ablate(console: Console, options: AblateOptions) -> None:
    """Cut units or directions out of a layer, and see what becomes of each class.

    All interpretable units of a concept at a time, set to 0 and to their mean: accuracy, score and margin
    of all images and of each class, beside random sets of units with like mean activations. With --basis
    directions, beside random directions that hold as much. Where only pooling and a linear head follow the
    layer, no network is run. Writes tables/ablation.csv, with --spurious
    tables/spurious.csv, and plots into the run.
    """
    from concept_monitor_cli.stories import ablate as reading

    result = reading.ablate(options, console)
    console.result(result)
    if not console.json:
        from rich.text import Text

        console.print(_table(result))
        for line in _gaps(result):
            console.print(Text(line))
        if result.written is not None:
            console.print(str(result.written))
        for plot in result.plots:
            console.print(str(plot))


def _gaps(result: AblateResult) -> list[str]:
    """What becomes of the gap between photos with and without something, at the last epoch."""
    last = max((row["epoch"] for row in result.spurious), default=0)
    return [
        f"{row['layer']}, {row['concept'] or row['set']} ({_size(row)}, {row['kind']}): gap "
        f"{row['gap_before']:+.2f} to {row['gap']:+.2f}"
        + ("" if row["gap_control"] is None else f" (random {row['gap_control']:+.2f})")
        + f", accuracy without it {row['accuracy_without_before']:.2f} to {row['accuracy_without']:.2f}"
        for row in result.spurious
        if row["class"] == "all" and row["epoch"] == last
    ]


def _size(row: dict[str, Any]) -> str:
    if row["set"] == "direction":
        return "direction"
    return counted(row["units"], "directions" if row["set"] == "directions" else "units")


def _table(result: AblateResult) -> Table:
    """A line for each set at the last epoch, units set to 0."""
    from rich.text import Text

    along = any(row["set"].startswith("direction") for row in result.ablation)
    what = "directions" if along else "units"
    table = plain_table(f"{what} set to 0, {counted(result.images, 'images')}")
    for name in ("layer", "cut out", "units", "margin (random)", "p", "loses most"):
        table.add_column(name, justify="left" if name in ("layer", "cut out", "loses most") else "right")
    last = max(row["epoch"] for row in result.ablation)
    rows = [row for row in result.ablation if row["epoch"] == last and row["kind"] == "zero"]
    for row in rows:
        if row["class"] != "all":
            continue
        same = [
            other
            for other in rows
            if other["class"] != "all"
            and all(other[key] == row[key] for key in ("layer", "set", "concept", "units"))
        ]
        worst = min(same, key=lambda other: other["margin"] - other["margin_before"])
        control = "-" if row["control"] is None else f"{row['control'] - row['margin_before']:+.2f}"
        table.add_row(
            Text(row["layer"]),
            Text(row["concept"] or _SETS.get(row["set"], f"{row['set']} interpretable")),
            "-" if row["set"] == "direction" else str(row["units"]),
            f"{row['margin'] - row['margin_before']:+.2f} ({control})",
            "-" if row["p_value"] is None else f"{row['p_value']:.2f}",
            Text(
                f"{worst['class']} {worst['margin'] - worst['margin_before']:+.2f}, "
                f"accuracy {worst['accuracy_before']:.2f} to {worst['accuracy']:.2f}"
            ),
        )
    return table
