"""Simulation, cutoff, ranges, clarity, groups and sanity on a network whose units are known."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

from typing import get_args

from labelled_world import (
    PHOTOS,
    RESPONDS,
    THINGS,
    UNITS,
    WORDS,
    dissect_by_masks,
    furry,
    make_labelled_world,
    scenes,
    shown,
)

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.evaluation import GroupMeasure, Labels, Measure, Subject, Trial, make_measures
from concept_monitor_cli.evaluation.showing import presence_of
from concept_monitor_cli.evaluation.simulation import LEAST_PRESENT, QUALITIES
from concept_monitor_cli.functional.evaluation.cutoff import quality_cutoff
from concept_monitor_cli.functional.evaluation.simulation import METRICS
from concept_monitor_cli.options import EpochFilter, EvaluateOptions, Quality
from concept_monitor_cli.progress import SILENT
from concept_monitor_cli.stories.bench import Bench
from concept_monitor_cli.stories.evaluate import evaluate

NAN = float("nan")
# The names of units that respond to one thing.
SINGLE = np.array([THINGS[things[0]] for things in RESPONDS if len(things) == 1], dtype=object)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_labelled_world(tmp_path_factory.mktemp("labelled"))


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GroupMeasure, "draws", 1000)


def options(world: Path, **more: object) -> EvaluateOptions:
    settings = {"out": world / "run", "cache_dir": world / "cache", "device": "cpu"}
    return EvaluateOptions(**{**settings, "epochs": EpochFilter.parse("last"), **more})  # type: ignore[arg-type]


@pytest.fixture
def subject(world: Path) -> Subject:
    bench = Bench(options(world), SILENT)
    (history,) = bench.opened.histories
    return bench.subject(history, -1, "wpmi", bench.common, lambda: bench.pooled(history, -1))


def measure(name: str, **more: object) -> Measure:
    return make_measures((name,), EvaluateOptions(**more))[0]  # type: ignore[arg-type]


def numbers(subject: Subject, name: str, **more: object) -> dict[str, tuple[float, float, int]]:
    made = measure(name, **more)
    assert made.unfit(subject) is None
    return {v.metric: (v.value, v.chance, v.count) for v in made.judge(subject).values}


def table(subject: Subject, name: str, which: str | None = None, **more: object) -> pd.DataFrame:
    verdict = measure(name, **more).judge(subject)
    return pd.DataFrame(verdict.tables[which or f"evaluation-{name}"])


def other_units(subject: Subject, pooled: torch.Tensor) -> Subject:
    """The same study with other activations, whose labels are made anew."""
    return replace(subject, given=None, read_pooled=lambda: pooled)


# -- presence ------------------------------------------------------------------------------------------------


def test_presence_is_what_the_labels_say_where_they_know(subject: Subject) -> None:
    presence = presence_of(subject.common, subject.images, ["dog", "fur", "word 3", "", "Dog", "dog"])
    scene, fur = scenes(), furry()
    dog = np.where(scene < 0, NAN, scene == 2)
    np.testing.assert_array_equal(presence.present[:, 0], dog)
    np.testing.assert_array_equal(presence.present[:, 1], np.where(fur < 0, NAN, fur))
    np.testing.assert_array_equal(presence.present[:, 4], dog)
    np.testing.assert_array_equal(presence.present[:, 5], dog)
    assert presence.labelled.tolist() == [True, True, False, False, True, True]
    assert presence.source.tolist() == ["labels", "labels", "encoder", "encoder", "labels", "labels"]
    assert bool(presence.similarity[:, 0].isnan().all())
    assert bool(presence.present[:, 3].isnan().all())
    # The encoder's word: the share of the images where its similarity is highest.
    word = subject.common.context.embed_words(["word 3"])[0]
    seen = subject.images.embeddings @ word
    torch.testing.assert_close(presence.similarity[:, 2], seen)
    highest = seen.argsort(descending=True)[: round(0.05 * PHOTOS)]
    assert presence.present[:, 2].nonzero()[:, 0].tolist() == sorted(highest.tolist())


def test_folders_are_labels_where_there_are_no_others(subject: Subject) -> None:
    ids = tuple(f"photos/{['grey_cat', 'dog', 'ship'][row % 3]}/{row}.png" for row in range(PHOTOS))
    images = replace(subject.images, labels=None, ids=ids)
    presence = presence_of(subject.common, images, ["grey cat", "ship", "frog"])
    rows = np.arange(PHOTOS) % 3
    np.testing.assert_array_equal(presence.present[:, 0], rows == 0)
    np.testing.assert_array_equal(presence.present[:, 1], rows == 2)
    assert presence.source.tolist() == ["folders", "folders", "encoder"]
    two = replace(images, ids=tuple(f"{['ship', 'dog'][row % 2]}/{row}.png" for row in range(PHOTOS)))
    assert presence_of(subject.common, two, ["ship"]).source.tolist() == ["encoder"]


def test_labels_on_too_few_images_leave_the_word_to_the_encoder(subject: Subject) -> None:
    known = int((scenes() == 2).sum())
    assert presence_of(subject.common, subject.images, ["dog"], least=known).labelled.all()
    assert not presence_of(subject.common, subject.images, ["dog"], least=known + 1).labelled.any()


def test_labels_are_read_once(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    presence_of(subject.common, subject.images, ["dog"])
    monkeypatch.setattr(type(subject.images.labels), "__getitem__", None)
    again = presence_of(subject.common, replace(subject).images, ["fur"])
    np.testing.assert_array_equal(again.present[:, 0], np.where(furry() < 0, NAN, furry()))


# -- simulation ----------------------------------------------------------------------------------------------


def test_units_that_are_what_they_are_called(subject: Subject) -> None:
    rows = table(subject, "simulation").set_index("unit")
    assert rows["concept"].tolist()[:6] == SINGLE.tolist()
    held = subject.trial.unseen
    for unit in range(6):
        row = rows.loc[unit]
        scene = np.array([scenes()[int(name.split(".")[0])] for name in held.ids])
        assert row["presence"] == "labels"
        assert row["images"] == (scene >= 0).sum()
        assert row["present"] == (scene == unit).sum() >= LEAST_PRESENT
        known = scene >= 0
        expected = np.corrcoef(held.pooled[known, unit], scene[known] == unit)[0, 1]
        assert row["correlation"] == pytest.approx(expected, abs=1e-6)
        assert row["inverse_auc"] == row["inverse_auprc"] == row["showing"] == 1
        assert row["iou"] == pytest.approx(row["f1"] / (2 - row["f1"]))
    assert UNITS - 1 not in rows.index


def test_true_labels_beat_all_others_in_every_metric(subject: Subject) -> None:
    trial = subject.trial
    seen = {}
    for shift in range(6):
        concepts = trial.labels.concepts.copy()
        concepts[:6] = np.roll(SINGLE, shift)
        concepts[6:] = ""
        labels = replace(trial.labels, concepts=concepts)
        called = replace(subject)
        called.__dict__["trial"] = Trial(labels, None, trial.unseen)
        seen[shift] = numbers(called, "simulation")
        assert all(seen[shift][name][2] == 6 for name in QUALITIES)
    for name in QUALITIES:
        assert seen[0][name][0] > max(seen[shift][name][0] for shift in range(1, 6))
        assert seen[0][name][0] > seen[0][name][1]


def test_labels_of_random_units_score_at_chance_on_images_they_have_not_seen(subject: Subject) -> None:
    """From activations that know nothing to the numbers of the table: labels found on one half of the images
    are no better than chance on the other. Chance: r 0, AUC 0.5, AUPRC the share of active images, ..."""
    pooled = torch.randn(PHOTOS, 3000, generator=torch.Generator().manual_seed(0))
    rows = table(other_units(subject, pooled), "simulation")
    found = numbers(other_units(subject, pooled), "simulation")
    for source, ending in (("labels", ""), ("encoder", " by encoder")):
        own = rows[rows["presence"] == source]
        assert len(own) > 500
        for name in QUALITIES:
            value, chance, count = found[f"{name}{ending}"]
            assert count == len(own)
            assert value == pytest.approx(own[name].mean())
            # What the closed forms leave out is of the order 1 / n, or log n / n for precision.
            assert abs(value - chance) < 4 * own[name].std() / len(own) ** 0.5 + 0.03, (name, source)
            if name in ("correlation", "auc", "inverse_auc"):
                assert abs(value - chance) < 0.02, (name, source)


def test_what_cannot_be_simulated(subject: Subject) -> None:
    formulas = replace(subject, detector="compositional", labels_are="formulas", similarity="")
    for name in ("cutoff", "ranges"):
        error = measure(name).unfit(formulas)
        assert error is not None
        assert "formulas" in error.what
    # A detector that cannot be asked again of half of the images.
    masks = replace(subject, detector="network-dissection", similarity="", read_halves=lambda: None)
    error = measure("simulation").unfit(masks)
    assert error is not None
    assert error.hint is not None
    assert "--held-out" in error.hint


# -- cutoff --------------------------------------------------------------------------------------------------


def test_the_cutoff_parts_good_labels_from_the_others(subject: Subject) -> None:
    """Half of the units know their thing, the others nothing, and the scores say which."""
    generator = torch.Generator().manual_seed(1)
    good = torch.stack([torch.from_numpy(shown() == unit % 6).float() for unit in range(60)], 1)
    pooled = torch.rand(PHOTOS, 120, generator=generator)
    pooled[:, :60] += 2 * good
    units = other_units(subject, pooled)
    rows = table(units, "cutoff", quality=0.75)
    found = numbers(units, "cutoff", quality=0.75)
    assert rows[rows["unit"] < 60]["quality"].mean() > 0.95
    assert rows[rows["unit"] >= 60]["quality"].mean() < 0.3
    assert set(rows[rows["above"]]["unit"]) >= set(range(60))
    expected = quality_cutoff(torch.tensor(rows["score"]), torch.tensor(rows["quality"]), 0.75)
    assert found["cutoff for 0.75"] == (
        pytest.approx(expected.tau),
        pytest.approx(NAN, nan_ok=True),
        expected.units,
    )
    assert found["showing above it"][0] >= 0.75 > found["showing of all"][0]
    assert found["showing below it"][0] == pytest.approx(expected.below)
    assert int(rows["above"].sum()) == expected.units
    # Six things are about equally often on the photos, and units that know nothing show them as often.
    np.testing.assert_allclose(rows[rows["unit"] < 60]["chance"], 1 / 6, atol=0.04)
    assert found["showing of all"][1] == pytest.approx(rows["chance"].mean())
    blind = rows[rows["unit"] >= 60]
    assert blind["quality"].mean() == pytest.approx(blind["chance"].mean(), abs=0.06)


def test_a_quality_that_nothing_or_everything_has(subject: Subject) -> None:
    verdict = measure("cutoff", quality=1.1).judge(subject)
    assert "no cutoff with 10 units or more above it gives" in verdict.notices[0]
    assert not np.asarray(verdict.tables["evaluation-cutoff"]["above"]).any()
    verdict = measure("cutoff", quality=-1.0, quality_metric="correlation").judge(subject)
    assert "need no cutoff" in verdict.notices[0]
    rows = pd.DataFrame(verdict.tables["evaluation-cutoff"])
    assert rows["above"].all()
    assert rows["cutoff"].isna().all()
    assert set(rows["metric"]) == {"correlation"}


def test_quality_beside_what_is_called_interpretable(subject: Subject) -> None:
    others = replace(subject, read_unseen=lambda: subject.trial.unseen)
    found = numbers(others, "cutoff")
    called = int(subject.labels.interpretable.sum())
    assert found["showing of interpretable units"][2] == called > 0
    assert "showing above 0.16" not in found  # the constant belongs to soft-wpmi
    rows = table(others, "cutoff")
    np.testing.assert_array_equal(rows["p_value"], subject.labels.p_values[rows["unit"]])
    assert rows["interpretable"].sum() == called


def test_what_all_images_called_interpretable_is_not_judged_by_half_of_them(subject: Subject) -> None:
    """The p-values know the held-out half: they were computed with it."""
    verdict = measure("cutoff").judge(subject)
    assert not any("interpretable" in value.metric for value in verdict.values)
    rows = pd.DataFrame(verdict.tables["evaluation-cutoff"])
    assert rows["p_value"].isna().all()
    assert not rows["interpretable"].any()
    assert "--held-out PROBE" in verdict.notices[-1]
    unknown = replace(subject.labels, p_values=np.full(UNITS, NAN))
    assert "--held-out" not in str(measure("cutoff").judge(replace(subject, given=unknown)).notices)


def test_the_qualities_of_the_command_line_are_those_of_simulation() -> None:
    assert get_args(Quality) == QUALITIES == ("showing", *METRICS)


# -- ranges --------------------------------------------------------------------------------------------------


def test_ranges_show_what_units_respond_to(subject: Subject) -> None:
    rows = table(subject, "ranges")
    assert rows.groupby("share")["images"].first().tolist() == [1, 2, 12]
    for unit in range(6):
        own = rows[rows["unit"] == unit]
        assert own["showing"].dropna().eq(1).all()
        assert own["prevalence"].iloc[0] == pytest.approx((scenes() == unit).sum() / (scenes() >= 0).sum())
    pictures = table(subject, "ranges", "evaluation-range-images", units=(3, 99, UNITS - 1))
    assert set(pictures["unit"]) == {3}  # there is no unit 99, and the last one is dead
    assert pictures.groupby("share")["image"].nunique().tolist() == [1, 2, 5]
    order = subject.pooled[:, 3].argsort(descending=True, stable=True)[:12]
    top = [subject.images.ids[row] for row in order.tolist()]
    for _, own in pictures.groupby("share"):
        assert own["activation"].is_monotonic_decreasing
        assert set(own["image"]) <= set(top[: len(own) if len(own) < 5 else 12])
    named = table(subject, "ranges", "evaluation-range-images")
    assert named["unit"].nunique() == 6
    assert named["concept"].nunique() == 6


# -- clarity and groups --------------------------------------------------------------------------------------


def test_clarity_and_redundancy(subject: Subject) -> None:
    rows = table(subject, "clarity").set_index("unit")
    found = numbers(subject, "clarity")
    assert rows.index.tolist() == list(range(UNITS - 1))
    assert rows.loc[:5, "clarity"].min() > rows.loc[6:, "clarity"].max()
    assert found["clarity"] == (pytest.approx(rows["clarity"].mean()), found["clarity"][1], UNITS - 1)
    assert found["clarity"][1] < 0.3 < found["clarity"][0]
    assert found["redundancy"][0] == pytest.approx(rows["nearest_cosine"].mean())
    # Unit 6 responds to bird and cat: one of those two is what its images are most like.
    assert rows.loc[6, "nearest_unit"] in (0, 1)
    random = other_units(subject, torch.randn(PHOTOS, 400, generator=torch.Generator().manual_seed(2)))
    for value, chance, _ in numbers(random, "clarity").values():
        assert value == pytest.approx(chance, abs=0.01)


def test_units_of_several_meanings_and_what_these_are(subject: Subject) -> None:
    rows = table(subject, "groups").set_index("unit")
    assert rows["groups"].tolist() == [max(1, len(things)) for things in RESPONDS[:-1]]
    labels = table(subject, "groups", "evaluation-group-labels")
    for unit, things in enumerate(RESPONDS[:-1]):
        own = labels[labels["unit"] == unit]
        assert sorted(own["concept"]) == sorted(THINGS[thing] for thing in things)
        assert own["images"].sum() == 20
        assert own["images"].is_monotonic_decreasing
    found = numbers(subject, "groups")
    assert found["polysemantic"][0] == 4 / 10
    assert 0 <= found["polysemantic"][1] < 0.02  # one layer in twenty has a false call, one unit of ten
    assert found["groups of polysemantic units"][:2] == ((2 + 2 + 2 + 3) / 4, 2)
    pictures = table(subject, "groups", "evaluation-group-images")
    assert set(pictures["unit"]) == {6, 7, 8, 9}
    for row in pictures.itertuples():
        assert THINGS[shown()[int(row.image.split(".")[0])]] == row.concept
    (one,) = table(subject, "groups", "evaluation-group-images", units=(2, UNITS - 1))["unit"].unique()
    assert one == 2


def test_random_units_have_no_groups(subject: Subject) -> None:
    random = other_units(subject, torch.randn(PHOTOS, 300, generator=torch.Generator().manual_seed(3)))
    found, chance, _ = numbers(random, "groups")["polysemantic"]
    assert found == pytest.approx(chance, abs=0.01)


def test_too_many_top_images(subject: Subject) -> None:
    for name in ("clarity", "groups"):
        error = measure(name, top_images=PHOTOS // 2 + 1).unfit(subject)
        assert error is not None
        assert error.where == "--top-images"
    error = measure("groups", top_images=3).unfit(subject)
    assert error is not None


# -- sanity --------------------------------------------------------------------------------------------------


def test_good_measures_notice_spoilt_labels(subject: Subject) -> None:
    pooled = torch.randn(PHOTOS, 120, generator=torch.Generator().manual_seed(4))
    pooled += 1.5 * torch.stack([torch.from_numpy(shown() == unit % 6).float() for unit in range(120)], 1)
    rows = table(other_units(subject, pooled), "sanity", active_share=0.15).set_index("metric")
    assert rows.index.tolist() == list(METRICS)
    for name in ("correlation", "f1", "iou"):
        assert rows.loc[name, "passes"]
        assert rows.loc[name, "missing_score"] < rows.loc[name, "score"]
        assert rows.loc[name, "extra_score"] < rows.loc[name, "score"]
    fallen = rows["missing_fallen"]
    assert fallen["inverse_auc"] < fallen["correlation"] > fallen["activation_difference"]
    again = table(other_units(subject, pooled), "sanity", active_share=0.15).set_index("metric")
    pd.testing.assert_frame_equal(rows, again)


def test_no_labels_to_spoil(subject: Subject) -> None:
    unlabelled = replace(subject)
    unlabelled.__dict__["images"] = replace(subject.images, labels=None)
    error = measure("sanity").unfit(unlabelled)
    assert error is not None
    assert "no labels" in error.what


# -- all together --------------------------------------------------------------------------------------------


def test_tables_and_pictures_of_a_run(world: Path) -> None:
    names = ("simulation", "cutoff", "ranges", "clarity", "groups", "sanity")
    result = evaluate(options(world, measures=names))
    tables = {path.stem for path in result.tables}
    assert tables == {"evaluation", *(f"evaluation-{name}" for name in names)} | {
        "evaluation-range-images",
        "evaluation-group-labels",
        "evaluation-group-images",
    }
    plots = {path.name.split(".")[0] for path in result.plots}
    assert plots == {"score_against_quality", "wider_ranges", "image_groups", "sanity_of_measures"}
    assert {row["measure"] for row in result.rows} == set(names)
    before = {path: path.read_bytes() for path in result.tables if path.stem != "evaluation"}
    evaluate(options(world, measures=names))
    assert all(path.read_bytes() == content for path, content in before.items())
    # What another call found is not left beside a table that does not tell of it.
    again = evaluate(options(world, measures=("simulation", "groups")))
    assert set((world / "run" / "tables").glob("evaluation*.csv")) == set(again.tables)
    assert {path.name for path in again.plots} == {"image_groups.2.clip-dissect.png"}


def test_units_that_are_not_there(world: Path, subject: Subject) -> None:
    with pytest.raises(InputError, match="no unit 5000") as error:
        evaluate(options(world, measures=("ranges",), units=(2, 5000)))
    assert error.value.hint == f"units count from 0 to {UNITS - 1}"
    notices = measure("ranges", units=(3, UNITS - 1)).judge(subject).notices
    assert notices == (f"2 has no label for unit {UNITS - 1}: no images are shown",)
    notices = measure("groups", units=(3, UNITS - 1)).judge(subject).notices
    assert notices[-1] == f"2 has no 20 images that excite unit {UNITS - 1}: no images are shown"
    assert measure("ranges", units=(3,)).judge(subject).notices == ()


def test_a_run_without_an_encoder(world: Path, tmp_path: Path) -> None:
    """Masks named its units, so that the images' labels are all that is needed."""
    run = dissect_by_masks(world)
    more = tmp_path / "more"
    shutil.copytree(world / "photos", more)
    for photo in list((more / "images").iterdir()):
        pixels = np.asarray(Image.open(photo)).copy()
        pixels[0, 0] ^= 1
        Image.fromarray(pixels).save(photo)
    made = options(
        world,
        out=run,
        measures=("simulation", "cutoff", "ranges", "sanity"),
        held_out=str(more),
        model=f"{world / 'field.py'}:network",
    )
    result = evaluate(made)
    assert {row["measure"] for row in result.rows} == {"simulation", "cutoff", "ranges", "sanity"}
    rows = pd.read_csv(run / "tables" / "evaluation-simulation.csv").set_index("unit")
    # A mask covers a few places of a few photos: a unit may meet no photo whose scene somebody named.
    known = [unit for unit in range(6) if unit in rows.index]
    assert len(known) >= 4
    rows = rows.loc[known]
    assert rows["concept"].tolist() == SINGLE[known].tolist()
    assert set(rows["presence"]) == {"labels"}
    assert (rows["showing"] == 1).all()
    # Everything that fits is done; what needs embeddings says so.
    result = evaluate(replace(made, measures=(), held_out=None))
    assert {row["measure"] for row in result.rows} == {"ranges", "simulation"}
    for name in ("clarity", "groups"):
        assert any(said.startswith(f"no {name}: there is no encoder") for said in result.notices)
        with pytest.raises(InputError, match="no encoder") as error:
            evaluate(replace(made, measures=(name,)))
        assert error.value.hint == "dissect again with --encoder NAME"


