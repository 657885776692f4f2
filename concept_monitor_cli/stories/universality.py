"""Which units of a run's layers the other run has, too: at epochs that both have, and at their last."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from concept_monitor_cli.errors import CmonError
from concept_monitor_cli.functional.groups import ImageGroups, halves
from concept_monitor_cli.monitor.epochs import affordable
from concept_monitor_cli.monitor.history import History
from concept_monitor_cli.monitor.universality import Universality, shares, universality
from concept_monitor_cli.progress import Progress
from concept_monitor_cli.record.exemplars import holds_pooled
from concept_monitor_cli.run import TABLES
from concept_monitor_cli.store import Writer
from concept_monitor_cli.stories.opened import OpenRun

if TYPE_CHECKING:
    import pandas as pd

_ARRAYS = ("twin", "matched", "held_out", "best", "shuffled")


def universal_units(
    first: OpenRun, second: OpenRun, pairs: Sequence[tuple[History, History]], progress: Progress
) -> pd.DataFrame:
    """The rows of `universality.csv`.

    Args:
        first: the run whose units are counted.
        second: the run in which they are looked for, with the same probing images.
        pairs: layers of the one and the other.
        progress: told how far it is, and of layers without activations.
    """
    import pandas as pd

    groups = _groups(first, progress)
    frames = []
    with progress.task("looking for units that both have", len(pairs), "layers") as advance:
        for one, other in pairs:
            # The best assignment of many units takes long.
            named, size = first.options.epochs is not None, min(len(one.units), len(other.units))
            columns_of_both = _columns(one, other)
            places = affordable(len(columns_of_both), size, named=named)
            if len(places) < len(columns_of_both):
                columns_of_both = [columns_of_both[place] for place in places]
                shown = ", ".join(str(one.epochs[column]) for column, _ in columns_of_both)
                progress.notice(
                    f"{one.layer}: units that both runs have are counted at epochs {shown} (others: --epochs)"
                )
            for columns in columns_of_both:
                found = _found(first, second, (one, other), columns, groups)
                if found is None:
                    break  # `compare` says that this layer keeps no activations
                _, categories = one.concepts(one.labels[:, columns[0]])
                frame = shares(found, categories, one.interpretable[:, columns[0]])
                frames.append(
                    frame.assign(
                        epoch=int(one.epochs[columns[0]]),
                        other_epoch=int(other.epochs[columns[1]]),
                        layer=one.layer,
                        other_layer=other.layer,
                        detector=one.detector,
                    )
                )
            advance(1)
    table = TABLES["universality"]
    return table.frame(pd.concat(frames)) if frames else pd.DataFrame(columns=list(table.columns))


def _columns(one: History, other: History) -> list[tuple[int, int]]:
    """Epochs to compare: those of the same number, and the last of both."""
    places = {int(epoch): column for column, epoch in enumerate(other.epochs)}
    same = [(column, places[int(epoch)]) for column, epoch in enumerate(one.epochs) if int(epoch) in places]
    last = (len(one.epochs) - 1, len(other.epochs) - 1)
    return list(dict.fromkeys([*same, last]))


def _groups(opened: OpenRun, progress: Progress) -> ImageGroups | None:
    """Which images are copies of each other; None, said, where the images are not there any more."""
    try:
        return opened.context_of(None, (), opened.concepts).groups
    except CmonError as error:
        progress.notice(f"copies of a photo may be in both halves of the images: {error.what}")
        return None


def _found(
    first: OpenRun,
    second: OpenRun,
    histories: tuple[History, History],
    columns: tuple[int, int],
    groups: ImageGroups | None,
) -> Universality | None:
    runs = tuple(zip((first, second), histories, columns, strict=True))
    records = [run.record(history, column) for run, history, column in runs]
    if not all(holds_pooled(record.recording) for record in records):
        return None
    key = first.store.key(
        "universality",
        first=records[0].recording,
        second=records[1].recording,
        groups=None if groups is None else hashlib.sha256(groups.of.tobytes()).hexdigest(),
    )

    def make(writer: Writer) -> None:
        pooled, live = [], []
        for run, history, column in runs:
            with run.recording(history, column) as entry:
                pooled.append(entry.read("pooled"))
                live.append(entry.read("live").astype(bool))
        own = groups if groups is not None else ImageGroups.single(len(pooled[0]))
        found = universality(pooled[0], pooled[1], halves(own), (live[0], live[1]), groups=own)
        for name in _ARRAYS:
            writer.put(name, np.asarray(getattr(found, name)))

    with first.store.get_or_make(key, make) as entry:
        return Universality(*(entry.read(name) for name in _ARRAYS))
