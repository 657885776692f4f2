"""`cmon submit`: a dissect as a SLURM job array."""

from __future__ import annotations

import shlex
from dataclasses import asdict, replace
from typing import Any

from concept_monitor_cli.cli.app import DONE, FAILED, Group, cmon_app, cmon_command
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.cli.options import written
from concept_monitor_cli.cli.tables import plain_table
from concept_monitor_cli.options import DissectOptions, StatusOptions, SubmitOptions


class _Submit(Group):
    """`cmon submit --status` is `cmon submit status`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if "--status" in args and args[0] != "dissect":
            rest = [arg for arg in args if arg != "--status"]
            args = ["status", *rest]
        return super().parse_args(ctx, args)


app = cmon_app(
    help="""Run a dissect as a SLURM job array: each task takes its share of the checkpoints, and all of them
    write one run.""",
    examples=[
        ("cmon submit dissect ckpts/ --layer layer4 --partition gpu --gpus 1", "submit it"),
        ("cmon submit --status", "what is done, running, failed"),
    ],
)
app.info.cls = _Submit


@cmon_command(
    app,
    "dissect",
    examples=[
        ("cmon submit dissect ckpts/ --layer layer4 --partition gpu --gpus 1 --time 2h", "submit it"),
        ("cmon submit dissect ckpts/ --layer layer4 --dry-run", "only show the script"),
    ],
)
def dissect(console: Console, options: SubmitOptions) -> int:
    """Submit a dissect as a SLURM job array.

    All options of `cmon dissect` hold. With --dry-run the script is printed and nothing is submitted.
    """
    from concept_monitor_cli.cluster import submit

    shares = submit.shares_of(options, console)
    if options.dry_run:
        script = submit.sbatch_script(options, len(shares))
        task = written(DissectOptions, replace(options, dry_run=False, shard_images=None))
        together = submit.images_over(options)
        command = shlex.join([*task, "--shard", f"I/{len(shares) // together}"])
        if together > 1:
            command += f" --shard-images J/{together}"
        console.result(
            {
                "dry_run": True,
                "tasks": [list(share) for share in shares],
                "command": command,
                "script": script,
            }
        )
        if not console.json:
            console.print(script)
            shared = f"of {len(shares)} tasks (share I of the checkpoints, part J of their images)"
            one = shared if together > 1 else f"task I of {len(shares)}"
            console.print(f"Each {one} does what this would:\n{command}")
        return DONE
    submission = submit.submit(options, shares, console, say=Console)
    console.result({"dry_run": False, **asdict(submission)})
    if not console.json:
        console.print(f"Job {submission.job}. How it goes: cmon submit --status --out {options.out}")
    return DONE


@cmon_command(app, "status", examples=[("cmon submit --status", "of the run in ./cmon-out")])
def status(console: Console, options: StatusOptions) -> int:
    """Say how the submitted array goes, from the scheduler and from the run's own files.

    Exit code 1 where a task ended before its checkpoints were done: the same submit again continues there.
    """
    from concept_monitor_cli.cluster import submit

    tasks = submit.status(options.out, console)
    console.result({"job": submit.submitted(options.out).job, "tasks": [asdict(task) for task in tasks]})

    table = plain_table()
    for name in ("task", "state", "checkpoints", "log"):
        table.add_column(name, overflow="fold")
    for task in tasks:
        said = f"{task.done} of {task.all} done" + (f", {task.failed} unreadable" if task.failed else "")
        table.add_row(str(task.task), task.state, said, str(task.log))
    if not console.json:
        console.print(table)
    return FAILED if any(task.state == "failed" for task in tasks) else DONE
