"""`cmon report`: a run as one page, and in the formats of other programs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from concept_monitor_cli.cli.app import cmon_app, cmon_command
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.cli.options import (
    OUTPUT,
    PART,
    AnyDetector,
    CacheDir,
    Device,
    OnlyEpochs,
    OnlyLayers,
    Out,
    Workers,
    from_zero,
    gather,
    joined,
    number,
    path,
    unit_list,
)
from concept_monitor_cli.cli.sizes import readable_size
from concept_monitor_cli.options import ReportOptions
from concept_monitor_cli.wording import counted

app = cmon_app()

_DEFAULT = ReportOptions()
_PAGE = "Page"


@cmon_command(
    app,
    "report",
    resumable=True,
    examples=[
        ("cmon report", "cmon-out/report.html, one file that needs no network"),
        ("cmon report --units 256,479 --image-megabytes 20", "follow two units; more images"),
        ("cmon report --epochs 0:90:10,last --layer layer4", "a smaller page"),
        ("cmon report --tensorboard runs/", "then: tensorboard --logdir runs/"),
    ],
)
def report(
    console: Console,
    ctx: typer.Context,
    layer: OnlyLayers = None,
    detector: AnyDetector = None,
    epochs: OnlyEpochs = None,
    units: Annotated[
        list[int] | None,
        typer.Option(
            "--units",
            "-u",
            metavar="LIST",
            parser=unit_list,
            callback=joined,
            rich_help_panel=PART,
            show_default="none",
            help="Units that are followed from the start and whose images come first: 256,479 or 10-19.",
        ),
    ] = None,
    images: Annotated[
        int,
        typer.Option(
            metavar="N",
            parser=from_zero,
            rich_help_panel=_PAGE,
            help="Images per unit and epoch; 0 for none.",
        ),
    ] = _DEFAULT.images,
    image_megabytes: Annotated[
        float,
        typer.Option(
            metavar="MB",
            parser=number(float, least=0),
            rich_help_panel=_PAGE,
            help="Most space for images. The most certain units come first.",
        ),
    ] = _DEFAULT.image_megabytes,
    tensorboard: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            parser=path,
            rich_help_panel=OUTPUT,
            show_default="none",
            help="Also write scalars and a projector for TensorBoard's --logdir.",
        ),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            parser=path,
            rich_help_panel=OUTPUT,
            show_default="none",
            help="Also write all tables as CSV.",
        ),
    ] = None,
    parquet: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            parser=path,
            rich_help_panel=OUTPUT,
            show_default="none",
            help="Also write all tables as Parquet.",
        ),
    ] = None,
    device: Device = _DEFAULT.device,
    workers: Workers = None,
    cache_dir: CacheDir = None,
    out: Out = _DEFAULT.out,
) -> None:
    """Show a run as one page, report.html: it opens from the disk, on a phone, without a network.

    Layers at a glance, concept space with a slider over the epochs, charts, every unit with its concepts and
    images, settings and provenance. What `cmon embed`, `cmon stats` and `cmon units` have found by then is in
    it.
    """
    options = gather(ReportOptions, ctx)

    from concept_monitor_cli.stories import report as reading

    result = reading.report(options, console)
    console.result(asdict(result))
    if console.json:
        return
    console.print(
        f"{counted(result.units, 'units')}, {result.epochs} epochs, {counted(result.images, 'images')} of "
        f"{counted(result.units_with_images, 'units')}, {readable_size(result.bytes)}"
    )
    for sentence in result.left_out:
        console.print(sentence)
    for written in (result.page, *result.exports):
        console.print(str(written))
