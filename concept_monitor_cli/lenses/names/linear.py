"""Linear explanations: the few concepts that add up to what a unit does (Oikarinen & Weng 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from concept_monitor_cli.functional.calibration import (
    shuffled,
)
from concept_monitor_cli.functional.groups import ImageGroups, halves
from concept_monitor_cli.functional.held_out import held_out_auc
from concept_monitor_cli.functional.invert import FEWEST
from concept_monitor_cli.functional.linear import (
    LEAST_GAIN,
    MOST,
    Sums,
    correlations,
    predicted,
    sparse_sums,
    standardise,
    three_parts,
)
from concept_monitor_cli.lenses.base import Detector, Findings
from concept_monitor_cli.lenses.halves import LEAST_GROUPS as LEAST_OF_HALF
from concept_monitor_cli.lenses.halves import Halves, asked_units
from concept_monitor_cli.lenses.standing import known_presence, named_units, presence_digests, standing
from concept_monitor_cli.record.requests import Activations, Recording
from concept_monitor_cli.run import TableSchema
from concept_monitor_cli.run.kinds import BEHIND, Shown
from concept_monitor_cli.run.traits import LabelKind
from concept_monitor_cli.wording import sum_text

if TYPE_CHECKING:
    from concept_monitor_cli.options import DissectOptions
    from concept_monitor_cli.store import Entry
    from concept_monitor_cli.study.context import Context

# Times that the images of the last part are permuted; nothing is chosen there, so a draw is one correlation.
DRAWS = 100
# Groups of images that each part must have.
LEAST_GROUPS = 3

# The concepts of the sum of every unit, those with most weight first.
WEIGHTS = TableSchema.of_units(
    "weights",
    {"rank": "int", "concept": "str", "weight": "float", "gain": "float", "effect": "str"},
    ("rank",),
    shown=Shown("effects", why_not=BEHIND),
)


@dataclass(frozen=True)
class _Explained:
    """The sums of a layer, and how well they predict images that had no part in them.

    Attributes:
        sums: of every unit.
        says: `(n, C)`, what they say of the last part.
        does: `(n, C)`, what the units do there.
        r: `(C,)`, the correlation of both.
    """

    sums: Sums
    says: Tensor
    does: Tensor
    r: Tensor


class Linear(Detector):
    """Names a unit by a weighted sum of at most ten concepts, such as `0.6 dog + 0.3 snow - 0.2 grass`.

    Weights are in standard deviations of the unit for one of the concept's presence; a concept with a weight
    below zero inhibits the unit. They are fitted on half of the images, a quarter says when further concepts
    no longer help, and the score is the correlation of sum and activations on the last quarter. The category
    is that of the concept with most weight.

    The p-value asks whether that correlation is more than with the unit's images of the last quarter
    permuted, whole groups at a time: these had no part in choosing the sum that is printed.
    """

    name: ClassVar[str] = "linear"
    summary: ClassVar[str] = "a weighted sum of a few concepts"
    paper: ClassVar[str] = "Oikarinen & Weng, ICML 2024"
    labels: ClassVar[LabelKind] = "sums"
    uses_encoder: ClassVar[bool] = True
    tables: ClassVar[tuple[TableSchema, ...]] = (WEIGHTS,)

    @classmethod
    def from_options(cls, options: DissectOptions) -> Linear:
        """See `Detector`."""
        return cls()

    def settings(self) -> dict[str, Any]:
        """See `Detector`."""
        return {"most": MOST, "least_gain": LEAST_GAIN, "fewest": FEWEST, "draws": DRAWS}

    def depends_on(self, context: Context) -> dict[str, str]:
        """See `Detector`."""
        return presence_digests(context)

    def recording(self, context: Context) -> Recording:
        """See `Detector`."""
        return Activations()

    def find(
        self, entry: Entry, context: Context, *, untrained: Sequence[Entry] = (), matrix: bool = False
    ) -> Findings:
        """See `Detector`. The score matrix is the correlation with every concept, over all images.

        `more` holds `weights`: for every concept of a live unit's sum `unit`, `rank`, `concept`, `weight`,
        `gain` (the share of held-out variance that it added when it joined), `effect` (`excites`,
        `inhibits`).
        """
        pooled, live, sparse = named_units(entry, context)
        parts = three_parts(context.groups, seed=context.seed)
        explained = _explain(pooled, context, parts)
        named = live & (explained.sums.lengths > 0)
        notes: tuple[str, ...] = ()
        if not _enough(context.groups, parts):
            notes = (
                f"{context.groups.n_groups} images, or groups of them, are too few: {self.name} fits sums on "
                "some of them, stops by others, judges by the rest, and names no unit here",
            )
        r = explained.r.masked_fill(~named, torch.nan)
        if untrained:
            null = torch.cat([_of_untrained(other, context, parts) for other in untrained])
        else:
            null = self._null(explained, context, parts)
        found = standing(r, null, live=live, named=named, fdr=context.fdr, of_untrained=bool(untrained))
        texts, categories, weights = _told(explained.sums, named, context)
        return Findings(
            concepts=texts[:, None],
            categories=categories[:, None],
            scores=r.float().numpy()[:, None],
            p_values=found.p.numpy(),
            interpretable=found.interpretable.numpy(),
            live=live.numpy(),
            sparse=sparse.numpy(),
            effect=found.effect.numpy(),
            notes=notes,
            calibration=found.calibration(context, sparse, named=int(named.sum())),
            matrix=_single(pooled, context).float().numpy() if matrix else None,
            more={WEIGHTS.name: weights},
        )

    def halves(self, entry: Entry, context: Context) -> Halves | None:
        """See `Detector`: how well a sum of one half tells active images of the other half."""
        pooled, live, _ = named_units(entry, context)
        units = asked_units(live.numpy())
        if context.groups.n_groups < 2 * LEAST_OF_HALF or not len(units):
            return None
        first = torch.from_numpy(halves(context.groups, seed=context.seed))
        groups = [ImageGroups.read(context.groups.of[side.numpy()]) for side in (first, ~first)]
        parts = [three_parts(each, seed=context.seed) for each in groups]
        if not all(_enough(*each) for each in zip(groups, parts, strict=True)):
            return None
        columns, values = _concept_columns(context), pooled[:, torch.from_numpy(units)]
        texts, own, chance = [], [], []
        for side, part in zip((first, ~first), parts, strict=True):
            fitted_on = torch.zeros(len(values), dtype=torch.bool)
            fitted_on[side] = part == 0
            P, Q = standardise(columns, fitted_on), standardise(values, fitted_on)
            sums = sparse_sums(P[side], Q[side], part)
            named = sums.lengths > 0
            texts.append(_told(sums, named, context)[0])
            number = torch.where(named, torch.arange(len(units)), -1)
            found, luck = held_out_auc(Q[~side], predicted(sums, P[~side]), number)
            own.append(found)
            chance.append(luck)
        return Halves(
            units,
            texts[0],
            texts[1],
            np.full(len(units), np.nan),
            torch.stack(own).nanmean(0).numpy(),
            torch.stack(chance).nanmean(0).numpy(),
        )

    @staticmethod
    def _null(explained: _Explained, context: Context, parts: Tensor) -> Tensor:
        """Correlations with the images of the last part permuted: `(DRAWS, C)`."""
        if not len(explained.says):
            return torch.zeros(DRAWS, explained.says.shape[1], dtype=torch.float64)
        groups = ImageGroups.read(context.groups.of[(parts == 2).numpy()])
        seeds = range(context.seed * 100_003, context.seed * 100_003 + DRAWS)
        return torch.stack(
            [correlations(explained.says, shuffled(explained.does, groups=groups, seed=s)) for s in seeds]
        )


def _enough(groups: ImageGroups, parts: Tensor) -> bool:
    """Whether each part has enough groups of images."""
    return all(len(np.unique(groups.of[(parts == part).numpy()])) >= LEAST_GROUPS for part in range(3))


def _concept_columns(context: Context) -> Tensor:
    """How much of each concept is on each image, `(N, M)`: similarity where the encoder says it.

    A concept on fewer than `FEWEST` images, or missing on fewer, is the same on all and joins no sum.
    """
    known_presence(context)  # refuses concepts that nobody knows
    presence = context.presence(context.concepts.concepts)
    on, off = ((presence.present == value).sum(0) for value in (1, 0))
    columns = torch.where(presence.similarity.isnan(), presence.present, presence.similarity).double()
    return torch.where((on >= FEWEST) & (off >= FEWEST), columns, torch.nan)


def _explain(pooled: Tensor, context: Context, parts: Tensor) -> _Explained:
    units = pooled.shape[1]
    if not _enough(context.groups, parts):
        empty = torch.zeros(0, units, dtype=torch.float64)
        nothing = torch.full((units, MOST), -1, dtype=torch.int64)
        sums = Sums(
            nothing, torch.zeros(units, MOST, dtype=torch.float64), torch.full((units, MOST), torch.nan)
        )
        return _Explained(sums, empty, empty, torch.zeros(units, dtype=torch.float64))
    P = standardise(_concept_columns(context), parts == 0)
    Q = standardise(pooled, parts == 0)
    sums = sparse_sums(P, Q, parts)
    last = parts == 2
    says, does = predicted(sums, P[last]), Q[last]
    return _Explained(sums, says, does, correlations(says, does))


def _of_untrained(entry: Entry, context: Context, parts: Tensor) -> Tensor:
    """The correlations of the live units of a network with random weights; 0 without a sum."""
    pooled, live, _ = named_units(entry, context)
    return _explain(pooled, context, parts).r[live]


def _single(pooled: Tensor, context: Context) -> Tensor:
    """The correlation of every unit with every concept, `(C, M)`."""
    everything = torch.ones(len(pooled), dtype=torch.bool)
    P, Q = standardise(_concept_columns(context), everything), standardise(pooled, everything)
    return Q.T @ P / len(pooled)


def _told(
    sums: Sums, named: Tensor, context: Context
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], dict[str, np.ndarray[Any, Any]]]:
    """The text and the category of every unit, and the table of weights."""
    names, kinds = context.concepts.concepts, context.concepts.categories
    texts, categories = (np.full(len(sums.concepts), "", dtype=object) for _ in range(2))
    rows: list[tuple[int, int, str, float, float, str]] = []
    for unit in torch.nonzero(named)[:, 0].tolist():
        terms = sorted(
            (
                (weight, names[concept], gain, kinds[concept])
                for concept, weight, gain in zip(
                    sums.concepts[unit].tolist(),
                    sums.weights[unit].tolist(),
                    sums.gains[unit].tolist(),
                    strict=True,
                )
                if concept >= 0
            ),
            key=lambda term: -abs(term[0]),
        )
        texts[unit] = sum_text([(weight, name) for weight, name, _, _ in terms])
        categories[unit] = terms[0][3]
        rows += [
            (unit, rank, name, weight, gain, "excites" if weight > 0 else "inhibits")
            for rank, (weight, name, gain, _) in enumerate(terms, start=1)
        ]
    columns = list(zip(*rows, strict=True)) if rows else [()] * 6
    kinds_of = (np.int64, np.int64, object, np.float64, np.float64, object)
    table = {
        column: np.array(values, dtype=kind)
        for column, values, kind in zip(
            ("unit", "rank", "concept", "weight", "gain", "effect"), columns, kinds_of, strict=True
        )
    }
    return texts, categories, table
