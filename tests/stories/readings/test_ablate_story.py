"""`cmon ablate`: a planted classifier without its units, beside whole passes by hand."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import planted_classifier
import pytest
import torch
from PIL import Image
from planted_classifier import CLASSES, EACH, SORTED, WIDE, state
from planted_training import CONCEPTS, SIDE, patch
from safetensors.torch import save_file
from torch import Tensor

from concept_monitor_cli.checkpoints import load_checkpoint
from concept_monitor_cli.cli.ablate import _gaps
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.options import AblateOptions, EpochFilter
from concept_monitor_cli.run import TABLES
from concept_monitor_cli.stories.ablate import AblateResult, ablate


def asked(root: Path, **more: object) -> AblateOptions:
    return planted_classifier.asked(AblateOptions, root, **{"controls": 5, **more})


@pytest.fixture(scope="module")
def found(classifier: Path) -> AblateResult:
    return ablate(asked(classifier, curve=True, units=(0, 7), plot_formats=("png",)))


@pytest.fixture(scope="module")
def table(classifier: Path, found: AblateResult) -> pd.DataFrame:
    return TABLES["ablation"].read_csv(classifier / "run/tables/ablation.csv")


def photos(root: Path) -> tuple[Tensor, Tensor]:
    """All photos but the copy, flat in [0, 1], and their classes."""
    images, owners = [], []
    for k, name in enumerate(SORTED):
        for file in sorted((root / "photos" / name).glob("0*.png")):
            images.append(np.asarray(Image.open(file)).astype(np.float32).transpose(2, 0, 1).ravel() / 255)
            owners.append(k)
    return torch.from_numpy(np.stack(images)), torch.tensor(owners)


def passes(x: Tensor, layer: str, units: list[int], kind: str, means: Tensor) -> tuple[Tensor, Tensor]:
    """Scores of a whole pass with some units changed, and the layer's outputs."""
    weights, seen = state(1), x
    for name, stage in (("first", "stage1"), ("second", "stage2")):
        seen = torch.relu(seen @ weights[f"{name}.weight"].T + weights[f"{name}.bias"])
        if stage == layer:
            kept = seen.clone()
            seen[:, units] = 0.0 if kind == "zero" else means[units]
    return seen @ weights["head.weight"].T + weights["head.bias"], kept


@pytest.mark.parametrize("layer", ["stage1", "stage2"])
@pytest.mark.parametrize("kind", ["zero", "mean"])
def test_what_is_lost_is_what_a_whole_pass_says(
    classifier: Path, table: pd.DataFrame, layer: str, kind: str
) -> None:
    x, y = photos(classifier)
    # The mean is over all images, the copy of the first car included.
    with_copy = torch.cat([x, x[[int((y == SORTED.index("car")).nonzero()[0])]]])
    means = passes(with_copy, layer, [], kind, torch.zeros(WIDE))[1].mean(0)
    own = table[(table["layer"] == layer) & (table["kind"] == kind)]
    assert set(own["exact"]) == {layer == "stage2"}
    sets = [(concept, [u for u in range(WIDE) if CONCEPTS[u % CLASSES] == concept]) for concept in CONCEPTS]
    for concept, units in [*sets, ("", [0, 7])]:
        rows = own[(own["set"] == ("concept" if concept else "units")) & (own["concept"] == concept)]
        assert set(rows["units"]) == {2}
        scores = passes(x, layer, units, kind, means)[0]
        mine = scores.gather(1, y[:, None])[:, 0]
        margin = mine - scores.scatter(1, y[:, None], -torch.inf).amax(1)
        right = (scores.argmax(1) == y).float()
        for name, chosen in [("all", y >= 0), *((name, y == k) for k, name in enumerate(SORTED))]:
            row = rows[rows["class"] == name].iloc[0]
            assert row["images"] == int(chosen.sum())
            assert row["margin"] == pytest.approx(float(margin[chosen].mean()), abs=1e-5)
            assert row["logit"] == pytest.approx(float(mine[chosen].mean()), abs=1e-5)
            assert row["accuracy"] == pytest.approx(float(right[chosen].mean()), abs=1e-6)


