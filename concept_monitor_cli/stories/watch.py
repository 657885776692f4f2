"""The story of a `watch`: checkpoints dissected as they land, and warnings where something goes wrong."""

from __future__ import annotations

import json
import math
import os
import shlex
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from concept_monitor_cli.checkpoints import NoWeightsError, find_checkpoints, load_checkpoint
from concept_monitor_cli.errors import CmonError, InputError
from concept_monitor_cli.monitor.alerts import Alert, Rules, alerts, relative_detectors
from concept_monitor_cli.monitor.findings import Finding
from concept_monitor_cli.options import (
    DynamicsOptions,
    FactorsOptions,
    ReadingOptions,
    ReportOptions,
    Shard,
    WatchOptions,
)
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.run import TABLES, RunFolder
from concept_monitor_cli.store import write_text_atomic
from concept_monitor_cli.stories.dissect import dissect_study
from concept_monitor_cli.stories.dynamics import dynamics
from concept_monitor_cli.stories.factors import factors
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.stories.pieces import open_study
from concept_monitor_cli.stories.report import report
from concept_monitor_cli.stories.stats import statistics_of
from concept_monitor_cli.study import StudyFile, UnusableCheckpointError

if TYPE_CHECKING:
    import pandas as pd

# A command of the user's that hangs must not stop the watching.
_COMMAND_SECONDS = 60.0

# A page is made no more often than this, and so that making it takes no more than this share of the time.
_REPORT_SECONDS = 60.0
_REPORT_SHARE = 0.1

State = tuple[int, int]
"""Size in bytes and time of the last write, in nanoseconds."""


@dataclass
class WatchResult:
    """What a `watch` did until it ended.

    Attributes:
        out: the run folder.
        done: names of the checkpoints that were dissected.
        failed: name -> why, of those that cannot be.
        alerts: the warnings.
        report: the page; `None` where there was nothing to show, or it could never be made.
        ended: why it stopped looking.
        findings: what the run says in the end, in sentences.
    """

    out: Path
    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    alerts: list[Alert] = field(default_factory=list)
    report: Path | None = None
    ended: str = ""
    findings: list[Finding] = field(default_factory=list)


class CurrentReport:
    """Keeps `report.html` current, without spending the time of the watching on it.

    Args:
        options: of the watching.
        progress: told of what goes wrong: a page that cannot be made must not end the watching.
        keep: commands whose tables are made again before the page: `dynamics`, `factors`.
    """

    def __init__(self, options: ReadingOptions, progress: Progress, keep: Iterable[str] = ()) -> None:
        self.path: Path | None = None
        self._options = ReportOptions(**{item.name: getattr(options, item.name) for item in fields(options)})
        self._reading, self._keep = options, tuple(keep)
        self._progress = progress
        self._stale = self._failed = False
        self._next = -math.inf

    def news(self) -> None:
        """The tables have changed."""
        self._stale = True

    def look(self) -> None:
        """Make the page, if it does not show everything and the last one is not too young."""
        if self._stale and time.monotonic() >= self._next:
            self._make()

    def finish(self) -> None:
        """Make the page, if it does not show everything."""
        if self._stale or self._failed:
            self._make()

    def _make(self) -> None:
        if not (RunFolder(self._options.out).tables / "concepts.parquet").is_file():
            return
        began = time.monotonic()
        for name in self._keep:
            self._make_again(name)
        try:
            self.path = report(self._options, self._progress).page
            self._failed = False
        except Exception as error:
            what = error.what if isinstance(error, CmonError) else f"{type(error).__name__}: {error}"
            self._progress.warning(f"report.html is not up to date: {what}")
            self._failed = True
        self._stale = False  # also after a failure: the next news, or the end, is time enough
        ended = time.monotonic()
        self._next = ended + max(_REPORT_SECONDS, (ended - began) / _REPORT_SHARE)

    def _make_again(self, name: str) -> None:
        """The tables of another command; what it cannot do is said, and the watching goes on."""
        try:
            if name == "dynamics":
                given = {item.name: getattr(self._reading, item.name) for item in fields(ReadingOptions)}
                dynamics(DynamicsOptions(**{**given, "plot_formats": ()}), self._progress)
            else:
                factors(anchored(self._reading), self._progress)
        except CmonError as error:
            self._progress.warning(f"{name} is not up to date: {error.what}")


