"""Layouts of checkpoint folders as training code writes them, and the epochs that are read from them.

A layout maps file names to what the file holds: `W(seed, **entries)` is a checkpoint with the weights of a
small network, bare where there are no entries. Files of equal seeds hold equal weights.

Above 500 lines, because it is a table and hardly any code.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from checkpoint_help import small_weights


@dataclass(frozen=True)
class W:
    """The content of one checkpoint."""

    seed: int
    entries: dict[str, Any]
    other: bool = False


def w(seed: int, **entries: Any) -> W:
    return W(seed, entries)


def other(seed: int, **entries: Any) -> W:
    """Weights of another network."""
    return W(seed, entries, other=True)


Layout = dict[str, Any]
Expected = list[tuple[str, int]]


def write(folder: Path, layout: Layout) -> None:
    """Make the files of a layout; a text is a link's target, other objects are saved as they are."""
    for name, content in layout.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.symlink_to(content)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, W):
            weights = small_weights(content.seed)
            if content.other:
                weights = {f"block.{key}": value for key, value in weights.items()}
            saved = {"state_dict": weights, **content.entries} if content.entries else weights
            if path.name.endswith(".safetensors"):
                from safetensors.torch import save_file

                save_file(dict(weights), path, {key: str(value) for key, value in content.entries.items()})
            else:
                torch.save(saved, path)
        else:
            torch.save(content, path)


