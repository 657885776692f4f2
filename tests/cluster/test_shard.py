"""The share of a task, from SLURM's environment."""

from __future__ import annotations

import pytest

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.study.share import slurm_share


def array(task: int, ids: list[int], step: int = 1) -> dict[str, str]:
    """What SLURM sets in a task of an array."""
    return {
        "SLURM_JOB_ID": "17",
        "SLURM_ARRAY_TASK_ID": str(task),
        "SLURM_ARRAY_TASK_COUNT": str(len(ids)),
        "SLURM_ARRAY_TASK_MIN": str(min(ids)),
        "SLURM_ARRAY_TASK_MAX": str(max(ids)),
        "SLURM_ARRAY_TASK_STEP": str(step),
        # The batch script of a task has these, too.
        "SLURM_PROCID": "0",
        "SLURM_NTASKS": "1",
    }


@pytest.mark.parametrize(
    ("ids", "step"), [(list(range(8)), 1), (list(range(1, 9)), 1), (list(range(0, 31, 10)), 10), ([1, 5], 4)]
)
def test_the_tasks_of_an_array_take_all_shares_once(ids: list[int], step: int) -> None:
    shares = [slurm_share(array(task, ids, step)) for task in ids]
    assert [(share.shard.index, share.shard.count) for share in shares if share] == [
        (place, len(ids)) for place in range(1, len(ids) + 1)
    ]


def test_without_min_and_step_the_count_is_enough() -> None:
    found = [
        slurm_share({"SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_TASK_COUNT": "4"}) for task in range(4)
    ]
    assert [str(share.shard) for share in found if share] == ["1/4", "2/4", "3/4", "4/4"]


def test_one_task_submitted_again_alone_takes_everything() -> None:
    assert slurm_share(array(3, [3])) is None


def test_no_slurm_no_share() -> None:
    assert slurm_share({}) is None
    assert slurm_share({"SLURM_JOB_ID": "5", "SLURM_NTASKS": "4"}) is None


def test_an_array_with_gaps_is_refused() -> None:
    with pytest.raises(InputError, match="gaps") as error:
        slurm_share(array(3, [1, 3, 7]))
    assert "--shard" in str(error.value)


def test_tasks_of_srun() -> None:
    step = {"SLURM_JOB_ID": "5", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4"}
    found = [slurm_share({**step, "SLURM_PROCID": str(rank)}) for rank in range(4)]
    assert [str(share.shard) for share in found if share] == ["1/4", "2/4", "3/4", "4/4"]
    plain = slurm_share({"SLURM_PROCID": "2", "SLURM_NTASKS": "4"})
    assert plain is not None
    assert str(plain.shard) == "3/4"


def test_a_batch_script_with_several_tasks_is_no_share() -> None:
    """SLURM says rank 0 of 4 there, though nothing else runs: the other shares would be lost."""
    assert slurm_share({"SLURM_JOB_ID": "5", "SLURM_PROCID": "0", "SLURM_NTASKS": "4"}) is None


def test_srun_inside_an_array() -> None:
    shares = [
        slurm_share(
            {
                **array(task, [1, 2, 3]),
                "SLURM_STEP_ID": "0",
                "SLURM_STEP_NUM_TASKS": "2",
                "SLURM_PROCID": str(rank),
            }
        )
        for task in (1, 2, 3)
        for rank in (0, 1)
    ]
    assert [str(share.shard) for share in shares if share] == [f"{place}/6" for place in range(1, 7)]


@pytest.mark.parametrize("value", ["x", "-1", "1.5"])
def test_nonsense_is_an_input_error(value: str) -> None:
    with pytest.raises(InputError):
        slurm_share({"SLURM_ARRAY_TASK_ID": value, "SLURM_ARRAY_TASK_COUNT": "4"})
    with pytest.raises(InputError):
        slurm_share({"SLURM_PROCID": "9", "SLURM_NTASKS": "4"})
