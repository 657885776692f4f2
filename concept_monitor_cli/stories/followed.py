"""What the units of a layer do over the epochs beside what they are called, and which concepts they hold.

What takes the test of changes longest, which concepts beat a unit's label in every draw of the images, is
computed once for each epoch and kept in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import numpy as np
import torch
from numpy.typing import NDArray

from concept_monitor_cli.functional.self_similarity import SelfCorrelation
from concept_monitor_cli.lenses.responses import Responses
from concept_monitor_cli.monitor.confidence import Compare, Held, concept_columns, held_labels, wins
from concept_monitor_cli.monitor.history import History
from concept_monitor_cli.monitor.own import Own, SelfSimilarity, own_changes
from concept_monitor_cli.monitor.wins import Scored, rivals
from concept_monitor_cli.progress import Progress
from concept_monitor_cli.store import Key, Writer
from concept_monitor_cli.stories.opened import OpenRun

# Of the activations of a block of units at all epochs.
_BYTES = 1 << 27
# Recordings that are open at a time.
_OPEN = 128


def followed(
    opened: OpenRun, history: History, resamples: int, seed: int, progress: Progress
) -> tuple[Own | None, Held | None]:
    """What the units of a layer do, and the concepts that they hold.

    Args:
        opened: the run.
        history: the layer.
        resamples: how often the images are drawn again to see which changes are more than luck.
        seed: of the draws.
        progress: told what happens, and of what cannot be known.

    Returns:
        The labels without changes that are not a unit's own, `None` where the activations are gone; and the
        concepts that units hold, `None` without resamples.

    Raises:
        InputError: images or activations that are needed are gone.
    """
    if resamples and not history.traits.resampled:
        progress.notice(
            f"confident_changes is empty for {history.detector}: its counts are not kept image by image, so "
            "the probing images cannot be drawn again"
        )
        resamples = 0
    compare = _comparison(opened, history, resamples, seed, progress) if resamples else None
    owns, helds = [], []
    # In blocks of units, whose activations at all epochs fit the memory together.
    for rows, similarity in _self_similarities(opened, history, progress):
        part = history.part(rows)
        if similarity is not None:
            owns.append(own_changes(part, similarity))
        if compare is not None:
            helds.append(held_labels(part, _from_row(compare, rows.start), similarity))
    return (
        Own.together(owns, history) if owns else None,
        Held.together(helds) if helds else None,
    )


def _from_row(compare: Compare, first: int) -> Compare:
    """The comparison for a part of the units, that from row `first` on."""
    return lambda earlier, later, rows, old, new: compare(earlier, later, rows + first, old, new)


# -- a unit beside itself ----------------------------------------------------------------------


def _self_similarities(
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


# -- a unit beside luck ------------------------------------------------------------------------


def _comparison(opened: OpenRun, history: History, resamples: int, seed: int, progress: Progress) -> Compare:
    """How sure changes of label are."""
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
