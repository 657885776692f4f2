"""What a state dict is, as 64 hexadecimal digits: the key under which results are stored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor


def weights_digest(state_dict: Mapping[str, Tensor], keys: Iterable[str] | None = None) -> str:
    """SHA-256 over names, dtypes, shapes and bytes; the order of entries, strides and devices do not count.

    Bytes are hashed where they lie (about 1 GB/s); only a tensor that is not contiguous is copied.

    Args:
        state_dict: name -> tensor of any dtype.
        keys: only these entries. A name that the state dict lacks is hashed as absent.

    Returns:
        64 hexadecimal digits.
    """
    whole = hashlib.sha256()
    for key in sorted(state_dict if keys is None else set(keys)):
        tensor = state_dict.get(key)
        head: list[object] = [key, None]
        if tensor is not None:
            tensor = tensor.detach().cpu().contiguous()
            head = [key, str(tensor.dtype), list(tensor.shape)]
        # A length in front of each head: no two sequences of entries can read the same.
        text = json.dumps(head).encode()
        whole.update(len(text).to_bytes(8, "little"))
        whole.update(text)
        if tensor is not None and tensor.numel():
            whole.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()
