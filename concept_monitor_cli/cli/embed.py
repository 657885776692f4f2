"""`cmon embed`: how the units of a run move through concept space."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, get_args

import click

from concept_monitor_cli.cli.app import cmon_command
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.cli.options import (
    EPOCHS,
    Choice,
    Numbers,
    Words,
    gather,
    machine_options,
    option,
    out_option,
    plot_option,
)
from concept_monitor_cli.options import DETECTORS, EmbedOptions, Method

if TYPE_CHECKING:
    from concept_monitor_cli.embedding import EmbedResult

_DEFAULT = EmbedOptions()

WHAT = "What to embed"
PICTURE = "Picture"


@cmon_command(
    name="embed",
    resumable=True,
    examples=[
        ("cmon embed --anchors windmill,field", "the run in ./cmon-out"),
        ("cmon embed --anchors words.txt --units 256,479 --layer layer4", "follow two units"),
        ("cmon embed -a sky,water --epochs 0:90:10,last --plot-format pdf", "for a paper"),
    ],
)
@option(
    "--anchors",
    "-a",
    metavar="WORDS",
    type=Words(),
    multiple=True,
    panel=WHAT,
    help="Words that mark places in the picture: a comma list, or a .txt file with one a line.",
)
@option(
    "--units",
    "-u",
    metavar="LIST",
    type=Numbers(),
    multiple=True,
    panel=WHAT,
    help="Units whose way is followed: 256,479 or 10-19.",
)
@option(
    "--layer",
    "-l",
    metavar="NAME",
    type=Words(),
    multiple=True,
    panel=WHAT,
    shown_default="all of the run",
    help="Only these layers.",
)
@option(
    "--detector",
    "-d",
    metavar="NAME",
    type=Choice(DETECTORS),
    panel=WHAT,
    shown_default="the run's first",
    help="Whose concepts to embed.",
)
@option(
    "--epochs",
    metavar="LIST",
    type=EPOCHS,
    panel=WHAT,
    shown_default="all",
    help="Only these: 0,5,10 or 0:30:5 (0, 5, ..., 30) or 20: or first,last.",
)
@option(
    "--method",
    metavar="NAME",
    type=Choice(get_args(Method)),
    default=_DEFAULT.method,
    panel=PICTURE,
    help="To two dimensions: umap, one fit over all epochs and anchors, or pca.",
)
@option(
    "--neighbors",
    metavar="N",
    type=click.IntRange(min=2),
    default=_DEFAULT.neighbors,
    panel=PICTURE,
    help="UMAP's n_neighbors.",
)
@option(
    "--min-dist",
    metavar="D",
    type=click.FloatRange(0, 1),
    default=_DEFAULT.min_dist,
    panel=PICTURE,
    help="UMAP's min_dist.",
)
@machine_options
@out_option
@plot_option
@click.pass_context
def command(ctx: click.Context, /, console: Console, **values: Any) -> None:
    """Place every unit of a run, at every epoch, among words: how do the units move?

    A unit stands at the weighted mean of its concepts in the encoder's text space; words of your choice, the
    anchors, stand in the same space. Writes tables/embedding.csv, tables/anchors.csv and plots into the run
    that `cmon dissect` made in --out.
    """
    options = gather(EmbedOptions, ctx, values)

    from concept_monitor_cli.embedding import embed

    result = embed(options, console)
    console.result(asdict(result))
    if not console.json:
        _show(console, result)


def _show(console: Console, result: EmbedResult) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    console.print(f"anchors: {', '.join(result.anchors)}")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("layer")
    table.add_column("epoch", justify="right")
    table.add_column("spread", justify="right")
    table.add_column("to the nearest anchor", justify="right")
    for row in result.spread:
        table.add_row(
            Text(row["layer"]), str(row["epoch"]), f"{row['spread']:.3f}", f"{row['anchor_distance']:.3f}"
        )
    console.print(table)
    if result.tracked:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in ("layer", "unit", "epoch", "concept", "nearest anchor", "distance"):
            table.add_column(name, justify="right" if name in ("unit", "epoch", "distance") else "left")
        for row in result.tracked:
            table.add_row(
                Text(row["layer"]),
                str(row["unit"]),
                str(row["epoch"]),
                Text(str(row["concept"])),
                Text(str(row["nearest_anchor"])),
                f"{row['anchor_distance']:.3f}",
            )
        console.print(table)
    for path in result.plots:
        console.print(str(path))
