"""What a reader of the documents has: checkpoints, photos, masks, words and runs, under the names used there.

Small enough that every command can be run: a ResNet-18 (`layer4` has the 512 units that the pages speak of)
on a few dozen pictures of 32 pixels. What makes it small is in `cmon.toml`; commands run as written.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

import concept_monitor_cli._torchvision  # isort: skip  # noqa: F401

from concept_monitor_cli.builtin import VOCABULARY, write_broden
from concept_monitor_cli.cli.app import run

REPOSITORY = Path(__file__).resolve().parents[2]

SETTINGS = """\
encoder = "builtin"
input-size = 32
probe-limit = 48
floors = false
stability = false
concepts = "words.txt"
until-epoch = 90
fdr = 0.9
"""

# The names of runs in the documents, and which of two trainings each is.
RUNS = {
    **{"cmon-out": 0, "RUN": 0, "RUN_A": 0, "RUN_B": 1, "standard": 0, "robust": 1},
    **{"rewind0": 0, "rewind5": 1, "rewind16": 0, "stage0": 0, "stage1": 1, "stage2": 0},
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
        write_broden(root / "broden1_224", 48)
        for name, kept in (("photos", slice(0, 32)), ("more-photos", slice(32, 48))):
            (root / name).mkdir()
            for path in sorted((root / "broden1_224" / "images").rglob("*.png"))[kept]:
                shutil.copy(path, root / name / path.name)
        with Image.open(next((root / "photos").iterdir())) as picture:
            picture.convert("RGB").save(root / "dog.jpg")
        (root / "words.txt").write_text("\n".join(word for word, _ in VOCABULARY) + "\n", "utf-8")
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
            for name, value in resnet18(num_classes=1000).state_dict().items()
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
        for name in (
            "broden1_224",
            "photos",
            "more-photos",
            "dog.jpg",
            "words.txt",
            "notify.sh",
            "cmon.toml",
        ):
            (folder / name).symlink_to(self.root / name)
        (folder / "docs").symlink_to(REPOSITORY / "docs")
        (folder / "ckpts").mkdir()
        for number, epoch in enumerate(epochs):
            os.link(
                self.root / "ckpts0" / f"epoch_{(0, 90)[number % 2]}.pth",
                folder / "ckpts" / f"epoch_{epoch}.pth",
            )
        for name, training in RUNS.items() if runs else ():
            shutil.copytree(self.root / ("cmon-out", "other")[training], folder / name)
