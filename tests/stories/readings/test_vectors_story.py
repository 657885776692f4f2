"""`cmon vectors`: a planted classifier, its tables beside a pass by hand, and what can be wrong."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from planted_classifier import CLASSES, EACH, EPOCHS, SORTED, WIDE, state
from planted_training import CONCEPTS

from concept_monitor_cli.bases.make import read_arrays
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.concept_vectors import concept_vectors
from concept_monitor_cli.options import EpochFilter, VectorsOptions
from concept_monitor_cli.run import TABLES
from concept_monitor_cli.stories.vectors import VectorsResult, vectors


def asked(root: Path, **more: object) -> VectorsOptions:
    given: dict[str, object] = {
        "out": root / "run",
        "cache_dir": root / "cache",
        "model": f"{root / 'network.py'}:network",
        "device": "cpu",
        "plot_formats": (),
    }
    return VectorsOptions(**{**given, **more})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def found(classifier: Path) -> VectorsResult:
    return vectors(asked(classifier, plot_formats=("png",)))


def table(classifier: Path, name: str) -> pd.DataFrame:
    return TABLES[name].read_csv(classifier / "run/tables" / f"{name}.csv")


def test_planted_concepts_are_read_off_once_they_are_learnt(classifier: Path, found: VectorsResult) -> None:
    assert found.images == CLASSES * EACH, "of the copies one counts"
    rows = table(classifier, "vectors")
    assert len(rows) == EPOCHS * 2 * CLASSES
    assert set(rows["concept"]) == set(CONCEPTS)
    assert set(rows["source"]) == {"folders"}
    last = rows[rows["epoch"] == 1]
    assert (last["auc"] > 0.95).all()
    assert last["significant"].all()
    assert abs(float(rows["chance"].mean()) - 0.5) < 0.15
    assert (last["first_auc"] == rows[rows["epoch"] == 0]["auc"].to_numpy()).all()
    assert (last["cosine_halves"] > 0.9).all()
    assert np.allclose(last["cosine_last"], 1)
    assert rows[rows["epoch"] == 0]["cosine_previous"].isna().all()


def test_effects_are_what_a_pass_by_hand_gives(classifier: Path, found: VectorsResult) -> None:
    """On layer `stage1`, where each image of a class has its own gradient."""
    weights = state(1)
    images, owners = [], []
    for k, name in enumerate(SORTED):
        for file in sorted((classifier / "photos" / name).glob("0*.png")):
            images.append(np.asarray(Image.open(file)).astype(np.float32).transpose(2, 0, 1).ravel() / 255)
            owners.append(k)
    x, y = torch.from_numpy(np.stack(images)), torch.tensor(owners)
    q = torch.relu(x @ weights["first.weight"].T + weights["first.bias"]).requires_grad_()
    deep = torch.relu(q @ weights["second.weight"].T + weights["second.bias"])
    scores = deep @ weights["head.weight"].T + weights["head.bias"]
    (own,) = torch.autograd.grad(scores.gather(1, y[:, None]).sum(), q)
    rows = table(classifier, "effects")
    rows = rows[(rows["epoch"] == 1) & (rows["layer"] == "stage1")].set_index(["class", "concept"])
    q = q.detach()
    for k, name in enumerate(SORTED):
        for m, concept in enumerate(SORTED):
            expected = own[y == k].mean(0) @ (q[y == m].mean(0) - q.mean(0))
            row = rows.loc[(name, concept)]
            assert float(row["effect"]) == pytest.approx(float(expected), rel=1e-4, abs=1e-6)
            direction = concept_vectors(q, (y == m).float()[:, None])[:, 0]
            share = ((own[y == k].double() @ direction) > 0).double().mean()
            assert float(row["tcav"]) == pytest.approx(float(share))
            assert (row["class_images"], row["images"]) == (EACH, EACH)
        assert float(rows.loc[(name, name)]["effect"]) > 0
        assert rows.loc[(name, name)]["significant"]


def test_shares_in_front_of_a_linear_head_are_marked(classifier: Path, found: VectorsResult) -> None:
    rows = table(classifier, "effects")
    last = rows[rows["layer"] == "stage2"]
    assert last["degenerate"].all()
    assert set(last["tcav"]) <= {0.0, 1.0}
    assert [line.degenerate for line in found.layers] == [False, True]
    assert found.layers[1].by_chance <= 0.1 * found.layers[1].pairs < found.layers[1].significant * 2


def test_what_the_command_prints(found: VectorsResult) -> None:
    from rich.console import Console

    from concept_monitor_cli.cli.vectors import _layers, strongest

    console = Console(width=140, record=True, file=io.StringIO())
    console.print(_layers(found))
    text = console.export_text()
    assert f"{CLASSES * EACH} images" in text
    assert f"{found.layers[1].auc:.2f} ({found.layers[1].first_auc:.2f})" in text
    lines = strongest(found)
    name = lines[0].split(" moves ")[0]
    assert lines[0].startswith(f"{name} moves {name} by +"), "a class is moved most by its own patch"
    assert "read effect and p" in lines[-1]
    assert {path.name for path in found.plots} == {"vectors.png", "vector_drift.png", "effects.png"}
    assert all(path.stat().st_size > 5000 for path in found.plots)


def test_the_vectors_of_the_last_epoch_are_a_basis(classifier: Path, found: VectorsResult) -> None:
    arrays = read_arrays(classifier / "run/vectors/stage2.npz")
    assert arrays["vectors"].shape == (WIDE, CLASSES)
    assert np.allclose(np.linalg.norm(arrays["vectors"], axis=0), 1, atol=1e-6)
    # Units that see a concept, and only they, stand out in its direction.
    for column, concept in enumerate(arrays["concepts"].tolist()):
        best = set(np.argsort(-arrays["vectors"][:, column])[:2].tolist())
        assert best == {u for u in range(WIDE) if CONCEPTS[u % CLASSES] == concept}


def test_again_gives_the_same_bytes_and_one_word_is_one_concept(
    classifier: Path, found: VectorsResult
) -> None:
    files = [classifier / "run/tables" / f"{name}.csv" for name in ("vectors", "effects")]
    before = [file.read_bytes() for file in files]
    vectors(asked(classifier))
    assert [file.read_bytes() for file in files] == before
    one = vectors(asked(classifier, words=("car",), layers=("stage2",), epochs=EpochFilter.parse("last")))
    assert {row["concept"] for row in one.vectors} == {"car"}
    assert {row["layer"] for row in one.effects} == {"stage2"}
    for file, content in zip(files, before, strict=True):
        file.write_bytes(content)


@pytest.mark.parametrize("kind", ["ridge", "sgd"])
def test_other_kinds_find_the_concepts_too(classifier: Path, found: VectorsResult, kind: str) -> None:
    options = asked(classifier, kind=kind, layers=("stage2",), epochs=EpochFilter.parse("last"))
    rows = vectors(options).vectors
    assert {row["kind"] for row in rows} == {kind}
    assert min(row["auc"] for row in rows) > 0.9
    vectors(asked(classifier))


def test_what_is_missing_is_said(classifier: Path, found: VectorsResult, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no concept has enough images"):
        vectors(asked(classifier, least=EACH * CLASSES))
    names = tmp_path / "names.txt"
    names.write_text("one\ntwo\n")
    with pytest.raises(InputError, match="2 class names for the 6 outputs"):
        vectors(asked(classifier, class_names=str(names)))
    gone = replace(asked(classifier), cache_dir=tmp_path / "cache")
    moved = classifier / "ckpts/epoch_0.pth"
    moved.rename(classifier / "away.pth")
    try:
        with pytest.raises(InputError, match="is gone"):
            vectors(gone)
    finally:
        (classifier / "away.pth").rename(moved)
