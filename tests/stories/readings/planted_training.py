"""A training whose units have known histories.

Every image shows one of six things: a bright patch at a place of its own, among noise. The network is one
linear layer, so a unit's weights say what it detects.
"""

from __future__ import annotations

import torch
from torch import Tensor

CONCEPTS = ("red", "striped", "wood", "wheel", "car", "street")
CATEGORIES = ("color", "texture", "material", "part", "object", "scene")
IMAGES_EACH = 50
UNITS = 18
EPOCHS = 6
SIDE = 12
# What unit 0 .. 3 are; the others detect concept `unit % 6` throughout.
SWITCHES, STAYS, NOISE, DEAD = 0, 1, 2, 3

FACTORY = """
import torch

def network(num_classes=2):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * {side} * {side}, {units}))
"""


def patch(concept: int) -> Tensor:
    """Weights that respond to a concept's patch."""
    mask = torch.zeros(3, SIDE, SIDE)
    row, column = divmod(concept, 3)
    mask[:, row * 6 + 1 : row * 6 + 5, column * 4 : column * 4 + 4] = 1.0
    return mask.flatten() / mask.sum()


def weights(epoch: int) -> dict[str, Tensor]:
    """The checkpoint of an epoch."""
    generator = torch.Generator().manual_seed(epoch)
    trembling = 0.05 / (3 * SIDE * SIDE) ** 0.5
    rows = torch.stack([patch(unit % 6) for unit in range(UNITS)])
    rows = rows + trembling * 0.02 * torch.randn(rows.shape, generator=generator)
    rows[SWITCHES] = patch(0 if epoch < 3 else 4)
    outside = (torch.stack([patch(c) for c in range(6)]).sum(0) == 0).float()
    rows[NOISE] = outside * torch.randn(rows.shape[1], generator=generator) / outside.sum()
    rows[DEAD] = 0
    return {"1.weight": rows, "1.bias": torch.zeros(UNITS)}
