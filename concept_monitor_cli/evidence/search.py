"""Which presentations are looked at: cheap ones are decided on the first layers, the rest on all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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
"""Normalisations of each size that are looked at with all layers."""

NEAR = 2.0
"""A presentation whose divergence is larger than the least by this factor is out, after the screening."""

FINALISTS = 3
"""Presentations that all photos are shown in, apart from the usual one; one of another size among them."""


@dataclass(frozen=True)
class Found:
    """What was looked at.

    Attributes:
        usual: the usual presentation, by all photos.
        finalists: the others that came close to the least or below it, by all photos, least first.
        screened: the rest, by fewer photos, least first.
    """

    usual: Measured
    finalists: tuple[Measured, ...]
    screened: tuple[Measured, ...]


def search(eye: Eye, ways: Ways, sources: Sequence[ModelSource]) -> Found | None:
    """Look for the presentation that is nearest to what the network remembers.

    Args:
        eye: shows the photos.
        ways: the presentations.
        sources: the architectures that the checkpoint fits, the usual one first.

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

    owns = _own(ways, sources)
    by_size = _screened(eye, ways, owns, few)
    look(kept[0] for kept in by_size.values())
    near = _near(known.values())
    for size, kept in by_size.items():
        if size == ways.usual.size or any(size == each.presentation.size for each in near):
            look(kept)
    best = _least(known.values()).presentation
    for source in _different(eye, best, sources, few):
        for size in dict.fromkeys((best.size, ways.usual.size, owns[source.label].size)):
            if size in (best.size, ways.usual.size) or any(size == each.presentation.size for each in near):
                other = ways.with_parts(
                    source=source,
                    normalisation=(best.preprocessing.mean, best.preprocessing.std),
                    size=size,
                )
                look([] if other is None else [other])
    look(ways.neighbours(_least(known.values()).presentation))
    return _final(eye, ways, known, photos)


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
    """For each size, normalisations by the first layers, least first.

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
            measured.sort(key=lambda each: each.divergence)
            kept[size] = [each.presentation for each in measured[:KEPT]]
    return kept


def _different(eye: Eye, shown: Presentation, sources: Sequence[ModelSource], few: int) -> list[ModelSource]:
    """The other architectures that the checkpoint fits and that compute something else.

    torchvision's and timm's ResNet-50, for one, are the same network: two photos show that.
    """
    seen = [_fingerprint(eye, shown)]
    different = []
    for source in sources:
        if source.label == shown.source.label:
            continue
        print_ = _fingerprint(eye, Presentation(source, shown.preprocessing))
        if print_ is not None and not any(
            other is not None and torch.allclose(print_, other, rtol=1e-3, atol=1e-5) for other in seen
        ):
            seen.append(print_)
            different.append(source)
    eye.forget([shown.source.label, *(source.label for source in different)])
    return different


def _fingerprint(eye: Eye, shown: Presentation) -> torch.Tensor | None:
    moments = eye.moments(shown, min(2, len(eye.photos)))
    return torch.cat([each.means.flatten() for each in moments]) if moments else None


def _near(measured: Iterable[Measured]) -> list[Measured]:
    measured = list(measured)
    limit = NEAR * min(each.divergence for each in measured)
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


def _final(eye: Eye, ways: Ways, known: dict[tuple[object, ...], Measured], photos: int) -> Found:
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
    usual = eye.look(ways.usual, photos)
    shown = {key: known[key].presentation for key in chosen}
    finalists = [found for each in shown.values() if (found := eye.look(each, photos)) is not None]
    if usual is None:
        raise RuntimeError("a network that ran on some photos does not run on more of them")
    rest = [each for key, each in known.items() if key not in shown and key != ways.usual.key]
    return Found(
        usual,
        tuple(sorted(finalists, key=lambda each: each.divergence)),
        tuple(sorted(rest, key=lambda each: each.divergence)),
    )
