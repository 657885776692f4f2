"""Is a network as good on photos with something as without it, before and after units are cut out?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from concept_monitor_cli.concepts.class_names import spelling
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.ablation import Outcome, beside_controls
from concept_monitor_cli.options import AblateOptions
from concept_monitor_cli.progress import Progress
from concept_monitor_cli.record.requests import Activations, Logits
from concept_monitor_cli.stories.ablating import KINDS, Plan, Scene, outcomes
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.stories.recorder import Recorder
from concept_monitor_cli.wording import counted

if TYPE_CHECKING:
    import pandas as pd

ALL = "all"
FOLDERS = ("with", "without")


def gaps(
    opened: OpenRun,
    plans: Sequence[tuple[Scene, Plan]],
    layers: Sequence[str],
    options: AblateOptions,
    progress: Progress,
) -> pd.DataFrame:
    """The rows of `spurious.csv`: accuracy on photos with and without something, and the gap between them.

    Args:
        opened: the run.
        plans: what is cut out of each layer of each checkpoint.
        layers: all of them.
        options: says where the photos are.
        progress: told what happens.

    Raises:
        InputError: the photos are not in such folders, or of no class of the network.
    """
    import pandas as pd

    recorder = Recorder(opened, options, probe=str(options.spurious), layers=layers, embeds=False)
    frames = []
    for scene, plan in plans:
        recorder.prepare(scene.record, [Activations(), Logits()])
        Z = recorder.logits(scene.record)
        shown, owner = _photos(recorder.context.probe.ids, scene.classes.names, options, progress)
        known = torch.nonzero(owner >= 0)[:, 0]
        there = Scene(
            scene.record,
            scene.layer,
            recorder.pooled(scene.record, scene.layer),
            Z,
            known,
            owner.clamp_min(0),
            scene.classes,
        )
        before = _accuracies(Outcome.of(Z[known], owner[known]), shown[known], there)
        after = [
            _accuracies(each, shown[known], there)
            for each in outcomes(there, plan, recorder, options, progress)
        ]
        place = 0
        counts = _counts(shown[known], there)
        for each, controls in zip(plan.sets, plan.drawn, strict=True):
            for kind in KINDS:
                own, others = after[place], after[place + 1 : place + 1 + len(controls)]
                place += 1 + len(controls)
                names: dict[str, Any] = {
                    "set": each.name,
                    "concept": each.concept,
                    "units": len(each.units),
                    "kind": kind,
                }
                frames.append(pd.DataFrame(_rows(there, counts, before, own, others)).assign(**names))
    return pd.concat(frames)


def _photos(
    ids: Sequence[str], names: Sequence[str], options: AblateOptions, progress: Progress
) -> tuple[Tensor, Tensor]:
    """Whether each photo is one with it, `(N,)` bool, and its class, `(N,)` int64, -1 where unknown."""
    number = {spelling(name): place for place, name in enumerate(names)}
    shown, owner, strange = [], [], set()
    for name in ids:
        parts = name.split("/")
        if len(parts) < 3 or parts[0] not in FOLDERS:
            raise InputError(
                f"{name} lies in no folder of a class below with or without",
                where=options.spurious,
                hint="arrange photos as with/cat/1.png and without/cat/2.png",
            )
        shown.append(parts[0] == "with")
        owner.append(number.get(spelling(parts[1]), -1))
        if owner[-1] < 0:
            strange.add(parts[1])
    if len(strange) > 0:
        progress.warning(f"no class of the network is called {', '.join(sorted(strange)[:3])}: left out")
    kept = [with_it for with_it, place in zip(shown, owner, strict=True) if place >= 0]
    if len(set(kept)) < 2:
        raise InputError(
            f"{counted(sum(kept), 'photos')} with it and {len(kept) - sum(kept):,} without it are of a class "
            "of the network: both are needed",
            where=options.spurious,
            hint="name the folders as the classes are called (--class-names)",
        )
    return torch.tensor(shown), torch.tensor(owner)


def _members(scene: Scene) -> Tensor:
    """`(n, 1 + K)`: all images, and those of each class."""
    owner = scene.asked[scene.rows]
    member = torch.nn.functional.one_hot(owner, len(scene.classes.names)).double()
    return torch.cat([torch.ones(len(owner), 1, dtype=torch.float64), member], 1)


def _counts(shown: Tensor, scene: Scene) -> Tensor:
    """`(2, 1 + K)`: photos with it, and without."""
    member = _members(scene)
    return torch.stack([member[shown].sum(0), member[~shown].sum(0)])


def _accuracies(outcome: Outcome, shown: Tensor, scene: Scene) -> Tensor:
    """`(2, 1 + K)`: on photos with it, and without; NaN without any."""
    member = _members(scene)
    correct = outcome.correct.double()
    return torch.stack([correct[side] @ member[side] / member[side].sum(0) for side in (shown, ~shown)])


def _rows(
    scene: Scene, counts: Tensor, before: Tensor, own: Tensor, others: Sequence[Tensor]
) -> dict[str, Any]:
    gap, gap_before = own[1] - own[0], before[1] - before[0]
    nothing = torch.zeros(0, len(gap), dtype=torch.float64)
    control = torch.stack([each[1] - each[0] for each in others]) if others else nothing
    mean, deviation, p = beside_controls(gap, control)
    kept = torch.nonzero(counts.amin(0) > 0)[:, 0]
    names = np.array([ALL, *scene.classes.names], dtype=object)
    return {
        "epoch": scene.record.epoch,
        "checkpoint": scene.record.name,
        "layer": scene.layer,
        "class": names[kept.numpy()],
        "images_with": counts[0][kept].numpy(),
        "images_without": counts[1][kept].numpy(),
        "accuracy_with": own[0][kept].numpy(),
        "accuracy_without": own[1][kept].numpy(),
        "gap": gap[kept].numpy(),
        "accuracy_with_before": before[0][kept].numpy(),
        "accuracy_without_before": before[1][kept].numpy(),
        "gap_before": gap_before[kept].numpy(),
        "gap_control": mean[kept].numpy(),
        "gap_control_sd": deviation[kept].numpy(),
        "p_value": p[kept].numpy(),
    }
