"""From the concept tables of a run to the lives of its units: when each is born, changes, settles and dies.

What takes the recordings in the cache (is a change more than luck, is it the unit's own?) is computed once
and kept there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from concept_monitor_cli.functional.self_similarity import UNCHANGED, paired_correlations
from concept_monitor_cli.lenses.responses import Responses
from concept_monitor_cli.monitor.confidence import (
    Held,
    Rescorer,
    agreement,
    concept_columns,
    confident_changes,
    held_labels,
)
from concept_monitor_cli.monitor.history import History
from concept_monitor_cli.monitor.lives import mean_distance, unit_lives
from concept_monitor_cli.monitor.own import Own, SelfSimilarity, own_changes
from concept_monitor_cli.monitor.statistics import ALL
from concept_monitor_cli.progress import Progress
from concept_monitor_cli.run import TABLES
from concept_monitor_cli.store import Writer
from concept_monitor_cli.stories.opened import OpenRun

if TYPE_CHECKING:
    import pandas as pd


def write_lives(opened: OpenRun, *, resamples: int, seed: int, progress: Progress) -> pd.DataFrame:
    """Write `units.csv`, `changes.csv` and `self_similarity.csv` of a run.

    Args:
        opened: the run.
        resamples: how often the images are drawn again to see which changes are more than luck; 0 leaves
            that out.
        seed: of the draws.
        progress: told what happens.

    Returns:
        The rows of `units.csv`.

    Raises:
        InputError: images or activations that are needed are gone.
    """
    import pandas as pd

    lives, changes, itself = [], [], []
    for history in opened.histories:
        similarity = self_similarity(opened, history, progress)
        own = None if similarity is None else own_changes(history, similarity)
        held = _held(opened, history, resamples, seed, progress, similarity)
        if held is not None:
            changes.append(confident_changes(history, held, similarity))
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
    opened.run.write_csv("units", table)
    for name, parts in (("self_similarity", itself), ("changes", changes)):
        if parts:
            opened.run.write_csv(name, pd.concat(parts, ignore_index=True))
        else:
            # An earlier one would not belong to the units.csv beside it.
            (opened.run.tables / f"{name}.csv").unlink(missing_ok=True)
    return table


# -- a unit beside itself and beside luck -------------------------------------------------------


def self_similarity(opened: OpenRun, history: History, progress: Progress) -> SelfSimilarity | None:
    """Compares every unit with itself at two epochs; `None`, said why, where the activations are gone."""
    columns = range(len(history.epochs))
    records = {record.epoch: record.recording for record in opened.records(history)}
    lacking = [column for column in columns if not opened.is_recorded(history, column)]
    if lacking:
        progress.notice(
            f"units of {history.layer} ({history.detector}) are not compared with themselves: the "
            f"activations at epoch {history.epochs[lacking[0]]} are not in the cache. All changes of label "
            "count as their own"
        )
        return None

    def similarity(earlier: int, later: int) -> NDArray[np.float64]:
        key = opened.store.key(
            "self_similarity",
            first=records[int(history.epochs[earlier])],
            second=records[int(history.epochs[later])],
        )

        def make(writer: Writer) -> None:
            with opened.recording(history, earlier) as a, opened.recording(history, later) as b:
                first, second = Responses(a), Responses(b)
                found = paired_correlations(first.rows, second.rows, first.n_images)
            found[~(first.live & second.live)] = np.nan
            writer.put("correlation", found)

        with opened.store.get_or_make(key, make) as entry:
            correlation: NDArray[np.float64] = entry.read("correlation")
        return correlation[history.units]

    return similarity


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
    placed, random = opened.placed(history), opened.untrained_placed(history)
    by_random = by_halves = float("nan")
    if placed is not None and random is not None:
        by_random = mean_distance(placed.at(last), random)
    for record in opened.records(history):
        if record.epoch == last and record.held_out:
            luck = record.held_out["categories"][ALL]["distance"]
            by_halves = float("nan") if luck is None else luck
    return by_random, by_halves


# -- confidence --------------------------------------------------------------------------------


def _held(
    opened: OpenRun,
    history: History,
    resamples: int,
    seed: int,
    progress: Progress,
    similarity: SelfSimilarity | None,
) -> Held | None:
    """The concepts that units hold with confidence; None, said why, where that cannot be known."""
    if not resamples:
        return None
    if not history.traits.resampled:
        progress.notice(
            f"confident_changes is empty for {history.detector}: its counts are not kept image by image, so "
            "the probing images cannot be drawn again"
        )
        return None
    # Without a change nothing is asked, and the inputs of the run need not be there.
    codes = _concept_numbers(opened, history) if history.changed.any() else np.empty(0, dtype=np.int64)
    settings = opened.info["settings"]["detectors"][history.detector]

    def rescorer(column: int, concepts: NDArray[np.int64]) -> Rescorer:
        with opened.recording(history, column) as entry:
            pooled = torch.from_numpy(entry.read("pooled")).to(opened.context.device)
        return opened.words.rescorer(settings, pooled, torch.from_numpy(concepts))

    def compare(
        earlier: int,
        later: int,
        rows: NDArray[np.int64],
        old: NDArray[np.int64],
        new: NDArray[np.int64],
    ) -> NDArray[np.float64]:
        cells, concepts_old, concepts_new = history.units[rows], codes[old], codes[new]
        key = opened.store.key(
            "resampling",
            before=opened.record(history, earlier).finding,
            after=opened.record(history, later).finding,
            units=cells.tolist(),
            old=concepts_old.tolist(),
            new=concepts_new.tolist(),
            groups=opened.context.groups_digest,
            resamples=resamples,
            seed=seed,
        )

        def make(writer: Writer) -> None:
            concepts, (one, two) = concept_columns([concepts_old, concepts_new])
            share = agreement(
                rescorer(earlier, concepts),
                rescorer(later, concepts),
                torch.from_numpy(cells),
                torch.from_numpy(one),
                torch.from_numpy(two),
                groups=opened.context.groups,
                resamples=resamples,
                seed=seed,
            )
            writer.put("agreement", share)

        with opened.store.get_or_make(key, make) as entry:
            return entry.read("agreement")

    steps = len(history.epochs) - 1
    with progress.task(f"resampling images for {history.layer}", steps, "epochs") as advance:

        def counted(*args: Any) -> NDArray[np.float64]:
            share = compare(*args)
            if similarity is not None:
                # A unit that does the same as before has not changed, whatever it is called.
                share = np.where(similarity(args[0], args[1])[args[2]] >= UNCHANGED, 0.0, share)
            advance(int(args[1]) - reached[0])
            reached[0] = int(args[1])
            return share

        reached = [0]
        return held_labels(history, counted)


def _concept_numbers(opened: OpenRun, history: History) -> NDArray[np.int64]:
    """For every label of a history, its number in the concept set."""
    concepts = opened.context.concepts
    number = {pair: i for i, pair in enumerate(zip(concepts.concepts, concepts.categories, strict=True))}
    return np.array([number[name.concept, name.category] for name in history.names], dtype=np.int64)
