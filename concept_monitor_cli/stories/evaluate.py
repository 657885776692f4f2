"""The story of `evaluate`: how good are the labels of a run?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.evaluation import Measure, Subject, Verdict, make_measures
from concept_monitor_cli.monitor.findings import caption
from concept_monitor_cli.options import EpochFilter, EvaluateOptions
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.report.evaluation import (
    described_classes,
    grid_of_settings,
    label_quality,
    weights_and_concepts,
)
from concept_monitor_cli.report.evaluation_units import (
    ReadImage,
    image_groups,
    sanity_of_measures,
    score_against_quality,
    wider_ranges,
)
from concept_monitor_cli.report.style import save
from concept_monitor_cli.run import TABLES, RunFolder
from concept_monitor_cli.stories.bench import Bench
from concept_monitor_cli.stories.embed import check_units
from concept_monitor_cli.stories.grid import grid_settings, grid_subjects
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.stories.ratings import export_ratings, import_ratings
from concept_monitor_cli.stories.stats import plain_rows

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

# Table -> the stem of its plot, and who draws it from the rows of one layer and detector.
_FIGURES: dict[str, tuple[str, Callable[[pd.DataFrame], Figure]]] = {
    "evaluation-labels": ("label_quality", label_quality),
    "evaluation-contributions": ("described_classes", described_classes),
    "evaluation-weights": ("weights_and_concepts", weights_and_concepts),
    "evaluation-cutoff": ("score_against_quality", score_against_quality),
    "evaluation-sanity": ("sanity_of_measures", sanity_of_measures),
}
# The same for plots that show images of the run.
_PICTURES: dict[str, tuple[str, Callable[[pd.DataFrame, ReadImage], Figure]]] = {
    "evaluation-range-images": ("wider_ranges", wider_ranges),
    "evaluation-group-images": ("image_groups", image_groups),
}


@dataclass
class EvaluateResult:
    """What an `evaluate` found.

    Attributes:
        out: the run folder.
        rows: the rows of `evaluation.csv` (with `--grid`, of `evaluation-grid.csv`), missing numbers as None.
        classes: the names of the classes, where they are known, and where they are from.
        notices: what the measures had to say.
        tables: the tables that were written.
        plots: the pictures.
        ratings: with `--import-ratings`, the rows of `ratings.csv`.
        form: with `--export-ratings`, the form.
        questions: how many it asks.
    """

    out: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    classes: dict[str, Any] | None = None
    notices: list[str] = field(default_factory=list)
    tables: list[Path] = field(default_factory=list)
    plots: list[Path] = field(default_factory=list)
    ratings: list[dict[str, Any]] = field(default_factory=list)
    form: Path | None = None
    questions: int = 0


def evaluate(options: EvaluateOptions, progress: Progress = SILENT) -> EvaluateResult:
    """Judge the labels of a run, at its last epoch or those asked for.

    Args:
        options: which run, layers, epochs, measures.
        progress: told what happens.

    Returns:
        What was found; tables and plots are in the run folder.

    Raises:
        InputError: there is no run, or no such layer, detector, unit or epoch in it; a measure asked for by
            name has nothing to say of any layer.
        CmonError: a sentence model was asked for and cannot be had.
    """
    if options.epochs is None:
        options = replace(options, epochs=EpochFilter.parse("last"))
    if options.export_ratings is not None or options.import_ratings:
        return _by_people(options, progress)
    measures = make_measures(options.measures, options)
    bench = Bench(options, progress)
    check_units(options.units, bench.opened.table)
    result = EvaluateResult(options.out, classes=bench.describe_classes())
    trials = Trials(measures, asked=bool(options.measures))
    with progress.task("judging labels", None, "sets of labels") as advance:
        if options.grid:
            _walk_grid(bench, measures, trials, advance)
        else:
            for subject in bench.subjects(measures):
                for measure in measures:
                    if bench.wants(measure, subject):
                        trials.judge(measure, subject)
                advance(1)
    result.notices = [*trials.finish(progress), *bench.notices]
    tables = trials.tables()
    if not tables:
        raise trials.nothing(options.out)
    if options.grid:
        # What is behind the numbers would fill a table for every cell.
        tables = {"evaluation-grid": tables["evaluation"]} if "evaluation" in tables else {}
    run = bench.opened.run
    if not options.grid:
        _remove_older(run)
    for name, rows in tables.items():
        result.tables.append(run.write_csv(name, rows))
        if name in _FIGURES:
            stem, draw = _FIGURES[name]
            result.plots += _draw(run, stem, draw, TABLES[name].frame(rows), options)
        elif name in _PICTURES:
            stem, show = _PICTURES[name]
            result.plots += _draw(
                run, stem, _with_images(show, bench.opened.image), TABLES[name].frame(rows), options
            )
    summary = "evaluation-grid" if options.grid else "evaluation"
    if summary in tables:
        rows = TABLES[summary].frame(tables[summary])
        result.rows = plain_rows(rows)
        if options.grid:
            result.plots += save(
                grid_of_settings(rows),
                run.plots / "evaluation_grid",
                options.plot_formats,
                caption=caption(run.info()),
            )
    else:
        result.notices.append("no measure gave a number: too few units or images could be judged")
        progress.notice(result.notices[-1])
    return result


def _by_people(options: EvaluateOptions, progress: Progress) -> EvaluateResult:
    """Write a form for raters, or read what they said."""
    if options.export_ratings is not None and options.import_ratings:
        raise InputError(
            "a form is written before answers to it can be read",
            where="--export-ratings, --import-ratings",
            hint="give one of them",
        )
    opened, result = OpenRun(options.out, options, progress), EvaluateResult(options.out)
    if options.export_ratings is not None:
        made = export_ratings(opened, options.export_ratings, seed=options.seed)
        result.form, result.questions, result.tables = made.path, made.questions, [made.key]
        return result
    files = [Path(name).expanduser() for name in options.import_ratings]
    summary, units = import_ratings(opened, files, seed=options.seed)
    result.ratings = plain_rows(summary)
    result.tables = [
        opened.run.write_csv("ratings", summary),
        opened.run.write_csv("ratings-units", units),
    ]
    return result


def _walk_grid(
    bench: Bench, measures: Sequence[Measure], trials: Trials, advance: Callable[[int], None]
) -> None:
    """Judge the labels of every setting of the grid."""
    for setting in grid_settings(bench):
        for subject in grid_subjects(bench, setting):
            for measure in measures:
                trials.judge(measure, subject, setting.columns)
            advance(1)


def _remove_older(run: RunFolder) -> None:
    """The tables of measures that were taken before: `evaluation.csv` tells of them no more."""
    for name in TABLES:
        if name.startswith("evaluation") and name != "evaluation-grid":
            (run.tables / f"{name}.csv").unlink(missing_ok=True)


def _with_images(
    show: Callable[[pd.DataFrame, ReadImage], Figure], image: ReadImage
) -> Callable[[pd.DataFrame], Figure]:
    return lambda rows: show(rows, image)


def _draw(
    run: RunFolder,
    stem: str,
    draw: Callable[[pd.DataFrame], Figure],
    rows: pd.DataFrame,
    options: EvaluateOptions,
) -> list[Path]:
    """A figure per layer and detector."""
    plots = []
    for (layer, detector), own in rows.groupby(["layer", "detector"], sort=True):
        path = run.plots / f"{stem}.{layer}.{detector}"
        plots += save(
            draw(own.reset_index(drop=True)), path, options.plot_formats, caption=caption(run.info())
        )
    return plots


class Trials:
    """What the measures say of one subject after the other.

    Args:
        measures: all that are taken.
        asked: whether the user named them; then one that fits no subject is an error.
    """

    def __init__(self, measures: Sequence[Measure], *, asked: bool) -> None:
        self._asked = asked
        self._unfit: dict[str, list[InputError]] = {measure.name: [] for measure in measures}
        # What a measure that fits could not do: said also where it judges other layers.
        self._unable: dict[str, dict[str, None]] = {}
        self._judged: set[str] = set()
        self._notices: dict[str, None] = {}
        self._rows: dict[str, list[pd.DataFrame]] = {}

    def judge(self, measure: Measure, subject: Subject, more: dict[str, Any] | None = None) -> None:
        """Let a measure judge a subject, if it can.

        Args:
            measure: the measure.
            subject: whose labels.
            more: further columns of `evaluation`.
        """
        import pandas as pd

        error = measure.unfit(subject)
        if error is not None:
            self._unfit[measure.name].append(error)
            return
        try:
            verdict = measure.judge(subject)
        except InputError as unable:
            self._unfit[measure.name].append(unable)
            said = f"no {measure.name} of {subject.layer}: {unable.what}"
            self._unable.setdefault(measure.name, {})[said] = None
            return
        self._judged.add(measure.name)
        self._notices.update(dict.fromkeys(verdict.notices))
        place = {
            "epoch": subject.epoch,
            "checkpoint": subject.checkpoint,
            "layer": subject.layer,
            "detector": subject.detector,
            "similarity": subject.similarity,
            **(more or {}),
        }
        for name, columns in {"evaluation": _values(measure, verdict), **verdict.tables}.items():
            frame = pd.DataFrame(columns)
            if len(frame):
                self._rows.setdefault(name, []).append(frame.assign(**place))

    def tables(self) -> dict[str, pd.DataFrame]:
        """The rows of every table."""
        import pandas as pd

        return {name: pd.concat(parts, ignore_index=True) for name, parts in self._rows.items()}

    def finish(self, progress: Progress) -> list[str]:
        """Say what was noticed, and which measures had nothing to say.

        Raises:
            InputError: the user named a measure that fits nothing.
        """
        for name, errors in self._unfit.items():
            judged = name in self._judged
            if errors and self._asked and not judged:
                raise errors[0]
            if name in self._unable:
                self._notices.update(self._unable[name])
            elif errors and not judged:
                self._notices[f"no {name}: {errors[0].what}"] = None
        for notice in self._notices:
            progress.notice(notice)
        return list(self._notices)

    def nothing(self, root: Path) -> InputError:
        """No measure had anything to say."""
        errors = [error for unfit in self._unfit.values() for error in unfit]
        return errors[0] if errors else InputError("there are no labels to judge", where=root)


def _values(measure: Measure, verdict: Verdict) -> dict[str, Any]:
    return {
        "measure": [measure.name] * len(verdict.values),
        "metric": [value.metric for value in verdict.values],
        "value": [value.value for value in verdict.values],
        "chance": [value.chance for value in verdict.values],
        "count": [value.count for value in verdict.values],
    }
