"""A dead unit ties to the first images; where these are of one class, it must not pass for its detector."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from concept_monitor_cli.concepts import ConceptSet
from concept_monitor_cli.functional.groups import ImageGroups
from concept_monitor_cli.functional.similarity.activations import ConceptActivations
from concept_monitor_cli.lenses.names.clip_dissect import ClipDissect
from concept_monitor_cli.store import Store
from concept_monitor_cli.study import Context

_CLASSES, _EACH, _UNITS = 10, 100, 64


class _Given(Context):
    """Embeddings of our own making in place of an encoder's."""

    @property
    def activations(self) -> ConceptActivations:  # type: ignore[override]
        generator = torch.Generator().manual_seed(0)
        texts = torch.eye(_CLASSES)
        images = texts.repeat_interleave(_EACH, 0) + 0.2 * torch.rand(1000, _CLASSES, generator=generator)
        return ConceptActivations.from_embeddings(torch.nn.functional.normalize(images, dim=1), texts)

    @property
    def groups(self) -> ImageGroups:  # type: ignore[override]
        return ImageGroups.read(range(_CLASSES * _EACH))

    @property
    def digests(self) -> dict[str, str]:
        return {"images": "given"}


def test_a_dead_unit_does_not_silence_a_live_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pooled = rng.random((_CLASSES * _EACH, _UNITS)).astype(np.float32)
    pooled[:_EACH, 0] += 5  # detects the first class
    pooled[:, 1] = 0  # dead: its top images are the first hundred, all of the first class
    top = np.argsort(-pooled, axis=0, kind="stable")[:100].T
    store = Store(tmp_path)
    arrays = {"pooled": pooled, "top_images": top, "live": np.ptp(pooled, axis=0) > 0}
    names = tuple(f"class {i}" for i in range(_CLASSES))
    context = _Given(
        store=store,
        probe=range(_CLASSES * _EACH),  # type: ignore[arg-type]
        pixels=None,
        concepts=ConceptSet("classes", names, ("",) * _CLASSES),
        encoder=None,  # type: ignore[arg-type]
    )
    for similarity in ("soft-wpmi", "wpmi"):
        with store.put(store.key("activations", case=similarity), arrays) as entry:
            findings = ClipDissect(similarity).find(entry, context)
        assert findings.concepts[0, 0] == "class 0"
        assert findings.interpretable[0]
        assert not findings.live[1]
        assert not findings.interpretable[1]
