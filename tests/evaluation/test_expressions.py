"""Formulas and sums, read as they are printed, and how well they predict units on images not seen."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from labelled_world import THINGS, dissect_by_masks, scenes, write_photos

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.evaluation import Labels, Subject, make_measures
from concept_monitor_cli.evaluation.expressions import Reader
from concept_monitor_cli.evaluation.showing import presence_of_labels
from concept_monitor_cli.functional.compositional import OPERATORS, Formula
from concept_monitor_cli.functional.invert import PresenceFormula
from concept_monitor_cli.lenses.names import compositional, ranges
from concept_monitor_cli.options import EpochFilter, EvaluateOptions
from concept_monitor_cli.progress import SILENT
from concept_monitor_cli.stories.bench import Bench
from concept_monitor_cli.stories.evaluate import evaluate
from concept_monitor_cli.wording import sum_text

DETECTORS = ("network-dissection", "compositional", "invert", "linear", "ranges")
# Names that look like parts of a formula or of a sum.
NAMES = (
    "dog",
    "dog house",
    "salt AND pepper",
    "bag (hand)",
    "NOT",
    "t-shirt + tie",
    "0.5 litre",
    "red [color]",
)


# -- Reading -------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from(OPERATORS), st.integers(0, 7)), max_size=4), st.integers(0, 7))
@settings(deadline=None)
def test_a_formula_is_read_as_it_was_meant(steps: list[tuple[str, int]], first: int) -> None:
    masks = np.random.default_rng(0).random((8, 64)) < 0.5
    formula = Formula.of(first)
    for operator, concept in steps:
        if concept not in formula.names:
            formula = formula.extended(operator, concept)  # type: ignore[arg-type]
    read = Reader(NAMES).formula(formula.text(NAMES))
    assert read is not None
    assert set(read.names) == {NAMES[c] for c in formula.names}
    holds = read.holds(lambda name: torch.from_numpy(masks[NAMES.index(name)].astype(np.float32)))
    np.testing.assert_array_equal(holds.numpy() == 1, formula.evaluate(lambda c: masks[c]))


@given(st.integers(0, 7), st.integers(-1, 7), st.integers(1, 3), st.booleans())
def test_formulas_of_presence_are_read_with_what_nobody_knows(
    first: int, second: int, operator: int, negated: bool
) -> None:
    present = torch.from_numpy(np.random.default_rng(1).choice([0.0, 1.0, np.nan], (40, 8)))
    if second in (-1, first):
        formula = PresenceFormula(first, negated=negated)
    else:
        formula = PresenceFormula(first, second, operator, negated)
    read = Reader(NAMES).formula(formula.text(NAMES))
    assert read is not None
    holds = read.holds(lambda name: present[:, NAMES.index(name)])
    assert torch.equal(holds.nan_to_num(-1).double(), formula.holds(present).nan_to_num(-1))


WEIGHTS = st.floats(0.01, 3).flatmap(lambda size: st.sampled_from([size, -size]))


@given(st.lists(st.tuples(WEIGHTS, st.sampled_from(NAMES)), min_size=1, max_size=6))
@example([(0.0977, "dog"), (-0.0949, "dog")])  # rounded up to a tenth, and not
def test_a_sum_is_read_as_it_was_printed(terms: list[tuple[float, str]]) -> None:
    read = Reader(NAMES).sum(sum_text(terms))
    assert read is not None
    assert [name for _, name in read] == [name for _, name in terms]
    for (weight, _), (given_weight, _) in zip(read, terms, strict=True):
        assert weight == pytest.approx(given_weight, abs=0.0501)
    assert sum_text(read) == sum_text(terms)


@given(st.lists(st.tuples(WEIGHTS, st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=4))
def test_a_sum_of_formulas_is_read_as_it_was_printed(terms: list[tuple[float, int, int]]) -> None:
    formulas = [Formula.of(a) if a == b else Formula.of(a).extended("OR", b) for _, a, b in terms]
    texts = [each.text(NAMES) if each.length == 1 else f"({each.text(NAMES)})" for each in formulas]
    printed = sum_text([(weight, text) for (weight, *_), text in zip(terms, texts, strict=True)])
    read = Reader(NAMES).sum_of_formulas(printed)
    assert read is not None
    assert [set(each.names) for _, each in read] == [{NAMES[c] for c in each.names} for each in formulas]
    assert [weight < 0 for weight, _ in read] == [weight < 0 for weight, *_ in terms]


@pytest.mark.parametrize("text", ["", "cat", "dog OR", "(dog OR NOT", "dog OR cat", "dog dog", "dog XOR NOT"])
def test_what_is_no_label_is_not_read(text: str) -> None:
    assert Reader(NAMES).formula(text) is None
    assert Reader(NAMES).sum(text) is None
    assert Reader(NAMES).sum(f"0.5 {text}") is None


# -- Judging -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def few_draws() -> Iterator[None]:
    """Chance is not what is asked here, and each draw of formulas is a search."""
    with pytest.MonkeyPatch.context() as patch:
        for lens in (compositional, ranges):
            patch.setattr(lens, "MOST_DRAWS", 3)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("labelled")
    write_photos(root / "photos")
    return dissect_by_masks(root, DETECTORS)


@pytest.fixture(scope="module")
def subjects(run: Path) -> dict[str, Subject]:
    bench = Bench(_options(run), SILENT)
    return {each.detector: each for each in bench.subjects(make_measures(("simulation",), bench.options))}


def _options(run: Path) -> EvaluateOptions:
    return EvaluateOptions(
        out=run,
        cache_dir=run.parent / "cache",
        device="cpu",
        measures=("simulation",),
        epochs=EpochFilter.parse("last"),
    )


@pytest.mark.parametrize("detector", DETECTORS)
def test_labels_of_one_half_predict_the_other(detector: str, subjects: dict[str, Subject]) -> None:
    subject = subjects[detector]
    trial = subject.trial
    assert len(trial.unseen) < len(subject.images)
    (measure,) = make_measures(("simulation",), EvaluateOptions())
    verdict = measure.judge(subject)
    found = {value.metric: value for value in verdict.values}
    named = int(trial.labels.named.sum())
    assert named >= 6  # masks cover a few places of a few photos
    assert found["correlation"].chance == 0
    # Units of several things are no single label: what a formula or a sum is for.
    assert found["correlation"].value > (0.6 if detector == "network-dissection" else 0.7)
    # The same labels, given to other units, say nothing or the contrary.
    other = np.concatenate([np.roll(trial.labels.concepts[:-1], 1), [""]])
    subject = replace(subject)
    subject.__dict__["trial"] = replace(trial, labels=replace(trial.labels, concepts=other))
    wrong = {value.metric: value.value for value in measure.judge(subject).values}
    assert wrong["correlation"] < found["correlation"].value - 0.4


def _judged(subject: Subject, texts: list[str]) -> Subject:
    """The same images, other labels."""
    units = len(subject.labels.live)
    concepts = np.array((texts * units)[:units], dtype=object)
    labels = Labels(concepts, np.ones(units), np.ones(units), np.ones(units, bool), np.ones(units, bool))
    judged = replace(subject)
    judged.__dict__["trial"] = replace(subject.trial, labels=labels)
    return judged


def test_presence_is_what_the_labels_of_the_photos_say(subjects: dict[str, Subject]) -> None:
    subject = subjects["compositional"]
    unseen = subject.trial.unseen
    rows = [subject.images.ids.index(name) for name in unseen.ids]
    scene = scenes()[rows]
    one, two, three = THINGS[:3]
    texts = [f"{one} OR {two}", f"({one} OR {two}) AND NOT {two}", f"{one} AND {two}", f"{three} AND NOT fur"]
    expected = [(scene == 0) | (scene == 1), scene == 0, scene == -2, None]
    for detector in ("compositional", "invert"):
        found = presence_of_labels(_judged(subjects[detector], texts), unseen)
        for column, holds in enumerate(expected):
            if holds is None:
                continue
            own = found.present[:, column].numpy()
            np.testing.assert_array_equal(np.isnan(own), scene < 0)  # nobody named the scene
            np.testing.assert_array_equal(own[scene >= 0] == 1, holds[scene >= 0])
            assert found.source[column] == "labels"
        # Where nobody named the texture, or the scene, nobody knows.
        both = found.present[:, 3].numpy()
        known = ~np.isnan(both)
        assert 0 < known.sum() < (scene >= 0).sum()
        assert (both[known][scene[known] != 2] == 0).all()
    unread = presence_of_labels(_judged(subjects["invert"], ["nothing that is known"]), unseen)
    assert unread.present.isnan().all()
    assert set(unread.source) == {""}


def test_a_sum_says_how_active_a_unit_is(subjects: dict[str, Subject]) -> None:
    subject = subjects["linear"]
    unseen = subject.trial.unseen
    rows = [subject.images.ids.index(name) for name in unseen.ids]
    scene = scenes()[rows]
    one, two = THINGS[:2]
    found = presence_of_labels(_judged(subject, [f"2.0 {one} - 1.0 {two}"]), unseen, share=0.1)
    columns = np.stack([np.where(scene < 0, np.nan, scene == k).astype(float) for k in (0, 1)], 1)
    z = np.nan_to_num((columns - np.nanmean(columns, 0)) / np.nanstd(columns, 0))
    np.testing.assert_allclose(found.similarity[:, 0].numpy(), z @ [2.0, -1.0], rtol=1e-5, atol=1e-5)
    assert (found.present[scene == 0, 0] == 1).all()
    assert (found.present[scene == 1, 0] == 0).all()


def test_what_a_unit_says_at_a_range_counts_by_the_share_of_the_pixels(subjects: dict[str, Subject]) -> None:
    subject = subjects["ranges"]
    unseen = subject.trial.unseen
    rows = [subject.images.ids.index(name) for name in unseen.ids]
    scene = scenes()[rows]
    one, two = THINGS[:2]
    found = presence_of_labels(_judged(subject, [f"2.0 ({one} OR {two})", f"-1.0 {one}"]), unseen, share=0.2)
    expected = np.stack([2.0 * ((scene == 0) | (scene == 1)), -1.0 * (scene == 0)], 1)
    known = scene >= 0  # of the others nobody knows
    np.testing.assert_allclose(found.similarity[known, :2].numpy(), expected[known])
    assert found.similarity[~known, :2].isnan().all()
    assert (found.present[known, 0].numpy() == (expected[known, 0] > 0)).all()


def test_evaluate_judges_all_detectors_in_one_table(run: Path) -> None:
    result = evaluate(_options(run))
    rows = [row for row in result.rows if row["metric"] == "correlation"]
    assert {row["detector"] for row in rows} == set(DETECTORS)
    assert all(row["chance"] == 0 and row["value"] > 0.5 for row in rows)


def test_another_version_of_a_detector_is_not_asked(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("concept_monitor_cli.lenses.names.linear.LEAST_GAIN", 0.5)
    bench = Bench(_options(run), SILENT)
    measures = make_measures(("simulation",), bench.options)
    (subject,) = (each for each in bench.subjects(measures) if each.detector == "linear")
    with pytest.raises(InputError, match="other settings"):
        _ = subject.trial
