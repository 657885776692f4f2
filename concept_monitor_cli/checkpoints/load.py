"""Load a checkpoint: the network's weights under clean names, and what else the file says."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
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
    hidden_weights,
    holds_optimizer,
    plain_entries,
)
from concept_monitor_cli.checkpoints.digest import combined_digest, tensor_digest
from concept_monitor_cli.checkpoints.find import stem
from concept_monitor_cli.checkpoints.formats import NoWeightsError, PendingTensor, Read, read_file, run_file
from concept_monitor_cli.checkpoints.locate import is_average, known_size
from concept_monitor_cli.checkpoints.names import epoch_in_name
from concept_monitor_cli.checkpoints.network import find_network
from concept_monitor_cli.checkpoints.paths import in_utf8
from concept_monitor_cli.checkpoints.standins import Opaque, UnreadableTensor
from concept_monitor_cli.checkpoints.transformers_names import Family
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.wording import counted

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
        averages: those of `others` that are running averages of the weights.
        ignored: names of tensors set aside, since they are no part of the network.
        unread: classes of objects in the file that were left out, "module.name".
        notes: sentences for the user: which of several networks was taken, what was folded or set aside.
        family: of transformers, where the names were translated from that library's.
        config: the content of `config.json` beside such a checkpoint.
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
    averages: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    family: Family | None = None
    config: dict[str, Any] = field(default_factory=dict)
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
    lazy: bool = False,
    stop: Event | None = None,
    model: str | None = None,
    prefix: str | None = None,
    weights_key: str | None = None,
    progress: Progress = SILENT,
) -> Checkpoint:
    """Load a checkpoint of any of the known forms without running code.

    The state dict is looked for at the top level and under the names that trainers use; the network's own
    weights are taken before a running average of them. Prefixes of wrappers are stripped and the masks of
    pruning applied. What is left is searched for a known network, and the rest is set aside.

    Args:
        path: a `.pt .pth .ckpt .bin .safetensors .pth.tar` file, a folder of torch.distributed.checkpoint, or
            the `.index.json` of a checkpoint in several files.
        trust_pickle: where the weights cannot be read otherwise, run the code of the file.
        lazy: leave tensors on disk until they are touched (names, shapes and the epoch are known at once).
            Otherwise the weights are copied into memory and the file is not needed any more: a training that
            writes over it cannot change or crash what is being computed.
        stop: set by another thread, it ends the loading at the next tensor.
        model: what was given as `--model`. The names of a network of the user's own code (`file.py:factory`)
            are left as they are.
        prefix: take the network below these names, instead of looking for one.
        weights_key: take the state dict under this name of the file, instead of looking for one.
        progress: told what the file holds that was not read.

    Returns:
        The checkpoint.

    Raises:
        CancelledError: `stop` was set.
        NoWeightsError: it holds what training keeps beside the weights.
        InputError: cut off, empty, of a foreign format, without weights, or naming dangerous functions.
    """
    path = in_utf8(Path(path))
    read, weights, others = _weights_of(path, trust_pickle, weights_key)
    content, text = read.value, read.text or {}
    if read.unknown:
        progress.detail(f"{path.name}: objects left out, their code is not needed: {', '.join(read.unknown)}")
    limit = _bytes_on_disk(path) + _SLACK
    config = _config_beside(path)
    found = find_network(
        weights.tensors,
        lambda old: _usable(path, old, weights.tensors[old], limit, lazy),
        lazy=lazy,
        stop=stop,
        own=model is not None and ":" in model,
        prefix=prefix,
        config=config,
        lora=_json_beside(path, "adapter_config.json"),
        where=path,
    )
    if found is None:
        raise _no_weights(path, content, others)
    stated = _stated(content, text)
    epoch, source = _which_epoch(path, *map(_whole, stated))
    averages = tuple(other.where for other in others if other.averaged)
    averages += tuple(name for name in found.copies if is_average(f"{name}."))
    meta = {**plain_entries(text), **plain_entries(content)}
    if isinstance(called := config.get("architecture"), str):
        meta.setdefault("arch", called)
    return Checkpoint(
        path=path,
        state_dict=found.state_dict,
        epoch=epoch,
        step=_whole(stated[1]),
        epoch_source=source,
        where=weights.where,
        stripped=found.prefixes,
        ema=weights.averaged or bool(found.prefixes and found.prefixes[0] in _AVERAGED_PREFIXES),
        others=(*(other.where for other in others), *found.copies),
        averages=averages,
        ignored=found.ignored,
        unread=read.unknown,
        notes=(*_which_weights(weights, others), *found.notes),
        family=found.family,
        config=config if found.family is not None else {},
        accuracy=find_accuracy({**text, **content} if isinstance(content, Mapping) else text),
        meta=meta,
        stated=stated,
    )


def checkpoint_of(
    tensors: Mapping[str, Tensor],
    path: Path,
    *,
    epoch: int,
    model: str | None = None,
    config: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """What `load_checkpoint` would give for these weights, saved in a file: without the file.

    Args:
        tensors: a network's state dict, on the CPU.
        path: where the file would lie, for messages.
        epoch: that they are of.
        model: what was given as `--model`.
        config: what a `config.json` beside the file would say.

    Raises:
        InputError: there are no weights in it, or they are kept in a form that cannot be used.
    """
    found = find_network(
        tensors,
        lambda name: _usable(path, name, tensors[name], 2**63, False),
        lazy=False,
        own=model is not None and ":" in model,
        config=config,
        where=path,
    )
    if found is None:
        raise InputError("the network has no weights", where=path)
    return Checkpoint(
        path=path,
        state_dict=found.state_dict,
        epoch=epoch,
        epoch_source="file",
        stripped=found.prefixes,
        ignored=found.ignored,
        notes=found.notes,
        family=found.family,
        config=dict(config or {}) if found.family is not None else {},
        stated=(Fraction(epoch), None),
    )


def _stated(content: object, text: Mapping[str, Any]) -> tuple[Fraction | None, Fraction | None]:
    """The epoch and the step that the file states, in its content or in the text beside it."""
    epoch, step = find_time(content)
    beside = find_time(text)
    return beside[0] if epoch is None else epoch, beside[1] if step is None else step


def _whole(number: Fraction | None) -> int | None:
    return int(number) if number is not None and number.denominator == 1 else None


def _weights_of(path: Path, trust_pickle: bool, key: str | None) -> tuple[Read, Weights, tuple[Weights, ...]]:
    """What a file holds and the weights in it; with `trust_pickle` by running its code, where needed."""
    try:
        return _complete(path, read_file(path), key)
    except NoWeightsError:
        raise
    except InputError:
        if not trust_pickle or path.is_dir() or path.name.endswith((".index.json", ".safetensors")):
            raise
    return _complete(path, run_file(path), key)


def _complete(path: Path, read: Read, key: str | None) -> tuple[Read, Weights, tuple[Weights, ...]]:
    weights, others = find_weights(read.value, key=key, known=lambda tensors: known_size(_shapes(tensors)))
    if weights is None and key is not None:
        there = ", ".join(repr(other.where) for other in others[:6] if other.where) or "one, at the top level"
        hint = f"--weights-key: there is {there}"
        if any(name.startswith(f"{key.strip('.')}.") for other in others for name in other.tensors):
            hint = f"names of weights begin so: --prefix {key.strip('.')}"
        raise InputError(f"no state dict is called {key!r}", where=path, hint=hint)
    if weights is None:
        raise _no_weights(path, read.value, others, read.unknown)
    if not any(tensor.is_floating_point() or tensor.is_complex() for tensor in weights.tensors.values()):
        raise NoWeightsError("no weights in it: its tensors hold whole numbers only", where=path)
    if weights.lacking:
        raise _not_imported(path, weights.lacking)
    if weights.quantised and not known_size(_shapes(weights.tensors)):
        raise InputError(
            f"{weights.quantised[0]} is quantised or sparse", where=path, hint=_BEFORE_QUANTISING
        )
    if _SIDE.fullmatch(stem(path)) and not known_size(_shapes(weights.tensors)):
        raise NoWeightsError("state of the training, without weights of a known network", where=path)
    if _is_partition(read.value, weights.tensors):
        raise InputError(
            "one process's partition of a ZeRO-3 training, without whole weights",
            where=path,
            hint="join the partitions: python zero_to_fp32.py CHECKPOINT_FOLDER FILE (DeepSpeed wrote it)",
        )
    return read, weights, others


def _not_imported(path: Path, names: tuple[str, ...]) -> InputError:
    return InputError(
        f"{counted(len(names), 'weights are')} objects of classes that are not imported: "
        f"{', '.join(names[:3])}",
        where=path,
        hint="save plain tensors: torch.save(model.state_dict(), FILE), or --trust-pickle if it is yours",
    )


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _is_partition(content: object, tensors: Mapping[str, Tensor]) -> bool:
    """DeepSpeed's ZeRO-3 leaves empty tensors in the place of the weights."""
    empty = sum(tensor.numel() == 0 for tensor in tensors.values())
    return isinstance(content, Mapping) and "param_shapes" in content and 2 * empty > len(tensors)


