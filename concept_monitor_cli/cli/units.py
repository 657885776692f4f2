"""`cmon units`: the life of every unit, and what it looks at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from concept_monitor_cli.cli.app import cmon_app, cmon_command
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.cli.show_run import p_text
from concept_monitor_cli.cli.tables import plain_table, with_luck
from concept_monitor_cli.options import UnitsOptions

if TYPE_CHECKING:
    from rich.table import Table

    from concept_monitor_cli.stories.units import UnitsResult

app = cmon_app()

_METHOD = "Confidence"
_PICTURE = "Picture"
# Matching units that are named on the terminal; tables/text-matches.csv has all.
_MOST_UNITS = 8

_LIVES = (
    "by luck: at most so many. random weights: interpretable units of such a network. changes: those that "
    "drawing the images again would not undo. relabelled: every other label, by luck too. Each unit: "
    "units.csv"
)


@cmon_command(
    app,
    "units",
    resumable=True,
    examples=[
        ("cmon units", "the life of every unit; the best units of every epoch with their images"),
        ("cmon units --layer layer4 --unit 256", "one unit over the epochs"),
        ("cmon units --classes car,horse,airplane", "who detects the classes?"),
        ('cmon units --match "text"', "units whose label or description has that word"),
        ("cmon units --resamples 0", "without the test of confidence, which takes longest"),
    ],
)
def units(console: Console, options: UnitsOptions) -> None:
    """Follow every unit over the epochs: born, changed, settled, died.

    Writes tables/units.csv and plots. A change of concept counts as confident where drawing the probing
    images again would not undo it; the others may be luck.

    One unit is shown with its names by all detectors of the run side by side. --match writes
    tables/text-matches.csv and says how many units match, and how many do with random weights.
    """
    from concept_monitor_cli.stories import units as reading

    result = reading.units(options, console)
    console.result(result)
    if not console.json:
        _show(console, result, options.units)


def _show(console: Console, result: UnitsResult, wanted: Sequence[int]) -> None:
    from rich.text import Text

    if result.matches:
        _show_matches(console, result)
    if wanted:
        detectors = list(dict.fromkeys(row["detector"] for row in result.moments))
        console.print(_side_by_side(result, detectors) if len(detectors) > 1 else _one_detector(result))
        if len(detectors) > 1:
            console.print("in brackets: no more than chance")
        for row in result.units:
            console.print(Text(_life(row)))
        for sentence in result.uses:
            console.print(Text(sentence))
    else:
        console.print(_lives_table(result))
        console.print(Text(_LIVES))
    if result.classes:
        last = max(row["epoch"] for row in result.classes)
        for row in result.classes:
            if row["epoch"] == last:
                said = f"{row['layer']}, epoch {last}: {row['class']} is the concept of {row['units']} units"
                console.print(Text(f"{said}, {row['interpretable']} of them interpretable"))
    for plot in result.plots:
        console.print(str(plot))


def _lives_table(result: UnitsResult) -> Table:
    """How many units of each layer were born, died and changed, beside luck."""
    from rich.text import Text

    detectors = {row["detector"] for row in result.layers}
    one = len(detectors) == 1
    table = plain_table(f"units over the epochs ({detectors.pop()})" if one else "", padding=(0, 1, 0, 0))
    # More words than a narrow terminal has room for: each stands below the other.
    heads = (
        "units",
        "ever\ninterpretable\n(by luck)",
        "random\nweights",
        "no\nlonger",
        "changes\n(by luck)",
        "relabelled",
    )
    table.add_column("layer", overflow="fold")
    for head in heads:
        table.add_column(head, justify="right", min_width=max(map(len, head.split("\n"))))
    for row in result.layers:
        table.add_row(
            Text(row["layer"] if one else f"{row['layer']} ({row['detector']})"),
            str(row["units"]),
            with_luck(row["born"], row["born_by_luck"]),
            with_luck(row["random_interpretable"], None),
            str(row["died"]),
            with_luck(row["confident_changes"], row["confident_by_luck"]),
            str(row["label_changes"]),
        )
    return table


def _one_detector(result: UnitsResult) -> Table:
    """The concept of each unit at every epoch."""
    from rich.text import Text

    table = plain_table()
    for name in ("layer", "unit", "epoch", "concept", "category", "score", "p", "interpretable"):
        table.add_column(
            name,
            justify="right" if name in ("unit", "epoch", "score", "p") else "left",
            no_wrap=name not in ("layer", "concept"),
        )
    for row in result.moments:
        table.add_row(
            Text(row["layer"]),
            str(row["unit"]),
            str(row["epoch"]),
            Text(_named(row)),
            Text(row["category"]),
            "" if row["score"] is None else f"{row['score']:.3f}",
            p_text(row["p_value"], row["p_floor"]),
            "yes" if row["interpretable"] else "no",
        )
    return table


def _named(row: dict[str, Any]) -> str:
    named = row["concept"] if row["state"] == "live" else f"({row['state']})"
    return named or "(none)"


def _side_by_side(result: UnitsResult, detectors: Sequence[str]) -> Table:
    """What each detector calls each unit at every epoch."""
    from rich.text import Text

    table = plain_table()
    for name in ("layer", "unit", "epoch", *detectors):
        table.add_column(name, justify="right" if name in ("unit", "epoch") else "left")
    rows: dict[tuple[str, int, int], dict[str, str]] = {}
    for row in result.moments:
        named = _named(row)
        sure = row["interpretable"] or named.startswith("(")
        place = (row["layer"], row["unit"], row["epoch"])
        rows.setdefault(place, {})[row["detector"]] = named if sure else f"({named})"
    for layer, unit, epoch in sorted(rows):
        names = rows[layer, unit, epoch]
        table.add_row(Text(layer), str(unit), str(epoch), *(Text(names.get(name, "")) for name in detectors))
    return table


def _show_matches(console: Console, result: UnitsResult) -> None:
    """How many units match at each epoch, and which at the last."""
    from rich.text import Text

    table = plain_table()
    names = ("layer", "epoch", "match", "beyond chance", "random weights", "units")
    for name in names:
        table.add_column(name, justify="left" if name in ("layer", "units") else "right")
    for row in result.matches:
        own = [
            str(found["unit"])
            for found in result.found
            if all(found[key] == row[key] for key in ("layer", "detector", "epoch"))
        ]
        more = f" and {len(own) - _MOST_UNITS} more" if len(own) > _MOST_UNITS else ""
        table.add_row(
            Text(f"{row['layer']} ({row['detector']})"),
            str(row["epoch"]),
            f"{row['found']} of {row['units']}",
            str(row["interpretable"]),
            "-" if row["chance"] is None else f"{row['chance']:.1%}",
            ", ".join(own[:_MOST_UNITS]) + more,
        )
    console.print(table)


def _life(row: dict[str, Any]) -> str:
    """One unit in a sentence."""
    said = [f"{row['layer']} unit {row['unit']} ({row['detector']}):"]
    if row["final_concept"]:
        said.append(f"{row['final_concept']!r} since epoch {row['stable_from']};")
    else:
        said.append("no concept in the end;")
    said.append("never interpretable;" if row["born"] is None else f"interpretable from epoch {row['born']};")
    if row["died"] is not None:
        said.append(f"no longer from epoch {row['died']};")
    count = row["label_changes"]
    relabelled = f"relabelled {count} time{'' if count == 1 else 's'}, by luck too"
    sure = row["confident_changes"]
    said.append(
        relabelled if sure is None else f"{sure} confident change{'' if sure == 1 else 's'} ({relabelled})"
    )
    if row["drift"] is not None:
        floors = [("unrelated units", row["drift_floor_random"]), ("luck", row["drift_floor_halves"])]
        beside = ", ".join(f"{name} {value:.2f}" for name, value in floors if value is not None)
        said[-1] += ";"
        said.append(f"drift {row['drift']:.2f}" + (f" ({beside})" if beside else ""))
    return " ".join(said)
