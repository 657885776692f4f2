"""Submitting a dissect, and asking how it goes."""

from __future__ import annotations

import json
import time

import pytest
from stories.conftest import Bench, cmon, make_bench  # noqa: F401

from concept_monitor_cli.cluster import submit
from concept_monitor_cli.options import ImageShard, SubmitOptions

from .conftest import Slurm


@pytest.fixture
def four(tmp_path) -> Bench:
    return make_bench(tmp_path, range(4))


def test_dry_run_prints_the_script_and_does_nothing(four: Bench, cmon) -> None:  # noqa: F811
    answer = cmon(
        "submit",
        *four.dissect("--dry-run", "--partition", "gpu", "--gpus", "1", "--time", "2h", "--mem", "32G"),
        "--account",
        "lab",
    )
    assert answer.code == 0, answer.err
    for line in (
        "#SBATCH --partition=gpu",
        "#SBATCH --gpus-per-node=1",
        "#SBATCH --time=120",
        "#SBATCH --mem=32G",
        "#SBATCH --account=lab",
        "#SBATCH --array=0-3%4",
    ):
        assert line in answer.out
    task = answer.out.splitlines()[-1]
    assert task.startswith("cmon dissect ")
    assert task.endswith("--shard I/4")
    assert "--dry-run" not in task
    assert not (four.root / "out").exists()


def test_settings_of_dissect_hold_and_those_of_submit_beat_them(four: Bench, cmon, monkeypatch) -> None:  # noqa: F811
    monkeypatch.chdir(four.root)
    (four.root / "cmon.toml").write_text('[dissect]\nepochs = "0,1,2"\n[submit]\npartition = "gpu"\n')
    answer = cmon("submit", *four.dissect("--dry-run", "--json"))
    assert answer.code == 0, answer.err
    assert [len(names) for names in answer.json()["tasks"]] == [1, 1, 1]
    assert "--partition=gpu" in answer.json()["script"]


def test_what_cannot_be_submitted_is_said(four: Bench, cmon, monkeypatch) -> None:  # noqa: F811
    monkeypatch.setenv("PATH", str(four.root))
    answer = cmon("submit", *four.dissect())
    assert answer.code == 2
    assert "sbatch" in answer.err
    answer = cmon("submit", *four.dissect("--partition", "x\n#SBATCH --uid=0"))
    assert answer.code == 2
    answer = cmon("submit", "--status", "--out", four.root / "out")
    assert answer.code == 2
    assert "nothing was submitted" in answer.err


def test_tasks_of_an_array_share_the_images(four: Bench, cmon) -> None:  # noqa: F811
    answer = cmon("submit", *four.dissect("--dry-run", "--json", "--shard-images", "2", "--tasks", "4"))
    assert answer.code == 0, answer.err
    halves = [[f"epoch_{epoch}.pth" for epoch in epochs] for epochs in ((0, 2), (1, 3))]
    assert answer.json()["tasks"] == [halves[0], halves[0], halves[1], halves[1]]
    assert str(answer.json()["command"]).endswith(" --shard I/2 --shard-images J/2")
    assert "--array=0-3%4" in str(answer.json()["script"])
    options = SubmitOptions(checkpoints=("c",), shard_images=ImageShard(2))
    given = [submit.own_options(options, task, 4) for task in range(4)]
    assert [f"{each.shard} {each.shard_images}" for each in given] == [
        "1/2 1/2",
        "1/2 2/2",
        "2/2 1/2",
        "2/2 2/2",
    ]
    for slip in (("--tasks", "3"), ("--shard-images", "1/2")):
        answer = cmon("submit", *four.dissect("--dry-run", "--shard-images", "2", *slip))
        assert answer.code == 2
        assert slip[1] in answer.err


def test_a_task_whose_part_is_done_waits_for_the_others(four: Bench, cmon, monkeypatch) -> None:  # noqa: F811
    (four.root / "out/slurm").mkdir(parents=True)
    names = [f"epoch_{epoch}.pth" for epoch in range(4)]
    record = {"job": "7", "shares": [names, names]}
    (four.root / "out/slurm/submitted.json").write_text(json.dumps(record))
    for queue, states in (({1: "RUNNING"}, ["ended", "running"]), ({}, ["failed", "failed"])):
        monkeypatch.setattr(submit, "_queue", lambda job, progress, queue=queue: queue)
        found = cmon("submit", "--status", "--json", "--out", four.root / "out").json()["tasks"]
        assert [task["state"] for task in found] == states


