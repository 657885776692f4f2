"""`scripts/check_calibration.py` on a small planted network: every share is there, and where it should be."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from scripts import check_calibration
from tests.stories.planted import OBJECTS, SIDE, UNITS, make_planted


def test_the_table_has_every_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = make_planted(tmp_path)
    found = tmp_path / "found.json"
    arguments = {
        "--model": f"{tmp_path / 'network.py'}:make",
        "--layer": "act",
        "--probe": tmp_path / "broden",
        "--encoder": f"embeddings:{tmp_path / 'embeddings.h5'}",
        "--input-size": SIDE,
        "--mean": "0.5,0.5,0.5",
        "--std": "0.5,0.5,0.5",
        "--detector": "network-dissection,clip-dissect",
        "--similarity": "cos",
        "--draws": 1,
        "--out": tmp_path / "check",
        "--cache-dir": tmp_path / "cache",
        "--json": found,
    }
    flat = [str(part) for pair in arguments.items() for part in pair]
    monkeypatch.setattr(sys, "argv", ["check_calibration", str(study.root / "ckpts/epoch_0.pth"), *flat])
    check_calibration.main()
    masks, literature, words = json.loads(found.read_text())
    assert [row["detector"] for row in (masks, literature, words)] == [
        "network-dissection, supported",
        "network-dissection, iou",
        "clip-dissect, cos",
    ]
    for row in (masks, literature, words):
        assert set(check_calibration.COLUMNS) <= set(row)
        assert row["broken"] <= 1 / UNITS  # of a small layer, one by luck
        assert row["random, untrained"] <= 0.06
    # Random units fire on colours, so all labels beat chance. Untrained networks are beaten by the units that
    # fire on one object each and by no others.
    assert masks["random, shuffled"] > 0.5
    assert masks["trained, untrained"] == pytest.approx(len(OBJECTS) / (UNITS - 1))  # one is dead
