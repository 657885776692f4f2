"""`cmon fetch`: probing sets and encoders, from where they are published."""

from __future__ import annotations

from dataclasses import asdict

from concept_monitor_cli.cli.app import cmon_app, cmon_command
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.options import FetchOptions

app = cmon_app()


@cmon_command(
    app,
    "fetch",
    examples=[
        ("cmon fetch", "what there is, and under which licence"),
        ("cmon fetch broden --dry-run", "from where to where"),
        ("cmon fetch coco-panoptic --to data", "downloads it into data/coco-panoptic"),
    ],
)
def fetch(console: Console, options: FetchOptions) -> None:
    """Download a probing set or an encoder from where its authors publish it.

    Without a name, says what there is. The licence is shown; whether it allows your use is for you to judge.
    A download that was broken off goes on where it ended, and what comes is compared with its published
    digest before it is unpacked. On a machine without network, put the file into the folder by hand and run
    the command: it verifies and unpacks it.
    """
    from concept_monitor_cli.stories import fetch as story

    if options.name is None:
        _list(console)
        return
    result = story.fetch(options, console)
    console.result({**asdict(result), "place": str(result.place)})
    if console.json:
        return
    if result.state == "not fetched":
        for url in result.urls:
            console.print(f"from {url}")
        console.print(f"to   {result.place}")
    else:
        console.print(f"{result.place}: {result.state}. Use it with {result.use}")


def _list(console: Console) -> None:
    from concept_monitor_cli.stories.fetch import PUBLISHED

    console.result({name: asdict(each) for name, each in PUBLISHED.items()})
    if console.json:
        return
    for name, each in PUBLISHED.items():
        console.print(f"{name}: {each.what}")
        console.print(f"    licence: {each.licence}")
        console.print(f"    {each.home}")
