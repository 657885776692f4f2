"""The tables of a run that a page is made of."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

from concept_monitor_cli.monitor.history import History
from concept_monitor_cli.run import RunFolder


@dataclass
class Tables:
    """The tables of a run that a page is made of; `None` where there is none.

    Attributes:
        concepts: the concept table, restricted to what was asked for.
        embedding: `embedding.csv`.
        anchors: `anchors.csv`.
        statistics: `statistics.csv`.
        units: `units.csv`.
        changes: `changes.csv`.
        remarks: what is missing or out of date, and the command that makes it.
    """

    concepts: pd.DataFrame
    embedding: pd.DataFrame | None = None
    anchors: pd.DataFrame | None = None
    statistics: pd.DataFrame | None = None
    units: pd.DataFrame | None = None
    changes: pd.DataFrame | None = None
    remarks: list[str] = field(default_factory=list)


def read_tables(run: RunFolder, concepts: pd.DataFrame) -> Tables:
    """Read what there is beside the concept table.

    Raises:
        InputError: a file is there and is no such table.
    """
    found = {**run.on_page("series"), **run.on_page("anchors")}
    tables = Tables(
        concepts,
        found.get("embedding"),
        found.get("anchors"),
        found.get("statistics"),
        found.get("units"),
        found.get("changes"),
    )
    if tables.embedding is None or tables.anchors is None:
        tables.remarks.append(
            "Positions in concept space are missing: run “cmon embed --anchors WORDS”, then “cmon report”."
        )
    if tables.statistics is None:
        tables.remarks.append("The spread of the embedding is missing: it comes from “cmon stats”.")
    if tables.units is None:
        tables.remarks.append(
            "Drift and changes beyond chance are missing for single units: they come from “cmon units”."
        )
    return tables


def of_layer(table: pd.DataFrame, history: History) -> pd.DataFrame:
    """The rows of a table that are of one layer and detector."""
    return table[(table["layer"] == history.layer) & (table["detector"] == history.detector)]
