"""How the names and shapes of a checkpoint differ from those of a network, and copying where they do not."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from concept_monitor_cli.checkpoints.architectures import Shape, Shapes, is_below, is_volatile
from concept_monitor_cli.checkpoints.prefixes import strip_prefixes
from concept_monitor_cli.checkpoints.recognition import MODEL_HINT
from concept_monitor_cli.errors import InputError


@dataclass(frozen=True)
class Difference:
    """How the names and shapes of a checkpoint differ from those of a network.

    Attributes:
        missing: names of the network that the checkpoint lacks.
        unknown: names of the checkpoint that the network lacks.
        reshaped: name -> (shape in the checkpoint, shape in the network).
    """

    missing: tuple[str, ...]
    unknown: tuple[str, ...]
    reshaped: Mapping[str, tuple[Shape, Shape]]

    def __len__(self) -> int:
        return len(self.missing) + len(self.unknown) + len(self.reshaped)

    def text(self) -> str:
        """The differences in a line, with the first few of each kind by name."""
        parts = []
        if self.unknown:
            first = self.unknown[0]
            near = difflib.get_close_matches(first, self.missing, n=1, cutoff=0.8)
            wanted = f", the network has {near[0]}" if near else ""
            parts.append(f"{_counted(self.unknown)} unknown to it (first: {_first(self.unknown)}{wanted})")
        if self.missing:
            parts.append(f"{_counted(self.missing)} missing (first: {_first(self.missing)})")
        if self.reshaped:
            key, (here, there) = next(iter(self.reshaped.items()))
            parts.append(
                f"{_counted(self.reshaped)} of another shape "
                f"(first: {key} is {_shape(here)} in the checkpoint, {_shape(there)} in the network)"
            )
        return ", ".join(parts) or "no difference"


def _counted(names: Sequence[str] | Mapping[str, Any]) -> str:
    return f"{len(names)} parameter{'' if len(names) == 1 else 's'}"


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")


def _shape(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "a scalar"


def compare(given: Shapes, network: Shapes) -> Difference:
    """Compare names and shapes of a checkpoint with those of a network; volatile names do not count."""
    here = {key: tuple(shape) for key, shape in given.items() if not is_volatile(key)}
    there = {key: tuple(shape) for key, shape in network.items() if not is_volatile(key)}
    return Difference(
        missing=tuple(key for key in there if key not in here),
        unknown=tuple(key for key in here if key not in there),
        reshaped={key: (here[key], there[key]) for key in here if key in there and here[key] != there[key]},
    )


def shapes_of(state_dict: Mapping[str, Tensor]) -> dict[str, Shape]:
    """Name -> shape of a state dict."""
    return {key: tuple(value.shape) for key, value in state_dict.items()}


def load_weights(
    model: nn.Module,
    state_dict: Mapping[str, Tensor],
    *,
    untrained: Sequence[str] = (),
    unused: Sequence[str] = (),
) -> None:
    """Copy weights into a network, strictly: every name in its place, none left over.

    Tables that the network computes for itself (relative positions, attention masks) are left as it made
    them, and counters of batches may be missing. Values are converted to the network's dtype.

    Args:
        model: the network, on any device but meta.
        state_dict: names as the network has them.
        untrained: modules that may lack weights; they are filled with NaN.
        unused: names to be left out, whether the network has them or not.

    Raises:
        InputError: the names or shapes differ; says which.
    """
    own = model.state_dict()
    state_dict = {key: value for key, value in state_dict.items() if key not in set(unused)}
    difference = compare(shapes_of(state_dict), shapes_of(own))
    missing = tuple(key for key in difference.missing if not is_below(key, untrained))
    difference = replace(difference, missing=missing)
    if difference:
        raise InputError(f"the checkpoint does not fit the network: {difference.text()}", hint=MODEL_HINT)
    with torch.no_grad():
        for key, value in own.items():
            given = state_dict.get(key)
            counter = key.endswith("num_batches_tracked")
            if given is not None and (counter or not is_volatile(key)):
                value.copy_(given)
            elif given is None and is_below(key, untrained) and value.is_floating_point():
                value.fill_(float("nan"))


def stripped(shapes: Shapes) -> dict[str, Shape]:
    """The same shapes under names without wrappers' prefixes."""
    return {new: shapes[old] for old, new in strip_prefixes(shapes).names.items()}
