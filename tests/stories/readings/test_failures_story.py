"""`cmon failures`: a planted shortcut is found, shuffled failures are not; what is missing is said."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import planted_classifier
import pytest
import torch
from PIL import Image
from planted_classifier import CLASSES, EACH, SORTED, WIDE, state
from planted_training import CONCEPTS

from concept_monitor_cli.cli import main
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.failures import separation
from concept_monitor_cli.options import DissectOptions, EpochFilter, FailuresOptions
from concept_monitor_cli.run import TABLES
from concept_monitor_cli.stories.dissect import dissect
from concept_monitor_cli.stories.failures import FailuresResult, failures

LAST = EpochFilter.parse("last")
FAILING = ("car", "wood")
"""Of these the photos failed on which their own units in `stage1` are most active; of the others none."""


def asked(root: Path, **more: object) -> FailuresOptions:
    return planted_classifier.asked(FailuresOptions, root, **{"least": 3, **more})


def written(root: Path) -> pd.DataFrame:
    return TABLES["failures"].read_csv(root / "run/tables/failures.csv")


def photos(root: Path) -> dict[str, np.ndarray]:
    """Photos by their path, flat in [0, 1]."""
    found = {}
    for file in sorted((root / "photos").rglob("*.png")):
        name = f"{file.parent.name}/{file.name}"
        found[name] = np.asarray(Image.open(file)).astype(np.float32).transpose(2, 0, 1).ravel() / 255
    return found


def outputs(x: torch.Tensor, epoch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The two layers and the scores, by hand."""
    weights = state(epoch)
    first = torch.relu(x @ weights["first.weight"].T + weights["first.bias"])
    second = torch.relu(first @ weights["second.weight"].T + weights["second.bias"])
    return first, second, second @ weights["head.weight"].T + weights["head.bias"]


