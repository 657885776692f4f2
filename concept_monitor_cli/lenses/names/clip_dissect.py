"""CLIP-Dissect: a unit is about what its favourite images are about (Oikarinen & Weng 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from concept_monitor_cli.functional._blocks import spans
from concept_monitor_cli.functional.calibration import DRAWS, benjamini_hochberg
from concept_monitor_cli.functional.evaluation.cutoff import PAPER_CONSTANT
from concept_monitor_cli.functional.firing import MIN_GROUPS, firing
from concept_monitor_cli.functional.similarity.pmi import compile_products
from concept_monitor_cli.functional.similarity.registry import (
    LEAST_REORDERED,
    RankSimilarity,
    reordered_images,
    similarity_named,
)
from concept_monitor_cli.functional.similarity.reorder import TOP_FRACTION
from concept_monitor_cli.functional.stability import concept_sets
from concept_monitor_cli.functional.topk import top_rows
from concept_monitor_cli.lenses.base import Detector, Findings
from concept_monitor_cli.lenses.halves import Halves, Side, name_on_halves
from concept_monitor_cli.lenses.names.clip_named import Named
from concept_monitor_cli.lenses.names.clip_pairs import PAIRS, pair_labels
from concept_monitor_cli.lenses.names.clip_ranks import FEW_UNITS, RankedLayer
from concept_monitor_cli.lenses.names.clip_values import RANDOM_SETS, ValuedLayer
from concept_monitor_cli.lenses.similarity import layer_by
from concept_monitor_cli.models.allocator import give_back_freed_memory
from concept_monitor_cli.record.requests import Activations, Recording
from concept_monitor_cli.run import TableSchema, traits
from concept_monitor_cli.wording import counted

if TYPE_CHECKING:
    from concept_monitor_cli.options import DissectOptions
    from concept_monitor_cli.store import Entry
    from concept_monitor_cli.study.context import Context

# With fewer groups of images planted units are hardly told from chance by any similarity; see
# docs/calibration.md.
FEW_GROUPS = 20
# Images whose activations are moved at a time.
_ROWS = 4096


class ClipDissect(Detector):
    """Names a unit by the concept whose activations over the probing images are most like its own.

    Args:
        similarity: one of the paper's five.
        top_concepts: how many concepts to keep per unit.
        pairs: also score pairs of this many of each unit's best concepts; 0 for none. The paper takes 100.
        top_k: images of a unit that similarities of ranks look at, one of each group; `None` for what suits
            the number of groups.
        stability: draw the images again to say how sure the concepts are.
    """

    name: ClassVar[str] = "clip-dissect"
    summary: ClassVar[str] = "what the unit's favourite images are about"
    paper: ClassVar[str] = "Oikarinen & Weng, ICLR 2023"
    evidence: ClassVar[traits.Evidence] = "similarity"
    tables: ClassVar[tuple[TableSchema, ...]] = (PAIRS,)
    default: ClassVar[bool] = True
    needs_encoder: bool = True

    def __init__(
        self,
        similarity: str = "soft-wpmi",
        top_concepts: int = 5,
        pairs: int = 0,
        *,
        top_k: int | None = None,
        stability: bool = True,
    ) -> None:
        self.similarity = similarity_named(similarity)
        self.top_concepts = top_concepts
        self.pairs = pairs
        self.top_k = top_k
        self.stability = stability

    @classmethod
    def from_options(cls, options: DissectOptions) -> ClipDissect:
        """See `Detector`."""
        return cls(
            options.similarity,
            options.top_concepts,
            options.pairs,
            top_k=options.top_k,
            stability=options.stability,
        )

    @property
    def relative(self) -> bool:
        """See `Detector`: the prior of a concept is taken over the layer."""
        return isinstance(self.similarity, RankSimilarity)

    def settings(self) -> dict[str, Any]:
        """See `Detector`. `top_k` is null where the number of groups decides (`RankSimilarity.images`)."""
        settings: dict[str, Any] = {
            "similarity": self.similarity.name,
            "top_concepts": self.top_concepts,
            "stability": self.stability,
        }
        if self.pairs:
            settings["pairs"] = self.pairs
        if isinstance(self.similarity, RankSimilarity):
            settings.update(top_k=self.top_k, a=self.similarity.a, lam=self.similarity.lam, few=FEW_UNITS)
        if self.similarity.name == "rank-reorder":
            settings.update(top_fraction=TOP_FRACTION, least=LEAST_REORDERED, chance=RANDOM_SETS)
        return settings

    def depends_on(self, context: Context) -> dict[str, str]:
        """See `Detector`."""
        return context.digests

    def recording(self, context: Context) -> Recording:
        """See `Detector`."""
        return Activations()

    def prepare(self, context: Context) -> None:
        """See `Detector`."""
        if isinstance(self.similarity, RankSimilarity):
            size = self.similarity.images(len(context.probe), self.top_k)
            compile_products(DRAWS * size * len(context.concepts.concepts), context.device)

    def find(
        self, entry: Entry, context: Context, *, untrained: Sequence[Entry] = (), matrix: bool = False
    ) -> Findings:
        """See `Detector`.

        With `pairs`, `more` holds them: `unit`, `rank`, `concept` (the text), `first`, `second`, `score`, and
        `single_score`, that of the best single concept.
        """
        live = torch.from_numpy(entry.read("live").astype(bool))
        pooled = torch.from_numpy(entry.read("pooled")).to(context.device)
        sparse = live & firing(pooled, context.groups).sparse(context.groups.n_groups).cpu()
        named = live & ~sparse
        if not bool(named.any()):
            return self._nothing(live, sparse, context)
        # Hundreds of megabytes in a wide layer and many images: not copied, and given back before scoring.
        layer = self._layer(_named_alone(pooled, named), context)
        nbytes = pooled.nbytes
        del pooled
        give_back_freed_memory(nbytes)
        found = layer.name(untrained)
        indices, _ = top_rows(found.order, self.top_concepts)
        # Level scores may differ by rounding, in any order.
        values = found.scores.gather(1, indices).cummin(1).values
        names = np.asarray(context.concepts.concepts, dtype=object)
        kinds = np.asarray(context.concepts.categories, dtype=object)
        chosen = indices.cpu().numpy()
        rows = _Rows(named.numpy())
        p = rows.spread(found.p_values.cpu().numpy(), np.nan)
        interpretable = benjamini_hochberg(torch.from_numpy(p), context.fdr).numpy()
        more = self._pairs(layer, found, named, context)
        scores = rows.spread(found.scores.cpu().numpy(), np.nan) if matrix else None
        candidates = found.candidates()
        found = found.without_tables()
        give_back_freed_memory(nbytes)  # what made the tables is as large, and draws need other sizes
        stability, concept_set = self._stable(layer, candidates, rows, context)
        return Findings(
            concepts=rows.spread(names[chosen], ""),
            categories=rows.spread(kinds[chosen], ""),
            scores=rows.spread(values.cpu().numpy(), np.nan),
            p_values=p,
            interpretable=interpretable,
            live=named.numpy(),
            sparse=sparse.numpy(),
            effect=rows.spread(found.effect.double().numpy(), np.nan),
            stability=stability,
            concept_set=concept_set,
            calibration=self._calibration(found, interpretable, values[:, 0], context, sparse),
            notes=(*self._images_note(context), *_sparse_note(sparse, context), *found.notes),
            matrix=scores,
            more=more,
        )

    def halves(self, entry: Entry, context: Context) -> Halves | None:
        """See `Detector`."""

        def score(side: Side) -> tuple[Tensor, Tensor]:
            return self._layer(side.activations, side.context).scored()

        return name_on_halves(entry, context, score)

    def _layer(self, pooled: Tensor, context: Context) -> RankedLayer | ValuedLayer:
        return layer_by(self.similarity, pooled, context, self.top_k)

    def _images(self, similarity: RankSimilarity, context: Context) -> int:
        return similarity.images(context.groups.n_groups, self.top_k)

    def _images_note(self, context: Context) -> tuple[str, ...]:
        """What the number of images, or groups of them, does to the similarity."""
        groups, name, notes = context.groups, self.similarity.name, []
        given = f"the probing set has {counted(groups.n_images, 'images')}"
        each = ""
        if not groups.are_single:
            given, each = f"{given} in {counted(groups.n_groups, 'groups')}", ", one of each group"
        if isinstance(self.similarity, RankSimilarity):
            used, wanted = self._images(self.similarity, context), self.top_k or self.similarity.top_k
            if used != wanted:
                notes.append(
                    f"{given}, so {name} looks at {used} instead of {wanted} top images of a unit{each}; "
                    "--top-k sets it"
                )
        elif name == "rank-reorder" and groups.n_groups * TOP_FRACTION < LEAST_REORDERED:
            used = reordered_images(groups.n_groups)
            notes.append(
                f"{given}, so {name} looks at {used} top images of a unit{each}: {TOP_FRACTION:.0%} of them "
                "would be too few to be put in order"
            )
        if groups.n_groups < FEW_GROUPS:
            what = "images" if groups.are_single else "groups of images"
            notes.append(
                f"{groups.n_groups} {what} are too few to tell most labels from chance; "
                f"{FEW_GROUPS} are the least, a hundred are better"
            )
        return tuple(notes)

    def _stable(
        self,
        layer: RankedLayer | ValuedLayer,
        candidates: tuple[Tensor, Tensor],
        rows: _Rows,
        context: Context,
    ) -> tuple[NDArray[np.float64] | None, NDArray[np.object_] | None]:
        """Stability and concept sets of all units, in bootstrap draws of the groups of images."""
        if not self.stability:
            return None, None
        stability = layer.stability(*candidates, context.bootstrap)
        sets = np.array(concept_sets(stability, candidates[0], context.concepts.concepts), dtype=object)
        return rows.spread(stability.first.numpy(), np.nan), rows.spread(sets, "")

    def _calibration(
        self,
        found: Named,
        interpretable: NDArray[np.bool_],
        best: Tensor,
        context: Context,
        sparse: Tensor,
    ) -> dict[str, Any]:
        calibration: dict[str, Any] = {
            "null": context.null,
            "draws": found.draws,
            "fdr": context.fdr,
            "interpretable": int(interpretable.sum()),
            "sparse": int(sparse.sum()),
        }
        if isinstance(self.similarity, RankSimilarity):
            calibration["top_k"] = self._images(self.similarity, context)
        if self.similarity.name == "soft-wpmi":
            above = int((best > PAPER_CONSTANT).sum())
            calibration.update(paper_constant=PAPER_CONSTANT, above_constant=above)
        return calibration

    def _pairs(
        self, layer: RankedLayer | ValuedLayer, found: Named, named: Tensor, context: Context
    ) -> dict[str, dict[str, NDArray[Any]]]:
        """The best pairs of concepts of every named unit."""
        if not self.pairs:
            return {}
        return {
            PAIRS.name: pair_labels(
                found.order,
                found.scores,
                named,
                context,
                layer.pair_scores,
                candidates=self.pairs,
                keep=self.top_concepts,
            )
        }

    def _nothing(self, live: Tensor, sparse: Tensor, context: Context) -> Findings:
        """Of a layer of dead and sparse units."""
        units, kept = len(live), min(self.top_concepts, len(context.concepts))
        words = np.full((units, kept), "", dtype=object)
        nothing = np.full(units, np.nan)
        concepts = len(context.concepts)
        return Findings(
            concepts=words,
            categories=words,
            scores=np.full((units, kept), np.nan, dtype=np.float32),
            p_values=nothing,
            interpretable=np.zeros(units, dtype=bool),
            live=(live & ~sparse).numpy(),
            sparse=sparse.numpy(),
            calibration={"null": context.null, "draws": 0, "fdr": context.fdr, "interpretable": 0},
            notes=(*self._images_note(context), *_sparse_note(sparse, context)),
            matrix=np.full((units, concepts), np.nan, dtype=np.float32),
            more=self._no_pairs(),
        )

    def _no_pairs(self) -> dict[str, dict[str, NDArray[Any]]]:
        if not self.pairs:
            return {}
        words, numbers = np.empty(0, dtype=object), np.empty(0, dtype=np.int64)
        columns: dict[str, NDArray[Any]] = {"unit": numbers, "rank": numbers}
        columns.update(dict.fromkeys(("concept", "first", "second"), words))
        columns.update({name: np.empty(0) for name in ("score", "single_score")})
        return {PAIRS.name: columns}


def _named_alone(pooled: Tensor, named: Tensor) -> Tensor:
    """The columns `(N, U)` of units that can be named; `pooled` `(N, C)` is overwritten with them."""
    if bool(named.all()):
        return pooled
    columns = named.to(pooled.device).nonzero()[:, 0]
    for rows in spans(len(pooled), _ROWS):
        pooled[rows, : len(columns)] = pooled[rows].index_select(1, columns)
    return pooled[:, : len(columns)]


@dataclass(frozen=True)
class _Rows:
    """From the named units to all units of the layer.

    Attributes:
        named: `(C,)` bool.
    """

    named: NDArray[np.bool_]

    def spread(self, values: NDArray[Any], nothing: object) -> NDArray[Any]:
        """`(U, ...)` -> `(C, ...)`, with `nothing` in the rows of the others."""
        result: NDArray[Any] = np.full((len(self.named), *values.shape[1:]), nothing, dtype=values.dtype)
        result[self.named] = values
        return result


def _sparse_note(sparse: Tensor, context: Context) -> tuple[str, ...]:
    count = int(sparse.sum())
    if not count:
        return ()
    what = "photos" if context.groups.are_single else "groups of images"
    return (f"{counted(count, 'units fire')} on fewer than {MIN_GROUPS} {what}: `sparse`, without a concept",)
