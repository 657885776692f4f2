"""The story of `ablate`: what is lost when the units of a concept are cut out?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from concept_monitor_cli.concepts.class_names import spelling
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.ablation import Outcome, beside_controls
from concept_monitor_cli.options import AblateOptions
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.record.requests import Activations, Logits
from concept_monitor_cli.report.ablation_figures import curves, gap_bars, losses
from concept_monitor_cli.report.style import save
from concept_monitor_cli.run import TABLES
from concept_monitor_cli.stories.ablate_directions import direction_sets
from concept_monitor_cli.stories.ablate_spurious import gaps
from concept_monitor_cli.stories.ablate_write import written
from concept_monitor_cli.stories.ablating import KINDS, Plan, Scene, UnitSet, outcomes, plan_of
from concept_monitor_cli.stories.classes import network_classes
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.stories.recorder import Recorder, open_checkpoint
from concept_monitor_cli.stories.stats import plain_rows
from concept_monitor_cli.stories.vectors import checkpoints_of, distinct_images, plain_layers
from concept_monitor_cli.wording import counted

if TYPE_CHECKING:
    import pandas as pd

    from concept_monitor_cli.stories.ablating import Restored


#: Every image, beside each class.
ALL = "all"
_CURVE = (1, 2, 5, 10, 20, 30, 40, 50)


@dataclass
class AblateResult:
    """What an `ablate` found.

    Attributes:
        out: where the tables and plots are.
        images: how many images count: of copies one.
        ablation: rows of the table as plain values.
        spurious: rows of `spurious.csv`, where photos with and without a concept were given.
        written: the edited checkpoint, where one was asked for.
        plots: the pictures.
    """

    out: Path
    images: int
    ablation: list[dict[str, Any]] = field(default_factory=list)
    spurious: list[dict[str, Any]] = field(default_factory=list)
    written: Path | None = None
    plots: list[Path] = field(default_factory=list)


def ablate(options: AblateOptions, progress: Progress = SILENT) -> AblateResult:
    """Cut sets of units, or directions, out of the layers of a run, and see what becomes of each class.

    Args:
        options: which run, layers, epochs, units.
        progress: told what happens.

    Raises:
        InputError: no run, no such units or concepts, checkpoints that are gone, or networks without classes.
    """
    import pandas as pd

    opened = OpenRun(options.out, options, progress)
    layers = plain_layers(opened, progress)
    records = checkpoints_of(opened)
    if options.epochs is None:
        records = records[-1:]
    rows = distinct_images(opened.context_of(None, (), opened.concepts))
    recorder = Recorder(opened, options, layers=layers)
    recorder.prepare(records[0], [Activations(), Logits()])
    count = recorder.logits(records[0]).shape[1]
    meta = open_checkpoint(records[0], trust_pickle=options.trust_pickle, model=options.model).meta
    classes = network_classes(opened, count, meta, options.class_names, progress)
    directions: dict[str, list[UnitSet]] = {}
    if options.basis is not None:
        # Fitted once, so that a member is the same direction at every epoch.
        recorder.prepare(records[-1], [Activations(), Logits()])
        for layer in layers:
            Q = recorder.pooled(records[-1], layer)[rows]
            directions[layer] = direction_sets(opened, layer, Q, options, progress)
    frames = []
    plans: list[tuple[Scene, Plan]] = []
    for record in records:
        recorder.prepare(record, [Activations(), Logits()])
        Z = recorder.logits(record)
        asked = torch.where(classes.of_images < 0, Z.argmax(1), classes.of_images)
        for layer in layers:
            Q = recorder.pooled(record, layer)
            scene = Scene(record, layer, Q, Z, rows, asked, classes)
            if options.basis is None:
                sets = unit_sets(opened, record.epoch, layer, Q.shape[1], options, progress)
            else:
                sets = directions[layer]
            if sets:
                plan, network = plan_of(scene, sets, recorder, options, progress)
                frames.append(_layer(scene, plan, recorder, options, progress, network))
                plans.append((scene, plan))
    if not frames and options.basis is not None:
        raise InputError(
            "no direction of that name in these layers",
            where=f"--basis {options.basis}",
            hint="name members by number with --units",
        )
    if not frames:
        raise InputError(
            "no concept has an interpretable unit in these layers",
            where=opened.run.root,
            hint="name units with --units, or add --curve",
        )
    frame = TABLES["ablation"].frame(pd.concat(frames))
    opened.run.write_csv("ablation", frame)
    result = AblateResult(opened.run.root, len(rows), plain_rows(frame))
    if options.spurious is not None:
        table = TABLES["spurious"].frame(gaps(opened, plans, layers, options, progress))
        opened.run.write_csv("spurious", table)
        result.spurious = plain_rows(table)
    if options.write is not None:
        result.written = written(plans, recorder, options, progress)
    if options.plot_formats:
        figures = {"ablation": losses(frame)} if frame["set"].isin(["concept", "direction"]).any() else {}
        if frame["set"].isin(["most", "least"]).any():
            figures["ablation_curve"] = curves(frame)
        if options.spurious is not None:
            figures["spurious"] = gap_bars(table)
        for stem, figure in figures.items():
            result.plots += save(
                figure, opened.run.plots / stem, options.plot_formats, caption=opened.caption
            )
    return result


def unit_sets(
    opened: OpenRun, epoch: int, layer: str, n_units: int, options: AblateOptions, progress: Progress
) -> list[UnitSet]:
    """What is cut out of a layer at an epoch: concepts, the user's units, the most and least interpretable.

    Raises:
        InputError: a unit that the layer does not have.
    """
    own = opened.first_labels(epoch, layer)
    sets = []
    named = own[own["interpretable"] & (own["concept"] != "")]
    members: dict[str, list[int]] = {}
    for concept, unit in zip(named["concept"], named["unit"].tolist(), strict=True):
        members.setdefault(str(concept), []).append(int(unit))
    if options.words:
        wanted = {spelling(word): word for word in options.words}
        members = {concept: units for concept, units in members.items() if spelling(concept) in wanted}
        missing = [word for key, word in wanted.items() if key not in {spelling(name) for name in members}]
        if missing:
            progress.notice(f"{layer} has no interpretable unit for {', '.join(missing)} at epoch {epoch}")
    frequent = sorted(members, key=lambda concept: (-len(members[concept]), concept))
    chosen = frequent if options.words else frequent[: options.top]
    sets += [UnitSet("concept", concept, tuple(sorted(members[concept]))) for concept in chosen]
    if options.units:
        beyond = [unit for unit in options.units if unit >= n_units]
        if beyond:
            raise InputError(
                f"{layer} has {counted(n_units, 'units')} and no unit {beyond[0]}", where="--units"
            )
        sets.append(UnitSet("units", "", tuple(dict.fromkeys(options.units))))
    if options.curve:
        live = own[own["state"] == "live"]
        order = live.sort_values(["p_value", "score"], ascending=[True, False], kind="stable")[
            "unit"
        ].tolist()
        for count in (count for count in _CURVE if count <= len(order) // 2):
            sets.append(UnitSet("most", "", tuple(order[:count])))
            sets.append(UnitSet("least", "", tuple(order[-count:])))
    return sets


def _layer(
    scene: Scene,
    plan: Plan,
    recorder: Recorder,
    options: AblateOptions,
    progress: Progress,
    network: Restored | None,
) -> pd.DataFrame:
    import pandas as pd

    before = _by_class(scene, Outcome.of(scene.Z[scene.rows], scene.asked[scene.rows]))
    after = [_by_class(scene, each) for each in outcomes(scene, plan, recorder, options, progress, network)]
    place, parts = 0, []
    for each, controls in zip(plan.sets, plan.drawn, strict=True):
        for kind in KINDS:
            own, others = after[place], after[place + 1 : place + 1 + len(controls)]
            place += 1 + len(controls)
            exact = plan.head is not None
            parts.append(pd.DataFrame(_rows(scene, each, kind, before, own, others, exact)))
    return pd.concat(parts)


Numbers = tuple[Tensor, Tensor, Tensor]


def _by_class(scene: Scene, outcome: Outcome) -> Numbers:
    return outcome.by_class(scene.asked[scene.rows], len(scene.classes.names))


def _rows(
    scene: Scene,
    each: UnitSet,
    kind: str,
    before: Numbers,
    own: Numbers,
    others: Sequence[Numbers],
    exact: bool,
) -> dict[str, Any]:
    nothing = torch.zeros(0, len(own[0]), dtype=torch.float64)
    accuracies, margins = (
        torch.stack([other[axis] for other in others]) if others else nothing for axis in (0, 1)
    )
    mean, deviation, p = beside_controls(own[1], margins)
    members = torch.bincount(scene.asked[scene.rows], minlength=len(scene.classes.names))
    images = [len(scene.rows), *members.tolist()]
    kept = [place for place, count in enumerate(images) if count]
    return {
        "epoch": scene.record.epoch,
        "checkpoint": scene.record.name,
        "layer": scene.layer,
        "set": each.name,
        "concept": each.concept,
        "units": len(each.units),
        "kind": kind,
        "class": [(ALL, *scene.classes.names)[place] for place in kept],
        "images": [images[place] for place in kept],
        "accuracy": own[0][kept].numpy(),
        "accuracy_before": before[0][kept].numpy(),
        "accuracy_control": beside_controls(own[0], accuracies)[0][kept].numpy(),
        "margin": own[1][kept].numpy(),
        "margin_before": before[1][kept].numpy(),
        "control": mean[kept].numpy(),
        "control_sd": deviation[kept].numpy(),
        "p_value": p[kept].numpy(),
        "logit": own[2][kept].numpy(),
        "logit_before": before[2][kept].numpy(),
        "exact": exact,
    }
