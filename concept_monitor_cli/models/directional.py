"""What single places of a layer say for every class, in one pass: forward-mode derivatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.models.gradients import replaced
from concept_monitor_cli.models.layers import LayerInfo, evaluation
from concept_monitor_cli.models.pooling import spatial_maps
from concept_monitor_cli.models.taps import find_modules, first_tensor


@dataclass(frozen=True)
class AtPlaces:
    """One place of each image.

    Attributes:
        activations: `(B, C)` float32, of the layer.
        attributions: `(B, K)` float32, `a . dy/da` for every output; `None` for a network whose output is not
            one number for each class, or one that has no forward-mode derivatives.
        why_not: why there are no attributions.
    """

    activations: Tensor
    attributions: Tensor | None
    why_not: str = ""


def at_places(model: nn.Module, layer: LayerInfo, images: Tensor, rows: Tensor, columns: Tensor) -> AtPlaces:
    """What a layer says at one place of each image, and what this place says for every class.

    The tangent at the layer is what it puts out at the place, and 0 elsewhere, so the tangent of an output is
    the place's part of `A . G`: one pass for all classes (`torch.autograd.forward_ad`), where gradients would
    need one for each.

    Args:
        model: the network.
        layer: with maps.
        images: `(B, channels, s, s)`, normalised.
        rows, columns: `(B,)` int64, of the maps.
    """
    try:
        return _pass(model, layer, images, rows, columns, with_classes=True)
    except NotImplementedError as error:
        found = _pass(model, layer, images, rows, columns, with_classes=False)
        reason = " ".join(str(error).split())[:120]
        return AtPlaces(found.activations, None, f"the network has no forward-mode derivatives: {reason}")


def _pass(
    model: nn.Module, layer: LayerInfo, images: Tensor, rows: Tensor, columns: Tensor, *, with_classes: bool
) -> AtPlaces:
    module = find_modules(model, [layer.name])[layer.name]
    kept: list[Tensor] = []
    calls = 0

    def hook(module: nn.Module, _inputs: Any, output: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls % layer.calls:
            return None
        tensor = first_tensor(output, module, layer.name)
        each = torch.arange(len(images), device=tensor.device)
        kept.append(spatial_maps(tensor, layer.layout)[each, :, rows, columns].detach().clone())
        if not with_classes:
            return None
        own = tensor.detach() * _at(tensor, layer, rows, columns)
        # The next layer may work in place: it gets a copy.
        return replaced(output, tensor, _dual(tensor.detach().clone(), own))

    handle = module.register_forward_hook(hook)
    try:
        with (
            torch.inference_mode(mode=False),
            evaluation(model),
            torch.no_grad(),
            # The quicker kinds of attention have no forward-mode derivative.
            sdpa_kernel(SDPBackend.MATH),
            forward_ad.dual_level(),
        ):
            result = model(images)
            if not kept:
                raise InputError(
                    f"layer {layer.name!r} takes no part in the network's pass", where=layer.name
                )
            if not with_classes:
                return AtPlaces(kept[0], None)
            logits = first_tensor(result, model, "the network")
            if logits.ndim != 2:
                return AtPlaces(kept[0], None, "the network does not put out one number for each class")
            slope = _tangent(logits)
            # A layer that does not reach the output has no tangent there.
            said = torch.zeros_like(logits) if slope is None else slope
            return AtPlaces(kept[0].float(), said.detach().float().clone())
    finally:
        handle.remove()


def _dual(primal: Tensor, tangent: Tensor) -> Tensor:
    found: Tensor = forward_ad.make_dual(primal, tangent)  # type: ignore[no-untyped-call]
    return found


def _tangent(dual: Tensor) -> Tensor | None:
    found: Tensor | None = forward_ad.unpack_dual(dual).tangent  # type: ignore[no-untyped-call]
    return found


def _at(tensor: Tensor, layer: LayerInfo, rows: Tensor, columns: Tensor) -> Tensor:
    """1 where an output holds the place of its image, else 0, in the output's own order of axes."""
    with torch.enable_grad():
        blank = torch.zeros_like(tensor, dtype=torch.float32).requires_grad_()
        each = torch.arange(len(rows), device=tensor.device)
        picked = spatial_maps(blank, layer.layout)[each, :, rows, columns]
        found: Tensor = torch.autograd.grad(picked.sum(), blank)[0]
    return found.to(tensor.dtype)
