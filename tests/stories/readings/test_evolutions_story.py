"""`cmon evolutions`: planted trainings and real photos beside passes by hand; what is said, what is not."""

from __future__ import annotations

import tarfile
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import planted_classifier
import pytest
import torch
from PIL import Image
from planted_classifier import CLASSES, EACH, SORTED, WIDE, state
from planted_training import CONCEPTS, SIDE, SWITCHES, UNITS, weights
from torch import Tensor

from concept_monitor_cli.cli import main
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.monitor.evolutions import evolution_sentences
from concept_monitor_cli.options import DissectOptions, EpochFilter, EvolutionsOptions
from concept_monitor_cli.run import TABLES
from concept_monitor_cli.stories.dissect import dissect
from concept_monitor_cli.stories.evolutions import EvolutionsResult, evolutions


def asked(root: Path, **more: object) -> EvolutionsOptions:
    return planted_classifier.asked(EvolutionsOptions, root, **{"controls": 5, **more})


@pytest.fixture(scope="module")
def found(classifier: Path) -> EvolutionsResult:
    return evolutions(asked(classifier, exact=True, top=WIDE, plot_formats=("png",)))


def table(root: Path, name: str) -> pd.DataFrame:
    return TABLES[name].read_csv(root / "run/tables" / f"{name}.csv")


def photos(root: Path) -> tuple[Tensor, Tensor]:
    """All photos but the copy, flat in [0, 1], and their classes."""
    images, owners = [], []
    for k, name in enumerate(SORTED):
        for file in sorted((root / "photos" / name).glob("0*.png")):
            images.append(np.asarray(Image.open(file)).astype(np.float32).transpose(2, 0, 1).ravel() / 255)
            owners.append(k)
    return torch.from_numpy(np.stack(images)), torch.tensor(owners)


