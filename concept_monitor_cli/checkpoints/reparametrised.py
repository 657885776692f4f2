"""Weights that training code keeps in another form, brought back to those that the network computes with.

- Pruning: `X_orig` and `X_mask` (see `pruning`), or a mask of zeros and ones beside the weight itself.
- Weight normalisation (Salimans and Kingma 2016, arXiv:1602.07868): `w = g v / |v|`, kept as `weight_g` and
  `weight_v` or as `parametrizations.weight.original0` and `original1`.
- Spectral normalisation (Miyato et al. 2018, arXiv:1802.05957): `w / (u . W v)` with the vectors of the last
  step, kept as `weight_orig`, `weight_u` and `weight_v` or as `parametrizations.weight.original`, `0._u`
  and `0._v`.
- LoRA (Hu et al. 2021, arXiv:2106.09685) in `peft`'s names: `W + (alpha / r) B A`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from concept_monitor_cli.errors import InputError

_NEW = re.compile(r"(?P<module>.*?)(?:^|(?<=\.))parametrizations\.(?P<tensor>\w+)\.(?P<rest>.+)")
_LORA = re.compile(r"(^|\.)(lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector|hada_w\d_[ab]|ia3_l)(\.|$)")
_MERGE = "merge it before saving: model.merge_and_unload().state_dict()"
_REMOVE = "save the network after torch.nn.utils.parametrize.remove_parametrizations(module, 'weight')"
_EPS = 1e-12


def fold(
    state_dict: Mapping[str, Tensor], *, lazy: bool = False, lora: Mapping[str, Any] | None = None
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The state dict that the network would have without reparametrisations.

    Args:
        state_dict: names and tensors; without reparametrised weights it comes back as it is.
        lazy: only names and shapes matter yet: values are left unfolded.
        lora: what `adapter_config.json` says, where it lies beside the checkpoint.

    Returns:
        name -> tensor, and a sentence for each kind that was folded.

    Raises:
        InputError: weights are kept in a form that cannot be folded; says which.
    """
    folded = dict(state_dict)
    notes = []
    for step, what in (
        (_fold_new, "torch's parametrisations"),
        (_fold_weight_norm, "weight normalisation"),
        (_fold_spectral_norm, "spectral normalisation"),
        (_fold_masks_beside, "masks beside the weights"),
    ):
        before = len(folded)
        folded = step(folded, lazy)
        if len(folded) != before:
            notes.append(f"{what} folded into the weights ({before - len(folded)} tensors fewer)")
    folded, merged = _merge_lora(folded, lazy, lora)
    return folded, (*notes, *([merged] if merged else []))


def _renamed(state: Mapping[str, Tensor], new: Mapping[str, Tensor], gone: set[str]) -> dict[str, Tensor]:
    """`new` in the place of the first of its old names (`gone`), in the old order."""
    return {**{name: value for name, value in state.items() if name not in gone}, **new}


def _fold_new(state: dict[str, Tensor], lazy: bool) -> dict[str, Tensor]:
    parts: dict[tuple[str, str], dict[str, Tensor]] = {}
    gone = set()
    for name, value in state.items():
        found = _NEW.fullmatch(name)
        if found is not None:
            parts.setdefault((found["module"], found["tensor"]), {})[found["rest"]] = value
            gone.add(name)
    if not gone:
        return state
    new = {
        module + tensor: _unparametrised(module + tensor, kept, lazy)
        for (module, tensor), kept in parts.items()
    }
    return _renamed(state, new, gone)


def _unparametrised(name: str, kept: Mapping[str, Tensor], lazy: bool) -> Tensor:
    names = set(kept)
    if names == {"original0", "original1"}:
        return _weight_norm(name, kept["original0"], kept["original1"], lazy)
    if names == {"original", "0._u", "0._v"}:
        return _spectral_norm(name, kept["original"], kept["0._u"], kept["0._v"], lazy)
    if names == {"original", "0.mask"} and kept["0.mask"].shape == kept["original"].shape:
        return kept["original"] if lazy else kept["original"] * kept["0.mask"].to(kept["original"].dtype)
    raise InputError(
        f"{name} is kept under a parametrisation that is not known ({', '.join(sorted(names)[:4])})",
        hint=_REMOVE,
    )


def _fold_weight_norm(state: dict[str, Tensor], lazy: bool) -> dict[str, Tensor]:
    bases = [
        name.removesuffix("_g")
        for name in state
        if name.endswith("_g") and f"{name[:-1]}v" in state and name.removesuffix("_g") not in state
    ]
    bases = [base for base in bases if _is_norm_of(state[f"{base}_g"], state[f"{base}_v"])]
    new = {base: _weight_norm(base, state[f"{base}_g"], state[f"{base}_v"], lazy) for base in bases}
    return _renamed(state, new, {f"{base}_{end}" for base in bases for end in "gv"}) if bases else state


def _is_norm_of(magnitude: Tensor, direction: Tensor) -> bool:
    return magnitude.numel() == 1 or (
        magnitude.ndim == direction.ndim
        and all(one in (1, other) for one, other in zip(magnitude.shape, direction.shape, strict=True))
    )


