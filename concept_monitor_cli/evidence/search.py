"""Which presentations are looked at, and with how many photos: most are out after the first layers.

A few photos are shown in many ways to the first layers; in the ways that come near, to the whole network; and
all photos in those that are still near then. What was shown is kept, so no photo is shown twice in one way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.evidence.candidates import Presentation, Ways
from concept_monitor_cli.evidence.look import PHOTOS, Eye, Measured
from concept_monitor_cli.models.build import ModelSource

FIRST_LAYERS = 3
"""Layers of batch normalisation that see the normalisation well: a few per cent of a forward pass."""

SCREENING = 8
"""Photos for the presentations that are looked at first."""

KEPT = 3
"""Normalisations of each size that are looked at with all layers, at most."""

NEAR = 2.0
"""A presentation whose divergence is larger than the least by this factor is out, after the screening."""

NEAR_FIRST = 4.0
"""Likewise by the first layers alone, which see less."""

FINALISTS = 3
"""Presentations that all photos are shown in, apart from the usual one; one of another size among them."""

PRINT_SIZES = (64, 128)
"""Sides in pixels at which it is seen whether two architectures compute the same; then the usual side."""


@dataclass(frozen=True)
class Found:
    """What was looked at.

    Attributes:
        usual: the usual presentation; by all photos where it and another came near the least.
        finalists: the others that came close to the least or below it, by all photos, least first.
        screened: the rest, by fewer photos, least first.
    """

    usual: Measured
    finalists: tuple[Measured, ...]
    screened: tuple[Measured, ...]


def search(
    eye: Eye, ways: Ways, sources: Sequence[ModelSource], different: Sequence[ModelSource] = ()
) -> Found | None:
    """Look for the presentation that is nearest to what the network remembers.

    Args:
        eye: shows the photos.
        ways: the presentations.
        sources: the architectures that the checkpoint fits, the usual one first.
        different: those among them that compute something else than it, and may be the true one.

    Returns:
        What was found; None where the network does not run on the usual images.
    """
    photos = min(PHOTOS, len(eye.photos))
    few = min(SCREENING, photos)
    usual = eye.look(ways.usual, few)
    if usual is None:
        return None
    known: dict[tuple[object, ...], Measured] = {ways.usual.key: usual}

    def look(presentations: Iterable[Presentation]) -> None:
        for each in presentations:
            if each.key not in known and (found := eye.look(each, few)) is not None:
                known[each.key] = found

    by_size = _screened(eye, ways, _own(ways, sources), few)
    look(kept[0] for kept in by_size.values())
    near = _near(known.values())
    for size, kept in by_size.items():
        if size == ways.usual.size or any(size == each.presentation.size for each in near):
            look(kept)
    best = _least(known.values()).presentation
    look(_nearer(eye, ways, best, different, few))
    look(ways.neighbours(_least(known.values()).presentation))
    return _final(eye, ways, known, photos)


def by_first_layer(eye: Eye, ways: Ways, size: int | None = None) -> list[Measured]:
    """The usual presentation in each normalisation, by what the first layer sees; least first.

    Each counts by the order of colours in which it is nearer, whichever is decided afterwards.

    Args:
        eye: shows the photos.
        ways: the presentations.
        size: another one than the usual, in pixels.
    """
    pairs = ways.normalisations(ways.usual.preprocessing)
    shown = [ways.with_parts(normalisation=pair, size=size) for pair in pairs]
    photos = min(PHOTOS, len(eye.photos))
    found = []
    for each in shown:
        orders = [] if each is None else [each, ways.twin(each)]
        looked = [eye.look(order, photos, first=1) for order in orders if order is not None]
        seen = [order for order in looked if order is not None]
        if each is not None and seen:
            found.append(replace(_least(seen), presentation=each))
    return sorted(found, key=lambda each: each.divergence)


def _own(ways: Ways, sources: Sequence[ModelSource]) -> dict[str, Presentation]:
    """How the library of each architecture presents its images."""
    found = {}
    for source in sources:
        try:
            found[source.label] = Presentation(source, ways.prepare(source))
        except InputError:  # it sees other than squares, say
            found[source.label] = ways.usual
    return found


def _screened(eye: Eye, ways: Ways, owns: dict[str, Presentation], few: int) -> dict[int, list[Presentation]]:
    """For each size, normalisations that are near by the first layers, least first.

    For a size above the usual one, the best of the usual size are taken: they cost more than they tell.
    """
    pairs = (pair for own in owns.values() for pair in ways.normalisations(own.preprocessing))
    normalisations = list(dict.fromkeys(pairs))
    sizes = list(dict.fromkeys(size for own in owns.values() for size in ways.sizes(own.preprocessing)))
    kept: dict[int, list[Presentation]] = {}
    for size in sorted(sizes, key=lambda size: (size > ways.usual.size, size)):
        if size > ways.usual.size:
            same = [
                ways.with_parts(
                    normalisation=(each.preprocessing.mean, each.preprocessing.std),
                    size=size,
                )
                for each in kept.get(ways.usual.size, [])[:1]
            ]
            if found := [each for each in same if each is not None]:
                kept[size] = found
            continue
        measured = []
        for pair in normalisations:
            shown = ways.with_parts(normalisation=pair, size=size)
            seen = None if shown is None else eye.look(shown, few, first=FIRST_LAYERS)
            if seen is not None:
                measured.append(seen)
        if measured:
            measured = sorted(_near(measured, NEAR_FIRST), key=lambda each: each.divergence)
            kept[size] = [each.presentation for each in measured[:KEPT]]
    return kept


def different_sources(eye: Eye, ways: Ways, sources: Sequence[ModelSource]) -> list[ModelSource]:
    """The other architectures that the checkpoint fits and that compute something else.

    torchvision's and timm's ResNet-50, for one, are the same network: two photos show that, small ones too.
    """
    if len(sources) < 2:
        return []
    usual = ways.usual
    sizes = (*(size for size in PRINT_SIZES if size < usual.size), usual.size)
    tried = (shown for size in sizes if (shown := ways.with_parts(size=size)) is not None)
    prints = ((shown, print_) for shown in tried if (print_ := _fingerprint(eye, shown)) is not None)
    shown, mine = next(prints, (usual, None))
    if mine is None:
        return []
    seen, different = [mine], []
    for source in sources:
        if source.label == usual.source.label:
            continue
        print_ = _fingerprint(eye, replace(shown, source=source))
        if print_ is not None and not any(
            torch.allclose(print_, each, rtol=1e-3, atol=1e-5) for each in seen if len(each) == len(print_)
        ):
            seen.append(print_)
            different.append(source)
    eye.forget([usual.source.label, *(source.label for source in different)])
    return different


def _fingerprint(eye: Eye, shown: Presentation) -> torch.Tensor | None:
    moments = eye.moments(shown, min(2, len(eye.photos)))
    return torch.cat([each.means.flatten() for each in moments]) if moments else None


def _nearer(
    eye: Eye, ways: Ways, best: Presentation, sources: Sequence[ModelSource], few: int
) -> list[Presentation]:
    """The best presentation in the other architectures whose first third of the layers is nearer by it."""
    found = []
    third = max(FIRST_LAYERS, len(eye.layers(best)) // 3)
    mine = eye.look(best, few, first=third)
    for source in sources:
        shown = ways.with_parts(
            source=source,
            normalisation=(best.preprocessing.mean, best.preprocessing.std),
            channels=best.channels,
            size=best.size,
        )
        other = None if shown is None else eye.look(shown, few, first=third)
        if mine is not None and other is not None and other.divergence < mine.divergence:
            found.append(other.presentation)
    return found


def _near(measured: Iterable[Measured], factor: float = NEAR) -> list[Measured]:
    measured = list(measured)
    limit = factor * min(each.divergence for each in measured)
    return [each for each in measured if each.divergence <= limit]


def _least(measured: Iterable[Measured]) -> Measured:
    return min(measured, key=lambda each: each.divergence)


def _as_usual(usual: Presentation, measured: Iterable[Measured]) -> list[Measured]:
    """Those of the usual size that are not the usual one itself, least first."""
    same = [
        each
        for each in measured
        if each.presentation.key != usual.key and each.presentation.size == usual.size
    ]
    return sorted(same, key=lambda each: each.divergence)


def _final(
    eye: Eye,
    ways: Ways,
    known: dict[tuple[object, ...], Measured],
    photos: int,
) -> Found:
    """Show all photos in the usual way, and in the few others that come near the least.

    First among them what is as usual in one more part than the least; then those among which is decided: of
    the usual size. The order of colours is usual in all of them: it is decided afterwards, and costs little.
    """
    near = {each.presentation.key: each for each in _near(known.values())}
    least = _least(known.values()).presentation
    wanted = [least.key, *(each.key for each in ways.neighbours(least))]
    others = sorted(near.values(), key=lambda each: each.divergence)
    wanted += [each.presentation.key for each in others if each.presentation.key not in wanted]
    chosen = [key for key in wanted if key in near and key != ways.usual.key][:1]
    same = _as_usual(ways.usual, known.values())
    chosen += [each.presentation.key for each in _near([known[ways.usual.key], *same]) if each in same]
    chosen = list(dict.fromkeys(chosen))[:FINALISTS]
    shown = {key: known[key].presentation for key in chosen}
    # Where nothing comes near the usual one, or it near nothing, more photos would say the same.
    usual: Measured | None = known[ways.usual.key]
    if shown and ways.usual.key in near:
        usual = eye.look(ways.usual, photos)
    finalists = [found for each in shown.values() if (found := eye.look(each, photos)) is not None]
    if usual is None:
        raise RuntimeError("a network that ran on some photos does not run on more of them")
    rest = [each for key, each in known.items() if key not in shown and key != ways.usual.key]
    return Found(
        usual,
        tuple(sorted(finalists, key=lambda each: each.divergence)),
        tuple(sorted(rest, key=lambda each: each.divergence)),
    )
