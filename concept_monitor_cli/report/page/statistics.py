"""The numbers of a layer over the epochs that a page shows, and what each is to be compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from concept_monitor_cli.monitor.confidence import FALSE_CHANGES
from concept_monitor_cli.monitor.history import History
from concept_monitor_cli.monitor.statistics import ALL, category_statistics
from concept_monitor_cli.monitor.summary import by_luck, named
from concept_monitor_cli.report.page.pack import number
from concept_monitor_cli.report.page.tables import Tables
from concept_monitor_cli.run import RunFolder

if TYPE_CHECKING:
    from collections.abc import Mapping


def series_statistics(
    history: History, tables: Tables, categories: Sequence[str], notes: Mapping[tuple[str, str], Any]
) -> dict[str, Any]:
    """All numbers of a layer, a value per epoch."""
    own = notes.get((history.layer, history.detector), {})
    return {
        **_statistics_json(history, tables, categories),
        **_beside_json(history, own),
    }


def _statistics_json(history: History, tables: Tables, categories: Sequence[str]) -> dict[str, Any]:
    """A value per epoch: of the whole layer, and interpretable units of every category."""
    rows = category_statistics(history.rows(tables.concepts), None, tables.embedding)
    whole = rows[rows["category"] == ALL].set_index("epoch").loc[history.epochs]
    changed = history.changed.sum(axis=0).tolist()
    spreads: dict[str, list[float | None]] = {
        name: [None] * len(history.epochs) for name in ("spread", "spread_floor_random")
    }
    if tables.statistics is not None:
        known = history.rows(tables.statistics)
        known = known[known["category"] == ALL]
        for name in spreads:
            made = dict(zip(known["epoch"], zip(known["units"], known[name], strict=True), strict=True))
            now = zip(history.epochs.tolist(), whole["units"], strict=True)
            # Another number of units at an epoch: made from another state of the run.
            spreads[name] = [
                number(made[e][1]) if e in made and made[e][0] == units else None for e, units in now
            ]
    interpretable = (
        rows[rows["category"] != ALL]
        .pivot_table(index="epoch", columns="category", values="interpretable", aggfunc="sum")
        .reindex(index=history.epochs, columns=list(categories), fill_value=0)
        .fillna(0)
    )
    return {
        "units": whole["units"].astype(int).tolist(),
        "dead": whole["dead"].astype(int).tolist(),
        "interpretable": whole["interpretable"].astype(int).tolist(),
        **_interpretable_beside(history, tables),
        "distinct": whole["distinct_concepts"].astype(int).tolist(),
        "changed": [None, *changed[1:]],
        **_sure_changes(history, tables),
        **spreads,
        "anchor_distance": [number(value) for value in whole["anchor_distance"]],
        "anchor_distance_floor_random": [_anchor_floor(history, tables)] * len(history.epochs),
        "categories": interpretable.astype(int).T.to_numpy().tolist(),
    }


def _anchor_floor(history: History, tables: Tables) -> float | None:
    """Mean distance to the nearest anchor with random weights."""
    if tables.embedding_floors is None:
        return None
    known = history.rows(tables.embedding_floors)["anchor_distance_floor_random"]
    return number(known.iloc[0]) if len(known) else None


def _interpretable_beside(history: History, tables: Tables) -> dict[str, list[int | None]]:
    """What interpretable units and their concepts are to be compared with, a value per epoch."""
    rows = history.rows(tables.concepts)
    first = dict(iter(rows[rows["rank"] == 1].groupby("epoch")))
    epochs = history.epochs.tolist()
    table = tables.untrained.get((history.layer, history.detector))
    random = (None, None) if table is None else named(table)
    return {
        "interpretable_by_luck": [
            None if tables.fdr is None else by_luck(first[epoch], tables.fdr) for epoch in epochs
        ],
        # The same at every epoch: one network with random weights.
        "interpretable_random": [random[0]] * len(epochs),
        "distinct_random": [random[1]] * len(epochs),
    }


def _sure_changes(history: History, tables: Tables) -> dict[str, list[int | None]]:
    """Changes that other images would not undo, a value per epoch, and how many of them luck gives.

    None where they were not tested on these labels.
    """
    nothing: list[int | None] = [None] * len(history.epochs)
    units = None if tables.units is None else history.rows(tables.units)
    current = (
        units is not None
        and units["unit"].tolist() == history.units.tolist()
        and units["label_changes"].tolist() == history.changed.sum(axis=1).tolist()
        and not units["confident_changes"].isna().any()
    )
    if tables.changes is None or not current:
        return {"sure": nothing, "sure_by_luck": nothing}
    at = history.rows(tables.changes)["epoch"].value_counts()
    could = history.could_change.sum(axis=0).tolist()
    return {
        "sure": [None, *(int(at.get(epoch, 0)) for epoch in history.epochs[1:].tolist())],
        "sure_by_luck": [None, *(round(FALSE_CHANGES * units) for units in could[1:])],
    }


def _beside_json(history: History, notes: Mapping[str, Any]) -> dict[str, list[Any]]:
    """What the records of the tables say of redundancy and held-out images, a value per epoch."""
    at = [str(epoch) for epoch in history.epochs.tolist()]
    alike = [notes.get("redundancy", {}).get(epoch, {}) for epoch in at]
    held = [notes.get("heldOut", {}).get(epoch, {}) for epoch in at]
    means = [each.get("categories", {}).get(ALL, {}) for each in held]
    live = history.live.sum(axis=0).tolist()
    return {
        "effective": [each.get("effective_units") for each in alike],
        "effective_chance": [each.get("effective_units_chance") for each in alike],
        "redundant": [each.get("redundant") for each in alike],
        "held_out": [each.get("value") for each in held],
        "held_out_chance": [each.get("chance") for each in held],
        "held_out_word": [each.get("word", "") for each in held],
        "spread_floor_halves": [each.get("distance") for each in means],
        "changed_by_luck": [
            None if number == 0 or each.get("changed") is None else round(each["changed"] * units)
            for number, (each, units) in enumerate(zip(means, live, strict=True))
        ],
    }


def record_notes(run: RunFolder) -> dict[tuple[str, str], dict[str, Any]]:
    """What the records of the tables say: sentences for the reader, and the calibration at every epoch."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for _, record in run.table_records():
        notes = found.setdefault(
            (record.layer, record.detector), {"notes": [], "calibration": {}, "redundancy": {}, "heldOut": {}}
        )
        notes["notes"] += [note for note in record.notes if note not in notes["notes"]]
        notes["calibration"][str(record.epoch)] = record.calibration
        notes["redundancy"][str(record.epoch)] = record.redundancy
        notes["heldOut"][str(record.epoch)] = record.held_out
    return found
