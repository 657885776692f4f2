"""The network within a state dict: its tensors under clean names, and what was done to get there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from torch import Tensor

from concept_monitor_cli.checkpoints.architectures import Shape
from concept_monitor_cli.checkpoints.locate import Located, locate
from concept_monitor_cli.checkpoints.origin_names import Renamed, under_timms_names
from concept_monitor_cli.checkpoints.prefixes import Stripped, strip_prefixes
from concept_monitor_cli.checkpoints.pruning import fold_masks
from concept_monitor_cli.checkpoints.recognition import shipped_index
from concept_monitor_cli.checkpoints.reparametrised import fold
from concept_monitor_cli.checkpoints.transformers_names import Family, Translated, translate
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.wording import counted


@dataclass(frozen=True)
class Network:
    """The network within a state dict.

    Attributes:
        state_dict: its tensors under its own names.
        prefixes: what was taken off the names, outermost first.
        ignored: names that are no part of it, as the file has them.
        copies: first names of other copies of the network.
        notes: sentences for the user: what was chosen, folded and set aside.
        family: of transformers, where the names were translated from that library's.
    """

    state_dict: dict[str, Tensor]
    prefixes: tuple[str, ...]
    ignored: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    family: Family | None = None


def find_network(
    tensors: Mapping[str, Tensor],
    usable: Callable[[str], Tensor],
    *,
    lazy: bool,
    where: Path,
    own: bool = False,
    prefix: str | None = None,
    config: Mapping[str, Any] | None = None,
    lora: Mapping[str, Any] | None = None,
    stop: Event | None = None,
) -> Network | None:
    """The network within a state dict of a file.

    Args:
        tensors: the state dict as it is in the file.
        usable: gives a tensor by its name, in memory unless `lazy`.
        lazy: only names and shapes matter yet.
        where: the file, for messages.
        own: the network is the user's own code: its names are only freed of wrappers' prefixes.
        prefix: the network is below these names.
        config: what `config.json` says.
        lora: what `adapter_config.json` says.
        stop: set by another thread, it ends the reading at the next tensor.

    Returns:
        None where the state dict holds nothing that has a shape.

    Raises:
        CancelledError: `stop` was set.
        InputError: nothing is below `prefix`; or a tensor cannot be used, or is kept in an unknown form.
    """
    names = list(tensors) if prefix is None else _below(tensors, prefix, where)
    begin = "" if prefix is None else _dotted(prefix)
    stripped = strip_prefixes(name.removeprefix(begin) for name in names)
    if not any(tensors[begin + name].ndim for name in stripped.names):
        return None
    state: dict[str, Tensor] = {}
    for old, new in stripped.names.items():
        if stop is not None and stop.is_set():
            raise CancelledError
        state[new] = usable(begin + old)
    state = fold_masks(state, lazy=lazy)
    prefixes = (*([begin] if begin else []), *stripped.prefixes)
    copies = tuple(dict.fromkeys(name.partition(".")[0] for name in stripped.copies))
    plain = Network(state, prefixes, stripped.ignored, copies)
    if own:
        return plain
    try:
        folded, notes = fold(state, lazy=lazy, lora=lora)
    except InputError as error:
        raise InputError(error.what, where=where, hint=error.hint) from None
    return _narrowed(plain, folded, notes, stripped, config or {}, lazy)


def _narrowed(
    plain: Network,
    state: dict[str, Tensor],
    notes: tuple[str, ...],
    stripped: Stripped,
    config: Mapping[str, Any],
    lazy: bool,
) -> Network:
    """The known network among the names; all of them where there is none, so that an error can say more."""
    shapes = _shapes(state)
    if shipped_index().fitting(shapes) is not None:
        return Network(state, plain.prefixes, plain.ignored, plain.copies, notes)
    translated = translate(state, config, lazy=lazy)
    if translated is not None:
        return _translated(plain, notes, translated)
    renamed = under_timms_names(state, lazy=lazy)
    if renamed is not None and shipped_index().fitting(_shapes(renamed.tensors)) is not None:
        return _renamed(plain, notes, renamed)
    found = locate(shapes)
    if found is None:
        return Network(state, plain.prefixes, plain.ignored, plain.copies, notes)
    aside = [name for name in state if name not in found.names]
    rivals = tuple(prefix.rstrip(".") for prefix in found.rivals)
    return Network(
        {new: state[old] for old, new in found.names.items()},
        (*plain.prefixes, *([found.prefix] if found.prefix else [])),
        (*plain.ignored, *aside),
        (*plain.copies, *rivals),
        (*notes, *_said(found, aside)),
    )


def _translated(plain: Network, notes: tuple[str, ...], found: Translated) -> Network:
    said = f"names of transformers ({found.family}) read as timm's"
    ignored = (*plain.ignored, *found.left_out)
    return Network(
        found.tensors,
        plain.prefixes,
        ignored,
        plain.copies,
        (*notes, said, *_aside(found.left_out)),
        found.family,
    )


def _renamed(plain: Network, notes: tuple[str, ...], found: Renamed) -> Network:
    return Network(
        found.tensors,
        (*plain.prefixes, *([found.prefix] if found.prefix else [])),
        (*plain.ignored, *found.left_out),
        plain.copies,
        (*notes, f"names of {found.whose} read as timm's", *_aside(found.left_out)),
    )


def _said(found: Located, aside: list[str]) -> list[str]:
    """Which network was taken, and what was set aside."""
    said = []
    label = found.recognition.architecture.label
    if found.prefix:
        others = ", ".join(repr(prefix) for prefix in found.rivals[:4])
        also = f"; as large: {others} (--prefix to choose)" if others else ""
        said.append(f"network taken from {found.prefix!r}{also}")
        aside = [name for name in aside if not name.startswith(found.rivals or ("\0",))]
    if found.sequential:
        said.append(f"numbered children of a Sequential taken for those of {label}")
    return [*said, *_aside(aside)]


def _aside(names: list[str] | tuple[str, ...]) -> list[str]:
    if not names:
        return []
    groups = list(dict.fromkeys(name.partition(".")[0] for name in names))
    shown = ", ".join(groups[:5]) + (" ..." if len(groups) > 5 else "")
    return [f"set aside as no part of the network: {counted(len(names), 'tensors')} ({shown})"]


def _shapes(state: Mapping[str, Tensor]) -> dict[str, Shape]:
    return {name: tuple(value.shape) for name, value in state.items()}


def _dotted(prefix: str) -> str:
    return prefix if prefix.endswith(".") or not prefix else f"{prefix}."


def _below(tensors: Mapping[str, Tensor], prefix: str, where: Path) -> list[str]:
    names = [name for name in tensors if name.startswith(_dotted(prefix))]
    if names:
        return names
    first = list(dict.fromkeys(f"{name.partition('.')[0]}." for name in tensors if "." in name))
    raise InputError(
        f"no name begins with {_dotted(prefix)!r}",
        where=where,
        hint=f"--prefix: names begin with {', '.join(first[:6])}",
    )
