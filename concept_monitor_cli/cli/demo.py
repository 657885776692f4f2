"""`cmon demo`: everything, offline, in minutes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from concept_monitor_cli.cli.app import argument, cmon_command
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.cli.options import COUNT, cache_option, option, seed_option


@cmon_command(
    name="demo",
    examples=[
        ("cmon demo", "into ./cmon-demo"),
        ("cmon demo /tmp/try --epochs 3", "somewhere else, shorter"),
    ],
)
@argument(
    "folder", metavar="[DIR]", required=False, default="cmon-demo", help="Where to; cmon-demo by default."
)
@option("--epochs", metavar="N", type=COUNT, default=5, panel="Training", help="How long to train.")
@seed_option
@cache_option
def command(console: Console, folder: str, epochs: int, seed: int, cache_dir: Path | None) -> None:
    """Train a small network on renderings, dissect it at every epoch, place its units among words, draw.

    Needs no network and no data. Takes some minutes on two cores.
    """
    from concept_monitor_cli.cli.show_run import run_tables
    from concept_monitor_cli.demo import demo
    from concept_monitor_cli.monitor.summary import summarise
    from concept_monitor_cli.run import RunFolder

    result = demo(Path(folder), epochs=epochs, seed=seed, cache_dir=cache_dir, progress=console)
    console.result(asdict(result))
    console.print(*run_tables(summarise(RunFolder.open(result.folder / "cmon-out").concepts())))
    console.print("Pictures:")
    for path in result.embed.plots if result.embed else []:
        console.print(f"  {path}")
    console.print("The same by hand:")
    for line in result.commands:
        console.print(f"  {line}")
