"""Weights that open_clip itself does not read: Hugging Face's names, OpenAI's TorchScript archives."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from concept_monitor_cli.encoders.hf_clip import is_hf_clip, to_open_clip
from concept_monitor_cli.encoders.torchscript import is_torchscript, torchscript_weights


def converted_weights(paths: Sequence[Path]) -> dict[str, torch.Tensor] | None:
    """The weights under open_clip's names, or None where open_clip reads the file itself.

    Args:
        paths: one file, or the parts of one that was split (`model-00001-of-00002.safetensors`).

    Raises:
        Exception: what torch and safetensors raise for damaged files.
    """
    first = paths[0]
    if first.suffix == ".safetensors":
        from safetensors import safe_open
        from safetensors.torch import load_file

        with safe_open(first, framework="pt") as file:
            names = list(file.keys())
        if len(paths) == 1 and not is_hf_clip(names):
            return None
        parts = [load_file(path) for path in paths]
    elif is_torchscript(first):
        return torchscript_weights(first)
    else:
        try:
            parts = [torch.load(path, map_location="cpu", weights_only=True, mmap=True) for path in paths]
        except Exception:  # open_clip tries too, and its error is turned into ours
            return None
        if not isinstance(parts[0], dict) or not is_hf_clip([str(name) for name in parts[0]]):
            return None
    return to_open_clip({name: value for part in parts for name, value in part.items()})


@contextmanager
def without_warning(text: str) -> Iterator[None]:
    """Inside, the root logger does not say what contains this text."""

    def wanted(record: logging.LogRecord) -> bool:
        return text not in record.getMessage()

    root = logging.getLogger()
    root.addFilter(wanted)
    try:
        yield
    finally:
        root.removeFilter(wanted)
