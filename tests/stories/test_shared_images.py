"""Tasks that share the images of a checkpoint leave what one task would have left, byte for byte."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.lenses.names import compositional
from concept_monitor_cli.options import DissectOptions, ImageShard
from concept_monitor_cli.progress import SILENT, Silent
from concept_monitor_cli.record import top_images
from concept_monitor_cli.record.exemplars import Exemplars
from concept_monitor_cli.record.requests import Activations, Maps, Masks, Recording
from concept_monitor_cli.record.whole_maps import WholeMaps
from concept_monitor_cli.stories.dissect import DissectResult, dissect
from concept_monitor_cli.stories.pieces import open_study
from concept_monitor_cli.stories.plan import plan
from concept_monitor_cli.study import shared
from concept_monitor_cli.study.seen import load_usable, looks_of, record_missing, restored, seen
from concept_monitor_cli.study.shared import PartsMissingError

from .planted import IMAGES, MASK, UNITS, Planted, make_planted, planted_weights

# 60 images are 8 batches: parts of 4 and 4, or of 3, 3 and 2 with a short last batch.
BATCH = 8
RECORDINGS: dict[str, Callable[[], Recording]] = {
    "activations": lambda: Activations(7),
    "masks": lambda: Masks((MASK, MASK)),
    "masks in a second pass": lambda: Masks((MASK, MASK), spool_bytes=0),
    "whole maps": lambda: WholeMaps(5),
    "exemplars": lambda: Exemplars(9, 0.02, 4),
    "maps": Maps,
}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """With a second network, of which a unit gives no finite numbers on some images."""
    made = make_planted(tmp_path_factory.mktemp("shared"))
    weights = planted_weights()
    weights["patch.weight"][9] = 1e38 * torch.sign(weights["patch.weight"][9])
    (made.root / "wild").mkdir()
    torch.save({"state_dict": weights, "epoch": 0}, made.root / "wild" / "epoch_0.pth")
    return made


def options(planted: Planted, cache: Path, part: str | None = None, **more: Any) -> DissectOptions:
    shared_over = None if part is None else ImageShard.parse(part)
    ordinary = {"batch_size": BATCH, "stability": False, "floors": False, **more}
    return planted.options(
        *ordinary.pop("detectors", ("clip-dissect",)), cache_dir=cache, shard_images=shared_over, **ordinary
    )


def entries(cache: Path) -> dict[str, bytes]:
    """Recordings, findings and parts in a cache."""
    kinds = ("activations", "masks", "whole_maps", "exemplars", "maps", "basis", "findings", "part")
    return {
        str(path.relative_to(cache)): path.read_bytes()
        for kind in kinds
        for path in (cache / kind).rglob("*.h5")
    }


def look(planted: Planted, cache: Path, make: Callable[[], Recording], part: str | None = None) -> list[str]:
    """Record one thing of a layer, in its channels and in another basis; which parts are missing then."""
    what = {"bases": ("channels", "random:5"), "checkpoints": (str(planted.root / "wild"),)}
    study = open_study(options(planted, cache, part, **what), SILENT)
    checkpoint = load_usable(study, study.files[0])
    architecture = study.architecture(checkpoint)
    weights = architecture.weights_digest(checkpoint, "act")
    wanted = [seen(study, architecture, at, make(), weights=weights) for at in looks_of(study, architecture)]
    try:
        record_missing(study, architecture, wanted, lambda: restored(study, architecture, checkpoint))
    except PartsMissingError as error:
        return list(error.parts)
    return []


@pytest.mark.parametrize(("name", "count"), [*((name, 3) for name in RECORDINGS), ("masks", 2)])
def test_parts_of_every_recording_are_joined_to_the_bytes_of_one(
    planted: Planted, tmp_path: Path, name: str, count: int
) -> None:
    make = RECORDINGS[name]
    assert look(planted, tmp_path / "one", make) == []
    order = [*range(2, count + 1), 1]
    left = set(range(1, count + 1))
    for index in order:
        left -= {index}
        missing = look(planted, tmp_path / "parts", make, f"{index}/{count}")
        assert missing == [f"{each}/{count}" for each in sorted(left)]
    found = entries(tmp_path / "parts")
    assert found == entries(tmp_path / "one")
    assert len(found) == 2
    assert sum(b"infinite or not a number" in content for content in found.values()) == 2
    # And nothing is shown twice.
    assert look(planted, tmp_path / "parts", make, f"1/{count}") == []


def test_a_part_is_whole_batches_of_some_of_the_images(planted: Planted, tmp_path: Path) -> None:
    shown: list[Any] = []
    real = shared.run_pass

    def watched(study: Any, architecture: Any, model: Any, opened: Any, images: slice) -> Any:
        shown.append((images.start, images.stop))
        return real(study, architecture, model, opened, images)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared, "run_pass", watched)
        for index in (1, 2, 3):
            look(planted, tmp_path, RECORDINGS["activations"], f"{index}/3")
    assert shown == [(0, 24), (24, 48), (48, IMAGES)]


def tables(planted: Planted, out: str) -> dict[str, bytes]:
    """Every table and score matrix of a run."""
    return {
        str(path.relative_to(planted.root / out)): path.read_bytes()
        for folder in ("tables", "scores", "untrained")
        for path in sorted((planted.root / out / folder).rglob("*"))
        if path.suffix in (".csv", ".parquet", ".h5")
    }


def test_several_detectors_say_the_same_of_shared_images(
    planted: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With floors: the network with random weights is shared, too."""
    monkeypatch.setattr(compositional, "MOST_DRAWS", 3)
    more = {
        "detectors": ("clip-dissect", "network-dissection", "compositional"),
        "save_scores": True,
        "length": 2,
        "search": "beam",
        "beam": 2,
        "floors": True,
    }
    one = dissect(options(planted, tmp_path / "one", out="one", **more))
    results = [
        dissect(options(planted, tmp_path / "parts", f"{index}/3", out="shared", **more))
        for index in (3, 1, 2)
    ]
    assert [result.waiting for result in results] == [
        {"epoch_0.pth": ("1/3", "2/3")},
        {"epoch_0.pth": ("2/3",)},
        {},
    ]
    assert [(result.done, result.whole) for result in results[:2]] == [([], False)] * 2
    assert (results[2].done, results[2].whole) == (["epoch_0.pth"], True)
    assert [result.forward_passes for result in results] == [one.forward_passes] * 3
    found = tables(planted, "shared")
    assert found == tables(planted, "one")
    assert len(found) > 8
    assert entries(tmp_path / "parts") == entries(tmp_path / "one")


