"""The loops of other libraries, for real, where they are installed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import concept_monitor_cli as cmon
import concept_monitor_cli._torchvision

from .conftest import LiveBench, small_network

EPOCHS = 3


def pictures() -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(
        torch.randn(16, 3, 32, 32, generator=generator), torch.randint(0, 4, (16,), generator=generator)
    )


def test_lightning(bench: LiveBench, tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning.pytorch", reason="Lightning is not installed")
    from lightning.pytorch.callbacks import ModelCheckpoint

    class Learner(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = small_network()

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            images, classes = batch
            return nn.functional.cross_entropy(self.model(images), classes)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.05)

    monitor = cmon.Monitor(**bench.inputs(name="epoch={epoch}-step={step}.ckpt", floors=True))
    trainer = lightning.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[
            cmon.lightning_callback(monitor),
            ModelCheckpoint(dirpath=bench.checkpoints, save_top_k=-1),
        ],
    )
    trainer.fit(Learner(), DataLoader(pictures(), batch_size=8))
    assert (monitor.visits, monitor.failed) == (EPOCHS, {})
    assert bench.all_tables("live") == bench.dissected("--floors")
    # In steps: every second of the two of each epoch.
    steps = cmon.Monitor(**bench.inputs("steps"))
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[cmon.lightning_callback(steps, every_n_steps=2)],
    )
    trainer.fit(Learner(), DataLoader(pictures(), batch_size=8))
    assert steps.run.epochs == [2, 4]


class Classified(Dataset[dict[str, Any]]):
    """As the trainer of transformers wants its examples."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> dict[str, Any]:
        images, classes = pictures().tensors
        return {"pixel_values": images[index], "labels": classes[index]}


def test_transformers(bench: LiveBench) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("accelerate", reason="accelerate is not installed, which the Trainer needs")
    torch.manual_seed(0)
    network = transformers.ViTForImageClassification(
        transformers.ViTConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            image_size=32,
            patch_size=8,
            num_labels=4,
        )
    )
    name = "checkpoint-{step}/model.safetensors"
    monitor = cmon.Monitor(**bench.inputs(layers="blocks.1", name=name, floors=True))
    transformers.Trainer(
        model=network,
        args=transformers.TrainingArguments(
            output_dir=str(bench.checkpoints),
            num_train_epochs=EPOCHS,
            per_device_train_batch_size=8,
            save_strategy="epoch",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            logging_strategy="no",
        ),
        train_dataset=Classified(),
        callbacks=[cmon.trainer_callback(monitor)],
    ).train()
    assert (monitor.visits, monitor.failed) == (EPOCHS, {})
    assert monitor.run.epochs == [2, 4, 6]
    dissected = bench.dissected("--floors", layer="blocks.1")
    assert bench.all_tables("live") == dissected
    # The weights that the run keeps are dissected to the same, too.
    again = LiveBench(bench.root)
    kept = again.dissect("-q", "--floors", "--no-stability", layer="blocks.1", out="kept")
    from concept_monitor_cli.cli.app import run

    words = [str(bench.root / "live/weights" if word == bench.checkpoints else word) for word in kept]
    assert run(words) == 0
    assert bench.all_tables("kept") == dissected


def test_the_loop_of_timm(bench: LiveBench) -> None:
    from timm import create_model
    from timm.optim import create_optimizer_v2
    from timm.utils import AverageMeter, CheckpointSaver

    torch.manual_seed(0)
    network = create_model("test_resnet", num_classes=4)
    optimizer = create_optimizer_v2(network, opt="sgd", lr=0.05)
    bench.checkpoints.mkdir()
    monitor = cmon.Monitor(
        **bench.inputs(layers="layer2", name="checkpoint-{epoch}.pth.tar", input_size=64, floors=True)
    )
    saver = CheckpointSaver(
        network, optimizer, checkpoint_dir=str(bench.checkpoints), recovery_dir=str(bench.root)
    )
    assert cmon.monitor_saver(saver, monitor) is saver
    for epoch in range(EPOCHS):
        network.train()
        losses = AverageMeter()
        for images, classes in DataLoader(pictures(), batch_size=8):
            loss = nn.functional.cross_entropy(network(images), classes)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.update(loss.item(), len(images))
        saver.save_checkpoint(epoch, metric=float(epoch))
    assert (monitor.visits, monitor.failed) == (EPOCHS, {})
    for beside in ("last.pth.tar", "model_best.pth.tar"):
        (bench.checkpoints / beside).unlink(missing_ok=True)
    assert bench.all_tables("live") == bench.dissected("--floors", "--input-size", 64, layer="layer2")


@pytest.mark.parametrize(
    ("adapter", "module", "said"),
    [
        ("lightning_callback", "lightning.pytorch", "lightning is not installed"),
        ("trainer_callback", "transformers", "transformers is not installed"),
    ],
)
def test_what_is_not_installed_is_named(
    bench: LiveBench, monkeypatch: pytest.MonkeyPatch, adapter: str, module: str, said: str
) -> None:
    for name in (module, "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("lightning", "transformers"):
        monkeypatch.delitem(sys.modules, f"concept_monitor_cli.library.{name}", raising=False)
    with pytest.raises(cmon.InputError, match=said) as error:
        getattr(cmon, adapter)(cmon.Monitor(**bench.inputs()))
    assert "pip install" in str(error.value)
