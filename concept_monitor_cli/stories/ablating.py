"""How scores without some units or directions are found: by a linear head, or by a changed network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from concept_monitor_cli.functional.ablation import (
    Outcome,
    linear_scores,
    matched_directions,
    matched_sets,
    scores_along,
)
from concept_monitor_cli.models.interventions import Edit, set_directions, set_units
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
# Random directions are like a set if theirs is within this share of its root mean square.
_ALIKE = 0.2

#: What is cut: units, or orthonormal directions `(C, r)`; and what it is set to, see `KINDS`.
Cut = tuple["list[int] | Tensor", str]


@dataclass(frozen=True)
class UnitSet:
    """Units, or directions, that are cut out together.

    Attributes:
        name: `concept`, `units`, `most`, `least` (interpretable), `direction` or `directions`.
        concept: of a set or direction of that name; else empty.
        units: which; of a basis, which of its members.
        directions: `(C, r)`, orthonormal columns; None where channels are cut.
    """

    name: str
    concept: str
    units: tuple[int, ...]
    directions: Tensor | None = None


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
        drawn: for each set random sets like it, `(draws, units)`, or `(draws, C, r)` for directions.
        means: `(C,)`, the units' means over the run's images.
        head: the weights of a linear head that makes the scores of the pooled layer, `(K, C)`; or None.
    """

    sets: Sequence[UnitSet]
    drawn: Sequence[Tensor]
    means: Tensor
    head: Tensor | None

    def groups(self) -> list[Cut]:
        """What is cut and set to what, set by set: for each kind the set itself, then its random ones."""
        cuts: list[Cut] = []
        for each, controls in zip(self.sets, self.drawn, strict=True):
            whole: list[list[int] | Tensor] = (
                [list(each.units), *controls.tolist()]
                if each.directions is None
                else [each.directions, *controls]
            )
            cuts += [(own, kind) for kind in KINDS for own in whole]
        return cuts


def plan_of(
    scene: Scene, sets: Sequence[UnitSet], recorder: Recorder, options: AblateOptions, progress: Progress
) -> tuple[Plan, Restored | None]:
    """What is done to a layer, and how scores are found; the network, where it had to be made for that."""
    checkpoint = open_checkpoint(scene.record, trust_pickle=options.trust_pickle, model=options.model)
    head = linear_head(checkpoint.state_dict, scene.layer, scene.Q, scene.Z)
    network = None if head is not None else _restored(recorder, scene.record)
    means = scene.Q.mean(0) if network is None else _means(scene, network, recorder, options)
    drawn = [_random(scene, each, means, options, progress) for each in sets]
    lacking = sum(len(each) == 0 for each in drawn)
    if lacking:
        progress.notice(
            f"{scene.layer}: {counted(lacking, 'sets')} of units leave too few others for random sets"
        )
    return Plan(sets, drawn, means, head), network


def _random(scene: Scene, each: UnitSet, means: Tensor, options: AblateOptions, progress: Progress) -> Tensor:
    """Random sets like one, and a notice where directions like it were not found."""
    if each.directions is None:
        return matched_sets(means, each.units, options.controls, seed=options.seed)
    drawn, size, sizes = matched_directions(
        scene.Q[scene.rows], each.directions, options.controls, seed=options.seed
    )
    if len(drawn):
        share = float((sizes.square().sum(1).mean() / size.square().sum().clamp_min(1e-300)).sqrt())
        if abs(share - 1) > _ALIKE:
            progress.notice(
                f"{scene.layer}, {each.concept or each.name}: random directions hold {share:.2f} times as "
                "much of the activations; no better ones were found"
            )
    return drawn


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


def _by_head(scene: Scene, W: Tensor, groups: Sequence[Cut], means: Tensor) -> Iterator[Outcome]:
    Z, Q, classes = (each[scene.rows] for each in (scene.Z, scene.Q, scene.asked))
    for cut, kind in groups:
        if isinstance(cut, Tensor):
            yield Outcome.of(scores_along(Z, Q, W, cut, _values(cut, kind, means)), classes)
        else:
            yield Outcome.of(linear_scores(Z, Q, W, cut, _values(cut, kind, means)), classes)


def _values(cut: list[int] | Tensor, kind: str, means: Tensor) -> Tensor | float:
    """What a cut is set to."""
    if kind == "zero":
        return 0.0
    return means.float() @ cut if isinstance(cut, Tensor) else means[cut].float()


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
    groups: Sequence[Cut],
    means: Tensor,
    options: AblateOptions,
    progress: Progress,
) -> Iterator[Outcome]:
    model, architecture = network
    layer = next(each for each in architecture.layers if each.name == scene.layer)
    edits: list[Edit] = [
        set_directions(cut, _values(cut, kind, means))
        if isinstance(cut, Tensor)
        else set_units(cut, _values(cut, kind, means))
        for cut, kind in groups
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
