from __future__ import annotations

import pytest
import torch

from concept_monitor_cli.checkpoints import weights_digest


def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "conv.weight": torch.randn(4, 3, 5, 5, generator=generator),
        "conv.bias": torch.randn(4, generator=generator),
        "bn.num_batches_tracked": torch.tensor(7),
        "empty": torch.zeros(0, 3),
    }


def test_order_strides_and_origin_do_not_count() -> None:
    one = weights()
    other = dict(reversed(weights().items()))
    other["conv.weight"] = other["conv.weight"].to(memory_format=torch.channels_last)
    other["conv.bias"] = torch.nn.Parameter(torch.stack([other["conv.bias"]] * 2, dim=1))[:, 0]
    assert not other["conv.bias"].is_contiguous()
    assert weights_digest(one) == weights_digest(other)
    assert len(weights_digest(one)) == 64


@pytest.mark.parametrize("change", ["value", "sign of zero", "name", "shape", "dtype", "more", "fewer"])
def test_any_other_change_counts(change: str) -> None:
    before, after = weights(), weights()
    if change == "value":
        after["conv.weight"][0, 0, 0, 0] += 1e-6
    elif change == "sign of zero":
        before["conv.bias"][0], after["conv.bias"][0] = 0.0, -0.0
    elif change == "name":
        after["conv.b"] = after.pop("conv.bias")
    elif change == "shape":
        after["conv.weight"] = after["conv.weight"].reshape(4, 3, 25)
    elif change == "dtype":
        after["conv.bias"] = after["conv.bias"].view(torch.int32)
    elif change == "more":
        after["new"] = torch.zeros(0)
    else:
        del after["empty"]
    assert weights_digest(before) != weights_digest(after)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.bool, torch.complex64])
def test_every_dtype(dtype: torch.dtype) -> None:
    one = {"w": torch.tensor([[0, 1], [1, 0]]).to(dtype)}
    other = {"w": torch.tensor([[0, 1], [1, 1]]).to(dtype)}
    assert weights_digest(one) == weights_digest(one)
    assert weights_digest(one) != weights_digest(other)


def test_some_names_only() -> None:
    before, after = weights(), weights()
    after["conv.bias"] += 1
    keys = ["conv.weight", "empty"]
    assert weights_digest(before, keys) == weights_digest(after, reversed(keys))
    assert weights_digest(before, ["conv.bias"]) != weights_digest(after, ["conv.bias"])
    assert weights_digest(before, ["conv.bias"]) != weights_digest(before, ["conv.bias", "absent"])
