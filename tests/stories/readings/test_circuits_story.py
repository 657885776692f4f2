"""`cmon circuits`: a planted classifier whose edges can be worked out by hand."""

from __future__ import annotations

import io
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import planted_classifier
import pytest
from PIL import Image
from planted_classifier import CLASSES, SORTED, WIDE, state
from planted_training import CONCEPTS

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.options import CircuitsOptions
from concept_monitor_cli.run import TABLES
from concept_monitor_cli.stories.circuits import CircuitsResult, circuits


def asked(root: Path, **more: object) -> CircuitsOptions:
    return planted_classifier.asked(CircuitsOptions, root, **{"draws": 1000, "edges": WIDE, **more})


@pytest.fixture(scope="module")
def found(classifier: Path) -> CircuitsResult:
    return circuits(asked(classifier, plot_formats=("png",), top=2))


def table(root: Path, name: str) -> pd.DataFrame:
    return TABLES[name].read_csv(root / f"run/tables/{name}.csv")


def first_stage(root: Path) -> list[list[float]]:
    """The outputs of the first layer for every photo but the copy, in double precision."""
    weights = state(1)
    W, b = weights["first.weight"].double().numpy(), weights["first.bias"].double().numpy()
    rows = []
    for name in SORTED:
        for file in sorted((root / "photos" / name).glob("0*.png")):
            x = np.asarray(Image.open(file)).astype(float).transpose(2, 0, 1).ravel() / 255
            rows.append([max(0.0, float(W[i] @ x + b[i])) for i in range(WIDE)])
    return rows


def test_edges_are_what_a_pass_without_each_unit_says(classifier: Path, found: CircuitsResult) -> None:
    weights = state(1)
    W, b = weights["second.weight"].double().tolist(), weights["second.bias"].double().tolist()
    seen = first_stage(classifier)

    def out(row: list[float], k: int, without: int = -1) -> float:
        return max(0.0, b[k] + sum(W[k][i] * row[i] for i in range(WIDE) if i != without))

    rows = table(classifier, "circuit").set_index(["from_unit", "to_unit"])
    assert set(rows["error"]) == {0.0}
    active = [sum(row[i] for row in seen) for i in range(WIDE)]
    nonzero = 0
    for i in range(WIDE):
        for k in range(WIDE):
            effect = sum(out(row, k) - out(row, k, i) for row in seen) / len(seen)
            if effect == 0:
                assert (i, k) not in rows.index
                continue
            nonzero += 1
            # The share of images on which the later unit is on, counted by how active the earlier one is.
            gate = sum(row[i] * (out(row, k) > 0) for row in seen) / active[i]
            assert rows.loc[(i, k), "effect"] == pytest.approx(effect, rel=1e-4)
            # The copy of a photo has no part in the mean either.
            assert rows.loc[(i, k), "weight"] == pytest.approx(
                W[k][i] * gate * active[i] / len(seen), rel=1e-4
            )
    assert nonzero == len(rows) == 2 * WIDE
    assert rows["place"].max() <= 2


def test_a_concept_is_built_of_its_own_and_of_nothing_by_chance(
    classifier: Path, found: CircuitsResult
) -> None:
    concepts = table(classifier, "circuit-concepts")
    assert set(concepts["kind"]) == {"excites"}
    assert len(concepts) == CLASSES
    assert (concepts["from_concept"] == concepts["to_concept"]).all()
    assert concepts["share"].tolist() == pytest.approx([1.0] * CLASSES)
    # Two of twelve units: one permutation in 66 gives as much, too many for 36 questions at once.
    assert concepts["p_value"].between(0.005, 0.035).all()
    assert not concepts["confident"].any()
    summary = table(classifier, "circuit-layers").iloc[0]
    assert (summary["from_layer"], summary["to_layer"]) == ("stage1", "stage2")
    assert summary["concepts"] == 0
    assert summary["concepts_by_chance"] == 0
    assert summary["unions"] == 0
    assert summary["weight_correlation"] > 0.99


