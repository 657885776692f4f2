"""Keys: what a value depends on, and nothing else."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from concept_monitor_cli.store import KINDS, keys, make_key


def test_the_digest_is_the_hash_of_canonical_json():
    text = f'{{"kind":"pixels","parts":{{"a":1,"b":["x",null]}},"version":{KINDS["pixels"]}}}'
    assert make_key("pixels", {"b": ["x", None], "a": 1}).digest == hashlib.sha256(text.encode()).hexdigest()


def test_order_of_names_does_not_matter_and_order_of_lists_does():
    assert make_key("pixels", {"a": 1, "b": 2}) == make_key("pixels", {"b": 2, "a": 1})
    assert make_key("pixels", {"a": [1, 2]}) != make_key("pixels", {"a": [2, 1]})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1}, {"a": 1.0}),
        ({"a": 1}, {"a": True}),
        ({"a": 1}, {"a": "1"}),
        ({"a": ["bc"]}, {"a": ["b", "c"]}),
        ({"a": None}, {}),
        ({"a": {"b": 1}}, {"a": {"c": 1}}),
        ({"a": "é"}, {"a": "e\u0301"}),
    ],
)
def test_different_parts_never_meet(one, other):
    assert make_key("pixels", one).digest != make_key("pixels", other).digest


def test_kind_and_code_version_enter(monkeypatch):
    before = make_key("pixels", {"a": 1})
    assert before.digest != make_key("masks", {"a": 1}).digest
    monkeypatch.setitem(KINDS, "pixels", KINDS["pixels"] + 1)
    assert before.digest != make_key("pixels", {"a": 1}).digest


@pytest.mark.parametrize("part", [Path("x"), np.float32(1), np.zeros(2), {1, 2}, b"x", {"a": {1: 2}}])
def test_parts_that_are_no_plain_values_are_refused(part):
    with pytest.raises(TypeError):
        make_key("pixels", {"a": part})


@pytest.mark.parametrize("part", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(part):
    with pytest.raises(ValueError, match="JSON"):
        make_key("pixels", {"a": part})


def test_unknown_kinds_are_refused():
    with pytest.raises(ValueError, match="pickles"):
        make_key("pickles", {})


def test_parts_are_kept_as_plain_values():
    key = make_key("pixels", {"a": (1, 2)})
    assert key.parts == {"a": [1, 2]}
    json.dumps(key.parts)


def test_of_every_kind_it_is_said_once_what_makes_it_again():
    said = [kind for kinds in keys._MADE_BY.values() for kind in kinds]
    assert sorted(said) == sorted(KINDS)
