"""What several measures ask first: which layer is the classifier, and what its classes are called."""

from __future__ import annotations

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.evaluation.classifier import Classifier
from concept_monitor_cli.evaluation.subject import Subject
from concept_monitor_cli.study.context import NO_ENCODER
from concept_monitor_cli.wording import counted


def no_classifier(subject: Subject) -> InputError | None:
    """Why the classes of a checkpoint are not known; `None` where they are."""
    if isinstance(subject.classifier, InputError):
        return subject.classifier
    names = subject.common.classes
    if isinstance(names, InputError):
        return names
    if len(names) != subject.classifier.classes:
        return InputError(
            f"{len(names)} class names ({names.source}) for the {subject.classifier.classes} classes of "
            f"{subject.classifier.layer}",
            where="--class-names",
            hint="one name a line, in the order of the outputs; another layer is chosen with --classifier",
        )
    return None


def no_encoder(subject: Subject) -> InputError | None:
    """Why the images and words of a run have no embeddings; `None` where they have."""
    if subject.common.context.encoder is not None:
        return None
    return InputError(NO_ENCODER, hint="dissect again with --encoder NAME")


def class_names_of(subject: Subject) -> tuple[tuple[str, ...], list[str]]:
    """The class names, and where they are assumed, a sentence that says so."""
    names = subject.common.classes
    assert not isinstance(names, InputError)
    notices = []
    if names.assumed:
        some = ", ".join(names.names[:3])
        notices.append(f"class names from {names.source}: {some}, ... (--class-names for others)")
    return names.names, notices


def not_before_classifier(subject: Subject, measure: str) -> InputError | None:
    """Why the classifier's weights say nothing of a layer's units; `None` where they do."""
    missing = no_classifier(subject)
    if missing is not None:
        return missing
    classifier = classifier_of(subject)
    units = len(subject.labels.concepts)
    if classifier.follows(subject.layer, units):
        return None if subject.common.spaces() else no_encoder(subject)
    return InputError(
        f"{subject.layer} ({counted(units, 'units')}) is not the layer before the classifier "
        f"{classifier.layer}, which "
        f"has {classifier.inputs} inputs",
        where=f"--measure {measure}",
        hint="dissect the last layer before the classifier",
    )


def classifier_of(subject: Subject) -> Classifier:
    """The classifier of a subject of which `no_classifier` said nothing."""
    assert not isinstance(subject.classifier, InputError)
    return subject.classifier
