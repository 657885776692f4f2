from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from concept_monitor_cli.checkpoints import fold_masks, load_checkpoint, sparsity


def _pruned() -> nn.Sequential:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 5))
    prune.l1_unstructured(network[0], "weight", 0.5)
    prune.l1_unstructured(network[3], "weight", 0.25)
    return network


@pytest.mark.parametrize("lazy", [False, True])
def test_a_pruned_network_is_loaded_as_the_network_that_it_computes(tmp_path: Path, lazy: bool) -> None:
    network = _pruned()
    torch.save(network.state_dict(), tmp_path / "pruned.pth")
    state = load_checkpoint(tmp_path / "pruned.pth", lazy=lazy).state_dict
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 5))
    assert set(state) == set(plain.state_dict())
    if not lazy:
        torch.testing.assert_close(state["0.weight"], network[0].weight.detach())


def test_sparsity_counts_zeros_of_weights_with_and_without_masks() -> None:
    state = _pruned().state_dict()
    weights = 3 * 8 * 9 + 8 * 5
    assert sparsity(state) == pytest.approx((0.5 * 3 * 8 * 9 + 0.25 * 8 * 5) / weights)
    assert sparsity(fold_masks(state)) == sparsity(state)
    assert sparsity({"bias": torch.zeros(4)}) is None


def test_names_that_only_look_like_masks_stay() -> None:
    state = {"attn.weight_mask": torch.ones(2, 2), "a_orig": torch.ones(2), "a_mask": torch.ones(3)}
    assert list(fold_masks(state)) == list(state)
    taken = {"w": torch.ones(2), "w_orig": torch.ones(2), "w_mask": torch.ones(2)}
    assert list(fold_masks(taken)) == list(taken)
