"""Where to compute."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.models.allocator import keep_freed_memory


def resolve_device(name: str = "auto") -> torch.device:
    """The device that `--device` names. On the CPU, freed memory is kept from here on (`keep_freed_memory`).

    Of several tasks that `srun` started on a machine with several GPUs, each takes one of its own; the GPU is
    made torch's current one, so that nothing is left on another.

    Args:
        name: `auto` (CUDA, else Apple's MPS, else the CPU), `cpu`, `cuda`, `cuda:1`, `mps`.

    Raises:
        InputError: no such device on this machine.
    """
    device = _named(name)
    if device.type == "cpu":
        keep_freed_memory()
    if device.type == "cuda":
        if device.index is None and (own := local_gpu(os.environ, torch.cuda.device_count())) is not None:
            device = torch.device("cuda", own)
        if device.index is not None:
            torch.cuda.set_device(device)
    return device


def local_gpu(environment: Mapping[str, str], gpus: int) -> int | None:
    """The GPU of one of several tasks of an `srun`: the one of the task's number on its machine.

    More tasks than GPUs take turns. Where SLURM shows each task one GPU only (`--gpus-per-task`), that is it.

    Args:
        environment: the environment variables, as `os.environ`.
        gpus: how many this process sees.

    Returns:
        From 0; `None` outside such a step, or with one GPU.
    """
    place, tasks = (environment.get(name, "") for name in ("SLURM_LOCALID", "SLURM_STEP_NUM_TASKS"))
    if gpus < 2 or "SLURM_STEP_ID" not in environment or tasks in ("", "1") or not place.isdecimal():
        return None
    return int(place) % gpus


def _named(name: str) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(
            f"{name!r} is not a device", where="--device", hint="auto, cpu, cuda, cuda:1 or mps"
        ) from error
    available = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }.get(device.type, 0)
    if (device.index or 0) >= available:
        found = f"this machine has {available} of them" if available else "this machine has none"
        raise InputError(
            f"there is no device {name}: {found}", where="--device", hint="--device auto takes the best"
        )
    return device