# What was read right before the whole set of names was looked at, and must stay so: no file, order or epoch
# changes.
STABLE: dict[str, tuple[Layout, Expected]] = {
    "plain": (
        {f"epoch_{e}.pth": w(e) for e in (1, 2, 10)},
        [("epoch_1.pth", 1), ("epoch_2.pth", 2), ("epoch_10.pth", 10)],
    ),
    "plain with entries": (
        {f"epoch_{e}.pth": w(e, epoch=e) for e in (1, 2, 10)},
        [("epoch_1.pth", 1), ("epoch_2.pth", 2), ("epoch_10.pth", 10)],
    ),
    "entries only": (
        {"a.pt": w(3, epoch=3), "b.pt": w(1, epoch=1), "c.pt": w(20, epoch=20)},
        [("b.pt", 1), ("a.pt", 3), ("c.pt", 20)],
    ),
    "lightning": (
        {
            "epoch=1-step=200.ckpt": w(1, epoch=1, global_step=200),
            "epoch=3-step=400.ckpt": w(3, epoch=3, global_step=400),
            "last.ckpt": w(3, epoch=3, global_step=400),
        },
        [("epoch=1-step=200.ckpt", 1), ("epoch=3-step=400.ckpt", 3)],
    ),
    "lightning, metrics in the name": (
        {f"epoch={e}-val_loss=0.{9 - e}5.ckpt": w(e, epoch=e, global_step=e * 100) for e in (0, 1, 2)},
        [(f"epoch={e}-val_loss=0.{9 - e}5.ckpt", e) for e in (0, 1, 2)],
    ),
    "lightning, several within an epoch": (
        {
            "epoch=0-step=100.ckpt": w(1, epoch=0, global_step=100),
            "epoch=0-step=200.ckpt": w(2, epoch=0, global_step=200),
            "epoch=1-step=300.ckpt": w(3, epoch=1, global_step=300),
            "last.ckpt": w(3, epoch=1, global_step=300),
        },
        [("epoch=0-step=100.ckpt", 100), ("epoch=0-step=200.ckpt", 200), ("epoch=1-step=300.ckpt", 300)],
    ),
    "last alone moves on": (
        {"best.pt": w(2, epoch=2), "last.pt": w(3, epoch=3)},
        [("best.pt", 2), ("last.pt", 3)],
    ),
    "last of a later epoch": (
        {**{f"epoch_{e}.pt": w(e, epoch=e) for e in (10, 20)}, "last.pt": w(27, epoch=27)},
        [("epoch_10.pt", 10), ("epoch_20.pt", 20), ("last.pt", 27)],
    ),
    "timm": (
        {
            **{f"checkpoint-{e}.pth.tar": w(e, epoch=e, arch="x") for e in (8, 9, 10)},
            "last.pth.tar": w(10, epoch=10, arch="x"),
            "model_best.pth.tar": w(9, epoch=9, arch="x"),
        },
        [("checkpoint-8.pth.tar", 8), ("checkpoint-9.pth.tar", 9), ("checkpoint-10.pth.tar", 10)],
    ),
    "transformers": (
        {
            **{f"checkpoint-{s}/pytorch_model.bin": w(s) for s in (500, 1000)},
            **{f"checkpoint-{s}/optimizer.pt": {"state": {}, "param_groups": []} for s in (500, 1000)},
            **{f"checkpoint-{s}/training_args.bin": {"lr": 0.1} for s in (500, 1000)},
        },
        [("checkpoint-500/pytorch_model.bin", 500), ("checkpoint-1000/pytorch_model.bin", 1000)],
    ),
    "transformers, safetensors": (
        {f"checkpoint-{s}/model.safetensors": w(s) for s in (500, 1000)},
        [("checkpoint-500/model.safetensors", 500), ("checkpoint-1000/model.safetensors", 1000)],
    ),
    "mmengine": (
        {
            **{f"epoch_{e}.pth": w(e, meta={"epoch": e, "iter": 100 * e}) for e in (1, 2, 12)},
            "best_accuracy_top1_epoch_20.pth": w(20, meta={"epoch": 20, "iter": 2000}),
        },
        [
            *((f"epoch_{e}.pth", e) for e in (1, 2, 12)),
            ("best_accuracy_top1_epoch_20.pth", 20),
        ],
    ),
    "mmengine by iterations": (
        {f"iter_{s}.pth": w(s, meta={"iter": s}) for s in (4000, 8000)},
        [("iter_4000.pth", 4000), ("iter_8000.pth", 8000)],
    ),
    "detectron2": (
        {
            **{f"model_{s:07d}.pth": w(s, iteration=s) for s in (4999, 9999)},
            "model_final.pth": w(14999, iteration=14999),
        },
        [("model_0004999.pth", 4999), ("model_0009999.pth", 9999), ("model_final.pth", 14999)],
    ),
    "torchvision references": (
        {f"model_{e}.pth": w(e, epoch=e) for e in range(3)},
        [(f"model_{e}.pth", e) for e in range(3)],
    ),
    "steps in names, epochs in entries": (
        {f"model_{e * 100}.pth": w(e, epoch=e) for e in (1, 2, 3)},
        [(f"model_{e * 100}.pth", e) for e in (1, 2, 3)],
    ),
    "weights-loss": (
        {"weights.05-0.31.pt": w(5), "weights.10-0.25.pt": w(10)},
        [("weights.05-0.31.pt", 5), ("weights.10-0.25.pt", 10)],
    ),
    "accuracy behind a word": (
        {f"ckpt_ep{e}_acc{a}.pth": w(e) for e, a in ((5, 71), (10, 69), (15, 80))},
        [("ckpt_ep5_acc71.pth", 5), ("ckpt_ep10_acc69.pth", 10), ("ckpt_ep15_acc80.pth", 15)],
    ),
    "yolo": (
        {
            **{f"weights/epoch{e}.pt": w(e, epoch=e) for e in (10, 20)},
            "weights/last.pt": w(25, epoch=25),
            "weights/best.pt": w(20, epoch=20),
        },
        [("epoch10.pt", 10), ("epoch20.pt", 20), ("last.pt", 25)],
    ),
    "folders per epoch": (
        {f"epoch_{e}/model.pt": w(e) for e in (2, 11)},
        [("epoch_2/model.pt", 2), ("epoch_11/model.pt", 11)],
    ),
    "folders per epoch, steps in entries": (
        {f"epoch_{e}/model.pt": w(e, global_step=10) for e in (2, 11)},
        [("epoch_2/model.pt", 2), ("epoch_11/model.pt", 11)],
    ),
    "ray": (
        {f"checkpoint_{e:06d}/model.pt": w(e) for e in (0, 1, 10)},
        [(f"checkpoint_{e:06d}/model.pt", e) for e in (0, 1, 10)],
    ),
    "accelerate": (
        {
            **{f"epoch_{e}/pytorch_model.bin": w(e) for e in (0, 1)},
            **{f"epoch_{e}/optimizer.bin": {"state": {}, "param_groups": []} for e in (0, 1)},
            **{f"epoch_{e}/random_states_0.pkl": b"\x80\x04N." for e in (0, 1)},
        },
        [("epoch_0/pytorch_model.bin", 0), ("epoch_1/pytorch_model.bin", 1)],
    ),
    "bare numbers": ({f"{e}.pt": w(e) for e in (0, 5, 50)}, [("0.pt", 0), ("5.pt", 5), ("50.pt", 50)]),
    "number glued to a word": (
        {f"checkpoint{e}.pt": w(e) for e in (1, 2, 12)},
        [("checkpoint1.pt", 1), ("checkpoint2.pt", 2), ("checkpoint12.pt", 12)],
    ),
    "the architecture's number": (
        {f"resnet18_{e}.pth": w(e) for e in (3, 18)},
        [("resnet18_3.pth", 3), ("resnet18_18.pth", 18)],
    ),
    "seed before epoch": (
        {f"model_seed_3_epoch_{e}.pth": w(e) for e in (1, 2)},
        [("model_seed_3_epoch_1.pth", 1), ("model_seed_3_epoch_2.pth", 2)],
    ),
    "extensions of all sorts": (
        {"epoch_1.pth.tar": w(1), "epoch_2.safetensors": w(2), "epoch_9.pt": w(9), "epoch_10.ckpt": w(10)},
        [("epoch_1.pth.tar", 1), ("epoch_2.safetensors", 2), ("epoch_9.pt", 9), ("epoch_10.ckpt", 10)],
    ),
    "names without numbers": ({"a.pt": w(1), "b.pt": w(2)}, [("a.pt", 0), ("b.pt", 1)]),
    "one file": ({"model.pt": w(1)}, [("model.pt", 0)]),
    "one file with a number": ({"resnet18_5.pt": w(1)}, [("resnet18_5.pt", 5)]),
    "one file in a folder with a number": ({"checkpoint-7/model.pt": w(1)}, [("model.pt", 7)]),
    "runs": (
        {"lightning_logs/version_0/checkpoints/epoch=1-step=20.ckpt": w(1, epoch=1, global_step=20)},
        [("epoch=1-step=20.ckpt", 1)],
    ),
    "sparsities": (
        {f"pruned_{s}.pth": w(s) for s in (0, 20, 80)},
        [("pruned_0.pth", 0), ("pruned_20.pth", 20), ("pruned_80.pth", 80)],
    ),
    "levels, a file each": (
        {f"level_{s}/model.pth": w(s) for s in (0, 1, 2)},
        [("level_0/model.pth", 0), ("level_1/model.pth", 1), ("level_2/model.pth", 2)],
    ),
    "two stages one after the other": (
        {**{f"warmup_{e}.pt": w(e) for e in (1, 2)}, **{f"main_{e}.pt": w(e) for e in (3, 4)}},
        [("warmup_1.pt", 1), ("warmup_2.pt", 2), ("main_3.pt", 3), ("main_4.pt", 4)],
    ),
    "a folder for each of several": (
        {"first/epoch_1.pt": w(1), "middle/epoch_30.pt": w(30), "end/epoch_90.pt": w(90)},
        [("epoch_1.pt", 1), ("epoch_30.pt", 30), ("epoch_90.pt", 90)],
    ),
    "old ones below": (
        {**{f"epoch_{e}.pt": w(e) for e in (1, 2)}, **{f"old/epoch_{e}.pt": w(50 + e) for e in (1, 2, 3)}},
        [("epoch_1.pt", 1), ("epoch_2.pt", 2)],
    ),
    "a link to the newest": (
        {"epoch_1.pt": w(1), "epoch_2.pt": w(2), "last.pt": "epoch_2.pt"},
        [("epoch_1.pt", 1), ("epoch_2.pt", 2)],
    ),
    "fairseq, ends of epochs": (
        {
            **{f"checkpoint{e}.pt": w(e) for e in (1, 2)},
            "checkpoint_best.pt": w(1),
            "checkpoint_last.pt": w(2),
        },
        [("checkpoint1.pt", 1), ("checkpoint2.pt", 2)],
    ),
    "slurm's requeue": (
        {f"step_{s}.pt": w(s, step=s) for s in (100, 2000)},
        [("step_100.pt", 100), ("step_2000.pt", 2000)],
    ),
}


