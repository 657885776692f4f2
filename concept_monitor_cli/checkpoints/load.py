"""Load a checkpoint: the network's weights under clean names, and what else the file says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from threading import Event
from typing import Any, Literal

import torch
from torch import Tensor

from concept_monitor_cli.checkpoints.accuracy import Accuracy, find_accuracy
from concept_monitor_cli.checkpoints.contents import (
    Weights,
    find_time,
    find_weights,
    holds_optimizer,
    plain_entries,
)
from concept_monitor_cli.checkpoints.digest import combined_digest, tensor_digest
from concept_monitor_cli.checkpoints.find import stem
from concept_monitor_cli.checkpoints.formats import PendingTensor, read_file
from concept_monitor_cli.checkpoints.names import epoch_in_name
from concept_monitor_cli.checkpoints.paths import in_utf8
from concept_monitor_cli.checkpoints.prefixes import strip_prefixes
from concept_monitor_cli.checkpoints.pruning import fold_masks
from concept_monitor_cli.errors import InputError

EpochSource = Literal["file", "name", "step"]


@dataclass
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        path: the file or folder.
        state_dict: name without wrappers' prefixes -> tensor on the CPU.
        epoch: the epoch that it is of; None where neither the file nor its name tells.
        step: the training step, where the file tells.
        epoch_source: "file": an entry `epoch`; "name": the file's name; "step": no epoch, the step was taken.
        where: under which names the weights were found ("state_dict", "model.ema"); "" for the top level.
        stripped: the prefixes that were taken off, outermost first.
        ema: whether these are a running average of the weights.
        others: other state dicts in the file that were not taken.
        ignored: names of tensors set aside, since they lay outside the common prefix.
        accuracy: on test or validation images, where the file states it.
        meta: small plain entries of the file, as JSON values (`arch`, `args`, `classes`).
        stated: the epoch and the step as the file itself states them, which may be fractions.
    """

    path: Path
    state_dict: dict[str, Tensor]
    epoch: int | None = None
    step: int | None = None
    epoch_source: EpochSource | None = None
    where: str = ""
    stripped: tuple[str, ...] = ()
    ema: bool = False
    others: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    accuracy: Accuracy | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    stated: tuple[Fraction | None, Fraction | None] = (None, None)

    @cached_property
    def digests(self) -> dict[str, str]:
        """The digest of every tensor. Reads all weights, once."""
        return {name: tensor_digest(tensor) for name, tensor in self.state_dict.items()}

    @cached_property
    def digest(self) -> str:
        """`weights_digest` of the state dict."""
        return combined_digest(self.digests)

    @cached_property
    def nonfinite(self) -> tuple[str, ...]:
        """Names of the tensors with NaN or infinite values. Reads all weights."""
        return tuple(name for name, tensor in self.state_dict.items() if not _is_finite(tensor))

    def require_finite(self) -> None:
        """Refuse weights with NaN or infinite values.

        Raises:
            InputError: there are some; says how many tensors, and the first.
        """
        if self.nonfinite:
            shown = ", ".join(self.nonfinite[:3]) + (" ..." if len(self.nonfinite) > 3 else "")
            raise InputError(
                f"NaN or infinite weights in {len(self.nonfinite)} of {len(self.state_dict)}: {shown}",
                where=self.path,
                hint="the training diverged before this checkpoint: leave it out",
            )

    @property
    def arch(self) -> str | None:
        """The architecture's name, where the file tells (`arch`, `args.arch`, `args.model`)."""
        places: list[Mapping[str, Any]] = [self.meta]
        places += [
            inner
            for key in ("args", "config", "hyper_parameters", "meta")
            if isinstance(inner := self.meta.get(key), dict)
        ]
        for place in places:
            for key in ("arch", "architecture", "model_name", "model"):
                if isinstance(value := place.get(key), str):
                    return value
        return None


