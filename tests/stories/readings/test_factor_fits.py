"""Fits over epochs hold no more layers in memory than they need."""

from __future__ import annotations

import weakref

import torch

from concept_monitor_cli.options import FactorsOptions
from concept_monitor_cli.progress import SILENT
from concept_monitor_cli.stories.activations import RecordedLayer
from concept_monitor_cli.stories.factor_fits import Block, Blocks, Setting, over_epochs


def test_memory_is_flat_over_epochs_where_one_is_held_at_a_time() -> None:
    alive: list[weakref.ref[torch.Tensor]] = []
    most = {"shared": 0, "anchored": 0, "free": 0}

    def layer(epoch: int) -> RecordedLayer:
        def read() -> torch.Tensor:
            return torch.rand(30, 8, generator=torch.Generator().manual_seed(epoch))

        return RecordedLayer("run", "a", epoch, "x.pth", read)

    class Counting(Blocks):
        def layers(self, epoch: int) -> list[Block]:
            found = super().layers(epoch)
            alive.extend(weakref.ref(block.values) for block in found)
            most[mode] = max(most[mode], sum(each() is not None for each in alive))
            return found

    for mode in most:
        alive.clear()
        options = FactorsOptions(mode=mode, starts=0, rank=2)  # type: ignore[arg-type]
        blocks = Counting({epoch: [layer(epoch)] for epoch in range(8)}, (), options, SILENT)
        epochs = [each.epoch for each in over_epochs(blocks, Setting(options, 2), SILENT)]
        assert sorted(epochs) == list(range(8))
    assert most["shared"] == 8
    assert max(most["anchored"], most["free"]) <= 2, "the last one and the next"
