"""`cmon compare`: two runs side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from concept_monitor_cli.cli.app import cmon_app, cmon_command
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.cli.show_run import finding_lines
from concept_monitor_cli.cli.tables import plain_table
from concept_monitor_cli.options import CompareOptions
from concept_monitor_cli.wording import counted

if TYPE_CHECKING:
    from rich.table import Table

    from concept_monitor_cli.stories.compare import CompareResult

app = cmon_app()


@cmon_command(
    app,
    "compare",
    examples=[
        ("cmon compare standard robust", "at the last epoch of each"),
        ("cmon compare standard robust --layer layer4 --classes car,horse", "who detects the classes?"),
        ("cmon compare standard robust --epochs 0,20,40", "side by side at three epochs"),
        ("cmon compare resnet vit --match layer4=blocks.11", "other architectures on the same photos"),
        ("cmon compare run1 run2 run3 --accuracies acc.csv", "do runs with more concepts generalise better?"),
    ],
)
def compare(console: Console, options: CompareOptions) -> None:
    """Put two runs side by side: categories, concepts that only one has, and which unit is which.

    Units are matched by their activations on the probing images, if both runs have the same: the assignment
    of highest total correlation. Universal is a unit whose twin, chosen on one half of the images, correlates
    with it on the other half more than 99 % of the units do with permuted images; widths and architectures
    may differ. With --accuracies all runs: interpretable units beside training less test accuracy. Writes
    tables/comparison.csv (interpretable units per concept), tables/matches.csv, tables/universality.csv,
    tables/diversity.csv and plots into --out.
    """
    from concept_monitor_cli.stories import compare as reading

    result = reading.compare(options, console)
    console.result(result)
    if not console.json:
        _show(console, result)


def _show(console: Console, result: CompareResult) -> None:
    from rich.text import Text

    a, b = result.names
    console.print(Text(f"A is {a}, B is {b}"))
    console.print(*finding_lines(result.findings))
    table = plain_table("interpretable units")
    for name in ("layer", "category", "A", "B"):
        table.add_column(name, justify="right" if name in "AB" else "left")
    for row in result.categories:
        table.add_row(
            Text(f"{row['layer']} ({row['detector']})" if row["category"] == "all" else ""),
            Text(row["category"]),
            str(row["interpretable_a"]),
            str(row["interpretable_b"]),
        )
    console.print(table)
    for row in result.layers:
        console.print(Text(f"{row['layer']} ({row['detector']})", style="bold"))
        for line in [*_sentences(row), *_universal(result, row)]:
            console.print(Text(f"  {line}"))
    if result.diversity:
        console.print(_diversity_table(result.diversity))
        for line in _diversity_lines(result):
            console.print(Text(line))
    if result.classes:
        console.print(_class_table(result.classes))
    if not result.different:
        console.print("No differences.")
    for plot in result.plots:
        console.print(str(plot))


def _sentences(row: dict[str, Any]) -> list[str]:
    lines = []
    for side, other in (("a", "b"), ("b", "a")):
        names, count = row[f"only_{side}"], row[f"only_{side}_count"]
        if count:
            more = f" and {count - len(names)} more" if count > len(names) else ""
            lines.append(
                f"{counted(count, 'concepts')} of {side.upper()} that {other.upper()} lacks: "
                f"{', '.join(names)}{more}"
            )
    if not lines:
        lines.append("the same concepts")
    if row["matched"] is not None:
        said = f"{row['matched']} units matched"
        if row["correlation"] is not None:
            chance = row["correlation_chance"]
            beside = "" if chance is None else f", by chance {chance:.2f}"
            said += f" (median correlation {row['correlation']:.2f}{beside})"
        lines.append(f"{said}, {row['same']} of them with the same concept")
        if row["alone_a"] or row["alone_b"]:
            lines.append(f"without a twin: {row['alone_a']} units of A, {row['alone_b']} of B")
    return lines


def _universal(result: CompareResult, row: dict[str, Any]) -> list[str]:
    """How many units of a layer the other run has, too, at the last epoch."""
    for own in result.universality:
        place = (own["layer"], own["detector"], own["epoch"], own["other_epoch"])
        if place != (row["layer"], row["detector"], row["epoch_a"], row["epoch_b"]):
            continue
        if own["category"] == "all" and own["share"] is not None:
            other = "" if own["other_layer"] == own["layer"] else f" in {own['other_layer']}"
            return [
                f"{own['universal']} of {own['units']} units are universal{other}, by chance 1%: on images "
                f"that did not match them, twins correlate by {own['held_out']:.2f} (permuted images "
                f"{own['chance']:.2f})"
            ]
    return []


def _diversity_table(rows: list[dict[str, Any]]) -> Table:
    """A line for each run and layer: interpretable units, and how well the run generalises."""
    from rich.text import Text

    table = plain_table("interpretable units and generalisation")
    for name in ("run", "layer", "interpretable (random weights)", "train", "test", "gap"):
        table.add_column(name, justify="left" if name in ("run", "layer") else "right")

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    for row in rows:
        table.add_row(
            Text(row["run"]),
            Text(f"{row['layer']} ({row['detector']})"),
            f"{number(row['share'])} ({number(row['share_random'])})",
            *(number(row[name]) for name in ("train", "test", "gap")),
        )
    return table


def _diversity_lines(result: CompareResult) -> list[str]:
    """What the runs say together, and that few of them say nothing."""
    lines = []
    for row in result.diversity_tests:
        if row["correlation"] is None:
            said = "all alike in one of the two"
        elif row["p_value"] is None:
            said = f"rank correlation {row['correlation']:+.2f}, too few runs to tell it from chance"
        else:
            said = f"rank correlation {row['correlation']:+.2f} (p {row['p_value']:.3f}"
            if row["partial"] is not None:
                said += f"; {row['partial']:+.2f} at equal test accuracy"
            said += ")"
        lines.append(f"{row['layer']} ({row['detector']}), {row['runs']} runs, share and gap: {said}")
    return lines


def _class_table(classes: list[dict[str, Any]]) -> Any:
    from rich.text import Text

    table = plain_table("units of the classes, at the last epoch")
    for name in ("layer", "concept", "A", "B"):
        table.add_column(name, justify="right" if name in "AB" else "left")
    last = {run: max(row["epoch"] for row in classes if row["run"] == run) for run in ("a", "b")}
    counts: dict[tuple[str, str, str], dict[str, int]] = {}
    for row in classes:
        if row["epoch"] == last[row["run"]]:
            counts.setdefault((row["layer"], row["detector"], row["class"]), {})[row["run"]] = row["units"]
    for (layer, detector, word), found in counts.items():
        table.add_row(
            Text(f"{layer} ({detector})"), Text(word), str(found.get("a", 0)), str(found.get("b", 0))
        )
    return table
