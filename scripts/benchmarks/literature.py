"""A training dissected by `cmon`, and by a chain as the literature has it (`chain.py`), from the same files.

ResNet-18 at 224 pixels, three layers with 896 units, 1,000 photos made up here, 20,000 phrases. Of two
encoders, both with random weights, which change no time: CLIP's ViT-B/32, where the words take the chain most
of its time, and a small one, an EfficientNet-Lite2 beside a text tower of three layers.

Three states of what is kept: nothing; embeddings and activations, where scores and tables are made anew;
everything, which for the chain is the same as before, as it keeps no scores. Like published code, the chain
builds encoder and network even then; beside one that does not, `cmon` stands too. `cmon` also does what the
chain does not: chance levels, p-values, changes over epochs with their confidence, sentences, and one more
pass of a network with random weights; with nothing known it is measured without that pass, too.

Both sides run in turn, each a process of its own (the chain one for each checkpoint). Processor time is that
of all threads and child processes; memory the largest sum over the tree of processes.
"""

from __future__ import annotations

import ast
import csv
import json
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice, product
from pathlib import Path
from typing import Any

import concept_monitor_cli._torchvision  # noqa: F401  isort: skip
import open_clip
import torch

from concept_monitor_cli import open_run
from concept_monitor_cli.concepts import load_concepts
from scripts.benchmarks.end_to_end import write_checkpoints, write_photos
from scripts.benchmarks.measure import Report, Row, Usage, cmon, run

LAYERS = ("layer2", "layer3", "layer4")
#: Encoder and checkpoints; the long one only when asked for by name: two hours on two cores.
CASES = (("a small encoder", 1), ("a small encoder", 3), ("CLIP ViT-B/32", 3))
LONG = (("a small encoder", 30),)
IMAGES, WORDS, SIDE = 1000, 20_000, 224
#: Times less processor time than the chain: with nothing known, and with all that each of them keeps.
COLD, WARM = 2.5, 10.0
SHARE, DISK = 0.88, 300e6

SMALL: dict[str, Any] = {
    "embed_dim": 512,
    "vision_cfg": {
        "timm_model_name": "tf_efficientnet_lite2",
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "mlp",
        "image_size": 224,
    },
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 256, "heads": 4, "layers": 3},
}

ENCODERS: dict[str, dict[str, Any]] = {
    "a small encoder": SMALL,
    "CLIP ViT-B/32": open_clip.get_model_config("ViT-B-32"),
}


@dataclass(frozen=True)
class Spent:
    """What one state of one side took, over all its processes.

    Attributes:
        wall: seconds.
        cpu: seconds of the processor.
        tree_bytes: the largest sum of memory over the tree of processes.
        said: what it printed, read.
    """

    wall: float
    cpu: float
    tree_bytes: int
    said: dict[str, Any]

    @staticmethod
    def over(used: Sequence[Usage], said: dict[str, Any]) -> Spent:
        """Processes one after the other."""
        return Spent(
            sum(each.wall for each in used),
            sum(each.cpu for each in used),
            max(each.tree_bytes for each in used),
            said,
        )

    @staticmethod
    def median(rounds: Sequence[Spent]) -> Spent:
        """Of several rounds, each number by itself; what was printed in the last one."""
        wall, cpu = (statistics.median(getattr(each, name) for each in rounds) for name in ("wall", "cpu"))
        peak = int(statistics.median(each.tree_bytes for each in rounds))
        return replace(rounds[-1], wall=wall, cpu=cpu, tree_bytes=peak)


def phrases(count: int) -> list[str]:
    """Names of things, and pairs of them."""
    names = list(dict.fromkeys(name for name in load_concepts("common").concepts if name.isalpha()))
    pairs = (" ".join(pair) for pair in product(names, names))
    found = list(islice(chain(names, pairs), count))
    if len(found) < count:
        raise ValueError(f"there are {len(found):,} phrases, {count:,} were asked for")
    return found


