"""`cmon vectors`: where do concepts lie in a layer, and which classes use them?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from concept_monitor_cli.cli.app import cmon_app, cmon_command
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.cli.tables import plain_table
from concept_monitor_cli.options import VectorsOptions
from concept_monitor_cli.wording import counted

if TYPE_CHECKING:
    from rich.table import Table

    from concept_monitor_cli.stories.vectors import VectorsResult

app = cmon_app()

_SHOWN = 8


@cmon_command(
    app,
    "vectors",
    examples=[
        ("cmon vectors", "the run in ./cmon-out, all labels of its images"),
        ("cmon vectors --words grass,sky --layer layer4", "two concepts in one layer"),
        ("cmon vectors --kind ridge --epochs first,last", "by regression, two epochs"),
        ("cmon vectors --concept stripes=photos/striped", "a concept by a folder of images"),
    ],
)
def vectors(console: Console, options: VectorsOptions) -> None:
    """Find the direction of each concept in a layer, and what classes make of it.

    A concept is a label of the images (on at least 5 % of a mask), their folder, or a word that the run's
    encoder finds. Says how well it can be read off images that had no part in it, from which epoch on, how
    its direction turns, and by how much its presence moves the score of each class, beside what random images
    give. Runs the networks forward and back once. Writes tables/vectors.csv, tables/effects.csv,
    tables/unit-classes.csv, vectors/ and plots into the run.
    """
    from concept_monitor_cli.stories import vectors as reading

    result = reading.vectors(options, console)
    console.result(result)
    if not console.json:
        from rich.text import Text

        console.print(_layers(result))
        for sentence in strongest(result):
            console.print(Text(sentence))
        for path in (*result.files, *result.plots):
            console.print(str(path))


def _layers(result: VectorsResult) -> Table:
    from rich.text import Text

    table = plain_table(f"concept vectors ({result.kind}) of {counted(result.images, 'images')}")
    for name in ("layer", "concepts", "decodable", "AUC (first epoch)", "effects (by chance)"):
        table.add_column(name, justify="left" if name == "layer" else "right")
    for line in result.layers:
        table.add_row(
            Text(line.layer),
            str(line.concepts),
            str(line.decodable),
            f"{line.auc:.2f} ({line.first_auc:.2f})",
            f"{line.significant} of {line.pairs} ({line.by_chance})",
        )
    return table


def strongest(result: VectorsResult) -> list[str]:
    """The strongest effects in the last layer at the last epoch, a line each, and what shares are worth.

    Args:
        result: of `cmon vectors`.
    """
    if not result.effects:
        return []
    layer = result.layers[-1]
    last = max(row["epoch"] for row in result.effects)
    rows = [
        row
        for row in result.effects
        if row["layer"] == layer.layer and row["epoch"] == last and row["significant"]
    ]
    rows.sort(key=lambda row: -abs(row["effect"] / row["chance_spread"]))
    lines = [
        f"{row['concept']} moves {row['class']} by {row['effect']:+.2f} in {row['layer']} "
        f"(random images {row['chance_spread']:.2f}, p {row['p_value']:.1g})"
        for row in rows[:_SHOWN]
    ]
    if not lines:
        lines.append(f"no concept moves a class in {layer.layer} by more than random images do")
    flat = [line.layer for line in result.layers if line.degenerate]
    if flat:
        lines.append(
            f"{', '.join(flat)}: a class has one gradient for all images, so its TCAV share is 0 or 1 "
            "whatever the concept; read effect and p"
        )
    return lines
