"""The classes of a run's network, and which of them each probing image is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from concept_monitor_cli.concepts.class_names import (
    ClassNames,
    find_class_names,
    image_classes,
    load_class_names,
)
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.progress import Progress
from concept_monitor_cli.record.scores import PREDICTED
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.wording import counted


@dataclass(frozen=True)
class NetworkClasses:
    """What the outputs of a network are called, and the class of each image.

    Attributes:
        names: `K`, in the order of the outputs; their numbers where the names are not known.
        of_images: `(N,)` int64; -1 where the class is not known.
        source: where the names are from; empty where they are not known.
    """

    names: tuple[str, ...]
    of_images: Tensor
    source: str


def output_names(
    opened: OpenRun, count: int, meta: Mapping[str, Any], given: str | None, progress: Progress
) -> ClassNames | None:
    """By the user's word, else the checkpoint's, else the folders of the images; None where nothing says.

    Args:
        opened: the run.
        count: outputs of the network.
        meta: the checkpoint's plain entries.
        given: `--class-names`.
        progress: told where the order of the names is assumed.

    Raises:
        InputError: the user's names are not as many as the network has outputs.
    """
    if given is None:
        found = find_class_names(count, meta, opened.info["probe"]["spec"], opened.probe.ids)
        if isinstance(found, InputError):
            return None
        if found.assumed:
            some = ", ".join(found.names[:3])
            progress.notice(f"class names from {found.source}: {some}, ... (--class-names for others)")
        return found
    names = load_class_names(given, opened.probe.ids)
    if len(names) != count:
        raise InputError(
            f"{len(names)} class names for the {count} outputs of the network",
            where=f"--class-names {given}",
            hint="one name a line, in the order of the outputs",
        )
    return names


def network_classes(
    opened: OpenRun,
    count: int,
    meta: Mapping[str, Any],
    given: str | None,
    progress: Progress,
    *,
    needs_own: str | None = None,
) -> NetworkClasses:
    """By the user's word, else the checkpoint's, else the folders of the images; each assumption is said.

    Args:
        opened: the run.
        count: `K`.
        meta: the checkpoint's plain entries.
        given: `--class-names`.
        progress: told of assumptions.
        needs_own: what cannot be said of an image whose own class is not known; such images are then left
            out. None: they count for the class that the network predicts.

    Raises:
        InputError: the user's names are not as many as the network has outputs; or, with `needs_own`, no
            image's class is known.
    """
    ids = opened.probe.ids
    names = output_names(opened, count, meta, given, progress)
    if needs_own is not None and (names is None or bool((image_classes(ids, names.names) < 0).all())):
        raise InputError(
            f"the classes of the images are not known, and so not {needs_own}",
            where=opened.run.root,
            hint="folders of the probing images must be called like classes of the network (--class-names)",
        )
    if names is None:
        progress.notice(
            f"the names of the {count} classes are not known (--class-names), nor the classes of the "
            "images: classes are numbered, and each image counts for the class that the network predicts"
        )
        numbers = tuple(str(number) for number in range(count))
        return NetworkClasses(numbers, torch.full((len(ids),), PREDICTED), "")
    of_images = torch.from_numpy(image_classes(ids, names.names))
    unknown = int((of_images < 0).sum())
    if unknown:
        progress.notice(
            f"{counted(unknown, 'images')} lie in no folder called like a class: "
            + ("left out" if needs_own else "they count for the class that the network predicts")
        )
    return NetworkClasses(_distinct(names.names), of_images, names.source)


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names with their number where two classes have one name."""
    return tuple(f"{name} ({place})" if names.count(name) > 1 else name for place, name in enumerate(names))
