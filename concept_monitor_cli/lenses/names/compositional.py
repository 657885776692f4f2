"""Compositional explanations: the formula that a unit fires on (Mu & Andreas 2020)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from concept_monitor_cli.functional.calibration import benjamini_hochberg, p_values, pooled_p_values
from concept_monitor_cli.functional.compositional import (
    BEAM,
    LENGTH,
    MOST_LOOKS,
    CellCounter,
    Formula,
    SearchKind,
    SearchResult,
    count_cells,
    formula_group_counts,
    search_formulas,
    supported_formulas,
)
from concept_monitor_cli.functional.dissection import (
    CANDIDATES,
    IOU_DETECTOR,
    QUANTILE,
    IoUCounts,
    Normaliser,
    UnitMasks,
    candidate_ious,
    iou,
    shuffled_masks,
)
from concept_monitor_cli.lenses.base import Findings
from concept_monitor_cli.lenses.names.mask_halves import NamedHalf
from concept_monitor_cli.lenses.names.masked import MaskDetector, MaskedUnits, effect_beyond
from concept_monitor_cli.run import TableSchema
from concept_monitor_cli.run.traits import LabelKind

if TYPE_CHECKING:
    from concept_monitor_cli.options import DissectOptions
    from concept_monitor_cli.probe import LabelledImages
    from concept_monitor_cli.store import Entry
from concept_monitor_cli.study.context import Context

# Times that the masks are laid over the wrong images: each costs a search of the whole layer. With 20 a
# single unit can pass Benjamini-Hochberg at 0.05; a large layer has enough draws in all with 3.
FEWEST_DRAWS, MOST_DRAWS = 3, 20
SEARCHES = 600

# The best formula of every unit with at most this many concepts.
LENGTHS = TableSchema.of_units(
    "lengths",
    {"length": "int", "concept": "str", "score": "float", "gap": "float", "proved": "bool"},
    ("length",),
)


@dataclass(frozen=True)
class _Found:
    """What a search says of the units of one set of masks."""

    counts: IoUCounts
    results: list[SearchResult]
    supported: NDArray[np.float64]


class Compositional(MaskDetector):
    """Names a unit by the formula of labels with the highest IoU with the pixels on which it fires most.

    The rows of a unit are the best formula of at most `length` labels, then the best one of fewer, down to
    the single label; where a longer one is no better there is no row for it. The category of a formula is the
    one that most of its labels have, those after NOT left out; of several, that of the label that overlaps
    the unit best.

    Of formulas of at most three labels the best one is guaranteed where `lengths` says `proved`.

    The p-value compares the part of the best formula's IoU that does not hang on one image
    (`supported_formulas`) with those that the same search finds for masks laid over the wrong images: longer
    formulas fit anything better, and so they do there. What is tested is the formula that is printed.

    Args:
        normaliser: see `MaskDetector`; `none` is this literature's.
        length: most labels in a formula.
        beam: formulas kept at each length.
        search: `optimal`, `beam` or `auto`; see `search_formulas`.
        fraction: see `MaskDetector`.
        stability: see `MaskDetector`. The best formulas of the beam compete in the draws.
    """

    name: ClassVar[str] = "compositional"
    summary: ClassVar[str] = "where it fires, by masks, with OR, AND, AND NOT"
    paper: ClassVar[str] = "Mu & Andreas, NeurIPS 2020"
    labels: ClassVar[LabelKind] = "formulas"
    tables: ClassVar[tuple[TableSchema, ...]] = (LENGTHS,)

    def __init__(
        self,
        normaliser: Normaliser = "none",
        length: int = LENGTH,
        beam: int = BEAM,
        fraction: float = QUANTILE,
        *,
        search: SearchKind = "auto",
        stability: bool = True,
    ) -> None:
        super().__init__(normaliser, fraction, stability=stability)
        self.length, self.beam = length, beam
        self.search: SearchKind = search

    @classmethod
    def from_options(cls, options: DissectOptions) -> Compositional:
        """See `Detector`."""
        return cls(
            options.iou_normaliser or "none",
            options.length,
            options.beam,
            search=options.search,
            stability=options.stability,
        )

    def settings(self) -> dict[str, Any]:
        """See `Detector`."""
        return {
            **super().settings(),
            "length": self.length,
            "beam": self.beam,
            "search": self.search,
            "most_looks": MOST_LOOKS,
            "draws": [FEWEST_DRAWS, MOST_DRAWS, SEARCHES],
            "tested": "supported",
        }

    def raw_scores(self, masks: UnitMasks, context: Context) -> NDArray[np.float64]:
        """The supported IoU of every unit's best formula: `C`; 0 for a unit that meets no label."""
        return self._search([masks], context)[0].supported

    def _search(self, parts: Sequence[UnitMasks], context: Context) -> list[_Found]:
        """Search several sets of masks over the same images, with two passes over the labels."""
        labels = context.labels
        counters = [CellCounter(masks.n_units, len(labels.names)) for masks in parts]
        count_cells(labels, list(zip(counters, parts, strict=True)))
        counts = [self.count(masks, context) for masks in parts]
        results = [
            search_formulas(
                counter.cells(),
                each,
                length=self.length,
                beam=self.beam,
                normaliser=self.normaliser,
                search=self.search,
            )
            for counter, each in zip(counters, counts, strict=True)
        ]
        best = [[each.best[-1] if each.best else None for each in found] for found in results]
        supported = supported_formulas(labels, list(zip(parts, best, strict=True)), context.groups)
        return [_Found(*each) for each in zip(counts, results, supported, strict=True)]

    @staticmethod
    def _seeds(context: Context, units: int) -> range:
        draws = max(FEWEST_DRAWS, min(MOST_DRAWS, SEARCHES // max(1, units)))
        return range(context.seed * 1009, context.seed * 1009 + draws)

    def named_on(self, masks: UnitMasks, context: Context) -> NamedHalf:
        """See `MaskDetector`. Formulas have no place in the space of words."""
        (found,) = self._search([masks], context)
        fires, words = self.names_on_half(masks, context), FormulaWords(context.labels)
        best = [
            each.best[-1].formula if each.best and fires[unit] else None
            for unit, each in enumerate(found.results)
        ]
        return NamedHalf(best, ["" if each is None else words.text(each) for each in best])

    def ious_of(
        self, masks: UnitMasks, candidates: Sequence[Sequence[Any]], context: Context
    ) -> NDArray[np.float64]:
        """See `MaskDetector`."""
        numbers = context.labels.category_numbers
        return candidate_ious(
            formula_group_counts(context.labels, masks, candidates, numbers, context.groups, self.normaliser)
        )

    def find(
        self, entry: Entry, context: Context, *, untrained: Sequence[Entry] = (), matrix: bool = False
    ) -> Findings:
        """See `Detector`. There is no score matrix of formulas; with `matrix` it is that of single labels.

        `more` holds `lengths`: for every live unit and length the best formula of at most that many labels,
        `unit`, `length`, `concept`, `score`, `gap` (by how much a formula of so many could be better at
        most) and `proved` (none is better).
        """
        units, labels = self.read(entry, context), context.labels
        masks, live = units.masks, units.live
        seeds = () if untrained else self._seeds(context, masks.n_units)
        chance = [shuffled_masks(masks, groups=context.groups, seed=seed) for seed in seeds]
        true, *draws = self._search([masks, *chance], context)
        explained = [each.best for each in true.results]
        best = torch.tensor([each[-1].iou if each else 0.0 for each in explained], dtype=torch.float64)
        supported = torch.from_numpy(true.supported).masked_fill(~live, torch.nan)
        if untrained:
            null = torch.from_numpy(self.untrained_scores(untrained, context))
            p = p_values(supported, null)
        else:
            null = torch.from_numpy(np.stack([draw.supported for draw in draws]))
            p = pooled_p_values(supported, null, studentised=False)
        interpretable = benjamini_hochberg(p, context.fdr)
        single = iou(true.counts, self.normaliser).numpy()
        words = FormulaWords(labels)
        concepts = np.full((len(live), self.length), "", dtype=object)
        categories = concepts.copy()
        scores = np.full(concepts.shape, np.nan, dtype=np.float32)
        for unit, each in enumerate(explained):
            distinct = dict.fromkeys(reversed([step.formula for step in each]))
            ious = {step.formula: step.iou for step in each}
            for rank, formula in enumerate(distinct):
                concepts[unit, rank] = words.text(formula)
                categories[unit, rank] = words.category(formula, single[unit])
                scores[unit, rank] = ious[formula]
        steps = [
            (unit, length, words.text(step.formula), step.iou, gap)
            for unit, each in enumerate(true.results)
            if live[unit]
            for length, (step, gap) in enumerate(zip(each.best, each.gaps, strict=True), start=1)
        ]
        above = (best > IOU_DETECTOR) & live
        return Findings(
            concepts=concepts,
            categories=categories,
            scores=scores,
            p_values=p.numpy(),
            interpretable=interpretable.numpy(),
            live=live.numpy(),
            sparse=units.sparse,
            effect=np.where(concepts[:, 0] != "", effect_beyond(supported, _of_live(null, live)), np.nan),
            **self._sureness(units, true.results, words, context),
            notes=self.sparse_note(units),
            calibration={
                "sparse": int(units.sparse.sum()),
                "null": context.null,
                "draws": null.numel(),
                "fdr": context.fdr,
                "interpretable": int(interpretable.sum()),
                "paper_constant": IOU_DETECTOR,
                "above_constant": int(above.sum()),
                "unique_detectors": len(set(concepts[above.numpy(), 0])),
                "proved": sum(
                    bool(live[u]) and each.gaps[-1:] == [0.0] for u, each in enumerate(true.results)
                ),
            },
            matrix=single.astype(np.float32) if matrix else None,
            matrix_concepts=labels.names,
            more={
                LENGTHS.name: {
                    "unit": np.array([step[0] for step in steps], dtype=np.int64),
                    "length": np.array([step[1] for step in steps], dtype=np.int64),
                    "concept": np.array([step[2] for step in steps], dtype=object),
                    "score": np.array([step[3] for step in steps], dtype=np.float64),
                    "gap": np.array([step[4] for step in steps], dtype=np.float64),
                    "proved": np.array([step[4] == 0 for step in steps], dtype=bool),
                }
            },
        )

    def _sureness(
        self, units: MaskedUnits, results: Sequence[SearchResult], words: FormulaWords, context: Context
    ) -> dict[str, Any]:
        """`stability` and `concept_set` of the findings, where they are wanted."""
        if not self.stability:
            return {}
        candidates = [[each.formula for each in found.beam[:CANDIDATES]] for found in results]
        numbers = context.labels.category_numbers
        counts = formula_group_counts(
            context.labels, units.masks, candidates, numbers, context.groups, self.normaliser
        )
        sure = self.sureness(counts, "iou", context)
        known = np.array([len(each) > 0 for each in candidates]) & units.live.numpy()
        sets = [
            "; ".join(words.text(formulas[place]) for place in places) if each else ""
            for formulas, places, each in zip(candidates, sure.sets, known, strict=True)
        ]
        return {
            "stability": np.where(known, sure.stability, np.nan),
            "concept_set": np.array(sets, dtype=object),
        }


def _of_live(null: Tensor, live: Tensor) -> Tensor:
    """The draws of all live units as one: a few draws are too few for a spread of each unit's own."""
    return null if null.ndim == 1 else null[:, live].flatten()


class FormulaWords:
    """Formulas as a reader sees them."""

    def __init__(self, labels: LabelledImages) -> None:
        self._names, self._categories = labels.names, labels.categories
        often = Counter(labels.names)
        # The colour and the fruit must not look the same in a formula, which has one category for both.
        self._told_apart = [
            f"{name} [{category}]" if often[name] > 1 else name
            for name, category in zip(labels.names, labels.categories, strict=True)
        ]

    def text(self, formula: Formula) -> str:
        """Such as `(water OR river) AND NOT blue`; a single label as in Network Dissection."""
        return formula.text(self._names if formula.length == 1 else self._told_apart)

    def category(self, formula: Formula, overlap: NDArray[np.float64]) -> str:
        """The category of most labels; see `Compositional`."""
        meant = sorted(_positive(formula), key=lambda label: (-overlap[label], label))
        # Counter keeps the order of first occurrence among equals.
        return Counter(self._categories[label] for label in meant).most_common(1)[0][0]


def _positive(formula: Formula) -> list[int]:
    """The labels that are not after NOT."""
    return [*([] if formula.inner is None else _positive(formula.inner)), *formula.concepts]