def _weight_norm(name: str, magnitude: Tensor, direction: Tensor, lazy: bool) -> Tensor:
    if not _is_norm_of(magnitude, direction):
        raise InputError(f"{name} is kept under a parametrisation that is not known", hint=_REMOVE)
    if lazy:
        return direction
    folded: Tensor
    if magnitude.numel() == 1 and direction.numel() != 1:  # one norm of the whole (dim=None)
        folded = direction * (magnitude.reshape(()) / direction.norm())
        return folded
    dims = [dim for dim, side in enumerate(magnitude.shape) if side != 1]
    folded = torch._weight_norm(direction, magnitude, dims[0] if dims else 0)
    return folded


def _fold_spectral_norm(state: dict[str, Tensor], lazy: bool) -> dict[str, Tensor]:
    bases = [
        name.removesuffix("_orig")
        for name in state
        if name.endswith("_orig") and f"{name[:-4]}u" in state and name.removesuffix("_orig") not in state
    ]
    new = {
        base: _spectral_norm(base, state[f"{base}_orig"], state[f"{base}_u"], state.get(f"{base}_v"), lazy)
        for base in bases
    }
    return (
        _renamed(state, new, {f"{base}_{end}" for base in bases for end in ("orig", "u", "v")})
        if bases
        else state
    )


def _spectral_norm(name: str, weight: Tensor, u: Tensor, v: Tensor | None, lazy: bool) -> Tensor:
    dims = [dim for dim in (0, 1) if dim < weight.ndim and weight.shape[dim] == u.numel()]
    if not dims or weight.ndim < 2:
        raise InputError(f"{name} is kept under a parametrisation that is not known", hint=_REMOVE)
    if lazy:
        return weight
    matrix = weight.transpose(0, dims[0]).reshape(u.numel(), -1)
    if v is None:  # before torch 1.1 only `u` was kept
        v = torch.nn.functional.normalize(matrix.t() @ u, dim=0, eps=_EPS)
    return weight / torch.dot(u, matrix @ v)


# The module's names, and a mask of its weight.
_MASK = re.compile(r"((?:.*?\.)?)(?:weight[._])?(?:[a-z]+_)?mask(?:_weight)?", re.IGNORECASE)


def _fold_masks_beside(state: dict[str, Tensor], lazy: bool) -> dict[str, Tensor]:
    """`weight` with `weight_mask`, `mask`, `pruning_mask` or the like of its shape beside it."""
    masks: dict[str, str] = {}
    for name, mask in state.items():
        found = _MASK.fullmatch(name)
        if found is not None:
            weight = f"{found[1]}weight"
            there = state.get(weight)
            if there is not None and there.shape == mask.shape and mask.ndim >= 2 and _is_mask(mask, lazy):
                masks[weight] = name
    if not masks:
        return state
    gone = set(masks.values())
    return {
        name: value * state[masks[name]].to(value.dtype) if name in masks and not lazy else value
        for name, value in state.items()
        if name not in gone
    }


def _is_mask(mask: Tensor, lazy: bool) -> bool:
    return lazy or mask.is_meta or bool(((mask == 0) | (mask == 1)).all())


def _merge_lora(
    state: dict[str, Tensor], lazy: bool, config: Mapping[str, Any] | None
) -> tuple[dict[str, Tensor], str | None]:
    found = [name for name in state if _LORA.search(name)]
    if not found:
        return state, None
    plain = [name for name in found if re.search(r"\.lora_[AB]\.([\w-]+\.)?weight$", name)]
    if len(state) == len(found):
        raise InputError("a LoRA adapter, without the network that it changes", hint=_MERGE)
    if len(plain) != len(found) or config is None or config.get("use_dora"):
        raise InputError(
            f"the network is changed by LoRA ({found[0]}), which is not merged into its weights", hint=_MERGE
        )
    result: dict[str, Tensor] = {}
    merged = 0
    for name, value in state.items():
        if name in found:
            continue
        clean = name.replace(".base_layer.", ".").removeprefix("base_model.model.")
        clean = re.sub(r"(^|\.)modules_to_save\.[\w-]+\.", r"\1", clean)
        if ".original_module." in name:
            continue
        result[clean] = value
        if not name.endswith(".base_layer.weight"):
            continue
        module = name.removesuffix("base_layer.weight")
        ends = sorted(
            {key.removeprefix(f"{module}lora_A.") for key in found if key.startswith(f"{module}lora_A.")}
        )
        for end in ends:
            down, up = state[f"{module}lora_A.{end}"], state[f"{module}lora_B.{end}"]
            result[clean] = (
                result[clean] if lazy else result[clean] + _low_rank(name, down, up, value, config)
            )
            merged += 1
    return result, f"LoRA merged into {merged} weights"


def _low_rank(name: str, down: Tensor, up: Tensor, weight: Tensor, config: Mapping[str, Any]) -> Tensor:
    alpha, rank = config.get("lora_alpha"), down.shape[0]
    if not isinstance(alpha, (int, float)) or config.get("rank_pattern") or config.get("alpha_pattern"):
        raise InputError(f"{name} is changed by LoRA, and its scale is not known", hint=_MERGE)
    scale = alpha / (rank**0.5 if config.get("use_rslora") else rank)
    change = up.flatten(1).to(torch.float32) @ down.flatten(1).to(torch.float32)
    if config.get("fan_in_fan_out"):
        change = change.t()
    return (scale * change.reshape(weight.shape)).to(weight.dtype)
