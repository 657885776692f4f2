"""Every detector on a simulated device: findings as on the host, no tensors of two devices together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from concept_monitor_cli.catalogue import detectors
from concept_monitor_cli.functional.similarity import ConceptActivations
from concept_monitor_cli.lenses import Findings, make_detector
from concept_monitor_cli.options import DissectOptions
from concept_monitor_cli.study import Context
from tests.simulated import DEVICE, simulated_device, waits

from .test_every_lens import UNITS, World, few_draws, make, network  # noqa: F401 - a fixture


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make(tmp_path_factory.mktemp("world"))


def same(here: Findings, there: Findings) -> None:
    np.testing.assert_array_equal(here.concepts, there.concepts)
    np.testing.assert_array_equal(here.interpretable, there.interpretable)
    np.testing.assert_allclose(here.scores, there.scores, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(here.p_values, there.p_values, rtol=1e-6)


# The most waits for a layer, of however many units. Each scoring of it is brought to the host, and those of
# cosines are 43, with permuted images; rank reorder's chance is drawn in one go. Lenses of masks have nothing
# on the device.
SCORINGS = 43
MOST = {
    "soft-wpmi": 24,
    "wpmi": 24,
    "cos": SCORINGS + 9,
    "cos-cubed": SCORINGS + 9,
    "rank-reorder": 18,
    "describe": 5,
    "invert": 1,
    "linear": 2,
}
SIMILARITIES = ["soft-wpmi", "wpmi", "cos", "cos-cubed", "rank-reorder"]
EVERY = [("clip-dissect", name) for name in SIMILARITIES] + [
    (name, "") for name in detectors() if name != "clip-dissect"
]


@contextmanager
def moved(context: Context) -> Iterator[None]:
    """What a lens is given besides a recording lies on the device."""
    context.__dict__.pop("halves", None)  # lies on the device
    before = dict(context.__dict__)
    images, texts = context.image_embeddings.to(DEVICE), context.text_embeddings.to(DEVICE)
    context.__dict__.update(
        device=DEVICE,
        image_embeddings=images,
        text_embeddings=texts,
        activations=ConceptActivations.from_embeddings(images, texts),
    )
    try:
        yield
    finally:
        context.__dict__.clear()
        context.__dict__.update(before)


@pytest.mark.parametrize(("name", "similarity"), EVERY)
def test_a_detector_finds_the_same(world: World, name: str, similarity: str) -> None:
    more = {"similarity": similarity} if similarity else {}
    detector = make_detector(name, DissectOptions(checkpoints=("x",), detectors=(name,), **more))
    context, most = world.context, MOST.get(similarity or name, 0)
    with world.look(detector, network()) as entry:
        here = detector.find(entry, context)
        halves = detector.halves(entry, context)
        with simulated_device() as counts, moved(context):
            counts.clear()
            there = detector.find(entry, context)
            waited, places = waits(counts), counts.most_common(9)
            held_out = detector.halves(entry, context)
    same(here, there)
    assert waited <= most, places
    assert (halves is None) == (held_out is None)
    if halves is not None and held_out is not None:
        np.testing.assert_allclose(held_out.held_out, halves.held_out, rtol=1e-4, atol=1e-5)
    if most:
        with world.look(detector, network(2 * UNITS)) as entry, simulated_device() as counts, moved(context):
            counts.clear()
            detector.find(entry, context)
            assert waits(counts) <= most, counts.most_common(9)
