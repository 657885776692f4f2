"""`cmon evaluate --grid`: similarities, concept sets, poolings and encoders side by side."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import count, product

from concept_monitor_cli.concepts import ConceptSet, load_concepts
from concept_monitor_cli.encoders import Encoder, load_encoder
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.evaluation import Common, Subject
from concept_monitor_cli.models.device import resolve_device
from concept_monitor_cli.options import SIMILARITIES, EvaluateOptions, Pooling
from concept_monitor_cli.progress import Progress
from concept_monitor_cli.stories.bench import BY_SIMILARITY, Bench


@dataclass(frozen=True)
class Setting:
    """One concept set, encoder and pooling of the grid.

    Attributes:
        common: the run's images with this encoder and these concepts.
        pooling: the pooling; `None` for the run's own.
        is_run: whether all three are the run's own.
        columns: what the table calls them.
    """

    common: Common
    pooling: Pooling | None
    is_run: bool
    columns: dict[str, str]


def grid_settings(bench: Bench) -> Iterator[Setting]:
    """Every setting of the grid, the run's own first.

    Labels are compared in the space of the run's encoder throughout, whichever encoder made them.

    Raises:
        InputError: a concept set or an encoder cannot be had; the run has no labels of a similarity.
    """
    if not bench.own_similarity:
        raise InputError(
            f"the run has no labels of {BY_SIMILARITY}",
            where="--grid",
            hint="dissect with that detector, too",
        )
    options, opened, own = bench.options, bench.opened, bench.common
    encoders: dict[str, Encoder] = {own.context.required_encoder.name: own.context.required_encoder}
    for spec in options.grid_encoders:
        encoders[_name(spec, encoders)] = _encoder(spec, options, bench.progress)
    concepts: dict[str, ConceptSet] = {own.concepts.name: own.concepts}
    for spec in options.grid_concepts:
        found = load_concepts(spec, probe_concepts=opened.probe.concepts)
        for note in found.notes:
            bench.progress.notice(note)
        concepts[_name(found.name, concepts)] = found
        bench.text.learn(found.concepts)
    made: Pooling = opened.info["options"]["pooling"]
    poolings = list(dict.fromkeys([made, *options.grid_poolings]))
    if len(encoders) > 1:
        bench.progress.notice(f"CLIP cos is in the space of {own.context.required_encoder.name} throughout")
    for (encoder_name, encoder), (name, words) in product(encoders.items(), concepts.items()):
        is_run = encoder is own.context.required_encoder and words is own.concepts
        context = own.context
        if not is_run:
            context = opened.context_of(encoder, own.context.templates, words)
        common = replace(own, context=context)
        for pooling in poolings:
            yield Setting(
                common,
                None if pooling == made else pooling,
                is_run and pooling == made,
                {"concepts": name, "encoder": encoder_name, "pooling": pooling},
            )


def grid_subjects(bench: Bench, setting: Setting) -> Iterator[Subject]:
    """The labels that one setting of the grid gives, of every layer, epoch and similarity."""
    histories = [history for history in bench.opened.histories if history.detector == BY_SIMILARITY]
    for history in histories:
        for column in range(len(history.epochs)):
            if setting.pooling is None:
                pooled = cache(partial(bench.pooled, history, column))
            else:
                recorder = bench.recorder(setting.pooling)
                pooled = cache(partial(recorder.pooled, bench.record(history, column), history.layer))
            for similarity in bench.options.similarities or SIMILARITIES:
                yield bench.subject(history, column, similarity, setting.common, pooled, own=setting.is_run)


def _name(name: str, taken: Container[str]) -> str:
    """The name, numbered where it is taken."""
    numbered = (f"{name} ({number})" for number in count(2))
    return name if name not in taken else next(other for other in numbered if other not in taken)


def _encoder(spec: str, options: EvaluateOptions, progress: Progress) -> Encoder:
    """An encoder by `NAME[,WEIGHTS[,CONFIG]]`."""
    name, *files = (part.strip() for part in spec.split(","))
    if len(files) > 2:
        raise InputError(
            f"{spec!r} is not an encoder", where="--grid-encoder", hint="NAME[,WEIGHTS[,CONFIG]]"
        )
    weights, config = (*files, None, None)[:2]
    return load_encoder(
        name,
        weights=weights or None,
        config=config or None,
        device=resolve_device(options.device),
        progress=progress,
    )
