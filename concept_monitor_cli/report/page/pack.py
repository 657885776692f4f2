"""Numbers and words as a page carries them: small, exact enough to read, and unable to run.

Arrays become base64 text of little-endian unsigned integers; numbers with a fraction are rounded to 65,535
steps between their extremes (or between their logarithms). Everything else is plain JSON.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from typing import Any, TypedDict

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

_MOST_SKIPPED = 50
# The highest 16-bit value stands for "no value".
_STEPS = 65534
_NONE = 65535


class Packed(TypedDict, total=False):
    """An array in the page: `kind` `u8`, `u16` or `u32`, its bytes, and how to read them as numbers.

    `low` and `high` are there for numbers with a fraction; with `log` they are natural logarithms.
    """

    kind: str
    data: str
    low: float
    high: float
    log: bool


def integers(values: ArrayLike) -> Packed:
    """Whole numbers from 0, flattened in C order, in as few bytes each as the largest needs.

    Raises:
        ValueError: a negative number, or one above 4 billion.
    """
    array = np.asarray(values).reshape(-1)
    if array.size and (array.min() < 0 or array.max() > 0xFFFFFFFF):
        raise ValueError("only whole numbers from 0 to 4 billion can be packed")
    largest = int(array.max()) if array.size else 0
    width = 1 if largest < 1 << 8 else 2 if largest < 1 << 16 else 4
    return {"kind": f"u{8 * width}", "data": _text(array, width)}


def floats(values: ArrayLike, *, log: bool = False) -> Packed:
    """Numbers, flattened in C order, 16 bits each; what is not finite becomes "no value".

    The error is at most 1/131,068 of the range, or of the range of the logarithms.

    Args:
        values: the numbers.
        log: round the logarithm: keeps the leading digits of values of very different size, all above 0.
    """
    array = np.asarray(values, dtype=np.float64).reshape(-1)
    if log:
        with np.errstate(divide="ignore", invalid="ignore"):
            array = np.log(array)
    known = np.isfinite(array)
    low = float(array[known].min()) if known.any() else 0.0
    high = float(array[known].max()) if known.any() else 0.0
    steps = np.full(array.shape, _NONE, dtype=np.int64)
    span = high - low
    steps[known] = np.rint((array[known] - low) / span * _STEPS) if span > 0 else 0
    packed: Packed = {"kind": "u16", "data": _text(steps, 2), "low": low, "high": high}
    if log:
        packed["log"] = True
    return packed


def _text(array: NDArray[Any], width: int) -> str:
    return base64.b64encode(array.astype(f"<u{width}").tobytes()).decode("ascii")


class Words:
    """Numbers words: each distinct word is written into the page once."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, word: str) -> int:
        """The word's number, from 0 in the order in which words come."""
        return self._numbers.setdefault(word, len(self._numbers))

    def numbers(self, words: Iterable[str]) -> list[int]:
        """The numbers of several words."""
        return [self.number(word) for word in words]

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def words(self) -> list[str]:
        """All words by number."""
        return list(self._numbers)


# Inside <script> a browser looks for these before it looks for JSON; U+2028 and U+2029 end lines in
# old scripts. As \u escapes they mean the same to a JSON reader and nothing to anybody else.
_INERT = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def json_for_html(value: object) -> str:
    """JSON that can stand inside `<script type="application/json">`, whatever the strings in it say.

    Text that is no valid Unicode (file names of other encodings) keeps its place with replacement signs.

    Raises:
        ValueError: a number that is not finite.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "replace").decode("utf-8").translate(_INERT)


def short_info(info: dict[str, Any]) -> dict[str, Any]:
    """`run.json` with a bound on the list of skipped images, which may be as long as the probing set."""
    probe = dict(info.get("probe", {}))
    skipped = probe.get("skipped", [])
    more = len(skipped) - _MOST_SKIPPED
    if more > 0:
        probe["skipped"] = [*skipped[:_MOST_SKIPPED], f"and {more} more, see run.json"]
    return {**info, "probe": probe}


def number(value: Any) -> float | None:
    """A number as a page has it, five digits after the point; `None` for NaN."""
    return None if pd.isna(value) else round(float(value), 5)
