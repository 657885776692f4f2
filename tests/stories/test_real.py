"""The main job on real photos: a ResNet-18 trained on CIFAR-10, real probing photos, a real encoder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.append(str(Path(__file__).resolve().parents[1] / "monitor"))

from truth import RunFiles, untrue

REPOSITORY = Path(__file__).resolve().parent.parent.parent
# Enough to see the whole way work: the numbers of a real study are in docs/results.md.
_TRAIN, _TEST = 20, 4


def _cifar(archive: Path, folder: Path) -> Path:
    """The first photos of every class; the archive is read once, and only as far as needed."""
    counts: dict[tuple[str, str], int] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            parts = Path(member.name).parts
            if not member.isfile() or len(parts) < 3:
                continue
            split, name = parts[-3], parts[-2]
            if counts.get((split, name), 0) < (_TRAIN if split == "train" else _TEST):
                counts[split, name] = counts.get((split, name), 0) + 1
                tar.extract(member, folder, filter="data")
    (root,) = {path.parent for path in folder.rglob("train")}
    return root


def test_resnet18_on_photos(shared_data: Path, minibroden: Path, tmp_path: Path, cmon) -> None:
    data = _cifar(shared_data / "cifar10_images.tar.xz", tmp_path / "cifar")
    ckpts, out, cache = tmp_path / "ckpts", tmp_path / "out", tmp_path / "cache"
    subprocess.run(
        [
            sys.executable,
            "scripts/train_cifar10.py",
            "--data",
            data,
            "--out",
            ckpts,
            "--epochs",
            "2",
            "--size",
            "32",
            "--batch-size",
            "60",
        ],
        cwd=REPOSITORY,
        check=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert len(list(ckpts.iterdir())) == 3
    clip = shared_data / "photo-clip"
    common = ["--out", out, "--cache-dir", cache]
    study = [
        "dissect",
        ckpts,
        "--layer",
        "layer3,layer4",
        "--probe",
        minibroden,
        "--probe-limit",
        80,
        "--input-size",
        64,
        "--encoder",
        "photo-clip",
        "--encoder-weights",
        clip / "photo-clip.safetensors",
        "--encoder-config",
        clip / "photo-clip.json",
        *common,
    ]
    answer = cmon(*study, "--json")
    assert answer.code == 0, answer.err
    # The architecture was not named.
    assert json.loads((out / "run.json").read_text())["model"]["name"] == "resnet18"
    assert answer.json()["forward_passes"] == 3
    table = pd.read_parquet(out / "tables/concepts.parquet")
    assert (
        table.groupby(["epoch", "layer"])["unit"].nunique().unstack().to_numpy().tolist() == [[256, 512]] * 3
    )
    assert set(table["category"]) <= {"", "color", "texture", "material", "part", "object", "scene"}
    files = RunFiles(out)
    said = [row["sentence"] for row in files.findings()]
    assert said
    assert [why for sentence in said if (why := untrue(files, sentence))] == []

    answer = cmon(
        "embed", "--method", "pca", "--anchors", "dog,car,striped,sky", "--units", "0", *common, "--json"
    )
    assert answer.code == 0, answer.err
    embedding = pd.read_csv(out / "tables/embedding.csv")
    assert np.isfinite(embedding[["x", "y", "anchor_distance"]]).all(axis=None)
    assert set(embedding["nearest_anchor"]) <= {"dog", "car", "striped", "sky"}
    assert len(list((out / "plots").glob("*.png"))) == 4
