"""What is looked at: the layers of a network, each in its channels or in another basis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from concept_monitor_cli.bases import Basis, fit_basis
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.models.layers import LayerInfo
from concept_monitor_cli.options import BasisSpec, basis_name
from concept_monitor_cli.record.in_basis import layer_in_basis
from concept_monitor_cli.store import Key, Store, Writer


@dataclass(frozen=True)
class Look:
    """A layer, as what its units are.

    Attributes:
        layer: with the basis's members as its units, `layer4@pca8`; the layer itself in its channels.
        tapped: the layer with its channels.
        spec: the basis; `None` for the channels.
        key: where the store has the basis, or will have it; its digest says what the basis is, before it is
            made. `None` for the channels.
        make: gives the basis.
    """

    layer: LayerInfo
    tapped: LayerInfo
    spec: BasisSpec | None = None
    key: Key | None = None
    make: Callable[[], Basis] | None = None

    def basis(self) -> Basis | None:
        """The basis, made if need be; `None` for the channels."""
        return None if self.make is None else self.make()


def parse_bases(texts: Sequence[str]) -> list[BasisSpec | None]:
    """What is asked for by `--basis`; `None` stands for the channels.

    Raises:
        InputError: one of them is no basis, or two have the same name.
    """
    specs = [BasisSpec.parse(text) for text in dict.fromkeys(texts)]
    names = [spec.name for spec in specs if spec is not None]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two bases are called {name}", where="--basis", hint="rename one of the files")
    return specs


def look_at(
    store: Store,
    layer: LayerInfo,
    spec: BasisSpec | None,
    *,
    pooled_key: Callable[[LayerInfo], Key] | None = None,
    pooled: Callable[[LayerInfo], NDArray[np.float32]] | None = None,
) -> Look:
    """A layer in one basis.

    Args:
        store: where fitted bases are kept.
        layer: with its channels.
        spec: the basis; `None` for the channels.
        pooled_key: where the store has the pooled activations that a basis is fitted to, or will have them.
        pooled: gives those activations, `(N, C)`.

    Raises:
        InputError: a file that is no basis of this layer, or a basis that cannot be fitted here.
    """
    if spec is None:
        return Look(layer, layer)
    name = basis_name(layer.name, spec)
    if not spec.fitted:
        ready = fit_basis(spec, layer.units, where=layer.name)
        key = store.key("basis", digest=ready.digest)
        return Look(layer_in_basis(layer, name, ready.members), layer, spec, key, lambda: ready)
    if pooled_key is None or pooled is None or spec.size is None:
        raise InputError(f"{spec.text} is fitted to a checkpoint, and there is none", where="--basis")
    key = store.key("basis", spec=spec.text, recording=pooled_key(layer).digest)

    def make() -> Basis:
        # Before the lock: where tasks share the images, all of them must get to their part.
        known = None if store.has(key) else pooled(layer)

        def write(writer: Writer) -> None:
            rows = pooled(layer) if known is None else known
            basis = fit_basis(spec, layer.units, torch.from_numpy(rows), where=layer.name)
            for array, values in basis.to_arrays().items():
                if array != "encoding":
                    writer.put(array, values)
            writer.meta["encoding"] = basis.encoding

        with store.get_or_make(key, write) as entry:
            return Basis.of(
                entry.read("matrix"), entry.meta["encoding"], entry.read("bias"), entry.read("centre")
            )

    return Look(layer_in_basis(layer, name, spec.size), layer, spec, key, make)
