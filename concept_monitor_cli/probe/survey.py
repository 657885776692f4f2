"""What the numbers in a set of index masks mean, decided from all of its masks and its class list.

A number that no list names may be void (a border, pixels that nobody labelled), or a class that was saved
under another number (255 for the one class of a binary mask), or a sign that list and masks do not belong
together. Which of these it is can be seen in the set, not in the number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.probe.annotations import UNLABELLED
from concept_monitor_cli.probe.classes import ClassList
from concept_monitor_cli.probe.maskfiles import UNKNOWN_COLOUR
from concept_monitor_cli.wording import counted

RARE = 0.05
"""Share of the set's pixels up to which a number that no list names may be void."""

_SPECKS = (
    0.05  # share of pixels of all numbers between the two of a binary mask that was smoothed when scaled
)
_BORDER = 0.25  # share of a number's pixels that may be left after its border was taken off
_WIDTH = 0.02  # of that border, of the mask's shorter side
_USUAL_VOID = (255, 65535)
_FEW = 8  # numbers in binary masks that were not smoothed, with some void
_MOST_SCALED = 12  # classes that may be spread over 0..255


@dataclass(frozen=True)
class MaskFacts:
    """What is in one mask.

    Attributes:
        pixels: number -> how many pixels hold it.
        inner: number that the list does not name -> how many of these pixels are not near its border.
    """

    pixels: Mapping[int, int]
    inner: Mapping[int, int]


@dataclass(frozen=True)
class Meaning:
    """What the numbers in masks mean.

    Attributes:
        indices: number -> the label's index, or `UNLABELLED`.
        notes: what was assumed, in sentences.
        problem: why the masks cannot be used with this list; `None`: they can.
    """

    indices: Mapping[int, int]
    notes: tuple[str, ...] = ()
    problem: InputError | None = None


def mask_facts(numbers: npt.NDArray[np.int64], classes: ClassList) -> MaskFacts:
    """What is in a mask of these numbers, `(h, w)`."""
    values, counts = _counted(numbers)
    known = set(classes.numbers)
    inner: dict[int, int] = {}
    strange = [value for value in values.tolist() if value not in known]
    if len(strange) <= 8:  # more are specks of a mask that was smoothed, not borders
        from scipy import ndimage

        width = max(2, round(_WIDTH * min(numbers.shape)))
        for value in strange:
            core = ndimage.minimum_filter((numbers == value).view(np.uint8), 2 * width + 1, mode="nearest")
            inner[value] = int(core.sum())
    return MaskFacts(dict(zip(values.tolist(), counts.tolist(), strict=True)), inner)