def test_words_that_neither_labels_nor_an_encoder_know(subject: Subject) -> None:
    blind = replace(subject.images, embeddings=None)
    presence = presence_of(subject.common, blind, ["dog", "word 3"])
    assert presence.source.tolist() == ["labels", ""]
    assert bool(presence.present[:, 1].isnan().all())
    unseen = replace(subject.trial.unseen, embeddings=None)
    concepts = np.array(["word 3", "word 4", *["dog"] * (UNITS - 2)], dtype=object)
    called = replace(subject, given=replace(subject.labels, concepts=concepts), read_unseen=lambda: unseen)
    notices = measure("simulation").judge(called).notices
    assert any(said.startswith("2 labels") and "no encoder" in said for said in notices)


def test_the_sanity_checks_are_not_made_unasked(world: Path) -> None:
    made: Callable[..., list[Measure]] = make_measures
    assert "sanity" not in {each.name for each in made((), options(world))}


def test_too_few_held_out_images(subject: Subject) -> None:
    common = subject.common
    few = replace(common, context=replace(common.context, probe=common.context.probe.subset(range(30))))
    error = measure("simulation").unfit(replace(subject, common=few))
    assert isinstance(error, InputError)
    assert "too few" in error.what


def test_labels_have_no_part_in_images_they_are_judged_by(subject: Subject) -> None:
    """The words of the trial do not change when the held-out activations do."""
    held = set(subject.trial.unseen.ids)
    pooled = subject.pooled.clone()
    rows = [row for row, name in enumerate(subject.images.ids) if name in held]
    pooled[rows] = torch.rand(len(rows), UNITS, generator=torch.Generator().manual_seed(5))
    changed = other_units(subject, pooled).trial.labels
    live = changed.live & subject.trial.labels.live
    assert isinstance(changed, Labels)
    assert changed.concepts[live].tolist() == subject.trial.labels.concepts[live].tolist()
    assert set(changed.concepts[live]) <= set(WORDS)
