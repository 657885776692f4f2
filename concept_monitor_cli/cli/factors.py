"""`cmon factors`: images, pixels and units clustered by the same factors."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from concept_monitor_cli import options as library
from concept_monitor_cli.cli.app import cmon_app, cmon_command
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.cli.options import (
    PNG,
    BadValue,
    BatchSize,
    CacheDir,
    Device,
    Model,
    OnlyEpochs,
    OnlyLayers,
    Out,
    PlotFormats,
    Seed,
    TrustPickle,
    Workers,
    count,
    from_zero,
    gather,
    number,
    one_of,
    path,
)
from concept_monitor_cli.options import FactorsOptions

if TYPE_CHECKING:
    from rich.table import Table

    from concept_monitor_cli.stories.factors import FactorsResult

app = cmon_app()

_DEFAULT = FactorsOptions()
_METHOD = "Method"
_LISTED = "What is listed"

_weight = number(float, least=0)


def _rank(value: Any) -> int | str:
    """A number, or `auto`."""
    if value == "auto":
        return "auto"
    if not str(value).isdecimal() or int(value) < 1:
        raise BadValue(f"{str(value)!r} is no number of factors", "write 20 or auto")
    return int(value)


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
def factors(
    console: Console,
    ctx: typer.Context,
    run: Annotated[
        Path | None,
        typer.Argument(metavar="[RUN]", parser=path, help="The run folder. Default: --out."),
    ] = None,
    layer: OnlyLayers = None,
    epochs: OnlyEpochs = None,
    rank: Annotated[
        str,
        typer.Option(
            metavar="N|auto",
            parser=_rank,
            rich_help_panel=_METHOD,
            help="How many factors; auto: the most that random starts agree on.",
        ),
    ] = "20",
    mode: Annotated[
        library.FactorMode,
        typer.Option(
            metavar="TYPE",
            parser=one_of(library.FactorMode),
            rich_help_panel=_METHOD,
            help="Over epochs: shared (one set), anchored (those of one epoch) or free (each its own).",
        ),
    ] = _DEFAULT.mode,
    reference: Annotated[
        int | None,
        typer.Option(
            metavar="EPOCH",
            parser=from_zero,
            rich_help_panel=_METHOD,
            show_default="the last",
            help="The epoch of anchored factors.",
        ),
    ] = None,
    warm: Annotated[
        bool,
        typer.Option(
            "--warm/--no-warm", rich_help_panel=_METHOD, help="Free factors begin at those of the next epoch."
        ),
    ] = _DEFAULT.warm,
    solver: Annotated[
        library.FactorSolver,
        typer.Option(
            metavar="TYPE",
            parser=one_of(library.FactorSolver),
            rich_help_panel=_METHOD,
            help="hals, or published: the paper's iteration, which ends far from the best fit.",
        ),
    ] = _DEFAULT.solver,
    balance: Annotated[
        bool,
        typer.Option(
            "--balance/--no-balance",
            rich_help_panel=_METHOD,
            help="Every layer and colour channel counts alike; else the largest decides.",
        ),
    ] = _DEFAULT.balance,
    group_sparse: Annotated[
        bool,
        typer.Option(
            "--group-sparse/--no-group-sparse",
            rich_help_panel=_METHOD,
            help="Factors are exactly 0 in classes they have no part in (with --no-pixels).",
        ),
    ] = _DEFAULT.group_sparse,
    images: Annotated[
        library.FactorRows,
        typer.Option(
            metavar="TYPE",
            parser=one_of(library.FactorRows),
            rich_help_panel=_METHOD,
            help="Of an image: pooled activations, or every position of the maps (runs the networks).",
        ),
    ] = _DEFAULT.images,
    pixels: Annotated[
        bool,
        typer.Option(
            "--pixels/--no-pixels",
            rich_help_panel=_METHOD,
            help="Factorise the images' colour channels at 32 pixels a side, too.",
        ),
    ] = _DEFAULT.pixels,
    rectify: Annotated[
        bool,
        typer.Option(
            "--rectify/--no-rectify", rich_help_panel=_METHOD, help="Negative activations count as 0."
        ),
    ] = _DEFAULT.rectify,
    lambda_pixels: Annotated[
        float,
        typer.Option(
            metavar="X", parser=_weight, rich_help_panel=_METHOD, help="Weight of squared loadings of pixels."
        ),
    ] = _DEFAULT.lambda_pixels,
    lambda_units: Annotated[
        float,
        typer.Option(
            metavar="X", parser=_weight, rich_help_panel=_METHOD, help="Weight of squared loadings of units."
        ),
    ] = _DEFAULT.lambda_units,
    lambda_images: Annotated[
        float,
        typer.Option(
            metavar="X",
            parser=_weight,
            rich_help_panel=_METHOD,
            help="Weight of squared strengths in images; with --group-sparse of the group penalty (0: .005).",
        ),
    ] = _DEFAULT.lambda_images,
    superclasses: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            parser=path,
            rich_help_panel=_LISTED,
            show_default="none",
            help="A CSV with the columns class,superclass: which superclasses gather in a factor?",
        ),
    ] = None,
    classifier: Annotated[
        str | None,
        typer.Option(
            metavar="LAYER",
            rich_help_panel=_LISTED,
            show_default="the recorded layer with a unit for each class",
            help="Whose largest unit is the network's answer, for accuracy beside impurity.",
        ),
    ] = None,
    starts: Annotated[
        int,
        typer.Option(
            metavar="N",
            parser=from_zero,
            rich_help_panel=_LISTED,
            help="Fits from random starts by which stability is measured; 0 leaves it out.",
        ),
    ] = _DEFAULT.starts,
    neighbours: Annotated[
        int,
        typer.Option(
            metavar="N", parser=count, rich_help_panel=_LISTED, help="Images around each image that count."
        ),
    ] = _DEFAULT.neighbours,
    top: Annotated[
        int,
        typer.Option(
            metavar="N",
            parser=count,
            rich_help_panel=_LISTED,
            help="Images of a factor, and units in each layer, to list.",
        ),
    ] = _DEFAULT.top,
    model: Model = None,
    trust_pickle: TrustPickle = _DEFAULT.trust_pickle,
    device: Device = _DEFAULT.device,
    batch_size: BatchSize = _DEFAULT.batch_size,
    seed: Seed = _DEFAULT.seed,
    workers: Workers = None,
    cache_dir: CacheDir = None,
    out: Out = _DEFAULT.out,
    plot_format: PlotFormats = PNG,
) -> None:
    """Cluster images, pixels and the units of all layers by the same factors.

    A coupled non-negative factorisation of what `dissect` recorded (negative layers are left out) and of the
    images' pixels. Says which classes, images and units gather in each factor, how strong
    it is in each layer at each epoch, and how separate factors are, beside chance. Writes
    tables/factors.csv, tables/factor-*.csv and plots into the run.
    """
    options = gather(FactorsOptions, ctx)

    from concept_monitor_cli.stories import factors as reading

    result = reading.factors(options, console)
    console.result(asdict(result))
    if not console.json:
        for table in (_factors(result), _layers(result)):
            console.print(table)
        console.print(_closing(result))
        for plot in result.plots:
            console.print(str(plot))


def _table(title: str, names: dict[str, str]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title, style="bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
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
    seen: set[int] = set()
    for row in result.factors:
        if row["epoch"] != last or row["factor"] in seen:
            continue
        seen.add(row["factor"])
        said = ", ".join(classes.get(row["factor"], []))
        if row["concept"]:
            said += f" [{row['concept']}]"
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