def said(
    x: Tensor, y: Tensor, epoch: int, layer: str, instead: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Score of each image's class, and the layer's output; or with something in its place."""
    weights, seen = state(epoch), x
    for name, stage in (("first", "stage1"), ("second", "stage2")):
        seen = torch.relu(seen @ weights[f"{name}.weight"].T + weights[f"{name}.bias"])
        if stage == layer:
            seen = seen if instead is None else instead
            kept = seen
    scores = seen @ weights["head.weight"].T + weights["head.bias"]
    return scores.gather(1, y[:, None])[:, 0], kept


@pytest.mark.parametrize("layer", ["stage1", "stage2"])
def test_units_set_back_one_by_one_are_whole_passes(
    classifier: Path, found: EvolutionsResult, layer: str
) -> None:
    x, y = photos(classifier)
    old = said(x, y, 0, layer)[1]
    after, new = said(x, y, 1, layer)
    rows = table(classifier, "evolutions")
    rows = rows[rows["layer"] == layer].set_index(["class", "unit"])
    assert len(rows) == CLASSES * WIDE
    assert set(rows["images"]) == {EACH}
    for unit in range(WIDE):
        back = new.clone()
        back[:, unit] = old[:, unit]
        lost = after - said(x, y, 1, layer, back)[0]
        for k, name in enumerate(SORTED):
            row = rows.loc[(name, unit)]
            assert row["exact"] == pytest.approx(float(lost[y == k].mean()), abs=1e-5)
            if layer == "stage2":
                assert row["effect"] == pytest.approx(row["exact"], abs=1e-5)
    totals = table(classifier, "evolution-classes")
    totals = totals[totals["layer"] == layer].set_index("class")
    earlier, swapped = said(x, y, 0, layer)[0], said(x, y, 1, layer, old)[0]
    for k, name in enumerate(SORTED):
        mine, row = y == k, totals.loc[name]
        assert row["change"] == pytest.approx(float((after - earlier)[mine].mean()), abs=1e-5)
        assert row["by_layer"] == pytest.approx(float((after - swapped)[mine].mean()), abs=1e-5)
        assert row["path_sum"] == pytest.approx(row["by_layer"], rel=0.01)
        assert row["path_sum"] == pytest.approx(float(rows.loc[name]["effect"].sum()), rel=1e-4)
        own = rows.loc[name]
        # Two units carry a class; what the other ten bring to `stage1` (.005 each) the units behind are too
        # silent to pass on in the end, so that `fast` has 0 for all of them and no order among them.
        assert np.corrcoef(own["fast"], own["exact"])[0, 1] > 0.995
        assert set(own["fast"].nlargest(2).index) == set(own["exact"].nlargest(2).index)
        if layer == "stage1":
            assert (own["fast"].abs() < 1e-6).sum() == WIDE - 2
        else:
            assert row["fast_agrees"] > 0.999
        assert row["exact_agrees"] > (0.9 if layer == "stage1" else 0.999)


def test_a_class_is_brought_most_by_its_own_units(classifier: Path, found: EvolutionsResult) -> None:
    rows = table(classifier, "evolutions")
    ratios: dict[str, list[float]] = {"stage1": [], "stage2": []}
    for (layer, name), own in rows.groupby(["layer", "class"]):
        mine = own["unit"] % CLASSES == CONCEPTS.index(str(name))
        ratios[str(layer)].append(own[mine]["effect"].mean() / own[~mine]["effect"].mean())
        assert own[mine]["significant"].any()
    assert min(ratios["stage1"]) > 10
    # In `stage2` one unit was as loud as noise as it is as a detector, so that its change brings nothing.
    assert min(ratios["stage2"]) > 2
    assert np.median(ratios["stage2"]) > 6
    parts = table(classifier, "evolution-parts")
    first = parts[parts["part"] == 1]
    assert set(parts["units"]) == {WIDE // 4}
    assert (first["set_back"] > first["control"]).all()
    # The smallest p that five random sets allow.
    assert first["p_value"].median() == pytest.approx(1 / 6)


def test_what_the_command_prints_fits_a_terminal(
    classifier: Path, found: EvolutionsResult, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    given = [str(classifier / "run"), "--cache-dir", str(classifier / "cache"), "--device", "cpu"]
    code = main(
        [
            "evolutions",
            *given,
            "--model",
            f"{classifier / 'network.py'}:network",
            "--controls",
            "5",
            "--exact",
        ]
    )
    printed = capsys.readouterr().out
    assert code == 0
    assert f"{CLASSES * EACH} images" in printed
    assert "0 to 1" in printed
    assert "as large a change of another unit" in " ".join(printed.split())
    assert max(len(line) for line in printed.splitlines() if not line.startswith("/")) <= 80
    assert {path.name for path in found.plots} == {
        "evolutions.png",
        "evolution_classes.png",
        "evolution_parts.png",
    }
    assert all(path.stat().st_size > 5000 for path in found.plots)


def test_again_reads_the_cache_and_gives_the_same_bytes(
    classifier: Path, found: EvolutionsResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    from concept_monitor_cli.stories import evolution_making

    options = asked(classifier, exact=True, top=WIDE)
    names = ("evolutions", "evolution-classes", "evolution-parts")
    evolutions(options)
    before = [(classifier / "run/tables" / f"{name}.csv").read_bytes() for name in names]

    def never(*_args: object, **_more: object) -> None:
        raise AssertionError("a network was run again")

    monkeypatch.setattr(evolution_making, "evolved", never)
    monkeypatch.setattr(evolution_making, "scores_set_back", never)
    evolutions(options)
    assert [(classifier / "run/tables" / f"{name}.csv").read_bytes() for name in names] == before
    monkeypatch.undo()
    evolutions(asked(classifier, controls=0, layers=("stage2",)))
    assert not (classifier / "run/tables/evolution-parts.csv").exists()
    assert set(table(classifier, "evolutions")["layer"]) == {"stage2"}
    evolutions(options)


SWITCHING = """
import torch

def network(num_classes=6):
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(3 * {side} * {side}, {units}), torch.nn.ReLU(),
        torch.nn.Linear({units}, 6),
    )