def anchored(options: ReadingOptions) -> FactorsOptions:
    """Factors that stay when a checkpoint lands: those of the epoch that they were first made at.

    Args:
        options: which run.
    """
    run = RunFolder(options.out)
    path = run.tables / "factor-images.csv"
    epochs = {record.epoch for record in run.checkpoints() if record.status == "done"}
    reference = None
    if path.is_file():
        before = {int(epoch) for epoch in TABLES["factor-images"].read_csv(path)["epoch"]}
        reference = max(before & epochs, default=None)
    given = {item.name: getattr(options, item.name) for item in fields(ReadingOptions)}
    # Stability takes several more fits each time, of factors that stay.
    return FactorsOptions(**{**given, "plot_formats": ()}, mode="anchored", reference=reference, starts=0)


class Landing:
    """Tells checkpoints that are written to the end from those that are still being written.

    A file is complete when two looks in a row found it the same, and it can be opened.

    Args:
        loading: as for `load_checkpoint`.
    """

    def __init__(self, **loading: Any) -> None:
        self._loading = loading
        self._seen: dict[Path, State] = {}
        self._readable: dict[Path, State] = {}
        self._unreadable: dict[Path, tuple[State, str]] = {}

    def look(self, specs: tuple[str, ...]) -> dict[Path, State]:
        """The complete checkpoints, with their states."""
        try:
            files = find_checkpoints(*specs)
        except InputError:  # nothing there yet
            return {}
        before, self._seen = self._seen, {}
        complete: dict[Path, State] = {}
        for file in files:
            state = _state(file.path)
            if state is None:
                continue
            self._seen[file.path] = state
            if before.get(file.path) == state and self._can_be_read(file.path, state):
                complete[file.path] = state
        return complete

    @property
    def unreadable(self) -> dict[Path, str]:
        """Files that do not change any more and cannot be opened, and why."""
        return {
            path: reason
            for path, (state, reason) in self._unreadable.items()
            if self._seen.get(path) == state
        }

    def _can_be_read(self, path: Path, state: State) -> bool:
        if self._readable.get(path) == state:
            return True
        if path in self._unreadable and self._unreadable[path][0] == state:
            return False
        try:
            load_checkpoint(path, lazy=True, **self._loading)
        except NoWeightsError:  # whole, and no checkpoint: the study leaves it out and says so
            pass
        except InputError as error:
            self._unreadable[path] = (state, error.what)
            return False
        self._readable[path] = state
        return True


def _state(path: Path) -> State | None:
    """Size and time of a file, or of all files of a folder (torch.distributed.checkpoint)."""
    try:
        parts = [path.stat()]
        if path.is_dir():
            parts += [part.stat() for part in sorted(path.rglob("*"))]
    except OSError:  # removed while we looked
        return None
    return sum(part.st_size for part in parts), max(part.st_mtime_ns for part in parts)


