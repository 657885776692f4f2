"""One training loop for all studies."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attacks import Attack, pgd
from .data import Normalisation, Photos


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        epochs: how many.
        lr: the highest learning rate of SGD with momentum 0.9.
        schedule: of the learning rate over the whole training: `cosine` to 0; `cyclic` up to the middle and
            down again; `steps` to a tenth at 1/2 and 3/4.
        batch_size: images a step.
        weight_decay: of all parameters.
        attack: train on adversarial images of this kind (Madry et al. 2018); None for the images themselves.
        seed: of the fresh weights, the order of the images and their augmentation.
        bf16: compute in bfloat16 where it is safe and the processor does so itself (a third of the time on
            recent CPUs and GPUs; where it is emulated, ten times as long).
    """

    epochs: int
    lr: float
    schedule: Literal["cosine", "cyclic", "steps"] = "cosine"
    batch_size: int = 128
    weight_decay: float = 5e-4
    attack: Attack | None = None
    seed: int = 0
    bf16: bool = True

    def rate(self, progress: float) -> float:
        """The learning rate as a share of `lr`, when this share of the training is done."""
        if self.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * progress))
        if self.schedule == "cyclic":
            return 1 - abs(2 * progress - 1)
        return 0.1 ** sum(progress >= milestone for milestone in (0.5, 0.75))


@dataclass(frozen=True)
class Epoch:
    """What happened in one epoch; epoch 0 is the network before training, with no loss."""

    number: int
    loss: float
    seconds: float


@dataclass(frozen=True)
class Learner:
    """A network, what it wants its images to look like, and where it runs."""

    network: nn.Module
    normalisation: Normalisation
    device: torch.device

    def logits(self, images: Tensor, *, bf16: bool = False) -> Tensor:
        """Of images in [0, 1]."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bf16):
            out: Tensor = self.network(self.normalisation(images))
        return out.float()

    def train(self, photos: Photos, recipe: Recipe) -> Iterator[Epoch]:
        """Train; after each epoch, and before the first, the caller has its turn."""
        generator = torch.Generator().manual_seed(recipe.seed)
        self.network.to(self.device, memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(
            self.network.parameters(), recipe.lr, momentum=0.9, weight_decay=recipe.weight_decay
        )
        steps = max(recipe.epochs * (len(photos) // recipe.batch_size), 1)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: recipe.rate(step / steps))
        bf16 = recipe.bf16 and has_bf16(self.device)
        yield Epoch(0, math.nan, 0.0)
        for number in range(1, recipe.epochs + 1):
            self.network.train()
            start, losses = time.perf_counter(), []
            for images, labels in photos.shuffled(recipe.batch_size, generator):
                images, labels = images.to(self.device), labels.to(self.device)

                def loss_of(seen: Tensor, labels: Tensor = labels) -> Tensor:
                    return F.cross_entropy(self.logits(seen, bf16=bf16), labels)

                if recipe.attack is not None:
                    images = pgd(loss_of, images, recipe.attack, generator)
                loss = loss_of(images)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
                losses.append(loss.detach())
            loss_mean = float(torch.stack(losses).mean()) if losses else math.nan
            yield Epoch(number, loss_mean, time.perf_counter() - start)

    def accuracy(self, photos: Photos, *, attack: Attack | None = None, seed: int = 0) -> float:
        """Share of the photos that are named right, as they are or under attack."""
        generator = torch.Generator().manual_seed(seed)
        self.network.to(self.device).eval()
        right = 0
        for images, labels in photos.in_order(250):
            images, labels = images.to(self.device), labels.to(self.device)
            if attack is not None:

                def loss_of(seen: Tensor, labels: Tensor = labels) -> Tensor:
                    return F.cross_entropy(self.logits(seen), labels)

                images = pgd(loss_of, images, attack, generator)
            with torch.inference_mode():
                right += int((self.logits(images).argmax(1) == labels).sum())
        return right / len(photos)


def has_bf16(device: torch.device) -> bool:
    """Whether the processor multiplies numbers in bfloat16 without converting them."""
    if device.type != "cpu":
        return True
    able = torch.cpu.get_capabilities()
    return any(able.get(name, False) for name in ("amx_bf16", "avx512_bf16", "bf16"))


def write_checkpoint(path: Path, network: nn.Module, epoch: int, **more: Any) -> None:
    """A plain file as most training scripts write them: `state_dict`, `epoch`, and small plain values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {name: value.cpu().contiguous() for name, value in network.state_dict().items()}
    temporary = path.with_suffix(".part")
    torch.save({"state_dict": weights, "epoch": epoch, **more}, temporary)
    temporary.replace(path)
