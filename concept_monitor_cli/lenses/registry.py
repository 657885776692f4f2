"""From the name of a detector to the detector: the package's own, an installed plug-in's, or a file's."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from concept_monitor_cli.catalogue import Listed, find_detector, is_code
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.lenses.base import Detector
from concept_monitor_cli.run.traits import Traits
from concept_monitor_cli.usercode import content_of, find_attribute, load_module

if TYPE_CHECKING:
    from concept_monitor_cli.options import DissectOptions


def detector_class(name: str) -> type[Detector]:
    """The class of a detector.

    Args:
        name: as on the command line: a name, `file.py:Class` or `package.module:Class`. Code that is named is
            run.

    Raises:
        InputError: there is none, its code cannot be imported, or it is no detector.
    """
    listed = find_detector(name)
    found = _attribute(name, listed)
    if not (isinstance(found, type) and issubclass(found, Detector)):
        raise InputError(
            f"{listed.attribute} is no detector",
            where=f"--detector {name}",
            hint="it must be a subclass of concept_monitor_cli.lenses.Detector",
        )
    return found


def _attribute(name: str, listed: Listed) -> object:
    if not is_code(name):
        return getattr(import_module(listed.place), listed.attribute)
    return find_attribute(
        load_module(listed.place, option="--detector"),
        listed.place,
        listed.attribute,
        where=f"--detector {name}",
        hint="define a subclass of concept_monitor_cli.lenses.Detector",
    )


def make_detector(name: str, options: DissectOptions) -> Detector:
    """The detector called `name`, as the options ask for it.

    Raises:
        InputError: see `detector_class`; or the options contradict themselves.
    """
    cls = detector_class(name)
    detector = cls.from_options(options)
    if is_code(name):
        detector.code = content_of(sys.modules[cls.__module__])
    return detector


def make_detectors(options: DissectOptions) -> list[Detector]:
    """The detectors that are asked for.

    Raises:
        InputError: one of them does not exist, or two have the same name.
    """
    detectors = [make_detector(name, options) for name in options.detectors]
    names = [detector.name for detector in detectors]
    for name in names:
        if names.count(name) > 1:
            raise InputError(
                f"two detectors are called {name}", where="--detector", hint="rename one of them"
            )
    return detectors


def traits_of(info: Mapping[str, Any], names: Iterable[str]) -> dict[str, Traits]:
    """What is true of all that some detectors of a run say.

    Args:
        info: the content of `run.json`; runs of earlier versions do not have them, so there the package's own
            detectors are asked.
        names: which detectors.
    """
    kept = info.get("traits", {})
    return {
        name: Traits.from_json(kept[name]) if name in kept else detector_class(name).traits()
        for name in names
    }
