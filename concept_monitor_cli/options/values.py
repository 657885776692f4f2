"""From what a user wrote to a value: the kinds of values that options have.

Each function takes the text of the command line or the environment, or the value of a settings file (which
may be a number or a list already), and gives the value or says what to write instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.options.kinds import Triple, nearest

# More units than any layer has: a slip, which must not fill the memory.
_MOST_UNITS = 1_000_000


def path(value: Any) -> Path:
    """A file or folder of the user's; `~` is understood wherever it comes from."""
    if not str(value):
        raise InputError("the path is empty")
    return Path(value).expanduser()


def spec(value: Any) -> str:
    """A name, or a path, or `kind:path`, which the library tells apart. `~` is spelled out."""
    text = str(value)
    if not text.strip():
        raise InputError("the value is empty")
    kind, colon, rest = text.partition(":")
    if rest.startswith("~"):
        return f"{kind}{colon}{Path(rest).expanduser()}"
    return str(Path(text).expanduser()) if text.startswith("~") else text


def check_choice(word: str, choices: Sequence[str]) -> None:
    """Refuse a word that is none of the choices; with no choices, any word is good.

    Raises:
        InputError: with the nearest choice.
    """
    if choices and word not in choices:
        alike = nearest(word, choices, count=1)
        hint = f"did you mean {alike[0]}? " if alike else ""
        raise InputError(f"there is no {word!r}", hint=f"{hint}choose from {', '.join(choices)}")


def one_of(choices: Sequence[str]) -> Callable[[Any], str]:
    """One of some words."""

    def choice(value: Any) -> str:
        check_choice(str(value), choices)
        return str(value)

    return choice


def number(
    kind: type[int] | type[float],
    *,
    least: float = float("-inf"),
    above: float = float("-inf"),
    most: float = float("inf"),
) -> Callable[[Any], Any]:
    """A whole number (`int`) or any number (`float`) between bounds."""
    name = "a whole number" if kind is int else "a number"
    bounds = [f"from {least}" if least > above else f"above {above}" if above > least else ""]
    bounds.append(f"to {most}" if most < float("inf") else "")
    wanted = " ".join([name, *filter(None, bounds)])

    def convert(value: Any) -> Any:
        try:
            found = kind(value)
        except (ValueError, OverflowError):
            found = float("nan")
        # Not a number compares as false, so it is refused here, too.
        if not (least <= found <= most and found > above and abs(found) < float("inf")):
            raise InputError(f"{str(value)!r} is not {wanted}")
        return found

    return convert


count = number(int, least=1)
from_zero = number(int, least=0)
share = number(float, above=0, most=1)


@dataclass(frozen=True)
class of_text:
    """A reader of values that are written as text, whatever they become; what is a value already stays so.

    Attributes:
        parse: from the text to the value.
    """

    parse: Callable[[str], Any]

    def __call__(self, value: Any) -> Any:
        """The value."""
        return self.parse(value) if isinstance(value, str) else value


@of_text
def device(text: str) -> str:
    """`auto`, `cpu`, `cuda`, `cuda:1` or `mps`."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps", text):
        raise InputError(f"there is no device {text!r}", hint="choose auto, cpu, cuda, cuda:1 or mps")
    return text


@of_text
def named_folder(text: str) -> str:
    """A name and a folder, `NAME=DIR`."""
    name, equals, folder = text.partition("=")
    if not equals or not name.strip() or not folder.strip():
        raise InputError(f"{text!r} is no name and folder", hint="write stripes=photos/striped")
    return f"{name.strip()}={Path(folder.strip()).expanduser()}"


@of_text
def size(text: str) -> int:
    """Bytes: `500MB`, `20GB`, `20GiB`."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kMGT]?)(i?)B?\s*", text)
    if match is None:
        raise InputError(f"{text!r} is not a size", hint="write 500MB or 20GB or 20GiB")
    figure, prefix, binary = match.groups()
    return int(float(figure) * (1024 if binary else 1000) ** " kMGT".index(prefix or " "))