def watch(options: WatchOptions, progress: Progress = SILENT) -> WatchResult:
    """Dissect checkpoints as they land, until an epoch is reached or nothing comes any more.

    Every look that finds something new dissects that, and brings tables and `alerts.jsonl` up to date; the
    tables are those that a `dissect` of the same checkpoints makes. `report.html` follows within minutes, and
    shows everything at the end.

    Args:
        options: what to dissect, how often to look, when to stop, what to warn of.
        progress: told what happens.

    Raises:
        InputError: nothing can be done with this input, whatever lands.
        CmonError: the work failed. Another `watch`, or a `dissect`, continues there.
    """
    # One watcher sees everything, also inside a SLURM job; and it must not clear the run at every look.
    study = open_study(replace(options, shard=Shard(1, 1)), progress)
    begin = RunFolder.clear if options.overwrite else None
    command = _split(options.on_alert)
    landing = Landing(**options.loading)
    result = WatchResult(options.out)
    reading = ReadingOptions.of(options)
    page = CurrentReport(reading, progress, options.keep)
    done: dict[tuple[Path, str, int], State] = {}
    early: set[str] = set()
    latest, last_news = -1, time.monotonic()
    progress.notice(
        f"watching {', '.join(options.checkpoints)}, every {options.interval:g} s; Ctrl-C ends it"
    )
    while True:
        complete = landing.look(options.checkpoints)
        if set(complete.items()) - {(path, state) for (path, _, _), state in done.items()}:

            def known(file: StudyFile, states: dict[Path, State] = complete) -> bool:
                key = (file.path, file.name, file.epoch)
                if done.get(key) == states[file.path]:
                    return True
                done[key] = states[file.path]
                return False

            statistics: pd.DataFrame | None = None
            try:
                study = study.later(complete.__contains__)
                made = dissect_study(study, skip=known, begin=begin)
            except UnusableCheckpointError as error:
                # It may turn out to be something beside the checkpoints, once there are some.
                early.add(name := Path(str(error.where)).name)
                result.failed[name] = error.what
            else:
                for name in early - {file.path.name for file in study.files}:
                    result.failed.pop(name, None)
                early.clear()
                statistics = made.statistics
                result.done += [name for name in made.done if name not in result.done]
                result.failed.update(made.failed)
                for name in made.done:
                    result.failed.pop(name, None)
                if made.done:
                    begin = None
                    result.findings = made.findings
            # Files that have no place in the order of epochs are not looked at again, either.
            seen = {path for path, _, _ in done}
            done.update({(path, "", -1): state for path, state in complete.items() if path not in seen})
            for (path, name, epoch), _ in list(done.items()):
                if path in complete:
                    done[path, name, epoch] = complete[path]
            if begin is None:  # else the run is still the one that is to make room
                result.alerts += _warn(options, reading, command, statistics, progress)
                page.news()
                done_epochs = [
                    record.epoch for record in RunFolder(options.out).checkpoints() if record.status == "done"
                ]
                latest = max([latest, *done_epochs])
            last_news = time.monotonic()
        page.look()
        if options.until_epoch is not None and latest >= options.until_epoch:
            result.ended = f"epoch {latest} is done"
            break
        if options.idle is not None and time.monotonic() - last_news >= options.idle:
            result.ended = f"nothing new for {options.idle:g} s"
            break
        time.sleep(options.interval)
    page.finish()
    result.report = page.path
    for path, reason in landing.unreadable.items():
        progress.warning(f"{path.name} is left out: {reason}")
        result.failed[path.name] = reason
    progress.notice(f"{result.ended}: the watching ends")
    return result


def _warn(
    options: WatchOptions,
    reading: ReadingOptions,
    command: list[str] | None,
    statistics: pd.DataFrame | None,
    progress: Progress,
) -> list[Alert]:
    """Say, keep and pass on the warnings that are new; what was not counted at the end of a look is now."""
    run = RunFolder(options.out)
    if not (run.tables / "concepts.parquet").is_file():
        return []
    if statistics is None:
        statistics = statistics_of(OpenRun(options.out, reading, progress))
        run.write_csv("statistics", statistics)
    rules = Rules(options.effective_drop, options.redundant_rise, options.dead_rise, options.patience)
    path = options.out / "alerts.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    try:
        told = {
            (alert["rule"], alert["epoch"], alert["layer"], alert["detector"])
            for alert in map(json.loads, lines)
        }
    except (ValueError, KeyError, TypeError) as error:
        raise InputError("the warnings so far cannot be read", where=path, hint="move it away") from error
    relative = relative_detectors(run.info())
    new = [alert for alert in alerts(statistics, rules, relative=relative) if alert.key not in told]
    if new:
        lines += [json.dumps(alert.as_dict(), ensure_ascii=False) for alert in new]
        write_text_atomic(path, "".join(f"{line}\n" for line in lines))
    for alert in new:
        progress.warning(f"epoch {alert.epoch}, {alert.layer}: {alert.message}")
        if command is not None:
            _call(command, alert, progress)
    return new


def _split(command: str | None) -> list[str] | None:
    if command is None:
        return None
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise InputError(f"the command cannot be read: {error}", where="--on-alert") from error
    if not words:
        raise InputError("the command is empty", where="--on-alert")
    return words


def _call(command: list[str], alert: Alert, progress: Progress) -> None:
    """Run the user's command: the warning comes on standard input, never as a part of the command line."""
    text = json.dumps(alert.as_dict(), ensure_ascii=False)
    try:
        ended = subprocess.run(
            command,
            input=text + "\n",
            text=True,
            encoding="utf-8",
            capture_output=True,
            timeout=_COMMAND_SECONDS,
            check=False,
            env={**os.environ, "CMON_ALERT": text},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        progress.warning(f"--on-alert: {error}")
        return
    if ended.returncode:
        said = ended.stderr.strip().splitlines()[-1:]
        progress.warning(f"--on-alert ended with {ended.returncode}{': ' + said[0] if said else ''}")