def test_a_concept_is_worth_its_class_and_more_than_random_units(table: pd.DataFrame) -> None:
    rows = table[(table["set"] == "concept") & (table["kind"] == "zero") & (table["class"] != "all")]
    for (_, concept), own in rows.groupby(["layer", "concept"]):
        change = (own["margin"] - own["margin_before"]).to_numpy()
        assert own["class"].iloc[int(np.argmin(change))] == concept
        row = own[own["class"] == concept].iloc[0]
        # Without them nothing tells this class from another; random units leave most of the margin.
        assert row["margin"] == pytest.approx(0, abs=1e-5)
        assert row["control"] > row["margin_before"] / 2 > 0.1
        assert min(row["accuracy_before"], row["accuracy_control"]) > 0.8
        assert row["margin"] < row["control"]
        # The smallest p that five random sets allow.
        assert row["p_value"] == pytest.approx(1 / 6)
    assert len(rows) == 2 * CLASSES * CLASSES


def test_the_curve_falls(table: pd.DataFrame) -> None:
    rows = table[(table["set"] == "most") & (table["kind"] == "zero") & (table["class"] == "all")]
    for _, own in rows.groupby("layer"):
        assert own["units"].tolist() == [1, 2, 5]
        assert (own["margin"].diff().dropna() < 0).all()


def test_what_the_command_prints(found: AblateResult) -> None:
    from rich.console import Console

    from concept_monitor_cli.cli.ablate import _table

    console = Console(width=160, record=True, file=io.StringIO())
    console.print(_table(found))
    text = console.export_text()
    assert f"{CLASSES * EACH} images" in text
    assert "--units" in text
    assert "most interpretable" in text
    assert "accuracy 1.00 to" in text
    assert {path.name for path in found.plots} == {"ablation.png", "ablation_curve.png"}
    assert all(path.stat().st_size > 5000 for path in found.plots)


def test_what_is_missing_is_said(classifier: Path, found: AblateResult) -> None:
    with pytest.raises(InputError, match="12 units and no unit 99"):
        ablate(asked(classifier, units=(99,)))
    with pytest.raises(InputError, match="no concept has an interpretable unit"):
        ablate(asked(classifier, words=("zebra",)))


def test_other_epochs_are_cut_when_asked_for(classifier: Path, found: AblateResult) -> None:
    result = ablate(asked(classifier, units=(0,), words=("car",), epochs=EpochFilter.parse("0,1")))
    assert {row["epoch"] for row in result.ablation} == {0, 1}
    again = ablate(asked(classifier, units=(0,), words=("car",), epochs=EpochFilter.parse("0,1")))
    assert again.ablation == result.ablation


@pytest.fixture(scope="module")
def pairs(classifier: Path) -> Path:
    """Photos of every class, without and with the brighter square that the car's units look for."""
    root = classifier / "pairs"
    mask = patch(CONCEPTS.index("car")).reshape(3, SIDE, SIDE).permute(1, 2, 0).numpy() > 0
    for name in SORTED:
        for side in ("with", "without"):
            (root / side / name).mkdir(parents=True)
        for file in sorted((classifier / "photos" / name).glob("00*.png")):
            pixels = np.asarray(Image.open(file))
            Image.fromarray(pixels).save(root / "without" / name / file.name)
            shown = np.where(mask, 255, pixels).astype(np.uint8)
            Image.fromarray(shown).save(root / "with" / name / file.name)
    return root


def test_without_its_units_photos_with_a_concept_are_as_easy_as_without(
    classifier: Path, pairs: Path
) -> None:
    options = asked(
        classifier, words=("car",), layers=("stage1", "stage2"), spurious=pairs, plot_formats=("png",)
    )
    result = ablate(options)
    rows = TABLES["spurious"].read_csv(classifier / "run/tables/spurious.csv")
    units = [u for u in range(WIDE) if CONCEPTS[u % CLASSES] == "car"]

    def photos_of(side: str) -> tuple[Tensor, Tensor]:
        files = [
            (k, file) for k, name in enumerate(SORTED) for file in sorted((pairs / side / name).glob("*.png"))
        ]
        seen = [
            np.asarray(Image.open(file)).astype(np.float32).transpose(2, 0, 1).ravel() for _, file in files
        ]
        return torch.from_numpy(np.stack(seen)) / 255, torch.tensor([k for k, _ in files])

    for layer in ("stage1", "stage2"):
        row = rows[(rows["layer"] == layer) & (rows["kind"] == "zero") & (rows["class"] == "all")].iloc[0]
        right = {}
        for side in ("with", "without"):
            x, y = photos_of(side)
            for cut in ([], units):
                scores = passes(x, layer, cut, "zero", torch.zeros(WIDE))[0]
                right[side, bool(cut)] = float((scores.argmax(1) == y).float().mean())
        assert row["accuracy_with_before"] == pytest.approx(right["with", False])
        assert row["accuracy_without_before"] == pytest.approx(right["without", False])
        assert row["accuracy_with"] == pytest.approx(right["with", True])
        assert row["accuracy_without"] == pytest.approx(right["without", True])
        assert row["gap_before"] == pytest.approx(right["without", False] - right["with", False])
        # Who sees the square says car; without the units that see it, nearly nobody is misled.
        assert row["gap_before"] > 0.5
        assert row["gap"] < 0.2
        assert row["gap_control"] > row["gap"] + 0.2
        assert row["images_with"] == row["images_without"] == CLASSES * 10
    lines = _gaps(result)
    assert len(lines) == 4
    assert lines[0].startswith("stage1, car (2 units, ")
    assert any(path.name == "spurious.png" for path in result.plots)


