"""A training with Lightning, monitored: which concepts do the units of a layer find, epoch by epoch?

    pip install lightning
    python docs/examples/lightning_training.py
    cmon report --out lightning-run

A small network learns to tell squares of four colours apart; its units are asked about the pictures that cmon
renders itself. Put your own module and data in the place of these, and your photos in that of "builtin".
"""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import concept_monitor_cli as cmon
import concept_monitor_cli._torchvision  # helps where torchvision, which Lightning imports, fits torch badly

import lightning  # isort: skip

COLORS = torch.tensor([[1.0, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.2, 1.0], [1.0, 1.0, 0.2]])


def squares(count: int) -> TensorDataset:
    """Squares of four colours on noise, `(count, 3, 48, 48)` in 0..1, and which colour it is."""
    images, classes = torch.rand(count, 3, 48, 48), torch.randint(0, 4, (count,))
    images[:, :, 12:36, 12:36] = COLORS[classes][:, :, None, None]
    return TensorDataset(images, classes)


class Learner(lightning.LightningModule):
    """Three convolutions and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 16, 3, stride=2), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, stride=2), nn.ReLU()),
            *(nn.Conv2d(32, 32, 3), nn.ReLU()),
        )
        self.head = nn.Linear(32, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scores of the four colours, `(B, 4)`."""
        return self.head(self.features(images).mean((2, 3)))

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
        """The loss of a batch."""
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=0.01)


def main() -> None:
    """Train for three epochs."""
    lightning.seed_everything(0)
    monitor = cmon.Monitor(
        "builtin",
        layers="features.5",
        input_size=48,
        mean=(0.0, 0.0, 0.0),  # pixels in 0..1, as the network sees them in training
        std=(1.0, 1.0, 1.0),
        probe_limit=300,
        out="lightning-run",
        overwrite=True,
    )
    trainer = lightning.Trainer(
        max_epochs=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        callbacks=[cmon.lightning_callback(monitor)],
    )
    trainer.fit(Learner(), DataLoader(squares(512), batch_size=64, shuffle=True))
    numbers = monitor.run.statistics()
    shown = ["epoch", "units", "interpretable", "distinct_concepts", "held_out", "held_out_chance"]
    print(numbers[numbers["category"] == "all"][shown].to_string(index=False))


if __name__ == "__main__":
    main()
