"""The panels of dynamics, factors and circuits: what their JSON says of tables worked out by hand."""

from __future__ import annotations

import base64

import numpy as np
import pandas as pd

from concept_monitor_cli.monitor.history import History, Label
from concept_monitor_cli.monitor.uses import Uses
from concept_monitor_cli.report.page.structure import (
    Structure,
    circuits_json,
    dynamics_json,
    factors_json,
    uses_json,
)


def numbers(packed: dict[str, object]) -> np.ndarray:
    steps = np.frombuffer(base64.b64decode(str(packed["data"])), dtype="<u2").astype(float)
    low, high = float(str(packed["low"])), float(str(packed["high"]))
    return np.where(steps == 65535, np.nan, low + steps * (high - low) / 65534)


def cka(
    layer: str, values: dict[tuple[int, int], float], run: str = "mine", other: str = "mine"
) -> list[dict]:
    return [
        {
            "epoch": a,
            "other_epoch": b,
            "layer": layer,
            "other_layer": layer,
            "run": run,
            "other_run": other,
            "measure": "cka",
            "value": value,
            "chance": 0.0,
        }
        for (a, b), value in values.items()
    ]


def test_the_matrix_of_a_layer_is_symmetric_and_of_its_own_run() -> None:
    rows = cka("a", {(0, 0): 1.0, (0, 5): 0.25, (5, 5): 1.0}) + cka("a", {(0, 5): 0.9}, other="theirs")
    rows += cka("b", {(5, 5): 1.0})
    found = dynamics_json(Structure(pd.DataFrame(rows), name="mine", words=("settled",)), ["a", "a"])
    assert found is not None
    (layer,) = found["layers"]
    assert (layer["layer"], layer["epochs"], found["words"]) == ("a", [0, 5], ["settled"])
    assert np.allclose(numbers(layer["cka"]), [1, 0.25, 0.25, 1], atol=1e-4)
    assert dynamics_json(Structure(pd.DataFrame(rows), name="nobody"), ["a"]) is None
    assert dynamics_json(Structure(), ["a"]) is None


def test_a_card_has_the_classes_images_and_deepest_concept_of_its_factor() -> None:
    factors = pd.DataFrame(
        [
            {
                "epoch": epoch,
                "layer": layer,
                "factor": k,
                "share": 0.1 * epoch + 0.2 * k,
                "purity": 0.5 if k == 0 else np.nan,
                "chance_purity": 0.1,
                "stability": np.nan,
                "concept": {"one": "dog", "two": "cat"}.get(layer, "") if k == 1 else "",
            }
            for epoch in (1, 3)
            for layer in ("one", "two", "pixels:red")
            for k in (0, 1)
        ]
    )
    classes = pd.DataFrame(
        [
            {"epoch": 3, "factor": 0, "kind": "class", "place": 1, "name": "truck"},
            {"epoch": 3, "factor": 0, "kind": "class", "place": 0, "name": "car"},
            {"epoch": 3, "factor": 0, "kind": "superclass", "place": 0, "name": "vehicles"},
        ]
    )
    images = pd.DataFrame(
        [
            {"epoch": 3, "factor": k, "place": place, "image": f"{k}/{place}"}
            for k in (1, 0)
            for place in range(8)
        ]
    )
    structure = Structure(None, factors, classes, images)
    assert structure.images_of_panels() == [f"{k}/{place}" for k in (0, 1) for place in range(6)]
    found = factors_json(structure, {"0/0": 7, "1/1": 2})
    assert found is not None
    assert (found["layers"], found["epochs"], found["members"]) == (["one", "two"], [1, 3], 2)
    first, second = found["cards"]
    assert (first["classes"], first["superclasses"], first["images"]) == (["car", "truck"], ["vehicles"], [7])
    assert (first["purity"], first["stability"], second["purity"]) == (0.5, None, None)
    assert (first["concept"], second["concept"], second["images"]) == ("", "cat", [2])
    assert np.allclose(numbers(found["share"]["two"]), [0.1, 0.3, 0.3, 0.5], atol=1e-4)
    assert factors_json(Structure(), {}) is None


def test_what_units_do_stands_by_layer_and_unit() -> None:
    rows = pd.DataFrame(
        [
            {
                "from_epoch": 1,
                "to_epoch": 2,
                "layer": "a",
                "unit": 7,
                "class": "dog",
                "effect": 1.0,
                "elsewhere": 0.2,
                "significant": True,
                "from_concept": "fur",
                "to_concept": "ear",
                "confident": 1,
            }
        ]
    )
    labels = np.array([[0]])
    histories = [
        History(
            layer=layer,
            detector="d",
            epochs=np.array([2]),
            checkpoints=("c",),
            units=np.array([7]),
            names=(Label("ear", "part"),),
            labels=labels,
            scores=np.ones((1, 1)),
            interpretable=labels == 0,
        )
        for layer in ("b", "a")
    ]
    found = uses_json(Uses(evolutions=rows), histories)
    assert found is not None
    assert found["words"][0].startswith("unit 7 of a went from fur to ear between 1 and 2 and brought dog")
    other, own = found["units"]
    assert other == {}
    assert own["7"][0].startswith("Between 1 and 2 its change brought dog images +1")
    assert uses_json(Uses(), histories) is None


def test_the_circuit_of_a_unit_has_its_strongest_edges_of_the_last_epoch() -> None:
    def edge(
        epoch: int, first: int, second: int, effect: float, layers: tuple[str, str] = ("a", "b")
    ) -> dict:
        return {
            "epoch": epoch,
            "from_layer": layers[0],
            "from_unit": first,
            "to_layer": layers[1],
            "to_unit": second,
            "effect": effect,
            "confident": effect > 5,
        }

    rows = [edge(9, unit, 0, (-1) ** unit * (unit + 1)) for unit in range(6)]
    rows += [edge(9, 2, 1, 0.5), edge(9, 0, 7, 2.5, ("b", "c")), edge(1, 3, 0, 99.0)]
    found = circuits_json(Structure(circuit=pd.DataFrame(rows)))
    assert found is not None
    assert (found["epoch"], sorted(found["layers"])) == (9, ["a", "b", "c"])
    a, b, c = (found["layers"].index(name) for name in "abc")
    assert found["feeds"][str(b)]["0"] == [[a, 5, -6.0, 0], [a, 4, 5.0, 0], [a, 3, -4.0, 0], [a, 2, 3.0, 0]]
    assert found["fed"][str(a)]["2"] == [[b, 0, 3.0, 0], [b, 1, 0.5, 0]]
    assert found["fed"][str(b)]["0"] == [[c, 7, 2.5, 0]]
    assert circuits_json(Structure()) is None
