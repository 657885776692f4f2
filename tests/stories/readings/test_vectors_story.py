"""`cmon vectors`: a planted classifier, its tables beside a pass by hand, and what can be wrong."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import planted_classifier
import pytest
import torch
from PIL import Image
from planted_classifier import CLASSES, EACH, EPOCHS, SORTED, WIDE, state
from planted_training import CONCEPTS, SIDE, patch

from concept_monitor_cli.bases.make import fit_basis, read_arrays
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.concept_vectors import concept_vectors
from concept_monitor_cli.options import BasisSpec, EpochFilter, UnitsOptions, VectorsOptions, basis_name
from concept_monitor_cli.options.values import named_folder
from concept_monitor_cli.run import TABLES
from concept_monitor_cli.stories.units import units
from concept_monitor_cli.stories.vector_concepts import _what_is_lacking, against_each_other
from concept_monitor_cli.stories.vectors import VectorsResult, vectors


def asked(root: Path, **more: object) -> VectorsOptions:
    return planted_classifier.asked(VectorsOptions, root, **more)


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


# -- concepts from elsewhere, and other sides ----------------------------------------------------------------


@pytest.fixture(scope="module")
def aside(classifier: Path, found: VectorsResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the run, which may be written over."""
    copy = tmp_path_factory.mktemp("aside") / "run"
    shutil.copytree(classifier / "run", copy)
    return copy


