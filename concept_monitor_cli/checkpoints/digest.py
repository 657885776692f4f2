"""What a state dict is, as 64 hexadecimal digits: the key under which results are stored.

Every tensor has a digest of its own, and those of several tensors make the digest of a layer or of the whole
network: however many layers are asked about, a weight is hashed once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor


def tensor_digest(tensor: Tensor) -> str:
    """SHA-256 over dtype, shape and bytes; strides, devices and how zeros are left out do not count.

    Bytes are hashed where they lie (about 1 GB/s); only a tensor that is not contiguous is copied.

    Args:
        tensor: of any dtype.

    Returns:
        64 hexadecimal digits.
    """
    tensor = tensor.detach().cpu()
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    # Views that conjugate or negate when read have other bytes than values.
    tensor = tensor.resolve_conj().resolve_neg().contiguous()
    head = json.dumps([str(tensor.dtype), list(tensor.shape)]).encode()
    # The head's length in front of it: no other head and bytes can read the same.
    digest = hashlib.sha256(len(head).to_bytes(8, "little") + head)
    if tensor.numel():
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def combined_digest(digests: Mapping[str, str], names: Iterable[str] | None = None) -> str:
    """One digest of many, by name; their order does not count.

    Args:
        digests: name -> `tensor_digest`.
        names: only these entries. A name that is not among them is hashed as absent.

    Returns:
        64 hexadecimal digits.
    """
    chosen = {name: digests.get(name) for name in (digests if names is None else names)}
    return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()


def weights_digest(state_dict: Mapping[str, Tensor], keys: Iterable[str] | None = None) -> str:
    """The digest of a state dict: names, dtypes, shapes and bytes.

    Args:
        state_dict: name -> tensor of any dtype.
        keys: only these entries. A name that the state dict lacks is hashed as absent.

    Returns:
        64 hexadecimal digits.
    """
    wanted = set(state_dict if keys is None else keys)
    present = {name: tensor_digest(state_dict[name]) for name in wanted & state_dict.keys()}
    return combined_digest(present, wanted)


_FEW_TENSORS, _FEW_BYTES = 12, 2**16


def fingerprint(state_dict: Mapping[str, Tensor]) -> str:
    """A digest of the names, the shapes and some small tensors: cheap where tensors lie on disk.

    State dicts with different fingerprints are different; with equal ones they may be the same.

    Args:
        state_dict: name -> tensor. A tensor on the meta device counts by its shape only.

    Returns:
        64 hexadecimal digits.
    """
    small = [
        name
        for name, value in sorted(state_dict.items(), key=lambda item: (item[1].numel(), item[0]))
        if not value.is_meta and value.numel() * value.element_size() <= _FEW_BYTES
    ]
    # Counters and biases that start at zero lie among the smallest; some of the larger ones tell more.
    chosen = {*small[:_FEW_TENSORS], *small[-_FEW_TENSORS:]}
    values = {name: tensor_digest(state_dict[name]) for name in sorted(chosen)}
    shapes = {name: [str(value.dtype), list(value.shape)] for name, value in sorted(state_dict.items())}
    return hashlib.sha256(json.dumps([shapes, values]).encode()).hexdigest()