def _which_weights(taken: Weights, others: tuple[Weights, ...]) -> tuple[str, ...]:
    """Sentences where the file holds several networks, or layers that cannot be read."""
    rivals = [other.where for other in others if other.where]
    if taken.quantised:
        packed = ", ".join(taken.quantised[:4]) + (" ..." if len(taken.quantised) > 4 else "")
        return (f"quantised layers left out: {packed}; {_BEFORE_QUANTISING}",)
    if not rivals or not taken.where:
        return ()
    shown = ", ".join(map(repr, rivals[:4])) + (" ..." if len(rivals) > 4 else "")
    return (f"weights of {taken.where!r} taken; the file also holds {shown} (--weights-key to choose)",)


def _config_beside(path: Path) -> dict[str, Any]:
    """The `config.json` that transformers and timm write beside checkpoints; empty where there is none."""
    found = _json_beside(path, "config.json") or {}
    known = "model_type" in found or "architecture" in found or "architectures" in found
    return found if known else {}


def _json_beside(path: Path, name: str) -> dict[str, Any] | None:
    file = path.parent / name
    try:
        if not file.is_file() or file.stat().st_size > _MOST_JSON:
            return None
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


_MOST_JSON = 1_000_000


_BEFORE_QUANTISING = "give the checkpoint of the network before quantising"