def test_a_basis_that_is_fitted_to_shared_images(planted: Planted, tmp_path: Path) -> None:
    """It needs the activations of all images: whoever comes first goes on with the parts of the others."""
    dissect(options(planted, tmp_path / "one", out="pca-one", bases=("pca:3",)))
    for part in ("2/2", "1/2"):
        last: DissectResult = dissect(
            options(planted, tmp_path / "parts", part, out="pca-shared", bases=("pca:3",))
        )
    assert last.done
    assert tables(planted, "pca-shared") == tables(planted, "pca-one")
    assert entries(tmp_path / "parts") == entries(tmp_path / "one")


class Killed(BaseException):
    """Stands for the end of a process."""


def test_a_part_that_was_broken_off_is_recorded_again(
    planted: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look(planted, tmp_path / "one", RECORDINGS["activations"])
    cache = tmp_path / "parts"
    look(planted, cache, RECORDINGS["activations"], "1/2")
    first = entries(cache)
    batches: list[int] = []
    real = top_images.TopImages.update

    def dies(self: Any, layer: str, start: int, *more: Any) -> None:
        batches.append(start)
        if start >= 48:
            raise Killed
        real(self, layer, start, *more)

    with monkeypatch.context() as patch:
        patch.setattr(top_images.TopImages, "update", dies)
        with pytest.raises(Killed):
            look(planted, cache, RECORDINGS["activations"], "2/2")
    assert batches
    assert entries(cache) == first
    assert look(planted, cache, RECORDINGS["activations"], "1/2") == ["2/2"]
    assert look(planted, cache, RECORDINGS["activations"], "2/2") == []
    assert entries(cache) == entries(tmp_path / "one")


def test_parts_of_other_images_weights_or_batches_never_meet(planted: Planted, tmp_path: Path) -> None:
    other = Planted(tmp_path / "other")
    shutil.copytree(planted.root, other.root, ignore=shutil.ignore_patterns("cache", "one", "shared"))
    cache = tmp_path / "cache"
    make = RECORDINGS["activations"]
    assert look(planted, cache, make, "1/2") == ["2/2"]

    photo = other.root / "broden/images/003.png"
    Image.fromarray(255 - np.asarray(Image.open(photo))).save(photo)
    assert look(other, cache, make, "2/2") == ["1/2"]

    torch.save({"state_dict": planted_weights(5), "epoch": 0}, other.root / "wild/epoch_0.pth")
    shutil.copy(planted.root / "broden/images/003.png", photo)
    assert look(other, cache, make, "2/2") == ["1/2"]

    assert look(planted, cache, make, "3/4") == ["1/4", "2/4", "4/4"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "BATCH", 16)  # the same images in each part
        assert look(planted, cache, make, "2/2") == ["1/2"]
    assert look(planted, cache, make, "2/2") == []


def test_tasks_that_wait_for_each_other_in_different_networks_do_not_both_give_up(
    planted: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second task works between the first one's look at the checkpoint and its look at the floors."""
    two = {"out": "between", "floors": True}
    waiting: list[dict[str, tuple[str, ...]]] = []
    networks = 0

    def between(*given: Any, **more: Any) -> None:
        nonlocal networks
        networks += 1
        try:
            record_missing(*given, **more)
        finally:
            if networks == 1:
                waiting.append(dissect(options(planted, tmp_path, "2/2", **two)).waiting)

    monkeypatch.setattr("concept_monitor_cli.stories.dissect.record_missing", between)
    first = dissect(options(planted, tmp_path, "1/2", **two))
    assert waiting == [{"epoch_0.pth": ("1/2",)}]
    assert first.waiting == {}
    assert first.done == ["epoch_0.pth"]


class Heard(Silent):
    """Keeps what is told."""

    def __init__(self) -> None:
        self.notices: list[str] = []

    def notice(self, message: str) -> None:
        self.notices.append(message)


def test_what_is_missing_is_said_with_the_command_for_it(planted: Planted, tmp_path: Path) -> None:
    heard = Heard()
    dissect(options(planted, tmp_path, "2/3", out="said"), heard)
    (said,) = [notice for notice in heard.notices if "epoch_0.pth" in notice]
    assert "part 2/3 of the images is recorded; missing: 1/3, 3/3" in said
    assert said.endswith("--shard-images 1/3")
    assert not (planted.root / "said" / "run.json").exists()


def test_a_dry_run_counts_the_own_part(planted: Planted, tmp_path: Path) -> None:
    asked = options(planted, tmp_path, "3/3", out="planned", detectors=("network-dissection",))
    before = plan(asked)
    assert (before.images, before.own_images, before.forward_passes) == (IMAGES, 12, 1)
    assert before.spool == 4 * IMAGES * UNITS * MASK * MASK  # the maps, until all parts are there
    dissect(asked)
    assert plan(asked).forward_passes == 0


def test_more_parts_than_batches(planted: Planted, tmp_path: Path) -> None:
    heard = Heard()
    wide = {"out": "wide", "batch_size": 64}
    assert dissect(options(planted, tmp_path, "2/2", **wide), heard).waiting == {"epoch_0.pth": ("1/2",)}
    assert any("a smaller --batch-size makes more" in notice for notice in heard.notices)
    assert dissect(options(planted, tmp_path, "1/2", **wide)).whole


OWN = """
from concept_monitor_cli.lenses.names.clip_dissect import ClipDissect
from concept_monitor_cli.record.requests import Activations, Pass
from concept_monitor_cli.record.consumers import UnitRange


class Mean:
    needs_maps = False
    def __init__(self, layer): self.layers = (layer,)
    def start(self, layer, n_images): pass
    def update(self, layer, start, pooled, maps): pass
    def finish(self): pass


class Averages(Activations):
    def begin(self, stack, store, key, layer, n_images):
        todo = super().begin(stack, store, key, layer, n_images)
        return Pass([*todo.consumers, Mean(layer.name)], todo.complete)


class Own(ClipDissect):
    name = "own"
    def recording(self, context): return Averages()
"""


def test_what_cannot_be_joined_is_refused_before_an_image_is_shown(planted: Planted, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    own = {"detectors": (f"{tmp_path / 'own.py'}:Own",), "out": "own"}
    with pytest.raises(InputError, match="own: what is recorded of act") as error:
        dissect(options(planted, tmp_path / "cache", "1/2", **own))
    assert "--shard I/N" in str(error.value)
    assert entries(tmp_path / "cache") == {}
    assert dissect(options(planted, tmp_path / "cache", **own)).whole
