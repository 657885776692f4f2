from __future__ import annotations

import numpy as np
import pandas as pd

from concept_monitor_cli.cli.show_run import agreement_lines
from concept_monitor_cli.monitor.agreement import agreement, first_exciting, latest

ROWS = [
    # layer, unit, detector, rank, concept, state
    ("a", 0, "clip-dissect", 1, "dog", "live"),
    ("a", 0, "clip-dissect", 2, "cat", "live"),
    ("a", 0, "network-dissection", 1, "dog", "live"),
    ("a", 1, "clip-dissect", 1, "cat", "live"),
    ("a", 1, "network-dissection", 1, "dog", "live"),
    ("a", 2, "clip-dissect", 1, "", "dead"),
    ("a", 2, "network-dissection", 1, "", "dead"),
    ("a", 3, "clip-dissect", 1, "cat", "live"),
    ("a", 3, "network-dissection", 1, "", "live"),
    ("b", 0, "clip-dissect", 1, "sky", "live"),
]
VECTORS = {"dog": (1.0, 0.0), "cat": (0.6, 0.8), "sky": (0.0, 1.0)}


def table() -> pd.DataFrame:
    frame = pd.DataFrame(ROWS, columns=["layer", "unit", "detector", "rank", "concept", "state"])
    return frame.assign(epoch=5, checkpoint="e5.pth")


def test_by_hand() -> None:
    found = agreement(table(), lambda words: np.array([VECTORS[word] for word in words], dtype=np.float32))
    assert len(found) == 1  # layer b has one detector
    row = found.iloc[0]
    assert (row["detector_a"], row["detector_b"], row["layer"]) == ("clip-dissect", "network-dissection", "a")
    assert row["units"] == 2  # unit 2 is dead, unit 3 has no label
    assert row["same"] == 0.5
    assert np.isclose(row["cosine"], (1.0 + 0.6) / 2)
    # Chance deals both words of the second detector, which are the same one, to either unit.
    assert row["same_chance"] == 0.5
    assert np.isclose(row["cosine_chance"], (1.0 + 0.6) / 2)


def test_without_an_encoder_only_words_are_compared() -> None:
    row = agreement(table()).iloc[0]
    assert row["same"] == 0.5
    assert np.isnan(row["cosine"])


def _many(seed: int) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Labels of 40 units by two detectors, some alike, and vectors of the words."""
    rng = np.random.default_rng(seed)
    words = [f"w{k}" for k in range(9)]
    vectors = {
        word: each / np.linalg.norm(each) for word, each in zip(words, rng.normal(size=(9, 4)), strict=True)
    }
    a = rng.integers(0, 6, 40)
    b = np.where(rng.random(40) < 0.4, a, rng.integers(3, 9, 40))
    rows = [
        ("a", unit, name, 1, words[side[unit]], "live")
        for name, side in (("one", a), ("two", b))
        for unit in range(40)
    ]
    frame = pd.DataFrame(rows, columns=["layer", "unit", "detector", "rank", "concept", "state"])
    return frame.assign(epoch=1, checkpoint="c"), vectors


def test_chance_is_the_mean_over_all_pairs_of_units() -> None:
    frame, vectors = _many(0)
    row = agreement(frame, lambda words: np.array([vectors[w] for w in words], dtype=np.float32)).iloc[0]
    one, two = (frame[frame["detector"] == name]["concept"].tolist() for name in ("one", "two"))
    pairs = [(x, y) for x in one for y in two]
    assert np.isclose(row["same_chance"], np.mean([x == y for x, y in pairs]))
    assert np.isclose(row["cosine_chance"], np.mean([vectors[x] @ vectors[y] for x, y in pairs]), atol=1e-6)
    different = [float(vectors[x] @ vectors[y]) for x in sorted(set(one)) for y in sorted(set(two)) if x != y]
    limit = np.quantile(different, 0.95) - 1e-7
    near = [x == y or float(vectors[x] @ vectors[y]) >= limit for x, y in pairs]
    assert np.isclose(row["near_chance"], np.mean(near))
    own = [x == y or float(vectors[x] @ vectors[y]) >= limit for x, y in zip(one, two, strict=True)]
    assert np.isclose(row["near"], np.mean(own))
    assert row["near"] >= row["same"] > row["same_chance"]


def test_labels_that_have_nothing_to_do_with_each_other_agree_as_chance_says() -> None:
    frame, vectors = _many(1)
    rng = np.random.default_rng(2)
    two = frame["detector"] == "two"
    found = []
    for _ in range(200):
        dealt = frame.copy()
        dealt.loc[two, "concept"] = rng.permutation(frame.loc[two, "concept"].to_numpy())
        found.append(agreement(dealt, lambda words: np.array([vectors[w] for w in words], dtype=np.float32)))
    rows = pd.concat(found)
    for name in ("same", "near", "cosine"):
        error = rows[name].std() / 200**0.5
        assert abs(rows[name].mean() - rows[f"{name}_chance"].iloc[0]) < 3.5 * error


def test_of_a_sum_the_concept_that_excites_most_is_compared() -> None:
    assert first_exciting("0.6 dog - 0.2 grass") == "dog"
    assert first_exciting("-0.6 dog + 0.04 sky - 0.02 sea") == "sky"
    assert first_exciting("-0.6 dog") == "-0.6 dog"
    assert first_exciting("3.1 (dog OR cat)") == "dog OR cat"
    assert first_exciting("0.5 black - white cat + 0.7 sky") == "sky"
    frame = table()
    frame.loc[frame["detector"] == "network-dissection", "concept"] = "0.6 dog - 0.2 cat"
    assert agreement(frame, sums=["network-dissection"])["same"].iloc[0] == 1 / 3  # unit 3 counts now


def test_one_detector_agrees_with_nobody() -> None:
    frame = table()
    assert agreement(frame[frame["detector"] == "clip-dissect"]).empty


def test_what_is_shown_is_the_last_epoch_of_every_layer_that_can_be_compared() -> None:
    rows = pd.DataFrame(
        [
            (1, "layer10", "clip-dissect", "network-dissection", 8, 0.5, 0.7),
            (2, "layer10", "clip-dissect", "network-dissection", 8, 0.25, np.nan),
            (2, "layer10", "compositional", "network-dissection", 0, np.nan, np.nan),
            (1, "layer9", "clip-dissect", "network-dissection", 4, 1.0, 0.9),
        ],
        columns=["epoch", "layer", "detector_a", "detector_b", "units", "same", "cosine"],
    )
    assert agreement_lines(latest(rows)) == [
        "layer10, epoch 2, units with the same concept: clip-dissect and network-dissection 25% of 8",
        "layer9, epoch 1, units with the same concept: clip-dissect and network-dissection 100% of 4 "
        "(cosine 0.90)",
    ]
    assert latest(rows, ["layer9"])["epoch"].tolist() == [1]
    assert agreement_lines(latest(rows[:0])) == []
    beside = rows.assign(same_chance=0.125, cosine_chance=0.5, near=0.5, near_chance=0.06)
    assert agreement_lines(latest(beside, ["layer9"])) == [
        "layer9, epoch 1, units with the same concept: clip-dissect and network-dissection 100% of 4 "
        "(luck 12%; near 50%, luck 6%; cosine 0.90, luck 0.50)"
    ]
