"""Where in what a file holds are the weights, and which epoch are they of?"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from concept_monitor_cli.checkpoints.standins import Opaque, Reference

# Under these names trainers keep the network's own weights, most telling first (compared in lower case).
PLAIN = (
    *("state_dict", "model", "model_state_dict", "net"),
    *("model_state", "network", "net_state_dict", "weights", "params", "module", "app"),
)
# Networks that are trained together with a copy of them: the trained one of each pair, and its copies.
TRAINED = (
    *("student", "student_state_dict", "model_student", "student_model", "online", "online_network"),
    *("online_encoder", "encoder_q", "query_encoder", "base_encoder", "model_s"),
)
# A running average of the weights.
AVERAGED = (
    *("ema", "state_dict_ema", "model_ema", "ema_state_dict", "model_ema_state_dict", "ema_model"),
    *("params_ema", "ema_params", "ema_weights", "ema_network", "net_ema", "shadow", "shadow_params"),
    *("swa", "swa_model", "swa_state_dict", "averaged_model", "average_model", "average_model_state"),
    *("averaging_state", "avg_model", "model_avg", "polyak", "polyak_average", "momentum_encoder"),
    *("teacher", "teacher_state_dict", "model_teacher", "teacher_model", "model_t"),
    *("target_network", "target_encoder", "encoder_k", "key_encoder", "momentum_model"),
)
# What lies beside them and holds tensors as well.
_OTHER_STATE = (
    *("optim", "sched", "scaler", "rng", "random", "callback", "loop", "amp", "criterion", "loss", "metric"),
    *("hyper_parameters", "hparams", "config", "cfg", "args", "datamodule", "sampler", "dataloader"),
)

_AVERAGED_WORD = re.compile(r"(?:^|_)(?:ema|swa|teacher)(?:_|$)")

_EPOCH_NAMES = ("epoch", "current_epoch", "cur_epoch", "epochs_run", "epoch_num")
_STEP_NAMES = ("global_step", "global_steps", "step", "iteration", "iter", "num_updates", "train_steps")
_META_NAMES = ("meta", "metadata", "state", "trainer_state", "train_state", "app")

# Weights and biases of a layer that torch.ao.quantization has converted.
_PACKED = re.compile(r"(\._packed_params)?\._packed_params$")
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
        lacking: names of entries that stand for objects of classes that are not imported, and are no tensors.
        from_module: whether a whole network was pickled, and these are its parameters and buffers.
        quantised: names of layers whose weights are kept in the packed form of torch's quantised ones.
    """

    where: str
    tensors: dict[str, Tensor]
    averaged: bool
    lacking: tuple[str, ...] = ()
    from_module: bool = False
    quantised: tuple[str, ...] = ()


Size = Callable[[Mapping[str, Tensor]], int]


def find_weights(
    content: object, *, key: str | None = None, known: Size | None = None
) -> tuple[Weights | None, tuple[Weights, ...]]:
    """The network's weights in a loaded object, and the other state dicts that it holds.

    The network's own weights come before a running average, names that trainers use before others; of a
    student and a teacher the student, which is the one that is trained. Under unknown names weights are taken
    where they are the only ones, or the only ones of a known network. Where there are no tensors at all,
    numpy's arrays under the names of parameters are taken for them.

    Args:
        content: what was loaded: mappings, tensors, a module.
        key: take the state dict under this name: the whole path to it ("ema.module"), or its first name.
        known: the size of the known network that a state dict holds, 0 where there is none.

    Returns:
        The weights (None where there are none, or where several under unknown names compete) and the others.
    """
    found = _ranked(content) or _ranked(_arrays_as_tensors(content))
    others = [weights for _, weights in found]
    if key is not None:
        chosen = next((weights for weights in others if _is_called(weights, key)), None)
        return chosen, tuple(weights for weights in others if weights is not chosen)
    if not found:
        return None, ()
    best = found[0][0][0]
    ties = [weights for rank, weights in found if rank[0] == best]
    if best in (_UNKNOWN, _AVERAGE) and len(found) > 1:
        unknown = [weights for rank, weights in found if rank[0] == _UNKNOWN]
        fitting = [weights for weights in unknown if known is not None and known(weights.tensors)]
        if len(fitting) == 1:  # `g` beside `g_ema`
            return fitting[0], tuple(weights for weights in others if weights is not fitting[0])
        if best == _UNKNOWN and len(ties) > 1:
            return None, tuple(others)
    return others[0], tuple(others[1:])


