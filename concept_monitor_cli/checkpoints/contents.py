"""Where in what a file holds are the weights, and which epoch are they of?"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# Under these names trainers keep the network's own weights, most telling first (compared in lower case).
PLAIN = (
    *("state_dict", "model", "model_state_dict", "net"),
    *("model_state", "network", "net_state_dict", "weights", "params", "module", "app"),
)
# And a running average of them.
AVERAGED = (
    "ema",
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "model_ema_state_dict",
    "ema_model",
    "params_ema",
)
# What lies beside them and holds tensors as well.
_OTHER_STATE = (
    "optim",
    "sched",
    "scaler",
    "rng",
    "random",
    "callback",
    "loop",
    "amp",
    "criterion",
    "loss",
    "metric",
)

_EPOCH_NAMES = ("epoch", "current_epoch", "cur_epoch", "epochs_run", "epoch_num")
_STEP_NAMES = ("global_step", "global_steps", "step", "iteration", "iter", "num_updates", "train_steps")
_META_NAMES = ("meta", "metadata", "state", "trainer_state", "train_state", "app")

_DECIMAL = re.compile(r"\d{1,15}(\.\d{1,15})?")
_DEEPEST = 3
_LONGEST_TEXT = 200
_MOST_ENTRIES = 64


@dataclass(frozen=True)
class Weights:
    """A state dict found inside a file.

    Attributes:
        where: the names that lead to it, joined by "."; "" at the top level.
        tensors: its tensors.
        averaged: whether the names say that it is a running average.
    """

    where: str
    tensors: dict[str, Tensor]
    averaged: bool


def find_weights(content: object) -> tuple[Weights | None, tuple[Weights, ...]]:
    """The network's weights in a loaded object, and the other state dicts that it holds.

    The network's own weights come before a running average, names that trainers use before others. Under
    an unknown name weights are taken only where they are the only ones.

    Args:
        content: what was loaded: mappings, tensors, a module.

    Returns:
        The weights (None where there are none, or where several under unknown names compete) and the others.
    """
    found = sorted(_walk(content, (), 0), key=lambda item: item[0])
    if not found:
        return None, ()
    best = found[0][0][0]
    ties = [weights for rank, weights in found if rank[0] == best]
    others = [weights for _, weights in found]
    if best == _UNKNOWN and len(ties) > 1:
        return None, tuple(others)
    return others[0], tuple(others[1:])


_UNKNOWN = 3
_Ranked = tuple[tuple[int, int, int], Weights]


def _walk(value: object, path: tuple[str, ...], depth: int) -> Iterator[_Ranked]:
    """All state dicts, each with its rank: the network's own, then averaged, then of unknown names."""
    if isinstance(value, nn.Module):
        value = value.state_dict()
    if not isinstance(value, Mapping) or _is_optimizer(value):
        return
    inner: list[_Ranked] = []
    if depth < _DEEPEST:
        for key, item in value.items():
            if isinstance(key, str) and not key.lower().startswith(_OTHER_STATE):
                inner += _walk(item, (*path, key), depth + 1)
    direct = {key: item for key, item in value.items() if isinstance(key, str) and isinstance(item, Tensor)}
    # A tensor beside a state dict (class weights, a best score) does not make its parent one.
    if any(tensor.ndim for tensor in direct.values()) and all(rank[0] == _UNKNOWN for rank, _ in inner):
        yield (
            _rank(path, depth),
            Weights(".".join(path), direct, any(name.lower() in AVERAGED for name in path)),
        )
    else:
        yield from inner


def _rank(path: tuple[str, ...], depth: int) -> tuple[int, int, int]:
    names = [name.lower() for name in path]
    if any(name not in PLAIN + AVERAGED for name in names):
        return _UNKNOWN, 0, depth
    averaged = any(name in AVERAGED for name in names)
    return 2 if averaged else 0, PLAIN.index(names[0]) if names and names[0] in PLAIN else 0, depth


def _is_optimizer(value: Mapping[Any, Any]) -> bool:
    return "param_groups" in value or (bool(value) and all(isinstance(key, int) for key in value))


def holds_optimizer(content: object) -> bool:
    """Whether this is (or holds) the state of an optimizer."""
    if not isinstance(content, Mapping):
        return False
    return _is_optimizer(content) or any(
        isinstance(value, Mapping) and _is_optimizer(value) for value in content.values()
    )


def find_time(content: object) -> tuple[Fraction | None, Fraction | None]:
    """The epoch and the step that a loaded object states, maybe fractions; None where it states none."""
    if not isinstance(content, Mapping):
        return None, None
    epoch, step = _number(content, _EPOCH_NAMES), _number(content, _STEP_NAMES)
    for name in _META_NAMES:
        inner = content.get(name)
        if isinstance(inner, Mapping) and not _is_optimizer(inner):
            epoch = _number(inner, _EPOCH_NAMES) if epoch is None else epoch
            step = _number(inner, _STEP_NAMES) if step is None else step
    return epoch, step


def _number(content: Mapping[Any, Any], names: tuple[str, ...]) -> Fraction | None:
    lowered = {key.lower(): value for key, value in content.items() if isinstance(key, str)}
    for name in names:
        value = lowered.get(name)
        if isinstance(value, Tensor):
            value = value.item() if value.numel() == 1 and not value.is_meta else None
        elif isinstance(value, str):  # safetensors keeps text only
            value = float(value) if _DECIMAL.fullmatch(value) else None
        elif isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        if 0 <= value < math.inf:
            return Fraction(value) if isinstance(value, int) else Fraction(str(value))
    return None


def plain_entries(content: object) -> dict[str, Any]:
    """The small plain entries beside the weights, as JSON values: `arch`, `args`, a list of classes."""
    if not isinstance(content, Mapping):
        return {}
    found = {}
    for key, value in content.items():
        if isinstance(key, str) and (plain := _plain(value)) is not None:
            found[key] = plain
    return found


def _plain(value: object, depth: int = 0) -> Any:
    """The value as JSON; None where it is no small plain value."""
    if isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        return value if len(value) <= _LONGEST_TEXT else None
    if depth < 2 and isinstance(value, (list, tuple)) and 0 < len(value) <= _MOST_ENTRIES:
        items = [_plain(item, depth + 1) for item in value]
        return None if any(item is None for item in items) else items
    if depth < 2:
        entries = value if isinstance(value, Mapping) else getattr(value, "__dict__", None)
        if isinstance(value, (nn.Module, Tensor, torch.dtype, Callable)) or not isinstance(entries, Mapping):  # type: ignore[arg-type]
            return None
        inner = {
            str(key): plain for key, item in entries.items() if (plain := _plain(item, depth + 1)) is not None
        }
        return inner if 0 < len(inner) <= _MOST_ENTRIES else None
    return None
