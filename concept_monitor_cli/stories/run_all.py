"""The story of a `run`: everything that fits, from checkpoints to the page, in one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.monitor.findings import Finding
from concept_monitor_cli.options import (
    DissectOptions,
    DynamicsOptions,
    EmbedOptions,
    EvaluateOptions,
    MeasureName,
    Options,
    ReadingOptions,
    ReportOptions,
    RunOptions,
    StatsOptions,
    UnitsOptions,
)
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.run import TABLES, RunFolder
from concept_monitor_cli.stories.dissect import dissect
from concept_monitor_cli.stories.dynamics import dynamics
from concept_monitor_cli.stories.embed import embed
from concept_monitor_cli.stories.evaluate import evaluate
from concept_monitor_cli.stories.report import report
from concept_monitor_cli.stories.stats import stats
from concept_monitor_cli.stories.units import units

if TYPE_CHECKING:
    import pandas as pd

#: Measures that take seconds and need nothing that a run has not.
MEASURES: tuple[MeasureName, ...] = ("clarity", "simulation")
#: So many units are followed on the map.
FOLLOWED = 3

T = TypeVar("T", bound=Options)


@dataclass
class RunResult:
    """What a `run` did.

    Attributes:
        out: the run folder.
        layers: the layers in its tables.
        done: names of the checkpoints that are complete.
        failed: name -> why, of those that are not.
        forward_passes: how often a network was run over all images.
        whole: whether all shares of the checkpoints are done; else only they were dissected.
        left_out: step -> why, of those that this run has nothing for.
        plots: the pictures.
        page: `report.html`; `None` where it was not made.
        findings: what the run says, in sentences.
    """

    out: Path
    layers: tuple[str, ...] = ()
    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    forward_passes: int = 0
    whole: bool = True
    left_out: dict[str, str] = field(default_factory=dict)
    plots: list[Path] = field(default_factory=list)
    page: Path | None = None
    findings: list[Finding] = field(default_factory=list)


def run_all(options: RunOptions, progress: Progress = SILENT) -> RunResult:
    """Dissect, place units among words, count, follow, compare layers, judge labels, make the page.

    What is done already is found in the cache and in the run, so the same call continues where one ended. A
    step for which a run has nothing (no encoder, a single epoch) is left out, and said.

    Args:
        options: those of `dissect`, and what the map shows.
        progress: told what happens.

    Raises:
        InputError, CmonError: see `dissect`.
    """
    made = dissect(_for(DissectOptions, options, dry_run=False), progress)
    result = RunResult(
        options.out,
        made.layers,
        made.done,
        made.failed,
        made.forward_passes,
        made.whole,
        findings=made.findings,
    )
    if not made.done:
        return result
    if not made.whole:
        progress.notice("the other shares of the checkpoints are not done yet: the last one makes the page")
        return result
    common = (item.name for item in fields(ReadingOptions) if _is_common(item.name))
    reading = {name: getattr(options, name) for name in common}
    followed = options.units or most_changed(RunFolder(options.out))
    steps: dict[str, Callable[[], Any]] = {
        "embed": lambda: embed(EmbedOptions(**reading, anchors=options.anchors, units=followed), progress),
        "stats": lambda: stats(StatsOptions(**reading), progress),
        "units": lambda: units(UnitsOptions(**reading), progress),
        "dynamics": lambda: dynamics(DynamicsOptions(**reading), progress),
        "evaluate": lambda: evaluate(EvaluateOptions(**reading, measures=MEASURES), progress),
        "report": lambda: report(ReportOptions(**reading, units=followed), progress),
    }
    for name, step in steps.items():
        try:
            found = step()
        except InputError as error:
            progress.warning(f"{name} is left out: {error.what}")
            result.left_out[name] = error.what
            continue
        result.plots += getattr(found, "plots", [])
        result.findings = getattr(found, "findings", None) or result.findings
        result.page = getattr(found, "page", result.page)
    return result


def _is_common(name: str) -> bool:
    """Not which layers and epochs of the run: what was asked for is there, and more may be."""
    return name not in ("layers", "detector", "epochs", "sources", "dry_run", "run")


def _for(kind: type[T], options: Options, **more: Any) -> T:
    """The options of one command from those of another that has them all."""
    given = {item.name: getattr(options, item.name) for item in fields(kind)}
    return kind(**{**given, **more})


def most_changed(run: RunFolder, count: int = FOLLOWED) -> tuple[int, ...]:
    """Units that are worth following: interpretable at the end, with most changes that are more than luck.

    Args:
        run: the run.
        count: how many.
    """
    path = run.tables / "units.csv"
    if not path.is_file():
        return ()
    lives: pd.DataFrame = TABLES["units"].read_csv(path)
    last = lives[lives["layer"] == lives["layer"].iloc[-1]]
    last = last[last["born"].notna() & last["died"].isna()]
    sure = last["confident_changes"].fillna(0).to_numpy(dtype=np.int64)
    drift = last["drift"].fillna(0).to_numpy(dtype=float)
    order = np.lexsort((last["unit"].to_numpy(dtype=np.int64), -drift, -sure))
    return tuple(int(unit) for unit in last["unit"].to_numpy()[order[:count]])
