"""`Monitor` in a plain loop: the tables of its checkpoints, the training as without it, what goes wrong."""

from __future__ import annotations

import gc
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import concept_monitor_cli as cmon
from concept_monitor_cli.cli.app import run as command
from concept_monitor_cli.stories.recorder import open_checkpoint

from .conftest import REPOSITORY, LiveBench, own_network, small_network


def steps(network: nn.Module, epochs: int, *, start: int = 0) -> Any:
    """A training with drop-out and an order of its own, so that every random number counts."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for epoch in range(start, start + epochs):
        network.train()
        for _ in range(2):
            images, classes = torch.randn(8, 3, 32, 32), torch.randint(0, 4, (8,))
            optimizer.zero_grad()
            nn.functional.cross_entropy(nn.functional.dropout(network(images), 0.2), classes).backward()
            optimizer.step()
        yield epoch


def save(bench: LiveBench, network: nn.Module, epoch: int) -> None:
    bench.checkpoints.mkdir(exist_ok=True)
    torch.save({"state_dict": network.state_dict(), "epoch": epoch}, bench.checkpoints / f"epoch_{epoch}.pth")


def test_three_epochs_give_the_tables_of_their_checkpoints(bench: LiveBench) -> None:
    network = small_network()
    monitor = cmon.Monitor(**bench.inputs(floors=True))
    passes = []
    for epoch in steps(network, 3):
        visit = monitor(network, epoch)
        passes.append((visit.forward_passes, visit.floor_passes))
        save(bench, network, epoch)
    assert bench.all_tables("live") == bench.dissected("--floors")
    assert passes == [(1, 1), (1, 0), (1, 0)]
    assert (monitor.visits, monitor.failed) == (3, {})
    # ... and the training went on as it would have without.
    alone = small_network()
    for _ in steps(alone, 3):
        pass
    for (name, mine), other in zip(network.state_dict().items(), alone.state_dict().values(), strict=True):
        assert torch.equal(mine, other), name


def test_only_every_second_epoch(bench: LiveBench) -> None:
    network = own_network()
    monitor = cmon.Monitor(**bench.inputs(layers="norm", input_size=32, every=2))
    visits = [monitor(network, epoch) for epoch in range(4)]
    assert [visit is None for visit in visits] == [False, True, False, True]
    assert monitor.run.epochs == [0, 2]


@pytest.mark.slow
def test_memory_is_flat_over_fifty_calls(bench: LiveBench) -> None:
    """Tensors that are alive, and pages of the process, from the 10th call to the 60th."""
    network = own_network()
    monitor = cmon.Monitor(**bench.inputs(layers="norm", input_size=32, keep_weights=False))
    counted = []
    for epoch in range(60):
        with torch.no_grad():
            network.conv.weight += 0.01
        monitor(network, epoch)
        gc.collect()
        counted.append((sum(isinstance(each, torch.Tensor) for each in gc.get_objects()), resident()))
    tensors, pages = zip(*counted[10:], strict=True)
    assert len(set(tensors)) == 1
    assert pages[-1] - pages[0] < 20e6, f"{(pages[-1] - pages[0]) / 1e6:.1f} MB more after 50 calls"
    print(f"{(pages[-1] - pages[0]) / 1e6:.1f} MB more after 50 calls")


def resident() -> int:
    status = Path("/proc/self/status")
    if not status.is_file():
        pytest.skip("the memory of a process is read from /proc")
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


# -- killed and taken up again ----------------------------------------------------------------

TRAINING = """
import os, signal, sys
from pathlib import Path

import concept_monitor_cli as cmon
from concept_monitor_cli.run import RunFolder
from tests.library.conftest import LiveBench, own_network
from tests.library.test_monitor import epoch_of_the_training

root, out, start, fatal = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
bench, network = LiveBench(root), own_network()
written = {"table": RunFolder.write_table, "checkpoint": RunFolder.write_checkpoint}
calls = 0

def then_killed(which):
    def write(self, *args):
        global calls
        calls += which == fatal
        if which == fatal and calls == 2 + (which == "checkpoint"):
            os.kill(os.getpid(), signal.SIGKILL)
        return written[which](self, *args)
    return write

RunFolder.write_table, RunFolder.write_checkpoint = then_killed("table"), then_killed("checkpoint")
monitor = cmon.Monitor(**bench.inputs(out, layers="norm", input_size=32))
for epoch in range(start, 3):
    monitor(epoch_of_the_training(network, epoch), epoch)
