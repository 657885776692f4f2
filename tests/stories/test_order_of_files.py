"""What files are called, and how they are sorted, decides nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from concept_monitor_cli.probe import load_probe

from .conftest import Bench, make_network


def _renamed(folder: Path, target: Path, seed: int) -> None:
    """The same photos under other names, in other folders."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = np.random.default_rng(seed).permutation(len(files))
    for number, path in zip(names.tolist(), files, strict=True):
        place = target / f"part{number % 3}" / f"{number:04d}{path.suffix}"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)


def test_renaming_files_changes_no_byte_of_any_table(bench: Bench, cmon) -> None:
    """The built-in encoder, a network with sparse units, copies of photos; with and without a limit."""
    network = make_network(2)
    network.layer3[2].bn2.bias.data[:20] -= 1.5  # units that fire on a few images only
    torch.save({"state_dict": network.state_dict(), "epoch": 30}, bench.checkpoints / "epoch_30.pth")
    photos = bench.root / "photos"
    for path in sorted(photos.rglob("*.png"))[:6]:
        Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path.with_name(f"copy_{path.name}"))
    _renamed(photos, bench.root / "renamed", seed=5)
    for limit in ([], ["--probe-limit", "25"]):
        for folder in ("photos", "renamed"):
            arguments = bench.dissect(
                "--epochs",
                "30",
                *limit,
                "--cache-dir",
                bench.root / f"cache-{folder}",
                "-q",
                out=f"out-{folder}",
            )
            arguments[arguments.index("--probe") + 1] = bench.root / folder
            arguments[arguments.index("--encoder") + 1] = "builtin"
            answer = cmon(*arguments, "--overwrite")
            assert answer.code == 0, answer.err
        tables = bench.tables("out-photos")
        assert {"epoch_0030/layer3.clip-dissect.csv", "concepts.parquet"} <= set(tables)
        assert bench.tables("out-renamed") == {**tables}
    assert (
        load_probe(str(photos), limit=25, seed=3).digests
        == load_probe(str(bench.root / "renamed"), limit=25, seed=3).digests
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_a_limit_draws_by_content(tmp_path: Path, seed: int) -> None:
    for number in range(30):
        pixels = np.random.default_rng(number).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    drawn = load_probe(str(tmp_path), limit=10, seed=seed)
    assert len(drawn) == 10
    assert list(drawn.digests) == sorted(drawn.digests)
    assert drawn.digests != load_probe(str(tmp_path), limit=10, seed=seed + 1).digests
    for row, name in zip(drawn.rows, drawn.ids, strict=True):
        assert drawn.source.ids[row] == name
