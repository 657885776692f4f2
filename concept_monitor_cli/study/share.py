"""Which checkpoints, and which of their images, are this process's: as asked for, else as SLURM tells it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.options import DissectOptions, Shard


@dataclass(frozen=True)
class SlurmShare:
    """A share, and where it was read.

    Attributes:
        shard: the share.
        source: what said so, as part of a sentence: `SLURM array task 3 of 1-8`.
    """

    shard: Shard
    source: str


@dataclass(frozen=True)
class Shares:
    """What is this process's.

    Attributes:
        checkpoints: the share of them; `None`: all.
        images: the part of the images of each; `None`: all.
        notes: for the user, where SLURM said it.
    """

    checkpoints: Shard | None
    images: Shard | None
    notes: tuple[str, ...] = ()


def shares_of(options: DissectOptions, environment: Mapping[str, str]) -> Shares:
    """This process's share of the checkpoints, and its part of the images of each.

    Of the tasks that SLURM started, `N` neighbours share the images of one checkpoint (`--shard-images N`),
    and such groups share the checkpoints. What is named (`--shard I/N`, `--shard-images I/N`) is taken.

    Args:
        options: what was asked for.
        environment: the environment variables, as `os.environ`.

    Raises:
        InputError: it cannot be known; or a share of a run that is to be started anew, which would remove
            what the others made.
    """
    wanted, checkpoints = options.shard_images, options.shard
    images = None if wanted is None or wanted.index is None else Shard(wanted.index, wanted.count)
    notes: tuple[str, ...] = ()
    share = None
    if images is None and (checkpoints is None or wanted is not None):
        share = slurm_share(environment)
    if images is None and wanted is not None and wanted.count > 1:
        images = _part_of_images(wanted.count, share)
        notes = (f"part {images} of the images: this is {share.source}",) if share is not None else ()
    if share is not None and checkpoints is None:
        together = 1 if images is None else images.count
        checkpoints = Shard((share.shard.index - 1) // together + 1, share.shard.count // together)
        if checkpoints.count > 1:
            notes = (*notes, f"share {checkpoints} of the checkpoints: this is {share.source}")
    if options.overwrite and any(each is not None and each.count > 1 for each in (checkpoints, images)):
        raise InputError(
            "one of several shares cannot start the run anew: it would remove what the others made",
            where="--overwrite",
            hint=f"remove {options.out} before, or choose another folder with --out",
        )
    return Shares(checkpoints, None if images is None or images.count == 1 else images, notes)


def _part_of_images(count: int, share: SlurmShare | None) -> Shard:
    """The part of one of several tasks that SLURM started.

    Raises:
        InputError: SLURM started none, or a number of them that cannot be grouped.
    """
    if share is None or share.shard.count % count:
        started = "SLURM started one" if share is None else f"SLURM started {share.shard.count}"
        raise InputError(
            f"the images are to be shared over groups of {count} tasks, and {started}",
            where=f"--shard-images {count}",
            hint=f"start {count} tasks, or a multiple of that; or name the part: --shard-images I/{count}",
        )
    return Shard((share.shard.index - 1) % count + 1, count)


def slurm_share(environment: Mapping[str, str]) -> SlurmShare | None:
    """The share of this task in a job array, among the tasks of an `srun`, or in both at once.

    Tasks of an array are counted from `SLURM_ARRAY_TASK_MIN` in steps of `SLURM_ARRAY_TASK_STEP`, so that
    `--array=0-7`, `1-8` and `0-30:10` all share out everything. An array of other tasks, as when some are
    submitted again (`--array=3` or `--array=1,5`), is an array of its own, of that many shares: what is done
    already costs it nothing.

    `SLURM_PROCID` counts only for tasks that `srun` (or `mpirun`) started. A batch script itself also has
    it, always 0, next to a number of tasks that do not run yet.

    Args:
        environment: the environment variables, as `os.environ`.

    Returns:
        The share; `None` where there is no SLURM, or just one task.

    Raises:
        InputError: an array with gaps, where a task cannot know its place; or numbers that make no sense.
    """
    index, count, sources = 0, 1, []
    array = _array_place(environment)
    if array is not None:
        index, count, source = array
        sources.append(source)
    task = _task_place(environment)
    if task is not None:
        rank, tasks, source = task
        index, count = index * tasks + rank, count * tasks
        sources.append(source)
    if count == 1:
        return None
    return SlurmShare(Shard(index + 1, count), ", ".join(sources))


def _array_place(environment: Mapping[str, str]) -> tuple[int, int, str] | None:
    """Place from 0, number of places, and words for it, in a job array of more than one task."""
    task = _number(environment, "SLURM_ARRAY_TASK_ID")
    if task is None:
        return None
    count = _number(environment, "SLURM_ARRAY_TASK_COUNT")
    first = _number(environment, "SLURM_ARRAY_TASK_MIN")
    last = _number(environment, "SLURM_ARRAY_TASK_MAX")
    step = _number(environment, "SLURM_ARRAY_TASK_STEP") or 1
    if count is None:
        if first is None or last is None:
            raise InputError(
                "this is a task of a job array whose size SLURM does not say",
                where=f"SLURM_ARRAY_TASK_ID={task}",
                hint="name the share yourself: --shard I/N",
            )
        count = (last - first) // step + 1
    if count == 1:
        return None
    # Without MIN there is only the usual way to count: from 0 or from 1 up to the number of tasks.
    first = first if first is not None else (1 if task == count else 0)
    place, rest = divmod(task - first, step)
    with_gaps = last is not None and last - first != step * (count - 1)
    if with_gaps or rest or not 0 <= place < count:
        raise InputError(
            "the job array has gaps, so a task cannot know which share is its own",
            where=f"SLURM_ARRAY_TASK_ID={task}, {count} tasks from {first}"
            + ("" if last is None else f" to {last}"),
            hint="use an array without gaps (--array=1-8), or name the share yourself: --shard I/N",
        )
    return place, count, f"task {task} of a SLURM array of {count}"


def _task_place(environment: Mapping[str, str]) -> tuple[int, int, str] | None:
    """Rank, number of ranks, and words for it, among several tasks of one job step."""
    rank = _number(environment, "SLURM_PROCID")
    tasks = _number(environment, "SLURM_STEP_NUM_TASKS") or _number(environment, "SLURM_NTASKS")
    if rank is None or tasks is None or tasks == 1:
        return None
    if "SLURM_JOB_ID" in environment and "SLURM_STEP_ID" not in environment:
        return None  # the batch script itself
    if not 0 <= rank < tasks:
        raise InputError(
            "SLURM's numbers make no sense",
            where=f"SLURM_PROCID={rank}, SLURM_NTASKS={tasks}",
            hint="name the share yourself: --shard I/N, or --shard 1/1 for all",
        )
    return rank, tasks, f"task {rank} of {tasks} of a SLURM step"


def _number(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name, "").strip()
    if not text:
        return None
    if not text.isdecimal():
        raise InputError(
            f"{text!r} is not a number",
            where=name,
            hint="name the share yourself: --shard I/N, or --shard 1/1 for all",
        )
    return int(text)
