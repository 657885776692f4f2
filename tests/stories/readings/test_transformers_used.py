"""`vectors`, `evolutions`, `circuits`, `ablate`, `explain` and `atlas` on a ViT and a Swin transformer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import concept_monitor_cli._torchvision  # noqa: F401  isort: skip
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.options import (
    AblateOptions,
    AtlasOptions,
    CircuitsOptions,
    DissectOptions,
    EpochFilter,
    EvolutionsOptions,
    ExplainOptions,
    VectorsOptions,
)
from concept_monitor_cli.stories.ablate import ablate
from concept_monitor_cli.stories.atlas import atlas
from concept_monitor_cli.stories.circuits import circuits
from concept_monitor_cli.stories.dissect import dissect
from concept_monitor_cli.stories.evolutions import evolutions
from concept_monitor_cli.stories.explain import explain
from concept_monitor_cli.stories.vectors import vectors

NAMES, EACH, SIDE = ("blue", "green", "red"), 12, 32
NETWORKS = {
    "vit": (
        "'vit_tiny_patch16_224', img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=3",
        ("blocks.0", "blocks.1"),
    ),
    "swin": (
        "'swin_tiny_patch4_window7_224', img_size=32, patch_size=2, window_size=4, embed_dim=12, "
        "depths=(1, 1), num_heads=(2, 4)",
        ("layers.0", "layers.1"),
    ),
}


@dataclass(frozen=True)
class Study:
    """A transformer of two epochs that was dissected."""

    root: Path
    name: str
    layers: tuple[str, str]

    def asked(self, kind: type, **more: object) -> object:
        return kind(
            out=self.root / "run",
            cache_dir=self.root / "cache",
            model=f"{self.root / 'network.py'}:network",
            device="cpu",
            plot_formats=(),
            **more,
        )

    def network(self, epoch: int) -> nn.Module:
        scope: dict[str, object] = {}
        exec((self.root / "network.py").read_text(), scope)
        model = scope["network"]()  # type: ignore[operator]
        content = torch.load(self.root / f"ckpts/epoch_{epoch}.pth", weights_only=True)
        model.load_state_dict(content["state_dict"])
        return model.eval()

    def photos(self) -> tuple[Tensor, Tensor]:
        files = sorted((self.root / "photos").rglob("*.png"))
        x = torch.from_numpy(np.stack([np.asarray(Image.open(file)) for file in files]))
        return x.permute(0, 3, 1, 2).float() / 255, torch.arange(len(files)) // EACH


@pytest.fixture(scope="module", params=list(NETWORKS))
def study(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Study:
    root = tmp_path_factory.mktemp(request.param)
    what, layers = NETWORKS[request.param]
    rng = np.random.default_rng(0)
    for place, name in enumerate(NAMES):
        (root / "photos" / name).mkdir(parents=True)
        for number in range(EACH):
            pixels = rng.integers(0, 120, (SIDE, SIDE, 3), dtype=np.uint8)
            pixels[..., 2 - place] += 100
            Image.fromarray(pixels).save(root / "photos" / name / f"{number:02d}.png")
    (root / "network.py").write_text(
        f"import timm\n\ndef network(num_classes={len(NAMES)}):\n"
        f"    return timm.create_model({what}, num_classes=num_classes)\n"
    )
    (root / "ckpts").mkdir()
    for epoch in range(2):
        torch.manual_seed(epoch)
        scope: dict[str, object] = {}
        exec((root / "network.py").read_text(), scope)
        model = scope["network"]()  # type: ignore[operator]
        with torch.no_grad():
            for weight in model.parameters():
                # As made, blocks hardly change what they are given.
                weight += 0.15 * torch.randn_like(weight)
        torch.save({"state_dict": model.state_dict(), "epoch": epoch}, root / f"ckpts/epoch_{epoch}.pth")
    found = Study(root, request.param, layers)
    dissect(
        DissectOptions(
            checkpoints=(str(root / "ckpts"),),
            layers=layers,
            model=f"{root / 'network.py'}:network",
            input_size=SIDE,
            crop=1.0,
            mean=(0.0,) * 3,
            std=(1.0,) * 3,
            probe=str(root / "photos"),
            detectors=("invert",),
            floors=False,
            out=root / "run",
            cache_dir=root / "cache",
            device="cpu",
        )
    )
    return found


def changed(study: Study, layer: str, unit: int | None, epoch: int = 1) -> tuple[Tensor, Tensor]:
    """Scores and the means `(n, C)` of the later layer, with a unit at 0 at all positions."""
    model = study.network(epoch)
    kept = {}

    def cut(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor | None:
        if unit is None:
            return None
        output = output.clone()
        output[..., unit] = 0  # units of both are on the last axis
        return output

    model.get_submodule(layer).register_forward_hook(cut)
    model.get_submodule(study.layers[1]).register_forward_hook(
        lambda _m, _i, out: kept.__setitem__("later", out.flatten(1, -2).mean(1))
    )
    with torch.no_grad():
        scores = model(study.photos()[0])
    return scores, kept["later"]


def test_vectors_of_concepts_and_their_effects(study: Study) -> None:
    result = vectors(study.asked(VectorsOptions))  # type: ignore[arg-type]
    rows = pd.DataFrame(result.vectors)
    assert set(zip(rows["layer"], rows["epoch"], strict=True)) == {
        (a, e) for a in study.layers for e in (0, 1)
    }
    assert set(rows["concept"]) == set(NAMES)
    # Whole images of a colour: even random weights tell them apart.
    assert (rows["auc"] > 0.9).all()
    assert (rows["auc"] > rows["chance"]).all()
    effects = pd.DataFrame(result.effects)
    assert set(effects["class"]) == set(NAMES)
    assert effects["effect"].abs().min() > 0


def test_cut_units_are_passes_with_a_hook(study: Study) -> None:
    layer = study.layers[0]
    result = ablate(study.asked(AblateOptions, layers=(layer,), units=(5,), controls=2))  # type: ignore[arg-type]
    rows = pd.DataFrame(result.ablation)
    row = rows[(rows["set"] == "units") & (rows["kind"] == "zero") & (rows["class"] == "all")].iloc[0]
    _, y = study.photos()
    for column, unit in (("logit_before", None), ("logit", 5)):
        scores, _ = changed(study, layer, unit)
        assert row[column] == pytest.approx(float(scores.gather(1, y[:, None]).mean()), abs=1e-4)
    assert abs(row["logit"] - row["logit_before"]) > 1e-3


def test_edges_are_passes_with_a_hook_and_weights_say_why_not(study: Study) -> None:
    result = circuits(study.asked(CircuitsOptions, draws=1000, edges=3))  # type: ignore[arg-type]
    (summary,) = result.layers
    assert "units are not on the second axis" in summary["no_weight"]
    assert summary["weight_correlation"] is None
    rows = pd.read_csv(study.root / "run/tables/circuit.csv")
    plain = changed(study, study.layers[0], None)[1]
    for unit in (0, 7):
        own = rows[rows["from_unit"] == unit]
        lost = (plain - changed(study, study.layers[0], unit)[1]).mean(0)
        assert len(own) >= 3
        for target, effect in zip(own["to_unit"], own["effect"], strict=True):
            assert effect == pytest.approx(float(lost[target]), rel=1e-3, abs=1e-5)


def test_what_units_brought_sums_to_the_whole(study: Study) -> None:
    result = evolutions(study.asked(EvolutionsOptions, controls=2, exact=True))  # type: ignore[arg-type]
    totals = pd.DataFrame(result.classes)
    assert set(totals["layer"]) == set(study.layers)
    off = (totals["path_sum"] - totals["by_layer"]).abs()
    assert off.sum() < 0.05 * totals["by_layer"].abs().sum()
    y = study.photos()[1]
    after, before = (changed(study, study.layers[0], None, epoch)[0] for epoch in (1, 0))
    change = (after - before).gather(1, y[:, None])[:, 0]
    for row in result.classes:
        mine = y == NAMES.index(row["class"])
        assert row["change"] == pytest.approx(float(change[mine].mean()), abs=1e-4)


def test_parts_of_images_are_concepts_without_labels(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    options = study.asked(VectorsOptions, clusters=3, tcav_target="loss")
    result = vectors(options)  # type: ignore[arg-type]
    rows = pd.DataFrame(result.vectors)
    assert set(rows["source"]) == {"clusters"}
    assert set(rows["layer"]) == set(study.layers)
    parts = pd.DataFrame(result.parts)
    assert set(parts["concept"]) == set(rows["concept"])
    assert set(parts["layer"]) == {study.layers[1]}
    assert parts["cosine"].between(-1, 1).all()
    assert (parts.groupby("concept")["image"].nunique() == parts.groupby("concept").size()).all()
    assert (parts["row"] < parts["rows"]).all()
    assert set(pd.DataFrame(result.effects)["target"]) == {"loss"}


# Layers of the last block: what works, and what does not since only the class token is read after it.
LAST = {
    "vit": {
        "blocks.2.norm1": "",
        "blocks.2": "their gradient is zero everywhere",
        "norm": "their gradient is zero",
    },
    "swin": {"layers.1": "", "norm": ""},
}


def explained(study: Study, **more: object) -> pd.DataFrame:
    given = {"images": ("red/03.png",), "classes": 2, "groups": 3, "epochs": EpochFilter.parse("1"), **more}
    return pd.DataFrame(explain(study.asked(ExplainOptions, **given)).explanations)  # type: ignore[arg-type]


@pytest.mark.parametrize("on", ["activation", "attribution"])
def test_parts_of_an_answer_add_up(study: Study, on: str) -> None:
    layer = study.layers[1]
    rows = explained(study, layers=(layer,), path=32, on=on)
    model = study.network(1)
    x = study.photos()[0][2 * EACH + 3][None]
    for target, own in rows.groupby("target"):
        part = own.groupby("part")["attribution"].sum()
        for whole in (("unit", "other units"), ("place",), ("group", "residual")):
            assert sum(part[name] for name in whole) == pytest.approx(part["total"], abs=1e-5), whole
        # With what class tokens carry it is what the layer changes.
        with torch.no_grad():
            logit = model(x)[0, NAMES.index(target)]
            handle = model.get_submodule(layer).register_forward_hook(lambda _m, _i, out: out * 0)
            change = float(logit - model(x)[0, NAMES.index(target)])
            handle.remove()
        assert part["total"] + part.get("elsewhere", 0) == pytest.approx(change, rel=0.05)
        assert (part.get("elsewhere", 0) != 0) == (study.name == "vit")


def test_after_the_last_block_a_layer_works_or_says_why_not(study: Study) -> None:
    for layer, why_not in LAST[study.name].items():
        if why_not:
            with pytest.raises(InputError, match=why_not) as raised:
                explained(study, layers=(layer,), path=0)
            assert raised.value.where == f"--layer {layer}"
            assert "choose an earlier layer" in (raised.value.hint or "")
        else:
            rows = explained(study, layers=(layer,), path=0)
            places = rows[rows["part"] == "place"]["attribution"]
            assert (places != 0).any()


def test_an_atlas_of_tokens(study: Study) -> None:
    found = atlas(
        study.asked(
            AtlasOptions,
            layers=(study.layers[1],),
            epochs=EpochFilter.parse("1"),
            method="pca",
            cells=2,
            steps=2,
            at_once=2,
            class_names="folders",
        )  # type: ignore[arg-type]
    )
    cells = pd.DataFrame(found.cells)
    assert set(cells["class"]) <= set(NAMES)
    assert cells["own_cos"].notna().all()
