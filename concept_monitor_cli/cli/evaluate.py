"""`cmon evaluate`: how good are the labels?"""

from __future__ import annotations

from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from concept_monitor_cli import options as library
from concept_monitor_cli.cli.app import cmon_app, cmon_command
from concept_monitor_cli.cli.config import Risky
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.cli.options import (
    MACHINE,
    PART,
    PNG,
    AnyDetector,
    BatchSize,
    CacheDir,
    Device,
    OnlyLayers,
    Out,
    PlotFormats,
    Seed,
    TrustPickle,
    Workers,
    comma_list,
    count,
    gather,
    joined,
    number,
    one_of,
    parsed,
    path,
    share,
    spec,
    unit_list,
)
from concept_monitor_cli.options import EvaluateOptions

if TYPE_CHECKING:
    from rich.table import Table

    from concept_monitor_cli.stories.evaluate import EvaluateResult

app = cmon_app()

_DEFAULT = EvaluateOptions()
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
        ("cmon evaluate --grid --grid-concepts common,words.txt", "which concept set, which similarity?"),
    ],
)
def evaluate(
    console: Console,
    ctx: typer.Context,
    run: Annotated[
        Path | None,
        typer.Argument(metavar="RUN", parser=path, show_default="the run in --out", help="The run's folder."),
    ] = None,
    measure: Annotated[
        list[str] | None,
        typer.Option(
            "--measure",
            "-m",
            metavar="NAME",
            callback=comma_list(library.MeasureName),
            rich_help_panel=PART,
            show_default="those that fit",
            help="Only these measures: labels, contributions, weights, simulation, cutoff, ranges, clarity, "
            "groups, sanity.",
        ),
    ] = None,
    similarity: Annotated[
        list[str] | None,
        typer.Option(
            "--similarity",
            "-s",
            metavar="NAME",
            callback=comma_list(library.Similarity),
            rich_help_panel=PART,
            show_default="all for the classifier, the run's own elsewhere",
            help="Labels made with these similarities of clip-dissect.",
        ),
    ] = None,
    layer: OnlyLayers = None,
    detector: AnyDetector = None,
    epochs: Annotated[
        library.EpochFilter | None,
        typer.Option(
            metavar="LIST",
            parser=parsed(library.EpochFilter.parse),
            rich_help_panel=PART,
            show_default="last",
            help="These: 0,5,10 or 0:30:5 (0, 5, ..., 30) or 20: or first,last.",
        ),
    ] = None,
    class_names: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            parser=spec,
            rich_help_panel=_TRUTH,
            show_default="the checkpoint's, else the folders of the probing images",
            help="Of the network's classes, in order: a text file with one a line, cifar10, cifar100, "
            "imagenet, or folders (of the probing images).",
        ),
    ] = None,
    classifier: Annotated[
        str | None,
        typer.Option(
            metavar="LAYER",
            rich_help_panel=_TRUTH,
            show_default="the last linear layer",
            help="The layer whose units are the classes.",
        ),
    ] = None,
    sentence_model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            parser=spec,
            rich_help_panel=_TRUTH,
            show_default="all-mpnet-base-v2 where it is here",
            help="A sentence-transformers model, a folder or a name, for mpnet cos.",
        ),
    ] = None,
    held_out: Annotated[
        str | None,
        typer.Option(
            metavar="PROBE",
            parser=spec,
            rich_help_panel=_TRUTH,
            show_default="half of the run's",
            help="Images to judge by that no label has seen, in one of the forms of --probe.",
        ),
    ] = None,
    active_share: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            parser=share,
            rich_help_panel=_IMAGES,
            help="A unit is active on so large a share of the images (F1, IoU, AUPRC, AUC).",
        ),
    ] = _DEFAULT.active_share,
    quality: Annotated[
        float,
        typer.Option(
            metavar="NUMBER",
            parser=number(float),
            rich_help_panel=_IMAGES,
            help="The mean quality that labels above a cutoff should have.",
        ),
    ] = _DEFAULT.quality,
    quality_metric: Annotated[
        library.Quality,
        typer.Option(
            metavar="NAME",
            parser=one_of(library.Quality),
            rich_help_panel=_IMAGES,
            help="What quality is: showing (the share of the ten top images that show the concept), or a "
            "metric of simulation.",
        ),
    ] = _DEFAULT.quality_metric,
    units: Annotated[
        list[int] | None,
        typer.Option(
            "--units",
            "--unit",
            "-u",
            metavar="LIST",
            parser=unit_list,
            callback=joined,
            rich_help_panel=_IMAGES,
            show_default="the most certain, or those with the clearest groups",
            help="Units whose images to show: 256,479 or 10-19.",
        ),
    ] = None,
    top_images: Annotated[
        int,
        typer.Option(
            metavar="N",
            parser=count,
            rich_help_panel=_IMAGES,
            help="So many top images of a unit are asked what they have in common.",
        ),
    ] = _DEFAULT.top_images,
    grid: Annotated[
        bool,
        typer.Option(
            "--grid/--no-grid",
            rich_help_panel=_GRID,
            help="Similarities, concept sets, poolings and encoders side by side, in one table.",
        ),
    ] = False,
    grid_concepts: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONCEPTS",
            callback=comma_list(),
            rich_help_panel=_GRID,
            show_default="the run's",
            help="Concept sets besides the run's own, in the forms of --concepts.",
        ),
    ] = None,
    grid_pooling: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            callback=comma_list(library.Pooling),
            rich_help_panel=_GRID,
            show_default="the run's",
            help="Poolings besides the run's own. Each needs a forward pass, once.",
        ),
    ] = None,
    grid_encoder: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[,WEIGHTS[,CONFIG]]",
            callback=comma_list(separator=";"),
            rich_help_panel=_GRID,
            show_default="the run's",
            help="Encoders besides the run's own, as --encoder, --encoder-weights and --encoder-config "
            "have them.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="NAME",
            parser=spec,
            rich_help_panel=MACHINE,
            show_default="the run's",
            help="The network's code once more, where the run was made with some and is to see other images.",
        ),
        Risky(lambda value: ":" in str(value)),
    ] = None,
    trust_pickle: TrustPickle = False,
    device: Device = _DEFAULT.device,
    batch_size: BatchSize = _DEFAULT.batch_size,
    workers: Workers = None,
    cache_dir: CacheDir = None,
    seed: Seed = _DEFAULT.seed,
    out: Out = _DEFAULT.out,
    plot_format: PlotFormats = PNG,
) -> None:
    """Measure how good the labels of a run are.

    labels: how often the label of a class's unit is the class's name (needs the classifier among the layers
    of the run). contributions: the class of an image, read off the description of the unit that speaks
    loudest for it. weights: do high weights join like concepts?

    For any layer: simulation: how well a concept's presence predicts the activation, on images that the
    label has not seen. cutoff: from which score on labels have the quality that is wanted. ranges: what the
    top 0.1, 1 and 5 % of a unit show. clarity: how much the top images of a unit have in common, and with
    those of other units. groups: units that respond to several things. sanity (when asked for): do the
    measures notice spoilt labels? Beside every number stands what labels drawn at random give.

    Writes tables/evaluation.csv, a table per measure and plots into the run's folder. What the run recorded
    is not recorded again.
    """
    options = gather(EvaluateOptions, ctx)

    from concept_monitor_cli.stories import evaluate as reading

    result = reading.evaluate(options, console)
    console.result(asdict(result))
    if not console.json:
        _show(console, result)


def _show(console: Console, result: EvaluateResult) -> None:
    order = get_args(library.MeasureName)

    def place(row: dict[str, Any]) -> tuple[Any, ...]:
        return order.index(row["measure"]), row["measure"], row["layer"], row["detector"]

    for (_, measure, layer, detector), rows in groupby(sorted(result.rows, key=place), key=place):
        console.print(_table(f"{measure}: {layer} ({detector})", list(rows)))
    for plot in result.plots:
        console.print(str(plot))


def _table(title: str, rows: list[dict[str, Any]]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    settings = [name for name in ("epoch", "similarity", "concepts", "encoder", "pooling") if name in rows[0]]
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    lines: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for row in rows:
        lines.setdefault(tuple(row[name] for name in settings), {})[row["metric"]] = row
    # What is the same in every line goes into no column.
    varying = [i for i, name in enumerate(settings) if i < 2 or len({line[i] for line in lines}) > 1]
    table = Table(title=Text(title, style="bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
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
