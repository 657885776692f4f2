"""A dry run: what it says is what the run then does, and it touches nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from concept_monitor_cli.options import DissectOptions
from concept_monitor_cli.probe import pixels
from concept_monitor_cli.record import requests as recordings
from concept_monitor_cli.stories.dissect import dissect
from concept_monitor_cli.stories.plan import plan

from .conftest import Bench, make_network
from .planted import make_planted


def everything(root: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder below, with its size and time."""
    return {
        str(path): (0 if path.is_dir() else path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(root.rglob("*"))
    }


def sizes(cache: Path, kind: str) -> int:
    return sum(path.stat().st_size for path in (cache / kind).rglob("*.h5"))


def test_dry_run_says_what_would_be_done_and_touches_nothing(bench: Bench, cmon) -> None:
    before = everything(bench.root)
    answer = cmon(*bench.dissect("--dry-run"))
    assert answer.code == 0, answer.err
    assert "epoch_5.pth (epoch 5): a forward pass over 40 images for layer3" in answer.out
    assert "40 images to decode" in answer.out
    assert "Together: 4 forward passes" in answer.out
    found = cmon(*bench.dissect("--dry-run", "--json")).json()
    assert found["dry_run"]
    assert "done" not in found
    steps: Any = found["checkpoints"]
    assert [step["checkpoint"] for step in steps] == ["epoch_0.pth", "epoch_5.pth", "epoch_10.pth"]
    assert steps[0] == {
        "checkpoint": "epoch_0.pth",
        "epoch": 0,
        "forward_passes": 1,
        "layers": ["layer3"],
        "bytes": 64 * (4 * 40 + 12 * 100 + 1),
        "spool": 0,
        "tables": 1,
        "known_tables": 0,
    }
    assert everything(bench.root) == before


def test_what_it_says_is_what_is_done(bench: Bench, cmon) -> None:
    """Also for a head that changed only, which costs nothing, and for what is there already."""
    network = make_network(10)
    with torch.no_grad():
        network.fc.weight += 1
    torch.save({"state_dict": network.state_dict(), "epoch": 11}, bench.checkpoints / "epoch_11.pth")
    cache = bench.root / "cache"
    for layers in ("layer3", "layer2,layer3", "fc", "fc"):
        kept = sizes(cache, "activations")
        planned: dict[str, Any] = cmon(*bench.dissect("--dry-run", "--json", layer=layers)).json()
        before = everything(bench.root)
        assert cmon(*bench.dissect("--dry-run", "-q", layer=layers)).code == 0
        assert everything(bench.root) == before
        done = cmon(*bench.dissect("--json", layer=layers)).json()
        assert planned["forward_passes"] == done["forward_passes"]
        assert planned["images"] == done["images"]
        # Besides the arrays an entry has a header, names and what it was made from.
        steps = [step for step in planned["checkpoints"] if step["forward_passes"]]
        planned_bytes = planned["untrained_bytes"] + sum(step["bytes"] for step in steps)
        overhead = sizes(cache, "activations") - kept - planned_bytes
        passes = len(steps) + planned["floor_passes"]
        assert 0 <= overhead <= 16_384 * passes * len(layers.split(","))
    assert planned["forward_passes"] == 0
    assert planned["decode"] == 0
    assert [step["known_tables"] for step in planned["checkpoints"]] == [1, 1, 1, 1]


def test_pixels_that_would_be_decoded_are_counted_and_not_decoded(
    bench: Bench, cmon, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bench.root / "photos/041.png").write_bytes(b"no picture")
    arguments = bench.dissect("--encoder", "builtin", "--json")
    with monkeypatch.context() as patch:
        patch.setattr(pixels, "shape_image", lambda *a: pytest.fail("an image was decoded"))
        planned: dict[str, Any] = cmon(*arguments, "--dry-run").json()
    assert (planned["decode"], planned["embed"]) == (41, 41)
    assert cmon(*arguments).code == 0
    assert 0 <= sizes(bench.root / "cache", "pixels") - planned["decode_bytes"] <= 16_384 * 2
    again: dict[str, Any] = cmon(*arguments, "--dry-run").json()
    assert (again["images"], again["decode"], again["decode_bytes"], again["embed"]) == (40, 0, 0, 0)
    assert again["forward_passes"] == 0


def test_images_as_the_encoder_wants_them_are_decoded_once_and_not_kept(
    bench: Bench, cmon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody who reads the run wants them: not `dissect` for other words, not `units`."""
    shaped: list[int] = []
    shape = pixels.shape_image
    monkeypatch.setattr(pixels, "shape_image", lambda *given: (shaped.append(1), shape(*given))[1])
    assert cmon(*bench.dissect("--encoder", "builtin")).code == 0
    assert len(shaped) == 3 * 40  # for the network, the encoder and the search for copies
    assert len(list((bench.root / "cache/pixels").rglob("*.h5"))) == 2
    (bench.root / "others.txt").write_text("red\nblue\nsky\n")
    assert (
        cmon(*bench.dissect("--encoder", "builtin", "--concepts", bench.root / "others.txt", out="two")).code
        == 0
    )
    for out in ("out", "two"):
        assert cmon("units", "--out", bench.root / out, "--cache-dir", bench.root / "cache").code == 0
    assert len(shaped) == 3 * 40


@pytest.mark.parametrize("spooled", [True, False])
def test_masks_and_untrained_networks_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spooled: bool
) -> None:
    planted = make_planted(tmp_path)
    options: DissectOptions = planted.options("clip-dissect", "network-dissection", null="untrained")
    if not spooled:
        # As for a layer whose maps are too many for the disk: a second pass.
        init = recordings.Masks.__init__
        monkeypatch.setattr(recordings.Masks, "__init__", lambda self, *a: init(self, *a, spool_bytes=0))
    before = everything(tmp_path)
    found = plan(options)
    assert everything(tmp_path) == before
    assert (found.spool > 0) is spooled
    assert found.checkpoints[0].forward_passes == (1 if spooled else 2)
    done = dissect(options)
    assert found.forward_passes == done.forward_passes > found.checkpoints[0].forward_passes
    kept = sum(sizes(options.cache, kind) for kind in ("masks", "activations"))
    assert kept / 10 < found.bytes - found.decode_bytes
    assert kept < found.bytes - found.decode_bytes + 16_384 * 2 * done.forward_passes
    assert plan(options).forward_passes == 0


def test_what_would_fail_is_said_with_the_exit_code_of_the_run(bench: Bench, cmon) -> None:
    path = bench.checkpoints / "epoch_5.pth"
    path.write_bytes(path.read_bytes()[:5000])
    network = make_network(1)
    with torch.no_grad():
        network.layer2[0].conv1.weight[0] = float("nan")
    torch.save({"state_dict": network.state_dict(), "epoch": 10}, bench.checkpoints / "epoch_10.pth")
    answer = cmon(*bench.dissect("--dry-run", "--json"))
    assert answer.code == 3
    assert set(answer.json()["failed"]) == {"epoch_5.pth", "epoch_10.pth"}
    assert cmon(*bench.dissect("--dry-run", layer="layr3")).code == 2
    assert cmon(*bench.dissect("-q")).code == 3
    refused = cmon(*bench.dissect("--dry-run", "--similarity", "wpmi"))
    assert refused.code == 2
    assert "other settings" in refused.err
    assert cmon(*bench.dissect("--dry-run", "--similarity", "wpmi", "--overwrite")).code == 3
    assert (bench.root / "out/run.json").is_file()


def test_the_builtin_set_leaves_nothing_behind(bench: Bench, cmon, monkeypatch: pytest.MonkeyPatch) -> None:
    from concept_monitor_cli.builtin import broden

    monkeypatch.setattr(broden, "PROBE_IMAGES", 24)
    before = everything(bench.root)
    common = ("--cache-dir", bench.root / "cache", "--out", bench.root / "out", "--dry-run", "--json")
    answer = cmon("dissect", bench.checkpoints, "--layer", "layer3", *common)
    assert answer.code == 0, answer.err
    assert answer.json()["decode"] == 24
    assert everything(bench.root) == before


def test_an_encoder_that_is_not_here_is_not_downloaded(bench: Bench, cmon) -> None:
    answer = cmon(*bench.dissect("--encoder", "RN50/openai", "--dry-run"))
    assert answer.code == 2
    assert "downloads nothing" in answer.err


def test_a_dry_run_is_no_dissect(bench: Bench) -> None:
    options = DissectOptions(checkpoints=(str(bench.checkpoints),), layers=("layer3",))
    with pytest.raises(ValueError, match="plan"):
        dissect(dataclasses.replace(options, dry_run=True))
