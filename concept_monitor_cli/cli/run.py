"""`cmon run`: everything that fits, in one."""

from __future__ import annotations

from concept_monitor_cli.cli.app import DONE, PART_DONE, cmon_app, cmon_command
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.cli.show_run import print_run
from concept_monitor_cli.options import RunOptions

app = cmon_app()


@cmon_command(
    app,
    "run",
    resumable=True,
    examples=[
        ("cmon run ckpts/ --probe photos/", "the last two stages of the network at every epoch"),
        ("cmon run ckpts/ --probe photos/ -l layer3,layer4 -a windmill,field", "these layers and words"),
        ("cmon run ckpts/ --probe photos/ --epochs 0:90:10,last --out sparse", "some epochs"),
    ],
)
def run(console: Console, options: RunOptions) -> int:
    """Dissect checkpoints, place the units among words, follow them, judge the labels, and make the page.

    The same as `cmon dissect`, `embed`, `stats`, `units`, `dynamics`, `evaluate` and `report` one after the
    other; each can be run again alone with options of its own. A step that does not fit (one epoch, no
    encoder) is left out, and said.
    """
    from concept_monitor_cli.stories.run_all import run_all

    result = run_all(options, console)
    console.result(result)
    print_run(console, result)
    return PART_DONE if result.failed else DONE