def _ranked(content: object) -> list[_Ranked]:
    return sorted(_walk(content, (), 0, [_MOST_VISITED]), key=lambda item: item[0])


def _arrays_as_tensors(content: object, done: dict[int, object] | None = None, depth: int = 0) -> object:
    """The same with tensors for arrays, where a mapping has several under dotted names (detectron2's `.pkl`).

    Args:
        content: what was loaded.
        done: by identity what was looked at already: one mapping may be there under any number of names.
        depth: below the whole.
    """
    done = {} if done is None else done
    if not isinstance(content, Mapping) or depth > _DEEPEST:
        return content
    if id(content) in done:
        return done[id(content)]
    arrays = {
        key: value
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, np.ndarray) and value.dtype.kind in "fi"
    }
    if sum("." in key for key in arrays) < _FEWEST_ARRAYS:
        made = {key: _arrays_as_tensors(value, done, depth + 1) for key, value in content.items()}
    else:
        native = {
            key: value.astype(value.dtype.newbyteorder("="), order="C") for key, value in arrays.items()
        }
        made = {**content, **{key: torch.from_numpy(value) for key, value in native.items()}}
    done[id(content)] = made
    return made


def hidden_weights(content: object) -> tuple[str, ...]:
    """The names under which weights would stand and an object does that only its own code can open."""
    if not isinstance(content, Mapping):
        return ()
    return tuple(
        str(name)
        for name, value in content.items()
        if str(name).lower() in (PLAIN + TRAINED + AVERAGED)
        and isinstance(value, Opaque)
        and value.entries is None
        and not isinstance(value.state, dict)
    )


def _is_called(weights: Weights, key: str) -> bool:
    where, key = weights.where.lower(), key.lower().strip(".")
    return key in (where, where.partition(".")[0], where.rpartition(".")[2])


_OWN, _TRAINED, _AVERAGE, _UNKNOWN = range(4)
_Ranked = tuple[tuple[int, int, int], Weights]
# With fewer it is no network.
_FEWEST_ARRAYS = 6
_MOST_NAMES = 200_000
# Entries looked at: a small pickle can hold the same dict under any number of names, at every depth.
_MOST_VISITED = 1_000_000


def _entries(value: object) -> tuple[Mapping[Any, Any] | None, bool]:
    """What an object holds under names, and whether it is a whole network."""
    if isinstance(value, nn.Module):
        return value.state_dict(), True
    if isinstance(value, Mapping):
        return value, False
    if isinstance(value, Opaque):
        if _is_module(value):
            return _module_entries(value), True
        if value.entries is not None:
            return value.entries, False
        if isinstance(value.state, dict):
            # Attributes of an object: networks may be among them, its own tensors are none of a network.
            kept = {name: item for name, item in value.state.items() if not isinstance(item, Tensor)}
            return kept, False
    return None, False


def _is_module(value: object) -> bool:
    """Whether an object that was not made is a network: it has what `nn.Module` keeps."""
    state = value.state if isinstance(value, Opaque) else None
    return isinstance(state, dict) and all(
        isinstance(state.get(name), dict) for name in ("_parameters", "_buffers", "_modules")
    )


def _module_entries(module: Opaque) -> dict[str, Any]:
    """The state dict of a pickled network, from the attributes of its modules, in torch's order."""
    found: dict[str, Any] = {}
    waiting: list[tuple[str, Any]] = [("", module)]
    for _ in range(_MOST_NAMES):
        if not waiting:
            break
        prefix, inner = waiting.pop()
        if not _is_module(inner):
            continue
        fleeting = inner.state.get("_non_persistent_buffers_set") or ()
        for kind in ("_parameters", "_buffers"):
            for name, value in inner.state[kind].items():
                if value is not None and not (kind == "_buffers" and name in fleeting):
                    found[f"{prefix}{name}"] = value
        children = [(f"{prefix}{name}.", child) for name, child in inner.state["_modules"].items()]
        waiting.extend(reversed(children))
    return found