# -- directions ----------------------------------------------------------------------------------------------


def without(x: Tensor, layer: str, U: Tensor, kind: str, means: Tensor) -> Tensor:
    """Scores of a whole pass in which what lies along orthonormal directions is 0, or at its mean."""
    weights, seen = state(1), x
    for name, stage in (("first", "stage1"), ("second", "stage2")):
        seen = torch.relu(seen @ weights[f"{name}.weight"].T + weights[f"{name}.bias"])
        if stage == layer:
            seen = seen - (seen @ U - (0.0 if kind == "zero" else means @ U)) @ U.T
    return seen @ weights["head.weight"].T + weights["head.bias"]


@pytest.mark.parametrize("form", ["npz", "npy", "safetensors"])
def test_directions_of_a_file_are_cut_as_a_whole_pass_says(
    classifier: Path, tmp_path: Path, form: str
) -> None:
    matrix = torch.randn(WIDE, 3, generator=torch.Generator().manual_seed(0))
    file = tmp_path / f"some.{form}"
    if form == "npz":
        np.savez(file, matrix=matrix.numpy(), names=np.array(["one", "two", "three"]))
    elif form == "npy":
        np.save(file, matrix.numpy())
    else:
        save_file({"directions": matrix}, file)
    words = {"words": ("two",), "plot_formats": ("png",)} if form == "npz" else {}
    result = ablate(asked(classifier, basis=f"saved:{file}", units=(0, 2), **words))
    rows = pd.DataFrame(result.ablation)
    assert set(rows["set"]) == ({"direction", "directions"} if form == "npz" else {"directions"})
    assert [path.name for path in result.plots] == (["ablation.png"] if form == "npz" else [])
    x, y = photos(classifier)
    with_copy = torch.cat([x, x[[int((y == SORTED.index("car")).nonzero()[0])]]])
    cuts = {"directions": torch.linalg.qr(matrix[:, [0, 2]])[0]}
    if form == "npz":
        cuts["direction"] = matrix[:, [1]] / matrix[:, 1].norm()
    for layer in ("stage1", "stage2"):
        means = passes(with_copy, layer, [], "zero", torch.zeros(WIDE))[1].mean(0)
        for name, U in cuts.items():
            for kind in ("zero", "mean"):
                own = rows[(rows["layer"] == layer) & (rows["set"] == name) & (rows["kind"] == kind)]
                assert set(own["exact"]) == {layer == "stage2"}
                assert set(own["concept"]) == {"two" if name == "direction" else ""}
                scores = without(x, layer, U, kind, means)
                mine = scores.gather(1, y[:, None])[:, 0]
                margin = mine - scores.scatter(1, y[:, None], -torch.inf).amax(1)
                row = own[own["class"] == "all"].iloc[0]
                assert row["margin"] == pytest.approx(float(margin.mean()), abs=1e-5)
                assert row["logit"] == pytest.approx(float(mine.mean()), abs=1e-5)
                assert row["control"] is not None


def test_a_fitted_direction_is_the_same_at_every_epoch(classifier: Path, tmp_path: Path) -> None:
    x, _ = photos(classifier)
    _, last = passes(x, "stage2", [], "zero", torch.zeros(0))
    centred = (last - last.mean(0)).double()
    np.save(tmp_path / "leading.npy", torch.linalg.svd(centred, full_matrices=False)[2][:2].T.numpy())
    more = {"layers": ("stage2",), "epochs": EpochFilter.parse(":"), "controls": 1}
    fitted = ablate(asked(classifier, basis="pca:2", **more))
    given = ablate(asked(classifier, basis=f"saved:{tmp_path / 'leading.npy'}", **more))
    assert {row["epoch"] for row in fitted.ablation} == {0, 1}
    for one, two in zip(fitted.ablation, given.ablation, strict=True):
        assert one["margin"] == pytest.approx(two["margin"], abs=1e-4)


