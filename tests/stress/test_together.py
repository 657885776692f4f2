"""Several processes on one cache and one run at once."""

from __future__ import annotations

import pytest

from .conftest import Stress


def together(stress: Stress, rounds: int) -> None:
    for _ in range(rounds):
        stress.clear()
        running = [stress.start() for _ in range(4)]
        assert [process.wait() for process in running] == [0] * 4, [process.err for process in running]
        # Who wants what another is making waits for it.
        assert sum(process.json()["forward_passes"] for process in running) == 3
        stress.check_all_is_well()


def test_4_processes_at_once_for_3_rounds(stress: Stress) -> None:
    together(stress, 3)


@pytest.mark.slow
def test_4_processes_at_once_for_50_rounds(stress: Stress) -> None:
    together(stress, 50)


def test_shares_at_once_make_the_whole(stress: Stress) -> None:
    """More shares than checkpoints: the fourth has nothing to do, and says so."""
    running = [stress.start("--shard", f"{index}/4") for index in (4, 2, 3, 1)]
    assert [process.wait() for process in running] == [0] * 4, [process.err for process in running]
    assert "nothing to do" in running[0].err
    assert sum(process.json()["forward_passes"] for process in running) == 3
    stress.check_all_is_well()


def test_a_share_cannot_start_the_run_anew(stress: Stress) -> None:
    refused = stress.start("--shard", "1/2", "--overwrite")
    assert refused.wait() == 2
    assert "--overwrite" in refused.err
