"""The beam search against the literal one on the built-in pictures: same formulas, and how much faster."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from concept_monitor_cli.functional import compositional as comp
from concept_monitor_cli.functional import dissection as nd
from concept_monitor_cli.models.cifar import create_model
from concept_monitor_cli.probe import load_probe
from tests.functional import twins_dissection as twins

PICTURES, UNITS = 60, 10
FASTER = 50


@pytest.mark.slow
def test_the_same_formulas_as_brute_force_and_fifty_times_faster(tmp_path: Path) -> None:
    probe = load_probe("builtin", limit=PICTURES, cache_dir=tmp_path)
    assert probe.annotations is not None
    size, names = probe.annotations.mask_size, probe.annotations.labels
    pictures = np.stack([np.asarray(probe.image(i)) for i in range(PICTURES)])
    torch.manual_seed(0)
    network = create_model("cifar_resnet20", num_classes=10).eval()
    seen: list[torch.Tensor] = []
    network.layer3.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        network(torch.from_numpy(pictures).permute(0, 3, 1, 2) / 127.5 - 1)
    (maps,) = seen
    maps = maps[:, maps.flatten(2).std((0, 2)) > 0][:, :UNITS]
    assert maps.shape[1] == UNITS
    masks = nd.unit_masks(maps, nd.activation_threshold(maps), size)
    labels = [probe.annotations.image(i) for i in range(PICTURES)]
    kinds = {category: number for number, category in enumerate(probe.annotations.categories)}
    categories = [kinds[name.category] for name in names]

    start = time.process_time()
    counter = comp.CellCounter(UNITS, len(names))
    counter.update(labels, masks)
    counts = nd.iou_counts(labels, masks, categories)
    counted = time.process_time()
    found = comp.compositional(counter.cells(), counts, length=3, beam=10, search="beam")
    searched = time.process_time()

    planes = twins.planes(
        [twins.Labels(tuple(each.maps), tuple(each.scalars)) for each in labels], len(names), size
    )
    dense = masks.dense()
    slow = time.process_time()
    literal = [
        twins.beam_search(
            planes, dense[:, unit].reshape(-1), lambda _, unit=unit: int(counts.area[unit]), length=3, beam=10
        )
        for unit in range(UNITS)
    ]
    brute = time.process_time() - slow
    for mine, theirs in zip(found, literal, strict=True):
        assert [each.formula for each in mine] == [each.formula for each in theirs]
        assert [each.iou for each in mine] == pytest.approx([each.iou for each in theirs], abs=1e-6)
    ratio = brute / (searched - start)
    print(
        f"\n{UNITS} units, {PICTURES} pictures: {brute:.1f} s literal, {searched - start:.2f} s here "
        f"({counted - start:.2f} s of it counting): {ratio:.0f} times; the search alone "
        f"{brute / (searched - counted):.0f} times"
    )
    assert ratio >= FASTER
