"""What a reader of the documents has: checkpoints, photos, masks, words and runs, under the names used there.

Small enough that every command can be run: a ResNet-18 (`layer4` has the 512 units that the pages speak of)
on a few dozen pictures of 64 pixels. What makes it small is in `cmon.toml`; commands run as written.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

import concept_monitor_cli._torchvision  # isort: skip  # noqa: F401

from concept_monitor_cli.builtin import VOCABULARY, write_broden
from concept_monitor_cli.builtin.renderer import render
from concept_monitor_cli.cli.app import run
from concept_monitor_cli.run import TABLES

REPOSITORY = Path(__file__).resolve().parents[2]

SETTINGS = """\
encoder = "builtin"
input-size = 64
probe-limit = 128
floors = false
stability = false
concepts = "words.txt"
until-epoch = 90
fdr = 0.9

[dissect]
formula-search = "beam"
beam = 3
length = 2

[picture]
steps = 16
at-once = 1

[attribute]
count = 2

[factors]
starts = 2

[failures]
least = 2

[ablate]
top = 2
controls = 5
"""

# The folders of `photos` and `more-photos`: what the second training's network tells apart.
CLASSES = ("bird", "boat", "car", "flower", "house", "sea", "snow", "street", "striped", "tree")

# The names of runs in the documents, and which of two trainings each is: 1,000 classes, or those of `photos`.
RUNS = {
    **{"cmon-out": 0, "RUN": 1, "RUN_A": 0, "RUN_B": 1, "standard": 0, "robust": 1},
    **{"rewind0": 0, "rewind5": 1, "rewind16": 0, "stage0": 0, "stage1": 1, "stage2": 0},
}


# What a reader has done before a command, by a part of it: the page says so around it.
BEFORE = {
    "layer4@pca8": ("cmon dissect ckpts/ --layer layer4 --probe broden1_224 --basis channels,pca:8",),
    "--basis vectors": (
        "cmon dissect ckpts/ --layer layer4 --overwrite",
        "cmon vectors --layer layer4 --epochs last --least 3",
    ),
    "cmon failures": tuple(
        f"cmon dissect ckpts1/ --layer layer4 --probe photos --out {out} --overwrite"
        for out in ("cmon-out", "RUN")
    ),
    "cmon evaluate ev": ("cmon dissect ckpts1/ --layer avgpool,fc --epochs 0,last --probe photos --out ev",),
    "--class-names cifar10": ("cmon dissect ckpts1/ --layer fc --probe broden1_224 --out RUN",),
    "--layer fc": ("cmon dissect ckpts/ --layer fc --probe broden1_224",),
    "--import-ratings": ("cmon evaluate --export-ratings 30 --layer layer4",),
}


def cmon(*words: object) -> int:
    """Run the command line in this process."""
    try:
        return run([str(word) for word in words])
    except SystemExit as stop:  # --help and the like
        return int(stop.code or 0)


class Reader:
    """A folder with everything that the documents take for granted; laid out again for each command.

    Attributes:
        root: the folder.
        cache: the store that its runs were made with.
    """

    def __init__(self, root: Path, cache: Path | None = None) -> None:
        self.root = root
        self.cache = cache or Path(os.environ["CMON_CACHE_DIR"])
        write_broden(root / "broden1_224", 128)
        words = [word for word, _ in VOCABULARY]
        draw(root / "photos", CLASSES, range(4))
        draw(root / "photos", ("striped",), range(4, 10))  # as many as make a concept
        draw(root / "more-photos", CLASSES, range(10, 12))
        draw(root / "images-of-concepts", words, range(12, 14))
        draw(root / "snow-or-not" / "with", ("snow",), range(8, 12), into=("beagle", "malamute"))
        draw(root / "snow-or-not" / "without", ("grass",), range(8, 12), into=("beagle", "malamute"))
        with Image.open(root / "photos" / "bird" / "0.png") as picture:
            picture.save(root / "dog.jpg")
        (root / "words.txt").write_text("\n".join(words) + "\n", "utf-8")
        kinds = {**dict(VOCABULARY), **{category: "any" for _, category in VOCABULARY}}
        (root / "coarse.csv").write_text(
            "class,superclass\n" + "".join(f"{name},{above}\n" for name, above in kinds.items()), "utf-8"
        )
        (root / "notify.sh").write_text("#!/bin/sh\nexit 0\n", "utf-8")
        (root / "notify.sh").chmod(0o755)
        (root / "cmon.toml").write_text(SETTINGS, "utf-8")
        for training in (0, 1):
            for epoch in (0, 90):
                self._save(training, epoch)
        self.run("cmon-out", 0)
        self.run("other", 1)

    def _save(self, training: int, epoch: int) -> None:
        from torchvision.models import resnet18

        torch.manual_seed(10 * training + epoch)
        state = {
            name: value.half() if value.is_floating_point() else value
            for name, value in resnet18(num_classes=(1000, len(CLASSES))[training]).state_dict().items()
        }
        path = self.root / f"ckpts{training}" / f"epoch_{epoch}.pth"
        path.parent.mkdir(exist_ok=True)
        torch.save(state, path)

    def run(self, out: str, training: int) -> None:
        """A run as the pages on reading suppose one: two epochs, two layers, two detectors."""
        before = Path.cwd()
        os.chdir(self.root)
        try:
            code = cmon(
                *("dissect", f"ckpts{training}", "--layer", "layer3,layer4", "--probe", "broden1_224"),
                *("--out", out, "-q"),
            )
        finally:
            os.chdir(before)
        assert code == 0

    def lay_out(self, folder: Path, epochs: Sequence[int] = (0, 90), runs: bool = True) -> None:
        """Give an empty folder what a reader has; without `runs`, what one has who has run nothing yet."""
        for path in self.root.iterdir():
            if path.name not in ("ckpts0", "cmon-out", "other"):
                (folder / path.name).symlink_to(path)
        (folder / "docs").symlink_to(REPOSITORY / "docs")
        (folder / "ckpts").mkdir()
        for number, epoch in enumerate(epochs):
            os.link(
                self.root / "ckpts0" / f"epoch_{(0, 90)[number % 2]}.pth",
                folder / "ckpts" / f"epoch_{epoch}.pth",
            )
        for name, training in RUNS.items() if runs else ():
            shutil.copytree(self.root / ("cmon-out", "other")[training], folder / name)

    def before(self, command: str) -> None:
        """Do in this folder what the page has its reader do before `command`."""
        for first in (first for part, commands in BEFORE.items() if part in command for first in commands):
            assert cmon(*shlex.split(first)[1:]) == 0, first
        if "--import-ratings" in command:
            for rater, offset in (("ann", 0), ("bob", 1)):
                rate(Path("cmon-out"), rater, offset)
        if "missed.csv" in command:
            names = [str(path.relative_to("photos")) for path in sorted(Path("photos").rglob("*.png"))]
            rows = [f"{name},{number % 2}" for number, name in enumerate(names)]
            Path("missed.csv").write_text("\n".join(["image,failed", *rows, ""]), "utf-8")
        if "run1 run2" in command:
            for number in range(1, 7):
                Path(f"run{number}").symlink_to(self.root / ("cmon-out", "other")[number % 2])
            rows = [f"run{number},0.9{number},0.{90 - number}" for number in range(1, 7)]
            Path("acc.csv").write_text("\n".join(["run,train,test", *rows, ""]), "utf-8")
        if "cmon-out/weights" in command:  # what a `Monitor` leaves
            Path("cmon-out").mkdir(exist_ok=True)
            shutil.copytree("ckpts", "cmon-out/weights")


def draw(
    folder: Path, words: Sequence[str], numbers: Sequence[int], into: Sequence[str] | None = None
) -> None:
    """Pictures of these words, in a folder for each; `into` says how the folders are called, of one word."""
    for name, word in zip(into, words * len(into), strict=True) if into else zip(words, words, strict=True):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in numbers:
            Image.fromarray(render(number, 1, word).image).save(folder / name / f"{number}.png")


def rate(run: Path, rater: str, offset: int) -> None:
    """Save what somebody answers to the form of a run, as the form would."""
    key = TABLES["ratings-key"].read_csv(run / "tables" / "ratings-key.csv")
    ratings = {str(q): 1 + (q + offset) % 5 for q in sorted(set(map(int, key["question"])))}
    answers = {"form": str(key["form"].iloc[0]), "rater": rater, "ratings": ratings}
    Path(f"ratings-{rater}.json").write_text(json.dumps(answers), "utf-8")
