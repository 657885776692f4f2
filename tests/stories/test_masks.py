"""`dissect` with the detectors that count pixels, from images and masks on the disk to tables."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from pathlib import Path
from typing import ClassVar

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.options import UnitsOptions
from concept_monitor_cli.probe import load_probe
from concept_monitor_cli.progress import SILENT, Silent
from concept_monitor_cli.record import requests as recordings
from concept_monitor_cli.report.regions import Regions
from concept_monitor_cli.run import TABLES, RunFolder
from concept_monitor_cli.store import Key, Store
from concept_monitor_cli.stories.dissect import dissect
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.stories.units import looks_of, units

from .planted import DEAD, OBJECTS, Planted, make_planted, planted_weights

BOTH = ("network-dissection", "compositional")

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """Dissected once with all three detectors."""
    planted = make_planted(tmp_path_factory.mktemp("planted"))
    result = dissect(planted.options("clip-dissect", *BOTH))
    assert result.forward_passes == 1
    return planted


def best(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["rank"] == 1].set_index("unit")


def test_planted_units_come_out_with_their_concept(study: Planted) -> None:
    rows = best(study.table("network-dissection"))
    assert rows["concept"].tolist()[: len(OBJECTS)] == list(OBJECTS)
    # The unit fires on exactly the patch: nothing is left to luck but the IoU's last digit.
    assert np.allclose(rows["score"][: len(OBJECTS)], 1.0)
    assert (rows["interpretable"][: len(OBJECTS)]).all()
    assert (rows["category"][: len(OBJECTS)] == "object").all()
    record = json.loads((study.root / "out/tables/epoch_0000/act.network-dissection.json").read_text())
    assert record["calibration"]["above_constant"] >= len(OBJECTS)
    assert (
        len(OBJECTS) <= record["calibration"]["unique_detectors"] <= record["calibration"]["above_constant"]
    )


def test_a_dead_unit_has_no_concept(study: Planted) -> None:
    for detector in BOTH:
        table = study.table(detector)
        row = table[table["unit"] == DEAD]
        assert row[["rank", "concept", "state"]].to_numpy().tolist() == [[1, "", "dead"]]
        assert row[["score", "p_value"]].isna().all().all()
        assert not row["interpretable"].any()


def test_length_one_is_network_dissection(study: Planted) -> None:
    for normaliser in ("category", "mask", "none"):
        options = study.options(
            *BOTH, out=f"one-{normaliser}", iou_normaliser=normaliser, length=1, label_rule="iou"
        )
        assert dissect(options).forward_passes == 0  # recorded before
        single, formula = (best(study.table(name, f"one-{normaliser}")) for name in BOTH)
        assert single["concept"].tolist() == formula["concept"].tolist()
        assert single["category"].tolist() == formula["category"].tolist()
        np.testing.assert_array_equal(single["score"], formula["score"])


def test_iou_never_falls_with_length(study: Planted) -> None:
    lengths = study.table("compositional.lengths")
    assert lengths["length"].max() == 3
    for _, rows in lengths.groupby("unit"):
        assert rows["score"].is_monotonic_increasing
    assert lengths["proved"].all()
    assert (lengths["gap"] == 0).all()
    table = study.table("compositional")
    longest = lengths[lengths["length"] == 3].set_index("unit")["concept"]
    live = best(table[table["state"] == "live"])
    assert live["concept"].to_dict() == longest.to_dict()
    assert longest.str.contains(" OR | AND ").any()


def test_without_a_proof_the_table_says_how_much_better_a_formula_could_be(study: Planted) -> None:
    assert dissect(study.options("compositional", out="beam", search="beam", beam=1)).forward_passes == 0
    place = ["unit", "length"]
    beam, proved = (study.table("compositional.lengths", out).set_index(place) for out in ("beam", "out"))
    assert beam["proved"].tolist() == (beam["gap"] == 0).tolist()
    assert beam["proved"].xs(1, level="length").all()
    better = proved["score"] - beam["score"]
    assert (better >= 0).all()
    assert (better <= beam["gap"] + 1e-9).all()


@pytest.mark.parametrize(
    ("name", "detector"), [("invert", "invert"), ("linear", "linear"), ("auc", f"{EXAMPLES / 'auc.py'}:Area")]
)
def test_a_detector_that_can_do_without_an_encoder_uses_the_one_named(
    study: Planted, name: str, detector: str
) -> None:
    """Alone: no other detector of the run has images decoded for the encoder."""
    words = study.root / "three-words.txt"
    words.write_text("red\nblue\nsomething that no label says\n")
    out = f"alone-{name}"
    dissect(study.options(detector, out=out, encoder="builtin", concepts=str(words), stability=False))
    table = study.table(name, out)
    assert set(table["state"]) <= {"live", "dead", "sparse"}
    assert (table["state"] == "live").any()


def test_best_concept_of_every_category(study: Planted) -> None:
    dissect(study.options("network-dissection", out="literature", label_rule="iou"))
    for out in ("out", "literature"):
        rows = study.table("network-dissection.by-category", out)
        scores = study.table("network-dissection", out)
        top = best(scores[(scores["state"] == "live") & (scores["concept"] != "")])
        assert set(rows["category"]) == {"object", "scene", "color"}
        assert not rows.duplicated(["unit", "category"]).any()
        # The unit's own label is the best one of its category.
        own = rows.set_index(["unit", "category"])["concept"]
        for unit, row in top.iterrows():
            assert own[unit, row["category"]] == row["concept"]
    highest = rows.sort_values("score").groupby("unit").tail(1).set_index("unit")["concept"]
    assert highest.to_dict() == top["concept"].to_dict()  # of the rule `iou` it is the highest of all


def recording(study: Planted, out: str, detector: str = "network-dissection") -> dict[str, np.ndarray]:
    record = json.loads((study.root / out / f"tables/epoch_0000/act.{detector}.json").read_text())
    kind, digest = record["recording"].split("/")
    for cache in study.root.glob("cache*"):
        path = cache / kind / digest[:2] / f"{digest}.h5"
        if path.is_file():
            with h5py.File(path) as file:
                return {name: file[name][()] for name in file}
    raise AssertionError("no recording")


def test_spool_and_second_pass_give_the_same(
    study: Planted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options = study.options("network-dissection", out="second", batch_size=7)
    monkeypatch.setattr(recordings, "SPOOL_BYTES", 0)
    monkeypatch.setattr(recordings.Masks, "__init__", _with_spool(recordings.Masks.__init__, 0))
    dissect(dataclasses.replace(options, cache_dir=tmp_path / "cache"))
    first = (study.root / "out/tables/epoch_0000/act.network-dissection.csv").read_bytes()
    second = (study.root / "second/tables/epoch_0000/act.network-dissection.csv").read_bytes()
    assert first == second
    files = [next((folder / "masks").rglob("*.h5")) for folder in (study.root / "cache", tmp_path / "cache")]
    with h5py.File(files[0]) as a, h5py.File(files[1]) as b:
        assert sorted(a) == sorted(b)
        for name in a:
            if name != "__meta__":
                np.testing.assert_array_equal(a[name][()], b[name][()], err_msg=name)


def _with_spool(original, spool_bytes: int):
    def init(self, *args, **kwargs):
        original(self, *args, **{**kwargs, "spool_bytes": spool_bytes})

    return init


def test_top_images_are_those_of_the_peaks(study: Planted) -> None:
    arrays = recording(study, "out")
    names = np.array(load_probe(str(study.root / "broden")).ids)
    # Each object is in two images.
    for k in range(len(OBJECTS)):
        found = {int(Path(name).stem) for name in names[arrays["top_images"][k, :2]]}
        assert found == {3 * k, 3 * k + 30}
    assert not arrays["live"][DEAD]


def test_a_repeated_run_is_the_same_to_the_byte(study: Planted, tmp_path: Path) -> None:
    options = study.options("clip-dissect", *BOTH, out="again")
    dissect(dataclasses.replace(options, cache_dir=tmp_path / "cache"))
    for path in (study.root / "out" / "tables").rglob("*.csv"):
        other = study.root / "again" / "tables" / path.relative_to(study.root / "out" / "tables")
        assert path.read_bytes() == other.read_bytes(), path.name
    # ... and so is one that finds everything in the store.
    assert dissect(dataclasses.replace(options, overwrite=True)).forward_passes == 0
    for path in (study.root / "out" / "tables").rglob("*.csv"):
        other = study.root / "again" / "tables" / path.relative_to(study.root / "out" / "tables")
        assert path.read_bytes() == other.read_bytes(), path.name


class TestUntrained:
    def test_scores_are_the_same_and_only_the_comparison_is_another(self, study: Planted) -> None:
        dissect(study.options("clip-dissect", *BOTH, out="untrained", null="untrained"))
        for detector in ("clip-dissect", *BOTH):
            before, after = study.table(detector), study.table(detector, "untrained")
            assert before["concept"].tolist() == after["concept"].tolist()
            np.testing.assert_array_equal(before["score"], after["score"])
            path = study.root / f"untrained/tables/epoch_0000/act.{detector}.json"
            calibration = json.loads(path.read_text())["calibration"]
            assert calibration["null"] == "untrained"
            # 16 networks of 32 units; not all units of a random network are alive.
            assert 400 <= calibration["draws"] <= 512
            # p-values are shares of these draws.
            steps = after["p_value"].dropna() * (calibration["draws"] + 1)
            np.testing.assert_allclose(steps, steps.round(), atol=1e-3)

    def test_another_random_network_does_not(self, study: Planted) -> None:
        network: dict[str, object] = {}
        exec((study.root / "network.py").read_text(), network)
        folder = study.root / "random"
        folder.mkdir()
        for seed in range(4):
            torch.manual_seed(seed)
            state = network["make"]().state_dict()  # type: ignore[operator]
            torch.save({"state_dict": state, "epoch": seed}, folder / f"epoch_{seed}.pth")
        options = study.options("clip-dissect", *BOTH, out="chance", null="untrained")
        dissect(dataclasses.replace(options, checkpoints=(str(folder),)))
        table = RunFolder(study.root / "chance").concepts()
        called = table[table["rank"] == 1].groupby("detector")["interpretable"].mean()
        assert (called <= 0.06).all(), called

    def test_cosines_are_compared_beyond_their_own_chance(self, study: Planted) -> None:
        """A random unit that fires on every image has a high cosine with every word, and is no rival."""
        dissect(study.options("clip-dissect", out="cos-chance", similarity="cos"))
        options = study.options("clip-dissect", out="cos", similarity="cos", null="untrained")
        dissect(options)
        before, after = (
            best(study.table("clip-dissect", "cos-chance")),
            best(study.table("clip-dissect", "cos")),
        )
        assert before["concept"].tolist() == after["concept"].tolist()
        live = before["state"] == "live"
        # Words and images are made up: what chance gives, untrained networks give, and nothing is beyond it.
        assert after["interpretable"][live].mean() <= 0.06
        p = after["p_value"][live]
        assert p.rank().corr(before["p_value"][live].rank()) > 0.8
        # From the store the second time.
        kept = study.table("clip-dissect", "cos").to_csv()
        dissect(dataclasses.replace(options, overwrite=True, save_scores=True))
        assert study.table("clip-dissect", "cos").to_csv() == kept


class TestBadInput:
    def refused(self, options, *said: str) -> None:
        with pytest.raises(InputError) as caught:
            dissect(options)
        text = f"{caught.value.what} {caught.value.where} {caught.value.hint}"
        for each in said:
            assert each in text

    @pytest.mark.parametrize("detector", BOTH)
    def test_a_probing_set_without_masks(self, study: Planted, detector: str) -> None:
        folder = study.root / "bare"
        folder.mkdir(exist_ok=True)
        for path in (study.root / "broden/images").glob("00?.png"):
            (folder / path.name).write_bytes(path.read_bytes())
        options = study.options(detector, out="bad", probe=str(folder), concepts="common")
        self.refused(options, detector, "masks", "Broden", "clip-dissect")

    @pytest.mark.parametrize("detector", BOTH)
    def test_a_layer_without_space(self, study: Planted, detector: str) -> None:
        self.refused(study.options(detector, out="bad", layers=("head",)), "head", "Linear", "clip-dissect")

    def left_out(self, planted: Planted, *said: str) -> None:
        """One image that cannot be used is left out and named; the run is made without it."""
        dissect(planted.options("network-dissection", out="one-less"))
        info = json.loads((planted.root / "one-less/run.json").read_text())
        (skipped,) = info["probe"]["skipped"]
        assert skipped["image"] == "007.png"
        assert all(each in f"{skipped}" for each in said)

    def test_a_mask_that_is_gone(self, tmp_path: Path) -> None:
        planted = make_planted(tmp_path)
        (tmp_path / "broden/images/007_object.png").unlink()
        self.left_out(planted, "007_object.png")

    def test_a_mask_of_the_wrong_size(self, tmp_path: Path) -> None:
        from PIL import Image

        planted = make_planted(tmp_path)
        Image.new("RGB", (8, 8)).save(tmp_path / "broden/images/007_object.png")
        self.left_out(planted, "007_object.png")

    def test_a_number_that_is_no_label(self, tmp_path: Path) -> None:
        from PIL import Image

        planted = make_planted(tmp_path)
        Image.new("RGB", (16, 16), (99, 0, 0)).save(tmp_path / "broden/images/007_object.png")
        self.left_out(planted, "99", "007_object.png")


def test_weights_of_the_planted_network_are_as_described() -> None:
    """The dead unit gives 0 for every colour; planted units nothing for grey."""
    weights = planted_weights()
    assert (weights["patch.weight"][DEAD] == 0).all()
    grey = torch.zeros(1, 3, 2, 2)
    answer = torch.nn.functional.conv2d(grey, weights["patch.weight"], weights["patch.bias"])
    assert (answer[0, : len(OBJECTS)] < 0).all()


def test_detectors_are_compared(study: Planted) -> None:
    rows = TABLES["agreement"].read_csv(study.root / "out/tables/agreement.csv")
    pairs = set(zip(rows["detector_a"], rows["detector_b"], strict=True))
    assert pairs == {
        ("clip-dissect", "compositional"),
        ("clip-dissect", "network-dissection"),
        ("compositional", "network-dissection"),
    }
    own = rows.set_index(["detector_a", "detector_b"])["same"]
    tops = [best(study.table(name)) for name in BOTH]
    live = tops[0]["state"] == "live"
    same = (tops[0]["concept"] == tops[1]["concept"])[live].mean()
    assert np.isclose(own["compositional", "network-dissection"], same)
    # The file of embeddings has no formulas in it.
    assert rows["cosine"].isna().all()


def test_agreement_is_on_the_terminal(study: Planted, cmon) -> None:
    options = study.options(*BOTH)
    arguments: list[object] = ["dissect", *options.checkpoints, "--layer", "act", "-d", ",".join(BOTH)]
    arguments += ["--model", options.model, "--input-size", options.input_size, "--interpolation", "nearest"]
    arguments += ["--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5", "--probe", options.probe]
    arguments += ["--encoder", options.encoder, "--out", options.out, "--cache-dir", options.cache_dir]
    answer = cmon(*arguments, "--device", "cpu")
    assert answer.code == 0, answer.err
    assert "compositional and network-dissection" in " ".join(answer.out.split())
    answer = cmon(*arguments, "--device", "cpu", "--json")
    assert {row["detector_b"] for row in answer.json()["agreement"]} == set(BOTH)


def test_regions_are_where_a_unit_is_above_its_threshold(study: Planted) -> None:
    record = json.loads((study.root / "out/tables/epoch_0000/act.network-dissection.json").read_text())
    kind, digest = record["recording"].split("/")
    probe = load_probe(str(study.root / "broden"))
    with Store(study.root / "cache").get(Key(kind, digest, {})) as entry:
        regions = Regions(entry)
        assert probe.annotations is not None
        for k, name in enumerate(OBJECTS):
            label = [each.name for each in probe.annotations.labels].index(name)
            with_it = {f"{image:03d}" for image in (3 * k, 3 * k + 30)}
            for image, file in enumerate(probe.ids):
                if Path(file).stem in with_it:
                    expected = probe.annotations.image(image).masks(probe.annotations.mask_size)[label]
                    np.testing.assert_array_equal(regions.region(k, image), expected)
                else:
                    assert not regions.region(k, image).any()


def test_units_are_drawn_with_the_region_that_fires(study: Planted) -> None:
    out = study.root / "out"
    options = UnitsOptions(
        out=out, cache_dir=study.root / "cache", device="cpu", units=(0, DEAD), top=2, resamples=0
    )
    result = units(options)
    assert [path.name for path in result.plots] == [
        f"unit_{unit}.act.{detector}.png"
        for detector in sorted(("clip-dissect", *BOTH))
        for unit in (0, DEAD)
    ]
    assert all(path.stat().st_size > 4_000 for path in result.plots)
    opened = OpenRun(out, options, SILENT)
    for history in opened.histories:
        shown, dead = looks_of(opened, history, 0, [0, DEAD], 2)
        assert dead.concepts == ()
        assert not dead.images
        if history.detector == "network-dissection":
            assert shown.concepts[0] == OBJECTS[0]
        # The patch takes 15 pixels of a mask, in both of its images. For clip-dissect a unit that fires on
        # two images is sparse: it has no concept and no pictures.
        known = [15, 15] if history.detector in BOTH else []
        assert [None if mask is None else int(mask.sum()) for mask in shown.masks] == known
    best = units(dataclasses.replace(options, units=(), detector="network-dissection"))
    assert [path.name for path in best.plots] == ["top_units.act.network-dissection.png"]


def test_masks_need_no_encoder(study: Planted, cmon) -> None:
    """The default one, CLIP ViT-B/16, is not on this machine: it must not even be looked for."""
    out = study.root / "blind"
    options = study.options(*BOTH, out="blind", encoder=None)
    assert dissect(options).done
    assert RunFolder(out).info()["encoder"] is None
    for detector in BOTH:
        name = f"tables/epoch_0000/act.{detector}.csv"
        assert (out / name).read_bytes() == (study.root / "out" / name).read_bytes()
    rows = TABLES["agreement"].read_csv(out / "tables/agreement.csv")
    assert rows["same"].notna().all()
    assert rows["cosine"].isna().all()
    answer = cmon("stats", "--out", out, "--json")
    assert answer.code == 0, answer.err
    answer = cmon("embed", "--out", out, "--anchors", "sky")
    assert answer.code == 2
    assert "no encoder" in answer.err
    assert "--encoder" in answer.err
    # A detector that needs one may join, and the others may be dissected again without naming it.
    named = study.options("clip-dissect", out="blind")
    dissect(named)
    encoder = RunFolder(out).info()["encoder"]
    assert encoder["spec"].startswith("embeddings:")
    dissect(options)
    assert RunFolder(out).info()["encoder"] == encoder
    assert RunFolder(out).info()["settings"]["encoder"] == encoder["digest"]


def test_a_builtin_encoder_that_does_not_know_the_words_is_said(study: Planted) -> None:
    class Listening(Silent):
        said: ClassVar[list[str]] = []

        def warning(self, message: str) -> None:
            self.said.append(message)

    dissect(study.options("clip-dissect", out="strange", encoder="builtin"), Listening())
    assert any("does not know" in message for message in Listening.said)


def test_renaming_and_reordering_files_changes_no_byte_of_a_table(study: Planted, tmp_path: Path) -> None:
    """The same photos and masks under other names, in another order; one photo is there twice."""
    folders = {name: tmp_path / name for name in ("given", "renamed")}
    with (study.root / "broden" / "index.csv").open(newline="") as file:
        header, *rows = list(csv.reader(file))
    rows.append(rows[3])
    order = np.random.default_rng(0).permutation(len(rows))
    for name, folder in folders.items():
        shutil.copytree(study.root / "broden", folder)
        copied = folder / "images" / "again.png"
        shutil.copy(folder / "images" / rows[3][0], copied)
        listed = [list(row) for row in rows]
        listed[-1][0] = copied.name
        if name == "renamed":
            for number, row in enumerate(listed):
                new = f"{order[number]:03d}z.png"
                (folder / "images" / row[0]).rename(folder / "images" / new)
                row[0] = new
            listed = [listed[k] for k in np.argsort(order)]
        with (folder / "index.csv").open("w", newline="") as file:
            csv.writer(file).writerows([header, *listed])
        options = study.options(*BOTH, out=f"files-{name}", probe=str(folder), length=2, beam=4)
        dissect(dataclasses.replace(options, cache_dir=tmp_path / f"cache-{name}"))
    given, renamed = (study.root / f"files-{name}" / "tables" for name in folders)
    tables = sorted(given.rglob("*.csv"))
    assert len(tables) >= 4
    for path in tables:
        assert path.read_bytes() == (renamed / path.relative_to(given)).read_bytes(), path.name
