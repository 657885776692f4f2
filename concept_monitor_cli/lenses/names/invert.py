"""INVERT: a unit is about what tells the images that excite it from the others (Bykov et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from concept_monitor_cli.functional.calibration import (
    PERMUTATIONS,
    shuffled,
)
from concept_monitor_cli.functional.groups import halves
from concept_monitor_cli.functional.held_out import held_out_auc
from concept_monitor_cli.functional.invert import (
    FEWEST,
    LARGEST_SHARE,
    MOST_CONCEPTS,
    BestFormulas,
    FormulaTable,
    PresenceFormula,
    mann_whitney,
)
from concept_monitor_cli.functional.topk import top_rows
from concept_monitor_cli.lenses.base import Detector, Findings
from concept_monitor_cli.lenses.halves import LEAST_GROUPS, Halves, asked_units
from concept_monitor_cli.lenses.standing import known_presence, named_units, presence_digests, standing
from concept_monitor_cli.record.requests import Activations, Recording
from concept_monitor_cli.run import TableSchema
from concept_monitor_cli.run.traits import LabelKind

if TYPE_CHECKING:
    from concept_monitor_cli.options import DissectOptions
    from concept_monitor_cli.store import Entry
    from concept_monitor_cli.study.context import Context

# Formulas of other units that each unit is asked on the other half: their mean is chance.
_OTHERS = 8

# What is known of the formula of every unit.
FORMULAS = TableSchema.of_units(
    "formulas",
    {
        "concept": "str",
        "auc": "float",
        "images": "int",
        "counted": "int",
        "z": "float",
        "mann_whitney": "float",
        "tried": "int",
    },
)


class Invert(Detector):
    """Names a unit by the formula whose images excite it more than other images do, with the highest AUC.

    Formulas are a concept, two with OR, AND or AND NOT, or NOT one of these, on images where it is known
    whether they hold: from the labels of the probing set, the folders that its images lie in, or, of concepts
    that neither knows, the encoder. The first row of a unit is its best formula, further rows are the best
    single concepts. The category of a formula is that of its first concept.

    The p-value asks whether the rank sum of that formula (Mann-Whitney's z) is farther from chance than those
    of the formulas that the same rule picks with the images of the unit permuted, whole groups at a time:
    that corrects for all formulas tried and for copies. `mann_whitney` in the table of formulas is the
    textbook's, times the number of formulas.

    Args:
        top_concepts: how many rows to keep per unit.
        pairs: whether to try two concepts.
    """

    name: ClassVar[str] = "invert"
    summary: ClassVar[str] = "the concepts whose images excite it more than others do"
    paper: ClassVar[str] = "Bykov et al., NeurIPS 2023"
    labels: ClassVar[LabelKind] = "formulas"
    uses_encoder: ClassVar[bool] = True
    tables: ClassVar[tuple[TableSchema, ...]] = (FORMULAS,)

    def __init__(self, top_concepts: int = 5, *, pairs: bool = True) -> None:
        self.top_concepts, self.pairs = top_concepts, pairs

    @classmethod
    def from_options(cls, options: DissectOptions) -> Invert:
        """See `Detector`."""
        return cls(options.top_concepts, pairs=options.length > 1)

    def settings(self) -> dict[str, Any]:
        """See `Detector`."""
        return {
            "top_concepts": self.top_concepts,
            "pairs": self.pairs,
            "fewest": FEWEST,
            "largest_share": LARGEST_SHARE,
            "most_concepts": MOST_CONCEPTS,
            "permutations": PERMUTATIONS,
        }

    def depends_on(self, context: Context) -> dict[str, str]:
        """See `Detector`."""
        return presence_digests(context)

    def recording(self, context: Context) -> Recording:
        """See `Detector`."""
        return Activations()

    def find(
        self, entry: Entry, context: Context, *, untrained: Sequence[Entry] = (), matrix: bool = False
    ) -> Findings:
        """See `Detector`. The score matrix is the AUC of every concept alone; NaN where it is not tried.

        `more` holds `formulas`: for every live unit `unit`, `concept`, `auc`, `images` (on which it holds),
        `counted` (of how many), `z`, `mann_whitney`, `tried`.
        """
        pooled, live, sparse = named_units(entry, context)
        present = known_presence(context)
        table, notes = self._table(present)
        best = table.best(pooled)
        z = best.z.masked_fill(~live, torch.nan)
        named = live & torch.tensor([formula is not None for formula in best.formulas])
        if untrained:
            null = torch.cat([self._strengths(other, context, table) for other in untrained])
        else:
            z = z.clamp_min(0)
            null = torch.stack(
                [
                    table.best(shuffled(pooled, groups=context.groups, seed=context.seed * 100_003 + b)).z
                    for b in range(PERMUTATIONS)
                ]
            ).clamp_min(0)
        found = standing(
            z,
            null,
            live=live,
            named=named,
            fdr=context.fdr,
            of_untrained=bool(untrained),
            studentised=False,
        )
        auc, _ = table.singles(pooled)
        concepts, categories, scores = self._rows(best, auc, named, context)
        textbook = mann_whitney(best.z, table.n_formulas)
        units = torch.nonzero(named)[:, 0].numpy()
        return Findings(
            concepts=concepts,
            categories=categories,
            scores=scores,
            p_values=found.p.numpy(),
            interpretable=found.interpretable.numpy(),
            live=live.numpy(),
            sparse=sparse.numpy(),
            effect=found.effect.numpy(),
            notes=notes,
            calibration=found.calibration(context, sparse, tried=table.n_formulas),
            matrix=auc.float().numpy() if matrix else None,
            more={
                FORMULAS.name: {
                    "unit": units,
                    "concept": concepts[units, 0],
                    "auc": best.auc.numpy()[units],
                    "images": best.shown.numpy()[units],
                    "counted": best.counted.numpy()[units],
                    "z": best.z.numpy()[units],
                    "mann_whitney": textbook.numpy()[units],
                    "tried": np.full(len(units), table.n_formulas),
                }
            },
        )

    def _table(self, present: Tensor) -> tuple[FormulaTable, tuple[str, ...]]:
        """The formulas that can be tried, and what the user should know of them."""
        table = FormulaTable(present, pairs=False)
        notes = []
        if not table.n_formulas:
            notes.append(
                f"no concept is on {FEWEST} images or more and on at most {LARGEST_SHARE:.0%} of those that "
                f"were labelled with its kind, so {self.name} names no unit: give more labelled images"
            )
        elif self.pairs and present.shape[1] > MOST_CONCEPTS:
            notes.append(
                f"{self.name} tries single concepts only: {present.shape[1]:,} concepts make too many pairs, "
                f"{MOST_CONCEPTS} are the most (--concepts with fewer)"
            )
        elif self.pairs:
            table = FormulaTable(present)
        return table, tuple(notes)

    def _strengths(self, entry: Entry, context: Context, table: FormulaTable) -> Tensor:
        """`z` of the formulas of a network with random weights."""
        pooled, live, _ = named_units(entry, context)
        return table.best(pooled).z[live].clamp_min(0)

    def _rows(
        self, best: BestFormulas, auc: Tensor, named: Tensor, context: Context
    ) -> tuple[NDArray[np.object_], NDArray[np.object_], NDArray[np.float32]]:
        """The best formula of every unit, then its best single concepts."""
        names = tuple(context.concepts.concepts)
        kinds = context.concepts.categories
        # The concept or its negation, whichever is above one half.
        clear = (auc - 0.5).abs().nan_to_num(-1.0)
        found, strength = top_rows(clear, min(self.top_concepts, clear.shape[1]))
        shape = (len(best.formulas), self.top_concepts)
        concepts, categories = (np.full(shape, "", dtype=object) for _ in range(2))
        scores = np.full(shape, np.nan, dtype=np.float32)
        for unit in torch.nonzero(named)[:, 0].tolist():
            formula = best.formulas[unit]
            assert formula is not None
            rows = [(formula, float(best.auc[unit]))]
            for concept, above in zip(found[unit].tolist(), strength[unit].tolist(), strict=True):
                single = PresenceFormula(concept, negated=bool(auc[unit, concept] < 0.5))
                if above >= 0 and single != formula:
                    rows.append((single, above + 0.5))
            for rank, (each, score) in enumerate(rows[: self.top_concepts]):
                concepts[unit, rank] = each.text(names)
                categories[unit, rank] = kinds[each.first]
                scores[unit, rank] = score
        return concepts, categories, scores

    def halves(self, entry: Entry, context: Context) -> Halves | None:
        """See `Detector`: how well a formula of one half tells active images of the other half."""
        pooled, live, _ = named_units(entry, context)
        units = asked_units(live.numpy())
        if context.groups.n_groups < 2 * LEAST_GROUPS or not len(units):
            return None
        present, names = known_presence(context), tuple(context.concepts.concepts)
        first = torch.from_numpy(halves(context.groups, seed=context.seed))
        sides = (first, ~first)
        values = pooled[:, torch.from_numpy(units)]
        named = [self._table(present[side])[0].best(values[side]) for side in sides]
        asked = [
            _asked(named[here], values[sides[1 - here]], present[sides[1 - here]], context.seed)
            for here in (0, 1)
        ]
        own, chance = (torch.stack(pair).nanmean(0).numpy() for pair in zip(*asked, strict=True))
        texts = [
            np.array(["" if each is None else each.text(names) for each in found.formulas], dtype=object)
            for found in named
        ]
        return Halves(units, texts[0], texts[1], np.full(len(units), np.nan), own, chance)


def _asked(best: BestFormulas, Q: Tensor, present: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """How well formulas predict images that they were not found on, and other units' formulas do."""
    known = [formula for formula in best.formulas if formula is not None]
    own, chance = (torch.full((Q.shape[1],), torch.nan, dtype=torch.float64) for _ in range(2))
    if not known:
        return own, chance
    distinct = list(dict.fromkeys(known))
    auc = torch.stack([_predicts(formula.holds(present), Q) for formula in distinct], 1)
    number = {formula: column for column, formula in enumerate(distinct)}
    generator = np.random.default_rng(seed)
    for unit, formula in enumerate(best.formulas):
        if formula is None:
            continue
        own[unit] = auc[unit, number[formula]]
        others = [other for other in known if other != formula]
        if others:
            drawn = generator.choice(len(others), min(_OTHERS, len(others)), replace=False)
            chance[unit] = auc[unit, [number[others[place]] for place in drawn]].nanmean()
    return own, chance


def _predicts(holds: Tensor, Q: Tensor) -> Tensor:
    """How well a formula tells the images on which each unit is active from the others: `(C,)`, an AUC."""
    known = ~holds.isnan()
    if not bool(known.any()):
        return torch.full((Q.shape[1],), torch.nan, dtype=torch.float64)
    column = torch.zeros(Q.shape[1], dtype=torch.int64)
    return held_out_auc(Q[known], holds[known][:, None], column)[0]
