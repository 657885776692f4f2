"""`cmon watch`: dissect while training goes on."""

from __future__ import annotations

from concept_monitor_cli.cli.app import DONE, PART_DONE, cmon_app, cmon_command
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.cli.show_run import finding_lines
from concept_monitor_cli.options import WatchOptions
from concept_monitor_cli.wording import counted

app = cmon_app()


@cmon_command(
    app,
    "watch",
    resumable=True,
    examples=[
        ("cmon watch ckpts/ --layer layer4 --until-epoch 90", "beside a training of 90 epochs"),
        (
            "cmon watch ckpts/ -l layer4 --idle 2h --on-alert ./notify.sh",
            "until nothing comes any more; tell somebody",
        ),
    ],
)
def watch(console: Console, options: WatchOptions) -> int:
    """Dissect checkpoints as they land, while training goes on.

    All options of `cmon dissect` hold. Tables, statistics and report.html in --out are kept up to date (the
    page at most once a minute, and at the end). A warning is given, and kept in alerts.jsonl, when units
    clump, collapse (both by their activations), die, or ever fewer of them are interpretable.
    """
    from concept_monitor_cli.stories.watch import watch as _watch

    result = _watch(options, console)
    console.result(result)
    if not console.json:
        console.print(*finding_lines(result.findings))
        console.print(
            f"{counted(len(result.done), 'checkpoints')}, {counted(len(result.alerts), 'warnings')}; "
            f"see {options.out}."
        )
    return PART_DONE if result.failed else DONE
