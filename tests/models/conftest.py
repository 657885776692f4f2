from __future__ import annotations

import pytest
import torch
from late import Late
from torch import nn

import concept_monitor_cli._torchvision  # noqa: F401  isort: skip

torchvision = Late("torchvision")


@pytest.fixture
def resnet18() -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.resnet18().eval()
