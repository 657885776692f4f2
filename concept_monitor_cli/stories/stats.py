"""The story of `stats`: how much is interpretable, and what kind of concepts there are, over the epochs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from concept_monitor_cli.monitor.findings import Finding
from concept_monitor_cli.monitor.floors import random_columns, together
from concept_monitor_cli.monitor.history import History
from concept_monitor_cli.monitor.statistics import ALL, category_statistics, spreads
from concept_monitor_cli.options import StatsOptions
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.report.floor_figures import beside_floors, has_floors
from concept_monitor_cli.report.statistics_figures import (
    categories_by_layer,
    categories_over_epochs,
    categories_side_by_side,
)
from concept_monitor_cli.report.style import save
from concept_monitor_cli.run import TABLES
from concept_monitor_cli.stories.findings import beside_records, findings_of, write_findings
from concept_monitor_cli.stories.opened import MOMENT, OpenRun
from concept_monitor_cli.stories.part import figure_path, is_among, places, with_rest

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class StatsResult:
    """What a `stats` found.

    Attributes:
        out: the run folder.
        rows: the rows of `statistics.csv` as plain values, missing numbers as None.
        plots: the pictures.
        findings: what the run says, in sentences.
    """

    out: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    plots: list[Path] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def stats(options: StatsOptions, progress: Progress = SILENT) -> StatsResult:
    """Count what the units of a run detect.

    Of a part of the run the rows of `tables/statistics.csv` are written anew, the others stay;
    `tables/findings.csv` is of the whole run.

    Args:
        options: which run, layers, epochs; another run to draw beside it.
        progress: told what happens.

    Returns:
        What was found; the tables and the plots are in the run folder.

    Raises:
        InputError: there is no run, or no such layer, detector or epoch in it.
    """
    opened = OpenRun(options.out, options, progress)
    # The categories of a layer are those that it has at any epoch.
    counted = OpenRun(options.out, replace(options, epochs=None), progress) if opened.lacks_epochs else opened
    frame = statistics_of(counted)
    opened.run.write_csv("statistics", with_rest(opened, "statistics", frame))
    found = findings_of(opened) if opened.is_part else write_findings(opened, frame)
    frame = frame[is_among(frame, MOMENT, places(opened.moments, MOMENT))]
    other = None
    if options.against is not None:
        second = OpenRun(options.against, options, progress)
        warn_of_differences(opened, second, progress)
        other = statistics_of(second)
    result = StatsResult(options.out, rows=plain_rows(TABLES["statistics"].frame(frame)), findings=found)
    for detector, rows in frame.groupby("detector", sort=True):
        figures = {
            "categories": categories_by_layer(rows, fdr=opened.fdr),
            "categories_over_epochs": categories_over_epochs(rows, fdr=opened.fdr),
        }
        if has_floors(rows):
            figures["beside_floors"] = beside_floors(rows)
        if other is not None and options.against is not None:
            beside = other[other["detector"] == detector]
            if len(beside):
                figures["against"] = categories_side_by_side(
                    {opened.name: rows, second.name: beside},
                    fdr={opened.name: opened.fdr, second.name: second.fdr},
                )
        for name, figure in figures.items():
            path = figure_path(opened, name, str(detector))
            result.plots += save(figure, path, options.plot_formats, caption=opened.caption)
    return result


def statistics_of(opened: OpenRun) -> pd.DataFrame:
    """The statistics of all layers and detectors of a run, as `statistics.csv` has them."""
    import pandas as pd

    embedding = None
    path = opened.run.tables / "embedding.csv"
    if path.is_file():
        where = ["epoch", "checkpoint", "layer", "detector", "unit"]
        embedding = TABLES["embedding"].read_csv(path, columns=[*where, "anchor_distance"])
    parts = [
        category_statistics(
            opened.first_rows(history), opened.placed(history), embedding, beside(opened, history)
        )
        for history in opened.histories
    ]
    return pd.concat(parts, ignore_index=True)


def beside(opened: OpenRun, history: History) -> pd.DataFrame:
    """What stands beside the counts of a layer: redundancy, floors, labels on held-out images."""
    first = opened.first_rows(history)
    parts = beside_records(opened, history)
    if opened.untrained(history) is not None:
        parts.append(random_columns(first, spreads(opened.untrained_placed(history))))
    return together(parts)


def warn_of_differences(first: OpenRun, second: OpenRun, progress: Progress) -> None:
    """Say what makes the labels of two runs hard to compare."""
    names = {"probe": "probing images", "concepts": "concepts", "encoder": "encoder"}
    different = [names[what] for what, same in first.has_settings_of(second).items() if not same]
    if different:
        progress.warning(
            f"{first.run.root} and {second.run.root} were made with different {' and '.join(different)}: "
            "differences between them may come from that"
        )


def plain_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as JSON values, missing ones as None."""
    clean = frame.astype(object).where(frame.notna(), None)
    return [{str(name): value for name, value in row.items()} for row in clean.to_dict("records")]


def totals(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of whole layers."""
    return [row for row in rows if row["category"] == ALL]
