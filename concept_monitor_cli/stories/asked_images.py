"""Which images, layer and classes a user asks about: shared by the commands that explain single images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError

from concept_monitor_cli.concepts.class_names import ClassNames, spelling
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.options import nearest, split_name
from concept_monitor_cli.probe.decode import shape_image
from concept_monitor_cli.run import CheckpointRecord
from concept_monitor_cli.stories.attribute_making import Photo
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.stories.recorder import Network, Recorder, RecorderOptions


class LayerOptions(RecorderOptions, Protocol):
    """The machine, and which layer is asked for."""

    @property
    def layers(self) -> tuple[str, ...]:
        """`--layer`."""


def recorder_of(
    opened: OpenRun,
    options: LayerOptions,
    last: CheckpointRecord,
    *,
    needs_maps: str | None,
    look_only: bool = False,
) -> Recorder:
    """The run's networks, with the layer that is looked at: that asked for, else the last one with maps.

    Args:
        opened: the run.
        options: which layer, and the machine.
        last: a checkpoint, to see which layers have maps.
        needs_maps: what cannot be done without maps; `None` where the last layer will do, too.
        look_only: nothing is decoded, recorded or written.

    Raises:
        InputError: no layer of the run has maps.
    """
    if options.layers:
        return Recorder(opened, options, layers=options.layers, look_only=look_only)
    own = list(dict.fromkeys(split_name(history.layer)[0] for history in opened.histories))
    looks = Recorder(opened, options, layers=own, look_only=look_only).network(last).looks
    spatial = [look.tapped.name for look in looks if look.tapped.map_size not in (None, (1, 1))]
    if needs_maps is not None and not spatial:
        raise InputError(
            "no layer of the run has activation maps",
            where=needs_maps,
            hint="name one with --layer; `cmon layers` lists them",
        )
    return Recorder(opened, options, layers=(spatial or own)[-1:], look_only=look_only)


def photos_of(
    opened: OpenRun, network: Network, names: Sequence[str], count: int, *, where: str
) -> list[Photo]:
    """Images as a network sees them.

    Args:
        opened: the run.
        network: which shapes them.
        names: probing images by their name or the end of it, or files; without any,
        count: so many of the probing images, evenly chosen.
        where: how names are given, for what is said of one that cannot be used.

    Raises:
        InputError: none of this name, several, or a file that is no image.
    """
    geometry = network.architecture.preprocessing.geometry
    ids = opened.probe.ids

    def probing(row: int) -> Photo:
        image = Image.fromarray(np.asarray(opened.probe.image(row)))
        return Photo(ids[row], np.asarray(shape_image(image, geometry)))

    if not names:
        rows = np.linspace(0, len(ids) - 1, min(count, len(ids))).round().astype(int)
        return [probing(int(row)) for row in rows]
    found = []
    for name in names:
        rows_of_name = [row for row, other in enumerate(ids) if other == name or other.endswith(f"/{name}")]
        if len(rows_of_name) == 1:
            found.append(probing(rows_of_name[0]))
        elif rows_of_name:
            raise InputError(
                f"{len(rows_of_name)} probing images end in {name}",
                where=where,
                hint=f"write more of it: {ids[rows_of_name[0]]}",
            )
        else:
            found.append(_file(name, ids, network, where))
    return found


def _file(name: str, ids: Sequence[str], network: Network, where: str) -> Photo:
    try:
        with Image.open(name) as image:
            shaped = shape_image(image.convert("RGB"), network.architecture.preprocessing.geometry)
    except FileNotFoundError as error:
        alike = nearest(name, ids)
        raise InputError(
            f"there is no image {name!r}, neither among the probing images nor as a file",
            where=where,
            hint=f"did you mean {alike}?" if alike else f"they are called as {ids[0]}",
        ) from error
    except (OSError, UnidentifiedImageError, ValueError) as error:
        raise InputError(f"this file is no image: {error}", where=name) from error
    return Photo(name, np.asarray(shaped))


def class_label(number: int, names: ClassNames | None) -> str:
    """What a class is called; its number where names are not known."""
    return str(number) if names is None else names.names[number]


def class_number(text: str, count: int, names: ClassNames | None, flag: str) -> int:
    """The number of a class by what the user wrote.

    Raises:
        InputError: there is none; `flag` says where it was written.
    """
    if names is not None:
        alike = [number for number, name in enumerate(names.names) if spelling(name) == spelling(text)]
        if alike:
            return alike[0]
    if text.isdecimal() and int(text) < count:
        return int(text)
    near = [] if names is None else nearest(text, names.names)
    raise InputError(
        f"the network has no class {text!r}",
        where=flag,
        hint=f"did you mean {near}?" if near else f"classes count from 0 to {count - 1}",
    )
