"""A small study: ten-class checkpoints of a bundled network, photos made by numpy, given embeddings."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from concept_monitor_cli.cli.app import run
from concept_monitor_cli.models.cifar import create_model

WORDS = ("red", "green", "blue", "dark", "bright", "striped", "plain", "sky", "grass", "dog", "cat", "orange")


@dataclass
class Answer:
    """What one call of `cmon` printed and how it ended."""

    code: int
    out: str
    err: str

    def json(self) -> dict[str, object]:
        """The JSON object on standard output."""
        found: dict[str, object] = json.loads(self.out)
        return found


@pytest.fixture
def cmon(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Answer]:
    """Run the command line in this process, without settings of the machine it runs on."""
    for name in os.environ:
        if name.startswith("CMON_"):
            monkeypatch.delenv(name)

    def call(*arguments: object) -> Answer:
        capsys.readouterr()
        code = 0
        with contextlib.suppress(SystemExit):
            code = run([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return Answer(code, said.out, said.err)

    return call


def make_network(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return create_model("cifar_resnet20", num_classes=10).eval()


@dataclass
class Bench:
    """The files of a small study."""

    root: Path

    @property
    def checkpoints(self) -> Path:
        return self.root / "ckpts"

    def add(self, epoch: int, seed: int | None = None) -> Path:
        self.checkpoints.mkdir(exist_ok=True)
        path = self.checkpoints / f"epoch_{epoch}.pth"
        state = make_network(epoch if seed is None else seed).state_dict()
        torch.save(
            {"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": epoch}, path
        )
        return path

    def dissect(self, *more: object, out: str = "out", layer: str = "layer3") -> list[object]:
        """The arguments of an ordinary dissect."""
        return [
            "dissect",
            self.checkpoints,
            "--layer",
            layer,
            "--probe",
            self.root / "photos",
            "--encoder",
            f"embeddings:{self.root / 'embeddings.h5'}",
            "--concepts",
            self.root / "words.txt",
            "--cache-dir",
            self.root / "cache",
            "--out",
            self.root / out,
            *more,
        ]

    def tables(self, out: str = "out") -> dict[str, bytes]:
        """Every table, by its path inside the run."""
        folder = self.root / out / "tables"
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.suffix in (".csv", ".parquet")
        }


def make_bench(root: Path, epochs: Sequence[int] = (0, 5, 10)) -> Bench:
    """Checkpoints of these epochs, 40 photos, 12 words and their embeddings."""
    rng = np.random.default_rng(0)
    photos = root / "photos"
    photos.mkdir()
    for number in range(40):
        base = rng.integers(0, 255, size=(1, 1, 3))
        noise = rng.integers(-40, 40, size=(36, 40, 3))
        Image.fromarray(np.clip(base + noise, 0, 255).astype(np.uint8)).save(photos / f"{number:03d}.png")
    with h5py.File(root / "embeddings.h5", "w") as file:
        file["images"] = rng.normal(size=(40, 16)).astype(np.float32)
        file["texts"] = rng.normal(size=(len(WORDS), 16)).astype(np.float32)
        file.create_dataset("concepts", data=list(WORDS), dtype=h5py.string_dtype())
    (root / "words.txt").write_text("\n".join(WORDS) + "\n")
    bench = Bench(root)
    for epoch in epochs:
        bench.add(epoch)
    return bench


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return make_bench(tmp_path)
