"""Numbers in sentences, and sums of concepts as they are printed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

_VERBS = {"are": "is", "were": "was", "have": "has", "look": "looks", "fire": "fires", "differ": "differs"}
_VERB = re.compile(rf"\b({'|'.join(_VERBS)})\b")
# Of a sum: what stands before its first weight and before the others, and a weight.
_FIRST, _NEXT, _WEIGHT = re.compile(r"-?"), re.compile(r" [+-] "), re.compile(r"\d+(\.\d+)? ")
# What stands before the next weight, or the end.
_ANY_NAME = re.compile(r".*?(?= [+-] \d+(?:\.\d+)? |$)", re.DOTALL)
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


def sum_text(terms: Sequence[tuple[float, str]]) -> str:
    """Such as `0.6 dog + 0.3 snow - 0.2 grass`.

    Example:
        >>> sum_text([(0.6, "dog"), (-0.22, "grass"), (0.04, "snow")])
        '0.6 dog - 0.2 grass + 0.04 snow'
    """
    text = ""
    for weight, name in terms:
        small = f"{abs(weight):.2f}"
        size = small if float(small) < 0.1 else f"{abs(weight):.1f}"
        sign = " - " if weight < 0 else " + "
        text += (sign if text else "-" if weight < 0 else "") + f"{size} {name}"
    return text


def sum_terms(
    text: str, name_at: Callable[[str, int], str | None] | None = None
) -> tuple[tuple[float, str], ...] | None:
    """Weights and concepts of a sum, read as `sum_text` prints it; `None` where the text is none.

    Args:
        text: the sum.
        name_at: the name that begins at a place of the text, `None` for none. Without it a name is all that
            stands before the next sign and weight, which is wrong for names that hold such.

    Example:
        >>> sum_terms("-0.6 dog + 0.3 snow")
        ((-0.6, 'dog'), (0.3, 'snow'))
    """
    terms: list[tuple[float, str]] = []
    at = 0
    while at < len(text):
        sign = (_NEXT if terms else _FIRST).match(text, at)
        number = None if sign is None else _WEIGHT.match(text, sign.end())
        if sign is None or number is None:
            return None
        name = _any_name(text, number.end()) if name_at is None else name_at(text, number.end())
        if not name:
            return None
        size = float(number.group())
        terms.append((-size if "-" in sign.group() else size, name))
        at = number.end() + len(name)
    return tuple(terms) or None


def _any_name(text: str, at: int) -> str | None:
    found = _ANY_NAME.match(text, at)
    return None if found is None else found.group()
