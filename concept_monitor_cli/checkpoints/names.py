"""The epoch that a file name tells."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

# `epoch_12`, `epoch=3`, `ep7`, `e7`; not the exponent of `1e-3`.
_EPOCH = re.compile(
    r"(?:(?<![a-z])epochs?|(?<![a-z0-9])ep|(?<![a-z0-9])e)[=_\-. ]*(\d+)(?![\d])", re.IGNORECASE
)
_EPOCHS_AFTER = re.compile(r"(?<![\d.])(\d+)(?:st|nd|rd|th)?[_\- ]?epochs?(?![a-z])", re.IGNORECASE)
_STEP = re.compile(
    r"(?<![a-z])(?:global_?)?(?:steps?|iterations?|iters?|it)[=_\-. ]*(\d+)(?![\d])", re.IGNORECASE
)
_TOKEN = re.compile(r"[^_\-. =,()\[\]]+")
# `ckpt12`, `model3`: a number glued to a word that says nothing else.
_GLUED = re.compile(
    r"(?:ckpt|chkpt|checkpoint|cp|model|weights?|net|network|snapshot|snap|state|save|saved)(\d+)",
    re.IGNORECASE,
)
# The number after these is something else.
_OTHER = re.compile(
    r"(?:(?:val|test|train)?_?(?:acc|accuracy|loss|top\d?|err|error|miou|f1|auc)|lr|wd|seed|bs|batch|size|px|res|img|"
    r"v|version|run|fold|trial|exp|experiment|gpus?|rank|shard|part|split|width|depth|dim|layers?|of|best|[a-z]|"
    r"cifar|imagenet|in|(?:wide)?(?:pre)?(?:act)?(?:resnet|resnext|densenet|vgg|wrn|vit|swin|convnext|deit))",
    re.IGNORECASE,
)
# A learning rate: 1e-3.
_SMALL = re.compile(r"(?<![a-z])\d+(?:\.\d+)?e-\d+", re.IGNORECASE)
# Longer numbers are dates, times or hashes.
_MOST_DIGITS = 7


@dataclass(frozen=True)
class NamedEpoch:
    """A number in a name.

    Attributes:
        value: the number.
        kind: "epoch" or "step" where a word says so, "number" where it only looks like it.
    """

    value: int
    kind: Literal["epoch", "step", "number"]


def epoch_in_name(name: str) -> NamedEpoch | None:
    """The epoch in a file's or folder's name (without its extension), else its step, else its last number.

    Numbers that belong to an architecture (`resnet18`, `vit_b_16`), a score (`acc_93.5`), a date or a hash do
    not count.

    >>> epoch_in_name("epoch=3-step=400").value
    3
    >>> epoch_in_name("resnet18-best") is None
    True
    """
    for pattern in (_EPOCH, _EPOCHS_AFTER):
        found = pattern.search(name)
        if found:
            return NamedEpoch(int(found[1]), "epoch")
    found = _STEP.search(name)
    if found:
        return NamedEpoch(int(found[1]), "step")
    value = _last_number(_without_architecture(_SMALL.sub("", name)))
    return None if value is None else NamedEpoch(value, "number")


def _last_number(name: str) -> int | None:
    tokens = list(_TOKEN.finditer(name))
    for position in range(len(tokens) - 1, -1, -1):
        token = tokens[position]
        glued = _GLUED.fullmatch(token[0])
        digits = glued[1] if glued else token[0]
        if not digits.isdecimal() or len(digits) > _MOST_DIGITS:
            continue
        if glued is None and position > 0 and _OTHER.fullmatch(tokens[position - 1][0]):
            continue
        if _in_decimal(name, token):
            continue
        return int(digits)
    return None


def _in_decimal(name: str, token: re.Match[str]) -> bool:
    before = re.search(r"\d\.$", name[: token.start()])
    after = re.match(r"\.\d", name[token.end() :])
    return bool(before or after)


def _without_architecture(name: str) -> str:
    """The name without an architecture's name in it, so that the 16 of `vit_b_16` is no epoch."""
    for known in _architectures():
        at = name.lower().find(known)
        if (
            at >= 0
            and not name[at - 1 : at].isalnum()
            and not name[at + len(known) : at + len(known) + 1].isalnum()
        ):
            return name[:at] + name[at + len(known) :]
    return name


@lru_cache(maxsize=1)
def _architectures() -> tuple[str, ...]:
    """Names of architectures that hold a number between separators, longest first."""
    from concept_monitor_cli.checkpoints.recognition import shipped_index

    names = {entry.name.lower() for entry in shipped_index().architectures}
    telling = (name for name in names if any(token[0].isdecimal() for token in _TOKEN.finditer(name)))
    return tuple(sorted(telling, key=lambda name: (-len(name), name)))
