"""The simulated device itself: it refuses what a device refuses, and counts what is waited for and sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.simulated import DEVICE, MixedDevices, Remote, simulated_device, uploads, waits

HERE = torch.arange(12.0).view(4, 3)
PLACES = torch.tensor([2, 0])

# Of a tensor of the device `x`, equal to `HERE`.
REFUSED: dict[str, Callable[[Tensor], Any]] = {
    "a sum": lambda x: x + HERE,
    "a product": lambda x: x @ HERE.T,
    "the other way round": lambda x: HERE.T @ x,
    "out of it": lambda x: torch.mul(x, x, out=torch.empty(4, 3)),
    "into it": lambda x: torch.mul(HERE, HERE, out=x),
    "a choice": lambda x: torch.where(x > 3, x, HERE),
    "a choice by the host": lambda x: torch.where(HERE > 3, x, x),
    "side by side": lambda x: torch.cat([x, HERE]),
    "a number beside": lambda x: torch.stack([x[0, 0], torch.tensor(1.0)]),
    "gathered": lambda x: x.gather(0, PLACES[None]),
    "selected": lambda x: x.index_select(0, PLACES),
    "added at places": lambda x: x.index_add_(0, PLACES, x[:2]),
    "places on the device": lambda x: HERE[x[:2, 0].long()],
    "a mask on the device": lambda x: HERE[x > 3],
    "written at places on the device": lambda x: HERE.clone().index_put_((x[:2, 0].long(),), HERE[:2]),
    "values of the host": lambda x: x.index_put_((PLACES.to(DEVICE),), HERE[:2]),
    "searched in": lambda x: torch.searchsorted(x[:, 0].contiguous(), HERE[:, 0].contiguous()),
    "quantiles": lambda x: torch.quantile(x, torch.tensor([0.5, 0.75])),
    "numbers of a generator of the host": lambda x: x.uniform_(generator=torch.Generator()),
    "drawn there by a generator of the host": lambda x: torch.rand(
        3, generator=torch.Generator(), device=DEVICE
    ),
    "numpy": lambda x: x.numpy(),
    "an array": lambda x: np.asarray(x),
    "a gradient": lambda x: (x.requires_grad_() * HERE).sum().backward(),
}

WAITS: dict[str, Callable[[Tensor], Any]] = {
    "item": lambda x: x[0, 0].item(),
    "float": lambda x: float(x.sum()),
    "int": lambda x: int(x.argmax()),
    "bool": lambda x: bool((x > 3).any()),
    "if": lambda x: 1 if x.max() > 3 else 0,
    "as an index": lambda x: [1, 2, 3][x[0, 1].long()],
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "to the host": lambda x: x.to("cpu"),
    "to the host, later": lambda x: x.to("cpu", non_blocking=True),
    "copied to the host": lambda x: torch.empty(4, 3).copy_(x),
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 3),
    "read by a mask": lambda x: x[x > 3],
    "a mask beside a slice": lambda x: x[:, x[0] > 1],
    "written by a mask": lambda x: x.index_put_((x > 3,), x[0, 0].clone()),
    "masked_select": lambda x: x.masked_select(x > 3),
    "unique": lambda x: torch.unique(x),
    "unique rows": lambda x: torch.unique(x, dim=0),
    "unique_consecutive": lambda x: torch.unique_consecutive(x),
    "bincount": lambda x: torch.bincount(x.flatten().long(), minlength=12),
    "equal": lambda x: torch.equal(x, x.clone()),
    "one_hot of any number": lambda x: torch.nn.functional.one_hot(x.long()),
    "repeat_interleave": lambda x: x[0].repeat_interleave(x[0].long()),
    "an inverse": lambda x: torch.linalg.inv(x[:3] + torch.eye(3, device=DEVICE)),
    "eigenvalues": lambda x: torch.linalg.eigvalsh(x.T @ x),
}

FREE: dict[str, Callable[[Tensor], Any]] = {
    "arithmetic": lambda x: (x * 2 + 1).exp() @ x.T,
    "a number of the host": lambda x: x + torch.tensor(1.0),
    "a choice of numbers": lambda x: torch.where(x > 3, 1.0, torch.tensor(0.0)),
    "filled by a mask": lambda x: x.masked_fill(x > 3, 0.0),
    "a number written by a mask": lambda x: x.__setitem__(x > 3, 0.0),
    "looked up": lambda x: x[x[:2, 0].long().clamp(max=3)],
    "made like it": lambda x: torch.zeros_like(x) + x.new_ones(3) + torch.arange(3, device=x.device),
    "sorted": lambda x: x.sort(0).values.topk(2, dim=0).indices,
    "one_hot": lambda x: torch.nn.functional.one_hot(x.long(), 12),
    "quantile": lambda x: x.quantile(0.5, dim=0),
    "rows": lambda x: [row.sum() for row in x],
    "shapes": lambda x: (len(x), x.shape, x.numel(), x.dtype),
    "a norm of complex numbers": lambda x: torch.fft.rfft(x).conj().imag.abs(),
}

UPLOADS: dict[str, Callable[[Tensor], Any]] = {
    "to": lambda x: HERE.to(DEVICE),
    "to where another is": lambda x: HERE.to(x),
    "tensor": lambda x: torch.tensor([1.0, 2.0], device=x.device),
    "new_tensor": lambda x: x.new_tensor([1.0, 2.0]),
    "places of the host": lambda x: x[PLACES],
    "a list of places": lambda x: x[[0, 2]],
    "copied there": lambda x: x.copy_(HERE),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_device_refuses(name: str) -> None:
    with simulated_device(), pytest.raises(MixedDevices):
        REFUSED[name](HERE.to(DEVICE))


@pytest.mark.parametrize("name", [*WAITS, *FREE, *UPLOADS])
def test_what_is_waited_for_and_sent(name: str) -> None:
    call = {**WAITS, **FREE, **UPLOADS}[name]
    with simulated_device() as counts:
        there = HERE.to(DEVICE)
        counts.clear()
        call(there)
        assert (waits(counts), uploads(counts)) == (name in WAITS, name in UPLOADS), counts


def test_values_are_those_of_the_host() -> None:
    with simulated_device():
        there = HERE.to(DEVICE)
        assert isinstance(there, Remote)
        assert (there.device, there.is_cuda) == (DEVICE, True)
        same = there
        there += 1
        there[1] = 5
        there[:, 0].mul_(2)
        assert same is there
        expected = HERE + 1
        expected[1] = 5
        expected[:, 0] *= 2
        assert torch.equal(there.cpu(), expected)
        leaf = HERE.to(DEVICE).requires_grad_()
        slope = torch.autograd.grad((leaf**2).sum(), leaf)[0]
        assert torch.equal(slope.cpu(), 2 * HERE)
        spectrum = torch.fft.rfft(HERE.to(DEVICE))
        assert torch.equal((spectrum.conj() * spectrum).real.cpu(), torch.fft.rfft(HERE).abs().square())
