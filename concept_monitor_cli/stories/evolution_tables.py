"""From what units brought images to the tables of `evolutions`: by unit, by class, and by parts set back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from concept_monitor_cli.functional.ablation import beside_controls
from concept_monitor_cli.functional.calibration import benjamini_hochberg
from concept_monitor_cli.functional.concept_vectors import decodability
from concept_monitor_cli.functional.evolutions import class_gain, parts_by_effect, rank_correlation
from concept_monitor_cli.options import EvolutionsOptions
from concept_monitor_cli.progress import Progress
from concept_monitor_cli.run import TABLES
from concept_monitor_cli.stories.classes import NetworkClasses
from concept_monitor_cli.stories.evolution_making import Asked, Pair, Seen
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.stories.recorder import Recorder

if TYPE_CHECKING:
    import pandas as pd

# Setting units back is checked on the classes whose scores the layer changed most, and on so many images.
_CHECKED, _CHECK_IMAGES = 10, 32


@dataclass(frozen=True)
class Held:
    """What units with a confident change of concept brought, beside the others of a layer.

    Attributes:
        layer, from_epoch, to_epoch: where and when.
        confident: units that changed their concept with confidence; None where that is not known.
        others: units with a concept at both epochs that did not.
        of_confident, of_others: median over them of what they brought a class, up or down: the mean over
            classes of the effect without its sign.
        p: two-sided, by ranks (Mann-Whitney).
    """

    layer: str
    from_epoch: int
    to_epoch: int
    confident: int | None
    others: int
    of_confident: float
    of_others: float
    p: float


@dataclass(frozen=True)
class Labels:
    """What units are called, and which changes of that are more than luck.

    Attributes:
        detector: whose concepts.
        named: (epoch, layer) -> unit -> concept; units without one are missing.
        changes: rows of `changes.csv`; None where there are none.
    """

    detector: str
    named: Mapping[tuple[int, str], Mapping[int, str]]
    changes: pd.DataFrame | None

    @classmethod
    def of(cls, opened: OpenRun, progress: Progress) -> Labels:
        """Of a run; says where changes of concept were not tested."""
        first, detector = opened.first, opened.detector
        own = first[(first["detector"] == detector) & (first["state"] == "live")]
        named: dict[tuple[int, str], dict[int, str]] = {}
        columns = (own[name].tolist() for name in ("epoch", "layer", "unit", "concept"))
        for epoch, layer, unit, concept in zip(*columns, strict=True):
            if concept:
                named.setdefault((epoch, layer), {})[unit] = concept
        path = opened.run.tables / "changes.csv"
        changes = TABLES["changes"].read_csv(path) if path.is_file() else None
        if changes is not None:
            changes = changes[changes["detector"] == detector]
        tested = opened.traits[detector].resampled and changes is not None
        if not tested:
            progress.notice(
                f"which changes of concept are more than luck is not known ({detector}: "
                + ("run `cmon units` first)" if opened.traits[detector].resampled else "cannot be tested)")
            )
        return cls(detector, named, changes if tested else None)

    def between(self, pair: Pair, n_units: int) -> tuple[list[str], list[str], list[int | None]]:
        """Concepts of all units of a layer at two epochs, and whether a change of them is confident.

        A unit that changed with confidence is given the concept that it held before, and the one it took.
        """
        before, after = (
            [self.named.get((record.epoch, pair.layer), {}).get(unit, "") for unit in range(n_units)]
            for record in (pair.earlier, pair.later)
        )
        if self.changes is None:
            return before, after, [None] * n_units
        sure: list[int | None] = [0] * n_units
        mine = self.changes[
            (self.changes["layer"] == pair.layer)
            & (self.changes["epoch"] > pair.earlier.epoch)
            & (self.changes["epoch"] <= pair.later.epoch)
        ].sort_values("epoch", kind="stable")
        for unit in sorted(set(mine["unit"].tolist())):
            rows = mine[mine["unit"] == unit]
            old, new = str(rows["from_concept"].iloc[0]), str(rows["to_concept"].iloc[-1])
            if old != new:
                before[unit], after[unit], sure[unit] = old, new, 1
        return before, after, sure


def unit_rows(
    pair: Pair,
    seen: Seen,
    asked: Asked,
    classes: NetworkClasses,
    labels: Labels,
    options: EvolutionsOptions,
) -> tuple[pd.DataFrame, Tensor]:
    """Rows of `evolutions.csv`, and `(K', C)` what each unit brought each class."""
    import pandas as pd

    present = asked.names
    gains = [class_gain(seen.path[asked.of(name)]) for name in present]
    effect, spread, share, p = (
        torch.stack([getattr(gain, part) for gain in gains])
        for part in ("effect", "spread", "share_positive", "p")
    )
    fast, exact = (
        None if each is None else torch.stack([each[asked.of(name)].double().mean(0) for name in present])
        for each in (seen.fast, seen.exact)
    )
    assert fast is not None
    significant = benjamini_hochberg(p.flatten()).reshape(p.shape)
    strength = effect.abs()
    chosen = torch.zeros_like(strength, dtype=torch.bool)
    best = strength.argsort(dim=1, descending=True, stable=True)[:, : options.top]
    chosen.scatter_(1, best, True)
    chosen[strength.argmax(0), torch.arange(strength.shape[1])] = True
    rows, units = (each.numpy() for each in torch.nonzero(chosen, as_tuple=True))
    before, after, sure = labels.between(pair, effect.shape[1])
    frame = pd.DataFrame(
        {
            **pair.epochs,
            "unit": units,
            "class": [classes.names[present[row]] for row in rows],
            "images": [len(asked.of(present[row])) for row in rows],
            "effect": effect[rows, units].numpy(),
            "fast": fast[rows, units].numpy(),
            "exact": np.nan if exact is None else exact[rows, units].numpy(),
            "share_positive": share[rows, units].numpy(),
            "spread": spread[rows, units].numpy(),
            "elsewhere": seen.elsewhere[rows, units].numpy(),
            "p_value": p[rows, units].numpy(),
            "significant": significant[rows, units].numpy(),
            "detector": labels.detector,
            "from_concept": [before[unit] for unit in units],
            "to_concept": [after[unit] for unit in units],
            "confident": pd.array([sure[unit] for unit in units], dtype="Int64"),
        }
    )
    return frame, effect


def beside_others(pair: Pair, effect: Tensor, labels: Labels) -> Held:
    """Do units that changed their concept with confidence bring more than others?"""
    brought = effect.abs().mean(0)
    before, after, sure = labels.between(pair, len(brought))
    named = [bool(old and new) for old, new in zip(before, after, strict=True)]
    if labels.changes is None:
        nothing = float("nan")
        return Held(*pair.epochs_and_layer, None, sum(named), nothing, nothing, nothing)
    kept = torch.tensor(named)
    changed = torch.tensor([each == 1 for each in sure])[kept]
    brought = brought[kept]
    p = float("nan")
    if 0 < int(changed.sum()) < len(changed):
        p = float(decodability(brought[:, None], changed[:, None].double())[1])
    of_confident, of_others = (
        float(brought[which].median()) if bool(which.any()) else float("nan") for which in (changed, ~changed)
    )
    return Held(
        *pair.epochs_and_layer,
        int(changed.sum()),
        int((~changed).sum()),
        of_confident,
        of_others,
        p,
    )


def class_rows(
    pair: Pair, seen: Seen, asked: Asked, classes: NetworkClasses, recorder: Recorder
) -> pd.DataFrame:
    """Rows of `evolution-classes.csv`: how much of a class's change the layer brought."""
    import pandas as pd

    own = [
        recorder.logits(record)[asked.images].gather(1, asked.classes[:, None])[:, 0].double()
        for record in (pair.earlier, pair.later)
    ]
    found = []
    for place, name in enumerate(asked.names):
        mine = asked.of(name)
        path, fast = (each[mine].double().mean(0) for each in (seen.path, seen.fast))
        exact = None if seen.exact is None else seen.exact[mine].double().mean(0)
        found.append(
            {
                **pair.epochs,
                "class": classes.names[name],
                "images": len(mine),
                "change": float((own[1] - own[0])[mine].mean()),
                "by_layer": float((seen.after - seen.before)[mine].mean()),
                "path_sum": float(path.sum()),
                "elsewhere": float(seen.elsewhere[place].double().median()),
                "fast_agrees": rank_correlation(fast, path if exact is None else exact),
                "exact_agrees": float("nan") if exact is None else rank_correlation(path, exact),
            }
        )
    return pd.DataFrame(found)


