"""What a finding is, and which of those that were tried are said."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from concept_monitor_cli.functional.luck import holm, standard_errors

#: Probability that a run in which nothing but luck is at work gives rise to any statement.
LEVEL = 0.01
#: Most sentences, and most of one kind.
MOST, MOST_OF_A_KIND = 7, 2
#: Most sentences on what speaks against trusting the others.
MOST_CAUTIONS = 3

# What speaks against trusting what a run shows.
Caution = Literal[
    "renderings",
    "few-images",
    "crowded",
    "repeating",
    "collapsing",
    "clumping",
    "dying",
    "silent",
    "untrained",
    "not-held-out",
    "luck",
    "still",
    "different-settings",
]
Kind = Literal[
    # What a run shows.
    "growth",
    "named",
    "together",
    "fall",
    "category",
    "held-out",
    "changes",
    "settling",
    "drift",
    "agreement",
    # What sets two runs apart.
    "more-named",
    "more-of-a-category",
    "matched",
    "same-concept",
    # That there is nothing.
    "nothing",
    Caution,
]

NOTHING: Kind = "nothing"
#: What speaks against trusting the others.
CAUTIONS: tuple[Kind, ...] = get_args(Caution)
#: Those that say of labels or paths that they are no better than luck: where there is nothing, that is said.
_OF_LABELS: tuple[Kind, ...] = ("untrained", "not-held-out", "luck", "still")
#: Cautions that come before everything else: they put all names in doubt.
_FIRST: tuple[Kind, ...] = ("renderings", "different-settings")


@dataclass(frozen=True)
class Finding:
    """A sentence, and the numbers behind it: a row of `findings.csv`.

    Attributes:
        sentence: what is said.
        kind: which rule says it.
        epoch: of `value`; `None` where it is about no epoch.
        layer: `""` where it is about no layer.
        value: the number that the sentence is about.
        chance: what luck gives for it; NaN where the rule asks no luck.
        evidence: where to look: a table, and the command that shows it.
        detector: whose labels; `""` where it is not about labels.
        from_epoch: where `value` is compared with an earlier epoch, that one.
        before: `value` there.
        floor: the same of a network with random weights; NaN where it is not known.
        p_value: probability of so much by luck; NaN of a caution, which is a plain fact.
        standard_errors: the same as a distance from chance, by which sentences are ranked.
    """

    sentence: str
    kind: Kind
    epoch: int | None
    layer: str
    value: float
    chance: float
    evidence: str
    detector: str = ""
    from_epoch: int | None = None
    before: float = math.nan
    floor: float = math.nan
    p_value: float = math.nan
    standard_errors: float = math.nan

    @property
    def is_caution(self) -> bool:
        """Whether it speaks against trusting the others."""
        return self.kind in CAUTIONS

    @property
    def command(self) -> str:
        """The command that shows the evidence; `""` where there is none."""
        _, _, inside = self.evidence.partition("(")
        return inside.removesuffix(")") if inside.startswith("cmon ") else ""

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON values, missing numbers as None."""
        values = asdict(self)
        return {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in values.items()
        }


def choose(tried: Sequence[Finding], cautions: Sequence[Finding] = ()) -> list[Finding]:
    """The findings that are said: what luck does not explain, the strongest first, and what to beware of.

    All statements that were tried count against each other (Holm, at `LEVEL`), so that a run of noise says
    "nothing beyond chance" and no more than that.

    Args:
        tried: every statement that rules could have made, with its p-value.
        cautions: in the order of their weight.
    """
    held = holm([each.p_value for each in tried], LEVEL)
    sure = [
        replace(each, standard_errors=standard_errors(each.p_value))
        for each, holds in zip(tried, held, strict=True)
        if holds
    ]
    if not sure:
        first = [each for each in cautions if each.kind in _FIRST]
        rest = [each for each in cautions if each.kind not in (*_OF_LABELS, *_FIRST)]
        return [*first, _nothing(tried), *rest][: MOST_CAUTIONS + 1]
    sure = _without_repetition(sorted(sure, key=lambda each: -each.standard_errors))
    warned = list(cautions)[:MOST_CAUTIONS]
    first = [each for each in warned if each.kind in _FIRST]
    last = [each for each in warned if each.kind not in _FIRST]
    return [*first, *_varied(sure, MOST - len(warned)), *last]


def _nothing(tried: Sequence[Finding]) -> Finding:
    layers = len({(each.layer, each.detector) for each in tried if each.layer})
    what = f"{layers} layer{'' if layers == 1 else 's'}" if layers else "this run"
    # The tables ask unit by unit; here units that are alike count once.
    named = [each for each in tried if each.kind == "named"]
    most = max(named, key=lambda each: each.value, default=None)
    why = (
        ""
        if most is None
        else f"; {most.value:.0f} units of {most.layer} name a concept one by one, but all its units "
        "together are within luck, where those that are alike count once"
    )
    return Finding(
        f"nothing beyond chance: of {len(tried)} statements about {what} none is more than luck gives{why}",
        NOTHING,
        None,
        "",
        0.0,
        LEVEL * len(tried),
        "tables/statistics.csv (cmon stats)",
    )


def _without_repetition(found: Sequence[Finding]) -> list[Finding]:
    """How many units are named now is in the sentence on how that came about."""
    grown = {(each.layer, each.detector) for each in found if each.kind == "growth"}
    return [each for each in found if each.kind != "named" or (each.layer, each.detector) not in grown]


def _varied(found: Sequence[Finding], most: int) -> list[Finding]:
    """The strongest of every kind, then the next ones, as many as there is room for; the strongest first."""
    count: Counter[str] = Counter()
    turns = []
    for place, each in enumerate(found):
        turns.append((count[each.kind], place))
        count[each.kind] += 1
    chosen = sorted(turn for turn in turns if turn[0] < MOST_OF_A_KIND)[:most]
    return [found[place] for place in sorted(place for _, place in chosen)]
