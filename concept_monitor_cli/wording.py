"""Numbers in sentences."""

from __future__ import annotations

import re

_VERBS = {"are": "is", "were": "was", "have": "has", "look": "looks", "fire": "fires", "differ": "differs"}
_VERB = re.compile(rf"\b({'|'.join(_VERBS)})\b")
_PLURAL = re.compile(r"(?:(?<=[^aeiou])ies|(?<=ss|ch|sh)es|(?<=x)es|s)$")


def counted(number: int, what: str) -> str:
    """A number and what follows it: `1 image is left out`, `2,000 images are left out`.

    Args:
        number: how many.
        what: as it is written for many, the noun first: `images are left out`. For one, the noun and the
            first verb after it are put into the singular.
    """
    if number != 1:
        return f"{number:,} {what}"
    noun, space, rest = what.partition(" ")
    noun = _PLURAL.sub(lambda end: "y" if end[0] == "ies" else "", noun)
    return f"1 {noun}{space}{_VERB.sub(lambda verb: _VERBS[verb[0]], rest, count=1)}"