"""


def test_a_confident_change_is_told_with_what_it_brought(world: Path, cache: Path, tmp_path: Path) -> None:
    """Unit 0 goes from `red` to `car`; the head reads every unit for the class of what it sees in the end."""
    (tmp_path / "network.py").write_text(SWITCHING.format(side=SIDE, units=UNITS))
    (tmp_path / "ckpts").mkdir()
    wanted = [4 if unit == SWITCHES else unit % 6 for unit in range(UNITS)]
    head = torch.tensor([[float(wanted[unit] == k) for unit in range(UNITS)] for k in range(6)])
    for epoch in (2, 3):
        content = {**weights(epoch), "3.weight": head, "3.bias": torch.zeros(6)}
        torch.save({"state_dict": content, "epoch": epoch}, tmp_path / "ckpts" / f"epoch_{epoch}.pth")
    machine = {"model": f"{tmp_path / 'network.py'}:network", "cache_dir": cache, "device": "cpu"}
    dissect(
        DissectOptions(
            checkpoints=(str(tmp_path / "ckpts"),),
            layers=("2",),
            input_size=SIDE,
            crop=1.0,
            mean=(0.5,) * 3,
            std=(0.25,) * 3,
            probe=str(world / "photos"),
            concepts=str(world / "words.csv"),
            encoder=f"embeddings:{world / 'embeddings.h5'}",
            floors=False,
            out=tmp_path / "run",
            **machine,  # type: ignore[arg-type]
        )
    )
    result = evolutions(
        EvolutionsOptions(out=tmp_path / "run", plot_formats=(), **machine)  # type: ignore[arg-type]
    )
    rows = pd.DataFrame(result.evolutions)
    sure = rows[rows["confident"] == 1]
    assert set(zip(sure["from_epoch"], sure["to_epoch"], sure["unit"], strict=True)) == {(2, 3, SWITCHES)}
    assert set(zip(sure["from_concept"], sure["to_concept"], strict=True)) == {("red", "car")}
    best = sure.loc[sure["effect"].idxmax()]
    assert best["class"] == "4"
    (told,) = evolution_sentences(rows)
    assert told.startswith(
        f"unit {SWITCHES} of 2 went from red to car between 2 and 3 and brought 4 images +"
    )
    (line,) = result.held
    assert line.confident == 1
    assert line.of_confident > 10 * line.of_others, (
        "without a change of concept there is the noise of training"
    )


def test_sentences_claim_no_more_than_is_known() -> None:
    row = {
        "from_epoch": 3,
        "to_epoch": 4,
        "layer": "layer4",
        "unit": 256,
        "class": "windmill farm",
        "effect": 1.8,
        "elsewhere": 0.31,
        "significant": True,
        "from_concept": "field",
        "to_concept": "windmill",
        "confident": 1,
    }
    brought = "brought windmill farm images +1.8 (as large a change of another unit: 0.3)"
    others = [
        {**row, "unit": 1, "significant": False},
        {**row, "unit": 2, "elsewhere": 2.0},
        {**row, "unit": 256, "class": "barn", "effect": 0.5},
    ]
    frame = pd.DataFrame([*others, row])
    assert evolution_sentences(frame) == [
        f"unit 256 of layer4 went from field to windmill between 3 and 4 and {brought}"
    ]
    unsure = pd.DataFrame([{**row, "confident": None}])
    assert evolution_sentences(unsure.astype({"confident": "Int64"})) == [
        f"unit 256 of layer4 (named field at 3 and windmill at 4, perhaps by luck) {brought}"
    ]
    same = pd.DataFrame([{**row, "confident": 0, "from_concept": "windmill"}])
    assert evolution_sentences(same) == [f"unit 256 of layer4 (windmill) {brought} between 3 and 4"]
    assert evolution_sentences(frame[:0]) == []


def test_what_is_missing_is_said(classifier: Path, found: EvolutionsResult) -> None:
    with pytest.raises(InputError, match="1 epoch: nothing changes"):
        evolutions(asked(classifier, epochs=EpochFilter.parse("last")))
    with pytest.raises(InputError, match="no class is on 99 images"):
        evolutions(asked(classifier, least=99))


# -- real photos ---------------------------------------------------------------------------------------------

NETWORK = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, a, b):
        super().__init__()
        self.conv1 = nn.Conv2d(a, b, 3, 2, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(b), nn.BatchNorm2d(b)
        self.conv2 = nn.Conv2d(b, b, 3, 1, 1, bias=False)
        self.down = nn.Conv2d(a, b, 1, 2)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += self.down(x)
        return self.relu(out)

class Network(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.layer1, self.layer2, self.head = Block(3, 16), Block(16, 24), nn.Linear(24, classes)

    def forward(self, x):
        return self.head(self.layer2(self.layer1(x)).mean((2, 3)))

def network(num_classes=10):
    return Network(num_classes)
"""
SHOWN = 12
"""Photos of each class."""