class Study:
    """The files, and both sides."""

    def __init__(self, folder: Path, checkpoints: int, encoder: str, *, quick: bool) -> None:
        self.folder, self.checkpoints, self.encoder = folder, checkpoints, encoder
        self.images, words, self.side = (250, 40, 32) if quick else (IMAGES, WORDS, SIDE)
        write_photos(folder / "photos", self.images, 48 if quick else 256)
        write_checkpoints(folder / "ckpts", range(checkpoints))
        (folder / "words.txt").write_text("\n".join(phrases(words)))
        (folder / "encoder.json").write_text(json.dumps(ENCODERS[encoder]))
        open_clip.add_model_config(folder / "encoder.json")
        torch.manual_seed(0)
        torch.save(open_clip.create_model("encoder", load_weights=False).state_dict(), folder / "encoder.pt")

    def cmon(self, out: str, *options: str) -> Spent:
        """All checkpoints, in one process."""
        used = cmon(
            [
                "dissect", "ckpts", "--layer", ",".join(LAYERS), "--probe", "photos", "--concepts",
                "words.txt", "--encoder", "encoder", "--encoder-weights", "encoder.pt", "--encoder-config",
                "encoder.json", "--input-size", self.side, "--crop", 1, "--top-k", 100,
                "--model", "torchvision/resnet18", "--cache-dir", "cache", "--out", out, "--json", "--quiet",
                *options,
            ],
            self.folder,
        )  # fmt: skip
        return Spent.over([used], json.loads(used.output))

    def chain(self, *, kind: bool = False) -> Spent:
        """All checkpoints, a process for each; a kind one builds nothing that it does not need."""
        used = [
            run(
                [
                    "scripts.benchmarks.chain", "--checkpoint", f"ckpts/epoch_{epoch}.pth",
                    "--layers", ",".join(LAYERS), "--photos", "photos", "--words", "words.txt",
                    "--encoder", "encoder", "--saved", "saved", "--out", f"chain-{epoch}.csv",
                    "--side", str(self.side), *["--kind"] * kind,
                ],
                self.folder,
            )
            for epoch in range(self.checkpoints)
        ]  # fmt: skip
        parts = [ast.literal_eval(each.output) for each in used]
        return Spent.over(
            used,
            {name: sum(part.get(name, 0.0) for part in parts) for name in ("forward", "images", "words")},
        )

    def forget(self, *kinds: str) -> None:
        """Of what `cmon` keeps: some kinds, or all of it."""
        for kind in kinds or [""]:
            shutil.rmtree(self.folder / "cache" / kind, ignore_errors=True)

    def kept_bytes(self, name: str) -> int:
        """On the disk below a folder."""
        return sum(path.stat().st_size for path in (self.folder / name).rglob("*") if path.is_file())

    def same_scores(self, out: str) -> float:
        """Share of the first layer's units whose best score is the same on both sides, at the last epoch.

        To a thousandth: labels hang on the rounding of sums where random embeddings tie. In deeper layers of
        a random network units are silent on so many images that their top images are a matter of order.
        """
        last = self.checkpoints - 1
        with (self.folder / f"chain-{last}.csv").open() as file:
            theirs = {
                (row["layer"], int(row["unit"])): float(row["similarity"]) for row in csv.DictReader(file)
            }
        table = open_run(self.folder / out).concepts(epoch=last, rank=1)
        live = table[(table["state"] == "live") & (table["layer"] == LAYERS[0])]
        ours = zip(live["layer"], live["unit"], live["score"], strict=True)
        return sum(abs(score - theirs[layer, unit]) < 1e-3 for layer, unit, score in ours) / len(live)


#: Kinds of `cmon`'s cache that follow from embeddings and activations.
_SCORES = ("findings", "halves", "null", "redundancy", "resampling")


