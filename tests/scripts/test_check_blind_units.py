"""`scripts/check_blind_units.py` on the smallest worlds: every detector is there, and it can find fault."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from concept_monitor_cli.functional.groups import ImageGroups
from concept_monitor_cli.lenses import Findings
from concept_monitor_cli.options import SIMILARITIES
from concept_monitor_cli.study import Context
from scripts import check_blind_units as check

NAMES = [*(f"clip-dissect, {name}" for name in SIMILARITIES)]
NAMES += ["network-dissection, supported", "network-dissection, iou", "compositional"]


def test_every_detector_and_kind_of_layer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cells.json"
    assert check.main(["--size", "tiny", "--json", str(path)]) == 0
    cells = [check.Cell(**cell) for cell in json.loads(path.read_text())]
    assert list(dict.fromkeys(cell.detector for cell in cells)) == NAMES
    assert len(cells) == len(NAMES) * 2  # dense or sparse
    printed = capsys.readouterr().out
    assert f"0 of {len(cells)} kinds of layers are over the limit" in printed
    assert printed.count("| compositional |") == 2  # blind and planted units


def test_copies_taken_for_photos_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every image counts for itself, five copies of every photo make blind units look interpretable."""

    def ungrouped(make: Callable[..., Findings]) -> Callable[..., Findings]:
        def found(world: Context, *given: Any, **more: Any) -> Findings:
            with monkeypatch.context() as patch:
                patch.setitem(world.__dict__, "groups", ImageGroups.single(len(world.probe)))
                return make(world, *given, **more)

        return found

    size = check.Size((200,), (5,), (40,), (None,), 40, 0, 0)
    for fault in (False, True):
        if fault:
            monkeypatch.setattr(check, "found", ungrouped(check.found))
            monkeypatch.setattr(check.MaskWorld, "found", ungrouped(check.MaskWorld.found))
        for wanted in ("clip-dissect, soft-wpmi", "network-dissection, supported"):
            cells = [cell for cell in check.blind_cells(size, [wanted]) if cell.detector == wanted]
            assert [cell.over for cell in cells] == [fault]


def test_the_limit_is_that_of_a_layer_and_of_all_of_them() -> None:
    def cell(called: int, most: int) -> check.Cell:
        return check.Cell("cos", 30, 1, 20, check.DENSE, 5, called, most, 100, 5)

    assert not cell(7, 3).over
    assert cell(4, 4).over  # 5 % of 20 and 2
    assert cell(8, 2).over  # 5 % of 100 and 2
    assert "1 of 2 kinds" in check.summary([cell(7, 3), cell(8, 2)])
    assert "8 of 100 called in 5 layers, at most 2 in one" in check.summary([cell(8, 2)])
