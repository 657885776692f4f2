"""A job array on a real scheduler."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from stories.conftest import Bench, cmon, make_bench  # noqa: F401

from .conftest import Slurm

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(tmp_path_factory.mktemp("eight"), range(8))


def script(bench: Bench, name: str) -> Path:
    command = shlex.join(
        [sys.executable, "-m", "concept_monitor_cli", *(str(part) for part in bench.dissect(out="array"))]
    )
    path = bench.root / name
    # Task 2 stops to think, so that there is somebody to kill.
    path.write_text(
        f"#!/bin/bash\n#SBATCH --output={bench.root}/log_%a.txt --open-mode=append\n"
        '[ "$SLURM_ARRAY_TASK_ID" = 2 ] && [ ! -e "$WAITED" ] && touch "$WAITED" && sleep 600\n'
        f"exec {command}\n"
    )
    return path


def test_an_array_with_a_killed_task_equals_a_single_process(
    slurm: Slurm,
    eight: Bench,
    cmon: Callable[..., object],  # noqa: F811
) -> None:
    waited = eight.root / "waited"
    job = slurm.run(
        "sbatch", "--parsable", "--array=1-4", f"--export=ALL,WAITED={waited}", script(eight, "array.sbatch")
    )
    # Its first two shares are done before anybody is killed: there must be room for one more at least.
    alone = cmon(*eight.dissect("-q", "--cache-dir", eight.root / "cache_alone"))
    assert alone.code == 0, alone.err  # type: ignore[attr-defined]
    end = time.monotonic() + 240
    while slurm.tasks(job) != ["2 RUNNING"]:
        assert time.monotonic() < end, slurm.tasks(job)
        time.sleep(0.2)
    slurm.run("scancel", "--signal=KILL", "--full", f"{job}_2")
    slurm.wait(job)
    assert waited.exists()
    partly = eight.tables("array")
    assert len(partly) == 6 + 1
    assert partly["concepts.parquet"] != eight.tables()["concepts.parquet"]

    # Submitted again, alone: an array of one, which takes what is missing.
    again = slurm.run(
        "sbatch", "--parsable", "--array=2", f"--export=ALL,WAITED={waited}", script(eight, "array.sbatch")
    )
    slurm.wait(again)
    assert eight.tables("array") == eight.tables()
    log = (eight.root / "log_1.txt").read_text()
    assert "share 1/4 of the checkpoints" in log
    assert all(line[:2].isdigit() for line in log.splitlines() if "note" in line)
