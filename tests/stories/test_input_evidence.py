"""A run asks the evidence once, at its last checkpoint, whichever processes work on it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from concept_monitor_cli.checkpoints import Checkpoint
from concept_monitor_cli.evidence import InputEvidence, Presentation, Shown
from concept_monitor_cli.models.build import constructor, resolve_model
from concept_monitor_cli.models.cifar import create_model
from concept_monitor_cli.models.normalise import Normaliser
from concept_monitor_cli.models.preprocess import target_preprocessing
from concept_monitor_cli.options import VectorsOptions
from concept_monitor_cli.progress import SILENT
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.stories.recorder import Recorder
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
    cache = ("--cache-dir", bench.root / "cache")
    answer = cmon("checkpoints", bench.root / "ckpts", "--probe", bench.root / "photos", "--json", *cache)
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)["input_evidence"]
    assert found["status"] == "untrained"
    assert "statistics are new" in found["sentence"]


def planted(path: Path, photos: Path, epoch: int, classes: int, *, seen: bool) -> None:
    """A checkpoint whose statistics are of these photos with mean and std 0.5, or new."""
    torch.manual_seed(epoch)
    network = create_model("cifar_resnet20", num_classes=classes).train()
    opened = (Image.open(file).resize((32, 32)) for file in sorted(photos.glob("*.png")))
    images = torch.from_numpy(np.stack([np.asarray(image) for image in opened])).permute(0, 3, 1, 2)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the statistics are those of what is shown, after one pass
    if seen:
        with torch.no_grad():
            network(images / 255 / 0.5 - 1)
    torch.save({"state_dict": network.state_dict(), "epoch": epoch}, path)


def test_another_network_of_the_run_is_shown_images_as_the_last_one_is(
    bench, cmon, monkeypatch: pytest.MonkeyPatch
) -> None:
    for epoch, classes in ((0, 7), (5, 10), (10, 10)):
        planted(
            bench.checkpoints / f"epoch_{epoch}.pth", bench.root / "photos", epoch, classes, seen=epoch > 0
        )
    real, shown = Normaliser.__init__, []

    def watched(self, preprocessing, *more, **named) -> None:
        shown.append(preprocessing)
        real(self, preprocessing, *more, **named)

    answer = cmon(*bench.dissect("--evidence", "--no-floors", "--no-stability"))
    assert answer.code == 0, answer.err
    run = json.loads((bench.root / "out/run.json").read_text())
    assert run["model"]["input_evidence"]["status"] == "taken"
    assert run["model"]["input_evidence"]["checkpoint"] == "epoch_10.pth"
    assert run["settings"]["input"]["mean"] == [0.5] * 3
    assert "epoch_0.pth is another network than epoch_10.pth" in " ".join(answer.err.split())
    assert len(list((bench.root / "out/tables").glob("epoch_*"))) == 3
    # A run that is continued, without the option, for another layer.
    monkeypatch.setattr(Normaliser, "__init__", watched)
    answer = cmon(*bench.dissect("--no-floors", "--no-stability", layer="layer2"))
    assert answer.code == 0, answer.err
    assert [each.mean for each in shown] == [(0.5, 0.5, 0.5)] * 3
    # A command that runs its networks again.
    options = VectorsOptions(out=bench.root / "out", cache_dir=bench.root / "cache", device="cpu")
    opened = OpenRun(options.out, options, SILENT)
    recorder = Recorder(opened, options)
    networks = [recorder.network(record) for record in opened.run.checkpoints()]
    assert [each.architecture.preprocessing.mean for each in networks] == [(0.5, 0.5, 0.5)] * 3


@pytest.fixture(scope="module")
def padded() -> Checkpoint:
    """A checkpoint whose weights fit two networks of timm, which pad otherwise."""
    maker = constructor("timm", "mobilenetv3_small_075")
    assert maker is not None
    return Checkpoint(Path("made.pth"), maker.factory(num_classes=2).state_dict())


@pytest.mark.parametrize(
    ("status", "fixed", "followed"),
    [("taken", (), True), ("taken", ("architecture",), False), ("far off", (), False)],
)
def test_the_architecture_that_was_found_is_built(
    padded: Checkpoint, status: str, fixed: tuple[str, ...], followed: bool
) -> None:
    source = resolve_model(None, padded.state_dict)
    assert source.label == "timm/mobilenetv3_small_075"
    usual = Presentation(source, target_preprocessing(source))
    known = usual.preprocessing
    shown = ("ImageNet", known.mean, known.std, "rgb", 224, 0.1, 0.1, 0.1, 32)
    chosen = Shown(f"timm/tf_{source.name}", *shown)
    found = InputEvidence(status, usual=Shown(source.label, *shown), chosen=chosen)
    network, preprocessing = presented._followed(found, usual, target_preprocessing, fixed, padded)
    assert network.label == (chosen.model if followed else source.label)
    assert preprocessing.geometry.size == known.geometry.size
    assert (preprocessing == known) == (not followed)