def test_an_axis_is_a_unit_and_its_random_directions_are_others(classifier: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "axes.npy", np.eye(WIDE))
    along = ablate(asked(classifier, basis=f"saved:{tmp_path / 'axes.npy'}", units=(0, 7), controls=3))
    units = ablate(asked(classifier, units=(0, 7), words=("zebra",), controls=3))
    numbers = ["layer", "kind", "class", "margin", "accuracy", "logit"]
    for one, two in zip(along.ablation, units.ablation, strict=True):
        assert [one[name] for name in numbers[:3]] == [two[name] for name in numbers[:3]]
        assert [one[name] for name in numbers[3:]] == pytest.approx(
            [two[name] for name in numbers[3:]], abs=1e-5
        )


def test_what_vectors_found_can_be_cut_by_name(classifier: Path, pairs: Path) -> None:
    from concept_monitor_cli.options import VectorsOptions
    from concept_monitor_cli.stories.vectors import vectors

    vectors(planted_classifier.asked(VectorsOptions, classifier))
    result = ablate(
        asked(classifier, basis="vectors", words=("Car",), layers=("stage2",), spurious=pairs, controls=20)
    )
    rows = pd.DataFrame(result.ablation)
    assert set(rows["concept"]) == {"car"}
    zero = rows[(rows["kind"] == "zero") & (rows["class"] != "all")].set_index("class")
    lost = zero["margin_before"] - zero["margin"]
    assert lost.idxmax() == "car"
    assert lost["car"] > 2 * (zero.loc["car", "margin_before"] - zero.loc["car", "control"])
    (line, _) = _gaps(result)
    assert line.startswith("stage2, car (direction, ")
    gap = pd.DataFrame(result.spurious).set_index(["kind", "class"]).loc[("zero", "all")]
    assert gap["gap"] < gap["gap_before"] - 0.3
    assert gap["gap"] < gap["gap_control"] - 0.2


def test_directions_that_are_not_there_are_said(classifier: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "axes.npy", np.eye(WIDE))
    saved = f"saved:{tmp_path / 'axes.npy'}"
    with pytest.raises(InputError, match="12 members in stage1 and no member 12"):
        ablate(asked(classifier, basis=saved, units=(12,)))
    with pytest.raises(InputError, match="no direction of that name"):
        ablate(asked(classifier, basis=saved, words=("zebra",)))
    with pytest.raises(InputError, match="--curve cuts units"):
        asked(classifier, basis=saved, curve=True)
    with pytest.raises(InputError, match="not without directions"):
        asked(classifier, basis=saved, units=(1,), write=tmp_path / "no.pth")
    with pytest.raises(InputError, match="channels are cut without"):
        asked(classifier, basis="channels")
    np.save(tmp_path / "wide.npy", np.eye(5))
    with pytest.raises(InputError, match="belongs to another layer"):
        ablate(asked(classifier, basis=f"saved:{tmp_path / 'wide.npy'}"))


def test_photos_in_other_folders_are_refused(classifier: Path) -> None:
    with pytest.raises(InputError, match="with or without"):
        ablate(asked(classifier, words=("car",), spurious=classifier / "photos"))


@pytest.mark.parametrize(("layer", "value"), [("stage1", "zero"), ("stage2", "mean")])
def test_a_written_checkpoint_gives_the_scores_of_the_ablation(
    classifier: Path, found: AblateResult, tmp_path: Path, layer: str, value: str
) -> None:
    file = tmp_path / "edited.pth"
    options = {"words": ("car",), "layers": (layer,), "write": file, "value": value, "controls": 1}
    assert ablate(asked(classifier, **options)).written == file
    x, _ = photos(classifier)
    first_car = SORTED.index("car") * EACH
    means = passes(torch.cat([x, x[[first_car]]]), layer, [], value, torch.zeros(WIDE))[1].mean(0)
    units = [u for u in range(WIDE) if CONCEPTS[u % CLASSES] == "car"]
    weights = load_checkpoint(file).state_dict
    seen = x
    for name in ("first", "second"):
        seen = torch.relu(seen @ weights[f"{name}.weight"].T + weights[f"{name}.bias"])
    scores = seen @ weights["head.weight"].T + weights["head.bias"]
    torch.testing.assert_close(scores, passes(x, layer, units, value, means)[0], rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match="there already"):
        ablate(asked(classifier, **options))


def test_only_one_set_can_be_written(classifier: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 sets of units"):
        ablate(asked(classifier, words=("car",), write=tmp_path / "no.pth", controls=1))
    assert not (tmp_path / "no.pth").exists()
