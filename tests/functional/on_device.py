"""What the mathematics is tried on, here and on a simulated device: a world of tensors, and cases.

A case calls a function with tensors of a world. It is run in a small world and in one of twice as many
images, units, concepts and classes: how often the host waits must not depend on which.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from concept_monitor_cli.functional.groups import ImageGroups

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Case:
    """One call.

    Attributes:
        run: what is called, with what.
        waits: how often the host may wait for the device, whatever the sizes.
        grows: why it waits more or less often for other sizes; then `waits` is for these two worlds.
        sends: why it sends something to the device more or less often for other sizes.
        host: the results are tensors of the host: the function says so.
    """

    run: Callable[[World], Any]
    waits: int = 0
    grows: str = ""
    sends: str = ""
    host: bool = False


class World:
    """Tensors of `N` images, `C` units, `M` concepts and `K` classes on one device.

    Attributes:
        Q, R: `(N, C)` activations; those of `R` are rectified, and its unit 1 is dead.
        P: `(N, M)` activations of concepts.
        I, T: `(N, D)` and `(M, D)` embeddings.
        scores: `(C, M)`, of unit 4 no numbers.
        labels: `(N, K)` 1 or 0; some of `gaps` nobody knows.
        classes: `(N,)`.
        Z, W: `(N, K)` scores and `(K, C)` weights of a linear head.
        maps: `(B, C, 6, 6)`; `A`, `G` of one image and positive ones `(C, 6, 6)`.
        pictures: `(B, 3, 16, 16)` in [0, 1]; `picture` is the first.
        best: `(C, S)` concepts.
        p: `(C,)` p-values; `null`, `(5, C)`.
    """

    def __init__(self, scale: int, device: torch.device = CPU) -> None:
        self.device = device
        self.N, self.C, self.M, self.K, self.D, self.B = 40 * scale, 10 * scale, 24 * scale, 3 * scale, 8, 4
        self._drawn = torch.Generator().manual_seed(scale)
        N, C, M, K, D, B = self.N, self.C, self.M, self.K, self.D, self.B
        Q, scores, labels = self.randn(N, C), self.randn(C, M), (self.rand(N, K) > 0.6).float()
        R = (Q - 0.2).relu()
        R[:, 1] = 0
        scores[4] = torch.nan
        labels[:2] = torch.tensor([[0.0], [1.0]])
        gaps = labels.clone()
        gaps[3:6, 1] = torch.nan
        classes = torch.arange(N) % K
        images = F.normalize(self.randn(N, D), dim=1)
        texts = F.normalize(self.randn(M, D), dim=1)
        maps, pictures = self.randn(B, C, 6, 6), self.rand(B, 3, 16, 16)
        self.Q, self.R, self.scores, self.labels, self.gaps = map(self.put, (Q, R, scores, labels, gaps))
        self.I, self.T, self.P = self.put(images), self.put(texts), self.put(images @ texts.T)
        self.classes, self.Z, self.W = map(self.put, (classes, self.randn(N, K), self.randn(K, C)))
        self.maps, self.pictures, self.picture = map(self.put, (maps, pictures, pictures[0]))
        self.A, self.G = self.put(maps[0].relu()), self.put(self.randn(C, 6, 6))
        self.best = self.put(self.randn(C, M).argsort(1)[:, :4].contiguous())
        self.label = self.put(torch.arange(C) % M)
        self.p, self.null = self.put(self.rand(C) ** 3), self.put(self.randn(5, C))
        self.groups, self.pairs = ImageGroups.single(N), ImageGroups.read([i // 2 for i in range(N)])

    def randn(self, *shape: int) -> Tensor:
        """Normal numbers, of the host."""
        return torch.randn(*shape, generator=self._drawn)

    def rand(self, *shape: int) -> Tensor:
        """Uniform numbers, of the host."""
        return torch.rand(*shape, generator=self._drawn)

    def put(self, values: Tensor) -> Tensor:
        """To the world's device."""
        return values.to(self.device)

    def new(self, *shape: int) -> Tensor:
        """Further normal numbers on the device."""
        return self.put(self.randn(*shape))

    @property
    def numbers(self) -> torch.Generator:
        """Random numbers of the host, the same ones for the same call."""
        return torch.Generator().manual_seed(5)
