"""The commands of the documents, run as they are written, by a reader who has what they speak of.

Each begins in a folder of its own that holds what the page takes for granted (`reader.py`): checkpoints and
photos for those that make a run, a run for those that read one. What is too long for every day is marked
`slow`; what needs a download, a cluster or a study's data is in `NOT_RUN`, with the reason.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.docs.reader import Reader, cmon
from tests.docs.test_documented_commands import PAGES, commands

ALL = {command: page.stem for page in PAGES for command in commands(page.read_text("utf-8"))}

# Why a command is not run here, by what it begins with or holds. It is parsed all the same.
NOT_RUN = {
    "cmon dissect torchvision/": "downloads weights",
    "cmon dissect timm/": "downloads weights",
    "--captioner coca:": "downloads weights; tests/encoders/test_captioners.py has a small one",
    "minibroden": "a study on real photos and a trained network",
    "imagenet_by_class": "a study on real photos and a trained network",
    "cmon evaluate run ": "of that study",
    "cmon fetch coco-panoptic --to": "downloads a data set; tests/stories/test_fetch.py does so locally",
    "cmon submit": "hands a job to SLURM: tests/cluster does so on a real one",
    "--install-completion": "changes the user's shell",
}

# Made for every day: a second or two each, as they read a run or only look.
QUICK = re.compile(
    r"cmon (checkpoints|layers|search|units|doctor|fetch|cache|retention|compare|attribute --image)\b"
    r"|.*--dry-run"
)

MAKES_A_RUN = ("dissect", "run", "watch", "demo", "submit")
EPOCHS = {"--epochs 0,1,2,3,5,7": (0, 1, 2, 3, 5, 7)}


def reason(command: str) -> str | None:
    """Why this command is not run; `None` where it is."""
    if "--dry-run" in command:
        return None
    return next((why for part, why in NOT_RUN.items() if part in command), None)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CMON_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        return Reader(tmp_path_factory.mktemp("reader"))


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(command, id=f"{page}: {command}", marks=() if QUICK.match(command) else pytest.mark.slow)
        for command, page in ALL.items()
        if reason(command) is None
    ],
)
def test_it_runs(
    command: str,
    reader: Reader,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = shlex.split(command, comments=True)[1:]
    epochs = next((each for part, each in EPOCHS.items() if part in command), (0, 90))
    reader.lay_out(tmp_path, epochs, runs=words[0] not in MAKES_A_RUN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CMON_CACHE_DIR", str(reader.cache))
    reader.before(command)
    code = cmon(*words)
    assert code == 0, capsys.readouterr().err


def test_what_is_not_run_is_little_and_named() -> None:
    left_out = [command for command in ALL if reason(command)]
    assert len(left_out) < len(ALL) / 5, left_out
    for part in NOT_RUN:
        assert any(part in command for command in ALL), f"nothing in the documents holds {part!r} any more"
