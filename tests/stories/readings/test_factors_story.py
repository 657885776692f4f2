"""`cmon factors`: a planted training, its tables beside the functions, and what can be wrong with a run.

Above 500 lines, because all tests read one planted training, which is dissected once for them.
"""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from planted_training import CONCEPTS, SIDE, patch

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.coupled import (
    balanced,
    coupled_factors,
    nonnegative_loadings,
    residual,
)
from concept_monitor_cli.options import DissectOptions, EpochFilter, FactorsOptions, ReadingOptions
from concept_monitor_cli.progress import SILENT
from concept_monitor_cli.run import TABLES
from concept_monitor_cli.stories.activations import RecordedLayer, recorded_layers
from concept_monitor_cli.stories.dissect import dissect
from concept_monitor_cli.stories.factor_fits import Blocks
from concept_monitor_cli.stories.factors import (
    FactorsResult,
    check_options,
    factors,
    read_superclasses,
)
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.stories.watch import CurrentReport, anchored

EACH, WIDE, EPOCHS = 24, 18, 3
CLASSES = len(CONCEPTS)

NETWORK = """
import torch
from torch import nn

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear({pixels}, {wide})
        self.second = nn.Linear({wide}, {wide})
        self.stage1, self.stage2 = nn.ReLU(), nn.ReLU()
        self.head = nn.Linear({wide}, {classes})

    def forward(self, x):
        return self.head(self.stage2(self.second(self.stage1(self.first(x.flatten(1))))))

def network(num_classes={classes}):
    return Network()
"""


