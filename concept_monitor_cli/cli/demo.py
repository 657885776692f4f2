"""`cmon demo`: everything, offline, in minutes."""

from __future__ import annotations

from dataclasses import asdict

from concept_monitor_cli.cli.app import cmon_app, cmon_command
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.options import DemoOptions

app = cmon_app()


@cmon_command(
    app,
    "demo",
    examples=[
        ("cmon demo", "into ./cmon-demo"),
        ("cmon demo /tmp/try --epochs 3", "somewhere else, shorter"),
    ],
)
def demo(console: Console, options: DemoOptions) -> None:
    """Train a small network on renderings, dissect it at every epoch, place its units among words, draw.

    Needs no network and no data. Takes some minutes on two cores.
    """
    from concept_monitor_cli.cli.show_run import run_tables
    from concept_monitor_cli.monitor.summary import summarise
    from concept_monitor_cli.run import RunFolder
    from concept_monitor_cli.stories import demo as library

    result = library.demo(
        options.folder,
        epochs=options.training_epochs,
        seed=options.seed,
        cache_dir=options.cache_dir,
        progress=console,
    )
    console.result(asdict(result))
    console.print(*run_tables(summarise(RunFolder.open(result.folder / "cmon-out").concepts())))
    console.print("Pictures:")
    for path in result.embed.plots if result.embed else []:
        console.print(f"  {path}")
    console.print("The same by hand:")
    for line in result.commands:
        console.print(f"  {line}")