def load_checkpoint(
    path: str | Path,
    *,
    trust_pickle: bool = False,
    mmap: bool = True,
    lazy: bool = False,
    stop: Event | None = None,
) -> Checkpoint:
    """Load a checkpoint of any of the known forms without running code.

    The state dict is looked for at the top level and under the names that trainers use; the network's own
    weights are taken before a running average of them. Prefixes of wrappers are stripped and the masks of
    pruning applied.

    Args:
        path: a `.pt .pth .ckpt .bin .safetensors .pth.tar` file, a folder of torch.distributed.checkpoint, or
            the `.index.json` of a checkpoint in several files.
        trust_pickle: also load what can only be loaded by running its code.
        mmap: read tensors on demand where the format allows it, so that an optimizer's state costs nothing.
        lazy: leave tensors on disk until they are touched (names, shapes and the epoch are known at once).
            Otherwise the weights are copied into memory and the file is not needed any more: a training that
            writes over it cannot change or crash what is being computed.
        stop: set by another thread, it ends the loading at the next tensor.

    Returns:
        The checkpoint.

    Raises:
        CancelledError: `stop` was set.
        InputError: cut off, empty, of a foreign format, without weights, or asking for code to be run.
    """
    path = in_utf8(Path(path))
    content, text = read_file(path, trust_pickle=trust_pickle, mmap=mmap)
    weights, others = find_weights(content)
    if weights is None:
        raise _no_weights(path, content, others)
    stripped = strip_prefixes(weights.tensors)
    if not any(weights.tensors[name].ndim for name in stripped.names):
        raise _no_weights(path, content, others)
    limit = _bytes_on_disk(path) + _SLACK
    state_dict = {}
    for old, new in stripped.names.items():
        if stop is not None and stop.is_set():
            raise CancelledError
        state_dict[new] = _usable(path, old, weights.tensors[old], limit, lazy)
    state_dict = fold_masks(state_dict, lazy=lazy)
    stated = _stated(content, text)
    epoch, source = _which_epoch(path, *map(_whole, stated))
    return Checkpoint(
        path=path,
        state_dict=state_dict,
        epoch=epoch,
        step=_whole(stated[1]),
        epoch_source=source,
        where=weights.where,
        stripped=stripped.prefixes,
        ema=weights.averaged or bool(stripped.prefixes and stripped.prefixes[0] in _AVERAGED_PREFIXES),
        others=tuple(_named(others, stripped.copies)),
        ignored=stripped.ignored,
        accuracy=find_accuracy({**text, **content} if isinstance(content, Mapping) else text),
        meta={**plain_entries(text), **plain_entries(content)},
        stated=stated,
    )


def _stated(content: object, text: Mapping[str, Any]) -> tuple[Fraction | None, Fraction | None]:
    """The epoch and the step that the file states, in its content or in the text beside it."""
    epoch, step = find_time(content)
    beside = find_time(text)
    return beside[0] if epoch is None else epoch, beside[1] if step is None else step


def _whole(number: Fraction | None) -> int | None:
    return int(number) if number is not None and number.denominator == 1 else None


# A tensor may repeat what is on disk (an expanded buffer), but not without end.
_SLACK = 64 * 2**20


def _bytes_on_disk(path: Path) -> int:
    files = path.parent.iterdir() if path.name.endswith(".index.json") else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


_AVERAGED_PREFIXES = ("ema.", "ema_model.", "model_ema.")


def _named(others: tuple[Weights, ...], copies: tuple[str, ...]) -> Iterator[str]:
    for other in others:
        yield other.where
    if copies:
        yield copies[0].partition(".")[0]


def _which_epoch(path: Path, epoch: int | None, step: int | None) -> tuple[int | None, EpochSource | None]:
    """The file's own epoch; else one that the name calls so; else the step; else any number in the name."""
    if epoch is not None:
        return epoch, "file"
    named = epoch_in_name(stem(path))
    if named is not None and (named.kind == "epoch" or step is None):
        return named.value, "name"
    if step is not None:
        return step, "step"
    return None, None


def _usable(path: Path, name: str, tensor: Tensor, limit: int, lazy: bool) -> Tensor:
    if isinstance(tensor, PendingTensor):
        return tensor if lazy else tensor.fetch()
    if tensor.is_quantized or tensor.layout != torch.strided or tensor.is_nested:
        raise InputError(
            f"{name} is quantised or sparse",
            where=path,
            hint="give the checkpoint of the network before quantising",
        )
    if type(tensor).__name__ in ("DTensor", "ShardedTensor"):
        raise InputError(
            f"{name} is one process's part of a sharded tensor",
            where=path,
            hint="save with torch.distributed.checkpoint, or gather the full state dict first",
        )
    if tensor.numel() * tensor.element_size() > limit:
        raise InputError(
            f"damaged: {name} claims to be larger than the file", where=path, hint="take another copy of it"
        )
    tensor = tensor.detach()
    return tensor if lazy else tensor.clone()


def _is_finite(tensor: Tensor) -> bool:
    if isinstance(tensor, PendingTensor):
        tensor = tensor.fetch()
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    if tensor.element_size() == 1:  # eight-bit floats know no isfinite
        tensor = tensor.float()
    # A sum passes every NaN and infinity on, and is ten times as fast; it may overflow where no weight does.
    return bool(tensor.sum().isfinite()) or bool(torch.isfinite(tensor).all())


class NoWeightsError(InputError):
    """The file can be read, and holds no weights of a network: an optimizer's state, or something else."""


def _no_weights(path: Path, content: object, others: tuple[Weights, ...]) -> InputError:
    if others:
        places = ", ".join(repr(other.where) for other in others[:4])
        return InputError(
            f"several state dicts under unknown names: {places}",
            where=path,
            hint="save the one to dissect as {'state_dict': ...}",
        )
    if holds_optimizer(content):
        return NoWeightsError("an optimizer's state, without weights of a network", where=path)
    if isinstance(content, Mapping):
        keys = ", ".join(str(key) for key in list(content)[:5])
        what = f"no weights in it; it holds {keys}" if keys else "an empty state dict"
    else:
        what = f"no weights in it; it holds a {type(content).__name__}"
    return NoWeightsError(
        what, where=path, hint="save the network's weights: torch.save(model.state_dict(), FILE)"
    )
