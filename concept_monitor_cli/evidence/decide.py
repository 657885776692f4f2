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

MARGINS = {"architecture": 1.1, "normalisation": 1.5, "size": 2.0, "channel order": 1.2}
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

FAR = 0.24
"""A least divergence of the first layer above this says that the training had other kinds of images. Networks
trained on photos had 0.001 to 0.19 in the true normalisation, by photos of another collection; those trained
on X-rays had 0.29 to 0.51 in the nearest."""


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

    For normalisation and order of colours the first layer counts: its weights are for single colours, and no
    layer before it changes what it sees. In networks that were trained shortly the median over the layers may
    be of others. For size all layers count, by their median.
    """
    differing = differing_parts(one.presentation, other.presentation)
    factor = max((MARGINS[part] for part in differing), default=1.0)
    if differing in (["channel order"], ["normalisation"]):
        return share_of_wins(one.first, other.first, factor=factor) >= CONFIDENCE
    return share_of_wins(one.resampled, other.resampled, factor=factor) >= CONFIDENCE


def nearest_normalisation(looked: Sequence[Measured]) -> Measured | None:
    """The normalisation that clearly wins by the first layer; None where none does.

    Args:
        looked: of `by_first_layer`.
    """
    best, *others = looked
    if best.divergence > FAR or not all(beats(best, other) for other in others):
        return None
    return best


def decide(
    found: Found, looked: Sequence[Measured], usual: Presentation, nearer: Measured | None = None
) -> Decision:
    """What follows for normalisation and size.

    Args:
        found: by the search, from what is to be used.
        looked: normalisations by the first layer, of `by_first_layer`.
        usual: what is assumed without evidence, but for the architecture.
        nearer: in the normalisation that wins, where the user gave another one.

    Returns:
        The decision, with a word on fixed parts that the evidence is against.
    """
    chosen = found.usual
    if looked[0].divergence > FAR:
        return Decision("far off", chosen)
    if nearer is not None:
        return Decision("confirmed", chosen, against=("normalisation",), better=nearer)
    if nearest_normalisation(looked) is None:
        return Decision("undecided", chosen, ("normalisation",))
    moved = chosen.presentation.normalisation != usual.normalisation
    decision = Decision("taken" if moved else "confirmed", chosen)
    sizes = [
        each
        for each in found.finalists
        if differing_parts(each.presentation, chosen.presentation) == ["size"] and beats(each, chosen)
    ]
    if not sizes:
        return decision
    return replace(decision, against=("size",), better=min(sizes, key=lambda each: each.divergence))


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
