"""A dissect as a SLURM job array, through submitit, and how it goes."""

from __future__ import annotations

import getpass
import json
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from concept_monitor_cli.errors import CmonError, InputError
from concept_monitor_cli.options import ImageShard, Shard, SubmitOptions
from concept_monitor_cli.progress import SILENT, Progress, Silent
from concept_monitor_cli.run import RunFolder
from concept_monitor_cli.store import write_text_atomic

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

MOST_TASKS = 8
"""An array has one task per checkpoint (and part of its images), but by default no more than this."""

WARNING_SECONDS = 90
"""So long before its time is up SLURM warns a task, which then ends tidily and is queued again."""

_FOLDER = "slurm"

TaskState = Literal["done", "part done", "ended", "running", "waiting", "failed"]


@dataclass(frozen=True)
class Submission:
    """An array that was submitted, as `slurm/submitted.json` in the run folder has it.

    Attributes:
        job: SLURM's number of the array.
        shares: for each task, the names of its checkpoints.
    """

    job: str
    shares: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class TaskStatus:
    """How one task goes.

    Attributes:
        task: its number in the array.
        state: `waiting` and `running` say the scheduler; `done`, `part done` (some of its checkpoints cannot
            be read), `ended` (its checkpoints wait for tasks that record other parts of their images) and
            `failed` (it ended before its checkpoints were done) say the run's own files.
        done, failed, all: numbers of checkpoints; done or failed since the array was submitted.
        log: what it printed.
    """

    task: int
    state: TaskState
    done: int
    failed: int
    all: int
    log: Path


