"""Networks in memory, some photos, and the same study once more from the command line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from concept_monitor_cli.cli.app import run
from concept_monitor_cli.models.cifar import create_model
from tests.stories.conftest import Bench, make_bench

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in os.environ:
        if name.startswith("CMON_"):
            monkeypatch.delenv(name)
    return


class LiveBench(Bench):
    """The bench, for the library: what is seen in memory is kept in another store than what is dissected."""

    def inputs(self, out: str = "live", **more: Any) -> dict[str, Any]:
        """The arguments of `dissect_model` and `Monitor`, for the study that `dissect` makes."""
        values: dict[str, Any] = {
            "images": self.root / "photos",
            "layers": "layer1",
            "concepts": self.root / "words.txt",
            "encoder": f"embeddings:{self.root / 'embeddings.h5'}",
            "out": self.root / out,
            "cache_dir": self.root / "cache-live",
            "name": "epoch_{epoch}.pth",
            # Most tests do without what takes longest; one has everything.
            "floors": False,
            "stability": False,
        }
        return {**values, **more}

    def dissected(self, *more: object, **where: Any) -> dict[str, bytes]:
        """The tables of `cmon dissect` of the checkpoints."""
        where = {"layer": "layer1", **where}
        arguments = self.dissect("-q", "--no-floors", "--no-stability", *more, **where)
        assert run([str(argument) for argument in arguments]) == 0
        return self.all_tables(where.get("out", "out"))

    def all_tables(self, out: str) -> dict[str, bytes]:
        """Every table of concepts, those of random weights too; not what is counted in these afterwards."""
        folder = self.root / out / "untrained"
        random = {f"untrained/{path.name}": path.read_bytes() for path in sorted(folder.rglob("*.csv"))}
        named = {
            name: content
            for name, content in self.tables(out).items()
            if name.startswith("epoch_") or name == "concepts.parquet"
        }
        assert len(named) > 1
        return {**named, **random}


@pytest.fixture
def bench(tmp_path: Path) -> LiveBench:
    return LiveBench(make_bench(tmp_path, epochs=()).root)


def small_network(seed: int = 0) -> nn.Module:
    """What `dissect` recognises: a bundled ResNet for CIFAR-10."""
    torch.manual_seed(seed)
    return create_model("cifar_resnet20", num_classes=10)


class Own(nn.Module):
    """A network that nobody knows, which can fail, count its calls, and be other than its weights say."""

    def __init__(self, negative: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 4)
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.negative = negative
        self.fails = False
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.seen += 1
        if self.fails:
            raise RuntimeError("this network cannot be run")
        x = self.norm(self.conv(x))
        x = torch.relu(-x if self.negative else x)
        return self.head(self.drop(x).mean((2, 3)))


def own_network(seed: int = 0, **how: Any) -> Own:
    torch.manual_seed(seed)
    return Own(**how)


@pytest.fixture
def factory(tmp_path: Path) -> str:
    """What builds `Own`, for `--model`."""
    path = tmp_path / "own.py"
    path.write_text("from tests.library.conftest import Own\n\n\ndef make():\n    return Own()\n")
    return f"{path}:make"
