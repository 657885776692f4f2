"""What a stored value depends on, as a key.

Never a name: an encoder is its weights' digest, a probe set its images' digests, a checkpoint its tensors'.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

JSONValue: TypeAlias = "bool | int | float | str | Sequence[JSONValue] | Mapping[str, JSONValue] | None"

KINDS: dict[str, int] = {
    "layers": 2,
    "probe_block": 1,
    "image_groups": 1,
    "mask_check": 2,
    "pixels": 1,
    "image_embeddings": 1,
    "text_embeddings": 1,
    "activations": 3,
    "masks": 3,
    "exemplars": 1,
    "phrase_model": 1,
    "maps": 1,
    "part": 1,
    "whole_maps": 2,
    "logits": 1,
    "gradients": 1,
    "contributions": 1,
    "null": 5,
    "findings": 8,
    "resampling": 4,
    "matching": 2,
    "presence": 1,
    "basis": 2,
    "redundancy": 1,
    "halves": 4,
    "picture": 1,
    "samples": 1,
    "tile": 2,
    "layer-energy": 1,
    "tuning": 1,
    "attribution": 1,
    "evolutions": 1,
    "circuit": 2,
    "universality": 1,
    "input_evidence": 3,
}
"""Kind of value -> version of the code that makes it. Raise the version when that code's results change:
entries of the old version are then not found any more, and `prune` may remove them."""

_MADE_BY = {
    "reading images": ("probe_block", "image_groups", "mask_check", "pixels"),
    "the encoder": ("image_embeddings", "text_embeddings", "phrase_model"),
    "forward passes": (
        "activations", "masks", "exemplars", "maps", "part", "whole_maps", "logits", "contributions",
        "layer-energy", "input_evidence",
    ),
    "backward passes": ("gradients", "attribution", "evolutions", "circuit", "picture", "tile", "tuning"),
    "arithmetic": (
        "layers", "null", "findings", "resampling", "matching", "presence", "basis", "redundancy",
        "halves", "samples", "universality",
    ),
}  # fmt: skip
MADE_BY: dict[str, str] = {kind: work for work, kinds in _MADE_BY.items() for kind in kinds}
"""Kind of value -> most of the work that it takes to make it again, as `cmon cache info` says it."""


@dataclass(frozen=True)
class Key:
    """The address of a stored value.

    Attributes:
        kind: one of `KINDS`.
        digest: hex SHA-256 over the canonical JSON of kind, version and parts.
        parts: what the value depends on, as plain JSON values.
    """

    kind: str
    digest: str
    parts: dict[str, JSONValue] = field(hash=False, compare=False, repr=False)


def make_key(kind: str, parts: Mapping[str, JSONValue]) -> Key:
    """The key of a value of this kind that depends on `parts`.

    The digest does not depend on the order of names. `1` and `1.0` are different parts.

    Raises:
        ValueError: unknown kind, or a number that is not finite.
        TypeError: a part that is not a plain JSON value (a `Path`, an array): say what of it matters.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}: add it with a version to KINDS, which has {sorted(KINDS)}")
    text = canonical_json({"kind": kind, "version": KINDS[kind], "parts": dict(parts)})
    return Key(kind, hashlib.sha256(text.encode("ascii")).hexdigest(), json.loads(text)["parts"])


def canonical_json(value: JSONValue) -> str:
    """ASCII JSON with sorted names and no spaces: equal values give equal text."""
    _refuse_other_names(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _refuse_other_names(value: JSONValue) -> None:
    # json.dumps turns the names 1, True and None into text, so that {1: x} and {"1": x} would meet.
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if not isinstance(name, str):
                raise TypeError(f"names of a key's parts must be text, not {name!r}")
            _refuse_other_names(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _refuse_other_names(inner)