def rounds_of(study: Study, rounds: int) -> dict[str, tuple[Spent, Spent]]:
    """(chain, `cmon`) with nothing known, with features known, with everything known: medians."""
    states = (
        "cold",
        "cold, no random weights",
        "features known",
        "all known",
        "all known, the chain builds nothing",
    )
    found: dict[str, list[tuple[Spent, Spent]]] = {state: [] for state in states}
    for number in range(rounds):
        shutil.rmtree(study.folder / "saved", ignore_errors=True)
        out, cold = f"run-{number}", study.chain()
        study.forget()
        found["cold, no random weights"].append((cold, study.cmon(f"{out}-bare", "--no-floors")))
        study.forget()
        found["cold"].append((cold, study.cmon(out)))
        study.forget(*_SCORES)
        warm = study.chain()
        found["features known"].append((warm, study.cmon(f"{out}-features")))
        known = study.cmon(f"{out}-features")
        found["all known"].append((warm, known))
        found["all known, the chain builds nothing"].append((study.chain(kind=True), known))
    return {
        state: (Spent.median([theirs for theirs, _ in pairs]), Spent.median([ours for _, ours in pairs]))
        for state, pairs in found.items()
    }


def bench(
    report: Report,
    folder: Path,
    *,
    quick: bool,
    cases: Sequence[tuple[str, int]] = CASES,
    rounds: int = 3,
) -> None:
    """Both sides, for each (encoder, number of checkpoints)."""
    for number, (encoder, count) in enumerate(cases):
        place = folder / str(number)
        place.mkdir()
        study = Study(place, count, encoder, quick=quick)
        _report(report, study, rounds_of(study, 1 if quick else rounds), quick=quick)


def _report(report: Report, study: Study, found: dict[str, tuple[Spent, Spent]], *, quick: bool) -> None:
    title = f"{study.checkpoints} checkpoint{'s' if study.checkpoints > 1 else ''}, {study.encoder}"
    bounds = {"cold": COLD, "cold, no random weights": COLD, "all known": WARM}
    asked = {} if quick or study.checkpoints != 3 else bounds
    cold_chain, cold = found["cold"]
    for state, (theirs, ours) in found.items():
        report(
            Row(
                "beside the literature",
                f"{title}, {state}: processor time",
                theirs.cpu / ours.cpu,
                "x less than the chain",
                asked.get(state),
                limit=theirs.cpu / _bare(study, cold_chain, theirs) if state == "cold" else None,
                limit_is="the chain's own seconds inside networks" if state == "cold" else "",
                details={"chain": vars(theirs), "cmon": vars(ours)},
                remark=f"{ours.cpu:.0f} s instead of {theirs.cpu:.0f}, by the clock {ours.wall:.0f} instead "
                f"of {theirs.wall:.0f}, GB of memory {ours.tree_bytes / 1e9:.1f} instead of "
                f"{theirs.tree_bytes / 1e9:.1f}",
            )
        )
    inside = cold.said["forward_seconds"] + cold.said["encoder_seconds"]
    further = (
        ("cold, share inside networks", inside / cold.wall, "of the wall time", SHARE, True,
         f"{inside:.0f} of {cold.wall:.0f} s"),
        ("kept on the disk", study.kept_bytes("cache") / 1e6, "MB", DISK / 1e6, False,
         f"the chain keeps {study.kept_bytes('saved') / 1e6:.0f} MB"),
        (f"best scores of {LAYERS[0]}", study.same_scores("run-0"), "the same", None, True, ""),
    )  # fmt: skip
    for case, value, unit, bound, at_least, remark in further:
        report(
            Row(
                "beside the literature",
                f"{title}: {case}",
                value,
                unit,
                bound if asked else None,
                at_least=at_least,
                remark=remark,
            )
        )


def _bare(study: Study, cold: Spent, theirs: Spent) -> float:
    """Processor seconds that the chain spends inside networks: its share of the clock, of all its time."""
    return theirs.cpu * sum(cold.said.values()) / cold.wall
