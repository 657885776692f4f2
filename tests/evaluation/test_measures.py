"""Each measure on a network whose units are known: true labels at the top, random labels at chance."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from judged_world import CLASSES, HIDDEN, WORDS, dissect_options

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.evaluation import Labels, Measure, Subject, Value, Verdict, make_measures
from concept_monitor_cli.evaluation.scoring import Scored, similarity_scores
from concept_monitor_cli.evaluation.subject import LEAST_HELD_OUT, TextSpace
from concept_monitor_cli.functional.groups import ImageGroups, halves
from concept_monitor_cli.lenses.names.clip_dissect import ClipDissect
from concept_monitor_cli.options import SIMILARITIES, EpochFilter, EvaluateOptions
from concept_monitor_cli.progress import SILENT
from concept_monitor_cli.stories.bench import Bench
from concept_monitor_cli.stories.dissect import dissect
from concept_monitor_cli.stories.evaluate import Trials

LAST = EpochFilter.parse("last")
TRUE_HIDDEN = np.array([CLASSES[unit % 6] for unit in range(HIDDEN)], dtype=object)


@pytest.fixture(scope="module")
def bench(judged: Path) -> Bench:
    return Bench(options(judged), SILENT)


def options(judged: Path, **more: object) -> EvaluateOptions:
    settings = {"out": judged / "run", "cache_dir": judged / "cache", "device": "cpu"}
    return EvaluateOptions(**{**settings, "epochs": LAST, **more})  # type: ignore[arg-type]


def subject_of(bench: Bench, layer: str, similarity: str = "wpmi") -> Subject:
    (history,) = [history for history in bench.opened.histories if history.layer == layer]
    return bench.subject(history, -1, similarity, bench.common, lambda: bench.pooled(history, -1))


def called(subject: Subject, concepts: np.ndarray) -> Subject:
    """The same units with other labels."""
    labels = replace(subject.labels, concepts=concepts.astype(object))
    return replace(subject, given=labels, common=subject.common)


def measure_of(name: str) -> Measure:
    return make_measures((name,), EvaluateOptions())[0]


def values(name: str, subject: Subject) -> dict[str, tuple[float, float, int]]:
    measure = measure_of(name)
    assert measure.unfit(subject) is None
    return {v.metric: (v.value, v.chance, v.count) for v in measure.judge(subject).values}


CASES = {
    # measure: layer, true names, metrics with the value of true labels
    "labels": ("3", np.array(CLASSES, dtype=object), {"accuracy": 1.0, "CLIP cos": 1.0}),
    "contributions": ("2", TRUE_HIDDEN, {"class accuracy": 1.0, "class agreement": 1.0}),
    "weights": ("2", TRUE_HIDDEN, {"CLIP correlation": None}),
}


@pytest.mark.parametrize("name", CASES)
def test_true_labels_are_at_the_top(bench: Bench, name: str) -> None:
    layer, truth, metrics = CASES[name]
    subject = subject_of(bench, layer)
    best = values(name, called(subject, truth))
    for metric, top in metrics.items():
        if top is not None:
            assert best[metric][0] == pytest.approx(top, abs=1e-6)
    rng = np.random.default_rng(0)
    for _ in range(10):
        other = values(name, called(subject, rng.choice(WORDS, len(truth))))
        for metric in metrics:
            assert other[metric][0] < best[metric][0]


@pytest.mark.parametrize("name", CASES)
def test_random_labels_score_at_chance(bench: Bench, name: str) -> None:
    """Chance: `1 / M`, the mean cosine with all concepts, the share of concepts nearest to a class, 0."""
    layer, truth, metrics = CASES[name]
    subject = subject_of(bench, layer)
    rng = np.random.default_rng(1)
    drawn = [values(name, called(subject, rng.choice(WORDS, len(truth)))) for _ in range(100)]
    for metric in metrics:
        found = np.array([one[metric][0] for one in drawn])
        chance = drawn[0][metric][1]
        error = found.std() / np.sqrt(len(found))
        assert 0 < error < 0.02
        assert abs(found.mean() - chance) < 4 * error


def test_ranks_of_scores_that_know_nothing(bench: Bench) -> None:
    subject = subject_of(bench, "3")
    ranks = []
    for seed in range(60):
        blind = called(subject, np.array(CLASSES))
        scores = torch.rand(6, len(WORDS), generator=torch.Generator().manual_seed(seed))
        blind.__dict__["scored"] = Scored(scores, scores)
        value, chance, count = values("labels", blind)["true rank"]
        assert (chance, count) == ((len(WORDS) + 1) / 2, 6)
        ranks.append(value)
    assert abs(np.mean(ranks) - chance) < 4 * np.std(ranks) / np.sqrt(len(ranks))


def test_a_random_permutation_p_value_is_level(bench: Bench) -> None:
    subject = subject_of(bench, "2")
    rng = np.random.default_rng(2)
    found = [
        values("weights", called(subject, rng.permutation(TRUE_HIDDEN)))["CLIP correlation permuted p"][0]
        for _ in range(60)
    ]
    assert 0.35 < np.mean(found) < 0.65
    assert values("weights", called(subject, TRUE_HIDDEN))["CLIP correlation permuted p"][0] < 0.01


def test_labels_table(bench: Bench) -> None:
    subject = subject_of(bench, "3")
    some = np.array(["bird", "cat", "word 3", "frog", "ship", "dog"], dtype=object)
    table = measure_of("labels").judge(called(subject, some)).tables["evaluation-labels"]
    assert list(table["true_name"]) == list(CLASSES)
    assert list(table["correct"]) == [True, True, False, True, True, False]
    text = bench.common.text
    expected = (text(list(some)) * text(CLASSES)).sum(1)
    np.testing.assert_allclose(table["clip_cos"], expected, atol=1e-6)
    assert np.isnan(table["mpnet_cos"]).all()
    assert list(table["true_rank"]) == [1] * 6


def test_a_sentence_space_is_a_column_of_its_own(bench: Bench) -> None:
    subject = subject_of(bench, "3")
    numbers = {word: place for place, word in enumerate(WORDS)}
    space = TextSpace(lambda words: torch.eye(len(WORDS))[[numbers[word] for word in words]])
    judged = called(subject, np.array([*CLASSES[:3], *WORDS[:3]], dtype=object))
    judged.common = replace(judged.common, sentence=space)
    found = values("labels", judged)
    assert found["mpnet cos"][:2] == pytest.approx((0.5, 1 / len(WORDS)))
    assert "mpnet correlation" in values("weights", replace(subject_of(bench, "2"), common=judged.common))


def test_units_without_a_label_are_left_out(bench: Bench) -> None:
    subject = subject_of(bench, "3")
    live = np.array([True] * 4 + [False] * 2)
    labels = replace(subject.labels, concepts=np.where(live, np.array(CLASSES), "").astype(object), live=live)
    found = values("labels", replace(subject, given=labels))
    assert found["accuracy"][::2] == (1.0, 4)
    assert found["CLIP cos"][2] == 4


def test_a_class_that_is_no_concept_has_no_accuracy(bench: Bench) -> None:
    subject = called(subject_of(bench, "3"), np.array(CLASSES))
    subject.candidates = tuple(word for word in WORDS if word not in ("bird", "ship"))
    verdict = measure_of("labels").judge(subject)
    accuracy = next(value for value in verdict.values if value.metric == "accuracy")
    assert (accuracy.count, accuracy.chance) == (4, 1 / 38)
    assert "4 of 6 classes" in verdict.notices[-1]
    assert "'bird'" in verdict.notices[-1]


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_scores_are_those_of_the_detector(bench: Bench, similarity: str) -> None:
    for layer in ("2", "3"):
        subject = subject_of(bench, layer, similarity)
        (history,) = [history for history in bench.opened.histories if history.layer == layer]
        with bench.opened.recording(history, -1) as entry:
            found = ClipDissect(similarity).find(entry, bench.opened.context, matrix=True)
        assert found.matrix is not None
        np.testing.assert_array_equal(subject.scored.scores.numpy(), found.matrix)
        assert subject.labels.concepts.tolist() == found.concepts[:, 0].tolist()


def test_labels_of_another_similarity_are_made_here(bench: Bench) -> None:
    own, other = subject_of(bench, "3", "wpmi"), subject_of(bench, "3", "cos-cubed")
    assert own.given is not None
    assert other.given is None
    assert other.labels.concepts.tolist() == list(CLASSES)
    assert np.isnan(other.labels.p_values).all()


def test_a_layer_without_prior_knowledge_has_a_prior_of_its_live_units(bench: Bench) -> None:
    common = bench.common
    pooled = subject_of(bench, "2").pooled.clone()
    pooled[:, 10:] = 0.0
    live = torch.arange(HIDDEN) < 10
    some = similarity_scores("soft-wpmi", common.context, pooled, live)
    alone = similarity_scores("soft-wpmi", common.context, pooled[:, :10], live[:10])
    torch.testing.assert_close(some.scores[:10], alone.scores)
    torch.testing.assert_close(some.order[:10], alone.order)


class Picky(Measure):
    """Judges layer 2, and would judge layer 3 if it could."""

    name = "picky"

    def judge(self, subject: Subject) -> Verdict:
        if subject.layer == "3":
            raise InputError("a word is missing")
        return Verdict((Value("fine", 1.0, 0.5, 3),))


def test_a_layer_that_could_not_be_judged_is_said(bench: Bench) -> None:
    trials = Trials([Picky()], asked=True)
    trials.judge(Picky(), subject_of(bench, "3"))
    with pytest.raises(InputError, match="a word is missing"):
        trials.finish(SILENT)
    trials.judge(Picky(), subject_of(bench, "2"))
    assert trials.finish(SILENT) == ["no picky of 3: a word is missing"]
    assert trials.tables()["evaluation"]["layer"].tolist() == ["2"]


# -- held-out images -----------------------------------------------------------------------------


def test_a_trial_judges_by_images_that_the_labels_have_not_seen(bench: Bench) -> None:
    subject = subject_of(bench, "2")
    trial = subject.trial
    first = torch.from_numpy(halves(bench.opened.context.groups, seed=bench.options.seed))
    seen, held = first.nonzero()[:, 0], (~first).nonzero()[:, 0]
    assert trial.unseen.ids == tuple(bench.opened.probe.ids[row] for row in held.tolist())
    torch.testing.assert_close(trial.unseen.pooled, subject.pooled[held])
    torch.testing.assert_close(trial.unseen.embeddings, subject.images.embeddings[held])
    assert trial.labels.concepts.tolist() == TRUE_HIDDEN.tolist()
    # Spoil the held-out half: labels of the other half do not change.
    spoilt = replace(subject, read_pooled=lambda: subject.pooled.index_fill(0, held, 9.0))
    assert torch.equal(spoilt.trial.scored.scores, trial.scored.scores)
    spoilt = replace(subject, read_pooled=lambda: subject.pooled.index_fill(0, seen[:30], 9.0))
    assert not torch.equal(spoilt.trial.scored.scores, trial.scored.scores)


def test_a_trial_holds_out_whole_groups_of_images(bench: Bench) -> None:
    """Frames of a video, say, which the user names: no digest knows that they belong together."""
    groups = ImageGroups.read(np.random.default_rng(0).permutation(240) // 5)
    context = replace(bench.common.context)
    context.__dict__.update(bench.common.context.__dict__)
    context.__dict__["groups"] = groups
    subject = subject_of(bench, "2")
    grouped = replace(subject, common=replace(bench.common, context=context))
    held = [context.probe.ids.index(name) for name in grouped.trial.unseen.ids]
    assert 110 <= len(held) <= 130
    seen = sorted(set(range(240)) - set(held))
    assert set(groups.of[held]).isdisjoint(groups.of[seen])
    context.__dict__["groups"] = ImageGroups.read(np.arange(240) // 8)  # 15 in each half
    with pytest.raises(InputError, match="15 groups of held-out images are too few"):
        _ = replace(grouped, common=replace(bench.common, context=context)).trial


def test_top_k_of_a_run_holds_for_every_similarity(judged: Path, tmp_path: Path) -> None:
    """A run by `cos` has no top images; judged by `soft-wpmi` its `--top-k` counts all the same."""
    out = tmp_path / "run"
    dissect(dissect_options(judged, similarity="cos", top_k=7, out=out, layers=("3",), epochs=LAST))
    bench = Bench(replace(options(judged), out=out), SILENT)
    assert bench.common.top_k == 7
    assert Bench(options(judged), SILENT).common.top_k is None


def test_too_few_images(bench: Bench) -> None:
    subject = subject_of(bench, "2")
    few = subject.images
    few = replace(few, pooled=few.pooled[: LEAST_HELD_OUT - 1])
    with pytest.raises(InputError, match="19 held-out images are too few"):
        _ = replace(subject, read_unseen=lambda: few).trial


def test_labels_of_masks_are_not_made_again(bench: Bench) -> None:
    plain = subject_of(bench, "2")
    subject = replace(plain, similarity="", detector="a-plug-in", read_halves=lambda: None)
    with pytest.raises(InputError, match="cannot be made again") as error:
        _ = subject.trial
    assert "--held-out" in str(error.value)


def test_best_of_level_scores_is_the_first() -> None:
    scores = torch.tensor([[1.0, 1.0], [0.0, 2.0], [3.0, 0.0]])
    labels = Labels.best_of(Scored(scores, scores), ("a", "b"), torch.tensor([True, True, False]))
    assert labels.concepts.tolist() == ["a", "b", ""]
    assert labels.named.tolist() == [True, True, False]