@pytest.fixture(scope="module")
def trained(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A residual network with ReLUs in place, before and after some steps on photos of CIFAR-10."""
    root = tmp_path_factory.mktemp("photos")
    counts: dict[str, int] = {}
    with tarfile.open(shared_data / "cifar10_images.tar.xz") as tar:
        for member in tar:
            parts = Path(member.name).parts
            if not member.isfile() or len(parts) < 3 or counts.get(parts[-2], 0) == SHOWN:
                continue
            counts[parts[-2]] = counts.get(parts[-2], 0) + 1
            content = tar.extractfile(member)
            assert content is not None
            target = root / "photos" / parts[-2] / parts[-1]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.read())
            if len(counts) == 10 and min(counts.values()) == SHOWN:
                break
    files = sorted((root / "photos").rglob("*.*"))
    names = sorted(counts)
    pixels = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    x = ((torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25).contiguous()
    y = torch.tensor([names.index(file.parent.name) for file in files])
    (root / "network.py").write_text(NETWORK)
    scope: dict[str, object] = {}
    exec(NETWORK, scope)
    torch.manual_seed(0)
    model = scope["network"](10)  # type: ignore[operator]
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    (root / "ckpts").mkdir()
    for epoch in range(2):
        for _ in range(25 * epoch):
            loss = torch.nn.functional.cross_entropy(model(x), y)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        torch.save({"state_dict": model.state_dict(), "epoch": epoch}, root / "ckpts" / f"epoch_{epoch}.pth")
    (root / "words.txt").write_text("\n".join(names) + "\n")
    texts = np.eye(10, dtype=np.float32)
    with h5py.File(root / "embeddings.h5", "w") as store:
        store["images"], store["texts"] = texts[y] + 0.1, texts
        store.create_dataset("concepts", data=names, dtype=h5py.string_dtype())
    dissect(
        DissectOptions(
            checkpoints=(str(root / "ckpts"),),
            layers=("layer1", "layer2", "layer1.conv2"),
            model=f"{root / 'network.py'}:network",
            input_size=32,
            crop=1.0,
            mean=(0.5,) * 3,
            std=(0.25,) * 3,
            probe=str(root / "photos"),
            concepts=str(root / "words.txt"),
            encoder=f"embeddings:{root / 'embeddings.h5'}",
            floors=False,
            out=root / "run",
            cache_dir=root / "cache",
            device="cpu",
        )
    )
    return root


def test_on_photos_the_bars_hold_and_a_path_round_a_layer_is_said(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(trained / "run"), "--cache-dir", str(trained / "cache"), "--device", "cpu"]
    given += ["--model", f"{trained / 'network.py'}:network", "--exact", "--controls", "20"]
    assert main(["evolutions", *given]) == 0
    notes = " ".join(capsys.readouterr().err.split())
    assert "layer1.conv2: a path goes round it" in notes
    assert "what goes round the layer is that of the later epoch" in notes
    assert "layer1: a path goes round it" not in notes
    totals = table(trained, "evolution-classes")
    assert len(totals) == 30
    off = (totals["path_sum"] - totals["by_layer"]).abs()
    for layer, rows in totals.groupby("layer"):
        assert off[rows.index].sum() < 0.01 * rows["by_layer"].abs().sum(), layer
        # Before the block's ReLU one gradient says less.
        assert rows["fast_agrees"].median() > (0.5 if layer == "layer1.conv2" else 0.95), layer
        assert rows["exact_agrees"].median() > 0.95, layer
    # The whole change of the network is one number, whichever layer is asked.
    assert totals.groupby("class")["change"].agg(np.ptp).max() < 1e-5
    parts = table(trained, "evolution-parts")
    best = parts[parts["part"] == 1]
    assert (best["set_back"] > best["control"] + 2 * best["control_sd"]).mean() > 0.9
    rows = table(trained, "evolutions")
    assert rows["effect"].abs().median() > 0
