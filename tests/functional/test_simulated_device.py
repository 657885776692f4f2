"""The mathematics on a simulated device: every public function, with results as on the host."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from concept_monitor_cli.functional import _blocks
from concept_monitor_cli.functional.dissection import masks
from concept_monitor_cli.functional.similarity import pmi
from concept_monitor_cli.functional.similarity.activations import ConceptActivations
from concept_monitor_cli.functional.topk import top_images
from tests.functional import device_cases, device_cases_images, device_cases_layers
from tests.functional.device_inventory import public
from tests.functional.on_device import Case, World
from tests.simulated import DEVICE, Remote, simulated_device, uploads, waits

CASES: dict[str, Case] = {**device_cases.CASES, **device_cases_images.CASES, **device_cases_layers.CASES}
PUBLIC = public()


def called(case: str) -> list[str]:
    """The functions that a case calls: `module.function`, or several, or `module.Class: method method`."""
    owner, _, methods = case.partition(": ")
    return [f"{owner}.{method}" for method in methods.split()] or case.split()


# Why a function has no case -> which functions.
WITHOUT_CASE = {
    "made or drawn on the host from numbers alone, for whoever sends it on": (
        "set_means.random_sets",
        "factors.random_directions",
        "faithfulness.centre_map",
        "linear.three_parts",
        "pictures.Climb.cropped",
        "pictures.Climb.warps",
        "pictures.colour_matrix",
        "pictures.draw_crop",
        "pictures.draw_warp",
        "pictures.frequencies",
        "pictures.start",
        "resampling.image_counts",
        "similarity.reorder_chance.RandomSets.draw",
        "similarity.reorder_chance.RandomSets.of_units",
        "tuning.batches",
        "tuning.rendered",
    ),
    "of arrays of NumPy, pictures or counts of pixels, that a device never has": (
        "copies.best_overlap",
        "dissection.chance.ranked_labels",
        "dissection.chance.shuffled_support",
        "dissection.counts.iou",
        "dissection.counts.supported_iou",
    ),
    "of the compiled loops, which are for a processor": (
        "similarity.reorder.block_and_ranks",
        "similarity.reorder.compiled_width",
        "similarity.reorder.narrow",
    ),
    "of the table of similarities, whose rows hold functions and constants": (
        "similarity.registry.RankSimilarity.images",
        "similarity.registry.similarity_named",
    ),
}


def test_every_public_function_has_a_case_or_a_reason() -> None:
    covered = [name for case in CASES for name in called(case)]
    excepted = [name for names in WITHOUT_CASE.values() for name in names]
    assert len(covered) == len(set(covered)) > 250
    assert sorted([*covered, *excepted]) == sorted(PUBLIC)


def leaves(found: Any) -> Iterator[Any]:
    """The tensors, arrays and numbers of a result, wherever they stand."""
    if isinstance(found, Tensor | np.ndarray | float | int | str) or found is None:
        yield found
    else:
        parts = (
            found
            if isinstance(found, list | tuple)
            else vars(found)
            if not isinstance(found, dict)
            else found
        )
        for each in parts.values() if isinstance(parts, dict) else parts:
            yield from leaves(each)


def seen_while(case: Case) -> tuple[Any, set[str]]:
    """What a case gives on the host, and which public functions ran."""
    names = {each.code: name for name, each in PUBLIC.items()}
    seen: set[str] = set()

    def look(frame: Any, event: str, _: Any) -> None:
        if event == "call" and frame.f_code in names:
            seen.add(names[frame.f_code])

    world, before = World(1), sys.getprofile()
    sys.setprofile(look)
    try:
        return case.run(world), seen
    finally:
        sys.setprofile(before)


@pytest.mark.parametrize("name", CASES)
def test_the_same_as_on_the_host(name: str) -> None:
    case = CASES[name]
    found, seen = seen_while(case)
    assert set(called(name)) <= seen
    here = list(leaves(found))
    with simulated_device() as counts:
        world = World(1, DEVICE)
        counts.clear()
        there = list(leaves(case.run(world)))
        waited, sent, places = waits(counts), uploads(counts), counts.most_common(9)
        world = World(2, DEVICE)
        masks._Places.of.cache_clear()
        counts.clear()
        case.run(world)
        waited_more, sent_more = waits(counts), uploads(counts)
    assert len(here) == len(there) > 0
    for one, other in zip(here, there, strict=True):
        if isinstance(other, Tensor):
            assert isinstance(other, Remote) != case.host
            other = other.value if isinstance(other, Remote) else other
            torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6, equal_nan=True)
        elif isinstance(other, float):
            assert other == pytest.approx(one, rel=1e-5, abs=1e-6, nan_ok=True)
        else:
            np.testing.assert_array_equal(other, one)
    assert max(waited, waited_more) <= case.waits, places
    assert (waited == waited_more) != bool(case.grows), places
    assert (sent == sent_more) != bool(case.sends), places


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.host])
def test_what_gives_tensors_of_the_host_says_so(name: str) -> None:
    case = CASES[name]
    found = case.run(World(1))
    if not any(isinstance(each, Tensor) for each in leaves(found)):
        return
    kinds = [type(each) for each in (found if isinstance(found, list) else [found])]
    texts = [PUBLIC[each].says for each in called(name)] + [inspect.getdoc(kind) or "" for kind in kinds]
    assert any("on the host" in text.lower() for text in texts)


def test_compiled_loops_are_for_the_host_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """However large the work; where they do not run, the operations of torch give the same."""
    world = World(1)
    top = top_images(world.R, 6)[0]
    here = pmi.soft_wpmi_evidence(world.P, top).values
    monkeypatch.setattr(_blocks, "WORTH_COMPILING", 0)
    monkeypatch.setitem(sys.modules, "concept_monitor_cli.functional._kernels", None)
    with pytest.raises(ImportError):
        pmi.soft_wpmi_evidence(world.P, top)
    with simulated_device():
        activations = ConceptActivations.from_matrix(world.P.to(DEVICE))
        there = pmi.soft_wpmi_evidence(activations, top.to(DEVICE)).values
    assert isinstance(there, Remote)
    torch.testing.assert_close(there.value, here)
