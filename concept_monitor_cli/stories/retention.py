"""The story of `retention`: which concepts survive pruning?"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.monitor.history import History, histories
from concept_monitor_cli.monitor.retention import retention_curve, stage_counts
from concept_monitor_cli.options import RetentionOptions
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.report.statistics_figures import (
    interpretable_against_sparsity,
    retention_against_percent,
)
from concept_monitor_cli.report.style import save
from concept_monitor_cli.run import TABLES, CheckpointRecord, RunFolder
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.stories.stats import plain_rows

if TYPE_CHECKING:
    import pandas as pd


#: A smaller share of zero weights is no pruning.
UNPRUNED = 0.01


@dataclass
class RetentionResult:
    """What a `retention` found.

    Attributes:
        out: where the tables and plots are.
        stages: the rows of `pruning.csv` as plain values.
        curves: the rows of `retention.csv` as plain values.
        plots: the pictures.
    """

    out: Path
    stages: list[dict[str, Any]] = field(default_factory=list)
    curves: list[dict[str, Any]] = field(default_factory=list)
    plots: list[Path] = field(default_factory=list)


@dataclass(frozen=True)
class _Series:
    """One pruning: its stages, in order, and what is known of each checkpoint."""

    name: str
    table: pd.DataFrame
    checkpoints: dict[str, CheckpointRecord]


def retention(options: RetentionOptions, progress: Progress = SILENT) -> RetentionResult:
    """Follow the concepts of a network through the stages of its pruning.

    Args:
        options: which runs and layers. Tables and plots go into the first run, unless `out` was given.
        progress: told what happens.

    Returns:
        What was found; `tables/pruning.csv`, `tables/retention.csv` and the plots are in `out`.

    Raises:
        InputError: there is no run, or fewer than two stages.
    """
    import pandas as pd

    roots = options.runs or (options.out,)
    asked = options.sources.get("out", "default") != "default"
    out = options.out if asked or not options.runs else roots[0]
    opened = [OpenRun(root, options, progress) for root in roots]
    series = _one_per_run(opened) if options.by_run else [_of_checkpoints(run) for run in opened]
    stages, curves = [], []
    for one in _distinct_names(series):
        records = [one.checkpoints[name] for name in dict.fromkeys(one.table["checkpoint"])]
        if any(record.sparsity is None for record in records):
            progress.warning(
                f"{one.name}: the sparsity of some checkpoints is unknown (an older version wrote the run): "
                "dissect again, which takes seconds"
            )
        for history in histories(one.table):
            _require_equal_width(one.table, history)
            own = [one.checkpoints[name] for name in history.checkpoints]
            sparsity, accuracy = [r.sparsity for r in own], [r.accuracy for r in own]
            stages.append(stage_counts(history, sparsity, accuracy).assign(series=one.name))
            curves.append(retention_curve(history).assign(series=one.name))
    known = [r.sparsity for one in series for r in one.checkpoints.values() if r.sparsity is not None]
    unpruned = bool(known) and max(known) < UNPRUNED
    if unpruned:
        progress.notice(
            f"no checkpoint is pruned (at most {max(known):.1%} of the weights are zero), so there "
            f"are no figures: "
            "the tables hold a training's epochs, not stages of pruning"
        )
    elif not any(record.accuracy is not None for one in series for record in one.checkpoints.values()):
        progress.notice("the checkpoints do not state their accuracy: the figure has no panel for it")
    result = RetentionResult(out)
    folder = RunFolder(out)
    pruning, curve = pd.concat(stages, ignore_index=True), pd.concat(curves, ignore_index=True)
    folder.write_csv("pruning", pruning)
    folder.write_csv("retention", curve)
    result.stages = plain_rows(TABLES["pruning"].frame(pruning))
    result.curves = plain_rows(TABLES["retention"].frame(curve))
    for detector in [] if unpruned else sorted(pruning["detector"].unique()):
        figures = {
            "sparsity": interpretable_against_sparsity(pruning[pruning["detector"] == detector]),
            "retention": retention_against_percent(curve[curve["detector"] == detector]),
        }
        for name, figure in figures.items():
            result.plots += save(
                figure, folder.plots / f"{name}.{detector}", options.plot_formats, caption=opened[0].caption
            )
    return result


def _of_checkpoints(opened: OpenRun) -> _Series:
    """A run whose checkpoints are the stages."""
    return _Series(opened.name, opened.table, {record.name: record for record in opened.run.checkpoints()})


def _one_per_run(opened: list[OpenRun]) -> list[_Series]:
    """Several runs as the stages of one pruning, each at its last epoch."""
    import pandas as pd

    parts: list[pd.DataFrame] = []
    checkpoints: dict[str, CheckpointRecord] = {}
    for stage, run in enumerate(opened):
        table = run.table
        table = table[table["epoch"] == table["epoch"].max()]
        # Checkpoints of two runs may share a name.
        names = {name: f"{run.name}/{name}" for name in table["checkpoint"].unique()}
        for record in run.run.checkpoints():
            if record.name in names:
                checkpoints[names[record.name]] = record
        parts.append(table.assign(epoch=stage, checkpoint=table["checkpoint"].map(names)))
    return [_Series(opened[0].name, pd.concat(parts, ignore_index=True), checkpoints)]


def _distinct_names(series: list[_Series]) -> list[_Series]:
    """Two runs may be called the same: the later ones get a number."""
    seen: dict[str, int] = {}
    named = []
    for one in series:
        seen[one.name] = seen.get(one.name, 0) + 1
        count = seen[one.name]
        named.append(one if count == 1 else replace(one, name=f"{one.name} ({count})"))
    return named


def _require_equal_width(table: pd.DataFrame, history: History) -> None:
    rows = history.rows(table)
    counts = rows.groupby("epoch")["unit"].nunique()
    if counts.nunique() > 1:
        raise InputError(
            f"{history.layer} has {counts.min()} units at one stage and {counts.max()} at another",
            hint="units are followed by their number, which pruning of whole channels does not keep",
        )