class Task:
    """What a task of the array does; submitit pickles it.

    submitit catches the warning before the time is up or the node is given to somebody else, asks for
    `checkpoint`, and puts the task into the queue again. What was finished is in the store and the run.

    Args:
        options: of the dissect.
        anew: says that the run was started anew, by whichever task of this array came first; `None`: the run
            that is there is added to.
        say: makes what is told of the work, in the task.
    """

    def __init__(
        self, options: SubmitOptions, anew: Path | None = None, say: Callable[[], Progress] = Silent
    ) -> None:
        self.options = options
        self.anew = anew
        self.say = say

    def __call__(self) -> dict[str, Any]:
        """Dissect this share."""
        from concept_monitor_cli.stories.dissect import dissect

        begin = None if self.anew is None else partial(RunFolder.clear_once, marker=self.anew)
        result = dissect(self.options, self.say(), begin=begin)
        return {"done": result.done, "failed": result.failed}

    def checkpoint(self) -> DelayedSubmission:
        """The same again: it continues where this one ended."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def shares_of(options: SubmitOptions, progress: Progress = SILENT) -> tuple[tuple[str, ...], ...]:
    """The checkpoints of each task; neighbours that share the images of the same ones have the same.

    Raises:
        InputError: there are no checkpoints, or the tasks cannot be grouped.
    """
    from concept_monitor_cli.study import Study

    together = images_over(options)
    if (options.tasks or together) % together:
        raise InputError(
            f"{options.tasks} tasks cannot share images in groups of {together}",
            where=f"--tasks {options.tasks}",
            hint=f"take a multiple of {together}, as --shard-images says",
        )
    alone = replace(options, shard=Shard(1, 1), shard_images=None, overwrite=False)
    study = Study(alone, progress)
    files = study.files
    for broken in study.unreadable:
        progress.warning(f"{broken.name} is left out: {broken.error.what}")
    groups = min(max(1, (options.tasks or MOST_TASKS) // together), len(files))
    shares = (tuple(file.name for file in files[first::groups]) for first in range(groups))
    return tuple(share for share in shares for _ in range(together))


def images_over(options: SubmitOptions) -> int:
    """How many tasks share the images of a checkpoint.

    Raises:
        InputError: one of the parts was named; each task gets its own.
    """
    wanted = options.shard_images
    if wanted is None:
        return 1
    if wanted.index is not None:
        raise InputError(
            "the tasks of an array get a part of the images each",
            where=f"--shard-images {wanted}",
            hint=f"--shard-images {wanted.count}",
        )
    return wanted.count


def own_options(options: SubmitOptions, task: int, tasks: int) -> SubmitOptions:
    """The options of one task, from 0: its share of the checkpoints and its part of their images."""
    together = images_over(options)
    shard = Shard(task // together + 1, tasks // together)
    part = None if together == 1 else ImageShard(together, task % together + 1)
    return replace(options, shard=shard, shard_images=part)


def sbatch_script(options: SubmitOptions, tasks: int) -> str:
    """The script that `submit` hands to sbatch."""
    from submitit.slurm.slurm import _make_sbatch_string

    folder = options.out.resolve() / _FOLDER
    text: str = _make_sbatch_string(
        command=f"{sys.executable} -u -m submitit.core._submit {folder / '%j'}",
        folder=folder / "%j",
        map_count=tasks if tasks > 1 else None,
        **_parameters(options),
    )
    return text


def submit(
    options: SubmitOptions,
    shares: tuple[tuple[str, ...], ...],
    progress: Progress = SILENT,
    *,
    say: Callable[[], Progress] = Silent,
) -> Submission:
    """Submit the array.

    Args:
        options: what to dissect, and what to ask for.
        shares: the checkpoints of each task.
        progress: told what was submitted.
        say: makes what is told of the work, in each task.

    Raises:
        InputError: there is no SLURM here, or it refuses.
    """
    if shutil.which("sbatch") is None:
        raise InputError(
            "there is no SLURM on this machine (no sbatch)",
            hint="run it on a login node of the cluster; --dry-run shows the script anywhere",
        )
    from submitit.core.utils import FailedJobError
    from submitit.slurm.slurm import SlurmExecutor

    tasks = len(shares)
    folder = options.out.resolve() / _FOLDER
    before = set(folder.glob("*.pkl"))
    # Not cleared here: SLURM may refuse, or an option be wrong, and the run that is there be lost for it.
    anew = folder / f"anew-{secrets.token_hex(8)}" if options.overwrite else None
    executor = SlurmExecutor(folder=folder / "%j")
    executor.update_parameters(**_parameters(options))
    base = _from_anywhere(replace(options, overwrite=False))
    try:
        with executor.batch():
            jobs = [
                executor.submit(Task(own_options(base, index, tasks), anew, say)) for index in range(tasks)
            ]
    except FailedJobError as error:
        for path in set(folder.glob("*.pkl")) - before:
            path.unlink(missing_ok=True)
        last = str(error).strip().splitlines()[-1]
        raise InputError(f"SLURM refuses: {last}", where="sbatch", hint="see --dry-run") from error
    submission = Submission(str(jobs[0].job_id).partition("_")[0], shares)
    write_text_atomic(_record(options.out), json.dumps(asdict(submission), indent=2) + "\n")
    progress.notice(f"submitted: job {submission.job}, {tasks} tasks, by {getpass.getuser()}")
    return submission


def _record(out: Path) -> Path:
    return out / _FOLDER / "submitted.json"


def _from_anywhere(options: SubmitOptions) -> SubmitOptions:
    """Folders as seen from wherever a task starts."""
    return replace(
        options,
        out=options.out.resolve(),
        cache_dir=options.cache.resolve(),
    )


def _parameters(options: SubmitOptions) -> dict[str, Any]:
    wanted: Mapping[str, Any] = {
        "job_name": "cmon",
        "partition": options.partition,
        "account": options.account,
        "gpus_per_node": options.gpus or None,
        "cpus_per_task": options.cpus,
        "mem": options.mem,
        "time": options.time,
        "signal_delay_s": WARNING_SECONDS,
        "stderr_to_stdout": True,
        "setup": [f"export OMP_NUM_THREADS={options.cpus}"],
    }
    return {name: value for name, value in wanted.items() if value is not None}


def submitted(out: Path) -> Submission:
    """The array that was last submitted for this run.

    Raises:
        InputError: none was.
    """
    path = _record(out)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Submission(str(content["job"]), tuple(tuple(share) for share in content["shares"]))
    except FileNotFoundError as error:
        raise InputError(
            "nothing was submitted for this run",
            where=out,
            hint="cmon submit dissect CKPTS --layer NAME, or name another run with --out",
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError("the record of what was submitted cannot be read", where=path) from error


def status(out: Path, progress: Progress = SILENT) -> list[TaskStatus]:
    """How the tasks of the last array go, from the scheduler and from the run's own files.

    Raises:
        InputError: none was submitted for this run.
        CmonError: the scheduler does not answer.
    """
    submission = submitted(out)
    queue = _queue(submission.job, progress)
    run = RunFolder(out)
    # What earlier commands did, maybe with other layers, does not count.
    since = _record(out).stat().st_mtime_ns
    states = {
        record.name: record.status
        for record in run.checkpoints()
        if (run.tables / record.folder / "checkpoint.json").stat().st_mtime_ns >= since
    }
    found = []
    for task, names in enumerate(submission.shares):
        done = sum(states.get(name) == "done" for name in names)
        failed = sum(states.get(name) == "failed" for name in names)
        number = task if len(submission.shares) > 1 else None
        state: TaskState
        if number in queue:
            state = "waiting" if queue[number] in ("PENDING", "REQUEUED", "SUSPENDED") else "running"
        elif done == len(names):
            state = "done"
        elif done + failed == len(names):
            state = "part done"
        elif any(other in queue for other, same in enumerate(submission.shares) if same == names):
            state = "ended"
        else:
            state = "failed"
        job = submission.job if number is None else f"{submission.job}_{number}"
        log = out / _FOLDER / submission.job / f"{job}_0_log.out"
        found.append(TaskStatus(task, state, done, failed, len(names), log))
    return found


def _queue(job: str, progress: Progress) -> dict[int | None, str]:
    """State of each task that waits or runs; without SLURM only the files speak."""
    if shutil.which("squeue") is None:
        progress.warning("there is no SLURM on this machine: only the run's own files are looked at")
        return {}
    try:
        asked = subprocess.run(
            ["squeue", "--noheader", "--array", "--jobs", job, "--format", "%K %T"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CmonError("the scheduler does not answer", where="squeue", hint="try later") from error
    if asked.returncode:
        # A job that ended some minutes ago is not known any more.
        if "Invalid job id" in asked.stderr:
            return {}
        raise CmonError(f"the scheduler does not answer: {asked.stderr.strip()}", where="squeue")
    found: dict[int | None, str] = {}
    for line in asked.stdout.splitlines():
        task, _, state = line.strip().partition(" ")
        found[int(task) if task.isdecimal() else None] = state
    return found
