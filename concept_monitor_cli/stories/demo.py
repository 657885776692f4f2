"""The story of a `demo`: a small network learns to tell renderings apart; what do its units learn?"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from concept_monitor_cli.builtin import classification_set
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.models.cifar import create_model
from concept_monitor_cli.options import RunOptions
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.store import atomic_write
from concept_monitor_cli.stories.run_all import RunResult, run_all
from concept_monitor_cli.study import BUILTIN

NETWORK = "cifar_resnet20"
LAYERS = ("layer2", "layer3")
ANCHORS = ("windmill", "house", "car", "striped", "dotted", "brick", "sea", "forest")

_SIZE = 48
_TRAINING_PICTURES = 3072
_VALIDATION_PICTURES = 512
_BATCH = 64
_LEARNING_RATE = 0.1
# Series 0 belongs to the probing set: the network is not asked about pictures that it has seen.
_TRAINING_SERIES, _VALIDATION_SERIES = 1, 2
_MEAN, _STD = 0.5, 0.25


@dataclass
class DemoResult:
    """What a demo did.

    Attributes:
        folder: everything lies in here.
        accuracy: share of validation pictures named right, per epoch.
        commands: the same by hand.
        run: what was found.
    """

    folder: Path
    accuracy: list[float] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    run: RunResult | None = None


def demo(
    folder: Path,
    *,
    epochs: int = 5,
    seed: int = 0,
    cache_dir: Path | None = None,
    progress: Progress = SILENT,
) -> DemoResult:
    """Train a small network and run everything on it, offline.

    Args:
        folder: gets `ckpts/` and `cmon-out/`.
        epochs: of the training; 0 is the network before it.
        seed: of the weights and the order of the pictures.
        cache_dir: the store; the user's by default.
        progress: told what happens.

    Raises:
        InputError: `ckpts/` holds checkpoints that this training would not write anew.
    """
    result = DemoResult(folder)
    checkpoints, out = folder / "ckpts", folder / "cmon-out"
    _check_folder(checkpoints, epochs)
    train(checkpoints, epochs, seed, result, progress)
    result.run = run_all(
        RunOptions(
            checkpoints=(str(checkpoints),),
            layers=LAYERS,
            anchors=ANCHORS,
            input_size=_SIZE,
            mean=(_MEAN, _MEAN, _MEAN),
            std=(_STD, _STD, _STD),
            # The network has learned renderings: there they say what they are said to say.
            probe=BUILTIN,
            out=out,
            cache_dir=cache_dir,
            seed=seed,
            overwrite=True,
        ),
        progress,
    )
    numbers = ["--mean", ",".join([str(_MEAN)] * 3), "--std", ",".join([str(_STD)] * 3)]
    common = ["--out", str(out)]
    if seed:
        common += ["--seed", str(seed)]
    if cache_dir is not None:
        common += ["--cache-dir", str(cache_dir)]
    by_hand = ["cmon", "run", str(checkpoints), "--layer", ",".join(LAYERS), "--probe", BUILTIN]
    by_hand += ["--input-size", str(_SIZE), "--anchors", ",".join(ANCHORS)]
    result.commands = [
        shlex.join([*by_hand, *numbers, *common]),
        shlex.join(["cmon", "units", str(out), "--layer", LAYERS[-1], *common[2:]]),
    ]
    return result


def _check_folder(checkpoints: Path, epochs: int) -> None:
    """Refuse to mix this training with another one's checkpoints."""
    own = {_file_name(epoch) for epoch in range(epochs + 1)}
    others = sorted(path.name for path in checkpoints.iterdir()) if checkpoints.is_dir() else []
    strange = [name for name in others if name not in own]
    if strange:
        raise InputError(
            f"{strange[0]} is there already, and is not of this demo of {epochs} epochs",
            where=checkpoints,
            hint="name another folder, or remove this one",
        )


def train(folder: Path, epochs: int, seed: int, result: DemoResult, progress: Progress) -> None:
    """Train the network and keep a checkpoint per epoch, as an ordinary training script would."""
    images, labels, classes = _pictures(_TRAINING_PICTURES, _TRAINING_SERIES, progress)
    held_out, held_out_labels, _ = _pictures(_VALIDATION_PICTURES, _VALIDATION_SERIES, progress)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = create_model(NETWORK, num_classes=len(classes))
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(
        model.parameters(), _LEARNING_RATE, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    steps = epochs * (len(images) // _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, total_steps=max(1, steps))
    _keep(model, folder, 0)
    result.accuracy.append(_accuracy(model, held_out, held_out_labels))
    with progress.task(f"training {NETWORK}", steps * _BATCH) as advance:
        for epoch in range(1, epochs + 1):
            model.train()
            order = torch.randperm(len(images), generator=generator)
            for batch in order[: len(order) // _BATCH * _BATCH].view(-1, _BATCH):
                pictures = images[batch]
                flip = torch.rand(_BATCH, generator=generator) < 0.5
                pictures = torch.where(flip.view(-1, 1, 1, 1), pictures.flip(-1), pictures)
                loss = F.cross_entropy(model(pictures), labels[batch])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                advance(_BATCH)
            _keep(model, folder, epoch)
            result.accuracy.append(_accuracy(model, held_out, held_out_labels))
            progress.notice(
                f"epoch {epoch}: {result.accuracy[-1]:.0%} of held-out pictures named right "
                f"({1 / len(classes):.0%} by chance)"
            )


def _pictures(count: int, series: int, progress: Progress) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    images, labels, classes = classification_set(count, series, _SIZE, progress=progress)
    x = (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - _MEAN) / _STD
    return x.contiguous(memory_format=torch.channels_last), torch.from_numpy(labels), tuple(classes)


def _keep(model: nn.Module, folder: Path, epoch: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / _file_name(epoch)) as temporary:
        torch.save({"state_dict": model.state_dict(), "epoch": epoch}, temporary)


def _file_name(epoch: int) -> str:
    return f"epoch_{epoch:02d}.pth"


@torch.inference_mode()
def _accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    model.eval()
    right = torch.cat([model(part).argmax(1) for part in torch.split(images, _BATCH)]) == labels
    return float(right.float().mean())
