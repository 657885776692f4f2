"""`scripts/check_renaming.py`: names of files change no byte of any table of the five detectors."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts import check_renaming
from tests.stories.planted import SIDE, make_planted

DETECTORS = "clip-dissect,network-dissection,compositional,invert,linear"


@pytest.fixture
def broden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study whose probing set has copies of photos, mirrored and equal, with masks of their own."""
    for name in os.environ:
        if name.startswith("CMON_"):
            monkeypatch.delenv(name)
    make_planted(tmp_path)
    probe = tmp_path / "broden"
    with (probe / "index.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    for number, row in enumerate(rows[:8]):
        for cell in (row[0], *row[6:8]):
            image = Image.open(probe / "images" / cell)
            if number % 2:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            image.save(probe / "images" / f"copy_{cell}")
        rows.append([f"copy_{row[0]}", *row[1:6], *(f"copy_{cell}" for cell in row[6:8]), *row[8:]])
    with (probe / "index.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return probe


def _check(broden: Path, *more: str) -> int:
    root = broden.parent
    arguments = [
        str(root / "ckpts"),
        "--layer",
        "act",
        "--detector",
        DETECTORS,
        "--model",
        f"{root / 'network.py'}:make",
        "--input-size",
        str(SIDE),
        "--mean",
        "0.5,0.5,0.5",
        "--std",
        "0.5,0.5,0.5",
        "--encoder",
        "builtin",
        "--no-floors",
    ]
    return check_renaming.main(
        [str(broden), "--keep", str(root / "kept"), "--seed", "5", "--", *arguments, *more]
    )


def test_five_detectors_on_a_set_with_copies(broden: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _check(broden) == 0, capsys.readouterr()
    kept = broden.parent / "kept"
    made = check_renaming.tables(kept / "given")
    for detector in DETECTORS.split(","):
        assert f"epoch_0000/act.{detector}.csv" in made
    groups = [
        json.loads((kept / name / "run.json").read_text())["probe"]["groups"] for name in ("given", "other")
    ]
    assert groups == [60, 60]  # of 68 images
    assert f"{len(made)} of {len(made)} tables" in capsys.readouterr().out
    first, other = (
        (kept / "renamed" / "index.csv").read_text().splitlines()[1:],
        (broden / "index.csv").read_text().splitlines()[1:],
    )
    assert sorted(first) != sorted(other)
    table = kept / "other/tables/epoch_0000/act.compositional.csv"
    table.write_bytes(table.read_bytes() + b"\n")
    assert check_renaming.different(kept / "given", kept / "other") == ["epoch_0000/act.compositional.csv"]


@pytest.mark.parametrize("seed", [0, 1])
def test_folders_stay_and_every_file_gets_another_name(tmp_path: Path, seed: int) -> None:
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        place = tmp_path / "photos" / ("cat", "dog")[number % 2] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place)
    names = check_renaming.rename_all(tmp_path / "photos", tmp_path / "renamed", seed=seed)
    assert len(set(names.values())) == len(names) == 12
    assert all(Path(old).parent == Path(new).parent for old, new in names.items())
    assert [Path(new).name for new in names.values()] != sorted(Path(new).name for new in names.values())
    for old, new in names.items():
        assert (tmp_path / "photos" / old).read_bytes() == (tmp_path / "renamed" / new).read_bytes()