# What was read wrong before, one or more layouts of each kind.
MENDED: dict[str, tuple[Layout, Expected]] = {
    # A file on top hides what is below it.
    "transformers with save_model": (
        {**{f"checkpoint-{s}/pytorch_model.bin": w(s) for s in (500, 1000)}, "pytorch_model.bin": w(1000)},
        [("checkpoint-500/pytorch_model.bin", 500), ("checkpoint-1000/pytorch_model.bin", 1000)],
    ),
    "transformers with other weights at the end": (
        {**{f"checkpoint-{s}/pytorch_model.bin": w(s) for s in (500, 1000)}, "pytorch_model.bin": w(1)},
        [("checkpoint-500/pytorch_model.bin", 500), ("checkpoint-1000/pytorch_model.bin", 1000)],
    ),
    "pretrained weights on top": (
        {**{f"ckpts/epoch_{e}.pth": w(e, epoch=e) for e in (1, 2)}, "resnet18-f37072fd.pth": w(9)},
        [("epoch_1.pth", 1), ("epoch_2.pth", 2)],
    ),
    "best on top": (
        {**{f"all/epoch_{e}.pth": w(e, epoch=e) for e in (1, 2)}, "model_best.pth.tar": w(2, epoch=2)},
        [("epoch_1.pth", 1), ("epoch_2.pth", 2)],
    ),
    # Links keep their names.
    "a link that sorts first": (
        {**{f"epoch_{e}.pth": w(e) for e in (1, 2, 3)}, "best.pth": "epoch_2.pth"},
        [("epoch_1.pth", 1), ("epoch_2.pth", 2), ("epoch_3.pth", 3)],
    ),
    "links with numbers to a store": (
        {
            "store/.keep": b"",
            ".blobs/aa": w(1),
            ".blobs/bb": w(2),
            "epoch_1.pth": ".blobs/aa",
            "epoch_2.pth": ".blobs/bb",
            "best.pth": ".blobs/bb",
        },
        [("epoch_1.pth", 1), ("epoch_2.pth", 2)],
    ),
    "a link with a number to one without": (
        {"epoch_1.pth": w(1), "last.pth": w(2), "epoch_2.pth": "last.pth"},
        [("epoch_1.pth", 1), ("epoch_2.pth", 2)],
    ),
    "a link to a folder": (
        {**{f"checkpoint-{e}/model.pt": w(e) for e in (1, 2)}, "best": "checkpoint-2"},
        [("checkpoint-1/model.pt", 1), ("checkpoint-2/model.pt", 2)],
    ),
    # Which number is it?
    "accuracy without a word": (
        {f"net_{e}_{a}.pth": w(e) for e, a in ((5, 71), (10, 69), (15, 80))},
        [("net_5_71.pth", 5), ("net_10_69.pth", 10), ("net_15_80.pth", 15)],
    ),
    "accuracy first": (
        {f"net_{a}_{e}.pth": w(e) for e, a in ((5, 71), (10, 69), (15, 80))},
        [("net_71_5.pth", 5), ("net_69_10.pth", 10), ("net_80_15.pth", 15)],
    ),
    "accuracy, and the entries tell": (
        {f"net_{e}_{a}.pth": w(e, epoch=e) for e, a in ((88, 71), (89, 73), (90, 72))},
        [("net_88_71.pth", 88), ("net_89_73.pth", 89), ("net_90_72.pth", 90)],
    ),
    "accuracy with decimals": (
        {f"net_{e}_{a}.pth": w(e) for e, a in ((5, 0.71), (10, 0.69), (15, 0.8))},
        [("net_5_0.71.pth", 5), ("net_10_0.69.pth", 10), ("net_15_0.8.pth", 15)],
    ),
    "the number that stays the same": (
        {f"ckpt_{e}_of_90_224.pth": w(e) for e in (5, 10)},
        [("ckpt_5_of_90_224.pth", 5), ("ckpt_10_of_90_224.pth", 10)],
    ),
    "epoch and step": (
        {f"model_{e}_{100 * e}.pth": w(e) for e in (1, 2, 3)},
        [(f"model_{e}_{100 * e}.pth", e) for e in (1, 2, 3)],
    ),
    "several steps of an epoch": (
        {f"checkpoint_{e}_{s}.pt": w(s) for e, s in ((1, 500), (1, 1000), (2, 1500))},
        [("checkpoint_1_500.pt", 500), ("checkpoint_1_1000.pt", 1000), ("checkpoint_2_1500.pt", 1500)],
    ),
    "steps that begin again in each epoch": (
        {f"epoch_{e}_step_{s}.pt": w(10 * e + s) for e in (0, 1) for s in (5, 10)},
        [
            ("epoch_0_step_5.pt", 0),
            ("epoch_0_step_10.pt", 1),
            ("epoch_1_step_5.pt", 2),
            ("epoch_1_step_10.pt", 3),
        ],
    ),
    "date and clock": (
        {f"2023-01-{d:02d}_12-30-00_model.pth": w(d) for d in (10, 5)},
        [("2023-01-05_12-30-00_model.pth", 0), ("2023-01-10_12-30-00_model.pth", 1)],
    ),
    "date beside the epoch": (
        {f"model_{e}_2023010{d}-120000.pth": w(e) for e, d in ((3, 9), (4, 1))},
        [("model_3_20230109-120000.pth", 3), ("model_4_20230101-120000.pth", 4)],
    ),
    "a word in the folder": (
        {f"checkpoint_{e}/pytorch_model_{0}/model.pt": w(e) for e in (0, 1)},
        [("checkpoint_0/pytorch_model_0/model.pt", 0), ("checkpoint_1/pytorch_model_0/model.pt", 1)],
    ),
    "one file, a word in the folder": ({"checkpoint-500/model_1.pt": w(1)}, [("model_1.pt", 500)]),
    "DeepSpeed": (
        {f"global_step{s}/mp_rank_00_model_states.pt": {"module": small_weights(s)} for s in (500, 1000)},
        [
            ("global_step500/mp_rank_00_model_states.pt", 500),
            ("global_step1000/mp_rank_00_model_states.pt", 1000),
        ],
    ),
    "glued to an unknown word": (
        {f"generator{e}.pt": w(e) for e in (10, 20)},
        [("generator10.pt", 10), ("generator20.pt", 20)],
    ),
    "steps of eight digits": (
        {f"model_{s}.pt": w(s // 5_000_000) for s in (5_000_000, 10_000_000)},
        [("model_5000000.pt", 5_000_000), ("model_10000000.pt", 10_000_000)],
    ),
    "thousands, and init": (
        {f"model_{n}.pth": w(e) for n, e in (("init", 0), ("10k", 1), ("20k", 2), ("100k", 3))},
        [
            ("model_init.pth", 0),
            ("model_10k.pth", 10_000),
            ("model_20k.pth", 20_000),
            ("model_100k.pth", 100_000),
        ],
    ),
    "init without a number anywhere": (
        {f"{n}.pth": w(e) for n, e in (("init", 0), ("early", 1), ("late", 2))},
        [("init.pth", 0), ("early.pth", 1), ("late.pth", 2)],
    ),
    "accuracies alone are no epochs": (
        {"model_0.71.pth": w(1), "model_0.753.pth": w(2)},
        [("model_0.71.pth", 0), ("model_0.753.pth", 1)],
    ),
    # Entries.
    "the entry is the length of the training": (
        {f"ckpt_epoch_{e}.pth": w(e, epoch=90) for e in (10, 20, 30)},
        [(f"ckpt_epoch_{e}.pth", e) for e in (10, 20, 30)],
    ),
    "the same, bare numbers": (
        {f"ckpt_{e}.pth": w(e, epoch=90) for e in (10, 20, 30)},
        [(f"ckpt_{e}.pth", e) for e in (10, 20, 30)],
    ),
    "init by name, the others one less": (
        {"epoch_0_init.pth": w(0), "epoch_1.pth": w(1, epoch=0), "epoch_2.pth": w(2, epoch=1)},
        [("epoch_0_init.pth", 0), ("epoch_1.pth", 1), ("epoch_2.pth", 2)],
    ),
    "MoCo": (
        {f"checkpoint_{e:04d}.pth.tar": w(e, epoch=e + 1, arch="x") for e in (0, 99, 199)},
        [("checkpoint_0000.pth.tar", 0), ("checkpoint_0099.pth.tar", 99), ("checkpoint_0199.pth.tar", 199)],
    ),
    "DINO, its last one corrected": (
        {
            **{f"checkpoint{e:04d}.pth": w(e, epoch=e + 1) for e in (0, 20)},
            "checkpoint.pth": w(27, epoch=28),
        },
        [("checkpoint0000.pth", 0), ("checkpoint0020.pth", 20), ("checkpoint.pth", 27)],
    ),
    "robustness": (
        {
            **{f"{e}_checkpoint.pt": w(e, epoch=e + 1) for e in (0, 5)},
            "checkpoint.pt.best": w(5, epoch=6),
            "checkpoint.pt.latest": w(7, epoch=8),
        },
        [("0_checkpoint.pt", 0), ("5_checkpoint.pt", 5), ("checkpoint.pt.latest", 7)],
    ),
    "entries in some, names in all": (
        {"model_1.pth": w(1), "model_2.pth": w(2, epoch=7), "model_3.pth": w(3)},
        [("model_1.pth", 1), ("model_2.pth", 2), ("model_3.pth", 3)],
    ),
    "all of epoch 0, by bare steps": (
        {f"model_{s}.pth": w(s, epoch=s // 250) for s in (100, 200, 300)},
        [("model_100.pth", 100), ("model_200.pth", 200), ("model_300.pth", 300)],
    ),
    # Equal weights are no epoch of their own.
    "last is one ahead": (
        {**{f"epoch_{e}.pth": w(e) for e in (1, 2, 3)}, "last.pth": w(3, epoch=4)},
        [("epoch_1.pth", 1), ("epoch_2.pth", 2), ("epoch_3.pth", 3)],
    ),
    "last is one ahead, entries": (
        {**{f"epoch_{e}.pth": w(e, epoch=e) for e in (1, 2, 3)}, "checkpoint.pth": w(3, epoch=4)},
        [("epoch_1.pth", 1), ("epoch_2.pth", 2), ("epoch_3.pth", 3)],
    ),
    "torchvision references, all they write": (
        {**{f"model_{e}.pth": w(e, epoch=e) for e in range(3)}, "checkpoint.pth": w(2, epoch=2)},
        [(f"model_{e}.pth", e) for e in range(3)],
    ),
    "a second version": (
        {
            "epoch=10-v1.ckpt": w(11, epoch=10),
            "epoch=10.ckpt": w(10, epoch=10),
            "epoch=9.ckpt": w(9, epoch=9),
        },
        [("epoch=9.ckpt", 9), ("epoch=10.ckpt", 10)],
    ),
    "mmengine's best is a copy": (
        {
            **{f"epoch_{e}.pth": w(e, meta={"epoch": e}) for e in (1, 12)},
            "best_accuracy_top1_epoch_12.pth": w(12, meta={"epoch": 12}),
            "latest.pth": w(12, meta={"epoch": 12}),
        },
        [("epoch_1.pth", 1), ("epoch_12.pth", 12)],
    ),
    # Half-way.
    "timm's recovery": (
        {
            **{f"checkpoint-{e}.pth.tar": w(e, epoch=e, arch="x") for e in (1, 2)},
            "recovery-3-500.pth.tar": w(3, epoch=3, arch="x"),
            "recovery-2-900.pth.tar": w(4, epoch=2, arch="x"),
        },
        [("checkpoint-1.pth.tar", 1), ("checkpoint-2.pth.tar", 2)],
    ),
    "a crash": (
        {**{f"epoch={e}.ckpt": w(e, epoch=e) for e in (1, 2)}, "on_exception.ckpt": w(3, epoch=3)},
        [("epoch=1.ckpt", 1), ("epoch=2.ckpt", 2)],
    ),
    "nothing but a recovery": ({"recovery-3-500.pth.tar": w(3, epoch=3)}, [("recovery-3-500.pth.tar", 3)]),
    # Several series.
    "two networks of accelerate": (
        {
            **{f"epoch_{e}/pytorch_model.bin": w(e) for e in (0, 1)},
            **{f"epoch_{e}/pytorch_model_1.bin": w(50 + e) for e in (0, 1)},
        },
        [("epoch_0/pytorch_model.bin", 0), ("epoch_1/pytorch_model.bin", 1)],
    ),
    "two architectures": (
        {**{f"epoch_{e}.pt": w(e) for e in (1, 2)}, **{f"epoch_{e}.pt": other(e) for e in (3, 4)}},
        [("epoch_1.pt", 1), ("epoch_2.pt", 2)],
    ),
    "two runs": (
        {f"run_{r}/epoch_{e}.pt": w(10 * i + e) for i, r in enumerate("ab") for e in (1, 2)},
        [("epoch_1.pt", 1), ("epoch_2.pt", 2)],
    ),
    "two runs, side by side": (
        {**{f"a/epoch_{e}.pt": w(e) for e in (0, 10, 20)}, **{f"b/epoch_{e}.pt": w(e) for e in (5, 15)}},
        [("epoch_0.pt", 0), ("epoch_10.pt", 10), ("epoch_20.pt", 20)],
    ),
    "seeds": (
        {f"seed_{s}/epoch_{e}.pt": w(10 * s + e) for s in (0, 1) for e in (1, 2)},
        [("epoch_1.pt", 1), ("epoch_2.pt", 2)],
    ),
    "bare seeds": (
        {f"net_{s}_{e}.pt": w(10 * s + e) for s in (0, 1) for e in (1, 2, 3)},
        [("net_0_1.pt", 1), ("net_0_2.pt", 2), ("net_0_3.pt", 3)],
    ),
    "running averages in files of their own": (
        {**{f"ema_epoch_{e}.pt": w(50 + e) for e in (1, 2)}, **{f"epoch_{e}.pt": w(e) for e in (1, 2)}},
        [("epoch_1.pt", 1), ("epoch_2.pt", 2)],
    ),
    "versions of Lightning's logger": (
        {
            f"version_{v}/checkpoints/epoch={e}-step={9 * e}.ckpt": w(10 * v + e, epoch=e, global_step=9 * e)
            for v in (0, 1)
            for e in (1, 2)
        },
        [("epoch=1-step=9.ckpt", 1), ("epoch=2-step=18.ckpt", 2)],
    ),
    "fairseq, within epochs too": (
        {
            **{f"checkpoint{e}.pt": w(e) for e in (1, 2)},
            **{f"checkpoint_{e}_{s}.pt": w(s) for e, s in ((1, 500), (1, 1000), (2, 1500), (2, 2000))},
            "checkpoint_last.pt": w(2),
        },
        [
            ("checkpoint_1_500.pt", 500),
            ("checkpoint_1_1000.pt", 1000),
            ("checkpoint_2_1500.pt", 1500),
            ("checkpoint_2_2000.pt", 2000),
        ],
    ),
    "epochs and steps": (
        {**{f"epoch_{e}.pth": w(e) for e in (1, 2)}, **{f"step_{s}.pth": w(s) for s in (100, 200)}},
        [("epoch_1.pth", 1), ("epoch_2.pth", 2)],
    ),
    "student and teacher": (
        {f"{n}_{e}.pth": w(10 * i + e) for i, n in enumerate(("teacher", "student")) for e in (1, 2)},
        [("student_1.pth", 1), ("student_2.pth", 2)],
    ),
    "trials with dates": (
        {
            f"trial_{t}_2023-01-0{t}_10-00-00/checkpoint_{e:06d}/model.pt": w(10 * t + e)
            for t in (1, 2)
            for e in (0, 1)
        },
        [("checkpoint_000000/model.pt", 0), ("checkpoint_000001/model.pt", 1)],
    ),
    "two formats of each": (
        {f"epoch_{e}.{x}": w(e) for e in (1, 2) for x in ("pth", "safetensors")},
        [("epoch_1.pth", 1), ("epoch_2.pth", 2)],
    ),
    # Stages of pruning.
    "OpenLTH": (
        {f"level_{n}/main/model_ep{e}_it0.pth": w(10 * n + e) for n in range(3) for e in (0, 160)},
        [(f"level_{n}/main/model_ep160_it0.pth", n) for n in range(3)],
    ),
    "OpenLTH, one of each": (
        {f"level_{n}/main/model_ep160_it0.pth": w(n) for n in range(3)},
        [(f"level_{n}/main/model_ep160_it0.pth", n) for n in range(3)],
    ),
    "stages by name, their lengths in the entries": (
        {f"prune_iter_{n}.pth": w(n, epoch=e) for n, e in ((0, 150), (1, 158), (2, 149))},
        [("prune_iter_0.pth", 0), ("prune_iter_1.pth", 1), ("prune_iter_2.pth", 2)],
    ),
    "stages that all end at one epoch": (
        {f"round{n}/best.pth": w(n, epoch=160) for n in range(3)},
        [("round0/best.pth", 0), ("round1/best.pth", 1), ("round2/best.pth", 2)],
    ),
    "what is left of the weights": (
        {f"density_{d}.pth": w(int(10 * d)) for d in (0.1, 0.5, 1.0)},
        [("density_1.0.pth", 0), ("density_0.5.pth", 5), ("density_0.1.pth", 9)],
    ),
    # Fractions.
    "quarters of epochs": (
        {f"ckpt-{v}.pth": w(int(4 * v), epoch=v) for v in (0.25, 0.5, 0.75, 1.0)},
        [("ckpt-0.25.pth", 25), ("ckpt-0.5.pth", 50), ("ckpt-0.75.pth", 75), ("ckpt-1.0.pth", 100)],
    ),
    "halves by name": (
        {f"epoch_{v}.pth": w(int(2 * v)) for v in (0.5, 1, 1.5, 10)},
        [("epoch_0.5.pth", 5), ("epoch_1.pth", 10), ("epoch_1.5.pth", 15), ("epoch_10.pth", 100)],
    ),
    # Extensions.
    "pycls": (
        {**{f"model_epoch_{e:04d}.pyth": w(e, epoch=e) for e in (1, 2)}, "pretrained.pth": w(9)},
        [("model_epoch_0001.pyth", 1), ("model_epoch_0002.pyth", 2)],
    ),
    "pickles of torch.save": (
        {**{f"network_{e}.pkl": w(e) for e in (1, 2)}, "random_states_0.pkl": b"\x80\x04N."},
        [("network_1.pkl", 1), ("network_2.pkl", 2)],
    ),
    "the number as extension": (
        {f"model.pt-{s}": w(s) for s in (100, 2000)},
        [("model.pt-100", 100), ("model.pt-2000", 2000)],
    ),
    "no extension": (
        {f"checkpoint_{e:06d}/checkpoint": w(e) for e in (1, 2)},
        [("checkpoint_000001/checkpoint", 1), ("checkpoint_000002/checkpoint", 2)],
    ),
    "plain tar as extension": (
        {f"checkpoint_{e}.tar": w(e) for e in (1, 2)},
        [("checkpoint_1.tar", 1), ("checkpoint_2.tar", 2)],
    ),
    # Side files.
    "what DeepSpeed writes beside": (
        {
            **{f"global_step{s}/mp_rank_00_model_states.pt": w(s, global_steps=s) for s in (500, 1000)},
            **{
                f"global_step{s}/zero_pp_rank_0_mp_rank_00_optim_states.pt": {"optimizer_state_dict": {}}
                for s in (500, 1000)
            },
            **{f"global_step{s}/sampler.bin": {"seed": 1} for s in (500, 1000)},
            **{f"global_step{s}/other_state.bin": {"seed": 1} for s in (500, 1000)},
        },
        [
            ("global_step500/mp_rank_00_model_states.pt", 500),
            ("global_step1000/mp_rank_00_model_states.pt", 1000),
        ],
    ),
    "masks": (
        {
            **{f"model_ep{e}_it0.pth": w(e) for e in (0, 160)},
            "mask.pth": {
                key: torch.ones_like(value) for key, value in small_weights().items() if value.ndim > 1
            },
        },
        [("model_ep0_it0.pth", 0), ("model_ep160_it0.pth", 160)],
    ),
    # Folds, seeds and repetitions.
    "folds of a file each": ({f"fold_{f}/best.pt": w(f) for f in range(3)}, [("best.pt", 0)]),
    "folds in the files' names": ({f"model_fold{f}.pt": w(f) for f in range(5)}, [("model_fold0.pt", 0)]),
    "folds with entries": (
        {f"cv{f}/model_best.pth.tar": w(f, epoch=30 + f) for f in range(3)},
        [("model_best.pth.tar", 30)],
    ),
    "seeds, each with best and last": (
        {
            **{f"seed{s}/last.pt": w(s, epoch=90) for s in (1, 2, 3)},
            **{f"seed{s}/best.pt": w(10 + s, epoch=70 + s) for s in (1, 2, 3)},
        },
        [("best.pt", 71), ("last.pt", 90)],
    ),
    "seeds with epochs": (
        {f"seed{s}/epoch={e}.ckpt": w(10 * s + e, epoch=e) for s in (1, 2) for e in (0, 1, 2)},
        [(f"epoch={e}.ckpt", e) for e in (0, 1, 2)],
    ),
    "the longer of two repetitions": (
        {f"rep_{r}/epoch_{e}.pt": w(10 * r + e) for r, last in ((1, 2), (2, 5)) for e in range(last)},
        [(f"epoch_{e}.pt", e) for e in range(5)],
    ),
    "splits in names": (
        {f"split{s}_best.pth": w(s, epoch=50 + s) for s in (0, 1)},
        [("split0_best.pth", 50)],
    ),
    "runs without any number": ({f"run_{r}/model.pt": w(r) for r in (0, 1)}, [("model.pt", 0)]),
    "generator and critic": (
        {f"net{kind}_{e}.pth": w(50 * (kind == "D") + e) for kind in "GD" for e in (1, 2)},
        [("netG_1.pth", 1), ("netG_2.pth", 2)],
    ),
    # More of which number is it.
    "the number in front of the word": (
        {f"resnet_{e}ep_{a}.pth": w(e) for e, a in ((5, 71), (10, 73))},
        [("resnet_5ep_71.pth", 5), ("resnet_10ep_73.pth", 10)],
    ),
    "epochs in front of the word, then a loss": (
        {f"{e}epochs_{a}.pth": w(e) for e, a in ((5, 9), (10, 7))},
        [("5epochs_9.pth", 5), ("10epochs_7.pth", 10)],
    ),
    "before the first": (
        {"epoch_-1.pt": w(9), "epoch_1.pt": w(1), "epoch_2.pt": w(2)},
        [("epoch_-1.pt", 0), ("epoch_1.pt", 1), ("epoch_2.pt", 2)],
    ),
    "powers of ten": (
        {f"iter_{n}.pth": w(e) for e, n in enumerate(("1e3", "5e3", "1e4"))},
        [("iter_1e3.pth", 1000), ("iter_5e3.pth", 5000), ("iter_1e4.pth", 10_000)],
    ),
    "a score alone": ({"model_acc_93.pth": w(1)}, [("model_acc_93.pth", 0)]),
    "a long number alone": ({"net_123456789012.pt": w(1)}, [("net_123456789012.pt", 0)]),
    "a temporary file": (
        {**{f"ckpt_{e}.pt": w(e, epoch=e) for e in (1, 2)}, "ckpt_tmp.pt": w(3, epoch=3)},
        [("ckpt_1.pt", 1), ("ckpt_2.pt", 2)],
    ),
    "two runs, one a little longer": (
        {f"{r}/epoch_{e}.pt": w(20 * last + e) for r, last in (("a", 3), ("b", 4)) for e in range(last)},
        [(f"epoch_{e}.pt", e) for e in range(3)],
    ),
    "one between under another name": (
        {"epoch_1.pth": w(1), "model_epoch_2.pth": w(2), "epoch_3.pth": w(3)},
        [("epoch_1.pth", 1), ("model_epoch_2.pth", 2), ("epoch_3.pth", 3)],
    ),
    "parts of a training, nine and ten": (
        {f"part{n}x.pt": w(n) for n in (9, 10)},
        [("part9x.pt", 0), ("part10x.pt", 1)],
    ),
    "a mask behind its epoch": (
        {
            **{f"epoch_{e}.pt": w(e) for e in (1, 2)},
            **{f"epoch_{e}_mask.pt": {"0.weight": torch.ones(4, 4)} for e in (2, 3)},
        },
        [("epoch_1.pt", 1), ("epoch_2.pt", 2)],
    ),
}
