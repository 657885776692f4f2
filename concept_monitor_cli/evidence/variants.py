"""Of several architectures that the weights fit, the one that they were trained in.

Variants compute something else with the same weights: other padding, strides that are blurred. How far all of
a network is from what it remembers hardly shows that: photos of another collection than the training's change
all layers, and by more than variants do. So each layer of batch normalisation hands on its input with the
mean and variance that it had in the training (as it did in the training itself, batch by batch). The next
layer then sees what the computation between the two makes of it, and remembers what that of the true network
made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from concept_monitor_cli.evidence.candidates import Ways
from concept_monitor_cli.evidence.look import Eye
from concept_monitor_cli.evidence.search import by_first_layer
from concept_monitor_cli.functional.input_evidence import (
    Contrast,
    layer_contrast,
    place_between,
    share_nearer,
)
from concept_monitor_cli.models.batch_norm import Moments
from concept_monitor_cli.models.build import ModelSource

VARIANT_SIZE = 64
"""Side in pixels at which variants are compared: borders and strides are a larger part of small images, which
cost little. Networks trained at 32 to 260 pixels were told apart so."""

LEAST_LAYERS = 4
"""Layers that must tell two variants apart."""

CONFIDENCE = 0.99
"""Share of the resamples of the layers in which a variant must be nearer. Neighbouring layers are not
independent, so it is higher than that for resamples of the photos."""


@dataclass(frozen=True)
class Rival:
    """Another architecture of the same names and shapes, beside the one that is used.

    Attributes:
        model: the other one, "library/name".
        place: where the running statistics lie on the way from the one that is used (0) to it (1).
        nearer: share of the resamples of the layers in which they are nearer to it.
        layers: that tell the two apart.
    """

    model: str
    place: float
    nearer: float
    layers: int

    def __str__(self) -> str:
        return f"{self.model} ({self.place:.2f} of the way to it, {self.layers} layers)"


@dataclass(frozen=True)
class Variants:
    """What was found.

    Attributes:
        true: the architecture that wins against all others; None where that is open.
        rivals: the others, beside it; beside the usual one where it is open.
    """

    true: ModelSource | None
    rivals: tuple[Rival, ...]


def compare_variants(eye: Eye, ways: Ways, sources: Sequence[ModelSource]) -> Variants:
    """Find the architecture that the weights were trained in.

    Args:
        eye: shows the photos.
        ways: the presentations.
        sources: architectures that compute something else, the usual one first.
    """
    size = min(VARIANT_SIZE, ways.usual.size)
    # The first layer takes out all of a normalisation but what zeros are beyond the border: black, a colour.
    normalised = by_first_layer(eye, ways, size)
    if not normalised:
        return Variants(None, ())
    shown = normalised[0].presentation
    # All in one geometry: libraries differ in how they cut the same photo.
    seen = {source.label: eye.matched(replace(shown, source=source)) for source in sources}
    if not all(seen.values()):
        return Variants(None, ())
    best = sources[0]
    for source in sources[1:]:
        rival = _rival(seen, best, source)
        if rival is not None and rival.place > 0.5:
            best = source
    rivals = [_rival(seen, best, other) for other in sources if other is not best]
    if all(each is not None and _beaten(each) for each in rivals):
        return Variants(best, tuple(each for each in rivals if each is not None))
    beside = [_rival(seen, sources[0], other) for other in sources[1:]]
    return Variants(None, tuple(each for each in beside if each is not None))


def _beaten(rival: Rival) -> bool:
    return rival.layers >= LEAST_LAYERS and rival.nearer <= 1 - CONFIDENCE


def _rival(seen: dict[str, list[Moments]], one: ModelSource, other: ModelSource) -> Rival | None:
    """How one architecture stands beside another; None where no layer tells them apart."""
    contrasts = _contrasts(seen[one.label], seen[other.label])
    if not contrasts:
        return None
    return Rival(other.label, place_between(contrasts), share_nearer(contrasts), len(contrasts))


def _contrasts(one: Sequence[Moments], other: Sequence[Moments]) -> list[Contrast]:
    by_name = {each.layer.name: each for each in other}
    found = []
    for mine in one:
        yours = by_name.get(mine.layer.name)
        if yours is None or not mine.layer.trained:
            continue
        contrast = layer_contrast(
            (mine.means, mine.squares),
            (yours.means, yours.squares),
            mine.layer.mean,
            mine.layer.variance,
            eps=max(mine.layer.eps, yours.layer.eps),  # with its own, that of the larger one would be nearer
        )
        if contrast is not None and contrast.told:
            found.append(contrast)
    return found
