"""From the tables of a run to what it says in sentences: `findings.csv`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from concept_monitor_cli.monitor.findings import Finding, RunTables, findings
from concept_monitor_cli.monitor.floors import halves_columns, redundancy_columns, together
from concept_monitor_cli.monitor.statistics import category_statistics
from concept_monitor_cli.run import TABLES, RunFolder
from concept_monitor_cli.stories.opened import OpenRun

if TYPE_CHECKING:
    from concept_monitor_cli.monitor.history import History


def findings_of(opened: OpenRun) -> list[Finding]:
    """What a run says of what is asked for.

    All statements about a run count against each other, so those about a part of it are chosen from what the
    whole run says.

    Args:
        opened: the run.
    """
    if not opened.is_part:
        return findings(run_tables(opened))
    found = findings(run_tables(opened.whole()))
    said = [each for each in found if _is_about(each, opened)]
    if found and not said:
        opened.progress.notice("nothing of what the run says is about this part of it")
    return said


def _is_about(found: Finding, opened: OpenRun) -> bool:
    """Whether a sentence is about the run, or about layers and epochs that are asked for."""
    asked = opened.moments
    named: dict[str, list[Any]] = {
        "layer": [found.layer] if found.layer else [],
        "detector": [found.detector] if found.detector else [],
        "epoch": [epoch for epoch in (found.epoch, found.from_epoch) if epoch is not None],
    }
    return all(set(values) <= set(asked[column]) for column, values in named.items())


def write_findings(opened: OpenRun, statistics: pd.DataFrame) -> list[Finding]:
    """Write `findings.csv` of a run, and give its rows.

    Args:
        opened: the run, all that it has.
        statistics: of its layers and detectors, as `statistics_of` counts them.
    """
    found = findings(run_tables(opened, statistics))
    keep(opened.run, found)
    return found


def keep(run: RunFolder, found: Sequence[Finding]) -> None:
    """Write `findings.csv`."""
    columns = list(TABLES["findings"].columns)
    run.write_csv("findings", pd.DataFrame([each.as_dict() for each in found], columns=columns))


def run_tables(opened: OpenRun, statistics: pd.DataFrame | None = None) -> RunTables:
    """The tables that sentences are written from, all of the same labels.

    What `cmon units` has found is used where it was made of the same labels at the same epochs.

    Args:
        opened: the run.
        statistics: of its concept tables; `None` to count them anew, without what needs the space of words.
            No sentence speaks of that.
    """
    if statistics is None:
        parts = [
            category_statistics(opened.first_rows(history), known=together(beside_records(opened, history)))
            for history in opened.histories
        ]
        statistics = pd.concat(parts, ignore_index=True)
    untrained = [rows for history in opened.histories if (rows := opened.untrained(history)) is not None]
    units = opened.run.table("units")
    current = units is not None and all(_is_current(units, history) for history in opened.histories)
    random = pd.concat(untrained, ignore_index=True) if untrained else None
    return RunTables(
        histories=opened.histories,
        first=opened.first,
        statistics=TABLES["statistics"].frame(statistics),
        untrained=None if random is None else random[random["rank"] == 1],
        units=units if current else None,
        changes=opened.run.table("changes") if current else None,
        self_similarity=opened.run.table("self_similarity") if current else None,
        agreement=opened.run.table("agreement"),
        info=opened.info,
    )


def beside_records(opened: OpenRun, history: History) -> list[pd.DataFrame]:
    """What the records of the tables say of a layer: redundancy, and what the halves of the images say."""
    records = [
        {
            "epoch": record.epoch,
            "checkpoint": record.checkpoint,
            "layer": record.layer,
            "detector": record.detector,
            "redundancy": record.redundancy,
            "held_out": record.held_out,
        }
        for record in opened.records(history)
    ]
    return [redundancy_columns(records), halves_columns(records)]


def _is_current(units: pd.DataFrame, history: History) -> bool:
    """Whether `units.csv` was made of the same labels at the same epochs."""
    own = history.rows(units)
    if own["unit"].tolist() != history.units.tolist() or own["label_changes"].isna().any():
        return False
    concepts, _ = history.concepts(history.labels[:, -1])
    changes = history.changed.sum(axis=1)
    return own["final_concept"].tolist() == concepts and own["label_changes"].tolist() == changes.tolist()
