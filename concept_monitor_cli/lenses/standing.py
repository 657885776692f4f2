"""What detectors of whole images share: units that can be named, where concepts are, and luck."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.calibration import (
    above_null,
    benjamini_hochberg,
    p_values,
    pooled_p_values,
    standardised,
)
from concept_monitor_cli.functional.firing import firing

if TYPE_CHECKING:
    from concept_monitor_cli.store import Entry
    from concept_monitor_cli.study.context import Context


@dataclass(frozen=True)
class Standing:
    """How far the labels of a layer's units are beyond luck.

    Attributes:
        p: `(C,)` float64, how often luck reaches a unit's label; 1 for a live unit without one, NaN for one
            that is not live.
        effect: `(C,)` float64, the distance from luck in standard deviations of the null; NaN without one.
        interpretable: `(C,)` bool, calibrated over the layer.
        draws: how many numbers the null has.
    """

    p: Tensor
    effect: Tensor
    interpretable: Tensor
    draws: int

    def calibration(self, context: Context, sparse: Tensor, **more: Any) -> dict[str, Any]:
        """For `Findings.calibration`.

        Args:
            context: of the study.
            sparse: `(C,)`, units that fire on too few images to be named.
            more: what else the detector counts.
        """
        return {
            "null": context.null,
            "draws": self.draws,
            "fdr": context.fdr,
            "interpretable": int(self.interpretable.sum()),
            "sparse": int(sparse.sum()),
            **more,
        }


def standing(
    strength: Tensor,
    null: Tensor,
    *,
    live: Tensor,
    named: Tensor,
    fdr: float,
    of_untrained: bool,
    studentised: bool = True,
) -> Standing:
    """Compare how well labels fit with what luck gives.

    Args:
        strength: `(C,)` float64, how well each unit's label fits it; NaN for one that is not compared.
        null: `(V,)`, the same of units with random weights, or `(B, C)`, of the units with their images
            permuted `B` times.
        live: `(C,)`, units that can be named.
        named: `(C,)`, live units that have a label.
        fdr: share of false discoveries among those that are called interpretable.
        of_untrained: whether the null is of random weights.
        studentised: whether each unit is compared in standard deviations of its own draws; see
            `pooled_p_values`.
    """
    if of_untrained:
        p, effect = p_values(strength, null), above_null(strength, null)
    else:
        p = pooled_p_values(strength, null, studentised=studentised)
        effect = standardised(strength, null)
    p = torch.where(live & ~named, 1.0, p)
    return Standing(
        p,
        torch.where(named, effect, torch.nan),
        benjamini_hochberg(p, fdr) & named,
        null.numel(),
    )


def named_units(entry: Entry, context: Context) -> tuple[Tensor, Tensor, Tensor]:
    """Pooled activations `(N, C)` without NaN, live units that can be named, and sparse ones."""
    alive = torch.from_numpy(entry.read("live").astype(bool))
    pooled = torch.from_numpy(entry.read("pooled"))
    sparse = alive & firing(pooled, context.groups).sparse(context.groups.n_groups)
    live = alive & ~sparse
    return torch.where(live, pooled, 0.0), live, sparse


def known_presence(context: Context) -> Tensor:
    """On which images each of the run's concepts is: `(N, M)`, 1, 0, or NaN where nobody knows.

    Raises:
        InputError: nobody knows it of any concept.
    """
    presence = context.presence(context.concepts.concepts)
    if not bool((presence.source != "").any()):
        raise InputError(
            "nobody knows on which images the concepts are: they are no labels and no folders of "
            f"{context.probe.name}, and there is no encoder",
            where="--probe",
            hint="give images with labels or in folders of what they show, take their names as --concepts, "
            "or name an encoder: --encoder",
        )
    return presence.present


def presence_digests(context: Context) -> dict[str, str]:
    """What `known_presence` depends on, for keys."""
    digests = {
        "images": context.probe.digest,
        "concepts": context.concepts.digest,
        "groups": context.groups_digest,
        "names": hashlib.sha256("\n".join(context.probe.ids).encode()).hexdigest(),
    }
    if context.probe.has_masks:
        digests["annotations"] = context.labels.digest
    return (
        digests
        if context.encoder is None
        else {**context.digests, **digests, "pixels": context.digests["images"]}
    )
