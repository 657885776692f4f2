"""The story of `compare`: two runs side by side; how diverse several are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from concept_monitor_cli.errors import CmonError, InputError
from concept_monitor_cli.monitor.comparison import (
    Final,
    chance_correlation,
    check_classes,
    class_counts,
    class_key,
    concept_counts,
    correlations,
    match_units,
    matches,
)
from concept_monitor_cli.monitor.findings import Finding, choose, statements_of_two
from concept_monitor_cli.monitor.findings.two_runs import different_settings
from concept_monitor_cli.monitor.floors import together
from concept_monitor_cli.monitor.history import History
from concept_monitor_cli.monitor.statistics import ALL, category_statistics
from concept_monitor_cli.options import CompareOptions
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.record.exemplars import holds_pooled
from concept_monitor_cli.report.diversity_figures import diversity_points
from concept_monitor_cli.report.statistics_figures import categories_side_by_side
from concept_monitor_cli.report.style import save
from concept_monitor_cli.report.unit_figures import Look, class_examples, class_table
from concept_monitor_cli.report.universality_figures import universality_figure
from concept_monitor_cli.run import RunFolder
from concept_monitor_cli.store import Writer
from concept_monitor_cli.stories.diversity import diversity
from concept_monitor_cli.stories.findings import beside_records, keep
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.stories.stats import plain_rows, warn_of_differences
from concept_monitor_cli.stories.units import looks_of
from concept_monitor_cli.stories.universality import universal_units

if TYPE_CHECKING:
    import pandas as pd

# Concepts of the one that the other lacks: at most this many are named.
_MOST_NAMED = 12
_EXAMPLE_IMAGES = 4


@dataclass
class CompareResult:
    """What a `compare` found.

    Attributes:
        out: where the tables and plots are.
        names: of the two runs in the pictures.
        layers: per layer and detector, at the last epoch of each run: interpretable units, concepts that only
            one of them has, matched units and how many of those have the same concept.
        categories: per layer, detector and category: interpretable units of both.
        classes: per epoch, layer and class: units of both.
        universality: per layer, epoch and category: units that the other run has, too.
        diversity: per run, layer and detector: interpretable units and the generalisation gap.
        diversity_tests: per layer and detector: whether these go together.
        plots: the pictures.
        different: whether anything differs.
        findings: what sets the runs apart, in sentences.
    """

    out: Path
    names: tuple[str, str]
    layers: list[dict[str, Any]] = field(default_factory=list)
    categories: list[dict[str, Any]] = field(default_factory=list)
    classes: list[dict[str, Any]] = field(default_factory=list)
    universality: list[dict[str, Any]] = field(default_factory=list)
    diversity: list[dict[str, Any]] = field(default_factory=list)
    diversity_tests: list[dict[str, Any]] = field(default_factory=list)
    plots: list[Path] = field(default_factory=list)
    different: bool = False
    findings: list[Finding] = field(default_factory=list)


@dataclass(frozen=True)
class _Pair:
    """A layer and detector that both runs have."""

    first: History
    second: History


def compare(options: CompareOptions, progress: Progress = SILENT) -> CompareResult:
    """Put two runs side by side, at the last epoch of each, and match their units.

    Units are matched by their activations on the probing images, which must be the same ones.

    Args:
        options: which runs, layers, epochs and classes.
        progress: told what happens.

    Returns:
        What was found; tables and plots are in `options.out`.

    Raises:
        InputError: one of the runs is not there, or they have no layer and detector in common.
    """
    import pandas as pd

    # Only a class that was asked for may be a unit's second concept.
    first, second = (
        OpenRun(root, options, progress, best=not options.classes) for root in (options.run_a, options.run_b)
    )
    warn_of_differences(first, second, progress)
    pairs = _pairs(first, second, options.match)
    folder = RunFolder(options.out)
    result = CompareResult(options.out, two_names(first, second))

    matchable = first.has_settings_of(second)["probe"]
    if not matchable:
        progress.warning("units are not matched: the runs were made with different probing images")
    counts, matched = [], []
    with progress.task("matching units", len(pairs), "layers") as advance:
        for pair in pairs:
            finals = Final.of(pair.first), Final.of(pair.second)
            layer, detector = pair.first.layer, pair.first.detector
            counts.append(concept_counts(layer, detector, *finals))
            table, chance = None, None
            if matchable:
                found = _match(first, second, pair, finals, progress)
                if found is not None:
                    table, chance = found
                    matched.append(table)
            result.layers.append(_layer_summary(pair, counts[-1], table, chance))
            advance(1)
    folder.write_csv("comparison", pd.concat(counts, ignore_index=True))
    if matched:
        folder.write_csv("matches", pd.concat(matched, ignore_index=True))
        both_have = universal_units(first, second, [(pair.first, pair.second) for pair in pairs], progress)
        folder.write_csv("universality", both_have)
        result.universality = plain_rows(both_have)
        if options.plot_formats:
            for used, own in both_have.groupby("detector"):
                figure = universality_figure(own, result.names)
                path = folder.plots / f"universality.{used}"
                result.plots += save(figure, path, options.plot_formats, caption=first.caption)

    statistics = [_common(_counted(run), pairs, side) for run, side in ((first, "first"), (second, "second"))]
    result.categories = _categories(statistics)
    for detector in sorted({pair.first.detector for pair in pairs}):
        both = {
            name: frame[frame["detector"] == detector]
            for name, frame in zip(result.names, statistics, strict=True)
        }
        figure = categories_side_by_side(
            both, fdr=dict(zip(result.names, (first.fdr, second.fdr), strict=True))
        )
        result.plots += save(
            figure, folder.plots / f"compare.{detector}", options.plot_formats, caption=first.caption
        )
    if options.more or options.accuracies is not None:
        _diversity((first, second), options, folder, result, progress)
    if options.classes:
        _compare_classes(first, second, pairs, options, folder, result, progress)
    result.different = _differ(result)
    result.findings = choose(
        statements_of_two(
            result.layers,
            result.categories,
            pd.concat(matched, ignore_index=True) if matched else None,
            _designs(statistics),
        ),
        different_settings(first.has_settings_of(second)),
    )
    keep(folder, result.findings)
    return result


def told_apart(first: OpenRun, second: OpenRun) -> list[Finding]:
    """What sets two runs apart by their counts alone, in sentences; units are not matched.

    Raises:
        InputError: they have no layer and detector in common.
    """
    pairs = _pairs(first, second)
    summaries = []
    for pair in pairs:
        finals = Final.of(pair.first), Final.of(pair.second)
        counts = concept_counts(pair.first.layer, pair.first.detector, *finals)
        summaries.append(_layer_summary(pair, counts, None, None))
    statistics = [_common(_counted(run), pairs, side) for run, side in ((first, "first"), (second, "second"))]
    return choose(
        statements_of_two(summaries, _categories(statistics), None, _designs(statistics)),
        different_settings(first.has_settings_of(second)),
    )


def _counted(opened: OpenRun) -> pd.DataFrame:
    """The counts of a run and how different its units are: what needs neither encoder nor recordings."""
    import pandas as pd

    return pd.concat(
        [
            category_statistics(opened.first_rows(history), known=together(beside_records(opened, history)))
            for history in opened.histories
        ],
        ignore_index=True,
    )


def _diversity(
    pair: tuple[OpenRun, OpenRun],
    options: CompareOptions,
    folder: RunFolder,
    result: CompareResult,
    progress: Progress,
) -> None:
    """Interpretable units of all runs beside their generalisation gaps."""
    runs = [*pair, *(OpenRun(root, options, progress) for root in options.more)]
    for other in runs[2:]:
        warn_of_differences(runs[0], other, progress)
    table, tests = diversity(runs, _all_names(runs), options.accuracies, progress)
    folder.write_csv("diversity", table)
    folder.write_csv("diversity-tests", tests)
    result.diversity, result.diversity_tests = plain_rows(table), plain_rows(tests)
    known = table[table["gap"].notna()]
    if not options.plot_formats or known["run"].nunique() < 2:
        return
    for detector, own in known.groupby("detector"):
        figure = diversity_points(own, tests[tests["detector"] == detector])
        path = folder.plots / f"diversity.{detector}"
        result.plots += save(figure, path, options.plot_formats, caption=runs[0].caption)


def _all_names(runs: Sequence[OpenRun]) -> list[str]:
    """The folders' names, or where two are the same, their paths."""
    names = [run.name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.run.root) for run in runs]


