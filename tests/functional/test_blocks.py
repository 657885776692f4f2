"""What many functions share: columns in order."""

from __future__ import annotations

import pytest
import torch

from concept_monitor_cli.functional._blocks import sort_columns


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_columns_are_sorted_from_the_largest_and_ties_stay_in_order(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(50, 6, generator=generator, dtype=dtype)
    values[:, 1] = values[:, 1].round()
    values[:, 2] = 0.0
    values[::2, 2] = -0.0  # equal to 0
    values[::3, 3] = -torch.inf
    values[1::3, 4] = torch.inf
    values[:, 5] = torch.tensor([3.4e38, -3.4e38, 1e-45, -1e-45, 1e-30], dtype=dtype).repeat(10)
    ordered, rows = sort_columns(values)
    for column in range(values.shape[1]):
        expected = sorted(range(50), key=lambda row: (-values[row, column].item(), row))
        assert rows[:, column].tolist() == expected
        assert ordered[:, column].tolist() == values[expected, column].tolist()