@of_text
def duration(text: str) -> float:
    """Seconds: `90s`, `30min`, `12h`, `30d`, `8w`."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|min|h|d|w)\s*", text)
    if match is None:
        meant = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*m\s*", text)
        hint = f"minutes are written {meant[1]}min" if meant else "write 90s, 30min, 12h, 30d or 8w"
        raise InputError(f"{text!r} is not a length of time", hint=hint)
    return float(match[1]) * {"s": 1, "min": 60, "h": 3600, "d": 86400, "w": 604800}[match[2]]


def _numbers(value: Any) -> list[float]:
    """Numbers that are separated by commas; none where that is not what they are."""
    try:
        parts = value if isinstance(value, list | tuple) else str(value).split(",")
        return [float(part) for part in parts]
    except ValueError:
        return []


def rgb(value: Any) -> Triple:
    """Three numbers for red, green and blue, or one for all: `0.485,0.456,0.406` or `0.5`."""
    numbers = _numbers(value)
    if len(numbers) == 1:
        numbers *= 3
    if len(numbers) != 3 or not all(abs(number) < float("inf") for number in numbers):
        raise InputError(
            f"{value!r} is not three numbers", hint="write red,green,blue: 0.485,0.456,0.406, or 0.5"
        )
    return numbers[0], numbers[1], numbers[2]


def grey_range(value: Any) -> tuple[float, float]:
    """Two numbers, the smaller one first: `-1000,400`."""
    numbers = _numbers(value)
    if len(numbers) != 2 or not -1e300 < numbers[0] < numbers[1] < 1e300:
        raise InputError(f"{value!r} is not two numbers, the smaller first", hint="write black,white: 0,4095")
    return numbers[0], numbers[1]


def unit_list(value: Any) -> tuple[int, ...]:
    """Whole numbers from 0, with ranges: `3,7,10-12`."""
    numbers: list[int] = []
    for part in filter(None, (part.strip() for part in str(value).split(","))):
        first, dash, last = part.partition("-")
        if not (first.isdecimal() and (last.isdecimal() if dash else not last)):
            raise InputError(f"{part!r} is not a whole number from 0", hint="write 3,7 or 10-12")
        span = range(int(first), int(last if dash else first) + 1)
        if not 0 < len(span) <= _MOST_UNITS:
            raise InputError(
                f"{part!r} is not a range of units", hint="write the smaller number first: 10-12"
            )
        numbers.extend(span)
    return tuple(numbers)


@of_text
def minutes(text: str) -> int:
    """SLURM's forms (`30`, `2:00:00`, `1-12`, `1-12:30`), and `90min`, `2h`, `1d`."""
    if match := re.fullmatch(r"(\d+)(min|h|d)", text):
        found = int(match[1]) * {"min": 1, "h": 60, "d": 1440}[match[2]]
    elif match := re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text):
        days, *parts = match.groups()
        numbers = [int(part) for part in parts if part is not None]
        if days is None and len(numbers) < 3:  # minutes, or minutes:seconds
            numbers = [0, *numbers]
        hours, rest, seconds = (*numbers, 0, 0)[:3]
        found = int(days or 0) * 1440 + hours * 60 + rest + (seconds > 0)
    else:
        found = 0
    if found < 1:
        raise InputError(f"{text!r} is not a length of time", hint="write 2h or 02:00:00 or 1-12 (36 hours)")
    return found


@of_text
def slurm_memory(text: str) -> str:
    """Memory as SLURM writes it: `32G`."""
    if not re.fullmatch(r"\d+[KMGT]?", text):
        raise InputError(f"{text!r} is not a size for SLURM", hint="write 32G")
    return text


@of_text
def slurm_name(text: str) -> str:
    """A name that stands in a line of a batch script: it must not bring lines of its own."""
    if not re.fullmatch(r"[\w.,:@+-]+", text):
        raise InputError(f"{text!r} is not a name that SLURM knows")
    return text
