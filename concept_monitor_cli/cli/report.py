"""`cmon report`: a run as one page, and in the formats of other programs."""

from __future__ import annotations

from concept_monitor_cli.cli.app import cmon_app, cmon_command
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.cli.sizes import readable_size
from concept_monitor_cli.options import ReportOptions
from concept_monitor_cli.wording import counted

app = cmon_app()

_PAGE = "Page"


@cmon_command(
    app,
    "report",
    resumable=True,
    examples=[
        ("cmon report", "cmon-out/report.html, one file that needs no network"),
        ("cmon report --units 256,479 --image-megabytes 20", "follow two units; more images"),
        ("cmon report --epochs 0:90:10,last --layer layer4", "a smaller page"),
        ("cmon report standard robust", "standard/report.html, with the charts of robust beside"),
        ("cmon report --tensorboard runs/", "then: tensorboard --logdir runs/"),
    ],
)
def report(console: Console, options: ReportOptions) -> None:
    """Show a run as one page, report.html: it opens from the disk, on a phone, without a network.

    Layers at a glance, concept space with a slider over the epochs, charts, every unit with its concepts and
    images, settings and provenance. What `cmon embed`, `cmon stats` and `cmon units` have found by then is in
    it.
    """
    from concept_monitor_cli.stories import report as reading

    result = reading.report(options, console)
    console.result(result)
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
