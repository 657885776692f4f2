"""From what was looked at to a decision: what wins clearly is taken, else the usual is kept."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from concept_monitor_cli.evidence.candidates import Presentation
from concept_monitor_cli.evidence.look import Measured
from concept_monitor_cli.evidence.search import Found
from concept_monitor_cli.functional.input_evidence import share_of_wins
from concept_monitor_cli.models.geometry import Channels

Status = Literal["taken", "confirmed", "undecided", "far off"]

CONFIDENCE = 0.975
"""Share of the resamples of the photos in which a presentation must win."""

FOLLOWED = ("normalisation",)
"""Parts in which the evidence over all layers is followed. The order of colours has a rule of its own, and so
has the architecture (`variants`): by this distance a wrong one was often nearest, on networks whose training
was known. Size is reported only: it was mistaken now and then, as photos of another collection may be
sharper."""

MARGINS = {"architecture": 1.1, "normalisation": 1.2, "size": 2.0, "channel order": 1.2}
"""By how much, beyond that, a divergence must be smaller, by what differs between the two.

Resamples show what hangs on the choice of these photos; they do not show that the training had photos of
another kind. Kinds of photos differ most in their colours, and least in what layers see at borders.
"""

NEAR_ORDER = 0.03
"""With its colours swapped, the first layer must be nearer than this: or the training's images were of other
colours than the photos, and neither order is right."""

REDDER = 0.02
"""By how much the photos must be brighter in red than in blue (of 1), as photos are by 0.08 on average. With
others, a training on usual photos looks as if their colours had been swapped."""

FAR = 0.3
"""A least divergence above this says that the network was trained on images of another kind."""


@dataclass(frozen=True)
class Decision:
    """What follows from what was looked at.

    Attributes:
        status: `taken`: another presentation than the usual wins; `confirmed`: the usual one wins against all
            others; `undecided`: others are as good, and the usual is kept in what is open; `far off`: nothing
            comes near, and the usual is kept.
        chosen: the presentation to use.
        open_parts: what differs between those that are as good.
        against: parts that the user fixed, or in which the evidence is not followed, and that it is against.
        better: what the evidence would take if it were followed in everything; None where nothing is against.
    """

    status: Status
    chosen: Measured
    open_parts: tuple[str, ...] = ()
    against: tuple[str, ...] = ()
    better: Measured | None = None


def differing_parts(one: Presentation, other: Presentation) -> list[str]:
    """The parts in which two presentations differ."""
    return [part for part, value in one.parts.items() if other.parts[part] != value]


def beats(one: Measured, other: Measured) -> bool:
    """Whether a presentation is clearly nearer than another to what the network remembers.

    All layers count, by their median; for the order of colours alone the first layer, the only one whose
    weights are for single colours. Deeper ones hardly tell red from blue first. For a normalisation the first
    layer must agree: it sees that best, and in networks that were trained shortly the median may mislead.
    """
    differing = differing_parts(one.presentation, other.presentation)
    if differing == ["channel order"]:
        factor = MARGINS["channel order"]
        return share_of_wins(one.first, other.first, factor=factor) >= CONFIDENCE
    factor = max((MARGINS[part] for part in differing if part != "channel order"), default=1.0)
    wins = share_of_wins(one.resampled, other.resampled, factor=factor) >= CONFIDENCE
    if wins and "normalisation" in differing:
        wins = share_of_wins(one.first, other.first) >= CONFIDENCE
    if wins and "architecture" in differing:
        # The last layers of small networks have few positions, and their median is no proof alone.
        return share_of_wins(one.early, other.early) >= CONFIDENCE
    return wins


def decide(found: Found, fixed: Collection[str] = ()) -> Decision:
    """Take what wins.

    Args:
        found: by the search.
        fixed: parts that the user has decided; they stay as they are in the usual presentation.

    Returns:
        The decision, with a word on fixed parts that the evidence is against.
    """
    usual, everything = found.usual, [found.usual, *found.finalists]
    if min(each.divergence for each in everything) > FAR:
        return Decision("far off", usual)
    free = [part for part in FOLLOWED if part not in fixed]
    decision = _among(
        usual,
        [each for each in everything if set(_changed(each, usual)) <= set(free)],
    )
    least = min(everything, key=lambda each: each.divergence)
    chosen = decision.chosen
    doubted = [part for part in free if part in differing_parts(least.presentation, chosen.presentation)]
    if doubted and decision.status != "undecided":
        # What is nearest in another size or order says something else.
        decision = Decision("undecided", usual, tuple(dict.fromkeys((*doubted, *decision.open_parts))))
    better = _among(usual, everything).chosen
    against = [part for part in _changed(better, usual) if part not in free]
    if not against or not beats(better, decision.chosen):
        return decision
    return replace(decision, against=tuple(against), better=better)


def shows_order(shown: Presentation) -> bool:
    """Whether the order of colours can be seen at all.

    Where a normalisation takes each colour's own mean away (ImageNet's), nothing is left to see it by.
    """
    return len(set(shown.preprocessing.mean)) == len(set(shown.preprocessing.std)) == 1


def best_order(one: Measured | None, other: Measured | None, *, redder: float) -> Channels | None:
    """The order of colours that the training clearly had, by the first layer; None where that is open.

    Args:
        one: a presentation.
        other: the same with its colours swapped.
        redder: by how much the photos are brighter in red than in blue, of 1.
    """
    if one is None or other is None or redder < REDDER:
        return None
    if not shows_order(one.presentation):
        return None
    for near, far in ((one, other), (other, one)):
        if float(near.first.median()) <= NEAR_ORDER and beats(near, far):
            return near.presentation.channels
    return None


def with_order(
    decision: Decision, order: Channels | None, twin: Measured | None, fixed: Collection[str]
) -> Decision:
    """A decision on all else, and the order of colours.

    Args:
        decision: with the usual order.
        order: of `best_order`.
        twin: what was chosen with its colours swapped, where `order` is that.
        fixed: parts that the user has decided.
    """
    if order is None or "normalisation" in decision.open_parts:
        return replace(decision, open_parts=(*decision.open_parts, "channel order"))
    if twin is None:
        return decision
    if "channel order" in fixed:
        return replace(decision, against=("channel order", *decision.against), better=decision.better or twin)
    return replace(decision, status="taken", chosen=twin)


def with_architecture(
    decision: Decision,
    usual: Measured,
    variants: Collection[str],
    nearer: Measured | None,
    fixed: Collection[str],
    *,
    told: bool,
) -> Decision:
    """A decision on all else, and what is known of the architecture.

    Args:
        decision: on all else, in the architecture that the weights were trained in where that was found.
        usual: the usual presentation.
        variants: other architectures that fit and compute something else.
        nearer: what was chosen, in the architecture that was found, where the user named another.
        fixed: parts that the user has decided.
        told: whether the architecture was found; without that it is left open where there are variants.
    """
    if nearer is not None and decision.status != "far off":
        return replace(decision, against=("architecture", *decision.against), better=nearer)
    if decision.chosen.presentation.source.label != usual.presentation.source.label:
        if decision.status != "far off":
            return replace(decision, status="taken")
        decision, told = replace(decision, chosen=usual), False
    if told or not variants or "architecture" in fixed or "architecture" in decision.open_parts:
        return decision
    return replace(decision, open_parts=("architecture", *decision.open_parts))


def _changed(one: Measured, usual: Measured) -> list[str]:
    return differing_parts(one.presentation, usual.presentation)


def _among(usual: Measured, looked: Sequence[Measured]) -> Decision:
    """Of those that no other one beats, the usual; else what is most as usual; else the least."""
    equal = [each for each in looked if not any(beats(other, each) for other in looked)]
    differing = {
        part
        for each in equal
        for other in equal
        for part in differing_parts(each.presentation, other.presentation)
    }
    open_parts = tuple(part for part in MARGINS if part in differing)
    if usual in equal or not equal:
        return Decision("undecided" if len(equal) != 1 else "confirmed", usual, open_parts)
    winners = [each for each in equal if beats(each, usual)]
    if not winners:
        return Decision("undecided", usual, open_parts)
    for part in MARGINS:
        as_usual = [
            each for each in winners if each.presentation.parts[part] == usual.presentation.parts[part]
        ]
        winners = as_usual or winners
    return Decision("taken", min(winners, key=lambda each: each.divergence), open_parts)
