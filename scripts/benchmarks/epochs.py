"""Long runs: what each reading command costs at 10, 30 and 60 checkpoints of two layers of 2,048 units.

The network is made up: two layers that read the image at 8 x 8 pixels, whose weights wander between random
directions, so that units keep their labels for a while and lose them again. What is measured is a process of
its own for each command: seconds by the clock, processor time over all threads, and the peak of its memory.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from scripts.benchmarks.end_to_end import write_photos
from scripts.benchmarks.measure import Report, Row, Usage, cmon

CHECKPOINTS = (10, 30, 60)
UNITS, IMAGES = 2048, 1000
#: Seconds asked of each command at the most checkpoints.
ASKED = {
    "stats": 10.0,
    "units": 240.0,
    "embed": 60.0,
    "search": 10.0,
    "dynamics": 10.0,
    "compare": 10.0,
    "report": 10.0,
    "evaluate": 10.0,
    "dissect": 15.0,
}

NETWORK = """
import torch
from torch import nn


class TwoLayers(nn.Module):
    def __init__(self):
        super().__init__()
        self.small = nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Flatten())
        self.one = nn.Sequential(nn.Linear(192, {units}), nn.ReLU())
        self.two = nn.Sequential(nn.Linear(192, {units}), nn.ReLU())

    def forward(self, images):
        seen = self.small(images)
        return self.one(seen) + self.two(seen)


def network(num_classes=2):
    return TwoLayers()
"""


def write_training(folder: Path, checkpoints: int, units: int) -> None:
    """Checkpoints whose units wander from one random direction to the next every 20 epochs."""
    folder.mkdir(parents=True)
    (folder.parent / "network.py").write_text(NETWORK.format(units=units))
    generator = torch.Generator().manual_seed(0)
    stations = torch.randn(checkpoints // 20 + 2, 2, units, 192, generator=generator)
    for epoch in range(checkpoints):
        at, way = divmod(epoch, 20)
        # Most of the way in the middle of it: units rest at a station.
        share = float(torch.tensor(way / 20 * 12 - 6).sigmoid())
        rows = stations[at] * (1 - share) + stations[at + 1] * share
        rows = rows + 0.02 * torch.randn(rows.shape, generator=generator)
        state = {}
        for name, weight in zip(("one", "two"), rows, strict=True):
            state |= {f"{name}.0.weight": weight.clone(), f"{name}.0.bias": torch.zeros(units)}
        torch.save({"state_dict": state, "epoch": epoch}, folder / f"epoch_{epoch}.pth")


def commands(count: int) -> dict[str, list[Any]]:
    """The reading commands on the run of so many checkpoints; `dissect` comes last, with everything known."""
    run = f"run-{count}"
    common: list[Any] = ["--out", run, "--cache-dir", "cache", "--quiet"]
    return {
        "stats": ["stats", *common],
        "units": ["units", *common],
        "embed": ["embed", *common],
        "search": ["search", "red", *common],
        "dynamics": ["dynamics", *common],
        "compare": ["compare", run, run, "--out", f"compared-{count}", "--cache-dir", "cache", "--quiet"],
        "report": ["report", *common],
        "evaluate": ["evaluate", *common],
        "dissect": dissect(count),
    }


def dissect(count: int) -> list[Any]:
    """The `dissect` of the first so many checkpoints."""
    return [
        "dissect", "ckpts", "--epochs", f"0:{count - 1}", "--model", "network.py:network",
        "--layer", "one,two", "--probe", "photos", "--encoder", "builtin", "--concepts", "builtin",
        "--input-size", 32, "--cache-dir", "cache", "--out", f"run-{count}", "--quiet",
    ]  # fmt: skip


def bench(report: Report, folder: Path, *, quick: bool) -> None:
    """Every command at all lengths: seconds, growth of the processor time, and the peak of the longest."""
    lengths = (2, 3, 6) if quick else CHECKPOINTS
    units, images = (16, 24) if quick else (UNITS, IMAGES)
    write_photos(folder / "photos", images, 64)
    write_training(folder / "ckpts", lengths[-1], units)
    used: dict[int, dict[str, Usage]] = {}
    for count in lengths:
        # The first `dissect` also scores the epochs for the test of changes: `units` is asked to do so.
        cmon(dissect(count), folder)
        # `compare` and `evaluate` find nothing of what a shorter run left.
        for kind in ("resampling", "matching", "universality", "null"):
            shutil.rmtree(folder / "cache" / kind, ignore_errors=True)
        used[count] = {name: cmon(arguments, folder) for name, arguments in commands(count).items()}
    for name, last in used[lengths[-1]].items():
        first = used[lengths[-2]][name]
        report(
            Row(
                "long runs",
                f"{name}: {lengths[-1]} checkpoints x 2 layers x {units} units",
                last.wall,
                "s",
                None if quick else ASKED[name],
                at_least=False,
                details={
                    "growth": last.cpu / first.cpu,
                    "peak_mb": last.peak_bytes / 1e6,
                    "seconds": [used[count][name].wall for count in lengths],
                    "processor_seconds": [used[count][name].cpu for count in lengths],
                    "checkpoints": list(lengths),
                },
                remark=f"{last.cpu:.1f} s of the processor, {last.cpu / first.cpu:.2f} times that of "
                f"{lengths[-2]} checkpoints, peak {last.peak_bytes / 1e6:.0f} MB",
            )
        )