@pytest.fixture(scope="module")
def stripes(classifier: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of other photos with the patch of `wheel`, and one with noise only."""
    root = tmp_path_factory.mktemp("shown")
    rng = np.random.default_rng(7)
    mask = patch(CONCEPTS.index("wheel")).reshape(3, SIDE, SIDE).permute(1, 2, 0).numpy() > 0
    for name in ("round", "noise"):
        (root / name).mkdir()
        for number in range(20):
            pixels = rng.integers(0, 110, (SIDE, SIDE, 3))
            pixels = np.where(mask & (name == "round"), pixels + rng.integers(60, 140), pixels)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / name / f"{number}.png")
    return root


def test_a_folder_of_other_images_shows_a_concept(classifier: Path, aside: Path, stripes: Path) -> None:
    given = (f"round={stripes / 'round'}", f"noise={stripes / 'noise'}")
    options = asked(
        classifier, out=aside, concepts=given, layers=("stage2",), epochs=EpochFilter.parse("last")
    )
    result = vectors(options)
    rows = {row["concept"]: row for row in result.vectors}
    assert set(rows) == {"round", "noise"}
    assert {row["source"] for row in rows.values()} == {"folder"}
    assert {row["images"] for row in rows.values()} == {20}
    best = max((row for row in result.effects if row["concept"] == "round"), key=lambda row: row["effect"])
    assert best["class"] == "wheel"
    assert best["significant"]
    noise = {row["class"]: row["effect"] for row in result.effects if row["concept"] == "noise"}
    assert best["effect"] > 3 * max(noise.values())
    arrays = read_arrays(aside / "vectors/stage2.npz")
    direction = arrays["vectors"][:, arrays["concepts"].tolist().index("round")]
    # The unit that sees `wheel` are those numbered 3 and 9.
    assert set(np.argsort(-direction)[:2].tolist()) == {
        u for u in range(WIDE) if CONCEPTS[u % CLASSES] == "wheel"
    }
    both = vectors(replace(options, words=("wheel",)))
    assert {row["concept"] for row in both.vectors} == {"round", "noise", "wheel"}


def test_folders_that_are_no_concept_are_refused(
    classifier: Path, aside: Path, stripes: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no such folder"):
        vectors(asked(classifier, out=aside, concepts=(f"x={tmp_path / 'nowhere'}",)))
    with pytest.raises(InputError, match="20 images, and 30 are needed"):
        vectors(asked(classifier, out=aside, concepts=(f"x={stripes / 'round'}",), least=30))
    with pytest.raises(InputError, match="a concept of the run's own images as well"):
        vectors(asked(classifier, out=aside, concepts=(f"Wheel={stripes / 'round'}",), words=("wheel",)))
    with pytest.raises(InputError, match="two folders show"):
        vectors(asked(classifier, out=aside, concepts=(f"x={stripes / 'round'}", f"x={stripes / 'noise'}")))
    for text in ("wheel", "=dir", "name="):
        with pytest.raises(InputError, match="no name and folder"):
            named_folder(text)


def test_against_each_other_images_of_no_concept_do_not_count() -> None:
    nan = float("nan")
    present = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 0], [1, 1, 0], [nan, 1, 0], [nan, 0, 0]])
    expected = torch.tensor(
        [[1.0, 0, 0], [0, 1, 0], [nan, nan, nan], [1, 1, 0], [nan, 1, 0], [nan, nan, nan]]
    )
    assert torch.equal(against_each_other(present).nan_to_num(-1), expected.nan_to_num(-1))


def test_relative_vectors_tell_two_concepts_apart(classifier: Path, aside: Path) -> None:
    words = ("car", "wheel")
    options = asked(classifier, out=aside, words=words, layers=("stage2",), epochs=EpochFilter.parse("last"))
    vectors(replace(options, relative=True))
    arrays = read_arrays(aside / "vectors/stage2.npz")
    car, wheel = (arrays["vectors"][:, arrays["concepts"].tolist().index(word)] for word in words)
    assert np.allclose(car, -wheel, atol=1e-6), "with two concepts each is the other's opposite"
    vectors(options)
    arrays = read_arrays(aside / "vectors/stage2.npz")
    assert not np.allclose(arrays["vectors"][:, 0], -arrays["vectors"][:, 1], atol=0.1)


def test_factors_are_concepts_once_they_are_there(classifier: Path, aside: Path) -> None:
    with pytest.raises(InputError, match="no factors"):
        vectors(asked(classifier, out=aside, factors=True))
    shown = [(0, f"car/{number:03d}.png") for number in range(15)]
    shown += [(1, f"wheel/{number:03d}.png") for number in range(12)]
    ids = {path.relative_to(classifier / "photos").as_posix() for path in classifier.glob("photos/*/*.png")}
    assert {name for _, name in shown} <= ids
    rows = pd.DataFrame(
        [
            {
                "epoch": 1,
                "checkpoint": "epoch_1.pth",
                "factor": factor,
                "place": place,
                "image": image,
                "weight": 1.0,
                "class": image.split("/")[0],
            }
            for place, (factor, image) in enumerate(shown)
        ]
    )
    path = aside / "tables/factor-images.csv"
    path.write_text(TABLES["factor-images"].to_csv(rows))
    try:
        result = vectors(
            asked(classifier, out=aside, factors=True, layers=("stage2",), epochs=EpochFilter.parse("last"))
        )
    finally:
        path.unlink()
    assert [(row["concept"], row["source"], row["images"]) for row in result.vectors] == [
        ("factor 0", "factors", 15),
        ("factor 1", "factors", 12),
    ]
    for factor, name in ((0, "car"), (1, "wheel")):
        mine = [row for row in result.effects if row["concept"] == f"factor {factor}"]
        assert max(mine, key=lambda row: row["effect"])["class"] == name


def test_the_loss_moves_as_the_log_probability_does(classifier: Path, aside: Path) -> None:
    """In front of a linear head: dlog p_y/dq = (1 - p) W, whatever the sign of the score's gradient."""
    options = asked(
        classifier,
        out=aside,
        tcav_target="loss",
        layers=("stage2",),
        epochs=EpochFilter.parse("last"),
        top=CLASSES,
    )
    rows = {(row["class"], row["concept"]): row for row in vectors(options).effects}
    weights = state(1)
    images, owners = [], []
    for k, name in enumerate(SORTED):
        for file in sorted((classifier / "photos" / name).glob("0*.png")):
            images.append(np.asarray(Image.open(file)).astype(np.float32).transpose(2, 0, 1).ravel() / 255)
            owners.append(k)
    x, y = torch.from_numpy(np.stack(images)), torch.tensor(owners)
    q = torch.relu(x @ weights["first.weight"].T + weights["first.bias"])
    q = torch.relu(q @ weights["second.weight"].T + weights["second.bias"])
    W = weights["head.weight"]
    p = (q @ W.T + weights["head.bias"]).softmax(1)
    own = (torch.nn.functional.one_hot(y, CLASSES).float() - p) @ W
    for k, name in enumerate(SORTED):
        for m, concept in enumerate(SORTED):
            expected = own[y == k].mean(0) @ (q[y == m].mean(0) - q.mean(0))
            assert float(rows[name, concept]["effect"]) == pytest.approx(float(expected), rel=1e-3, abs=1e-5)


def test_a_unit_is_said_to_move_the_classes_that_read_it(classifier: Path, found: VectorsResult) -> None:
    rows = table(classifier, "unit-classes")
    last = rows[(rows["epoch"] == 1) & (rows["layer"] == "stage2")]
    assert set(last["unit"]) == set(range(WIDE))
    assert (last.groupby("unit").size() == 5).all()
    W = state(1)["head.weight"]
    for row in last.to_dict("records"):
        slope = float(W[SORTED.index(row["class"]), row["unit"]])
        assert row["gradient"] == pytest.approx(slope, abs=1e-6)
    best = last.loc[last.groupby("unit")["effect"].idxmax()]
    for row in best.to_dict("records"):
        assert row["class"] == CONCEPTS[row["unit"] % CLASSES]
        assert row["significant"]
        assert row["effect"] > 3 * row["chance_spread"]


def test_what_a_unit_does_stands_beside_what_it_shows(classifier: Path, found: VectorsResult) -> None:
    options = UnitsOptions(
        out=classifier / "run", cache_dir=classifier / "cache", units=(0,), device="cpu", resamples=0
    )
    told = [line for line in units(options).uses if line.startswith("stage2 unit 0: ")]
    assert len(told) >= 1
    name = CONCEPTS[0]
    assert f"it moves the score of a class's images: {name} +" in told[0]
    assert "(random images " in told[0]


def test_masks_that_say_nowhere_that_a_concept_is_absent_are_explained() -> None:
    options = VectorsOptions()
    hint = _what_is_lacking(["patch"], ["labels"], torch.tensor([40]), torch.tensor([0]), options)
    assert "nowhere that it is not" in hint
    assert "`rest` instead of `background`" in hint
    few = _what_is_lacking(["patch"], ["labels"], torch.tensor([4]), torch.tensor([90]), options)
    assert "lower --least" in few


def test_the_vectors_of_a_run_are_a_basis_by_their_name(classifier: Path, found: VectorsResult) -> None:
    run = classifier / "run"
    spec = BasisSpec.parse(f"vectors:{run}")
    assert spec is not None
    assert basis_name("stage2", spec) == "stage2@vectors"
    basis = fit_basis(spec, WIDE, where="stage2")
    assert np.allclose(basis.matrix, read_arrays(run / "vectors/stage2.npz")["vectors"])
    with pytest.raises(InputError, match="no concept vectors of stage9"):
        fit_basis(spec, WIDE, where="stage9")
    default = BasisSpec.parse("vectors")
    assert default is not None
    assert default.file == Path("cmon-out")