def _pairs(first: OpenRun, second: OpenRun, match: Sequence[str] = ()) -> list[_Pair]:
    others = {(history.layer, history.detector): history for history in second.histories}
    twins = dict(_twins(first, second, match)) if match else {name: name for name, _ in others}
    pairs = [
        _Pair(history, others[twins[history.layer], history.detector])
        for history in first.histories
        if (twins.get(history.layer, ""), history.detector) in others
    ]
    if not pairs:
        layers = ", ".join(dict.fromkeys(history.layer for history in second.histories))
        raise InputError(
            "the two runs have no layer and detector in common",
            where=second.run.root,
            hint=f"it has the layers {layers}; say which is which with --match layer4=NAME",
        )
    return pairs


def _twins(first: OpenRun, second: OpenRun, match: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Layers that the user says belong together.

    Raises:
        InputError: no such pair, or no such layer.
    """
    for text in match:
        one, equals, other = (part.strip() for part in text.partition("="))
        if not equals or not one or not other:
            raise InputError(f"{text!r} is no pair of layers", where="--match", hint="write layer4=blocks.11")
        for name, run in ((one, first), (other, second)):
            known = list(dict.fromkeys(history.layer for history in run.histories))
            if name not in known:
                raise InputError(
                    f"the run has no layer {name!r}", where=run.run.root, hint=f"it has {', '.join(known)}"
                )
        yield one, other


def two_names(first: OpenRun, second: OpenRun) -> tuple[str, str]:
    """The folders' names; with their parents' where they are the same."""
    if first.name != second.name:
        return first.name, second.name
    one, two = first.run.root.resolve(), second.run.root.resolve()
    if one.parent.name != two.parent.name:
        return f"{one.parent.name}/{one.name}", f"{two.parent.name}/{two.name}"
    return f"{first.name} (A)", f"{second.name} (B)"


def _match(
    first: OpenRun, second: OpenRun, pair: _Pair, finals: tuple[Final, Final], progress: Progress
) -> tuple[pd.DataFrame, float] | None:
    """The matched units of one layer, and the correlation of matched units by chance.

    None, said why, where activations are not at hand.
    """
    layer, detector = pair.first.layer, pair.first.detector
    records = first.record(pair.first, -1), second.record(pair.second, -1)
    if not all(holds_pooled(record.recording) for record in records):
        progress.notice(
            f"units of {layer} ({detector}) are not matched: it keeps no activations for every image"
        )
        return None
    # `different` recordings of equal content share a key, so a run beside itself costs nothing.
    key = first.store.key("matching", first=records[0].recording, second=records[1].recording)

    def make(writer: Writer) -> None:
        with first.recording(pair.first, -1) as a, second.recording(pair.second, -1) as b:
            n_images = a.shape("pooled")[0]
            table = correlations(
                lambda start, stop: a.rows("pooled", start, stop),
                lambda start, stop: b.rows("pooled", start, stop),
                n_images,
            )
            # Dead units have correlations with nobody, also where rounding says otherwise.
            usable = a.read("live").astype(bool), b.read("live").astype(bool)
            table[~usable[0]] = np.nan
            table[:, ~usable[1]] = np.nan
            chance = chance_correlation(
                lambda start, stop: a.rows("pooled", start, stop),
                lambda start, stop: b.rows("pooled", start, stop),
                n_images,
                usable,
            )
        twin, value = match_units(table)
        writer.put("chance", np.array(chance))
        writer.put("twin", twin)
        writer.put("correlation", value)

    try:
        with first.store.get_or_make(key, make) as entry:
            twin, value = entry.read("twin"), entry.read("correlation")
            chance = float(entry.read("chance"))
    except InputError as error:
        progress.warning(f"units of {layer} ({detector}) are not matched: {error.what}")
        return None
    return matches(layer, detector, *finals, twin, value), chance


def _layer_summary(
    pair: _Pair, counts: pd.DataFrame, table: pd.DataFrame | None, chance: float | None
) -> dict[str, Any]:
    only_a = counts[counts["units_b"] == 0].sort_values("units_a", ascending=False, kind="stable")
    only_b = counts[counts["units_a"] == 0].sort_values("units_b", ascending=False, kind="stable")
    summary: dict[str, Any] = {
        "layer": pair.first.layer,
        "detector": pair.first.detector,
        "epoch_a": int(pair.first.epochs[-1]),
        "epoch_b": int(pair.second.epochs[-1]),
        "interpretable_a": int(pair.first.interpretable[:, -1].sum()),
        "interpretable_b": int(pair.second.interpretable[:, -1].sum()),
        "concepts_a": int((counts["units_a"] > 0).sum()),
        "concepts_b": int((counts["units_b"] > 0).sum()),
        "only_a": only_a["concept"].tolist()[:_MOST_NAMED],
        "only_a_count": len(only_a),
        "only_b": only_b["concept"].tolist()[:_MOST_NAMED],
        "only_b_count": len(only_b),
        "counts_differ": bool((counts["units_a"] != counts["units_b"]).any()),
        "matched": None,
        "same": None,
        "alone_a": None,
        "alone_b": None,
        "correlation": None,
        "correlation_chance": None if chance is None or np.isnan(chance) else chance,
    }
    if table is not None:
        both = table["unit_a"].notna() & table["unit_b"].notna()
        live_a, live_b = table["concept_a"] != "", table["concept_b"] != ""
        summary.update(
            matched=int(both.sum()),
            same=int(table["same"].sum()),
            # A dead unit is without a twin in any case: that says nothing about the other run.
            alone_a=int((table["unit_a"].notna() & ~both & live_a).sum()),
            alone_b=int((table["unit_b"].notna() & ~both & live_b).sum()),
            correlation=float(table.loc[both, "correlation"].median()) if both.any() else None,
        )
    return summary


def _common(statistics: pd.DataFrame, pairs: Sequence[_Pair], side: str) -> pd.DataFrame:
    """Rows of layers and detectors that both runs have, under the names of the first run's layers."""
    names = {(getattr(pair, side).layer, pair.first.detector): pair.first.layer for pair in pairs}
    places = list(zip(statistics["layer"], statistics["detector"], strict=True))
    kept = statistics[[place in names for place in places]].reset_index(drop=True)
    return kept.assign(layer=[names[place] for place in places if place in names])


def _categories(statistics: list[pd.DataFrame]) -> list[dict[str, Any]]:
    """Interpretable units per layer and category of both runs, at the last epoch of each layer."""
    keys = ["layer", "detector", "category"]
    counts = []
    for frame in statistics:
        last = frame.groupby(["layer", "detector"])["epoch"].transform("max")
        counts.append(frame[frame["epoch"] == last].set_index(keys)["interpretable"])
    import pandas as pd

    both = pd.concat(counts, axis=1, keys=["interpretable_a", "interpretable_b"]).fillna(0).astype(int)
    both.index.names = keys
    return plain_rows(both.reset_index())


def _designs(statistics: Sequence[pd.DataFrame]) -> dict[tuple[str, str], float]:
    """How much evidence a unit of each layer is, in the run in which units are more alike."""
    found: dict[tuple[str, str], float] = {}
    for frame in statistics:
        whole = frame[frame["category"] == ALL]
        last = whole[whole["epoch"] == whole.groupby(["layer", "detector"])["epoch"].transform("max")]
        for row in last.to_dict("records"):
            place = (str(row["layer"]), str(row["detector"]))
            share = row["effective_units"] / row["effective_units_chance"]
            if 0 < share < found.get(place, 1.0):
                found[place] = float(share)
    return found


def _compare_classes(
    first: OpenRun,
    second: OpenRun,
    pairs: Sequence[_Pair],
    options: CompareOptions,
    folder: RunFolder,
    result: CompareResult,
    progress: Progress,
) -> None:
    import pandas as pd

    known = {*first.table["concept"].unique(), *second.table["concept"].unique()}
    for word in check_classes(options.classes, known):
        progress.notice(f"no unit of either run has a concept called {word!r}")
    counts = [
        pd.concat([class_counts(getattr(pair, side), options.classes) for pair in pairs], ignore_index=True)
        for side in ("first", "second")
    ]
    for side, frame in zip(("a", "b"), counts, strict=True):
        result.classes += [{"run": side, **row} for row in plain_rows(frame)]
    for detector in sorted({pair.first.detector for pair in pairs}):
        both = {
            name: frame[frame["detector"] == detector]
            for name, frame in zip(result.names, counts, strict=True)
        }
        path = folder.plots / f"classes.{detector}"
        result.plots += save(class_table(both), path, options.plot_formats, caption=first.caption)
    for pair in pairs:
        records = first.record(pair.first, -1), second.record(pair.second, -1)
        if not all(holds_pooled(record.recording) for record in records):
            continue
        try:
            examples = {
                name: _examples(run, history, options.classes)
                for name, run, history in zip(
                    result.names, (first, second), (pair.first, pair.second), strict=True
                )
            }
        except CmonError as error:
            progress.warning(f"no picture of the units of the classes: {error.what}")
            return
        path = folder.plots / f"class_units.{pair.first.layer}.{pair.first.detector}"
        result.plots += save(class_examples(examples), path, options.plot_formats, caption=first.caption)


def _examples(opened: OpenRun, history: History, classes: Sequence[str]) -> dict[str, Look | None]:
    """For each class the unit with the best score among those that have it as their concept."""
    keys = np.array([class_key(name.concept) for name in history.names] or [""], dtype=object)
    found: dict[str, int] = {}
    for word in classes:
        own = np.isin(history.labels[:, -1], np.flatnonzero(keys == class_key(word)))
        if own.any():
            best = np.where(own, history.scores[:, -1], -np.inf).argmax()
            found[word] = int(history.units[best])
    looks = looks_of(opened, history, -1, list(found.values()), _EXAMPLE_IMAGES)
    shown: dict[str, Look | None] = dict.fromkeys(classes)
    shown.update(zip(found, looks, strict=True))
    return shown


def _differ(result: CompareResult) -> bool:
    layers = any(
        row["counts_differ"]
        or row["interpretable_a"] != row["interpretable_b"]
        or (
            row["matched"] is not None and (row["same"] != row["matched"] or row["alone_a"] or row["alone_b"])
        )
        for row in result.layers
    )
    return layers or any(row["interpretable_a"] != row["interpretable_b"] for row in result.categories)
