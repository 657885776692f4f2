"""Several processes on one cache and one run at once."""

from __future__ import annotations

import io
import json
import shutil
import signal
from dataclasses import replace

import pytest
import torch
from stories.conftest import Bench, make_network

from .conftest import Disturbance, Stress


def together(stress: Stress, rounds: int) -> None:
    for _ in range(rounds):
        stress.clear()
        running = [stress.start() for _ in range(4)]
        assert [process.wait() for process in running] == [0] * 4, [process.err for process in running]
        # Who wants what another is making waits for it.
        assert sum(process.json()["forward_passes"] for process in running) == 3
        stress.check_all_is_well()


def test_4_processes_at_once(stress: Stress) -> None:
    together(stress, 1)


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


def test_tasks_that_share_the_images_make_the_run_of_one(stress: Stress) -> None:
    """Killed while it sees its part, killed while it joins the parts, then both at once for what is left."""
    less = ("--epochs", "0,5", "--batch-size", "16", "--no-stability", "--no-floors")
    alone = stress.root / "alone"
    one = stress.start(*less, "--out", alone, "--cache-dir", stress.root / "alone_cache")
    seeing = Disturbance(signal.SIGKILL, call="study/passes.py:run_pass", nth=2)
    first = stress.start(*less, "--shard-images", "1/2", disturbance=seeing)
    last = stress.start(*less, "--shard-images", "2/2")
    assert [process.wait() for process in (one, first, last)] == [0, -signal.SIGKILL, 0]
    assert last.err.count("missing: 1/2") >= 1
    joining = Disturbance(signal.SIGKILL, call="study/shared.py:_join", nth=1)
    assert stress.start(*less, "--shard-images", "1/2", disturbance=joining).wait() == -signal.SIGKILL
    running = [stress.start(*less, "--shard-images", part) for part in ("1/2", "2/2")]
    assert [process.wait() for process in running] == [0, 0], [process.err for process in running]
    assert any(process.json()["whole"] for process in running)
    replace(stress, reference=stress.tables(alone)).check_all_is_well()
    assert not list((stress.cache / "part").rglob("*.h5"))


def test_a_share_cannot_start_the_run_anew(stress: Stress) -> None:
    for share in ("--shard", "--shard-images"):
        refused = stress.start(share, "1/2", "--overwrite")
        assert refused.wait() == 2
        assert "--overwrite" in refused.err


def with_broken(stress: Stress, broken: dict[str, bytes]) -> Stress:
    """The same study with some checkpoints that are broken."""
    study = Bench(stress.root / "study")
    study.root.mkdir()
    for name in ("photos", "embeddings.h5", "words.txt"):
        (study.root / name).symlink_to(stress.bench.root / name)
    shutil.copytree(stress.bench.checkpoints, study.checkpoints)
    for name, content in broken.items():
        (study.checkpoints / name).write_bytes(content)
    return replace(stress, bench=study)


def test_an_unreadable_file_is_reported_by_one_share(stress: Stress) -> None:
    stress = with_broken(stress, {"epoch_7.pth": b"<html>404</html>", "epoch_8.pth": b"PK\x03\x04"})
    running = [stress.start("--epochs", "0,5", "--shard", f"{index}/2") for index in (1, 2)]
    assert [process.wait() for process in running] == [3, 3], [process.err for process in running]
    failed = [set(process.json()["failed"]) for process in running]
    assert failed == [{"epoch_7.pth"}, {"epoch_8.pth"}]
    info = json.loads((stress.out / "run.json").read_text())
    assert set(info["unreadable"]) == {"epoch_7.pth", "epoch_8.pth"}
    (stress.bench.checkpoints / "epoch_8.pth").unlink()
    again = [stress.start("--epochs", "0,5", "--shard", f"{index}/2") for index in (1, 2)]
    assert [process.wait() for process in again] == [3, 0], [process.err for process in again]


@pytest.mark.parametrize("last", [1, pytest.param(2, marks=pytest.mark.slow), 3])
def test_a_share_of_broken_checkpoints_leaves_the_run_complete(stress: Stress, last: int) -> None:
    """Whichever ends last: two with a checkpoint each, one with a broken one."""
    network = make_network(1)
    with torch.no_grad():
        network.layer2[0].conv1.weight[0] = float("nan")
    buffer = io.BytesIO()
    torch.save({"state_dict": network.state_dict(), "epoch": 5}, buffer)
    stress = with_broken(stress, {"epoch_5.pth": buffer.getvalue()})
    codes = {}
    for index in [share for share in (1, 2, 3) if share != last] + [last]:
        codes[index] = stress.start("--shard", f"{index}/3").wait()
    assert codes == {1: 0, 2: 3, 3: 0}
    info = json.loads((stress.out / "run.json").read_text())
    assert [item["status"] for item in info["checkpoints"]] == ["done", "failed", "done"]
    alone = stress.root / "alone"
    assert stress.start("--out", alone).wait() == 3
    assert stress.tables() == stress.tables(alone)
    assert json.loads((alone / "run.json").read_text())["checkpoints"] == info["checkpoints"]