def _walk(value: object, path: tuple[str, ...], depth: int, left: list[int]) -> Iterator[_Ranked]:
    """All state dicts, each with its rank: the network's own, then averaged, then of unknown names."""
    entries, whole = _entries(value)
    if entries is None or _is_optimizer(entries) or left[0] <= 0:
        return
    left[0] -= len(entries)
    inner: list[_Ranked] = []
    if depth < _DEEPEST and not whole:
        for key, item in entries.items():
            if not isinstance(key, str):
                continue
            below = _walk(item, (*path, key), depth + 1, left)
            if key.lower().startswith(_OTHER_STATE):
                # Callbacks keep running averages of the weights as well.
                below = (found for found in below if found[1].averaged and key.lower().startswith("callback"))
            inner += below
    direct = {key: item for key, item in entries.items() if isinstance(key, str) and isinstance(item, Tensor)}
    # A tensor beside a state dict (class weights, a best score) does not make its parent one.
    if any(tensor.ndim for tensor in direct.values()) and all(rank[0] == _UNKNOWN for rank, _ in inner):
        lacking = tuple(
            key for key, item in entries.items() if isinstance(key, str) and _stands_for_weights(key, item)
        )
        averaged = _rank(path, depth)[0] == _AVERAGE or any(map(is_averaged, path))
        packed = tuple(
            _PACKED.sub("", key) for key in entries if isinstance(key, str) and _PACKED.search(key)
        )
        yield _rank(path, depth), Weights(".".join(path), direct, averaged, lacking, whole, packed)
    else:
        yield from _of_weight_averaging(entries, inner) if depth == 0 else inner


def _stands_for_weights(key: str, value: object) -> bool:
    """Whether an object among tensors stands for one of them, of a class that is not imported."""
    if not isinstance(value, Opaque) or key.endswith("_extra_state"):
        return False
    return "." in key or any(isinstance(arg, Tensor) for arg in value.args)


def _of_weight_averaging(entries: Mapping[Any, Any], found: list[_Ranked]) -> Iterator[_Ranked]:
    """Lightning's `WeightAveraging` puts the average in the place of the weights, and these beside it."""
    swapped = {"averaging_state", "current_model_state"} <= entries.keys()
    for rank, weights in found:
        if swapped and weights.where == "state_dict":
            yield (_AVERAGE, *rank[1:]), replace(weights, averaged=True)
        elif swapped and weights.where == "current_model_state":
            yield (_OWN, *rank[1:]), weights
        else:
            yield rank, weights


def is_averaged(name: str) -> bool:
    """Whether a name is that of a running average: `ema`, `g_ema`, `teacher_backbone`.

    >>> is_averaged("g_ema"), is_averaged("schema")
    (True, False)
    """
    lowered = name.lower()
    return lowered in AVERAGED or _bare(lowered) in AVERAGED or _AVERAGED_WORD.search(lowered) is not None


def _bare(name: str) -> str:
    """`online_network_state_dict` as `online_network`."""
    return name.removesuffix("_state_dict")


def _rank(path: tuple[str, ...], depth: int) -> tuple[int, int, int]:
    names = [name.lower() for name in path]
    if any(map(is_averaged, names)):
        return _AVERAGE, 0, depth
    if any(name in TRAINED or _bare(name) in TRAINED for name in names):
        return _TRAINED, 0, depth
    if any(name not in PLAIN for name in names):
        return _UNKNOWN, 0, depth
    return _OWN, PLAIN.index(names[0]) if names else 0, depth


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
        if isinstance(value, Opaque):
            entries = None if _is_module(value) else value.entries or value.state
        if isinstance(value, (nn.Module, Tensor, torch.dtype, Reference, Callable)):  # type: ignore[arg-type]
            return None
        if not isinstance(entries, Mapping) or len(entries) > 4 * _MOST_ENTRIES:
            return None
        inner = {
            str(key): plain
            for key, item in entries.items()
            if isinstance(key, (str, int, float)) and (plain := _plain(item, depth + 1)) is not None
        }
        return inner if 0 < len(inner) <= _MOST_ENTRIES else None
    return None
