"""`cmon submit`: a dissect as a SLURM job array."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Annotated, Any

import typer

from concept_monitor_cli.cli.app import DONE, FAILED, Group, cmon_app, cmon_command
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.cli.options import Out, count, from_zero, gather, parsed
from concept_monitor_cli.cli.watch import with_options_of_dissect
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.options import SubmitOptions


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

_DEFAULT = SubmitOptions(checkpoints=(), layers=())
_SLURM = "What to ask SLURM for"


def _minutes(text: str) -> int:
    """SLURM's forms (`30`, `2:00:00`, `1-12`, `1-12:30`), and `90min`, `2h`, `1d`."""
    if match := re.fullmatch(r"(\d+)(min|h|d)", text):
        found = int(match[1]) * {"min": 1, "h": 60, "d": 1440}[match[2]]
    elif match := re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text):
        days, *parts = match.groups()
        numbers = [int(part) for part in parts if part is not None]
        if days is None and len(numbers) < 3:  # minutes, or minutes:seconds
            numbers = [0, *numbers]
        hours, minutes, seconds = (*numbers, 0, 0)[:3]
        found = int(days or 0) * 1440 + hours * 60 + minutes + (seconds > 0)
    else:
        found = 0
    if found < 1:
        raise InputError(f"{text!r} is not a length of time", hint="write 2h or 02:00:00 or 1-12 (36 hours)")
    return found


def _memory(text: str) -> str:
    if not re.fullmatch(r"\d+[KMGT]?", text):
        raise InputError(f"{text!r} is not a size for SLURM", hint="write 32G")
    return text


def _word(text: str) -> str:
    """A name that stands in a line of the script: it must not bring lines of its own."""
    if not re.fullmatch(r"[\w.,:@+-]+", text):
        raise InputError(f"{text!r} is not a name that SLURM knows")
    return text


def _own(
    partition: Annotated[
        str | None,
        typer.Option(metavar="NAME", parser=parsed(_word), rich_help_panel=_SLURM, help="SLURM's partition."),
    ] = None,
    account: Annotated[
        str | None,
        typer.Option(metavar="NAME", parser=parsed(_word), rich_help_panel=_SLURM, help="Who is charged."),
    ] = None,
    gpus: Annotated[
        int, typer.Option(metavar="N", parser=from_zero, rich_help_panel=_SLURM, help="GPUs of each task.")
    ] = _DEFAULT.gpus,
    cpus: Annotated[
        int, typer.Option(metavar="N", parser=count, rich_help_panel=_SLURM, help="CPU cores of each task.")
    ] = _DEFAULT.cpus,
    mem: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", parser=parsed(_memory), rich_help_panel=_SLURM, help="Memory of each task: 32G."
        ),
    ] = None,
    time: Annotated[
        int,
        typer.Option(
            metavar="TIME",
            parser=parsed(_minutes),
            rich_help_panel=_SLURM,
            show_default="1h",
            help="For each task: 2h, 02:00:00, 1-12. What is not done then continues in a new task.",
        ),
    ] = _DEFAULT.time,
    tasks: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            parser=count,
            rich_help_panel=_SLURM,
            show_default="one per checkpoint, at most 8",
            help="Tasks of the array.",
        ),
    ] = None,
) -> None:
    """The options that `dissect` has not."""


def dissect(console: Console, ctx: typer.Context, **values: Any) -> int:
    """Submit a dissect as a SLURM job array.

    All options of `cmon dissect` hold. With --dry-run the script is printed and nothing is submitted.
    """
    if not values["layer"]:
        raise InputError("no layer is named", where="--layer", hint="name one as for `cmon dissect`")
    options = gather(SubmitOptions, ctx)

    from concept_monitor_cli.cluster import submit

    shares = submit.shares_of(options, console)
    if options.dry_run:
        script = submit.sbatch_script(options, len(shares))
        console.result({"dry_run": True, "tasks": [list(share) for share in shares], "script": script})
        if not console.json:
            console.print(script)
        return DONE
    submission = submit.submit(options, shares, console, say=Console)
    console.result({"dry_run": False, **asdict(submission)})
    if not console.json:
        console.print(f"Job {submission.job}. How it goes: cmon submit --status --out {options.out}")
    return DONE


cmon_command(
    app,
    "dissect",
    examples=[
        ("cmon submit dissect ckpts/ --layer layer4 --partition gpu --gpus 1 --time 2h", "submit it"),
        ("cmon submit dissect ckpts/ --layer layer4 --dry-run", "only show the script"),
    ],
)(with_options_of_dissect(dissect, _own, without=("shard",)))


@cmon_command(app, "status", examples=[("cmon submit --status", "of the run in ./cmon-out")])
def status(console: Console, out: Out = _DEFAULT.out) -> int:
    """Say how the submitted array goes, from the scheduler and from the run's own files.

    Exit code 1 where a task ended before its checkpoints were done: the same submit again continues there.
    """
    from concept_monitor_cli.cluster import submit

    tasks = submit.status(out, console)
    console.result({"job": submit.submitted(out).job, "tasks": [asdict(task) for task in tasks]})

    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("task", "state", "checkpoints", "log"):
        table.add_column(name, overflow="fold")
    for task in tasks:
        said = f"{task.done} of {task.all} done" + (f", {task.failed} unreadable" if task.failed else "")
        table.add_row(str(task.task), task.state, said, str(task.log))
    if not console.json:
        console.print(table)
    return FAILED if any(task.state == "failed" for task in tasks) else DONE
