"""The whole question: how did the images of a checkpoint's training look?"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.evidence.candidates import Presentation, Ways
from concept_monitor_cli.evidence.decide import (
    best_order,
    decide,
    nearest_normalisation,
    shows_order,
    with_architecture,
    with_order,
)
from concept_monitor_cli.evidence.look import PHOTOS, Eye, Photos, chosen_rows
from concept_monitor_cli.evidence.result import InputEvidence
from concept_monitor_cli.evidence.search import by_first_layer, different_sources, search
from concept_monitor_cli.evidence.variants import Variants, compare_variants
from concept_monitor_cli.models.build import ModelSource, resolve_model
from concept_monitor_cli.models.geometry import Preprocessing
from concept_monitor_cli.probe.probe_set import ProbeSet
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.store import Key, make_key

LEAST_PHOTOS = 12
"""With fewer photos, resamples of them say nothing."""

MOST_SOURCES = 6
"""Architectures that are looked at, where more share names and shapes."""


def fitting(
    source: ModelSource, weights: Mapping[str, Tensor], progress: Progress = SILENT
) -> list[ModelSource]:
    """The architecture and the others that the weights fit by name and shape, plainest first.

    For an architecture that the user named these are those that would have been recognised; none for the
    user's own code.
    """
    if source.library == "user":
        return [source]
    labels = source.alternatives
    if not source.recognised:
        try:
            recognised = resolve_model(None, weights)
        except InputError:
            return [source]
        labels = (recognised.label, *recognised.alternatives)
    sources = [source]
    for label in labels:
        name = label.partition(" (")[0]
        if name in [each.label for each in sources] or len(sources) == MOST_SOURCES:
            continue
        try:
            sources.append(resolve_model(name, weights))
        except InputError as error:
            progress.detail(f"{name} is not looked at: {error.what}")
    return sources


def evidence_key(
    usual: Presentation,
    sources: Sequence[ModelSource],
    *,
    weights_digest: str,
    probe: ProbeSet,
    fixed: Collection[str],
    seed: int,
) -> Key:
    """Where the store has what was found: by the content of weights and photos, and the code's version."""
    return make_key(
        "input_evidence",
        {
            "weights": weights_digest,
            "networks": [each.identity() for each in sources],
            "usual": {
                "geometry": dict(usual.preprocessing.geometry.to_json()),
                **usual.preprocessing.colour_key,
            },
            "photos": [probe.digests[row] for row in chosen_rows(len(probe))],
            "fixed": sorted(fixed),
            "seed": seed,
        },
    )


def find_input(
    weights: Mapping[str, Tensor],
    usual: Presentation,
    sources: Sequence[ModelSource],
    prepare: Callable[..., Preprocessing],
    *,
    probe: ProbeSet,
    fixed: Collection[str] = (),
    device: torch.device,
    seed: int = 0,
    progress: Progress = SILENT,
) -> InputEvidence:
    """Compare what a network's layers of batch normalisation see with what they remember of the training.

    Args:
        weights: the checkpoint's state dict.
        usual: what is assumed without evidence.
        sources: of `fitting`.
        prepare: see `Ways`.
        probe: some of its images are shown.
        fixed: parts of a presentation that the user gave.
        device: where networks run.
        seed: of the resamples.
        progress: told of images and networks that are left out.

    Returns:
        What was found.

    Raises:
        CmonError: the memory does not suffice.
    """
    photos = Photos(probe, progress)
    if len(photos) < LEAST_PHOTOS:
        return InputEvidence(
            "too few images", f"{len(photos)} probing images are too few to see how the training's looked"
        )
    eye = Eye(weights, photos, device, seed)
    try:
        layers = eye.layers(usual)
    except InputError as error:
        return InputEvidence("not looked at", f"the weights cannot be put into the network: {error.what}")
    if not layers:
        return InputEvidence(
            "no statistics",
            "the network has no batch normalisation, whose running statistics would show how the images of "
            "the training looked",
        )
    if not any(layer.trained for layer in layers):
        return InputEvidence("untrained", "the network has not seen images yet: its statistics are new")
    ways = Ways(usual, prepare)
    different = different_sources(eye, ways, sources)
    variants = compare_variants(eye, ways, [usual.source, *different]) if different else Variants(None, ())
    base = _base(ways, variants, fixed)
    looked = by_first_layer(eye, Ways(base, prepare))
    if not looked:
        return InputEvidence("not looked at", "the network does not run on the usual images")
    nearest = nearest_normalisation(looked)
    against = None
    if nearest is not None and nearest.presentation.normalisation != base.normalisation:
        if "normalisation" in fixed:
            against = eye.look(nearest.presentation, min(PHOTOS, len(photos)))
        else:
            base = nearest.presentation
    sources = [base.source, *(each for each in sources if each.label != base.source.label)]
    ways = Ways(base, prepare)
    found = search(eye, ways, sources, () if variants.true is not None else different)
    if found is None:
        return InputEvidence("not looked at", "the network does not run on the usual images")
    decision = decide(found, looked, usual, against)
    compared = [found.usual, *found.finalists]
    swapped = ways.twin(decision.chosen.presentation)
    if swapped is not None and decision.status != "far off":
        chosen = decision.chosen.presentation
        order = None
        if shows_order(chosen):
            pair = [eye.look(each, len(photos), first=1) for each in (chosen, swapped)]
            order = best_order(*pair, redder=_redder(photos, usual))
        twin = eye.look(swapped, decision.chosen.photos) if order == swapped.channels else None
        decision = with_order(decision, order, twin, fixed)
        compared += [] if twin is None else [twin]
    true = variants.true
    nearer = None
    if true is not None and true is not base.source:  # the user says otherwise
        nearer = eye.look(replace(decision.chosen.presentation, source=true), decision.chosen.photos)
    as_usual = found.usual if base is usual else eye.look(usual, decision.chosen.photos)
    if as_usual is None:
        return InputEvidence("not looked at", "the network does not run on the usual images")
    labels = tuple(source.label for source in different)
    decision = with_architecture(decision, as_usual, labels, nearer, fixed, told=true is not None)
    compared += [] if base is usual else [as_usual]
    progress.detail(f"{eye.passes:.0f} photos were shown to see how the training's looked")
    others = [*sorted(compared, key=lambda each: each.divergence), *found.screened]
    return InputEvidence.of(decision, as_usual, others, fixed, labels, variants.rivals)


def _base(ways: Ways, variants: Variants, fixed: Collection[str]) -> Presentation:
    """The usual presentation, in the architecture that the weights were trained in where that was found."""
    if variants.true is None or "architecture" in fixed or variants.true is ways.usual.source:
        return ways.usual
    return ways.with_parts(source=variants.true) or ways.usual


def _redder(photos: Photos, usual: Presentation) -> float:
    """By how much the photos are brighter in red than in blue, of 1."""
    pixels = photos.pixels(usual.preprocessing.geometry, len(photos))
    red, _, blue = (float(each) for each in pixels.float().mean((0, 1, 2)) / 255)
    return red - blue
