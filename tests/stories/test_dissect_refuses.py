"""What `dissect` and `embed` say of bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import torch

from .conftest import WORDS, Bench, make_network


class TestBadInput:
    """Each says what, where and what to do, in one to three lines, and ends with the right code."""

    def check(self, answer, code: int, *words: str) -> None:
        assert answer.code == code, answer.err
        lines = answer.err.strip().splitlines()
        start = next(i for i, line in enumerate(lines) if line.startswith("error:"))
        assert len(lines[start:]) <= 3, answer.err
        assert "Traceback" not in answer.err
        for word in words:
            assert word in answer.err, answer.err

    def test_no_checkpoints(self, bench: Bench, cmon) -> None:
        for path in bench.checkpoints.iterdir():
            path.unlink()
        self.check(cmon(*bench.dissect()), 2, "ckpts")

    def test_unknown_layer_offers_the_nearest(self, bench: Bench, cmon) -> None:
        self.check(cmon(*bench.dissect(layer="layr3")), 2, "layr3", "layer3")

    def test_wrong_architecture(self, bench: Bench, cmon) -> None:
        self.check(cmon(*bench.dissect("--model", "torchvision/resnet18")), 2, "resnet18", "--model")

    def test_unknown_architecture(self, bench: Bench, cmon) -> None:
        for path in bench.checkpoints.iterdir():
            torch.save({"state_dict": torch.nn.Sequential(torch.nn.Linear(3, 4)).state_dict()}, path)
        self.check(cmon(*bench.dissect()), 2, "--model")

    def test_a_truncated_and_a_foreign_checkpoint_among_good_ones(self, bench: Bench, cmon) -> None:
        path = bench.checkpoints / "epoch_5.pth"
        path.write_bytes(path.read_bytes()[:5000])
        (bench.checkpoints / "epoch_7.pth").write_text("<html>404</html>")
        answer = cmon(*bench.dissect("--json"))
        assert answer.code == 3
        result = answer.json()
        assert result["done"] == ["epoch_0.pth", "epoch_10.pth"]
        assert set(result["failed"]) == {"epoch_5.pth", "epoch_7.pth"}
        table = pd.read_parquet(bench.root / "out/tables/concepts.parquet")
        assert set(table["epoch"]) == {0, 10}

    def test_only_broken_checkpoints(self, bench: Bench, cmon) -> None:
        for path in bench.checkpoints.iterdir():
            path.write_bytes(b"PK\x03\x04 nothing")
        self.check(cmon(*bench.dissect()), 2, "epoch_0.pth")

    def test_a_pickle_that_wants_to_run_code_does_not(self, bench: Bench, cmon) -> None:
        import pickle

        target = bench.root / "owned"

        class Evil:
            def __reduce__(self) -> tuple[object, tuple[str]]:
                return Path.touch, (target,)  # type: ignore[return-value]

        for path in bench.checkpoints.iterdir():
            path.write_bytes(pickle.dumps({"state_dict": Evil()}))
        self.check(cmon(*bench.dissect()), 2, "--trust-pickle")
        assert not target.exists()

    def test_nan_weights(self, bench: Bench, cmon) -> None:
        network = make_network(1)
        with torch.no_grad():
            network.layer2[0].conv1.weight[0] = float("nan")
        torch.save({"state_dict": network.state_dict(), "epoch": 5}, bench.checkpoints / "epoch_5.pth")
        answer = cmon(*bench.dissect("--json"))
        assert answer.code == 3
        assert "NaN" in answer.json()["failed"]["epoch_5.pth"]
        info = json.loads((bench.root / "out/run.json").read_text())
        assert [item["status"] for item in info["checkpoints"]] == ["done", "failed", "done"]

    def test_empty_concept_file(self, bench: Bench, cmon) -> None:
        (bench.root / "words.txt").write_text("\n \n")
        self.check(cmon(*bench.dissect()), 2, "words.txt")

    def test_blank_and_duplicate_concepts_shift_nothing(self, bench: Bench, cmon) -> None:
        assert cmon(*bench.dissect("-q")).code == 0
        lines = list(WORDS)
        (bench.root / "words.txt").write_text("\n".join([*lines[:3], "", *lines[3:], lines[0]]) + "\n\n")
        answer = cmon(*bench.dissect(out="second"))
        assert answer.code == 0
        assert "blank" in answer.err
        assert "duplicate" in answer.err
        assert bench.tables("second") == bench.tables()

    def test_probe_folder_without_images(self, bench: Bench, cmon) -> None:
        for path in (bench.root / "photos").iterdir():
            path.unlink()
        self.check(cmon(*bench.dissect()), 2, "photos")

    def test_anchors_that_are_none(self, bench: Bench, cmon) -> None:
        assert cmon(*bench.dissect("-q")).code == 0
        self.check(cmon("embed", "--anchors", "", "--out", bench.root / "out"), 2, "anchors")

    def test_embed_before_dissect(self, bench: Bench, cmon) -> None:
        self.check(cmon("embed", "--anchors", "red", "--out", bench.root / "nowhere"), 2, "cmon dissect")

    def test_units_that_are_not_there(self, bench: Bench, cmon) -> None:
        assert cmon(*bench.dissect("-q")).code == 0
        answer = cmon(
            "embed",
            "--anchors",
            "red",
            "--units",
            "64",
            "--out",
            bench.root / "out",
            "--cache-dir",
            bench.root / "cache",
        )
        self.check(answer, 2, "64", "0 to 63")

    def test_another_training_in_the_same_run(self, bench: Bench, cmon) -> None:
        assert cmon(*bench.dissect("-q")).code == 0
        first = bench.checkpoints
        second = first.rename(bench.root / "second")
        first.mkdir()
        for path in second.iterdir():
            path.rename(first / path.name)
        torch.save({"state_dict": make_network(50).state_dict(), "epoch": 5}, second / "epoch_5.pth")
        arguments = [second if argument == first else argument for argument in bench.dissect()]
        self.check(cmon(*arguments), 2, "--out", "--overwrite")
        assert cmon(*arguments, "-q", "--overwrite").code == 0
        assert set(pd.read_parquet(bench.root / "out/tables/concepts.parquet")["epoch"]) == {5}

    def test_a_slip_with_overwrite_costs_nothing(self, bench: Bench, cmon) -> None:
        assert cmon(*bench.dissect("-q")).code == 0
        before = bench.tables()
        self.check(cmon(*bench.dissect("--overwrite", layer="layr3")), 2, "layer3")
        assert bench.tables() == before

    def test_other_nulls_are_not_mixed_in_one_run(self, bench: Bench, cmon) -> None:
        assert cmon(*bench.dissect("-q")).code == 0
        self.check(cmon(*bench.dissect("--fdr", "0.2")), 2, "fdr", "--overwrite")

    def test_other_settings_in_the_same_run(self, bench: Bench, cmon) -> None:
        assert cmon(*bench.dissect("-q")).code == 0
        self.check(cmon(*bench.dissect("--similarity", "wpmi")), 2, "similarity", "--overwrite")
