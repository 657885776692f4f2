"""`scripts/check_blind_units.py` on the smallest worlds: every detector is there, and it can find fault."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
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


def _cell(called: int, most: int, *, with_calls: int = 1, layers: int = 5, units: int = 20) -> check.Cell:
    return check.Cell("cos", 30, 1, units, check.DENSE, layers, called, most, with_calls, 100, 5)


def test_the_limit_is_that_of_a_layer_and_of_all_of_them() -> None:
    assert not _cell(7, 3).over
    assert _cell(4, 4).over  # 5 % of 20 and 2
    assert _cell(8, 2).over  # 5 % of 100 and 2
    again = [check.Again(_cell(8, 2), _cell(1, 1, layers=50), 1)]
    printed = check.summary([_cell(7, 3), _cell(8, 2)], again)
    assert "1 of 2 kinds" in printed
    assert "8 of 100 called in 5 layers, at most 2 in one" in printed
    assert printed.endswith(": luck")


def test_luck_is_a_binomial_bound_on_layers_with_a_call() -> None:
    """Three of ten layers of one unit: by luck once in 87 kinds, and there are hundreds of kinds."""
    three = _cell(3, 1, with_calls=3, layers=10, units=1)
    tail = sum(math.comb(10, k) * 0.05**k * 0.95 ** (10 - k) for k in range(3, 11))
    assert three.over
    assert three.luck == pytest.approx(tail)
    assert three.over_by_luck == pytest.approx(tail)  # the limit is 2.5
    few, many = (_cell(n, 1, with_calls=n, layers=100, units=1) for n in (8, 12))
    assert not check.Again(three, few, 1).wrong
    assert check.Again(three, many, 1).wrong
    assert not check.Again(three, many, 20).wrong  # one of twenty that were looked at again


def test_kinds_over_the_limit_are_looked_at_again_with_other_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    size = check.Size((30,), (1, 2), (1, 3), (None, 8), 3, 0, 0)
    asked = []

    def counted(one: check.Size, detectors: list[str], *, seed: int = 0) -> list[check.Cell]:
        asked.append((one.images, one.copies, one.units, one.fires, detectors, seed))
        return [replace(over, called=1, most=1, with_calls=1)]

    over = check.Cell("clip-dissect, cos", 30, 2, 1, "8", 3, 3, 1, 3, 3, 3)
    fine = replace(over, units=3, called=0, most=0, with_calls=0)
    monkeypatch.setattr(check, "blind_cells", counted)
    (found,) = check.looked_at_again([fine, over], size, seed=4, again=3)
    assert asked == [((30,), (2,), (1,), (8,), ["clip-dissect, cos"], 4 + 1000 * k) for k in (1, 2, 3)]
    assert (found.fresh.layers, found.fresh.with_calls, found.kinds) == (9, 3, 1)
