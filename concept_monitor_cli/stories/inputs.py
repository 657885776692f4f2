"""What a finished run was made with, opened again: its images, its concepts and its encoder."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from concept_monitor_cli.encoders import Encoder, Listed, load_encoder
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.lenses import traits_of
from concept_monitor_cli.models.device import resolve_device
from concept_monitor_cli.options import CommonOptions, DissectOptions
from concept_monitor_cli.progress import Progress
from concept_monitor_cli.run import RunFolder
from concept_monitor_cli.study import Study
from concept_monitor_cli.study.context import NO_ENCODER

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from concept_monitor_cli.concepts import ConceptSet


class WithoutNotices:
    """What a run was made from was said when it was made."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def notice(self, message: str) -> None:
        """Only a detail now."""
        self._progress.detail(message)

    def warning(self, message: str) -> None:
        """Passed on."""
        self._progress.warning(message)

    def detail(self, message: str) -> None:
        """Passed on."""
        self._progress.detail(message)

    def task(
        self, description: str, total: int | None, unit: str = "images"
    ) -> AbstractContextManager[Callable[[int], None]]:
        """Passed on."""
        return self._progress.task(description, total, unit)


def grey_range_of(made: Mapping[str, Any]) -> tuple[float, float] | None:
    """`--grey-range` of a run by the options that it was made with; older runs had none."""
    given = made.get("grey_range")
    return None if given is None else (float(given[0]), float(given[1]))


def run_study(run: RunFolder, options: CommonOptions, progress: Progress) -> Study:
    """The images and concepts of a run, as its `dissect` listed them."""
    info = run.info()
    made = info["options"]
    return Study(
        DissectOptions(
            checkpoints=(),
            layers=(),
            probe=info["probe"]["spec"],
            probe_limit=made["probe_limit"],
            grey_range=grey_range_of(made),
            concepts=info["concepts"]["spec"],
            seed=made["seed"],
            device=options.device,
            workers=options.workers,
            cache_dir=options.cache_dir,
        ),
        WithoutNotices(progress),
    )


def check_same(run: RunFolder, what: str, digest: str, name: str) -> None:
    """Refuse what is not that of the run.

    Args:
        run: the run.
        what: its entry in `run.json`.
        digest: of what is there now.
        name: what to call it.

    Raises:
        InputError: it is another one.
    """
    if digest != run.info()[what]["digest"]:
        raise InputError(
            f"{name} are not those that this run was made with",
            where=run.root,
            hint="restore them, or dissect again with --overwrite",
        )


def run_encoder(run: RunFolder, options: CommonOptions, progress: Progress) -> tuple[Encoder, list[str]]:
    """The encoder and templates that a run was made with.

    Raises:
        InputError: there was none, it is not there any more, or its weights are others now.
    """
    made_with = run.info()["encoder"]
    if made_with is None:
        raise InputError(NO_ENCODER, where=run.root, hint="dissect again with --encoder NAME")
    encoder = load_encoder(
        made_with["spec"],
        weights=made_with["weights"],
        config=made_with["config"],
        device=resolve_device(options.device),
        precision=made_with["precision"],
        progress=progress,
    )
    if encoder.digest != made_with["digest"]:
        raise InputError(
            f"the encoder {made_with['name']} is not the one that this run was made with",
            where=run.root,
            hint="restore its weights, or dissect again",
        )
    return encoder, made_with["templates"]


def concepts_of(run: RunFolder, study: Study) -> ConceptSet:
    """The concepts of a run.

    Args:
        run: the run.
        study: its inputs (`run_study`).

    Raises:
        InputError: they are gone, or others now.
    """
    concepts = study.concepts
    check_same(run, "concepts", concepts.digest, "the concepts")
    return concepts


def listed_concepts(info: Mapping[str, Any], concepts: Callable[[], ConceptSet]) -> Listed | None:
    """The concepts of a run as a list of words, where a detector of it has embedded all of them.

    Args:
        info: the content of `run.json`.
        concepts: gives them; asked where the embeddings of some are not known yet.
    """
    traits = traits_of(info, info["detectors"])
    if not any(each.evidence == "similarity" for each in traits.values()):
        return None
    return Listed(info["concepts"]["digest"], lambda: concepts().concepts)