def state(epoch: int) -> dict[str, torch.Tensor]:
    """Unit `u` sees concept `u % 6`, clearer with every epoch; unit 17 of stage2 is dead."""
    generator = torch.Generator().manual_seed(epoch)
    seen = torch.stack([patch(unit % CLASSES) for unit in range(WIDE)])
    blur = (EPOCHS - 1 - epoch) / EPOCHS
    first = seen + blur * torch.rand(seen.shape, generator=generator) / seen.shape[1]
    same = torch.tensor([[float(a % CLASSES == b % CLASSES) for b in range(WIDE)] for a in range(WIDE)])
    second = same + blur * torch.rand(WIDE, WIDE, generator=generator)
    second[17] = 0
    # The classes are in the order of their names, as folders are.
    head = torch.tensor(
        [[float(name == CONCEPTS[b % CLASSES]) for b in range(WIDE)] for name in sorted(CONCEPTS)]
    )
    return {
        "first.weight": first,
        "first.bias": torch.full((WIDE,), -0.3 - 0.25 * blur),
        "second.weight": second,
        "second.bias": torch.where(torch.arange(WIDE) == 17, -1.0, 0.0),
        "head.weight": head - 0.1,
        "head.bias": torch.zeros(CLASSES),
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos in a folder for each concept, a dissected training of three epochs with a basis."""
    root = tmp_path_factory.mktemp("factors")
    rng = np.random.default_rng(0)
    for concept, name in enumerate(CONCEPTS):
        folder = root / "photos" / name
        folder.mkdir(parents=True)
        mask = patch(concept).reshape(3, SIDE, SIDE).permute(1, 2, 0).numpy() > 0
        for number in range(EACH):
            pixels = rng.integers(0, 110, (SIDE, SIDE, 3))
            pixels = np.where(mask, pixels + rng.integers(60, 140), pixels)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:03d}.png")
    texts = np.linalg.qr(rng.normal(size=(8, 8)))[0][:CLASSES]
    with h5py.File(root / "embeddings.h5", "w") as file:
        images = np.repeat(texts, EACH, 0)
        images = images + 0.2 * rng.normal(size=images.shape)
        file["images"] = images.reshape(CLASSES, EACH, 8)[np.argsort(CONCEPTS)].reshape(-1, 8).astype("f4")
        file["texts"] = texts.astype("f4")
        file.create_dataset("concepts", data=list(CONCEPTS), dtype=h5py.string_dtype())
    (root / "words.txt").write_text("\n".join(CONCEPTS) + "\n")
    (root / "network.py").write_text(NETWORK.format(pixels=3 * SIDE * SIDE, wide=WIDE, classes=CLASSES))
    (root / "ckpts").mkdir()
    for epoch in range(EPOCHS):
        torch.save({"state_dict": state(epoch), "epoch": epoch}, root / "ckpts" / f"epoch_{epoch}.pth")
    dissect(options_of(root))
    dissect(options_of(root, layers=("head",), bases=("channels",)))
    return root


def options_of(root: Path, **more: object) -> DissectOptions:
    given: dict[str, object] = {
        "checkpoints": (str(root / "ckpts"),),
        "layers": ("stage1", "stage2"),
        "bases": ("channels", "nmf:6"),
        "model": f"{root / 'network.py'}:network",
        "input_size": SIDE,
        "crop": 1.0,
        "mean": (0.0,) * 3,
        "std": (1.0,) * 3,
        "probe": str(root / "photos"),
        "concepts": str(root / "words.txt"),
        "encoder": f"embeddings:{root / 'embeddings.h5'}",
        "out": root / "run",
        "cache_dir": root / "cache",
        "device": "cpu",
    }
    return DissectOptions(**{**given, **more})  # type: ignore[arg-type]


def asked(root: Path, **more: object) -> FactorsOptions:
    given: dict[str, object] = {
        "out": root / "run",
        "cache_dir": root / "cache",
        "rank": 6,
        "starts": 2,
        "plot_formats": (),
    }
    return FactorsOptions(**{**given, **more})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def found(place: Path) -> FactorsResult:
    return factors(asked(place, plot_formats=("png",)))


def table(place: Path, name: str) -> pd.DataFrame:
    return TABLES[name].read_csv(place / "run/tables" / f"{name}.csv")


def pooled(place: Path, layer: str, epoch: int) -> torch.Tensor:
    opened = OpenRun(place / "run", asked(place), SILENT)
    (one,) = [each for each in recorded_layers(opened, "x") if (each.layer, each.epoch) == (layer, epoch)]
    return one.read()


def test_factors_of_a_planted_training_are_its_concepts(place: Path, found: FactorsResult) -> None:
    assert (found.rank, found.images, found.layers) == (6, CLASSES * EACH, ("stage1", "stage2"))
    rows = table(place, "factors")
    assert sorted(rows["epoch"].unique()) == list(range(EPOCHS))
    assert set(rows["layer"]) == {"stage1", "stage2", "pixels:red", "pixels:green", "pixels:blue"}
    assert (rows["purity"] > 0.9).sum() >= 0.8 * len(rows)
    assert (rows["purity"] > rows["chance_purity"] + 0.3).sum() >= 0.8 * len(rows)
    assert np.allclose(rows.groupby(["epoch", "layer"])["share"].sum(), 1)
    # A factor's share of its layer grows or falls, its images stay.
    images = table(place, "factor-images")
    assert set(images["epoch"]) == {EPOCHS - 1}
    assert (images.groupby("factor")["weight"].diff().dropna() <= 0).all()
    assert (images["image"].str.split("/").str[0] == images["class"]).all()


def test_what_the_command_prints(found: FactorsResult) -> None:
    from rich.console import Console

    from concept_monitor_cli.cli.factors import _closing, _factors, _layers

    console = Console(width=140, record=True, file=io.StringIO())
    for part in (_factors(found), _layers(found), _closing(found)):
        console.print(part)
    text = console.export_text()
    assert f"6 factors of {CLASSES * EACH} images" in text
    assert all(f"[{concept}]" in text for concept in CONCEPTS), "each factor has the concept of its basis"
    assert text.count("stage2") == EPOCHS
    assert f"accuracy {found.accuracy:.3f}" in text
    names = {path.name for path in found.plots}
    assert names == {
        *("factors.png", "factor_similarity.png", "factor_spectrum.png", "factor_strength.png"),
        *("factor_neighbours.png", "factor_purity.png", "factor_pictures.png", "factor_classes.png"),
        "factor_accuracy.png",
    }
    assert all(path.stat().st_size > 1000 for path in found.plots)


def test_classes_units_and_concepts_of_a_factor_agree(place: Path, found: FactorsResult) -> None:
    classes = table(place, "factor-classes")
    first = classes[classes["place"] == 0].set_index("factor")["name"]
    assert np.allclose(classes["chance"], 1 / CLASSES)
    units = table(place, "factor-units")
    top = units[(units["layer"] == "stage2") & (units["epoch"] == EPOCHS - 1) & (units["place"] < 2)]
    # Unit u sees concept u % 6.
    agree = [CONCEPTS[row.unit % CLASSES] == first[row.factor] for row in top.itertuples()]
    assert np.mean(agree) >= 0.8
    assert not (units["unit"] == 17).loc[units["layer"] == "stage2"].any(), "it is dead"
    # The run has dissected the basis of six factors, so a factor has a concept of its own.
    named = table(place, "factors")
    named = named[(named["layer"] == "stage2") & (named["epoch"] == EPOCHS - 1)]
    same = named[named["basis_cosine"] >= 0.7]
    assert len(same) >= 4
    run = pd.read_parquet(place / "run/tables/concepts.parquet")
    own = run[(run["layer"] == "stage2@nmf6") & (run["epoch"] == EPOCHS - 1) & (run["rank"] == 1)]
    concept = own.set_index("unit")["concept"]
    assert [concept[member] for member in same["basis_member"]] == same["concept"].tolist()
    assert (named[named["basis_cosine"] < 0.7]["concept"] == "").all()


def test_shared_factors_are_those_of_all_epochs_side_by_side(place: Path) -> None:
    result = factors(asked(place, pixels=False, starts=0))
    blocks = [pooled(place, layer, epoch) for epoch in range(EPOCHS) for layer in ("stage1", "stage2")]
    scaled, norms = balanced(blocks)
    fit = coupled_factors(scaled, 6)
    rows = pd.DataFrame(result.factors).set_index(["epoch", "layer", "factor"])
    strength = fit.strength
    for place_in_stack, (epoch, layer) in enumerate(
        (epoch, layer) for epoch in range(EPOCHS) for layer in ("stage1", "stage2")
    ):
        for k in range(6):
            expected = float(strength[place_in_stack, k])
            assert rows.loc[(epoch, layer, k), "strength"] == pytest.approx(expected, rel=1e-9)
    left = pd.DataFrame(result.residual).set_index(["epoch", "layer"])
    assert left.loc[(0, "stage1"), "norm"] == pytest.approx(norms[0])
    value = residual(scaled[0], fit.F, fit.W[0])
    assert left.loc[(0, "stage1"), "residual"] == pytest.approx(value, abs=1e-12)
    assert (left["own_residual"] <= left["residual"] + 1e-6).all()
    assert (left["residual"] < 0.5 * left["chance"]).all()
    assert rows["stability"].isna().all()


def test_anchored_factors_stay_those_of_their_epoch_when_one_is_added(place: Path) -> None:
    fewer = asked(place, mode="anchored", reference=1, pixels=False, epochs=EpochFilter.parse("0,1"))
    factors(fewer)
    before = table(place, "factors")
    factors(replace(fewer, epochs=None))
    after = table(place, "factors")
    kept = after[after["epoch"].isin([0, 1])].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, before)
    assert set(after["epoch"]) == set(range(EPOCHS))
    assert set(table(place, "factor-images")["epoch"]) == {1}
    # Its loadings at another epoch are least squares under W >= 0.
    scaled, _ = balanced([pooled(place, layer, 1) for layer in ("stage1", "stage2")])
    F = coupled_factors(scaled, 6).F
    ((other,), _) = balanced([pooled(place, "stage1", 0)])
    expected = residual(other, F, nonnegative_loadings(other, F))
    rows = table(place, "factor-residual").set_index(["epoch", "layer"])
    assert rows.loc[(0, "stage1"), "residual"] == pytest.approx(expected, rel=1e-5)
    with pytest.raises(InputError, match="no epoch 9"):
        factors(replace(fewer, reference=9))


@pytest.mark.parametrize("warm", [False, True])
def test_free_factors_are_matched_to_the_next_epochs(place: Path, warm: bool) -> None:
    factors(asked(place, mode="free", warm=warm, pixels=False))
    rows = table(place, "factors").drop_duplicates(["epoch", "factor"])
    last = rows[rows["epoch"] == EPOCHS - 1]
    assert last["cosine"].isna().all()
    earlier = rows[rows["epoch"] < EPOCHS - 1]
    assert earlier["cosine"].mean() > earlier["chance_cosine"].mean() + 0.2
    assert all(sorted(group["matched_from"]) == list(range(6)) for _, group in rows.groupby("epoch"))
    assert set(table(place, "factor-neighbours")["epoch"]) == set(range(EPOCHS))


def test_neighbours_impurity_and_accuracy(place: Path) -> None:
    result = factors(asked(place, starts=0, neighbours=10))
    rows = table(place, "factor-neighbours")
    assert len(rows) == CLASSES * EACH
    assert result.impurity == pytest.approx(rows["impurity"].mean(), abs=1e-6)
    assert result.impurity < rows["chance"].iloc[0]
    head = pooled(place, "head", EPOCHS - 1)
    opened = OpenRun(place / "run", asked(place), SILENT)
    names = sorted(CONCEPTS)
    predicted = [names[i] for i in head.argmax(1).tolist()]
    assert rows.set_index("image")["predicted"].loc[list(opened.probe.ids)].tolist() == predicted
    assert result.accuracy == pytest.approx(rows["correct"].mean())
    assert result.accuracy > 0.9
    counted = [sum(int(pair.split(":")[1]) for pair in said.split(";")) for said in rows["neighbours"]]
    assert max(counted) <= 10


def test_the_same_bytes_again_and_no_table_of_another_setting_is_left(place: Path) -> None:
    alone = asked(place, layers=("stage2",), pixels=False, epochs=EpochFilter.parse("last"))
    result = factors(replace(alone, rank="auto"))
    ranks = table(place, "factor-rank")
    assert ranks[ranks["chosen"]]["rank"].tolist() == [result.rank]
    assert (ranks[ranks["rank"] > result.rank]["agreement"] < 0.9).all()
    assert (ranks["agreement"] > ranks["chance"]).all()
    factors(alone)
    assert not (place / "run/tables/factor-rank.csv").exists()
    before = {path.name: path.read_bytes() for path in (place / "run/tables").glob("factor*.csv")}
    factors(alone)
    assert {path.name: path.read_bytes() for path in (place / "run/tables").glob("factor*.csv")} == before


def test_groups_of_classes_and_the_published_iteration(place: Path) -> None:
    result = factors(asked(place, group_sparse=True, pixels=False, starts=0))
    assert result.rank == 6
    published = factors(asked(place, solver="published", pixels=False, starts=1))
    assert max(row["residual"] for row in published.residual) > max(
        row["residual"] for row in result.residual
    )


def test_superclasses(place: Path, tmp_path: Path) -> None:
    file = tmp_path / "above.csv"
    above = {name: "looks" if name in ("red", "striped", "wood") else "things" for name in CONCEPTS}
    file.write_text(
        "class,superclass\n" + "".join(f"{name.upper()},{kind}\n" for name, kind in above.items())
    )
    factors(asked(place, superclasses=file, pixels=False, starts=0))
    rows = table(place, "factor-classes")
    both = rows[rows["place"] == 0].pivot(index="factor", columns="kind", values="name")
    assert [above[name] for name in both["class"]] == both["superclass"].tolist()
    assert np.allclose(rows[rows["kind"] == "superclass"]["chance"], 0.5)


@pytest.mark.parametrize(
    ("more", "where"),
    [
        ({"warm": True}, "--warm"),
        ({"warm": True, "mode": "free", "solver": "published"}, "--warm"),
        ({"reference": 3}, "--reference"),
        ({"group_sparse": True}, "--group-sparse"),
        ({"group_sparse": True, "pixels": False, "solver": "published"}, "--group-sparse"),
        ({"group_sparse": True, "pixels": False, "lambda_units": 0.1}, "--lambda-units"),
    ],
)
def test_options_that_would_do_nothing_are_refused(more: dict[str, object], where: str) -> None:
    with pytest.raises(InputError) as refused:
        check_options(FactorsOptions(**more))  # type: ignore[arg-type]
    assert where in str(refused.value.where)
    check_options(FactorsOptions(warm=True, mode="free"))
    check_options(FactorsOptions(group_sparse=True, pixels=False, lambda_images=0.1))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("class,superclass\na,x\n", "no superclass for b"),
        ("class,superclass\na,x\na,y\nb,x\n", "two superclasses"),
        ("name,kind\na,x\n", "has the columns name, kind"),
        ("", "has the columns none"),
    ],
)
def test_files_of_superclasses_that_do_not_fit(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "above.csv"
    file.write_text(text)
    with pytest.raises(InputError, match=words):
        read_superclasses(file, ["a", "b"])
    with pytest.raises(InputError, match="cannot be read"):
        read_superclasses(tmp_path / "none.csv", ["a"])


def test_negative_layers_are_left_out_unless_named_and_can_be_rectified(place: Path) -> None:
    said = Said()
    assert factors(asked(place, pixels=False, starts=0), said).layers == ("stage1", "stage2")
    assert any("head" in line for line in said.lines)
    with pytest.raises(InputError, match="head has activations below 0"):
        factors(asked(place, layers=("head",), pixels=False, starts=0))
    rectified = factors(asked(place, layers=("head",), rectify=True, rank=3, pixels=False, starts=0))
    assert rectified.layers == ("head",)


def test_one_layer_and_one_epoch(place: Path) -> None:
    options = asked(place, layers=("stage2",), epochs=EpochFilter.parse("last"), starts=1, pixels=False)
    for mode in ("shared", "anchored", "free"):
        result = factors(replace(options, mode=mode))
        assert {row["epoch"] for row in result.residual} == {EPOCHS - 1}
        left = result.residual[0]
        assert left["residual"] == pytest.approx(left["own_residual"])


def test_more_factors_than_there_can_be(place: Path) -> None:
    with pytest.raises(InputError, match="at most 36"):
        factors(asked(place, rank=99, pixels=False, epochs=EpochFilter.parse("last")))
    with pytest.raises(InputError, match="no layer nowhere"):
        factors(asked(place, classifier="nowhere"))
    with pytest.raises(InputError, match="not as many units"):
        factors(asked(place, classifier="stage1"))
    with pytest.raises(InputError, match="no activations of stage9"):
        factors(asked(place, layers=("stage9",)))


def test_units_that_are_not_finite_are_left_out(place: Path) -> None:
    layer = RecordedLayer(
        "run", "stage1", 0, "x.pth", lambda: torch.tensor([[1.0, float("nan"), 3], [2, 1, 0]])
    )
    said = Said()
    (block,) = Blocks({0: [layer]}, (), FactorsOptions(), said).layers(0)
    assert block.units.tolist() == [0, 2]
    assert "1 units of stage1" in said.lines[0]
    gone = RecordedLayer("run", "stage1", 0, "x.pth", lambda: torch.full((2, 2), float("nan")))
    with pytest.raises(InputError, match="no unit of stage1"):
        Blocks({0: [gone]}, (), FactorsOptions(), said).layers(0)


def test_images_without_folders_have_factors_and_no_classes(place: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in sorted((place / "photos").rglob("*.png")):
        shutil.copy(file, flat / f"{file.parent.name}_{file.name}")
    dissect(options_of(place, probe=str(flat), out=tmp_path / "run", bases=("channels",)))
    result = factors(asked(place, out=tmp_path / "run", pixels=False, starts=0))
    assert result.classes == 0
    assert all(row["purity"] is None for row in result.factors)
    assert not (tmp_path / "run/tables/factor-classes.csv").exists()
    with pytest.raises(InputError, match="no folders of classes"):
        factors(asked(place, out=tmp_path / "run", group_sparse=True, pixels=False))
    with pytest.raises(InputError, match="no superclasses either"):
        factors(asked(place, out=tmp_path / "run", superclasses=place / "words.txt"))


def test_a_watch_keeps_factors_anchored_where_they_were_and_dynamics_current(place: Path) -> None:
    run = place / "run"
    for name in ("factor-images", "similarity"):
        (run / "tables" / f"{name}.csv").unlink(missing_ok=True)
    reading = ReadingOptions(out=run, cache_dir=place / "cache")
    assert anchored(reading).reference is None, "the last one, where there are none yet"
    factors(asked(place, mode="anchored", reference=1, pixels=False, starts=0))
    assert (anchored(reading).mode, anchored(reading).reference) == ("anchored", 1)
    said = Said()
    page = CurrentReport(reading, said, ("dynamics", "factors"))
    page.news()
    page.finish()
    assert said.warnings == []
    assert set(table(place, "factor-images")["epoch"]) == {1}
    assert set(table(place, "factors")["epoch"]) == set(range(EPOCHS))
    assert (run / "tables/similarity.csv").is_file()
    text = (run / "report.html").read_text("utf-8")
    assert "is within 0.9 of its end from epoch" in text
    # What cannot be made is said, and the page is made all the same.
    (run / "report.html").unlink()
    page = CurrentReport(replace(reading, cache_dir=place / "nothing"), said, ("dynamics",))
    page.news()
    page.finish()
    assert any("dynamics is not up to date" in line for line in said.warnings)
    assert (run / "report.html").is_file()


CONVOLUTIONS = """
import torch
from torch import nn

def network(num_classes=2):
    return nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), nn.ReLU())
