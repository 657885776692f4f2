"""A network whose units are wired to known concepts: are they named right?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from concept_monitor_cli.builtin import VOCABULARY
from concept_monitor_cli.probe import Geometry, load_probe
from concept_monitor_cli.probe.decode import shape_image

# Looks every picture up in a table: unit k fires as much as the picture shows word k.
NETWORK = """
import torch
from torch import nn


class Planted(nn.Module):
    def __init__(self, images, features, units):
        super().__init__()
        self.register_buffer("looks", torch.zeros(images, features))
        self.register_buffer("shown", torch.zeros(images, units))
        self.units = nn.Identity()

    def forward(self, x):
        look = nn.functional.adaptive_avg_pool2d(x, 8).flatten(1)
        return self.units(self.shown[torch.cdist(look, self.looks).argmin(1)])


def planted():
    return Planted({images}, {features}, {units})
"""


def test_planted_units_get_their_concept(tmp_path: Path, cmon) -> None:
    cache = tmp_path / "cache"
    probe = load_probe("builtin", cache_dir=cache)
    assert probe.annotations is not None
    geometry = Geometry(64, mode="squash")
    pixels = np.stack([shape_image(probe.image(i), geometry) for i in range(len(probe))])
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    looks = torch.nn.functional.adaptive_avg_pool2d(x, 8).flatten(1)

    labels = probe.annotations.labels
    shown = np.zeros((len(probe), len(labels)), dtype=np.float32)
    for i in range(len(probe)):
        for label, mask in probe.annotations.image(i).masks(probe.annotations.mask_size).items():
            shown[i, label] = mask.mean()
    (tmp_path / "planted.py").write_text(
        NETWORK.replace("{images}", str(len(probe)))
        .replace("{features}", str(looks.shape[1]))
        .replace("{units}", str(len(labels)))
    )
    (tmp_path / "ckpts").mkdir()
    torch.save({"looks": looks, "shown": torch.from_numpy(shown)}, tmp_path / "ckpts/epoch_1.pth")

    answer = cmon(
        "dissect",
        tmp_path / "ckpts",
        "--layer",
        "units",
        "--model",
        f"{tmp_path / 'planted.py'}:planted",
        *("--input-size", 64, "--mean", "0,0,0", "--std", "1,1,1", "--crop", "1", "-q"),
        *("--cache-dir", cache, "--out", tmp_path / "out"),
    )
    assert answer.code == 0, answer.err
    table = pd.read_csv(tmp_path / "out/tables/epoch_0001/units.clip-dissect.csv", keep_default_na=False)
    best = table[table["rank"] == 1].set_index("unit")
    right = [best.loc[k, "concept"] == label.name for k, label in enumerate(labels)]
    assert len(right) == len(VOCABULARY)
    assert np.mean(right) >= 0.9, [label.name for label, ok in zip(labels, right, strict=True) if not ok]
    # ... and hardly any of them is taken for chance.
    assert best["interpretable"].map(str).eq("True").mean() >= 0.9