def test_draws_come_near_and_say_how_near(classifier: Path, found: CircuitsResult) -> None:
    exact = table(classifier, "circuit").set_index(["from_unit", "to_unit"])
    circuits(asked(classifier, draws=12))
    drawn = table(classifier, "circuit").set_index(["from_unit", "to_unit"]).loc[exact.index]
    circuits(asked(classifier))
    off = (drawn["effect"] - exact["effect"]).abs()
    assert (off <= 3 * drawn["error"]).all()
    # Not so large that it says nothing: twelve draws that agree have an error of a thirteenth.
    assert (drawn["error"] <= 0.2 * exact["effect"].abs()).all()
    assert (off <= 0.02 * exact["effect"].abs()).all()
    assert (off > 1e-5).any()


def test_what_the_command_prints_fits_a_terminal(found: CircuitsResult) -> None:
    from rich.console import Console

    from concept_monitor_cli.cli.circuits import _sentences, _table

    console = Console(width=80, record=True, file=io.StringIO())
    console.print(_table(found))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "144 images" in text
    assert "stage1   stage2" in text
    assert _sentences(found) == []
    place = {"epoch": 1, "from_layer": "stage1", "to_layer": "stage2"}
    concept = {"from_concept": "car", "to_concept": "bus", "kind": "inhibits", "share": 0.5, "chance": 0.25}
    case = {"to_unit": 3, "first_concept": "car", "second_concept": "sky", "exactly_one": 0.9, "chance": 0.2}
    planted = replace(
        found,
        concepts=[{**place, **concept, "p_value": 0.004}],
        unions=[{**place, **case, "p_value": p, "confident": p < 0.05} for p in (0.001, 0.5)],
        layers=[{**found.layers[0], "no_weight": "norm mixes channels"}],
    )
    assert _sentences(planted) == [
        "car (stage1) inhibits bus (stage2): 50% of its edges, by chance 25% (p 0.004)",
        "unit 3 of stage2 unites car and sky: 90% of its top images show exactly one, of all images 20%",
        "stage1 to stage2: the weights do not tell, norm mixes channels",
    ]
    assert {path.name for path in found.plots} == {"circuits.stage2.png"}
    assert all(path.stat().st_size > 5000 for path in found.plots)


def test_what_builds_what_is_drawn_with_the_stronger_sign(classifier: Path, found: CircuitsResult) -> None:
    from concept_monitor_cli.report.circuit_figures import _matrix, concept_edges

    rows = table(classifier, "circuit-concepts")
    both = pd.concat([rows, rows.assign(kind="inhibits", share=rows["chance"] + 0.1, confident=False)])
    both = both.assign(confident=both["confident"] | (both["to_concept"] == both["to_concept"].iloc[0]))
    sources, targets, values, sure = _matrix(both, ("stage1", "stage2"))
    assert sources == targets == sorted(CONCEPTS)
    assert (np.diag(values) > 0.5).all()
    assert sure.sum() == np.diag(sure).sum() == 1
    figure = concept_edges(both)
    assert len(figure.axes) == 2


def test_a_second_time_nothing_is_measured(
    classifier: Path, found: CircuitsResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    from concept_monitor_cli.stories import circuit_making

    def never(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(circuit_making, "measure_edges", never)
    again = asdict(circuits(asked(classifier)))
    assert {**again, "plots": []} == {**asdict(found), "plots": []}


def test_untrained_weights_build_nothing(classifier: Path, found: CircuitsResult) -> None:
    from concept_monitor_cli.options import EpochFilter

    result = circuits(asked(classifier, epochs=EpochFilter.parse("0")))
    circuits(asked(classifier))
    (row,) = result.layers
    assert row["epoch"] == 0
    assert row["concepts"] == 0
    assert row["confident"] == 0


def test_what_is_missing_is_said(classifier: Path) -> None:
    with pytest.raises(InputError, match="only one is looked at"):
        circuits(asked(classifier, layers=("stage2",)))
    with pytest.raises(InputError, match="no unit 99"):
        circuits(asked(classifier, units=(99,)))
