"""Network Dissection: a unit detects the label whose pixels it fires on (Bau et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from concept_monitor_cli.functional.calibration import benjamini_hochberg, p_values
from concept_monitor_cli.functional.dissection import (
    CANDIDATES,
    IOU_DETECTOR,
    QUANTILE,
    TESTED,
    IoUCounts,
    LabelRule,
    Normaliser,
    RankedLabels,
    UnitMasks,
    candidate_ious,
    chance_p_values,
    iou,
    label_group_counts,
    ranked_labels,
    shuffled_support,
)
from concept_monitor_cli.functional.embedding import TOP_CONCEPTS, neuron_embedding_from_top
from concept_monitor_cli.lenses.base import Findings
from concept_monitor_cli.lenses.names.mask_halves import NamedHalf
from concept_monitor_cli.lenses.names.masked import MaskDetector, MaskedUnits, effect_beyond
from concept_monitor_cli.run import TableSchema
from concept_monitor_cli.run.kinds import READ, Shown

if TYPE_CHECKING:
    from concept_monitor_cli.options import DissectOptions
    from concept_monitor_cli.store import Entry
    from concept_monitor_cli.study.context import Context

# Times that the masks are laid over the wrong images; see `shuffled_support`.
ROUNDS = 20

# The best label of every unit in each category.
BY_CATEGORY = TableSchema.of_units(
    "by-category",
    {"category": "str", "concept": "str", "score": "float"},
    ("category",),
    shown=Shown("names", why_not=READ),
)


class NetworkDissection(MaskDetector):
    """Names a unit by a label whose pixels it fires on, and tests that label.

    By default it is the label with the highest supported IoU (`supported_iou`, the part of an IoU that does
    not hang on one image, or one group of copies); its plain IoU is the `score`. With the rule `iou` it is
    the label with the highest plain IoU, as in the literature. That one is often a rare label that a unit
    meets in a single image: the best plain IoU that chance reaches is of this kind.

    The p-value asks whether the label that the rule picks is supported more than the label that the same rule
    picks for masks laid over the wrong images. What is compared is the supported IoU of that label,
    unrestricted whatever the normaliser of the score (`TESTED`). Further labels of a unit, the best ones of
    each category and the number of detectors go by the same rule.

    Args:
        normaliser: see `MaskDetector`.
        top_concepts: how many concepts to keep per unit.
        fraction: see `MaskDetector`.
        rule: see above.
        stability: see `MaskDetector`.
    """

    name: ClassVar[str] = "network-dissection"
    summary: ClassVar[str] = "where it fires, by masks"
    paper: ClassVar[str] = "Bau et al., CVPR 2017"
    tables: ClassVar[tuple[TableSchema, ...]] = (BY_CATEGORY,)

    def __init__(
        self,
        normaliser: Normaliser = "category",
        top_concepts: int = 5,
        fraction: float = QUANTILE,
        rule: LabelRule = "supported",
        *,
        stability: bool = True,
    ) -> None:
        super().__init__(normaliser, fraction, stability=stability)
        self.top_concepts = top_concepts
        self.rule: LabelRule = rule

    @classmethod
    def from_options(cls, options: DissectOptions) -> NetworkDissection:
        """See `Detector`."""
        return cls(
            options.iou_normaliser or "category",
            options.top_concepts,
            rule=options.label_rule,
            stability=options.stability,
        )

    def settings(self) -> dict[str, Any]:
        """See `Detector`."""
        return {
            **super().settings(),
            "top_concepts": self.top_concepts,
            "rounds": ROUNDS,
            "moderated": True,
            "tested": f"supported-{TESTED}",
            "label_rule": self.rule,
        }

    def raw_scores(self, masks: UnitMasks, context: Context) -> NDArray[np.float64]:
        """The supported IoU of the label that every unit gets: `C`."""
        scores: NDArray[np.float64] = self._ranked(self.count(masks, context), 1).tested.numpy()
        return scores

    def _ranked(self, counts: IoUCounts, k: int) -> RankedLabels:
        return ranked_labels(counts, self.rule, self.normaliser, k)

    def named_on(self, masks: UnitMasks, context: Context) -> NamedHalf:
        """See `MaskDetector`."""
        counts = self.count(masks, context)
        ranked = self._ranked(counts, TOP_CONCEPTS)
        met = (ranked.ranked > 0) & torch.from_numpy(self.names_on_half(masks, context))[:, None]
        best = torch.where(met[:, 0], ranked.indices[:, 0], -1).tolist()
        texts = [context.labels.names[label] if label >= 0 else "" for label in best]
        labels = [label if label >= 0 else None for label in best]
        if context.encoder is None:
            return NamedHalf(labels, texts)
        vectors = context.embed_words(context.labels.names).cpu()
        values = iou(counts, self.normaliser).gather(1, ranked.indices).masked_fill(~met, torch.nan)
        places = neuron_embedding_from_top(values, ranked.indices, vectors)
        return NamedHalf(labels, texts, places)

    def ious_of(
        self, masks: UnitMasks, candidates: Sequence[Sequence[Any]], context: Context
    ) -> NDArray[np.float64]:
        """See `MaskDetector`."""
        most = max(len(each) for each in candidates)
        table = np.array([[*each, *[-1] * (most - len(each))] for each in candidates], dtype=np.int64)
        numbers = context.labels.category_numbers
        return candidate_ious(
            label_group_counts(context.labels, masks, table, numbers, context.groups, self.normaliser)
        )

    def find(
        self, entry: Entry, context: Context, *, untrained: Sequence[Entry] = (), matrix: bool = False
    ) -> Findings:
        """See `Detector`.

        `more` holds `by-category`: the best label of every live unit in each category, `unit`, `category`,
        `concept`, `score`.
        """
        labels, units = context.labels, self.read(entry, context)
        live = units.live
        counts = self.count(units.masks, context)
        plain = iou(counts, self.normaliser)
        ranked = self._ranked(counts, max(self.top_concepts, CANDIDATES))
        tested = ranked.tested.masked_fill(~live, torch.nan)
        null = self._null(units.masks, counts, context, untrained)
        p = p_values(tested, null) if null.ndim == 1 else chance_p_values(tested, null)
        interpretable = benjamini_hochberg(p, context.fdr)
        indices = ranked.indices[:, : self.top_concepts].numpy()
        met = ranked.ranked[:, : self.top_concepts].numpy() > 0
        values = plain.gather(1, torch.from_numpy(indices)).numpy()
        names = np.asarray(labels.names, dtype=object)
        kinds = np.asarray(labels.categories, dtype=object)
        detectors = met[:, 0] & (values[:, 0] > IOU_DETECTOR) & live.numpy()
        order = ranked_labels(counts, self.rule, self.normaliser, len(names))
        return Findings(
            concepts=np.where(met, names[indices], ""),
            categories=np.where(met, kinds[indices], ""),
            scores=np.where(met, values, np.nan).astype(np.float32),
            p_values=p.numpy(),
            interpretable=interpretable.numpy(),
            live=live.numpy(),
            sparse=units.sparse,
            effect=np.where(met[:, 0], effect_beyond(tested, null), np.nan),
            **self._sureness(units, ranked, names, context),
            notes=self.sparse_note(units),
            calibration={
                "sparse": int(units.sparse.sum()),
                "null": context.null,
                "draws": null.numel(),
                "fdr": context.fdr,
                "label_rule": self.rule,
                "interpretable": int(interpretable.sum()),
                "paper_constant": IOU_DETECTOR,
                "above_constant": int(detectors.sum()),
                "unique_detectors": len(np.unique(indices[detectors, 0])),
            },
            matrix=plain.float().numpy() if matrix else None,
            matrix_concepts=labels.names,
            more={BY_CATEGORY.name: _by_category(order, plain.numpy(), names, kinds, live.numpy())},
        )

    def _null(
        self, masks: UnitMasks, counts: IoUCounts, context: Context, untrained: Sequence[Entry]
    ) -> Tensor:
        """What is compared with: (R, C) draws of each unit, or one distribution of untrained networks."""
        if untrained:
            return torch.from_numpy(self.untrained_scores(untrained, context))
        return shuffled_support(
            context.labels,
            masks,
            counts,
            self.normaliser,
            rule=self.rule,
            groups=context.groups,
            rounds=ROUNDS,
            seed=context.seed,
        )

    def _sureness(
        self, units: MaskedUnits, ranked: RankedLabels, names: NDArray[np.object_], context: Context
    ) -> dict[str, Any]:
        """`stability` and `concept_set` of the findings, where they are wanted.

        A unit's ten best labels compete in the draws.
        """
        if not self.stability:
            return {}
        places = ranked.indices[:, :CANDIDATES].numpy()
        candidates = np.where(ranked.ranked[:, :CANDIDATES].numpy() > 0, places, -1)
        counts = label_group_counts(
            context.labels,
            units.masks,
            candidates,
            context.labels.category_numbers,
            context.groups,
            TESTED if self.rule == "supported" else self.normaliser,
        )
        sure = self.sureness(counts, self.rule, context)
        known = (candidates[:, 0] >= 0) & units.live.numpy()
        sets = [
            "; ".join(names[row[places]]) if each else ""
            for row, places, each in zip(candidates, sure.sets, known, strict=True)
        ]
        return {
            "stability": np.where(known, sure.stability, np.nan),
            "concept_set": np.array(sets, dtype=object),
        }


def _by_category(
    order: RankedLabels,
    scores: NDArray[np.float64],
    names: NDArray[np.object_],
    kinds: NDArray[np.object_],
    live: NDArray[np.bool_],
) -> dict[str, NDArray[Any]]:
    """The first label of every live unit in each category, of those that are among its labels.

    Args:
        order: all labels of every unit, best first.
        scores: (C, M).
        names: of the labels.
        kinds: their categories.
        live: (C,).
    """
    indices, met = order.indices.numpy(), order.ranked.numpy() > 0
    units, best = [], []
    for kind in dict.fromkeys(kinds):
        here = met & (kinds[indices] == kind)
        unit = np.flatnonzero(live & here.any(axis=1))
        units.append(unit)
        best.append(indices[unit, here[unit].argmax(axis=1)])
    unit = np.concatenate([*units, np.empty(0, dtype=np.int64)])
    label = np.concatenate([*best, np.empty(0, dtype=np.int64)])
    return {
        "unit": unit,
        "category": kinds[label],
        "concept": names[label],
        "score": scores[unit, label],
    }
