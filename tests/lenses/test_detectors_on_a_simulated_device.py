"""Every detector on a simulated device: findings as on the host, no tensors of two devices together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from concept_monitor_cli.catalogue import detectors
from concept_monitor_cli.functional.similarity import ConceptActivations
from concept_monitor_cli.lenses import Findings, make_detector
from concept_monitor_cli.options import DissectOptions
from tests.simulated import DEVICE, simulated_device

from .test_every_lens import World, make, network


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make(tmp_path_factory.mktemp("world"))


def same(here: Findings, there: Findings) -> None:
    np.testing.assert_array_equal(here.concepts, there.concepts)
    np.testing.assert_array_equal(here.interpretable, there.interpretable)
    np.testing.assert_allclose(here.scores, there.scores, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(here.p_values, there.p_values, rtol=1e-6)


SIMILARITIES = ["soft-wpmi", "wpmi", "cos", "cos-cubed", "rank-reorder"]
EVERY = [("clip-dissect", name) for name in SIMILARITIES] + [
    (name, "") for name in detectors() if name != "clip-dissect"
]


@pytest.mark.parametrize(("name", "similarity"), EVERY)
def test_a_detector_finds_the_same(world: World, tmp_path: Path, name: str, similarity: str) -> None:
    more = {"similarity": similarity} if similarity else {}
    detector = make_detector(name, DissectOptions(checkpoints=("x",), detectors=(name,), **more))
    context = world.context
    with world.look(detector, network()) as entry:
        here = detector.find(entry, context)
        halves = detector.halves(entry, context)
        context.__dict__.pop("halves", None)  # lies on the device
        before = dict(context.__dict__)
        try:
            with simulated_device():
                images, texts = context.image_embeddings.to(DEVICE), context.text_embeddings.to(DEVICE)
                context.__dict__.update(
                    device=DEVICE,
                    image_embeddings=images,
                    text_embeddings=texts,
                    activations=ConceptActivations.from_embeddings(images, texts),
                )
                there = detector.find(entry, context)
                held_out = detector.halves(entry, context)
        finally:
            context.__dict__.clear()
            context.__dict__.update(before)
    same(here, there)
    assert (halves is None) == (held_out is None)
    if halves is not None and held_out is not None:
        np.testing.assert_allclose(held_out.held_out, halves.held_out, rtol=1e-4, atol=1e-5)
