"""A checkpoint without some units, checked before it is kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from concept_monitor_cli.checkpoints import load_checkpoint
from concept_monitor_cli.errors import CmonError, InputError
from concept_monitor_cli.functional.ablation import linear_scores
from concept_monitor_cli.models.channel_paths import NoPathError
from concept_monitor_cli.models.folding import constant_units
from concept_monitor_cli.models.interventions import set_units
from concept_monitor_cli.options import AblateOptions
from concept_monitor_cli.progress import Progress
from concept_monitor_cli.record.changed import scores_with_changes
from concept_monitor_cli.store.atomic import atomic_write
from concept_monitor_cli.stories.ablating import Plan, Scene
from concept_monitor_cli.stories.recorder import Network, Recorder
from concept_monitor_cli.wording import counted

# Scores of the written checkpoint differ from the ablation's by no more than this share of the largest.
_SAME = 1e-5


def written(
    plans: Sequence[tuple[Scene, Plan]], recorder: Recorder, options: AblateOptions, progress: Progress
) -> Path:
    """Write the last checkpoint with the units of the one set put to a number.

    Args:
        plans: what is cut out of each layer of each checkpoint; all but one set must be ruled out.
        recorder: the networks.
        options: where to, and whether units are 0 or at their mean.
        progress: told what was written.

    Returns:
        the file; reloaded, its scores were those of the ablation.

    Raises:
        InputError: several sets or layers, a file that is there, or units that no weight makes constant.
        CmonError: the file does not give the scores of the ablation.
    """
    assert options.write is not None
    epoch = max(scene.record.epoch for scene, _ in plans)
    last = [(scene, plan) for scene, plan in plans if scene.record.epoch == epoch]
    sets = [
        (scene, plan, each)
        for scene, plan in last
        for each in plan.sets
        if not options.units or each.name == "units"
    ]
    if len(sets) != 1:
        raise InputError(
            f"{counted(len(sets), 'sets')} of units are cut out, and a checkpoint can be without one of them",
            where="--write",
            hint="name one: --layer layer4 --words car, or --layer layer4 --units 3,17",
        )
    if options.write.exists():
        raise InputError("the file is there already", where=options.write, hint="name another with --write")
    scene, plan, chosen = sets[0]
    units = list(chosen.units)
    values = torch.zeros(len(units)) if options.value == "zero" else plan.means[units].float()
    network = recorder.network(scene.record)
    model = network.make()
    expected = _scores(model, network, scene, recorder, options, units, values)
    how = _fold(model, scene, plan, units, values)
    state = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    content = {"state_dict": state, "epoch": scene.record.epoch, "edited": how}
    with atomic_write(options.write) as temporary:
        torch.save(content, temporary)
        _check(temporary, network, scene, recorder, options, expected)
    progress.notice(f"{options.write}: {how}; its scores are those of the ablation")
    return options.write


def _scores(
    model: nn.Module,
    network: Network,
    scene: Scene,
    recorder: Recorder,
    options: AblateOptions,
    units: Sequence[int],
    values: Tensor,
) -> Tensor:
    """The scores of all images, some units at a number where there are any, `(N, K)`."""
    architecture = network.architecture
    layer = next(each for each in architecture.layers if each.name == scene.layer)
    parts = scores_with_changes(
        model,
        architecture.pixels,
        architecture.preprocessing,
        layer,
        [set_units(units, values)] if units else [lambda _: None],
        lambda scores, _: scores[0],
        device=recorder.device,
        batch_size=options.batch_size,
    )
    return torch.cat(parts)


def _fold(model: nn.Module, scene: Scene, plan: Plan, units: Sequence[int], values: Tensor) -> str:
    """Change the weights; says which.

    Raises:
        InputError: no weights make these units constant.
    """
    try:
        changed = constant_units(model, scene.layer, units, values.tolist())
    except NoPathError as error:
        if plan.head is None:
            raise InputError(
                f"the units of {scene.layer} cannot be written into the weights: {error}",
                where="--write",
                hint="choose a layer whose blocks end in a norm or convolution, or one before the classifier",
            ) from error
        return _fold_into_head(model, plan.head, units, values)
    return f"{len(units)} units of {scene.layer} are constant by {', '.join(changed)}"


@torch.no_grad()
def _fold_into_head(model: nn.Module, head: Tensor, units: Sequence[int], values: Tensor) -> str:
    """Take the units from the classifier that follows their pooling."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and module.weight.shape == head.shape:
            if not torch.equal(module.weight.detach().cpu().float(), head):
                continue
            index = torch.tensor(list(units))
            if module.bias is None:
                raise InputError(f"{name} has no bias that could carry the units' means", where="--write")
            shift = linear_scores(
                torch.zeros(1, len(head)), torch.zeros(1, head.shape[1]), head, list(units), values
            )
            module.bias.add_(shift[0].to(module.bias))
            module.weight[:, index] = 0
            return f"{len(units)} units are not read by {name}"
    raise InputError("the classifier is no linear layer of the network", where="--write")


def _check(
    file: Path,
    network: Network,
    scene: Scene,
    recorder: Recorder,
    options: AblateOptions,
    expected: Tensor,
) -> None:
    """Raises: CmonError: the file, loaded as any checkpoint, gives other scores."""
    model = network.architecture.source.restore(load_checkpoint(file).state_dict, recorder.device)
    found = _scores(model, network, scene, recorder, options, (), torch.zeros(0))
    off = float((found - expected).abs().amax() / expected.abs().amax().clamp_min(1e-12))
    if not off <= _SAME:
        raise CmonError(
            f"the edited weights give other scores than the ablation, by a share of {off:.1e}",
            where=options.write,
            hint="another layer may do; nothing was written",
        )
