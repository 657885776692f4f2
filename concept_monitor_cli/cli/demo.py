"""`cmon demo`: everything, offline, in minutes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from concept_monitor_cli.cli.app import cmon_app, cmon_command
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.cli.options import CacheDir, Seed, count

app = cmon_app()


@cmon_command(
    app,
    "demo",
    examples=[
        ("cmon demo", "into ./cmon-demo"),
        ("cmon demo /tmp/try --epochs 3", "somewhere else, shorter"),
    ],
)
def demo(
    console: Console,
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Where to.")] = "cmon-demo",
    epochs: Annotated[
        int, typer.Option(metavar="N", parser=count, rich_help_panel="Training", help="How long to train.")
    ] = 5,
    seed: Seed = 0,
    cache_dir: CacheDir = None,
) -> None:
    """Train a small network on renderings, dissect it at every epoch, place its units among words, draw.

    Needs no network and no data. Takes some minutes on two cores.
    """
    from concept_monitor_cli.cli.show_run import run_tables
    from concept_monitor_cli.monitor.summary import summarise
    from concept_monitor_cli.run import RunFolder
    from concept_monitor_cli.stories import demo as library

    result = library.demo(Path(folder), epochs=epochs, seed=seed, cache_dir=cache_dir, progress=console)
    console.result(asdict(result))
    console.print(*run_tables(summarise(RunFolder.open(result.folder / "cmon-out").concepts())))
    console.print("Pictures:")
    for path in result.embed.plots if result.embed else []:
        console.print(f"  {path}")
    console.print("The same by hand:")
    for line in result.commands:
        console.print(f"  {line}")
