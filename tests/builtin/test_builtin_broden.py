"""The renderings as a Broden directory, and as a classification task."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from concept_monitor_cli.builtin import VOCABULARY, broden, classification_set, render, write_broden
from concept_monitor_cli.builtin.renderer import SIZE

N, SEED = 40, 5
PIXEL = ("color", "object", "part", "material", "texture")


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("broden") / "set"
    write_broden(directory, N, SEED)
    return directory


def test_tables(folder: Path) -> None:
    labels = _read(folder / "label.csv")
    assert [int(row["number"]) for row in labels] == list(range(1, len(VOCABULARY) + 1))
    for row, (word, category) in zip(labels, VOCABULARY, strict=True):
        assert row["name"].removesuffix("-c").removesuffix("-s") == word
        assert row["category"].split("(")[0] == category
    categories = _read(folder / "category.csv")
    assert sum(int(row["count"]) for row in categories) == len(VOCABULARY)
    for row in categories:
        coded = _read(folder / f"c_{row['name']}.csv")
        assert [int(c["code"]) for c in coded] == list(range(1, int(row["count"]) + 1))
        assert {int(c["number"]) for c in coded} == set(range(int(row["first"]), int(row["last"]) + 1))


def test_every_mask_has_known_numbers_and_the_stated_size(folder: Path) -> None:
    rows = _read(folder / "index.csv")
    assert len(rows) == N
    assert {row["split"] for row in rows} == {"train", "val"}
    category_of = {int(row["number"]): row["category"].split("(")[0] for row in _read(folder / "label.csv")}
    frequency: Counter[int] = Counter()
    for index, row in enumerate(rows):
        picture = render(index, SEED)
        with Image.open(folder / "images" / row["image"]) as image:
            assert image.size == (int(row["iw"]), int(row["ih"])) == (SIZE, SIZE)
            assert (np.asarray(image) == picture.image).all()
        for category in PIXEL:
            expected = picture.maps[category].astype(int) + 1
            if row[category] == "":
                assert not expected.any()
                continue
            with Image.open(folder / "images" / row[category]) as mask:
                assert mask.size == (int(row["sw"]), int(row["sh"]))
                coded = np.asarray(mask.convert("RGB")).astype(int)
            numbers = coded[..., 0] + 256 * coded[..., 1]
            assert (numbers == expected).all()
            present = {int(n) for n in np.unique(numbers)} - {0}
            assert {category_of[n] for n in present} == {category}
            frequency.update(present)
        if row["scene"]:
            assert category_of[int(row["scene"])] == "scene"
            frequency[int(row["scene"])] += 1
    assert {int(row["number"]): int(row["frequency"]) for row in _read(folder / "label.csv")} == {
        number: frequency[number] for number in category_of
    }


def test_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = broden.render

    def failing(index: int, seed: int) -> object:
        if index == 3:
            raise OSError("disk full")
        return real(index, seed)

    monkeypatch.setattr(broden, "render", failing)
    with pytest.raises(OSError, match="disk full"):
        write_broden(tmp_path / "set", 10)
    assert list(tmp_path.iterdir()) == []


def test_refuses_an_existing_folder_and_an_empty_set(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError):
        write_broden(folder, 3)
    with pytest.raises(ValueError, match="at least one"):
        write_broden(tmp_path / "none", 0)


def test_two_processes_build_one_directory(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from concept_monitor_cli.builtin import broden\n"
        "broden.PROBE_IMAGES = 30\n"
        "real, drawn = broden.render, []\n"
        "broden.render = lambda *a: drawn.append(a) or real(*a)\n"
        "print(broden.builtin_probe_directory(Path(sys.argv[1])), len(drawn))\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
        )
        for _ in range(2)
    ]
    answers = [process.communicate(timeout=60)[0].split() for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert answers[0][0] == answers[1][0]
    assert sorted(int(answer[1]) for answer in answers) == [0, 30]
    built = Path(answers[0][0])
    assert len(_read(built / "index.csv")) == 30
    assert [p.name for p in built.parent.iterdir() if p.is_dir()] == [built.name]


def test_leftovers_of_a_killed_process_are_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broden, "PROBE_IMAGES", 3)
    built = broden.builtin_probe_directory(tmp_path)
    stale = built.parent / f".{built.name}.killed"
    built.rename(stale)
    again = broden.builtin_probe_directory(tmp_path)
    assert again == built
    assert again.is_dir()
    assert not stale.exists()


def test_classification_set() -> None:
    images, labels, names = classification_set(20, seed=3, size=32)
    assert images.shape == (20, 32, 32, 3)
    assert images.dtype == np.uint8
    assert labels.tolist() == [i % len(names) for i in range(20)]
    again, _, _ = classification_set(20, seed=3, size=32)
    assert (images == again).all()
    other, _, _ = classification_set(20, seed=4, size=32)
    assert (images != other).any()
