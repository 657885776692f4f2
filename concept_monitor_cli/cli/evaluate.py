"""`cmon evaluate`: how good are the labels?"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any, get_args

from concept_monitor_cli import options as library
from concept_monitor_cli.cli.app import cmon_app, cmon_command
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.cli.tables import plain_table
from concept_monitor_cli.options import EvaluateOptions

if TYPE_CHECKING:
    from rich.table import Table

    from concept_monitor_cli.stories.evaluate import EvaluateResult

app = cmon_app()

_TRUTH = "Truth"
_IMAGES = "Images"
_GRID = "Grid"
# Metrics whose headings take more characters than this stand below each other.
_WIDEST = 60


@cmon_command(
    app,
    "evaluate",
    resumable=True,
    examples=[
        ("cmon evaluate", "the run in ./cmon-out, at its last epoch; whatever can be said of it"),
        ("cmon evaluate run --class-names cifar10 --measure labels", "accuracy of each similarity"),
        ("cmon evaluate --layer layer4 --epochs 0:", "one layer, over the epochs"),
        ("cmon evaluate --held-out more-photos", "judged by images that no label has seen"),
        ("cmon evaluate --measure cutoff --quality 0.5", "from which score on are labels that good?"),
        ("cmon evaluate --measure sanity", "which measures can be trusted on these images?"),
        ("cmon evaluate --measure ranges,groups --units 256,479", "what these units respond to"),
        ("cmon evaluate --generated images-of-concepts", "do units fire on generated images of their label?"),
        ("cmon evaluate --export-ratings 30", "a form in which people rate the labels of 30 units a layer"),
        ("cmon evaluate --import-ratings ann.json,bob.json", "what they said"),
        ("cmon evaluate --grid --grid-concepts common,words.txt", "which concept set, which similarity?"),
    ],
)
def evaluate(console: Console, options: EvaluateOptions) -> None:
    """Measure how good the labels of a run are.

    labels: how often the label of a class's unit is the class's name (needs the classifier among the layers
    of the run). contributions: the class of an image, read off the description of the unit that adds
    most to its score. weights: do high weights join like concepts?

    For any layer: simulation: how well a concept's presence predicts the activation, on images that the
    label has not seen. cutoff: from which score on labels have the quality that is wanted. ranges: what the
    top 0.1, 1 and 5 % of a unit show. clarity: how much the top images of a unit have in common, and with
    those of other units. groups: units that respond to several things. sanity (when asked for): do the
    measures notice spoilt labels? cosy (with --generated): do units fire more on images of their label that a
    generator made than on the run's? Beside every number stands what labels drawn at random give.

    --export-ratings writes one HTML file that people open offline: images of units, each with a label that is
    the unit's or that of another unit, in random order. Which is which stands in tables/ratings-key.csv,
    which raters must not see. --import-ratings reads the files that they send back: mean ratings beside
    those of the labels of chance, and Krippendorff's alpha.

    Writes tables/evaluation.csv, a table per measure and plots into the run's folder. What the run recorded
    is not recorded again.
    """
    from concept_monitor_cli.stories import evaluate as reading

    result = reading.evaluate(options, console)
    console.result(result)
    if not console.json:
        _show(console, result)


def _show(console: Console, result: EvaluateResult) -> None:
    if result.form is not None:
        console.print(f"{result.form}: {result.questions} questions, for raters")
        console.print(f"{result.tables[0]}: the key, not for raters")
        return
    if result.ratings:
        console.print(_ratings(result.ratings))
        return
    order = get_args(library.MeasureName)

    def place(row: dict[str, Any]) -> tuple[Any, ...]:
        return order.index(row["measure"]), row["measure"], row["layer"], row["detector"]

    for (_, measure, layer, detector), rows in groupby(sorted(result.rows, key=place), key=place):
        console.print(_table(f"{measure}: {layer} ({detector})", list(rows)))
    for plot in result.plots:
        console.print(str(plot))


def _table(title: str, rows: list[dict[str, Any]]) -> Table:
    from rich.text import Text

    settings = [name for name in ("epoch", "similarity", "concepts", "encoder", "pooling") if name in rows[0]]
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    lines: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for row in rows:
        lines.setdefault(tuple(row[name] for name in settings), {})[row["metric"]] = row
    # What is the same in every line goes into no column.
    varying = [i for i, name in enumerate(settings) if i < 2 or len({line[i] for line in lines}) > 1]
    table = plain_table(title)
    for i in varying:
        table.add_column(settings[i], justify="right" if settings[i] == "epoch" else "left")
    if sum(len(name) + 3 for name in metrics) > _WIDEST:
        for name in ("metric", "value", "by chance", "over"):
            table.add_column(name, justify="left" if name == "metric" else "right")
        for line, found in lines.items():
            for name, row in found.items():
                chance = "" if row["chance"] is None else _number(row["chance"])
                place = (Text(str(line[i])) for i in varying)
                table.add_row(*place, name, _number(row["value"]), chance, str(row["count"]))
        return table
    for name in metrics:
        table.add_column(name, justify="right")
    for line, found in lines.items():
        cells = [_number(found[name]["value"]) if name in found else "" for name in metrics]
        table.add_row(*(Text(str(line[i])) for i in varying), *cells)
    chances = [[row["chance"] for row in rows if row["metric"] == name] for name in metrics]
    table.add_section()
    table.add_row(
        *(Text("by chance" if i == varying[-1] else "") for i in varying),
        *(_chance(values) for values in chances),
    )
    return table


def _ratings(rows: list[dict[str, Any]]) -> Table:
    from rich.text import Text

    first = rows[0]
    table = plain_table(f"ratings from 1 to 5, {first['raters']} raters")
    for name in ("layer", "units", "rating", "by chance", "difference", "p", "alpha"):
        table.add_column(name, justify="left" if name == "layer" else "right")
    for row in rows:
        error = "" if row["error"] is None else f" ± {row['error']:.2f}"
        which = "" if row["which"] == "all" else ", interpretable"
        table.add_row(
            Text(f"{row['layer']} ({row['detector']}{which})"),
            str(row["units"]),
            _number(row["mean"]),
            _number(row["chance"]),
            "-" if row["difference"] is None else f"{row['difference']:.2f}{error}",
            _number(row["p_value"]),
            _number(row["alpha"]),
        )
    return table


def _chance(values: list[float | None]) -> str:
    """One number where chance is nearly the same in all lines, else from the lowest to the highest."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return ""
    if known[-1] - known[0] <= 0.1 * abs(known[-1]):
        return _number(sum(known) / len(known))
    return f"{_number(known[0])} to {_number(known[-1])}"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if value and abs(value) < 0.001:
        return f"{value:.1e}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3f}"
