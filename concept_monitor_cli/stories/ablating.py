"""How scores without some units are found: by a linear head, or by running the network changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from concept_monitor_cli.functional.ablation import Outcome, linear_scores, matched_sets
from concept_monitor_cli.models.interventions import Edit, set_units
from concept_monitor_cli.options import AblateOptions
from concept_monitor_cli.progress import Progress
from concept_monitor_cli.record.changed import scores_with_changes, unit_means
from concept_monitor_cli.run import CheckpointRecord
from concept_monitor_cli.stories.classes import NetworkClasses
from concept_monitor_cli.stories.heads import linear_head
from concept_monitor_cli.stories.recorder import Recorder, open_checkpoint
from concept_monitor_cli.wording import counted

if TYPE_CHECKING:
    from concept_monitor_cli.study.networks import Architecture

    Restored = tuple[nn.Module, Architecture]

KINDS = ("zero", "mean")


@dataclass(frozen=True)
class UnitSet:
    """Units that are cut out together.

    Attributes:
        name: `concept`, `units`, `most` or `least` (interpretable).
        concept: of a set of that name; else empty.
        units: which.
    """

    name: str
    concept: str
    units: tuple[int, ...]


@dataclass(frozen=True)
class Scene:
    """One layer of one checkpoint, and what is needed to change it."""

    record: CheckpointRecord
    layer: str
    Q: Tensor
    Z: Tensor
    rows: Tensor
    asked: Tensor
    classes: NetworkClasses


@dataclass(frozen=True)
class Plan:
    """What is done to a layer.

    Attributes:
        sets: the units that are cut out.
        drawn: for each set random sets like it, `(draws, units)`.
        means: `(C,)`, the units' means over the run's images.
        head: the weights of a linear head that makes the scores of the pooled layer, `(K, C)`; or None.
    """

    sets: Sequence[UnitSet]
    drawn: Sequence[Tensor]
    means: Tensor
    head: Tensor | None

    def groups(self) -> list[tuple[list[int], str]]:
        """Units and what they are set to, set by set: for each kind the set itself, then its random ones."""
        return [
            (list(units), kind)
            for each, controls in zip(self.sets, self.drawn, strict=True)
            for kind in KINDS
            for units in (each.units, *controls.tolist())
        ]


def plan_of(
    scene: Scene, sets: Sequence[UnitSet], recorder: Recorder, options: AblateOptions, progress: Progress
) -> tuple[Plan, Restored | None]:
    """What is done to a layer, and how scores are found; the network, where it had to be made for that."""
    checkpoint = open_checkpoint(scene.record, trust_pickle=options.trust_pickle, model=options.model)
    head = linear_head(checkpoint.state_dict, scene.layer, scene.Q, scene.Z)
    network = None if head is not None else _restored(recorder, scene.record)
    means = scene.Q.mean(0) if network is None else _means(scene, network, recorder, options)
    drawn = [matched_sets(means, each.units, options.controls, seed=options.seed) for each in sets]
    lacking = sum(len(each) == 0 for each in drawn)
    if lacking:
        progress.notice(
            f"{scene.layer}: {counted(lacking, 'sets')} of units leave too few others for random sets"
        )
    return Plan(sets, drawn, means, head), network


def outcomes(
    scene: Scene,
    plan: Plan,
    recorder: Recorder,
    options: AblateOptions,
    progress: Progress,
    network: Restored | None = None,
) -> Iterator[Outcome]:
    """What becomes of the images of a scene with each of the groups of a plan.

    Args:
        scene: a layer and images.
        plan: what is done to it.
        recorder: the networks, and how these images look to them.
        options: the machine.
        progress: told of the passes.
        network: of the checkpoint; made where it is needed and not given.
    """
    if plan.head is not None:
        yield from _by_head(scene, plan.head, plan.groups(), plan.means)
        return
    if network is None:
        network = _restored(recorder, scene.record)
    yield from _by_network(scene, network, recorder, plan.groups(), plan.means, options, progress)


# -- scores without units ------------------------------------------------------------------------------------


def _by_head(
    scene: Scene, W: Tensor, groups: Sequence[tuple[list[int], str]], means: Tensor
) -> Iterator[Outcome]:
    Z, Q, classes = (each[scene.rows] for each in (scene.Z, scene.Q, scene.asked))
    for units, kind in groups:
        values = 0.0 if kind == "zero" else means[units].float()
        yield Outcome.of(linear_scores(Z, Q, W, units, values), classes)


def _restored(recorder: Recorder, record: CheckpointRecord) -> Restored:
    network = recorder.network(record)
    return network.make(), network.architecture


def _means(scene: Scene, network: Restored, recorder: Recorder, options: AblateOptions) -> Tensor:
    model, architecture = network
    layer = next(each for each in architecture.layers if each.name == scene.layer)
    return unit_means(
        model,
        architecture.pixels,
        architecture.preprocessing,
        layer,
        device=recorder.device,
        batch_size=options.batch_size,
    )


def _by_network(
    scene: Scene,
    network: Restored,
    recorder: Recorder,
    groups: Sequence[tuple[list[int], str]],
    means: Tensor,
    options: AblateOptions,
    progress: Progress,
) -> Iterator[Outcome]:
    model, architecture = network
    layer = next(each for each in architecture.layers if each.name == scene.layer)
    edits: list[Edit] = [
        set_units(units, 0.0 if kind == "zero" else means[units].float()) for units, kind in groups
    ]
    parts = scores_with_changes(
        model,
        architecture.pixels,
        architecture.preprocessing,
        layer,
        edits,
        lambda scores, images: Outcome.of(scores, scene.asked[images]),
        device=recorder.device,
        batch_size=options.batch_size,
        progress=progress,
    )
    correct, margin, own = (
        torch.cat([getattr(part, name) for part in parts], 1)[:, scene.rows]
        for name in ("correct", "margin", "own")
    )
    for place in range(len(groups)):
        yield Outcome(correct[place], margin[place], own[place])