# A tensor may repeat what is on disk (an expanded buffer), but not without end.
_SLACK = 64 * 2**20


def _bytes_on_disk(path: Path) -> int:
    files = path.parent.iterdir() if path.name.endswith(".index.json") else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


_AVERAGED_PREFIXES = ("ema.", "ema_model.", "model_ema.")


# `model-00001-of-00002`: the number of a part is no epoch.
_PART_OF_SEVERAL = re.compile(r"-\d{5}-of-\d{5}$")


def _which_epoch(path: Path, epoch: int | None, step: int | None) -> tuple[int | None, EpochSource | None]:
    """The file's own epoch; else one that the name calls so; else the step; else any number in the name."""
    if epoch is not None:
        return epoch, "file"
    named = epoch_in_name(_PART_OF_SEVERAL.sub("", stem(path)))
    if named is not None and (named.kind == "epoch" or step is None):
        return named.value, "name"
    if step is not None:
        return step, "step"
    return None, None


def _usable(path: Path, name: str, tensor: Tensor, limit: int, lazy: bool) -> Tensor:
    if isinstance(tensor, PendingTensor):
        return tensor if lazy else tensor.fetch()
    if isinstance(tensor, UnreadableTensor):
        hint = _BEFORE_QUANTISING
        if "sharded" in tensor.reason:
            hint = "save with torch.distributed.checkpoint, or gather the full state dict first"
        elif "quantised" not in tensor.reason:
            hint = "save it again with torch.save(model.state_dict(), FILE)"
        raise InputError(f"{name} is {tensor.reason}", where=path, hint=hint)
    if tensor.is_quantized or tensor.layout != torch.strided or tensor.is_nested:
        raise InputError(
            f"{name} is quantised or sparse",
            where=path,
            hint=_BEFORE_QUANTISING,
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


# What trainers call what they save beside the weights.
_SIDE = re.compile(
    r".*(optim(izer)?(_states?)?|optim_states|sampler|(lr_?)?scheduler|(grad_?)?scaler|rng_?states?|random_?states?_?\d*|"
    r"training_args|trainer_state|custom_checkpoint|dataloader|loss_scaler|train_state)([_\-.]?\d+)*",
    re.IGNORECASE,
)


def _is_beside(path: Path, content: Mapping[Any, Any]) -> bool:
    """Whether this is the state of a sampler, a scheduler, a random generator or the like."""
    if _SIDE.fullmatch(stem(path)):
        return True
    names = {str(key).lower() for key in content}
    return bool(
        names & {"optimizer_state_dict", "param_groups", "base_lrs", "growth_factor", "_growth_tracker"}
    )


def _no_weights(
    path: Path, content: object, others: tuple[Weights, ...], unknown: tuple[str, ...] = ()
) -> InputError:
    if others:
        places = ", ".join(repr(other.where) for other in others[:4])
        return InputError(
            f"several state dicts under unknown names: {places}", where=path, hint="--weights-key chooses one"
        )
    if hidden := hidden_weights(content):
        return _not_imported(path, hidden)
    if holds_optimizer(content):
        return NoWeightsError("an optimizer's state, without weights of a network", where=path)
    if isinstance(content, Mapping) and _is_beside(path, content):
        keys = ", ".join(str(key) for key in list(content)[:5])
        return NoWeightsError(f"state of the training, without weights; it holds {keys}", where=path)
    if isinstance(content, Opaque) and content.name.endswith("Arguments"):
        return NoWeightsError(f"arguments of a training ({content.name}), without weights", where=path)
    if isinstance(content, Mapping):
        keys = ", ".join(str(key) for key in list(content)[:5])
        what = f"no weights in it; it holds {keys}" if keys else "an empty state dict"
    else:
        what = f"no weights in it; it holds a {type(content).__name__}"
    hint = "save the network's weights: torch.save(model.state_dict(), FILE)"
    if unknown:
        what += f", and objects whose code was not run: {', '.join(unknown[:3])}"
        hint += ", or --trust-pickle if the file is your own"
    return NoWeightsError(what, where=path, hint=hint)
