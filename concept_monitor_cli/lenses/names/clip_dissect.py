"""CLIP-Dissect: a unit is about what its favourite images are about (Oikarinen & Weng 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.calibration import (
    DRAWS,
    benjamini_hochberg,
    label_evidence,
    p_values,
    permuted_best_scores,
    pooled_p_values,
    random_top_images,
    standardised,
)
from concept_monitor_cli.functional.pairs import joined
from concept_monitor_cli.functional.similarity import ConceptActivations, cos, cos_cubed, pmi, rank_reorder
from concept_monitor_cli.functional.similarity.pmi import Evidence
from concept_monitor_cli.functional.topk import top_images, top_rows
from concept_monitor_cli.lenses.base import Detector, Findings, register_detector
from concept_monitor_cli.lenses.halves import Halves, Side, name_on_halves
from concept_monitor_cli.lenses.names.clip_pairs import PAIRS, pair_labels
from concept_monitor_cli.record.requests import Activations, Recording

if TYPE_CHECKING:
    from collections.abc import Callable

    from concept_monitor_cli.options import DissectOptions
    from concept_monitor_cli.store import Entry, Writer
    from concept_monitor_cli.study.context import Context

# Above this similarity the paper calls a unit interpretable (A.8). It was fitted to ImageNet's validation
# set and Broden with 20,000 words, and is reported beside the calibrated count, not used.
PAPER_CONSTANT = 0.16


@dataclass(frozen=True)
class _Rank:
    """A similarity of ranks of images alone: `E[k, m]` over the top images minus a prior over the layer."""

    evidence: Callable[..., Evidence]
    top_k: int
    a: float
    lam: float


RANKS = {
    "soft-wpmi": _Rank(pmi.soft_wpmi_evidence, pmi.SOFT_WPMI_TOP_K, pmi.SOFT_WPMI_A, pmi.SOFT_WPMI_LAM),
    "wpmi": _Rank(pmi.wpmi_evidence, pmi.WPMI_TOP_K, pmi.WPMI_A, pmi.WPMI_LAM),
}
# Similarities of the activations themselves, and how many permutations of the layer make their null:
# each costs a scoring of the whole layer, and rank-reorder's is dear.
VALUES: dict[str, tuple[Callable[..., Tensor], int]] = {
    "cos": (cos, 20),
    "cos-cubed": (cos_cubed, 20),
    "rank-reorder": (rank_reorder, 5),
}


@register_detector
class ClipDissect(Detector):
    """Names a unit by the concept whose activations over the probing images are most like its own.

    Args:
        similarity: one of the paper's five.
        top_concepts: how many concepts to keep per unit.
        pairs: also score pairs of this many of each unit's best concepts; 0 for none. The paper takes 100.
    """

    name: ClassVar[str] = "clip-dissect"
    needs_encoder: ClassVar[bool] = True

    def __init__(self, similarity: str = "soft-wpmi", top_concepts: int = 5, pairs: int = 0) -> None:
        if similarity not in RANKS and similarity not in VALUES:
            raise InputError(
                f"there is no similarity {similarity!r}",
                where="--similarity",
                hint=f"choose from {', '.join([*RANKS, *VALUES])}",
            )
        self.similarity = similarity
        self.top_concepts = top_concepts
        self.pairs = pairs

    @classmethod
    def from_options(cls, options: DissectOptions) -> ClipDissect:
        """See `Detector`."""
        return cls(options.similarity, options.top_concepts, options.pairs)

    @property
    def relative(self) -> bool:
        """See `Detector`: the prior of a concept is taken over the layer."""
        return self.similarity in RANKS

    def settings(self) -> dict[str, Any]:
        """See `Detector`."""
        settings: dict[str, Any] = {"similarity": self.similarity, "top_concepts": self.top_concepts}
        if self.pairs:
            settings["pairs"] = self.pairs
        if self.similarity in RANKS:
            rank = RANKS[self.similarity]
            settings.update(
                top_k=rank.top_k, a=rank.a, lam=rank.lam, tested="label-evidence-leave-one-out", order="exact"
            )
        else:
            settings["tested"] = "standardised"
        return settings

    def depends_on(self, context: Context) -> dict[str, str]:
        """See `Detector`."""
        return context.digests

    def recording(self, context: Context) -> Recording:
        """See `Detector`."""
        return Activations()

    def find(
        self, entry: Entry, context: Context, *, untrained: Sequence[Entry] = (), matrix: bool = False
    ) -> Findings:
        """See `Detector`.

        With `pairs`, `more` holds them: `unit`, `rank`, `concept` (the text), `first`, `second`, `score`, and
        `single_score`, that of the best single concept.
        """
        live = torch.from_numpy(entry.read("live").astype(bool))
        notes: tuple[str, ...] = ()
        if self.similarity in RANKS:
            scores, order, p, null, notes = self._by_ranks(entry, context, live, untrained)
        else:
            scores, p, null = self._by_values(entry, context, live, untrained)
            order = scores
        interpretable = benjamini_hochberg(p, context.fdr)
        indices, _ = top_rows(order, self.top_concepts)
        # Level scores may differ by rounding, in any order.
        values = scores.gather(1, indices).cummin(1).values
        names = np.asarray(context.concepts.concepts, dtype=object)
        kinds = np.asarray(context.concepts.categories, dtype=object)
        chosen = indices.cpu().numpy()
        calibration: dict[str, Any] = {
            "null": context.null,
            "draws": null,
            "fdr": context.fdr,
            "interpretable": int(interpretable.sum()),
        }
        if self.similarity == "soft-wpmi":
            above = (values[:, 0].cpu() > PAPER_CONSTANT) & live
            calibration.update(paper_constant=PAPER_CONSTANT, above_constant=int(above.sum()))
        return Findings(
            concepts=names[chosen],
            categories=kinds[chosen],
            scores=values.cpu().numpy(),
            p_values=p.cpu().numpy(),
            interpretable=interpretable.cpu().numpy(),
            live=live.numpy(),
            calibration=calibration,
            notes=notes,
            matrix=scores.cpu().numpy() if matrix else None,
            more={PAIRS: self._pairs(scores, live, entry, context)} if self.pairs else {},
        )

    def halves(self, entry: Entry, context: Context) -> Halves | None:
        """See `Detector`."""

        def score(side: Side) -> tuple[Tensor, Tensor]:
            images, texts = context.image_embeddings[side.rows], context.text_embeddings
            if self.similarity not in RANKS:
                scores = VALUES[self.similarity][0](
                    ConceptActivations.from_embeddings(images, texts), side.activations
                )
                return scores, scores
            rank = RANKS[self.similarity]
            # The softmax of an image is over all concepts: the same on either half.
            some = ConceptActivations.from_embeddings(
                images, texts, log_normalisers={rank.a: context.activations.log_normaliser(rank.a)[side.rows]}
            )
            evidence = rank.evidence(some, top_images(side.activations, rank.top_k)[0], a=rank.a)
            return evidence.order(rank.lam), evidence.scores(rank.lam)

        return name_on_halves(entry, context, score)

    def _pairs(self, scores: Tensor, live: Tensor, entry: Entry, context: Context) -> dict[str, NDArray[Any]]:
        """The best pairs of concepts of every live unit."""
        if self.similarity in RANKS:
            rank = RANKS[self.similarity]
            top = self._top_images(entry, rank.top_k, context)[0][:, live]

            def score(texts: Tensor) -> Tensor:
                joining = joined(context.activations, texts, rank.a)
                return rank.evidence(joining, top, a=rank.a).scores(rank.lam)

        else:
            function, _ = VALUES[self.similarity]
            pooled = torch.from_numpy(entry.read("pooled")[:, live.numpy()]).to(context.device)

            def score(texts: Tensor) -> Tensor:
                return function(ConceptActivations.from_embeddings(context.image_embeddings, texts), pooled)

        return pair_labels(scores, live, context, score, candidates=self.pairs, keep=self.top_concepts)

    def _by_ranks(
        self, entry: Entry, context: Context, live: Tensor, untrained: Sequence[Entry]
    ) -> tuple[Tensor, Tensor, Tensor, int, tuple[str, ...]]:
        """Scores, what sorts them, p-values, size of the null distribution, notes."""
        rank = RANKS[self.similarity]
        top, notes = self._top_images(entry, rank.top_k, context)
        evidence = rank.evidence(context.activations, top, a=rank.a)
        if untrained:
            parts = [
                rank.evidence(context.activations, self._top_images(other, rank.top_k, context)[0], a=rank.a)
                for other in untrained
            ]
            firing = torch.from_numpy(
                np.concatenate([other.read("live").astype(bool) for other in untrained])
            )
            null = Evidence(torch.cat([part.values for part in parts])[firing], parts[0].constant)
        else:
            null = self._null_evidence(context, rank, top.shape[0])
        if not live.any():
            nothing = torch.full(live.shape, torch.nan, dtype=torch.float64)
            return evidence.scores(rank.lam), evidence.values, nothing, 0, notes
        # The prior is that of the layer's live units. Dead units all tie to the first images: in a folder
        # sorted by class they would pass for detectors of the first class, and silence the one that is one.
        alive = evidence.among(live)
        found, chance = label_evidence(alive, null, lam=rank.lam)
        best = torch.full(live.shape, torch.nan)
        best[live] = found.cpu()
        scores, order = evidence.scored(rank.lam, live, alive)
        return scores, order, p_values(best, chance.cpu()), len(chance), notes

    def _by_values(
        self, entry: Entry, context: Context, live: Tensor, untrained: Sequence[Entry]
    ) -> tuple[Tensor, Tensor, int]:
        pooled = torch.from_numpy(entry.read("pooled")).to(context.device)
        scores, null = self._scores_and_chance(pooled, context)
        best = scores.amax(1).cpu().masked_fill(~live, torch.nan)
        if not untrained:
            return scores, pooled_p_values(best, null), null.numel()
        chance = torch.cat([self._untrained_excess(other, context) for other in untrained])
        return scores, p_values(standardised(best, null), chance), len(chance)

    def _scores_and_chance(self, pooled: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Scores `(C, M)`, and the best ones with the images of every unit permuted, `(B, C)`."""
        function, permutations = VALUES[self.similarity]

        def score(pooled: Tensor) -> Tensor:
            return function(context.activations, pooled)

        null = permuted_best_scores(score, pooled, permutations=permutations, seed=context.seed)
        return score(pooled), null.cpu()

    def _untrained_excess(self, entry: Entry, context: Context) -> Tensor:
        """How far the live units of an untrained network are beyond their own chance; kept."""
        key = context.store.key(
            "null",
            **context.digests,
            similarity=self.similarity,
            permutations=VALUES[self.similarity][1],
            recording=entry.key.digest,
            seed=context.seed,
        )

        def make(writer: Writer) -> None:
            pooled = torch.from_numpy(entry.read("pooled")).to(context.device)
            scores, null = self._scores_and_chance(pooled, context)
            live = torch.from_numpy(entry.read("live").astype(bool))
            writer.put("excess", standardised(scores.amax(1).cpu(), null)[live].numpy())

        with context.store.get_or_make(key, make) as kept:
            return torch.from_numpy(kept.read("excess"))

    def _top_images(self, entry: Entry, k: int, context: Context) -> tuple[Tensor, tuple[str, ...]]:
        """`K x C` image numbers; fewer than `k` rows, said so, where the probing set is smaller."""
        images = len(context.probe)
        used = min(k, images)
        notes: tuple[str, ...] = ()
        if used < k:
            notes = (
                f"the probing set has {images} images, so {self.similarity} looks at {used} instead of {k}",
            )
        top = torch.from_numpy(entry.read("top_images")[:, :used].T.copy())
        return top.to(context.device), notes

    def _null_evidence(self, context: Context, rank: _Rank, k: int) -> Evidence:
        """Evidence of random sets of images: the same for all layers, epochs and runs, so it is kept."""
        key = context.store.key(
            "null",
            **context.digests,
            similarity=self.similarity,
            top_k=k,
            a=rank.a,
            seed=context.seed,
            draws=DRAWS,
        )

        def make(writer: Writer) -> None:
            sets = random_top_images(
                context.activations.n_images, k, DRAWS, seed=context.seed, device=context.device
            )
            evidence = rank.evidence(context.activations, sets, a=rank.a)
            writer.put("values", evidence.values.cpu().numpy())
            writer.meta["constant"] = evidence.constant

        with context.store.get_or_make(key, make) as entry:
            return Evidence(torch.from_numpy(entry.read("values")).to(context.device), entry.meta["constant"])