"""


def train(bench: LiveBench, start: int = 0, fatal: str = "never") -> int:
    return subprocess.run(
        [sys.executable, "-c", TRAINING, str(bench.root), "killed", str(start), fatal],
        cwd=REPOSITORY,
        check=False,
    ).returncode


def epoch_of_the_training(network: nn.Module, epoch: int) -> nn.Module:
    """What the network of `TRAINING` is after an epoch."""
    with torch.no_grad():
        network.conv.weight.fill_(0.01).mul_(epoch + 1).add_(torch.arange(27.0).view(3, 3, 3) / 50)
    return network


@pytest.mark.parametrize("fatal", ["table", "checkpoint"])
def test_a_training_that_is_killed_leaves_a_run_that_continues(bench: LiveBench, fatal: str) -> None:
    """Killed in the second epoch: before its table is written, and between that and its record."""
    assert train(bench, fatal=fatal) == -signal.SIGKILL
    killed = cmon.open_run(bench.root / "killed", cache_dir=bench.root / "cache-live")
    assert killed.epochs == [0]
    assert train(bench, start=1) == 0
    whole = cmon.Monitor(**bench.inputs("whole", layers="norm", input_size=32))
    network = own_network()
    for epoch in range(3):
        whole(epoch_of_the_training(network, epoch), epoch)
    assert bench.all_tables("killed") == bench.all_tables("whole")


def changed(network: nn.Module, by: float) -> nn.Module:
    with torch.no_grad():
        network.conv.weight.mul_(1 + by)
    return network


def test_epochs_that_are_trained_once_more_replace_what_was_there(
    bench: LiveBench, caplog: pytest.LogCaptureFixture
) -> None:
    asked = bench.inputs(layers="norm", input_size=32)
    network = own_network()
    first = cmon.Monitor(**asked)
    for epoch in range(4):
        first(changed(network, 0.1), epoch)
    again = cmon.Monitor(**asked)
    again(own_network(seed=5), 2)
    assert again.run.epochs == [0, 1, 2]
    assert sorted(path.name for path in (bench.root / "live/weights").iterdir()) == [
        f"epoch_{epoch}.pth" for epoch in range(3)
    ]
    assert "(3) is removed" in caplog.text
    with pytest.raises(cmon.InputError, match="another training"):
        cmon.Monitor(**asked)(own_network(seed=6), 0)
    assert again.run.epochs == [0, 1, 2]
    anew = cmon.Monitor(**asked, overwrite=True)
    anew(own_network(seed=6), 0)
    assert anew.run.epochs == [0]


def test_a_run_of_checkpoints_elsewhere_is_left_alone(bench: LiveBench) -> None:
    network = small_network()
    for epoch in (0, 1, 2):
        save(bench, small_network(epoch), epoch)
    before = bench.dissected(out="live")
    shared = bench.inputs(cache_dir=bench.root / "cache")
    with pytest.raises(cmon.InputError, match="another checkpoint for epoch 1"):
        cmon.Monitor(**shared)(network, 1)
    with pytest.raises(cmon.InputError, match="other settings"):
        cmon.Monitor(**{**shared, "stability": True})(network, 1)
    assert bench.all_tables("live") == before
    assert not (bench.root / "live" / "weights").exists()


# -- what goes wrong ----------------------------------------------------------------


def test_a_training_that_diverges_goes_on(bench: LiveBench, caplog: pytest.LogCaptureFixture) -> None:
    network = own_network()
    monitor = cmon.Monitor(**bench.inputs(layers="norm", input_size=32))
    assert monitor(network, 0) is not None
    good = network.conv.weight.detach().clone()
    network.conv.weight.data.fill_(float("nan"))
    assert monitor(network, 1) is None
    assert "NaN" in monitor.failed[1]
    assert "epoch_1.pth is not monitored" in caplog.text
    network.conv.weight.data.copy_(good * 2)
    assert monitor(network, 2) is not None
    status = {record.epoch: record.status for record in monitor.run.checkpoints}
    assert status == {0: "done", 1: "failed", 2: "done"}


def test_what_cannot_work_ends_the_training_at_its_first_visit_and_not_later(bench: LiveBench) -> None:
    with pytest.raises(cmon.InputError, match="no layer"):
        cmon.Monitor(**bench.inputs(layers="no_such"))(own_network(), 0)
    with pytest.raises(cmon.InputError, match="does not fit"):
        cmon.Monitor(**bench.inputs(layers="norm", architecture="resnet18"))(own_network(), 0)
    network: Any = own_network()
    monitor = cmon.Monitor(**bench.inputs(layers="norm", input_size=32))
    monitor(network, 0)
    network.fails = True
    assert monitor(network, 1) is None
    assert "cannot be run" in monitor.failed[1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"every": 0}, "every 0 epochs"),
        ({"name": "last.pth"}, "names every epoch alike"),
        ({"name": "{batch}.pth"}, "no pattern of names"),
        ({"bases": "pca:4"}, "fitted to the last checkpoint"),
    ],
)
def test_bad_options_are_refused_before_the_training(
    bench: LiveBench, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(cmon.InputError, match=said):
        cmon.Monitor(**bench.inputs(**changes))


def test_there_is_no_negative_epoch(bench: LiveBench) -> None:
    with pytest.raises(cmon.InputError, match="no epoch -1"):
        cmon.Monitor(**bench.inputs())(own_network(), -1)


# -- read by everything else ----------------------------------------------------------------


def test_every_command_reads_the_run(bench: LiveBench, capsys: pytest.CaptureFixture[str]) -> None:
    network = small_network()
    monitor = cmon.Monitor(**bench.inputs())
    for epoch in steps(network, 2):
        monitor(network, epoch)
    out, cache = ["--out", str(bench.root / "live")], ["--cache-dir", str(bench.root / "cache-live")]
    for words in (
        ["units"],
        ["embed", "--anchors", "red,dog", "--method", "pca"],
        ["stats"],
        ["dynamics"],
        ["report"],
    ):
        assert command([*words, *out, *cache, "-q"]) == 0, words
    capsys.readouterr()
    run = monitor.run
    assert {"statistics", "units", "embedding", "similarity"} <= set(run.tables)
    assert run.plots
    # `evaluate` opens the checkpoints again: they are those of the tables.
    for record in run.checkpoints:
        assert open_checkpoint(record).digest == record.weights
    # What a logger gets are the numbers of the table.
    table = run.table("statistics")
    table = table[(table["category"] == "all") & (table["epoch"] == 1)].iloc[0]
    scalars = run.scalars(1)
    assert len(scalars) > 8
    for name, value in scalars.items():
        layer, detector, column = name.split("/")
        assert (layer, detector) == ("layer1", "clip-dissect")
        assert value == pytest.approx(float(table[column]), rel=1e-6)


def test_tensorboard_shows_the_numbers(bench: LiveBench, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path / "board")) as writer:
        monitor = cmon.Monitor(
            **bench.inputs(layers="norm", input_size=32), loggers=[cmon.to_tensorboard(writer)]
        )
        for epoch in (0, 4):
            monitor(changed(own_network(), epoch), epoch)
    board = EventAccumulator(str(tmp_path / "board")).Reload()
    expected = {f"cmon/{name}": value for name, value in monitor.run.scalars(4).items()}
    assert expected
    assert set(board.Tags()["scalars"]) == set(expected)
    for name, value in expected.items():
        shown = board.Scalars(name)
        assert [event.step for event in shown] == [0, 4]
        assert shown[1].value == pytest.approx(value, rel=1e-6)


def test_wandb_keeps_the_numbers_offline(
    bench: LiveBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb", reason="W&B is not installed")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    with wandb.init(mode="offline", project="cmon-test") as run:
        monitor = cmon.Monitor(**bench.inputs(layers="norm", input_size=32), loggers=[cmon.to_wandb(run)])
        monitor(own_network(), 3)
        summary = dict(run.summary)
    assert summary["cmon/epoch"] == 3
    for name, value in monitor.run.scalars(3).items():
        assert summary[f"cmon/{name}"] == pytest.approx(value)
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def test_what_was_assumed_is_in_the_run(bench: LiveBench) -> None:
    monitor = cmon.Monitor(**bench.inputs(layers="norm", input_size=32))
    monitor(own_network(), 0)
    info = json.loads((bench.root / "live/run.json").read_text())
    assert any(note.startswith("input: ") for note in info["notices"])
    assert info["notices"] == monitor.run.notices