def part_rows(
    pair: Pair,
    seen: Seen,
    asked: Asked,
    classes: NetworkClasses,
    totals: pd.DataFrame,
    options: EvolutionsOptions,
) -> pd.DataFrame:
    """Rows of `evolution-parts.csv`: quarters of the units set back, beside random sets outside them."""
    import pandas as pd

    moved = totals["by_layer"].abs().sort_values(ascending=False, kind="stable").index[:_CHECKED]
    present = asked.names
    found = []
    for name in (present[place] for place in moved):
        mine = asked.of(name)
        effect = seen.path[mine].double().mean(0)
        few = mine[:_CHECK_IMAGES]
        parts = parts_by_effect(effect, options.controls, seed=options.seed)
        lost = seen.after[few].double()[:, None] - seen.set_back(
            few, [each for part in parts for each in part]
        )
        means, place = lost.mean(0), 0
        for number, part in enumerate(parts, start=1):
            own, controls = means[place], means[place + 1 : place + len(part)]
            place += len(part)
            mean, deviation, p = beside_controls(own, controls)
            found.append(
                {
                    **pair.epochs,
                    "class": classes.names[name],
                    "images": len(few),
                    "part": number,
                    "units": len(part[0]),
                    "effect": float(seen.path[few].double().mean(0)[part[0]].sum()),
                    "set_back": float(own),
                    "control": float(mean),
                    "control_sd": float(deviation),
                    "p_value": float(p),
                }
            )
    return pd.DataFrame(found)
