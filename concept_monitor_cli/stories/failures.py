"""The story of `failures`: which units tell failed from succeeded cases of a class?"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.calibration import benjamini_hochberg
from concept_monitor_cli.functional.failures import Separation, compared, separation
from concept_monitor_cli.functional.groups import ImageGroups
from concept_monitor_cli.options import FailuresOptions
from concept_monitor_cli.probe.failed import ALL, FailedTable, read_failed
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.record.requests import Activations, Contributions, Recording
from concept_monitor_cli.report.failure_figures import over_epochs, separating_units
from concept_monitor_cli.report.style import save
from concept_monitor_cli.run import TABLES, CheckpointRecord
from concept_monitor_cli.stories.classes import network_classes
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.stories.recorder import Recorder, open_checkpoint
from concept_monitor_cli.stories.stats import plain_rows
from concept_monitor_cli.stories.vectors import checkpoints_of, plain_layers
from concept_monitor_cli.wording import counted

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class LayerFailures:
    """What separates at one layer and epoch.

    Attributes:
        layer, epoch: where and when.
        failed, succeeded: images that were compared: those of classes that have both.
        classes: how many these are.
        units: of the layer.
        significant: how many of them separate, at a false discovery rate of 5 %.
    """

    layer: str
    epoch: int
    failed: int
    succeeded: int
    classes: int
    units: int
    significant: int


@dataclass
class FailuresResult:
    """What a `failures` found.

    Attributes:
        out: where the table and plots are.
        source: what failing is: wrong predictions, or the table.
        layers: a line for each layer and epoch.
        failures: rows of the table as plain values.
        plots: the pictures.
    """

    out: Path
    source: str
    layers: list[LayerFailures] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)
    plots: list[Path] = field(default_factory=list)


@dataclass(frozen=True)
class _Cases:
    """What is compared with what.

    Attributes:
        names: of the classes.
        classes: `(N,)` int64; negative for images that do not count.
        failed: `(N,)` bool; None: those that the network gets wrong at each epoch.
        request: of what units add to the score of the image's class; None where that is not asked for.
    """

    names: tuple[str, ...]
    classes: Tensor
    failed: Tensor | None
    request: Contributions | None

    def at(self, recorder: Recorder, record: CheckpointRecord) -> Tensor:
        """`(N,)` bool, who failed at an epoch."""
        if self.failed is not None:
            return self.failed
        return recorder.logits(record).argmax(1) != self.classes


def failures(options: FailuresOptions, progress: Progress = SILENT) -> FailuresResult:
    """Compare failed with succeeded images of the same class, unit by unit, at all epochs of a run.

    Args:
        options: which run, layers, epochs, and what failed.
        progress: told what happens.

    Raises:
        InputError: no run, checkpoints that are gone, a table that cannot be used, images whose classes are
            not known, or too few failures at every epoch.
    """
    import pandas as pd

    opened = OpenRun(options.out, options, progress)
    layers = plain_layers(opened, progress)
    records = checkpoints_of(opened)
    table = None if options.table is None else _table(options.table, opened, progress)
    recorder = Recorder(opened, options, layers=layers)
    cases = _cases(opened, recorder, records[-1], table, options, progress)
    groups = opened.context_of(None, (), opened.concepts).groups
    failed_at = {record.epoch: cases.at(recorder, record) for record in records}
    asked = [
        record for record in records if _enough(failed_at[record.epoch], cases.classes, groups, options.least)
    ]
    source = "wrong predictions" if options.table is None else options.table.name
    if not asked:
        raise InputError(_too_few(failed_at[records[-1].epoch], cases.classes, records[-1].epoch, options))
    if left := [str(record.epoch) for record in records if record not in asked]:
        progress.notice(
            f"left out (--least): fewer than {options.least} failed or succeeded images in classes that have "
            f"both at epoch {', '.join(left)}"
        )
    result = FailuresResult(opened.run.root, source)
    frames = []
    wanted: list[Recording] = [Activations(), *([] if cases.request is None else [cases.request])]
    with progress.task("failed against succeeded", len(asked) * len(layers), "layers") as advance:
        for record in asked:
            recorder.prepare(record, wanted)
            for layer in layers:
                Q, added = recorder.pooled(record, layer), None
                if cases.request is not None:
                    added = recorder.gradients(record, layer, cases.request)[0]
                rows, line = _layer(
                    (opened, record, layer), Q, added, failed_at[record.epoch], cases, groups, options
                )
                frames.append(rows)
                result.layers.append(line)
                advance(1)
    frame = TABLES["failures"].frame(pd.concat(frames))
    opened.run.write_csv("failures", frame)
    result.failures = plain_rows(frame)
    if options.plot_formats:
        figures = {"failures": separating_units(frame, options.top)}
        if len(asked) > 1:
            figures["failures_epochs"] = over_epochs(frame)
        for stem, figure in figures.items():
            result.plots += save(
                figure, opened.run.plots / stem, options.plot_formats, caption=opened.caption
            )
    return result


# -- what is compared ----------------------------------------------------------------------------------------


def _table(path: Path, opened: OpenRun, progress: Progress) -> FailedTable:
    """The user's table; says what of it, and of the images, does not count."""
    table = read_failed(path, opened.probe.ids)
    lacking = int((~table.named).sum())
    if lacking:
        progress.notice(f"{path.name} does not have {counted(lacking, 'probing images')}: left out")
    if table.unknown:
        progress.notice(
            f"{path.name} has {counted(table.unknown, 'images')} that are no probing images: left out"
        )
    return table


