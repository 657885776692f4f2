"""The share of a task, from SLURM's environment."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.models.device import local_gpu, resolve_device
from concept_monitor_cli.options import DissectOptions, ImageShard, Shard
from concept_monitor_cli.study.share import shares_of, slurm_share


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


def step(rank: int, tasks: int, **more: str) -> dict[str, str]:
    """What SLURM sets in a task that `srun` started."""
    numbers = {"SLURM_PROCID": rank, "SLURM_STEP_NUM_TASKS": tasks, "SLURM_LOCALID": rank}
    return {"SLURM_JOB_ID": "5", "SLURM_STEP_ID": "0", **{k: str(v) for k, v in numbers.items()}, **more}


def shares(images: str | None, environment: dict[str, str], **more: Any) -> tuple[str, str]:
    wanted = None if images is None else ImageShard.parse(images)
    found = shares_of(DissectOptions(checkpoints=("c",), shard_images=wanted, **more), environment)
    return str(found.checkpoints), str(found.images)


def test_tasks_share_images_in_groups_and_groups_share_checkpoints() -> None:
    assert [shares("2", step(rank, 4)) for rank in range(4)] == [
        ("1/2", "1/2"),
        ("1/2", "2/2"),
        ("2/2", "1/2"),
        ("2/2", "2/2"),
    ]
    assert [shares("2", array(task, [1, 2])) for task in (1, 2)] == [("1/1", "1/2"), ("1/1", "2/2")]
    assert shares(None, step(1, 2)) == ("2/2", "None")
    assert shares("1", step(1, 2)) == ("2/2", "None")


def test_a_named_part_of_the_images_is_taken() -> None:
    assert shares("2/3", {}) == ("None", "2/3")
    assert shares("2/3", step(1, 4)) == ("None", "2/3")
    assert shares("2/3", {}, shard=Shard(1, 2)) == ("1/2", "2/3")
    assert shares("2", step(1, 2), shard=Shard(1, 4)) == ("1/4", "2/2")


def test_a_part_that_nobody_names_is_refused() -> None:
    for environment, said in (({}, "SLURM started one"), (step(0, 4), "SLURM started 4")):
        with pytest.raises(InputError, match=said) as error:
            shares("3", environment)
        assert "--shard-images I/3" in str(error.value)


@pytest.mark.parametrize("text", ["0", "3/2", "0/2", "two", "1/2/3", "", "-1"])
def test_what_is_no_part_of_the_images(text: str) -> None:
    with pytest.raises(InputError) as error:
        ImageShard.parse(text)
    assert "--shard-images" in str(error.value)


def test_each_task_of_a_step_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [local_gpu(step(rank, 4), 4) for rank in range(4)] == [0, 1, 2, 3]
    assert [local_gpu(step(rank, 4), 2) for rank in range(4)] == [0, 1, 0, 1]
    # Bound by SLURM, alone, a batch script, no SLURM.
    assert local_gpu(step(3, 4), 1) is None
    assert local_gpu(step(0, 1), 4) is None
    assert local_gpu({"SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "4"}, 4) is None
    assert local_gpu({}, 4) is None

    current: list[int | None] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: current.append(device.index))
    assert str(resolve_device("auto")) == "cuda"
    for name, value in step(2, 4).items():
        monkeypatch.setenv(name, value)
    found = [str(resolve_device(name)) for name in ("auto", "cuda", "cuda:1", "cpu")]
    assert found == ["cuda:2", "cuda:2", "cuda:1", "cpu"]
    assert current == [2, 2, 1]
