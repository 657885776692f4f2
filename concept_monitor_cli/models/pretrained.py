"""Pretrained weights of torchvision and timm in the place of a checkpoint: `torchvision/NAME`, `timm/NAME`.

They are taken from where the libraries themselves keep what they have downloaded; nothing is downloaded here.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlparse

import torch

from concept_monitor_cli.errors import InputError

_SPEC = re.compile(r"(torchvision|timm)/([\w.\-]+)")


def pretrained_files(specs: Sequence[str | Path], model: str | None) -> tuple[list[str | Path], str | None]:
    """Checkpoints with the files of pretrained weights in the place of `torchvision/NAME` and `timm/NAME`.

    Args:
        specs: folders, files, globs, and names of networks; what exists as a path is a path.
        model: what was given as `--model`.

    Returns:
        The same with files, and `--model`: the network's name, where it is the only thing that was given.

    Raises:
        InputError: there is no such network, it has no weights, or they were not downloaded yet.
    """
    found: list[str | Path] = []
    named = []
    for spec in specs:
        match = None if Path(spec).expanduser().exists() else _SPEC.fullmatch(str(spec))
        if match is None:
            found.append(spec)
            continue
        of_library = _of_torchvision if match[1] == "torchvision" else _of_timm
        found.append(of_library(match[2]))
        named.append(str(spec))
    if len(specs) == len(named) == 1 and model is None:
        model = named[0]
    return found, model


def _of_torchvision(name: str) -> Path:
    import concept_monitor_cli._torchvision  # noqa: F401  isort: skip
    from torchvision import models

    if name not in models.list_models(module=models):
        raise _unknown(f"torchvision/{name}", models.list_models(module=models))
    weights = list(models.get_model_weights(name))
    default = models.get_model_weights(name).DEFAULT
    for entry in [default, *(other for other in weights if other is not default)]:
        file = _hub_file(entry.url)
        if file.is_file():
            return file
    fetch = (
        f'python -c "import torchvision; torchvision.models.get_model({name!r}, weights={default.name!r})"'
    )
    raise _not_here(f"torchvision/{name}", _hub_file(default.url), fetch)


def _of_timm(name: str) -> Path:
    import concept_monitor_cli._torchvision  # noqa: F401  isort: skip
    import timm

    if not timm.is_model(name):
        raise _unknown(f"timm/{name}", timm.list_models())
    config = timm.get_pretrained_cfg(name)
    if config is None or not (config.hf_hub_id or config.url or config.file):
        raise InputError(f"timm has no weights of {name}", where=f"timm/{name}", hint="give a checkpoint")
    if config.file and Path(config.file).is_file():
        return Path(config.file)
    if config.hf_hub_id:
        from huggingface_hub import try_to_load_from_cache

        for file in (config.hf_hub_filename, "model.safetensors", "pytorch_model.bin"):
            cached = try_to_load_from_cache(config.hf_hub_id, file) if file else None
            if isinstance(cached, str):
                return Path(cached)
    if config.url and _hub_file(config.url).is_file():
        return _hub_file(config.url)
    fetch = f'python -c "import timm; timm.create_model({name!r}, pretrained=True)"'
    raise _not_here(f"timm/{name}", config.hf_hub_id or config.url, fetch)


def _hub_file(url: str) -> Path:
    """Where torch.hub keeps what it has downloaded from there."""
    return Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(url).path).name)


def _unknown(spec: str, names: Sequence[str]) -> InputError:
    library, _, name = spec.partition("/")
    near = difflib.get_close_matches(name.lower(), names, n=3)
    meant = " or ".join(f"{library}/{other}" for other in near)
    return InputError(
        f"no such file or folder, and {library} has no network of that name",
        where=spec,
        hint=f"did you mean {meant}?" if meant else "give a folder of checkpoints, a file or a glob",
    )


def _not_here(spec: str, place: object, fetch: str) -> InputError:
    return InputError(
        f"the pretrained weights were not downloaded yet ({place})",
        where=spec,
        hint=f"where there is a network: {fetch}",
    )
