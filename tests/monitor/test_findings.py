"""Sentences about runs: planted ones give the planted sentences, noise gives none, and all are true."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from late import Late

sys.path.insert(0, str(Path(__file__).parent))

from planted_runs import INFO, UNITS, WORDS, Plant, noise, run_of, save, with_sure
from truth import RunFiles, untrue

from concept_monitor_cli.monitor.findings import Finding, RunTables, cautions, choose, findings, statements
from concept_monitor_cli.monitor.findings.base import CAUTIONS, LEVEL, MOST, MOST_CAUTIONS

scipy_stats = Late("scipy.stats")

QUIET = ("nothing",)


def said(tables: RunTables) -> list[str]:
    return [each.kind for each in findings(tables)]


# -- noise --------------------------------------------------------------------------------------


def test_noise_yields_nothing_beyond_chance_and_no_other_sentence() -> None:
    runs = 20
    loud = [
        seed
        for seed in range(runs)
        if said(run_of(noise(seed), noise(1000 + seed, layer="layer3"))) != ["nothing"]
    ]
    # One run in a hundred may say something.
    assert len(loud) <= 2, loud


def test_what_nothing_says(tmp_path: Path) -> None:
    tables = run_of(noise(3))
    (only,) = findings(tables)
    tried = statements(tables)
    assert (
        only.sentence
        == f"nothing beyond chance: of {len(tried)} statements about 1 layer none is more than luck gives"
    )
    assert untrue(RunFiles(save(tables, tmp_path / "run")), only.sentence) is None
    assert not only.is_caution
    assert min(each.p_value for each in tried) > LEVEL / len(tried)


def test_a_run_without_statistics_of_luck_says_nothing() -> None:
    """As a detector without p-values, at one epoch."""
    plant = noise(0, epochs=(0,))
    tables = run_of(replace(plant, p=np.full(plant.p.shape, np.nan)), epochs=(0,), lives=False)
    assert said(tables.__class__(**{**tables.__dict__, "untrained": None})) == ["nothing"]


# -- each rule, at its edge ---------------------------------------------------------------------


def named(count: int) -> RunTables:
    """So many of 200 units beat what luck reaches in a twentieth; nothing is to be said of epochs."""
    return run_of(with_sure(noise(0, epochs=(0,)), [count]), epochs=(0,), lives=False)


def growth(count: int) -> RunTables:
    return run_of(with_sure(noise(0), [3, 3, 3 + count], low_p=False), lives=False)


def fall(count: int) -> RunTables:
    """The best epoch is neither the first nor the last, and the first is as the last."""
    return run_of(with_sure(noise(0), [3, 3 + count, 3], low_p=False), lives=False)


def category(count: int) -> RunTables:
    """As many lose a colour as gain an object: the number of interpretable units stays."""
    plant = with_sure(noise(0), [60, 60, 60], low_p=False)
    labels = np.where(plant.labels >= 0, 0, 0)
    labels[1:, :count] = 20  # an object
    return run_of(replace(plant, labels=labels), lives=False)


def held_out(gain: int) -> RunTables:
    """In thousandths of AUC."""
    value = 0.5 + gain / 1000
    plant = with_sure(noise(0), [3] * 3, low_p=False)
    return run_of(
        plant.with_(held_out=[value] * 3, held_out_error=[0.012] * 3, held_out_word=["weakly"] * 3),
        lives=False,
    )


def changes(count: int) -> RunTables:
    plant = with_sure(noise(0), [3] * 3, low_p=False)
    confident = np.zeros(plant.sure.shape, dtype=bool)
    confident[1, :count] = True
    return run_of(replace(plant, confident=confident, drift=None, own=None))


def settling(shift: int) -> RunTables:
    """Self-similarity rises by thousandths."""
    plant = with_sure(noise(0), [3] * 3, low_p=False)
    rng = np.random.default_rng(5)
    early = rng.normal(0.4, 0.1, UNITS)
    late = early + shift / 1000 + rng.normal(0, 0.1, UNITS)
    return run_of(replace(plant, own=np.stack([early, late]), drift=None, confident=None))


def drift(shift: int) -> RunTables:
    """Thousandths further than luck."""
    plant = with_sure(noise(0), [3] * 3, low_p=False)
    moved = np.random.default_rng(5).normal(0, 0.1, UNITS)
    moved = moved - moved.mean() + 0.3 + shift / 1000
    return run_of(replace(plant, drift=moved, drift_floors=(0.7, 0.3), own=None, confident=None))


def agreement(count: int) -> RunTables:
    plant = with_sure(noise(0, epochs=(0,)), [3], low_p=False)
    rng = np.random.default_rng(1)
    other = replace(plant, detector="network-dissection", labels=rng.integers(len(WORDS), size=(1, UNITS)))
    other.labels[0] = np.where(
        other.labels[0] == plant.labels[0], (other.labels[0] + 1) % len(WORDS), other.labels[0]
    )
    other.labels[0, :count] = plant.labels[0, :count]
    tables = run_of(plant, other, epochs=(0,), lives=False)
    rows = pd.DataFrame(
        {
            "epoch": [0],
            "checkpoint": ["e0.pth"],
            "layer": ["layer4"],
            "detector_a": ["clip-dissect"],
            "detector_b": ["network-dissection"],
            "units": [UNITS],
            "same": [count / UNITS],
            "cosine": [float("nan")],
        }
    )
    return replace(tables, agreement=rows)


def together(count: int) -> RunTables:
    """So many units have small p-values, and none is called interpretable."""
    plant = with_sure(noise(0, epochs=(0,)), [count])
    return run_of(replace(plant, sure=np.zeros_like(plant.sure)), epochs=(0,), lives=False)


RULES: dict[str, tuple[Callable[[int], RunTables], str]] = {
    "named": (named, "named"),
    "together": (together, "together"),
    "growth": (growth, "growth"),
    "fall": (fall, "fall"),
    "category": (category, "category"),
    "held-out": (held_out, "held-out"),
    "changes": (changes, "changes"),
    "settling": (settling, "settling"),
    "drift": (drift, "drift"),
    "agreement": (agreement, "agreement"),
}


@cache
def planted(rule: str, size: int) -> RunTables:
    return RULES[rule][0](size)


@cache
def edge(rule: str) -> int:
    """The smallest plant that is said, by halving."""
    kind = RULES[rule][1]
    low, high = 0, 150
    assert kind in said(planted(rule, high))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if kind in said(planted(rule, middle)) else (middle, high)
    return high


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_has_a_run_that_triggers_it_and_one_just_below(rule: str, tmp_path: Path) -> None:
    kind = RULES[rule][1]
    least = edge(rule)
    above, below = planted(rule, least), planted(rule, least - 1)
    found = findings(above)
    assert kind in [each.kind for each in found]
    assert kind not in said(below)
    p = {each.kind: each.p_value for each in statements(above) if each.kind == kind}
    assert p[kind] <= LEVEL
    files = RunFiles(save(above, tmp_path / "run"))
    assert [why for each in found if (why := untrue(files, each.sentence))] == []


def test_no_unit_by_itself_is_not_said_to_be_many() -> None:
    (only,) = [each for each in findings(planted("together", 60)) if each.kind == "together"]
    assert only.sentence.startswith(
        "layer4: no single unit names a concept beyond chance at epoch 0, but 60 of"
    )
    assert (only.value, only.chance) == (60, pytest.approx(0.05 * UNITS))


def test_the_edge_of_named_is_where_the_binomial_says() -> None:
    least = edge("named")
    tables = planted("named", least)
    tried = len(statements(tables))
    tail = [float(scipy_stats.binom.sf(count - 1, UNITS, 0.05)) for count in range(UNITS)]
    assert tail[least] <= LEVEL / tried < tail[least - 1]


def test_the_edge_of_changes_is_where_the_binomial_says() -> None:
    least = edge("changes")
    tried = len(statements(planted("changes", least)))
    tail = [float(scipy_stats.binom.sf(count - 1, 2 * UNITS, 0.031)) for count in range(UNITS)]
    assert tail[least] <= LEVEL / tried < tail[least - 1]


def test_units_that_do_alike_are_no_more_evidence() -> None:
    least = edge("named")

    def alike(share: float) -> list[str]:
        plant = with_sure(noise(0, epochs=(0,)), [least], low_p=True)
        return said(
            run_of(plant.with_(effective_units=[share * 100], effective_units_chance=[100.0]), epochs=(0,))
        )

    assert "named" in alike(1.0)
    assert "named" not in alike(0.5)


def test_nothing_beyond_chance_says_why_units_are_named_all_the_same(tmp_path: Path) -> None:
    count = edge("named") - 1
    tables = planted("named", count)
    first = next(each for each in findings(tables) if each.kind == "nothing")
    assert first.sentence.endswith(
        f"none is more than luck gives; {count} units of layer4 name a concept one by one, but all its units "
        "together are within luck, where those that are alike count once"
    )
    assert untrue(RunFiles(save(tables, tmp_path / "run")), first.sentence) is None


# -- cautions, at their edges -------------------------------------------------------------------


def strong(seed: int = 0) -> Plant:
    """A layer of which much is to be said, and nothing to beware of."""
    plant = with_sure(noise(seed), [5, 60, 120])
    return replace(
        plant.with_(held_out=[0.7] * 3, held_out_word=["well"] * 3),
        random=5,
        drift=plant.drift + 0.2,
        drift_floors=(0.7, 0.1),
        confident=every(4),
        own=np.stack([np.full(UNITS, 0.3), np.full(UNITS, 0.9)])
        + np.random.default_rng(0).normal(0, 0.05, (2, UNITS)),
    )


def every(number: int) -> np.ndarray:
    """One in so many units changes at each epoch but the first."""
    units = np.arange(UNITS) % number == 0
    return np.stack([np.zeros(UNITS, dtype=bool), units, units])


def probe(**more: Any) -> dict[str, Any]:
    return {**INFO, "probe": {**INFO["probe"], **more}}


def crowd(count: int) -> RunTables:
    plant = strong()
    plant.labels[:] = 1 + np.arange(UNITS) % (len(WORDS) - 1)
    plant.labels[:, :count] = 0
    return run_of(plant)


def repeating(per_cent: int) -> RunTables:
    return run_of(strong().with_(redundant=[per_cent / 100] * 3))


def silenced(count: int) -> RunTables:
    plant = strong()
    plant.state[:, UNITS - count :] = "sparse"
    return run_of(plant)


def dying(count: int) -> RunTables:
    plant = strong()
    plant.state[-1, UNITS - count :] = "dead"
    return run_of(plant)


def trained(random: int) -> RunTables:
    return run_of(replace(strong(), random=random))


# Made when asked for: planting them takes seconds.
EDGES: list[tuple[str, Callable[[], RunTables], Callable[[], RunTables]]] = [
    (
        "renderings",
        lambda: run_of(strong(), info={**probe(name="builtin"), "options": {"fdr": 0.05, "probe": None}}),
        lambda: run_of(
            strong(), info={**probe(name="builtin"), "options": {"fdr": 0.05, "probe": "builtin"}}
        ),
    ),
    (
        "few-images",
        lambda: run_of(strong(), info=probe(groups=499)),
        lambda: run_of(strong(), info=probe(groups=500)),
    ),
    ("crowded", lambda: crowd(101), lambda: crowd(100)),
    ("repeating", lambda: repeating(10), lambda: repeating(9)),
    (
        "collapsing",
        lambda: run_of(strong().with_(redundant=[0.1, 0.0, 0.2])),
        lambda: run_of(strong().with_(redundant=[0.1, 0.0, 0.19])),
    ),
    (
        "clumping",
        lambda: run_of(strong().with_(effective_units=[90.0, 100.0, 85.0])),
        lambda: run_of(strong().with_(effective_units=[90.0, 100.0, 85.1])),
    ),
    ("dying", lambda: dying(10), lambda: dying(9)),
    ("silent", lambda: silenced(50), lambda: silenced(49)),
    ("untrained", lambda: trained(95), lambda: trained(85)),
    (
        "not-held-out",
        lambda: run_of(strong().with_(held_out=[0.51] * 3, held_out_word=["no better than chance"] * 3)),
        lambda: run_of(strong().with_(held_out=[0.51] * 3, held_out_word=["weakly"] * 3)),
    ),
    (
        "luck",
        lambda: run_of(replace(strong(), confident=every(25))),
        lambda: run_of(replace(strong(), confident=every(15))),
    ),
    (
        "still",
        lambda: run_of(
            replace(strong(), drift=strong().drift - strong().drift.mean() + 0.3, drift_floors=(0.7, 0.3))
        ),
        lambda: run_of(
            replace(strong(), drift=strong().drift - strong().drift.mean() + 0.35, drift_floors=(0.7, 0.3))
        ),
    ),
]


def test_every_caution_is_here() -> None:
    # `different-settings` is about two runs.
    assert {kind for kind, _, _ in EDGES} == set(CAUTIONS) - {"different-settings"}


@pytest.mark.parametrize(("kind", "above", "below"), EDGES, ids=[kind for kind, _, _ in EDGES])
def test_each_caution_has_a_run_that_triggers_it_and_one_just_below(
    kind: str, above: Callable[[], RunTables], below: Callable[[], RunTables], tmp_path: Path
) -> None:
    told, quiet = above(), below()
    assert kind in [each.kind for each in cautions(told)]
    assert kind not in [each.kind for each in cautions(quiet)]
    files = RunFiles(save(told, tmp_path / "run"))
    assert [why for each in findings(told) if (why := untrue(files, each.sentence))] == []
    assert all(math.isnan(each.standard_errors) for each in cautions(told))


def test_more_than_with_random_weights_is_not_said_to_be_no_more() -> None:
    """86 units against 18, but units so much alike that they count as six in a hundred."""
    plant = with_sure(noise(0), [0, 0, 86])
    tables = run_of(
        replace(plant.with_(effective_units=[6.0] * 3, effective_units_chance=[100.0] * 3), random=18)
    )
    (only,) = [each for each in cautions(tables) if each.kind == "untrained"]
    assert only.sentence.endswith("so few different units do not tell whether training made them name one")


def test_of_no_unit_it_is_not_said_what_made_it_name_a_concept() -> None:
    none = replace(with_sure(noise(0), [60, 60, 60]), sure=np.zeros((3, UNITS), dtype=bool))
    assert "untrained" not in [each.kind for each in cautions(run_of(replace(none, random=0)))]
    assert "untrained" in [each.kind for each in cautions(run_of(replace(none, random=30)))]


@pytest.mark.parametrize(("similarity", "suffers"), [("soft-wpmi", True), ("cos-cubed", False)])
def test_only_names_that_are_relative_to_the_layer_suffer(similarity: str, suffers: bool) -> None:
    info = {**INFO, "settings": {"detectors": {"clip-dissect": {"similarity": similarity}}}}
    tables = run_of(strong().with_(redundant=[0.1, 0.0, 0.2]), info=info)
    said = {each.kind: each.sentence for each in cautions(tables)}
    assert ("soft-wpmi and wpmi name such units wrongly" in said["collapsing"]) is suffers
    assert ("get wrong, different names" in said["repeating"]) is suffers


def test_a_sound_run_has_no_caution() -> None:
    assert cautions(run_of(strong())) == []


# -- which are said, and in which order ----------------------------------------------------------


def test_a_full_story(tmp_path: Path) -> None:
    tables = run_of(strong(), replace(strong(1), layer="layer3"), info=probe(groups=300))
    found = findings(tables)
    kinds = [each.kind for each in found]
    assert 3 <= len(found) <= MOST
    assert {"growth", "held-out", "settling"} <= set(kinds)
    assert kinds[-1] == "few-images"
    beyond = [each.standard_errors for each in found if not each.is_caution]
    assert beyond == sorted(beyond, reverse=True)
    # What `growth` says of a layer is not said again.
    assert not {each.layer for each in found if each.kind == "growth"} & {
        each.layer for each in found if each.kind == "named"
    }
    files = RunFiles(save(tables, tmp_path / "run"))
    assert [why for each in found if (why := untrue(files, each.sentence))] == []
    assert all(each.evidence for each in found)


def test_renderings_come_first() -> None:
    info = {**probe(name="builtin"), "options": {"probe": None}}
    assert said(run_of(strong(), info=info))[0] == "renderings"
    assert said(run_of(noise(0), info=info)) == ["renderings", "nothing"]


def test_noise_with_few_images_says_why_there_is_nothing() -> None:
    assert said(run_of(noise(0), info=probe(groups=60))) == ["nothing", "few-images"]


def test_no_more_than_there_is_room_for() -> None:
    tried = [
        Finding(f"s{number}", kind, 1, "a", 1.0, 0.0, "x", p_value=10.0 ** -(10 + number))
        for number, kind in enumerate(["growth"] * 9 + ["drift"] * 3)
    ]
    warned = [Finding(f"w{number}", "luck", 1, "a", 1.0, 0.0, "x") for number in range(5)]
    chosen = choose(tried, warned)
    assert len(chosen) <= MOST
    assert [each.sentence for each in chosen if each.is_caution] == [f"w{n}" for n in range(MOST_CAUTIONS)]
    assert [each.sentence for each in chosen if not each.is_caution] == ["s11", "s10", "s8", "s7"]


# -- the checker itself --------------------------------------------------------------------------


def test_the_checker_sees_a_changed_number(tmp_path: Path) -> None:
    tables = run_of(strong(), info=probe(groups=300))
    files = RunFiles(save(tables, tmp_path / "run"))
    found = 0
    for each in findings(tables):
        for number in {word.strip("(),.:%;") for word in each.sentence.split()}:
            if not number.replace(".", "").isdigit() or number == "0":
                continue
            for wrong in (f"{float(number) + 0.07:.2f}", str(int(float(number)) + 3)):
                altered = each.sentence.replace(f" {number}", f" {wrong}", 1)
                if altered == each.sentence or "unrelated: " + number in each.sentence:
                    continue
                assert untrue(files, altered), altered
                found += 1
    assert found >= 10


def test_the_checker_knows_what_it_cannot_read(tmp_path: Path) -> None:
    files = RunFiles(save(run_of(noise(0)), tmp_path / "run"))
    assert "cannot be read" in str(untrue(files, "layer4: units are fond of 12 dogs"))
