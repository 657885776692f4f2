"""Train torchvision's ResNet-18 on CIFAR-10 photos and keep a checkpoint of every epoch.

    python scripts/train_cifar10.py --data cifar10_images --out ckpts --epochs 8

`--data` is a folder with `train/` and `test/`, each with a folder of JPEG or PNG files per class. The
photos are shown at `--size` pixels (64 by default: at 32, the last layer of this network sees one pixel).
Checkpoints are plain files with `state_dict` and `epoch`, as most training scripts write them; epoch 0 is the
network before training.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

import concept_monitor_cli._torchvision  # noqa: F401  isort: skip  (must come before torchvision)
from torchvision.models import resnet18

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


def read_split(folder: Path) -> tuple[Tensor, Tensor, list[str]]:
    """All photos of a split: uint8 `N x 3 x 32 x 32`, class numbers `N`, class names."""
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    files = [
        (path, number) for number, name in enumerate(classes) for path in sorted((folder / name).iterdir())
    ]
    with ThreadPoolExecutor() as pool:
        pixels = list(pool.map(lambda item: np.asarray(Image.open(item[0]).convert("RGB")), files))
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
    return images, torch.tensor([number for _, number in files]), classes


def as_input(images: Tensor, size: int) -> Tensor:
    """Photos as the network wants them: `B x 3 x size x size`, normalised."""
    x = F.interpolate(images.float() / 255, size=(size, size), mode="bilinear", antialias=True)
    return ((x - MEAN) / STD).contiguous(memory_format=torch.channels_last)


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Random flip, and one random shift of up to 4 pixels for the batch."""
    flip = torch.rand(len(images), generator=generator) < 0.5
    images = torch.where(flip.view(-1, 1, 1, 1), images.flip(-1), images)
    dx, dy = torch.randint(0, 9, (2,), generator=generator).tolist()
    return F.pad(images, (4, 4, 4, 4))[:, :, dy : dy + 32, dx : dx + 32]


@torch.inference_mode()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor, size: int) -> float:
    model.eval()
    right = sum(
        int((model(as_input(images[i : i + 250], size)).argmax(1) == labels[i : i + 250]).sum())
        for i in range(0, len(images), 250)
    )
    return right / len(images)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="use only so many training photos, chosen by the seed")
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    images, labels, classes = read_split(options.data / "train")
    if options.limit:
        chosen = torch.randperm(len(images), generator=generator)[: options.limit]
        images, labels = images[chosen], labels[chosen]
    test_images, test_labels, _ = read_split(options.data / "test")
    model = resnet18(num_classes=len(classes)).to(memory_format=torch.channels_last)
    steps = options.epochs * (len(images) // options.batch_size)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=options.lr, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.lr, total_steps=max(steps, 1))
    options.out.mkdir(parents=True, exist_ok=True)

    def keep(epoch: int) -> None:
        content = {"state_dict": model.state_dict(), "epoch": epoch, "classes": classes}
        torch.save(content, options.out / f"resnet18_cifar10_epoch{epoch:02d}.pth")

    keep(0)
    for epoch in range(1, options.epochs + 1):
        model.train()
        start, total = time.time(), 0.0
        order = torch.randperm(len(images), generator=generator)
        batches = order[: len(order) // options.batch_size * options.batch_size].view(-1, options.batch_size)
        for batch in batches:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = F.cross_entropy(
                    model(as_input(augment(images[batch], generator), options.size)),
                    labels[batch],
                    label_smoothing=0.05,
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        keep(epoch)
        score = accuracy(model, test_images, test_labels, options.size)
        seconds = time.time() - start
        print(
            f"epoch {epoch}: loss {total / len(batches):.3f}, test accuracy {score:.3f}, {seconds:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