"""


def test_positions_of_maps_are_those_of_the_network(place: Path, tmp_path: Path) -> None:
    (tmp_path / "network.py").write_text(CONVOLUTIONS)
    space: dict[str, object] = {}
    exec(CONVOLUTIONS, space)
    torch.manual_seed(0)
    network = space["network"]()  # type: ignore[operator]
    (tmp_path / "ckpts").mkdir()
    torch.save({"state_dict": network.state_dict(), "epoch": 0}, tmp_path / "ckpts/epoch_0.pth")
    code = f"{tmp_path / 'network.py'}:network"
    dissect(
        options_of(
            place,
            checkpoints=(str(tmp_path / "ckpts"),),
            layers=("1",),
            bases=("channels",),
            model=code,
            out=tmp_path / "run",
        )
    )
    options = asked(place, out=tmp_path / "run", images="positions", rank=3, pixels=False, starts=0)
    with pytest.raises(InputError, match="its code is in"):
        factors(options)
    result = factors(replace(options, model=code))
    opened = OpenRun(tmp_path / "run", options, SILENT)
    images = np.stack([np.asarray(opened.probe.image(i)) for i in range(len(opened.probe))])
    with torch.no_grad():
        maps = network(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)
    assert maps.shape[1:] == (4, 3, 3)
    ((scaled,), _) = balanced([maps.flatten(1)])
    fit = coupled_factors([scaled], 3)
    strength = [row["strength"] for row in sorted(result.factors, key=lambda row: row["factor"])]
    assert np.allclose(strength, fit.strength[0], rtol=1e-4)
    # A unit's loading is the length of those of its nine positions.
    units = TABLES["factor-units"].read_csv(tmp_path / "run/tables/factor-units.csv")
    assert set(units["unit"]) <= set(range(4))
    first = units[(units["factor"] == 0) & (units["place"] == 0)].iloc[0]
    lengths = fit.W[0][:, 0].reshape(4, 9).norm(dim=1) * float(maps.norm())
    assert first["loading"] == pytest.approx(float(lengths.max()), rel=1e-3)
    assert first["unit"] == int(lengths.argmax())


class Said:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.warnings: list[str] = []

    def notice(self, message: str) -> None:
        self.lines.append(message)

    def warning(self, message: str) -> None:
        self.warnings.append(message)

    detail = notice

    def task(self, description: str, total: int | None, unit: str = "images") -> object:
        return SILENT.task(description, total, unit)
