"""Many images: 10,000 and 50,000 of 32 pixels, four layers of a ResNet-50 with 3,840 units, 20,000 phrases.

Network and encoder have random weights, and the images are made up. Each `dissect` is a process of its own,
with nothing known, or with pixels, embeddings and activations known, where scores are made anew. The
similarities of values, whose chance takes twenty scorings more, stand beside soft-wpmi in that state.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import concept_monitor_cli._torchvision  # noqa: F401  isort: skip
import open_clip
import torch
from torchvision.models import resnet50

from scripts.benchmarks.end_to_end import write_photos
from scripts.benchmarks.literature import SMALL, phrases
from scripts.benchmarks.measure import Report, Row, Usage, cmon

LAYERS = ("layer1", "layer2", "layer3", "layer4")
COUNTS, WORDS, SIDE = (10_000, 50_000), 20_000, 32
#: What follows from embeddings and activations.
_SCORES = ("findings", "halves", "null", "redundancy", "resampling")
#: Bytes at the most images; times what soft-wpmi takes.
MEMORY, SLOWER = 2.5e9, 3.0


class Study:
    """The files, and a `dissect` of so many of the images."""

    def __init__(self, folder: Path, images: int, words: int) -> None:
        self.folder = folder
        write_photos(folder / "photos", images, 40)
        (folder / "words.txt").write_text("\n".join(phrases(words)))
        (folder / "encoder.json").write_text(json.dumps(SMALL))
        open_clip.add_model_config(folder / "encoder.json")
        torch.manual_seed(0)
        torch.save(open_clip.create_model("encoder", load_weights=False).state_dict(), folder / "encoder.pt")
        (folder / "ckpts").mkdir()
        torch.save({"state_dict": resnet50().state_dict(), "epoch": 0}, folder / "ckpts" / "epoch_0.pth")

    def dissect(self, images: int, similarity: str, forget: Sequence[str]) -> Usage:
        """One run, with these kinds of what is kept forgotten before."""
        cache = self.folder / f"cache-{images}"
        for kind in forget:
            shutil.rmtree(cache / kind, ignore_errors=True)
        return cmon(
            [
                "dissect", "ckpts", "--layer", ",".join(LAYERS), "--probe", "photos", "--probe-limit", images,
                "--input-size", SIDE, "--crop", 1, "--concepts", "words.txt", "--encoder", "encoder",
                "--encoder-weights", "encoder.pt", "--encoder-config", "encoder.json", "--model",
                "torchvision/resnet50", "--similarity", similarity, "--cache-dir", cache, "--out",
                f"run-{images}-{similarity}", "--overwrite", "--quiet",
            ],
            self.folder,
        )  # fmt: skip


def bench(report: Report, folder: Path, *, quick: bool) -> None:
    """Time and memory of soft-wpmi by the number of images, and the similarities of values beside it."""
    counts, words = ((60, 120), 40) if quick else (COUNTS, WORDS)
    study = Study(folder, counts[-1], words)
    scored: list[Usage] = []

    def row(case: str, value: float, unit: str, asked: float | None = None, remark: str = "") -> None:
        bound = None if quick else asked
        report(Row("many images", case, value, unit, bound, at_least=False, remark=remark))

    for count in counts:
        cold = study.dissect(count, "soft-wpmi", [""])
        scored.append(study.dissect(count, "soft-wpmi", _SCORES))
        limit = MEMORY / 1e9 if count == counts[-1] else None
        row(
            f"{count:,} images, nothing known: processor time",
            cold.cpu,
            "s",
            remark=f"{cold.wall:.0f} s by the clock",
        )
        row(f"{count:,} images, nothing known: memory", cold.tree_bytes / 1e9, "GB", limit)
    more = counts[-1] / counts[0]
    row(
        f"{more:.0f} times the images: scores made anew",
        scored[-1].cpu / scored[0].cpu,
        "times the processor time",
        more,
        f"{scored[-1].cpu:.0f} s instead of {scored[0].cpu:.0f}",
    )
    for similarity in ("cos-cubed", "rank-reorder"):
        used = study.dissect(counts[0], similarity, _SCORES)
        row(
            f"{similarity}, {counts[0]:,} images: scores made anew",
            used.cpu / scored[0].cpu,
            "times the processor time of soft-wpmi",
            SLOWER,
            f"{used.cpu:.0f} s, {used.tree_bytes / 1e9:.1f} GB",
        )
