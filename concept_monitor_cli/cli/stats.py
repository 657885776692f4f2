"""`cmon stats`: how much is interpretable, and what kind of concepts there are."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from concept_monitor_cli.cli.app import cmon_app, cmon_command
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.cli.show_run import caption_lines, finding_lines, held_out_sentence
from concept_monitor_cli.cli.tables import plain_table
from concept_monitor_cli.options import StatsOptions

if TYPE_CHECKING:
    from rich.table import Table

app = cmon_app()

_MOST_LINES = 12


@cmon_command(
    app,
    "stats",
    examples=[
        ("cmon stats", "the run in ./cmon-out"),
        ("cmon stats --layer layer3,layer4 --style paper --plot-format pdf", "for a paper"),
        ("cmon stats --out standard --against robust", "two trainings side by side"),
    ],
)
def stats(console: Console, options: StatsOptions) -> None:
    """Count the interpretable units of a run by category, layer and epoch.

    Writes tables/statistics.csv and plots: categories per layer at each epoch, and against the epoch. The
    spread says how far the units of a layer lie apart among the words: 0 where all are the same, towards 1
    where they have nothing to do with each other; a random network's and that of one unit seen through two
    halves of the images stand beside it. How many different units there are is asked of their activations.
    """
    from concept_monitor_cli.run import RunFolder
    from concept_monitor_cli.stories import stats as reading

    result = reading.stats(options, console)
    console.result(result)
    if not console.json:
        console.print(*finding_lines(result.findings))
        _show(console, result.rows)
        console.print(*caption_lines(RunFolder.open(options.out)))
        for plot in result.plots:
            console.print(str(plot))


def _show(console: Console, rows: list[dict[str, Any]]) -> None:
    from rich.text import Text

    def place(row: dict[str, Any]) -> tuple[str, str]:
        return row["layer"], row["detector"]

    for (layer, detector), group in groupby(sorted(rows, key=place), key=place):
        own = list(group)
        console.print(_table(layer, detector, own, console.rich().width))
        console.print(*map(Text, _beside(layer, detector, own)))


def _table(layer: str, detector: str, rows: list[dict[str, Any]], width: int) -> Table:

    categories = list(dict.fromkeys(row["category"] for row in rows if row["category"] != "all"))
    moments: dict[int, dict[str, dict[str, Any]]] = {}
    for row in rows:
        moments.setdefault(int(row["epoch"]), {})[row["category"]] = row
    units = max(now["all"]["units"] for now in moments.values())
    names = ("epoch", "all", *categories, "concepts", "effective", "spread")
    roomy = sum(len(name) + 3 for name in names) <= width
    table = plain_table(
        f"{layer} ({detector}): interpretable units, of {units}",
        # A column that does not fit is left out without a word: rather move them together.
        padding=(0, 1) if roomy else 0,
    )
    for name in names:
        table.add_column(name, justify="right", min_width=len(name))
    known = sorted(moments)
    shown = known if len(known) <= _MOST_LINES else [*known[: _MOST_LINES - 4], None, *known[-3:]]
    for epoch in shown:
        if epoch is None:
            table.add_row("...")
            continue
        now = moments[epoch]
        whole = now["all"]
        table.add_row(
            str(epoch),
            str(whole["interpretable"]),
            *(str(now[category]["interpretable"]) for category in categories),
            str(whole["distinct_concepts"]),
            "-" if whole["effective_units"] is None else f"{whole['effective_units']:.0f}",
            "-" if whole["spread"] is None else f"{whole['spread']:.3f}",
        )
    return table


def _beside(layer: str, detector: str, rows: list[dict[str, Any]]) -> list[str]:
    """What the numbers of the last epoch of a layer are to be compared with, each one sentence."""
    last = max((row for row in rows if row["category"] == "all"), key=lambda row: row["epoch"])
    where, said = f"{layer} ({detector}), epoch {last['epoch']}", []
    if last["effective_units"] is not None:
        chance = last["effective_units_chance"]
        said.append(
            f"{where}: the units count as {last['effective_units']:.1f} different ones (independent units: "
            f"{chance:.1f}); {last['redundant']:.0%} are repeated by another (correlation above 0.9)"
        )
    floors = {
        "a random network": last["spread_floor_random"],
        "two halves of the images, one unit": last["spread_floor_halves"],
    }
    if last["spread"] is not None and any(value is not None for value in floors.values()):
        beside = ", ".join(f"{name} {value:.3f}" for name, value in floors.items() if value is not None)
        said.append(f"{where}: spread {last['spread']:.3f}, beside: {beside}")
    if last["held_out"] is not None and last["held_out_chance"] is not None:
        sentence = held_out_sentence(
            last["held_out"],
            last["held_out_chance"],
            last.get("held_out_word"),
            last.get("held_out_measure"),
        )
        said.append(
            f"{where}: {sentence}; "
            f"{last['changed_by_halves']:.0%} of the units get another label from the other half"
        )
    return said
