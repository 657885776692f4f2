"""Text towers that read from left to right: tokens behind a text's last one change nothing, and are left out.

CLIP pads every text to 77 tokens, and a word has three or four with its start and its end. In a tower with a
causal mask the end token, whose output is the text's embedding, attends to what stands before it only; so the
shorter sequence gives the same embedding, up to rounding, in a tenth of the time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.func import functional_call


class _Text(nn.Module):
    """A network whose forward pass is that of its text tower."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.network.encode_text(tokens)
        return features


def encode_text(network: Any, tokens: Any) -> torch.Tensor:
    """What `network.encode_text(tokens)` returns, without the padding where it changes nothing.

    Texts of the same number of tokens go through the tower together, so that a text's row does not depend on
    its neighbours.

    Args:
        network: a model of open_clip, or one with its method `encode_text`.
        tokens: of its tokenizer; `(M, L)` whole numbers for open_clip's own towers.

    Returns:
        `(M, D)`, not normalised.
    """
    place = _causal_tower(network)
    if place is None or not isinstance(tokens, torch.Tensor):
        features: torch.Tensor = network.encode_text(tokens)
        return features
    prefix, tower = place
    lengths = _end_tokens(tower, tokens) + 1
    text = _Text(network)
    rows: torch.Tensor | None = None
    for length in sorted(set(lengths.tolist())):
        chosen = lengths == length
        shorter = {
            f"{prefix}positional_embedding": tower.positional_embedding[:length],
            f"{prefix}attn_mask": tower.attn_mask[:length, :length],
        }
        found = functional_call(text, shorter, (tokens[chosen, :length],))
        if rows is None:
            rows = found.new_empty(len(tokens), found.shape[1])
        rows[chosen] = found
    assert rows is not None, "no texts"
    return rows


def _causal_tower(network: Any) -> tuple[str, Any] | None:
    """(prefix of its parameters' names, the text tower) where no token attends to a later one, else None."""
    for prefix, tower in (("network.", network), ("network.text.", getattr(network, "text", None))):
        mask, places = getattr(tower, "attn_mask", None), getattr(tower, "positional_embedding", None)
        if not isinstance(mask, torch.Tensor) or not isinstance(places, torch.Tensor):
            continue
        # CoCa puts a token of its own behind all others; SigLIP takes the last position, whatever is there.
        takes_the_end = _pooling(tower) in ("argmax", "eos") and getattr(tower, "cls_emb", None) is None
        causal = torch.full_like(mask, -torch.inf).triu_(1)
        if takes_the_end and mask.shape == (len(places), len(places)) and torch.equal(mask, causal):
            return prefix, tower
    return None


def _pooling(tower: Any) -> str | None:
    return getattr(tower, "text_pool_type", None) or getattr(tower, "pool_type", None)


def _end_tokens(tower: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Where each text ends, as open_clip's `text_global_pool` finds it."""
    if _pooling(tower) == "argmax":
        return tokens.argmax(dim=-1)
    end = getattr(tower, "text_eos_id", None)
    is_end: torch.Tensor = tokens == (tower.eos_id if end is None else end)
    return is_end.int().argmax(dim=-1)
