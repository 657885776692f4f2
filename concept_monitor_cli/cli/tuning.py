"""`cmon tuning`: how units depend on the angle of simple shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from concept_monitor_cli.cli.app import cmon_app, cmon_command
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.cli.tables import plain_table
from concept_monitor_cli.options import TuningOptions

if TYPE_CHECKING:
    from rich.table import Table

    from concept_monitor_cli.stories.tuning import TuningResult

app = cmon_app()


@cmon_command(
    app,
    "tuning",
    examples=[
        ("cmon tuning --layer layer1", "all units of the run in ./cmon-out, at all epochs"),
        ("cmon tuning --layer layer2 --units 3,7 --epochs last", "the curves of two units"),
    ],
)
def tuning(console: Console, options: TuningOptions) -> None:
    """Ask how units depend on the angle of gratings, arcs and corners.

    Shows rendered shapes of sixteen angles, in several sizes and looks, and says how much of
    a unit's response the angle alone explains, beside chance and a network with random
    weights, and how far preferred angles turn between epochs. Writes tables/tuning.csv,
    tuning-curves.csv, tuning-layers.csv and curves of the most tuned units into the run.
    """
    from concept_monitor_cli.stories import tuning as asking

    result = asking.tuning(options, console)
    console.result(result)
    if console.json:
        return
    console.print(_table(result))
    for plot in result.plots:
        console.print(str(plot))


def _text(value: float | None, other: float | None = None, digits: int = 2) -> str:
    if value is None:
        return "-"
    return f"{value:.{digits}f}" + ("" if other is None else f" ({other:.{digits}f})")


def _table(result: TuningResult) -> Table:
    """A line for each layer, shape and epoch."""
    from rich.text import Text

    table = plain_table("what the angle of a shape explains, medians of live units (with random weights)")
    for name in ("layer", "shape", "epoch", "units", "tuned", "share", "strength", "turned (by chance)"):
        table.add_column(name, justify="left" if name in {"layer", "shape"} else "right")
    for row in sorted(result.layers, key=lambda row: (row["layer"], row["shape"], row["epoch"])):
        table.add_row(
            Text(row["layer"]),
            row["shape"],
            str(row["epoch"]),
            str(row["units"]),
            _text(row["tuned"], row["tuned_untrained"]),
            _text(row["share"], row["share_untrained"]),
            _text(row["strength"]),
            _text(row["turned"], row["turned_chance"], 0),
        )
    return table