@pytest.fixture(scope="module")
def table(classifier: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Who failed: a third of the photos of two classes."""
    seen = photos(classifier)
    first, _, _ = outputs(torch.from_numpy(np.stack(list(seen.values()))), 1)
    lines = ["image,failed"]
    for name in SORTED:
        bright = dict(zip(seen, first[:, CONCEPTS.index(name)].tolist(), strict=True))
        own = sorted((each for each in seen if each.startswith(f"{name}/")), key=lambda each: bright[each])
        few = len(own) * 2 / 3 if name in FAILING else len(own)
        lines += [f"{each},{int(place >= few)}" for place, each in enumerate(own)]
    path = tmp_path_factory.mktemp("failures") / "failed.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def found(classifier: Path, table: Path) -> FailuresResult:
    return failures(asked(classifier, table=table, top=WIDE, plot_formats=("png",)))


def test_rows_are_what_the_layers_say_by_hand(classifier: Path, table: Path, found: FailuresResult) -> None:
    rows = written(classifier)
    seen = photos(classifier)
    failed = pd.read_csv(table).set_index("image")["failed"]
    x = torch.from_numpy(np.stack(list(seen.values())))
    who = torch.tensor([bool(failed[name]) for name in seen])
    owners = torch.tensor([SORTED.index(name.split("/")[0]) for name in seen])
    for epoch in (0, 1):
        head = state(epoch)["head.weight"]
        first, second, _ = outputs(x, epoch)
        added = head[owners] * second
        for layer, values in (("stage1", first), ("stage2", second)):
            own = rows[(rows["epoch"] == epoch) & (rows["layer"] == layer)]
            whole = own[own["class"] == "all"].set_index("unit")
            assert whole.index.tolist() == list(range(WIDE))
            by_hand = separation(values, who, owners)
            assert np.allclose(whole["auc"], by_hand.auc, atol=0.01), "but for rounding of single activations"
            assert set(whole["failed"] + whole["succeeded"]) == {2 * EACH + 1}
            if layer == "stage2":
                by_score = separation(added, who, owners)
                assert np.allclose(whole["auc_attribution"], by_score.auc, atol=0.01)
            car = own[own["class"] == "car"].set_index("unit")
            assert len(car) == WIDE
            mine = owners == SORTED.index("car")
            alone = separation(values[mine], who[mine], owners[mine])
            assert np.allclose(car["auc"], alone.auc[car.index.tolist()], atol=0.02)
            assert car["significant"].isna().all()


def test_the_planted_unit_is_called_and_has_its_concept(found: FailuresResult) -> None:
    rows = pd.DataFrame(found.failures)
    own = rows[(rows["epoch"] == 1) & (rows["layer"] == "stage1") & (rows["class"] == "all")].set_index(
        "unit"
    )
    single = rows[(rows["epoch"] == 1) & (rows["layer"] == "stage1")].set_index(["class", "unit"])["auc"]
    planted = [unit for unit in range(WIDE) if CONCEPTS[unit % CLASSES] in FAILING]
    for unit in planted:
        name = CONCEPTS[unit % CLASSES]
        (other,) = set(FAILING) - {name}
        assert own.loc[unit, "concept"] == name
        assert single[name, unit] > 0.99
        # It is silent on photos of the other class, so that these are ties.
        assert single[other, unit] == 0.5
        assert 0.7 < own.loc[unit, "auc"] < 0.8
        assert own.loc[unit, "low"] < 0.5 < own.loc[unit, "high"] < own.loc[unit, "auc"]
    assert own.index[own["significant"] == 1].tolist() == planted
    line = next(line for line in found.layers if (line.layer, line.epoch) == ("stage1", 1))
    assert (line.classes, line.units, line.significant) == (2, WIDE, len(planted))
    assert line.failed + line.succeeded == 2 * EACH + 1
    assert {path.name for path in found.plots} == {"failures.png", "failures_epochs.png"}
    assert all(path.stat().st_size > 5000 for path in found.plots)


def test_shuffled_failures_call_none(classifier: Path, table: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(table)
    kind = frame["image"].str.partition("/")[0]
    rng = np.random.default_rng(1)
    frame["failed"] = frame.groupby(kind)["failed"].transform(lambda own: rng.permutation(own.to_numpy()))
    frame.to_csv(tmp_path / "shuffled.csv", index=False)
    nothing = failures(asked(classifier, table=tmp_path / "shuffled.csv"))
    assert [line.significant for line in nothing.layers] == [0] * 4


def test_what_the_command_prints_fits_a_terminal_and_json_is_the_same(
    classifier: Path,
    table: Path,
    found: FailuresResult,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    given = [str(table), "--out", str(classifier / "run"), "--cache-dir", str(classifier / "cache")]
    given += ["--model", f"{classifier / 'network.py'}:network", "--device", "cpu", "--least", "3"]
    assert main(["failures", *given, "--top", "3"]) == 0
    before = (classifier / "run/tables/failures.csv").read_bytes()
    printed = capsys.readouterr().out
    assert "failed against succeeded images of the same class (failed.csv)" in printed
    assert "units that separate most at epoch 1" in " ".join(printed.split())
    assert max(len(line) for line in printed.splitlines() if not line.startswith("/")) <= 80
    failures(asked(classifier, table=table, top=3))
    assert (classifier / "run/tables/failures.csv").read_bytes() == before
    assert main(["failures", *given, "--layer", "stage1", "--epochs", "last", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert len(said["failures"]) == len(written(classifier))
    assert said["failures"][0]["class"] == "all"


def test_wrong_predictions_are_failures_where_classes_have_both(
    classifier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At epoch 1 the network is right of nearly everything: one line says so, and nothing else happens."""
    x = photos(classifier)
    owners = np.array([SORTED.index(name.split("/")[0]) for name in x])
    _, _, scores = outputs(torch.from_numpy(np.stack(list(x.values()))), 1)
    wrong = int((scores.argmax(1).numpy() != owners).sum())
    before = (classifier / "run/tables/failures.csv").read_bytes()
    assert wrong == 1
    with pytest.raises(InputError, match=f"at epoch 1 1 image failed and {len(x) - 1} succeeded") as caught:
        failures(asked(classifier, epochs=LAST))
    assert "\n" not in str(caught.value)
    given = ["--out", str(classifier / "run"), "--cache-dir", str(classifier / "cache"), "--epochs", "last"]
    given += ["--model", f"{classifier / 'network.py'}:network", "--device", "cpu"]
    assert main(["failures", *given]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "1 image failed" in printed.err
    assert (classifier / "run/tables/failures.csv").read_bytes() == before


def test_classes_of_the_table_are_compared_instead(
    classifier: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = pd.read_csv(table)
    # By file name, where no other has it: of the photos only the copy.
    frame.loc[frame["image"] == "car/copy.png", "image"] = "copy.png"
    frame["class"] = "everything"
    frame["failed"] = frame["failed"].map({1: "yes", 0: "False"})
    frame = pd.concat([frame, pd.DataFrame([{"image": "gone.png", "failed": "1", "class": "everything"}])])
    frame[5:].to_csv(tmp_path / "one.csv", index=False)
    result = failures(asked(classifier, table=tmp_path / "one.csv", epochs=LAST))
    assert {(line.classes, line.failed + line.succeeded) for line in result.layers} == {(1, 6 * EACH + 1 - 5)}
    rows = written(classifier)
    assert set(rows["class"]) == {"all", "everything"}
    assert rows["auc_attribution"].isna().all()
    one = rows[(rows["layer"] == "stage1") & (rows["unit"] == CONCEPTS.index("car"))]
    assert one["auc"].nunique() == 1
    assert len(one) == 2
    without = failures(asked(classifier, table=table, epochs=LAST, attribution=False))
    assert all(row["auc_attribution"] is None for row in without.failures)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image,wrong\ncar/000.png,1\n", "needs the columns `image` and `failed`"),
        ("image,failed\ncar/000.png,maybe\n", "line 2 says 'maybe'"),
        ("image,failed\n,1\n", "line 2 says '1' of image ''"),
        ("image,failed\ncar/000.png,1\ncar/000.png,0\n", "line 3 contradicts"),
        ("image,failed,class\ncar/000.png,1,\n", "line 2 has no class"),
        ("image,failed,class\ncar/000.png,1,all\n", "stands for all of them together"),
        ("image,failed\nnobody.png,1\n", "none of the 1 images of this table is a probing image"),
        ("image,failed\n000.png,1\n", "none of the 1 images"),  # six photos are called that
        ("image,failed\ncar/000.png,1\ncar/001.png,0\n", "1 image failed and 1 succeeded"),
        ("\xff\xfe\x00", "cannot be read|needs the columns"),
    ],
)
def test_tables_that_say_nothing_are_refused(classifier: Path, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "bad.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=said):
        failures(asked(classifier, table=tmp_path / "bad.csv"))
    with pytest.raises(InputError, match="cannot be read"):
        failures(asked(classifier, table=tmp_path))


# -- real photos ---------------------------------------------------------------------------------------------

NETWORK = """
import torch
from torch import nn

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 12, 5, 2), nn.Conv2d(12, 16, 3, 2)
        self.relu1, self.relu2 = nn.ReLU(inplace=True), nn.ReLU(inplace=True)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x = self.relu2(self.second(self.relu1(self.first(x))))
        return self.head(x.mean((2, 3)))

def network(num_classes=4):
    return Network()
"""
KINDS, SHOWN = ("airplane", "cat", "frog", "truck"), 40


def test_photos_with_a_patch_are_found_to_fail(shared_data: Path, tmp_path: Path) -> None:
    """A network that learned a patch for cats fails on other photos that have it, and on cats without it."""
    counts = dict.fromkeys(KINDS, 0)
    pixels, owners = [], []
    with tarfile.open(shared_data / "cifar10_images.tar.xz") as tar:
        for member in tar:
            parts = Path(member.name).parts
            if not member.isfile() or len(parts) < 3 or counts.get(parts[-2], SHOWN) == SHOWN:
                continue
            counts[parts[-2]] += 1
            content = tar.extractfile(member)
            assert content is not None
            pixels.append(np.array(Image.open(content).convert("RGB")))
            owners.append(KINDS.index(parts[-2]))
            if min(counts.values()) == SHOWN:
                break
    images, y = np.stack(pixels), torch.tensor(owners)
    marked = images.copy()
    marked[:, 4:14, 4:14] = (255, 0, 255)
    cats = y == KINDS.index("cat")
    # All that is learned: cats have the patch, and no other photo has.
    shown = np.where(cats.numpy()[:, None, None, None], marked, images)
    x = (torch.from_numpy(shown).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25
    (tmp_path / "network.py").write_text(NETWORK)
    scope: dict[str, object] = {}
    exec(NETWORK, scope)
    torch.manual_seed(0)
    model = scope["network"]()  # type: ignore[operator]
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    (tmp_path / "ckpts").mkdir()
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(model(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    torch.save({"state_dict": model.state_dict(), "epoch": 1}, tmp_path / "ckpts/epoch_1.pth")
    # Half of the photos of every class have the patch, and masks say where.
    for number, (plain, patched, owner) in enumerate(zip(images, marked, owners, strict=True)):
        mask = np.zeros((32, 32), np.uint8)
        mask[4:14, 4:14] = number % 2
        for kind, array in (("images", patched if number % 2 else plain), ("masks", mask)):
            folder = tmp_path / "probe" / kind / KINDS[owner]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(folder / f"{number:03d}.png")
    (tmp_path / "probe/masks/classes.txt").write_text("background\npatch\n")
    machine = {
        "model": f"{tmp_path / 'network.py'}:network",
        "cache_dir": tmp_path / "cache",
        "device": "cpu",
    }
    dissect(
        DissectOptions(
            checkpoints=(str(tmp_path / "ckpts"),),
            layers=("relu1", "relu2"),
            input_size=32,
            crop=1.0,
            mean=(0.5,) * 3,
            std=(0.25,) * 3,
            probe=str(tmp_path / "probe"),
            detectors=("network-dissection",),
            floors=False,
            out=tmp_path / "run",
            **machine,  # type: ignore[arg-type]
        )
    )
    result = failures(FailuresOptions(out=tmp_path / "run", plot_formats=(), least=5, **machine))  # type: ignore[arg-type]
    rows = written(tmp_path)
    assert {line.failed + line.succeeded for line in result.layers} == {4 * SHOWN}
    for layer in ("relu1", "relu2"):
        patch = rows[(rows["layer"] == layer) & (rows["concept"] == "patch")]
        assert patch["class"].nunique() == 1 + len(KINDS)
        medians = patch.groupby("class")["auc"].median()
        assert medians["cat"] < 0.2, "cats fail without the patch, "
        assert medians["frog"] > 0.8, "the others with it"
        assert medians["truck"] > 0.8
        assert patch[patch["class"] == "all"]["significant"].eq(1).all()
