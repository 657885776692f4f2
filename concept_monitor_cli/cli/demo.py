"""`cmon demo`: everything, offline, in minutes."""

from __future__ import annotations

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
    """Train a small network on renderings, run everything on it, and make a page.

    Needs no network and no data. Takes some minutes on two cores.
    """
    from concept_monitor_cli.cli.show_run import print_run
    from concept_monitor_cli.stories import demo as library

    result = library.demo(
        options.folder,
        epochs=options.training_epochs,
        seed=options.seed,
        cache_dir=options.cache_dir,
        progress=console,
    )
    console.result(result)
    if result.run is not None:
        print_run(console, result.run)
    console.print("The same by hand:")
    for line in result.commands:
        console.print(f"  {line}")
