"""`scripts/check_stability_cost.py`: a line for each similarity asked for, measured with and without."""

from __future__ import annotations

import sys

import pytest
import torch

from scripts import check_stability_cost


def test_every_similarity_is_measured_twice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[str, bool]] = []
    whole = check_stability_cost.found

    def found(world, detector, Q, name, *, matrix):
        asked.append((detector.similarity.name, detector.stability))
        return whole(world, detector, Q, name, matrix=matrix)

    monkeypatch.setattr(check_stability_cost, "found", found)
    small = ["--units", "16", "--images", "60", "--words", "30", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", ["check_stability_cost.py", *small, "--similarity", "cos,soft-wpmi"])
    threads = torch.get_num_threads()
    try:
        check_stability_cost.main()
    finally:
        torch.set_num_threads(threads)
    # Each twice: the first round leaves random image sets in the cache.
    each = [(name, stability) for name in ("cos", "soft-wpmi") for stability in (False, True)]
    assert asked == [pair for pair in each for _ in range(2)]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["cos", "soft-wpmi"]
    assert all(float(line.split("|")[2]) >= 0 for line in lines[2:])