@pytest.mark.slurm
def test_submitted_tasks_make_the_run_of_one_process(slurm: Slurm, four: Bench, cmon, monkeypatch) -> None:  # noqa: F811
    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, slurm.env[name])
    less = ("--epochs", "0,1", "--batch-size", "16")
    shared = ("--tasks", "4", "--shard-images", "2")
    answer = cmon("submit", *four.dissect(*less, *shared, "--cpus", "1", "--json"))
    assert answer.code == 0, answer.err
    assert cmon(*four.dissect(*less, "-q", "--cache-dir", four.root / "alone_cache", out="alone")).code == 0
    end = time.monotonic() + 240
    while True:
        answer = cmon("submit", "--status", "--json", "--out", four.root / "out")
        states = [task["state"] for task in json.loads(answer.out)["tasks"]]
        if not {"waiting", "running", "ended"} & set(states):
            break
        assert time.monotonic() < end, states
        time.sleep(1)
    logs = [path.read_text() for path in (four.root / "out/slurm").rglob("*.out")]
    assert states == ["done"] * 4, logs
    assert answer.code == 0
    assert four.tables() == four.tables("alone")
    assert len(logs) == 4


def test_a_refused_submission_leaves_the_run_that_is_there(four: Bench, cmon, monkeypatch) -> None:  # noqa: F811
    assert cmon(*four.dissect("-q", "--epochs", "0,1")).code == 0
    before = four.tables()
    programs = four.root / "programs"
    programs.mkdir()
    refusing = programs / "sbatch"
    refusing.write_text("#!/bin/sh\necho 'sbatch: error: invalid partition specified' >&2\nexit 1\n")
    refusing.chmod(0o755)
    (programs / "squeue").symlink_to(refusing)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    answer = cmon("submit", *four.dissect("--overwrite"))
    assert answer.code == 2
    assert "invalid partition" in answer.err
    assert four.tables() == before
    assert (four.root / "out/run.json").is_file()
    assert not list((four.root / "out").rglob("*.pkl"))


def test_what_was_done_before_is_not_taken_for_what_was_submitted(four: Bench, cmon, monkeypatch) -> None:  # noqa: F811
    """The array waits, or ended at a slip in an option: the run that was there says nothing of it."""
    assert cmon(*four.dissect("-q")).code == 0
    names = [f"epoch_{epoch}.pth" for epoch in range(4)]
    (four.root / "out/slurm").mkdir()
    record = four.root / "out/slurm/submitted.json"
    record.write_text(json.dumps({"job": "7", "shares": [names[:2], names[2:]]}))
    monkeypatch.setenv("PATH", str(four.root))
    status = ("submit", "--status", "--json", "--out", four.root / "out")
    answer = cmon(*status)
    assert answer.code == 1
    assert [(task["state"], task["done"]) for task in answer.json()["tasks"]] == [("failed", 0)] * 2
    assert cmon(*four.dissect("-q", "--shard", "1/2")).code == 0
    assert [(task["state"], task["done"]) for task in cmon(*status).json()["tasks"]] == [("failed", 1)] * 2
    assert cmon(*four.dissect("-q", layer="layer2")).code == 0
    assert cmon(*status).code == 0


def test_tasks_that_start_a_run_anew_clear_it_once(four: Bench, cmon) -> None:  # noqa: F811
    """Whichever comes first; also when one is run again, and when all that one has is broken."""
    from dataclasses import replace

    from concept_monitor_cli.cluster.submit import Task
    from concept_monitor_cli.options import Shard, SubmitOptions

    assert cmon(*four.dissect("-q", layer="layer1")).code == 0
    (four.checkpoints / "epoch_1.pth").write_bytes(b"broken")
    assert cmon(*four.dissect("-q", out="alone")).code == 3
    options = SubmitOptions(
        checkpoints=(str(four.checkpoints),),
        layers=("layer3",),
        probe=str(four.root / "photos"),
        encoder=f"embeddings:{four.root / 'embeddings.h5'}",
        concepts=str(four.root / "words.txt"),
        cache_dir=four.root / "cache",
        out=four.root / "out",
    )
    for index in (3, 2, 1, 3):
        Task(replace(options, shard=Shard(index, 3)), four.root / "out/slurm/anew")()
    assert four.tables() == four.tables("alone")