def _counted(numbers: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The numbers that occur, and how often."""
    if numbers.min() < 0 or numbers.max() > 65535:
        values, often = np.unique(numbers, return_counts=True)
        return values, often
    counts = np.bincount(numbers.ravel())  # several times faster than sorting
    values = np.flatnonzero(counts)
    return values, counts[values]


def meaning(facts: Sequence[MaskFacts], classes: ClassList, where: str) -> Meaning:
    """What the numbers in these masks mean, with a class list.

    Args:
        facts: of every mask that can be read.
        classes: the list.
        where: the folder of the masks, for messages.
    """
    pixels: Counter[int] = Counter()
    inner: Counter[int] = Counter()
    for each in facts:
        pixels.update(each.pixels)
        inner.update(each.inner)
    indices = {label.number: label.index for label in classes.labels}
    indices |= dict.fromkeys(classes.unlabelled, UNLABELLED)
    notes = [*_first_line(classes, pixels), *_from_one(classes, pixels)]
    scaled = _two_numbers(pixels, classes) or _spread_numbers(pixels, classes)
    if scaled is not None:
        indices.update(scaled.indices)
        notes += scaled.notes
    if classes.numbered:
        indices.setdefault(0, UNLABELLED)
    total = sum(pixels.values())
    colours: dict[int, int] = {}
    for value in sorted(value for value in pixels if value not in indices):
        share = pixels[value] / total
        border = value in inner and inner[value] <= _BORDER * pixels[value]
        if (_is_next(value, classes) and not border) or not (value in _USUAL_VOID or share <= RARE or border):
            return Meaning(indices, tuple(notes), _unlisted(value, facts, pixels, classes, where))
        indices[value] = UNLABELLED
        if value >= UNKNOWN_COLOUR:
            colours[value] = pixels[value]
            continue
        why = "a border" if border else "rare" if share <= RARE else "what is usual for void"
        notes.append(
            f"{_said(value)}, which {classes.source} does not name, is taken as unlabelled: {share:.1%} of "
            f"the masks' pixels, {why}"
        )
    if colours:
        often = max(colours, key=lambda value: colours[value])
        rest = f" and {counted(len(colours) - 1, 'others')}" if len(colours) > 1 else ""
        notes.append(
            f"{_said(often)}{rest}, which {classes.source} does not name, taken as unlabelled: "
            f"{sum(colours.values()) / total:.1%} of the masks' pixels"
        )
    if not any(indices[value] != UNLABELLED for value in pixels):
        found = ", ".join(_said(value) for value in sorted(pixels)[:6])
        return Meaning(
            indices,
            tuple(notes),
            InputError(
                f"no mask holds a class of {classes.source}: the masks hold {found}, the list names "
                f"{', '.join(f'{label.number} {label.name}' for label in classes.labels[:3])}",
                where=where,
                hint="list the numbers that the masks hold: classes.csv with the columns index and name",
            ),
        )
    return Meaning(indices, _few(notes))


def _is_next(value: int, classes: ClassList) -> bool:
    """Whether a number would belong to the next line of a list without numbers: the list may be short."""
    return not classes.numbered and not classes.colours and value == len(classes.numbers)


def _few(notes: Sequence[str]) -> tuple[str, ...]:
    """Not a sentence for each of hundreds of strange colours."""
    return (*notes[:6], f"and {len(notes) - 6} numbers more") if len(notes) > 7 else tuple(notes)


def _said(value: int) -> str:
    if value < UNKNOWN_COLOUR:
        return f"number {value}"
    code = value - UNKNOWN_COLOUR
    return f"the colour {code & 255} {code >> 8 & 255} {code >> 16}"


def _first_line(classes: ClassList, pixels: Mapping[int, int]) -> list[str]:
    """Whether 0 is a class cannot be seen in the masks: a list without background may lack its first line."""
    first = next((label.name for label in classes.labels if label.number == 0), None)
    if classes.numbered or classes.colours or first is None or 0 not in pixels:
        return []
    last = classes.numbers[-1]
    return [
        f"{classes.source} has no line for background: number 0 is taken for {first!r}, {last} for its last "
        "line. If 0 means unlabelled in these masks, put a blank line first"
    ]


def _from_one(classes: ClassList, pixels: Mapping[int, int]) -> list[str]:
    """Whether a list that counts from 1 belongs to masks that count from 0: its background is 1."""
    numbers = classes.numbers
    if not classes.numbered or numbers[0] != 1 or 1 not in classes.unlabelled or 0 not in pixels:
        return []
    if numbers[-1] in pixels:
        return []
    return [
        f"{classes.source} numbers its classes from 1 to {numbers[-1]}, with 1 for background, and the masks "
        f"hold 0 and no {numbers[-1]}. If its first line is 0, number the lines from 0"
    ]


def _two_numbers(pixels: Counter[int], classes: ClassList) -> Meaning | None:
    """Binary masks whose foreground has another number than the list says, such as 255."""
    numbers = classes.numbers
    one_class = len(classes.labels) == 1
    if classes.colours or not (len(numbers) == 2 or one_class) or len(pixels) < 2:
        return None
    low, high = min(pixels), max(pixels)
    if sum(pixels.values()) - pixels[low] - pixels[high] > _SPECKS * sum(pixels.values()):
        return None
    if 2 < len(pixels) <= _FEW and any(number in pixels for number in numbers if number not in (low, high)):
        return None  # 0, 1 and 255: the list fits as it is
    if high in numbers or low not in (0, numbers[0]):
        return None
    indices = dict.fromkeys(pixels, UNLABELLED)
    if one_class:
        foreground = classes.labels[0]
    else:
        low_label, foreground = classes.labels
        indices[low] = low_label.index
    indices[high] = foreground.index
    note = (
        f"the masks hold {low} and {high}: {high} is taken for {foreground.name!r}, the last class of "
        f"{classes.source}"
    )
    return Meaning(indices, (note if len(pixels) == 2 else f"{note}; numbers between them are unlabelled",))


def _spread_numbers(pixels: Counter[int], classes: ClassList) -> Meaning | None:
    """Numbers 0..n-1 that were spread over 0..255, so that the masks can be looked at."""
    numbers = classes.numbers
    count = len(numbers)
    if classes.colours or not 3 <= count <= _MOST_SCALED or numbers != tuple(range(count)):
        return None
    indices = {label.number: label.index for label in classes.labels}
    indices |= dict.fromkeys(classes.unlabelled, UNLABELLED)
    for rounded in (np.rint, np.floor):
        spread = {int(rounded(number * 255 / (count - 1))): number for number in numbers}
        if len([value for value in pixels if value >= count]) >= 2 and all(
            value in spread for value in pixels
        ):
            note = (
                f"the masks hold {', '.join(str(value) for value in sorted(pixels))}: taken for "
                + ", ".join(str(spread[value]) for value in sorted(pixels))
            )
            return Meaning({value: indices[number] for value, number in spread.items()}, (note,))
    return None


def _unlisted(
    value: int, facts: Sequence[MaskFacts], pixels: Counter[int], classes: ClassList, where: str
) -> InputError:
    masks = sum(value in each.pixels for each in facts)
    lines = len(classes.numbers)
    hint = "list it, or leave its line blank: unlabelled"
    if _is_next(value, classes):
        hint = (
            f"the list is one line short: it has {counted(lines, 'lines')}, for 0 to {lines - 1}. If "
            "0 means unlabelled, "
            "put a blank line first"
        )
    elif classes.colours:
        hint = f"add a line with this colour to {classes.source}"
    what = _said(value) if value >= UNKNOWN_COLOUR else f"label number {value}"
    return InputError(
        f"{masks:,} of {len(facts):,} masks hold {what} ({pixels[value] / sum(pixels.values()):.0%} of all "
        f"pixels), which {classes.source} does not name",
        where=where,
        hint=hint,
    )
