"""From the concept tables of a run to the lives of its units: when each is born, changes, settles and dies.

What takes the test of changes longest, which concepts beat a unit's label in every draw of the images, is
computed once for each epoch and kept in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from concept_monitor_cli.functional.self_similarity import UNCHANGED, SelfCorrelation
from concept_monitor_cli.lenses.responses import Responses
from concept_monitor_cli.monitor.confidence import (
    Compare,
    Held,
    concept_columns,
    confident_changes,
    held_labels,
    wins,
)
from concept_monitor_cli.monitor.history import History
from concept_monitor_cli.monitor.lives import mean_distance, unit_lives
from concept_monitor_cli.monitor.own import Own, SelfSimilarity, own_changes
from concept_monitor_cli.monitor.statistics import ALL
from concept_monitor_cli.monitor.wins import Scored, rivals
from concept_monitor_cli.progress import Progress
from concept_monitor_cli.run import TABLES
from concept_monitor_cli.store import Key, Writer
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.stories.part import rest_of, with_rest

if TYPE_CHECKING:
    import pandas as pd

# Of the activations of a block of units at all epochs.
_BYTES = 1 << 27
# Recordings that are open at a time.
_OPEN = 128


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
        compare = _comparison(opened, history, resamples, seed, progress)
        own, held, changed = _followed(opened, history, compare, progress)
        if changed is not None:
            changes.append(changed)
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


# -- a unit beside itself and beside luck -------------------------------------------------------


def _followed(
    opened: OpenRun, history: History, compare: Compare | None, progress: Progress
) -> tuple[Own | None, Held | None, pd.DataFrame | None]:
    """What the units do beside what they are called, the concepts that they hold, and rows of `changes.csv`.

    In blocks of units, whose activations at all epochs fit the memory together.
    """
    import pandas as pd

    owns, helds, changes = [], [], []
    for rows, similarity in self_similarities(opened, history, progress):
        part = history.part(rows)
        if similarity is not None:
            owns.append(own_changes(part, similarity))
        if compare is not None:
            held = held_labels(part, _unless_unchanged(compare, similarity, rows.start))
            helds.append(held)
            changes.append(confident_changes(part, held, similarity))
    return (
        Own.together(owns, history) if owns else None,
        Held.together(helds) if helds else None,
        pd.concat(changes, ignore_index=True) if changes else None,
    )


def _unless_unchanged(compare: Compare, similarity: SelfSimilarity | None, first: int) -> Compare:
    """The comparison for the rows from `first` on; a unit that does the same as before has not changed."""

    def compared(
        earlier: int,
        later: int,
        rows: NDArray[np.int64],
        old: NDArray[np.int64],
        new: NDArray[np.int64],
    ) -> NDArray[np.float64]:
        share = compare(earlier, later, rows + first, old, new)
        if similarity is None:
            return share
        return np.where(similarity(earlier, later, rows) >= UNCHANGED, 0.0, share)

    return compared


def self_similarities(
    opened: OpenRun, history: History, progress: Progress
) -> Iterator[tuple[slice, SelfSimilarity | None]]:
    """Compares every unit with itself at two epochs, the units in blocks of rows of the history.

    `None`, said why, for all rows where the activations are gone.
    """
    columns = range(len(history.epochs))
    lacking = [column for column in columns if not opened.is_recorded(history, column)]
    if lacking:
        progress.notice(
            f"units of {history.layer} ({history.detector}) are not compared with themselves: the "
            f"activations at epoch {history.epochs[lacking[0]]} are not in the cache. All changes of label "
            "count as their own"
        )
        yield slice(0, len(history.units)), None
        return
    with ExitStack() as files:
        # Every block needs all epochs: they stay open, of very many the first ones.
        kept = [
            Responses(files.enter_context(opened.recording(history, column))) for column in columns[:_OPEN]
        ]
        width = max(1, _BYTES // (8 * kept[0].n_images * len(columns)))
        for start in range(0, len(history.units), width):
            rows = slice(start, min(len(history.units), start + width))
            units = history.units[rows]
            yield rows, SelfCorrelation(_activations(opened, history, units, kept))


def _activations(
    opened: OpenRun, history: History, units: NDArray[np.int64], kept: Sequence[Responses]
) -> Iterator[NDArray[np.float32]]:
    """Of some units at every epoch `(N, u)`, one after the other; NaN where a unit is dead.

    Args:
        opened: the run.
        history: the layer.
        units: which.
        kept: the responses at the first epochs, whose recordings are open.
    """
    for responses in kept:
        yield _columns(responses, units)
    for column in range(len(kept), len(history.epochs)):
        with opened.recording(history, column) as entry:
            yield _columns(Responses(entry), units)


def _columns(responses: Responses, units: NDArray[np.int64]) -> NDArray[np.float32]:
    first, stop = int(units[0]), int(units[-1]) + 1
    found = responses.columns(first, stop)
    found[:, ~responses.live[first:stop]] = np.nan
    return found if stop - first == len(units) else found[:, units - first]


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


# -- confidence --------------------------------------------------------------------------------


def _comparison(
    opened: OpenRun, history: History, resamples: int, seed: int, progress: Progress
) -> Compare | None:
    """How sure changes of label are; None, said why, where that cannot be known."""
    if not resamples:
        return None
    if not history.traits.resampled:
        progress.notice(
            f"confident_changes is empty for {history.detector}: its counts are not kept image by image, so "
            "the probing images cannot be drawn again"
        )
        return None
    # Without a change nothing is asked, and the inputs of the run need not be there.
    questions = {column: asked for column, asked in enumerate(rivals(history)) if len(asked.rows)}
    codes = _concept_numbers(opened, history) if questions else np.empty(0, dtype=np.int64)

    def answered(column: int, rows: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.uint8]:
        kept = _Kept(opened, history, column, resamples, seed)
        return kept.wins(history.units[rows], codes[history.labels[rows, column]], codes[labels])

    with progress.task(f"resampling images for {history.layer}", len(questions), "epochs") as advance:
        return Scored(questions, answered, len(history.names), resamples, advance).agreement


class _Kept:
    """Which concepts beat a unit's label at one epoch, draw by draw, as the store has it.

    The store has it in parts: a checkpoint that is added to a run gives units labels that the epochs before
    were not asked for, and only those are scored then.
    """

    def __init__(
        self,
        opened: OpenRun,
        history: History,
        column: int,
        resamples: int,
        seed: int,
    ) -> None:
        self._opened, self._history, self._column = opened, history, column
        self._resamples, self._seed = resamples, seed
        # A pair of unit and concept is one number.
        self._size = len(opened.context.concepts.concepts)

    def wins(
        self, units: NDArray[np.int64], own: NDArray[np.int64], others: NDArray[np.int64]
    ) -> NDArray[np.uint8]:
        """As `Wins`; units and concepts by their numbers in the layer and in the concept set."""
        wanted = units * self._size + others
        known = np.empty(0, dtype=np.int64)
        bits = np.empty((0, -(-self._resamples // 8)), dtype=np.uint8)
        part = 0
        while True:
            missing = ~np.isin(wanted, known)
            entry = self._opened.store.get(self._key(part))
            if entry is None and not missing.any():
                break
            if entry is None:
                make = self._maker(units[missing], own[missing], others[missing])
                entry = self._opened.store.get_or_make(self._key(part), make)
            with entry:
                pairs = entry.read("units") * self._size + entry.read("others")
                known, bits = np.concatenate([known, pairs]), np.concatenate([bits, entry.read("wins")])
            part += 1
        order = np.argsort(known, kind="stable")
        return bits[order[np.searchsorted(known[order], wanted)]]

    def _key(self, part: int) -> Key:
        opened = self._opened
        return opened.store.key(
            "resampling",
            finding=opened.record(self._history, self._column).finding,
            groups=opened.context.groups_digest,
            resamples=self._resamples,
            seed=self._seed,
            part=part,
        )

    def _maker(
        self, units: NDArray[np.int64], own: NDArray[np.int64], others: NDArray[np.int64]
    ) -> Callable[[Writer], None]:
        """What scores the epoch and writes an entry."""

        def make(writer: Writer) -> None:
            opened, history = self._opened, self._history
            concepts, (better, worse) = concept_columns([own, others])
            settings = opened.info["settings"]["detectors"][history.detector]
            with opened.recording(history, self._column) as entry:
                pooled = torch.from_numpy(entry.read("pooled")).to(opened.context.device)
            found = wins(
                opened.words.rescorer(settings, pooled, torch.from_numpy(concepts)),
                torch.from_numpy(units),
                torch.from_numpy(better),
                torch.from_numpy(worse),
                groups=opened.context.groups,
                resamples=self._resamples,
                seed=self._seed,
            )
            writer.put("units", units)
            writer.put("others", others)
            writer.put("wins", found)

        return make


def _concept_numbers(opened: OpenRun, history: History) -> NDArray[np.int64]:
    """For every label of a history, its number in the concept set."""
    concepts = opened.context.concepts
    number = {pair: i for i, pair in enumerate(zip(concepts.concepts, concepts.categories, strict=True))}
    return np.array([number[name.concept, name.category] for name in history.names], dtype=np.int64)
