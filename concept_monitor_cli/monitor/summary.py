"""A run at a glance: per epoch and layer, how much is interpretable, what is most certain, what changed."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from concept_monitor_cli.monitor.confidence import FALSE_CHANGES
from concept_monitor_cli.monitor.history import histories
from concept_monitor_cli.run import TableRecord

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    import pandas as pd


@dataclass(frozen=True)
class LayerSummary:
    """One layer at one epoch, as one detector sees it.

    Attributes:
        epoch, checkpoint, layer, detector: which.
        units: number of units.
        dead: units that never change.
        interpretable: units whose best concept is more than chance.
        distinct: different concepts among the interpretable units.
        changed: live units with another best concept than when they were live before, whatever the reason;
            `None` at the first epoch.
        best: `(unit, concept, score)` of the most certain interpretable units, best first.
        held_out: how well concepts found on one half of the images predict the activations on the other,
            between 0 and 1 (`functional.held_out`); `None` where it is not known.
        held_out_chance: the same of other units' concepts.
        held_out_word: the difference in a word.
        held_out_measure: in which both are: `auc`, or `iou` of detectors by masks.
        changed_by_luck: how many units get another concept from one half of the images than from the other;
            `None` where it is not known.
        sure_changes: how many units took another concept with confidence since the epoch before: changes that
            other images would not undo; `None` where that was not tested.
        sure_by_luck: how many of them luck gives.
        interpretable_by_luck: how many of the interpretable units luck gives, at most; `None` for detectors
            without p-values.
        random: `(interpretable, distinct)` of the layer with random weights; `None` where that was left out.
    """

    epoch: int
    checkpoint: str
    layer: str
    detector: str
    units: int
    dead: int
    interpretable: int
    distinct: int
    changed: int | None
    best: tuple[tuple[int, str, float], ...]
    held_out: float | None = None
    held_out_chance: float | None = None
    held_out_word: str = ""
    held_out_measure: str = "auc"
    changed_by_luck: int | None = None
    sure_changes: int | None = None
    sure_by_luck: int | None = None
    interpretable_by_luck: int | None = None
    random: tuple[int, int] | None = None

    def as_dict(self) -> dict[str, Any]:
        """The summary as plain JSON values."""
        return asdict(self)


def summarise(
    table: pd.DataFrame,
    records: Iterable[TableRecord] = (),
    *,
    changes: pd.DataFrame | None = None,
    tested: Collection[tuple[str, str]] = (),
    fdr: float | None = None,
    untrained: Mapping[tuple[str, str], pd.DataFrame | None] | None = None,
    most: int = 3,
) -> list[LayerSummary]:
    """Summaries in the order layer, detector, epoch.

    Args:
        table: a concept table of any epochs, layers and detectors.
        records: of its tables, for what is said of held-out images.
        changes: rows of `changes.csv`; `None` where it was not made.
        tested: layer and detector of those in which changes were tested; others may have none there.
        fdr: the share of false calls that the run allows; `None`: luck is not asked.
        untrained: layer and detector -> the concept table with random weights.
        most: how many of the most certain units to name.
    """
    summaries = []
    known = {(one.layer, one.detector, one.checkpoint, one.epoch): one.held_out for one in records}
    first = table[table["rank"] == 1]
    for history in histories(table):
        series = history.rows(first)
        changed = history.changed.sum(axis=0).tolist()
        could = history.could_change.sum(axis=0).tolist()
        random = None if untrained is None else untrained.get((history.layer, history.detector))
        sure = None
        if changes is not None and (history.layer, history.detector) in tested:
            sure = history.rows(changes)["epoch"].value_counts()
        for number, (epoch, checkpoint) in enumerate(
            zip(history.epochs.tolist(), history.checkpoints, strict=True)
        ):
            units = series[(series["epoch"] == epoch) & (series["checkpoint"] == checkpoint)]
            certain = units[units["interpretable"]]
            ranked = most_certain_first(certain)
            held_out = known.get((history.layer, history.detector, checkpoint, epoch), {})
            share = held_out.get("categories", {}).get("all", {}).get("changed")
            live = int(history.live[:, number].sum())
            summaries.append(
                LayerSummary(
                    epoch=epoch,
                    checkpoint=checkpoint,
                    layer=history.layer,
                    detector=history.detector,
                    units=len(units),
                    dead=int((units["state"] == "dead").sum()),
                    interpretable=len(certain),
                    distinct=len(np.unique(history.labels[history.interpretable[:, number], number])),
                    changed=changed[number] if number else None,
                    best=_distinct_best(ranked, most),
                    held_out=held_out.get("value"),
                    held_out_chance=held_out.get("chance"),
                    held_out_word=held_out.get("word", ""),
                    held_out_measure=held_out.get("measure", "auc"),
                    changed_by_luck=None if share is None else round(share * live),
                    sure_changes=None if sure is None or not number else int(sure.get(epoch, 0)),
                    sure_by_luck=None if sure is None or not number else round(FALSE_CHANGES * could[number]),
                    interpretable_by_luck=None if fdr is None else by_luck(units, fdr),
                    random=None if random is None else named(random),
                )
            )
    return summaries


def by_luck(units: pd.DataFrame, fdr: float) -> int | None:
    """How many of the interpretable units are so by luck, at most; `None` for detectors without p-values.

    Args:
        units: rows of rank 1 of a concept table.
        fdr: the share of false calls that the run allows.
    """
    if units["p_value"].isna().all():
        return None
    return math.ceil(fdr * int(units["interpretable"].sum()))


def named(table: pd.DataFrame) -> tuple[int, int]:
    """How many live units of a concept table are interpretable, and how many concepts these have."""
    rows = table[(table["rank"] == 1) & table["interpretable"] & (table["state"] == "live")]
    return len(rows), len(rows.drop_duplicates(["concept", "category"]))


def most_certain_first(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of rank 1 by `effect`; where a detector or an earlier version gives none, by p-value and score."""
    keys = ["effect", "p_value", "score", "unit"]
    ways = [False, True, False, True]
    if "effect" not in rows or rows["effect"].isna().all():
        keys, ways = keys[1:], ways[1:]
    return rows.sort_values(keys, ascending=ways, kind="stable")


def _distinct_best(ranked: pd.DataFrame, most: int) -> tuple[tuple[int, str, float], ...]:
    """The best unit of each of the first concepts: ten units of the same concept would tell one thing."""
    best = ranked.drop_duplicates(["concept", "category"]).head(most)
    rows = zip(best["unit"].tolist(), best["concept"].tolist(), best["score"].tolist(), strict=True)
    return tuple((int(unit), str(concept), float(score)) for unit, concept, score in rows)
