"""Which directions `ablate` cuts out of a layer: members of a basis, as concept vectors are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from concept_monitor_cli.bases import fit_basis, member_names
from concept_monitor_cli.concepts.class_names import spelling
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.options import AblateOptions, BasisSpec
from concept_monitor_cli.progress import Progress
from concept_monitor_cli.stories.ablating import UnitSet
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.wording import counted

# A direction that others hold but for so small a rest adds nothing to them.
_REST = 1e-5


def direction_sets(
    opened: OpenRun, layer: str, Q: Tensor, options: AblateOptions, progress: Progress
) -> list[UnitSet]:
    """The members of a basis that are cut: each of those named on its own, those of a list all at once.

    Args:
        opened: the run.
        layer: the layer.
        Q: `(N, C)`, its pooled activations, which `pca` and `nmf` are fitted to.
        options: which basis, `words` and `units`.
        progress: told what has no member.

    Raises:
        InputError: a basis of another layer, or a member that it does not have.
    """
    assert options.basis is not None
    spec = BasisSpec.parse(options.basis)
    assert spec is not None
    if spec.kind == "vectors" and spec.text == "vectors":
        spec = replace(spec, file=opened.run.root)
    where = f"--basis {options.basis}"
    basis = fit_basis(spec, Q.shape[1], Q, where=layer)
    names = member_names(spec, layer, basis.members)
    matrix = torch.from_numpy(basis.matrix).double()
    lengths = matrix.norm(dim=0)
    beyond = [member for member in options.units if member >= basis.members]
    if beyond:
        raise InputError(
            f"{where} has {counted(basis.members, 'members')} in {layer} and no member {beyond[0]}",
            where="--units",
        )
    chosen: Sequence[int] = ()
    if options.words:
        chosen = _named(names, layer, options, progress, where)
    elif not options.units:
        chosen = range(min(options.top, basis.members))
    sets = []
    for member in chosen:
        if lengths[member] == 0:
            progress.notice(f"{layer}: member {member} of {options.basis} is 0, no direction")
            continue
        own = (matrix[:, [member]] / lengths[member]).float()
        sets.append(UnitSet("direction", names[member], (member,), own))
    if options.units:
        members = tuple(dict.fromkeys(options.units))
        sets.append(UnitSet("directions", "", members, _span(matrix[:, list(members)], where)))
    return sets


def _named(
    names: Sequence[str], layer: str, options: AblateOptions, progress: Progress, where: str
) -> list[int]:
    """The members that are called like the words."""
    places: dict[str, list[int]] = {}
    for member, name in enumerate(names):
        places.setdefault(spelling(name), []).append(member)
    missing = [word for word in options.words if spelling(word) not in places]
    if missing:
        progress.notice(f"{where} has no member called {', '.join(missing)} in {layer}")
    return [member for word in options.words for member in places.get(spelling(word), ())]


def _span(columns: Tensor, where: str) -> Tensor:
    """Orthonormal directions, `(C, r)`, that hold what some columns hold."""
    left, sizes, _ = torch.linalg.svd(columns, full_matrices=False)
    kept = sizes > _REST * sizes[0]
    if not bool(kept.any()) or float(sizes[0]) == 0:
        raise InputError("these members are all 0, no directions", where=where)
    directions: Tensor = left[:, kept].float()
    return directions
