"""A run asks the evidence once, at its last checkpoint, whichever processes work on it."""

from __future__ import annotations

import json

import pytest

from concept_monitor_cli.evidence import InputEvidence
from concept_monitor_cli.study import presented


def test_shards_share_one_answer_and_a_rerun_keeps_it(bench, cmon, monkeypatch: pytest.MonkeyPatch) -> None:
    real, asked = presented.find_input, []

    def counting(weights, *arguments, **more) -> InputEvidence:
        asked.append(weights)
        found: InputEvidence = real(weights, *arguments, **more)
        return found

    monkeypatch.setattr(presented, "find_input", counting)
    for shard in ("2/2", "1/2"):
        answer = cmon(*bench.dissect("--quiet", "--evidence", "--shard", shard))
        assert answer.code == 0, answer.err
    evidence = json.loads((bench.root / "out/run.json").read_text())["model"]["input_evidence"]
    assert len(asked) == 1
    assert evidence["checkpoint"] == "epoch_10.pth"
    assert evidence["status"] == "untrained"
    bench.add(12)
    answer = cmon(*bench.dissect("--quiet", "--evidence"))
    assert answer.code == 0, answer.err
    assert json.loads((bench.root / "out/run.json").read_text())["model"]["input_evidence"] == evidence
    assert len(asked) == 1


def test_without_the_option_nothing_is_looked_at_and_a_rerun_with_it_says_so(
    bench, cmon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presented, "find_input", lambda *_, **__: pytest.fail("looked at"))
    answer = cmon(*bench.dissect("--quiet"))
    assert answer.code == 0, answer.err
    evidence = json.loads((bench.root / "out/run.json").read_text())["model"]["input_evidence"]
    assert evidence["status"] == "not looked at"
    bench.add(12)
    answer = cmon(*bench.dissect("--quiet", "--evidence"))
    assert answer.code == 0, answer.err
    assert "--evidence is not followed" in answer.err


def test_checkpoints_with_a_probe_says_what_was_found(bench, cmon) -> None:
    answer = cmon("checkpoints", str(bench.root / "ckpts"), "--probe", "builtin", "--json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)["input_evidence"]
    assert found["status"] == "untrained"
    assert "statistics are new" in found["sentence"]