def _cases(
    opened: OpenRun,
    recorder: Recorder,
    last: CheckpointRecord,
    table: FailedTable | None,
    options: FailuresOptions,
    progress: Progress,
) -> _Cases:
    """Classes by the table, else those of the network; who failed by the table, else by the predictions."""
    failed = None if table is None else torch.from_numpy(table.failed)
    if table is not None and table.classes is not None:
        if options.attribution:
            progress.notice(
                "classes are those of the table and not of the network: nothing is said of its scores"
            )
        names = tuple(sorted(set(table.classes) - {""}))
        of = {name: place for place, name in enumerate(names)}
        return _Cases(names, torch.tensor([of.get(name, -1) for name in table.classes]), failed, None)
    Z = recorder.logits(last)
    meta = open_checkpoint(last, trust_pickle=options.trust_pickle, model=options.model).meta
    wrong = "which predictions are wrong" if table is None else None
    found = network_classes(opened, Z.shape[1], meta, options.class_names, progress, needs_own=wrong)
    classes = found.of_images
    if table is not None:
        # One class for all epochs: where it is not known, that which the last one predicts.
        classes = torch.where(classes < 0, Z.argmax(1), classes)
    request = Contributions(tuple(classes.tolist())) if options.attribution else None
    if table is not None:
        classes = torch.where(torch.from_numpy(table.named), classes, -1)
    return _Cases(found.names, classes, failed, request)


def _enough(failed: Tensor, classes: Tensor, groups: ImageGroups, least: int) -> bool:
    """Whether there are enough failed and succeeded images to compare; of copies one counts."""
    kept = compared(failed, classes).numpy()
    return all(len(np.unique(groups.of[kept & each])) >= least for each in (failed.numpy(), ~failed.numpy()))


def _too_few(failed: Tensor, classes: Tensor, epoch: int, options: FailuresOptions) -> str:
    counts = [int((each & (classes >= 0)).sum()) for each in (failed, ~failed)]
    return (
        f"too few to compare (--least {options.least}, in classes that have both): at epoch {epoch} "
        f"{counted(counts[0], 'images')} failed and {counts[1]:,} succeeded"
    )


# -- one layer at one epoch ----------------------------------------------------------------------------------


def _layer(
    place: tuple[OpenRun, CheckpointRecord, str],
    Q: Tensor,
    added: Tensor | None,
    failed: Tensor,
    cases: _Cases,
    groups: ImageGroups,
    options: FailuresOptions,
) -> tuple[pd.DataFrame, LayerFailures]:
    """All units over all classes, and the strongest of each class that has enough images."""
    import pandas as pd

    opened, record, layer = place
    classes = cases.classes

    def both(mine: Tensor) -> tuple[Separation, Separation | None]:
        own = ImageGroups.read(groups.of[mine.numpy()])
        return tuple(  # type: ignore[return-value]
            None if X is None else separation(X[mine], failed[mine], classes[mine], own, seed=options.seed)
            for X in (Q, added)
        )

    kept = compared(failed, classes)
    whole, whole_added = both(kept)
    significant = benjamini_hochberg(whole.p)
    frames = [_rows(ALL, torch.arange(Q.shape[1]), whole, whole_added)]
    frames[0]["significant"] = significant.numpy().astype(int)
    present = sorted(set(classes[kept].tolist()))
    for name in present:
        mine = classes == name
        if _enough(failed[mine], classes[mine], ImageGroups.read(groups.of[mine.numpy()]), options.least):
            found, found_added = both(mine)
            strength = (found.auc - 0.5).abs().nan_to_num(-1.0)
            best = strength.argsort(descending=True, stable=True)[: options.top]
            frames.append(_rows(cases.names[name], best, found, found_added))
    frame = pd.concat(frames)
    labels = opened.first_labels(record.epoch, layer).set_index("unit")
    live = labels[(labels["state"] == "live") & (labels["concept"] != "")]
    frame["epoch"], frame["checkpoint"], frame["layer"] = record.epoch, record.name, layer
    frame["detector"] = opened.detector
    frame["concept"] = frame["unit"].map(live["concept"]).fillna("")
    frame["interpretable"] = frame["unit"].isin(live.index[live["interpretable"]])
    return frame, LayerFailures(
        layer,
        record.epoch,
        whole.failed,
        whole.succeeded,
        len(present),
        Q.shape[1],
        int(significant.sum()),
    )


def _rows(name: str, units: Tensor, found: Separation, added: Separation | None) -> pd.DataFrame:
    """Of some units, over all classes or of one; whether a unit is called is said over all classes only."""
    import pandas as pd

    def of_added(what: str) -> Any:
        return np.nan if added is None else getattr(added, what)[units].numpy()

    return pd.DataFrame(
        {
            "unit": units.numpy(),
            "class": name,
            "auc": found.auc[units].numpy(),
            "auc_attribution": of_added("auc"),
            "p_value": found.p[units].numpy(),
            "failed": found.failed,
            "succeeded": found.succeeded,
            "significant": pd.array([None] * len(units), dtype="Int64"),
            "low": found.low[units].numpy(),
            "high": found.high[units].numpy(),
            "attribution_low": of_added("low"),
            "attribution_high": of_added("high"),
            "attribution_p_value": of_added("p"),
        }
    )
