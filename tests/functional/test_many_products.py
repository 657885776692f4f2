"""Evidence of more units than there are images, as in resamples: another order of the same work."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from concept_monitor_cli.functional import _blocks, similarity
from concept_monitor_cli.functional.similarity import ConceptActivations, pmi
from tests.functional.test_similarity import TOLERANCE, embeddings

Array = NDArray[np.float64]


@pytest.mark.parametrize("a", [10.0, 1000.0])
@pytest.mark.parametrize("name", ["wpmi_evidence", "soft_wpmi_evidence"])
def test_more_units_than_images_change_no_bit(name: str, a: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Product by product or image by image; an image may be at several ranks, as in a resample."""
    monkeypatch.setattr(_blocks, "WORTH_COMPILING", 0)
    images, texts = embeddings(60, 150)
    P = images @ texts.T
    top = torch.randint(0, 60, (100, 700), generator=torch.Generator().manual_seed(3))
    evidence = getattr(similarity, name)
    whole = evidence(P, top, a=a).values
    with monkeypatch.context() as patch:
        patch.setattr(ConceptActivations, "is_whole", False)  # as from embeddings: tile by tile
        by_image = evidence(P, top, a=a).values
    assert torch.equal(whole, by_image)
    expected = torch.from_numpy(_literal_evidence(name, P.double().numpy(), top.numpy(), a))
    assert (whole.double() + evidence(P, top, a=a).constant - expected).abs().max() <= TOLERANCE * a / 10


def _literal_evidence(name: str, P: Array, top: NDArray[np.int64], a: float) -> Array:
    s = np.exp(a * P - (a * P).max(1, keepdims=True))
    s /= s.sum(1, keepdims=True)
    k, units = top.shape
    E = np.zeros((units, P.shape[1]))
    for c in range(units):
        for r in range(k):
            row = s[top[r, c]]
            p = pmi.P_START - r / k * (pmi.P_START - pmi.P_END)
            E[c] += np.log((1 + p * (row - 1) if name == "soft_wpmi_evidence" else row) + pmi.MIN_PROB)
    return E


def test_what_is_compiled_ahead_is_what_is_called() -> None:
    """A process of its own: in this one other tests have compiled the loops."""
    program = """
import threading

import torch
import concept_monitor_cli.functional._blocks as _blocks
from concept_monitor_cli.functional import similarity
from concept_monitor_cli.functional.similarity import pmi

_blocks.WORTH_COMPILING = 1000
pmi.compile_products(999, torch.device("cpu"))
assert not [thread for thread in threading.enumerate() if thread.name == "cmon-compile"]
pmi.compile_products(1000, torch.device("meta"))
assert not [thread for thread in threading.enumerate() if thread.name == "cmon-compile"]
pmi.compile_products(1000, torch.device("cpu"))
for thread in threading.enumerate():
    if thread.name == "cmon-compile":
        thread.join()
from concept_monitor_cli.functional import _kernels

loops = _kernels.multiply_in, _kernels.multiply_up
ahead = [list(loop.signatures) for loop in loops]
P = torch.randn(40, 90, generator=torch.Generator().manual_seed(0))
for units in (3, 400):
    top = torch.randint(0, 40, (20, units), generator=torch.Generator().manual_seed(1))
    similarity.soft_wpmi_evidence(P, top)
print([len(each) for each in ahead], [list(loop.signatures) for loop in loops] == ahead)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "[1, 1] True\n"
