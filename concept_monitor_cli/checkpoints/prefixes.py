"""Names of parameters without what a wrapper put in front of them.

`module.` comes from DataParallel and DistributedDataParallel, `_orig_mod.` from torch.compile, `model.` and
`net.` from Lightning modules and other trainers, `backbone.` from detection and self-supervision code.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

PREFIXES = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "model.", "net.", "backbone.")

# Put by a wrapper around some module, so they may stand anywhere: "layer1._orig_mod.0.conv1.weight".
INFIXES = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")

# A second copy of the same network beside it in one state dict.
COPIES = ("ema_model.", "model_ema.", "ema.", "averaged_model.", "teacher.")

# "Nearly all": a criterion with weights, a metric's counts or a replaced head may stand outside.
_SHARE = 0.9


@dataclass(frozen=True)
class Stripped:
    """Result of `strip_prefixes`.

    Attributes:
        names: old name -> new name, in the old order.
        prefixes: what was taken off, outermost first.
        ignored: old names that did not lie within the prefix, and belong to no copy of the network either.
        copies: old names of a second copy of the network.
    """

    names: dict[str, str]
    prefixes: tuple[str, ...]
    ignored: tuple[str, ...]
    copies: tuple[str, ...]


def strip_prefixes(names: Iterable[str]) -> Stripped:
    """Take wrappers' prefixes off the names of a state dict, in any nesting.

    A prefix goes only where at least 90 % of the names have it, so that a network of its own with a part
    called `model` or `net` keeps its names. Names outside are set aside.

    Args:
        names: the names of a state dict.

    Returns:
        New names; no two of them are equal, or the prefix stays.
    """
    current = {name: name for name in names}
    copies = _copies(current)
    for name in copies:
        del current[name]
    prefixes: list[str] = []
    ignored: list[str] = []
    while (prefix := _common_prefix(current.values())) is not None:
        inside = {old: new.removeprefix(prefix) for old, new in current.items() if new.startswith(prefix)}
        ignored += [old for old in current if old not in inside]
        current = inside
        prefixes.append(prefix)
    for infix in INFIXES:
        cleaned = {old: new.replace(f".{infix}", ".").removeprefix(infix) for old, new in current.items()}
        if cleaned != current and len(set(cleaned.values())) == len(cleaned):
            current = cleaned
            prefixes.append(infix)
    return Stripped(current, tuple(prefixes), tuple(ignored), tuple(copies))


def _common_prefix(names: Iterable[str]) -> str | None:
    names = list(names)
    for prefix in PREFIXES:
        # "module.weight" alone is a parameter of a network called module: something must be left to name it.
        inside = [name for name in names if name.startswith(prefix) and len(name) > len(prefix)]
        if names and len(inside) >= _SHARE * len(names):
            return prefix
    return None


def _copies(names: dict[str, str]) -> list[str]:
    for prefix in COPIES:
        found = [name for name in names if name.startswith(prefix)]
        # A copy is as large as the network itself (give or take buffers); a part of it is smaller.
        if found and 0.4 * len(names) <= len(found) <= 0.6 * len(names):
            return found
    return []
