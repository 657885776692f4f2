"""A whole `dissect` of ResNet-18 at 224 pixels over five checkpoints, and what a rerun costs.

Every run is a process of its own, timed from outside, start-up and all. The photos are JPEGs made up here,
larger than 224 pixels; encoder and concepts are the built-in ones. Seconds in the forward pass are those
inside the network: without reading and normalising pixels, without pooling and what is kept of the outputs.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import concept_monitor_cli._torchvision  # noqa: F401  isort: skip
import numpy as np
import torch
from PIL import Image
from torchvision.models import resnet18

from scripts.benchmarks.measure import Report, Row, Usage, cmon, run

CHECKPOINTS = 5
SHARE = 0.85
WARM_SECONDS = 3.0


def write_photos(folder: Path, count: int, side: int = 256) -> None:
    """JPEGs of smooth random colours with some noise."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 255, (8, 10, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((side * 5 // 4, side), Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = np.clip(smooth + rng.integers(-20, 20, smooth.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{number:05d}.jpg", quality=90)


def write_checkpoints(folder: Path, epochs: range) -> None:
    """ResNet-18s of other weights at each epoch."""
    folder.mkdir(parents=True, exist_ok=True)
    for epoch in epochs:
        torch.manual_seed(epoch)
        torch.save({"state_dict": resnet18().state_dict(), "epoch": epoch}, folder / f"epoch_{epoch}.pth")


class Bench:
    """The files of the study, and one call of `dissect` on them."""

    def __init__(self, folder: Path, device: str, side: int) -> None:
        self.folder, self.cache = folder, folder / "cache"
        self.fixed = [
            "dissect", "ckpts", "--layer", "layer3,layer4", "--probe", "photos", "--encoder", "builtin",
            "--concepts", "builtin", "--input-size", side, "--device", device, "--json", "--quiet",
            "--cache-dir", "cache",
        ]  # fmt: skip

    def dissect(self, out: str) -> tuple[Usage, dict[str, Any]]:
        used = cmon([*self.fixed, "--out", out], self.folder)
        return used, json.loads(used.output)

    def forget(self, *kinds: str) -> None:
        for kind in kinds:
            shutil.rmtree(self.cache / kind, ignore_errors=True)


def bench(report: Report, folder: Path, device: torch.device, *, quick: bool) -> None:
    """Cold, with warm images and embeddings, warm, and with one more checkpoint."""
    images, side = (24, 32) if quick else (600, 224)
    write_photos(folder / "photos", images, 48 if quick else 256)
    write_checkpoints(folder / "ckpts", range(CHECKPOINTS))
    study = Bench(folder, str(device), side)
    imports = min(
        (run(["concept_monitor_cli.stories.dissect"], folder) for _ in range(3)), key=lambda used: used.wall
    )

    cold, first = study.dissect("cold")
    study.forget("activations", "findings", "null", "layers")
    images_warm, second = study.dissect("images-warm")
    warm = min((study.dissect("images-warm")[0] for _ in range(3)), key=lambda used: used.wall)
    added = []
    for epoch in range(CHECKPOINTS, CHECKPOINTS + 3):
        write_checkpoints(folder / "ckpts", range(epoch, epoch + 1))
        more, third = study.dissect("images-warm")
        # Of its own forward pass: another run's may have met a slower machine.
        added.append(((more.wall - warm.wall) / third["forward_seconds"], more, third))
    cost, more, third = sorted(added, key=lambda each: each[0])[1]

    def details(used: Usage, said: dict[str, Any]) -> dict[str, Any]:
        return {
            "images": images,
            "forward_passes": said["forward_passes"],
            "forward_seconds": said["forward_seconds"],
            "seconds": used.wall,
            "cpu_seconds": used.cpu,
            "peak_mb": used.peak_bytes / 1e6,
        }

    title = f"{CHECKPOINTS} checkpoints of ResNet-18, {images} images of {side} px"
    for case, used, said, asked in (
        (f"{title}: cold store, share in the forward pass", cold, first, None),
        (f"{title}: warm images and embeddings, share in the forward pass", images_warm, second, SHARE),
    ):
        report(
            Row(
                "end to end",
                case,
                said["forward_seconds"] / used.wall,
                "of the wall time",
                asked,
                limit=1.0,
                limit_is="nothing but the network",
                details=details(used, said),
                remark=f"{said['forward_seconds']:.1f} of {used.wall:.1f} s, "
                f"{images * said['forward_passes'] / said['forward_seconds']:.0f} images/s",
            )
        )
    report(
        Row(
            "end to end",
            "everything known: seconds beyond start-up",
            warm.wall - imports.wall,
            "s",
            WARM_SECONDS,
            at_least=False,
            limit=0.05 * CHECKPOINTS,
            limit_is="weights hashed once, 1 GB/s",
            details={"seconds": warm.wall, "imports": imports.wall},
            remark=f"{warm.wall:.1f} s, of which {imports.wall:.1f} are Python and imports",
        )
    )
    report(
        Row(
            "end to end",
            "one more checkpoint: its cost in forward passes",
            cost,
            "forward passes",
            1.0 / SHARE,
            at_least=False,
            limit=1.0,
            limit_is="one forward pass",
            details=details(more, third),
            remark=f"{more.wall:.1f} s, {warm.wall:.1f} s without it; the middle one of three",
        )
    )
