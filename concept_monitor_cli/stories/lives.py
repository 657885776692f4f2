"""From the concept tables of a run to the lives of its units: when each is born, changes, settles, dies."""

from __future__ import annotations

import json
from dataclasses import asdict
from hashlib import sha256
from typing import TYPE_CHECKING

from concept_monitor_cli import __version__
from concept_monitor_cli.monitor.confidence import confident_changes
from concept_monitor_cli.monitor.lives import mean_distance, unit_lives
from concept_monitor_cli.monitor.own import Own
from concept_monitor_cli.monitor.statistics import ALL
from concept_monitor_cli.progress import Progress
from concept_monitor_cli.run import TABLES
from concept_monitor_cli.run.derived import follows_from, note_what_from
from concept_monitor_cli.stories.followed import followed
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.stories.part import rest_of, with_rest

if TYPE_CHECKING:
    import pandas as pd

    from concept_monitor_cli.monitor.history import History


#: Version of the code that the tables follow from. Raise it when their content changes.
LIVES_CODE = 1

_TABLES = ("units", "changes", "self_similarity")


def refresh_lives(opened: OpenRun, *, resamples: int, seed: int, progress: Progress) -> None:
    """`write_lives` of a whole run, where its tables are not those of the run as it is by now.

    Arguments and errors as those of `write_lives`.
    """
    made = _follow_from(opened, resamples, seed)
    if follows_from(opened.run, _TABLES, made):
        return
    write_lives(opened, resamples=resamples, seed=seed, progress=progress)
    note_what_from(opened.run, _TABLES, made)


def _follow_from(opened: OpenRun, resamples: int, seed: int) -> str:
    """The digest of all that the tables follow from."""
    layers = []
    for history in opened.histories:
        random = opened.run.untrained_record(history.layer, history.detector)
        there = [opened.is_recorded(history, column) for column in range(len(history.epochs))]
        layers.append([[asdict(each) for each in opened.records(history)], random and asdict(random), there])
    said = {name: opened.info[name] for name in ("probe", "concepts", "encoder", "settings")}
    columns = [TABLES[name].version() for name in _TABLES]
    content = [__version__, LIVES_CODE, columns, said, layers, resamples, seed]
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_lives(opened: OpenRun, *, resamples: int, seed: int, progress: Progress) -> pd.DataFrame:
    """Write `units.csv`, `changes.csv` and `self_similarity.csv` of a run.

    Of a part of the layers: rows of the others stay. Of a part of the epochs nothing is written, for a life
    takes all of them.

    Args:
        opened: the run.
        resamples: how often the images are drawn again to see which changes are more than luck; 0 leaves
            that out.
        seed: of the draws.
        progress: told what happens.

    Returns:
        The rows of `units.csv` that were asked for.

    Raises:
        InputError: images or activations that are needed are gone.
    """
    import pandas as pd

    lives, changes, itself = [], [], []
    for history in opened.histories:
        own, held = followed(opened, history, resamples, seed, progress)
        if held is not None:
            changes.append(confident_changes(history, held))
        if own is not None:
            itself.append(_itself(own))
        lives.append(
            unit_lives(
                history,
                opened.placed(history),
                None if held is None else held.taken,
                own=own,
                drift_floors=drift_floors(opened, history),
            )
        )
    table = TABLES["units"].frame(pd.concat(lives, ignore_index=True))
    if opened.lacks_epochs:
        progress.notice(
            "units.csv, changes.csv and self_similarity.csv tell of all epochs: only some were asked for, so "
            "they are left as they are"
        )
        return table
    opened.run.write_csv("units", with_rest(opened, "units", table))
    for name, parts in (("self_similarity", itself), ("changes", changes)):
        rest = rest_of(opened, name)
        found = parts if rest is None else [*parts, rest]
        if found:
            opened.run.write_csv(name, pd.concat(found, ignore_index=True))
        else:
            # An earlier one would not belong to the units.csv beside it.
            (opened.run.tables / f"{name}.csv").unlink(missing_ok=True)
    return table


def _itself(own: Own) -> pd.DataFrame:
    """The rows of `self_similarity.csv`: every unit at every epoch but the first."""
    import pandas as pd

    history = own.history
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "epoch": history.epochs[column],
                    "checkpoint": history.checkpoints[column],
                    "layer": history.layer,
                    "unit": history.units,
                    "detector": history.detector,
                    "self_similarity": own.self_similarity[:, column],
                }
            )
            for column in range(1, len(history.epochs))
        ]
        or [pd.DataFrame(columns=list(TABLES["self_similarity"].columns))],
        ignore_index=True,
    )


def drift_floors(opened: OpenRun, history: History) -> tuple[float, float]:
    """What a network with random weights and what two halves of the images give for the drift of a unit."""
    last = int(history.epochs[-1])
    random = opened.untrained_placed(history)
    placed = None if random is None else opened.placed(history, epoch=last)
    by_random = by_halves = float("nan")
    if placed is not None and random is not None:
        by_random = mean_distance(placed, random)
    for record in opened.records(history):
        if record.epoch == last and record.held_out:
            luck = record.held_out["categories"][ALL]["distance"]
            by_halves = float("nan") if luck is None else luck
    return by_random, by_halves
