"""The numbers in the name of a checkpoint, and what the words beside them say they are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal

Kind = Literal["epoch", "stage", "step", "checkpoint", "number", "weak", "decimal", "time", "hash", "aside"]
"""What a number in a name is.

`epoch`, `stage` (of pruning), `step` and `checkpoint` by the word beside it; `number`: it stands alone or
beside a word like `model`; `weak`: glued to an unknown word, or long; `decimal`: with a decimal point and no
word; `time`: a date or clock time; `hash`: hexadecimal digits; `aside`: a score.
"""

_EPOCH = re.compile(r".*epochs?|ep|epo|e", re.IGNORECASE)
_STEP = re.compile(
    r".*(?:steps?|iterations?|iters?)|it|its|itr|(?:num_?)?updates?|ticks?|kimg|nimg", re.IGNORECASE
)
_EPOCH_OR_STEP = re.compile(f"{_EPOCH.pattern}|{_STEP.pattern}", re.IGNORECASE)
_STAGE = re.compile(
    r"levels?|lvl|stages?|rounds?|rnd|prun(?:e|ed|ing)|sparsity|density|remaining|cycle|phase|imp",
    re.IGNORECASE,
)
# What is left of the weights: the rest is pruned.
_LEFT = re.compile(r"density|remaining", re.IGNORECASE)
# Before `iter` or `step` these make it a round of pruning.
_PRUNING = re.compile(r"prun(?:e|ed|ing)|imp", re.IGNORECASE)
_CHECKPOINT = re.compile(r"ckpts?|chkpts?|checkpoints?|cpt?|snapshots?|snap|saved?", re.IGNORECASE)
# A number glued to these stands alone; glued to another word it is a part of that word.
_GLUED = re.compile(r"models?|weights?|net|network|state", re.IGNORECASE)
_SCORE = re.compile(
    r"(?:val|valid|validation|test|train|eval|avg|mean|max|min|m|best)?"
    r"(?:acc|accuracy|loss|top|err|error|miou|iou|ap|f|f1|auc|psnr|ssim|fid|bleu|wer|dice|score|metric|prec|"
    r"recall|reward|return|mae|mse|rmse|ppl|perplexity|best)",
    re.IGNORECASE,
)
# The number after these tells one training from another, or a network from another.
_OTHER = re.compile(
    r"lr|wd|seed|bs|batch|size|px|res|img|v|ver|version|run|k?fold|cv|trial|exp|experiment|rep|repeat|replicate|"
    r"gpus?|rank|shard|part|split|width|depth|dim|layers?|of|fsdp|worker|node|member|expert|cifar|imagenet|in|"
    r"(?:wide)?(?:pre)?(?:act)?(?:resnet|resnext|densenet|vgg|wrn|vit|swin|convnext|deit)",
    re.IGNORECASE,
)

# Of these words each number is a training of its own; `run` and the like may also be one that was resumed.
_TRAINING = re.compile(
    r"(?<![a-z])(seed|k?fold|cv|split|trial|rep|repeat|replicate|member)[-_=. ]?(\d+)(?!\d)", re.IGNORECASE
)
_RUN = re.compile(r"(?<![a-z])(run|exp|experiment|version)[-_=. ]?(\d+)(?!\d)", re.IGNORECASE)
# `model-00001-of-00002`: a part of one checkpoint.
_PART = re.compile(r"-\d{5}-of-\d{5}$")
# `epoch_-1`: before the first.
_BEFORE_ALL = re.compile(r"(?<=[_=])-1(?!\d)")

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_CLOCK = r"[0-2]?\d[-:h.]?[0-5]\d(?:[-:m.]?[0-5]\d)?(?:[.,]\d+)?"
_TIMES = (
    # 2023-01-05_12-30-00, 20230105T123000, 2023_01_05
    re.compile(
        rf"(?<!\d)(?:19|20)\d\d([-_.]?)(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12]\d|3[01])(?:[-_T .]+{_CLOCK})?(?!\d)"
    ),
    # Jan05_12-30-00, as TensorBoard names its folders
    re.compile(rf"(?<![a-z])(?:{'|'.join(_MONTHS)})\d\d[-_]{_CLOCK}(?!\d)", re.IGNORECASE),
    re.compile(r"(?<![\d-])[0-2]\d([-:])[0-5]\d\1[0-5]\d(?![\d-])"),
    re.compile(r"(?<!\d)1\d{9}(?:\d{3})?(?!\d)"),  # seconds or milliseconds since 1970
)
_HASH = re.compile(
    r"(?<![a-z0-9])(?!e\d+(?![0-9a-f]))(?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{7,40}(?![a-z0-9])", re.IGNORECASE
)
# A learning rate: 1e-3.
_SMALL = re.compile(r"(?<![a-z\d.])\d+(?:\.\d+)?e-\d+", re.IGNORECASE)
# `iter_1e4`: ten thousand.
_POWER = re.compile(r"(steps?|iter(?:ation)?s?|updates?)[_\-=]?(\d(?:\.\d+)?e\d)(?![a-z0-9])", re.IGNORECASE)
_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:[km](?![a-z0-9]))?", re.IGNORECASE)
_WORD_BEFORE = re.compile(r"([A-Za-z]+)([=_\-. :()\[\]]*)$")
_WORD_AFTER = re.compile(r"(?:st|nd|rd|th)?[_\- ]?([A-Za-z]+)(?![A-Za-z])")
_THOUSANDS = {"k": 1000, "m": 1_000_000}
# Longer bare numbers are rather dates, times or hashes.
_MOST_DIGITS = 7


@dataclass(frozen=True)
class Number:
    """A number in a name.

    Attributes:
        value: the number; of a date its digits, which sort as dates do.
        kind: what the words beside it say that it is.
        folder: whether it stands in a folder's name.
        text: as it stands in the name.
        word: the word in front of it, in lower case.
    """

    value: Fraction
    kind: Kind
    folder: bool
    text: str
    word: str = ""


@dataclass(frozen=True)
class Name:
    """A name taken apart.

    Attributes:
        text: the name with `{}` for every number. Numbers that tell one training or network from another (a
            seed, a version, an architecture's) stay in it.
        numbers: the others, in the order in which they stand there.
        training: the number of a seed, of cross-validation's fold or the like, with its word; "" without.
        run: the same of a word that may also count parts of one training.
    """

    text: str
    numbers: tuple[Number, ...]
    training: str = ""
    run: str = ""

    def shown(self, keep: frozenset[int] = frozenset()) -> str:
        """The name as a pattern: `*` for every number but those at the places in `keep`."""
        parts = self.text.split("{}")
        shown = [number.text if place in keep else "*" for place, number in enumerate(self.numbers)]
        return "".join(text + number for text, number in zip(parts, [*shown, ""], strict=True))


@dataclass(frozen=True)
class NamedEpoch:
    """A number in a name.

    Attributes:
        value: the number.
        kind: "epoch" or "step" where a word says so, "number" where it only looks like it.
    """

    value: int
    kind: Literal["epoch", "step", "number"]


def take_apart(path: str) -> Name:
    """The numbers in a path (without the extension), and the text around them.

    >>> [(int(n.value), n.kind) for n in take_apart("checkpoint-10/net_5").numbers]
    [(10, 'checkpoint'), (5, 'number')]
    """
    texts, numbers = [], []
    components = path.split("/")
    for place, component in enumerate(components):
        text, found = _component(component, folder=place < len(components) - 1)
        texts.append(text)
        numbers += found
    return Name("/".join(texts), tuple(numbers), _told_by(_TRAINING, path), _told_by(_RUN, path))


def _told_by(pattern: re.Pattern[str], path: str) -> str:
    return " ".join(f"{word.lower()} {int(number)}" for word, number in pattern.findall(path))


def epoch_in_name(name: str) -> NamedEpoch | None:
    """The epoch in one file's or folder's name (without its extension), else its step, else its last number.

    Numbers that belong to an architecture (`resnet18`, `vit_b_16`), a score (`acc_93.5`), a date or a hash do
    not count. Where there are several names, `fields.tell` sees more.

    >>> epoch_in_name("epoch=3-step=400").value
    3
    >>> epoch_in_name("resnet18-best") is None
    True
    """
    numbers = [number for number in take_apart(name).numbers if number.value.denominator == 1]
    epochs, steps = ([number for number in numbers if number.kind == kind] for kind in ("epoch", "step"))
    if epochs or steps:
        return NamedEpoch(int((epochs or steps)[0].value), "epoch" if epochs else "step")
    bare = [number for number in numbers if number.kind in ("checkpoint", "stage", "number")]
    return NamedEpoch(int(bare[-1].value), "number") if bare else None


def _component(name: str, *, folder: bool) -> tuple[str, list[Number]]:
    """One file's or folder's name: the text around its numbers, and the numbers."""
    pieces, numbers, end = [], [], 0
    for start, stop, number in sorted(_found(name, folder), key=lambda item: item[0]):
        pieces.append(name[end:start])
        numbers.append(number)
        end = stop
    return "{}".join([*(piece.replace("{}", "") for piece in pieces), name[end:].replace("{}", "")]), numbers


def _found(name: str, folder: bool) -> Iterator[tuple[int, int, Number]]:
    """Begin, end and meaning of the numbers in a component, without those that are a part of its text."""
    taken = [
        *_architecture(name),
        *(m.span() for pattern in (_SMALL, _PART, _BEFORE_ALL) for m in pattern.finditer(name)),
    ]
    for pattern in (*_TIMES, _HASH):
        for match in pattern.finditer(name):
            if not _overlaps(taken, *match.span()):
                taken.append(match.span())
                value = int(match[0], 16) if pattern is _HASH else _sortable(match[0])
                kind: Kind = "hash" if pattern is _HASH else "time"
                yield *match.span(), Number(Fraction(value), kind, folder, match[0])
    for match in _POWER.finditer(name):
        if not _overlaps(taken, *match.span(2)):
            taken.append(match.span(2))
            yield *match.span(2), Number(Fraction(match[2]), "step", folder, match[2], match[1].lower())
    for match in _NUMBER.finditer(name):
        if _overlaps(taken, *match.span()):
            continue
        number = _meaning(name, match, folder)
        if number is not None:
            yield *match.span(), number


def _overlaps(spans: list[tuple[int, int]], start: int, stop: int) -> bool:
    return any(start < end and stop > begin for begin, end in spans)


def _sortable(text: str) -> int:
    month = next((place for place, name in enumerate(_MONTHS, 1) if text.lower().startswith(name)), 0)
    return int((str(month) if month else "") + "".join(re.findall(r"\d", text)))


def _meaning(name: str, match: re.Match[str], folder: bool) -> Number | None:
    """What the words beside a number say; None where it belongs to the text."""
    text, suffix = match[0], match[0][-1].lower()
    value = Fraction(text[:-1]) * _THOUSANDS[suffix] if suffix in _THOUSANDS else Fraction(text)
    before = _WORD_BEFORE.search(name, 0, match.start())
    word = _last_hump(before[1]) if before else ""
    kind = _by_word(name, match, before, word)
    if kind is None:
        return None
    if kind == "number":
        long = len(text) > _MOST_DIGITS and not text.startswith("0")
        in_version = name[: match.start()].endswith(".") and name[: match.start() - 1][-1:].isdigit()
        if "." in text or in_version:
            kind = "decimal"
        elif long or suffix in _THOUSANDS:
            kind = "weak"
    if _LEFT.fullmatch(word) and value <= 100:
        value = (1 if value <= 1 else 100) - value
    return Number(value, kind, folder, text, word)


def _by_word(name: str, match: re.Match[str], before: re.Match[str] | None, word: str) -> Kind | None:
    """The kind that the words around a number give it; None where it belongs to its word."""
    if before and before[2] and _EPOCH_OR_STEP.fullmatch(word) and name[: before.start(1)][-1:].isdigit():
        before = None  # the word belongs to the number in front of it: `5ep_71`
    found = _before(name, before, word) if before else "number"
    if found in ("epoch", "stage", "step"):
        return found
    after = _WORD_AFTER.match(name, match.end())
    glued = after is not None and after.start(1) == match.end() and not name[after.end() :][:1].isdigit()
    if after and (glued or not re.match(r"[=_\-. ]*\d", name[after.end() :])):
        for pattern, kind in ((_EPOCH, "epoch"), (_STEP, "step")):
            if len(after[1]) > 1 and pattern.fullmatch(after[1]):
                return kind  # type: ignore[return-value]
    if found == "number" and name[match.end() : match.end() + 1].isalpha():
        return None  # `3x3`, `1x`: part of a word
    return found


def _before(name: str, before: re.Match[str], word: str) -> Kind | None:
    glued = not before[2]
    front = name[: before.start(1)]
    if _STAGE.fullmatch(word):
        return "stage"
    if (
        _EPOCH.fullmatch(word)
        and (len(word) > 2 or not front[-1:].isdigit())
        and word == before[1].lower()[-len(word) :]
    ):
        return "epoch"
    if _STEP.fullmatch(word):
        earlier = _WORD_BEFORE.search(front)
        return "stage" if earlier and _PRUNING.fullmatch(_last_hump(earlier[1])) else "step"
    if _SCORE.fullmatch(word):
        return "aside"
    if _CHECKPOINT.fullmatch(word):
        return "checkpoint"
    if _GLUED.fullmatch(word):
        return "number"
    if _OTHER.fullmatch(word) or (glued and len(word) == 1):
        return None
    return "weak" if glued else "number"


def _last_hump(word: str) -> str:
    """The last word of `modelEpoch`, in lower case."""
    return re.split(r"(?<=[a-z])(?=[A-Z])", word)[-1].lower()


def _architecture(name: str) -> Iterator[tuple[int, int]]:
    """Where an architecture's name stands in a name, so that the 16 of `vit_b_16` is no epoch."""
    lowered = name.lower()
    for known in _architectures():
        at = lowered.find(known)
        if (
            at >= 0
            and not name[at - 1 : at].isalnum()
            and not name[at + len(known) : at + len(known) + 1].isalnum()
        ):
            yield at, at + len(known)
            return


@lru_cache(maxsize=1)
def _architectures() -> tuple[str, ...]:
    """Names of architectures that hold a number, longest first."""
    from concept_monitor_cli.checkpoints.recognition import shipped_index

    names = {entry.name.lower() for entry in shipped_index().architectures}
    telling = (name for name in names if re.search(r"\d", name))
    return tuple(sorted(telling, key=lambda name: (-len(name), name)))
