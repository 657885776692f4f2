"""The tables of a run that a page is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

from concept_monitor_cli.monitor.findings.tables import fdr_of
from concept_monitor_cli.monitor.history import layers_and_detectors
from concept_monitor_cli.run import RunFolder


@dataclass
class Tables:
    """The tables of a run that a page is made of; `None` where there is none.

    Attributes:
        concepts: the concept table, restricted to what was asked for.
        embedding: `embedding.csv`.
        anchors: `anchors.csv`.
        embedding_floors: `embedding-floors.csv`.
        statistics: `statistics.csv`.
        units: `units.csv`.
        changes: `changes.csv`.
        untrained: (layer, detector) -> the concept table with random weights, where there is one.
        fdr: the share of false calls that the run allows.
        remarks: what is missing or out of date, and the command that makes it.
    """

    concepts: pd.DataFrame
    embedding: pd.DataFrame | None = None
    anchors: pd.DataFrame | None = None
    embedding_floors: pd.DataFrame | None = None
    statistics: pd.DataFrame | None = None
    units: pd.DataFrame | None = None
    changes: pd.DataFrame | None = None
    untrained: Mapping[tuple[str, str], pd.DataFrame | None] = field(default_factory=dict)
    fdr: float | None = None
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
        found.get("embedding-floors"),
        found.get("statistics"),
        found.get("units"),
        found.get("changes"),
        {place: run.untrained(*place) for place in layers_and_detectors(concepts)},
        fdr_of(run.info()),
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
