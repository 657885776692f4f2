from __future__ import annotations

import pytest

from concept_monitor_cli.checkpoints.names import epoch_in_name


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("epoch_12", 12, "epoch"),
        ("epoch012", 12, "epoch"),
        ("Epoch-3", 3, "epoch"),
        ("model_ep7", 7, "epoch"),
        ("e10", 10, "epoch"),
        ("epoch=3-step=400", 3, "epoch"),
        ("epoch=3-step=400-v1", 3, "epoch"),
        ("epoch=3-val_loss=0.25", 3, "epoch"),
        ("resnet18_cifar10_epoch05", 5, "epoch"),
        ("20_epochs", 20, "epoch"),
        ("ckpt_ep7_acc93.4", 7, "epoch"),
        ("step_400", 400, "step"),
        ("iter_80000", 80000, "step"),
        ("iter_1e4", 10_000, "step"),
        ("net_steps=2.5e5", 250_000, "step"),
        ("global_step1000", 1000, "step"),
        ("ckpt-0012", 12, "number"),
        ("checkpoint12", 12, "number"),
        ("model3", 3, "number"),
        ("12", 12, "number"),
        ("0", 0, "number"),
        ("resnet18_12", 12, "number"),
        ("vit_b_16_30", 30, "number"),
        ("my-vit_b_16-30", 30, "number"),
    ],
)
def test_a_name_tells_its_epoch(name: str, value: int, kind: str) -> None:
    found = epoch_in_name(name)
    assert found is not None
    assert (found.value, found.kind) == (value, kind)


@pytest.mark.parametrize(
    "name",
    [
        "resnet18-best",
        "resnet18",
        "resnet-18",
        "vit_b_16",
        "mnasnet1_0",
        "shufflenet_v2_x1_0",
        "wide_resnet50_2",
        "vgg16-397923af",
        "resnet18-f37072fd",
        "model_best_acc_93.5",
        "lr_1e-3",
        "model_20240131",
        "model_seed_3",
        "mobilenet_v2",
        "last",
        "model",
        "",
    ],
)
def test_other_numbers_are_no_epoch(name: str) -> None:
    assert epoch_in_name(name) is None
