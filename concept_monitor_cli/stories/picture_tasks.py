"""From what a user asks for to the pictures that must be there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from concept_monitor_cli.concepts.class_names import ClassNames
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.evaluation.classifier import find_classifier
from concept_monitor_cli.monitor.history import History
from concept_monitor_cli.options import PictureOptions
from concept_monitor_cli.progress import Progress
from concept_monitor_cli.stories.asked_images import class_number, photos_of
from concept_monitor_cli.stories.classes import output_names
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.stories.picture_making import Maker
from concept_monitor_cli.stories.picture_tables import history_of
from concept_monitor_cli.stories.picture_wishes import BLENDS, Task, Wish
from concept_monitor_cli.stories.recorder import Network, Recorder
from concept_monitor_cli.study.looks import Look

# The second seed, which shows what another start alone makes of a picture.
_SECOND = 1
# Probing images with which caricatures are compared.
_COMPARED = 9


@dataclass(frozen=True)
class Plan:
    """What is to be made, and with what.

    Attributes:
        recorder: the run's networks.
        maker: makes them.
        tasks: layer by layer and epoch by epoch, then those that say what chance makes of pictures.
        names: of the classes, where these are pictured and somebody named them.
    """

    recorder: Recorder
    maker: Maker
    tasks: list[Task]
    names: ClassNames | None


def plan(opened: OpenRun, options: PictureOptions, progress: Progress) -> Plan:
    """Every layer at every epoch; the last epoch once more for what chance makes of pictures.

    Raises:
        InputError: no such layer, unit, class or image; a film of one epoch.
    """
    epochs = set(opened.table["epoch"].tolist())
    records = [record for record in opened.run.checkpoints() if record.epoch in epochs]
    if options.warm and len(records) < 2:
        raise InputError("a film takes several epochs", where="--warm", hint="leave it out, or ask for more")
    layers = options.layers or tuple(dict.fromkeys(history.layer for history in opened.histories))
    recorder = Recorder(opened, options, layers=layers, look_only=options.dry_run)
    if options.target and not options.layers:
        head = _classifier(recorder.network(records[-1]))
        recorder = Recorder(opened, options, layers=[head], look_only=options.dry_run)
    maker = Maker(recorder, options, progress)
    if options.caricature:
        network = recorder.network(records[-1])
        asked = photos_of(opened, network, options.caricature, 0, where="--caricature")
        maker.images = {photo.name: photo for photo in asked}
        maker.compared = photos_of(opened, network, (), _COMPARED, where="--caricature")
    names: ClassNames | None = None
    found: list[Task] = []
    last: dict[str, Task] = {}
    for record in records:
        network = recorder.network(record)
        for look in network.looks:
            name = look.layer.name
            before = last.get(name)
            if before is None and options.target:
                meta = network.checkpoint.meta
                names = output_names(opened, look.layer.units, meta, options.class_names, progress)
            wishes = (
                before.wishes if before else _wishes(history_of(opened, name), look, options, maker, names)
            )
            task = Task(record, network, look, wishes, options.seed, film=options.warm)
            if options.warm:
                task = replace(task, before=before)
            last[name] = task
            found.append(task)
    if options.floor:
        found += _by_chance(list(last.values()), len(records), options)
    return Plan(recorder, maker, found, names)


def _by_chance(last: Sequence[Task], epochs: int, options: PictureOptions) -> list[Task]:
    """Pictures of the last epoch that nobody looks at, but that others are compared with."""
    found = []
    if epochs > 1:
        second = options.seed + max(_SECOND, options.diverse)
        found += [replace(task, seed=second, role="seed", before=None, film=False) for task in last]
    if options.warm:
        found += [replace(task, role="still", before=task) for task in last]
    if options.diverse > 1:
        for task in last:
            plain = tuple(Wish(unit) for unit in dict.fromkeys(wish.unit for wish in task.wishes))
            alone = replace(task, wishes=plain, role="alone", before=None, film=False)
            found += [replace(alone, seed=options.seed + member) for member in range(options.diverse)]
    return found


def _classifier(network: Network) -> str:
    """The layer whose units are the classes.

    Raises:
        InputError: the checkpoint has none.
    """
    found = find_classifier(network.checkpoint.state_dict)
    if isinstance(found, InputError):
        raise InputError(str(found), where="--target", hint="name the layer whose units are classes: --layer")
    return found.layer


def _wishes(
    history: History | None, look: Look, options: PictureOptions, maker: Maker, names: ClassNames | None
) -> tuple[Wish, ...]:
    """Whose pictures are wanted.

    Raises:
        InputError: a unit or class that the layer does not have, or no units named of a layer without labels.
    """
    if options.caricature:
        return tuple(Wish(0, image=name) for name in maker.images)
    if options.objective == "layer":
        return (Wish(0),)
    units = _units(history, look, options, names)
    if options.pair:
        first, second = units
        return tuple(Wish(first, second, share) for share in BLENDS)
    if options.diverse > 1:
        return tuple(Wish(unit, member=member) for unit in units for member in range(options.diverse))
    return tuple(Wish(unit) for unit in units)


def _units(
    history: History | None, look: Look, options: PictureOptions, names: ClassNames | None
) -> list[int]:
    name, count = look.layer.name, look.layer.units
    if options.target:
        return list(dict.fromkeys(class_number(text, count, names, "--target") for text in options.target))
    units = options.pair or options.units
    if not units:
        if history is None:
            raise InputError(
                f"the run did not dissect {name}, so nothing says which of its units to take",
                where=f"--layer {name}",
                hint="name them: --units 3,7",
            )
        units = tuple(surest(history, options.top))
    beyond = [unit for unit in units if unit >= count]
    if beyond:
        raise InputError(
            f"{name} has no unit {beyond[0]}", where="--units", hint=f"units count from 0 to {count - 1}"
        )
    return list(dict.fromkeys(units))


def surest(history: History, count: int) -> list[int]:
    """The live units surest of their concept at the last epoch, interpretable ones first, ties by number."""
    last = len(history.epochs) - 1
    rows = np.flatnonzero(history.live[:, last])
    if not len(rows):
        rows = np.arange(len(history.units))
    certainty = np.nan_to_num(history.certainty(last)[rows], nan=-np.inf)
    order = np.lexsort((history.units[rows], -certainty, ~history.interpretable[rows, last]))
    return [int(unit) for unit in history.units[rows[order[:count]]]]
