"""Descriptions: the text that a unit's exemplars say, beyond what any image says (Hernandez et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from concept_monitor_cli.encoders.captioners import load_captioner
from concept_monitor_cli.functional.calibration import above_null, benjamini_hochberg, p_values
from concept_monitor_cli.functional.descriptions import DRAWS, EXEMPLARS, chosen_exemplars
from concept_monitor_cli.functional.firing import MIN_GROUPS
from concept_monitor_cli.functional.groups import halves
from concept_monitor_cli.functional.held_out import held_out_auc
from concept_monitor_cli.lenses.base import Detector, Findings
from concept_monitor_cli.lenses.captions import BACKGROUND, BEAMS, TOKENS, CaptionTeller
from concept_monitor_cli.lenses.describing import PhraseTeller, Teller, Told
from concept_monitor_cli.lenses.halves import LEAST_GROUPS, Halves, asked_units, cosine_distance
from concept_monitor_cli.record.exemplars import Exemplars
from concept_monitor_cli.record.requests import Recording
from concept_monitor_cli.run import TableSchema
from concept_monitor_cli.run.kinds import BEHIND, Shown
from concept_monitor_cli.run.traits import LabelKind
from concept_monitor_cli.wording import counted

if TYPE_CHECKING:
    from concept_monitor_cli.models.layers import LayerInfo
    from concept_monitor_cli.options import DissectOptions
    from concept_monitor_cli.probe import ProbeSet
    from concept_monitor_cli.store import Entry
    from concept_monitor_cli.study.context import Context

PHRASES = "phrases"
# Weight of the prior. For phrases 1: then the score is pointwise mutual information under the encoder. For
# captioners MILAN's.
PHRASES_LAM, CAPTION_LAM = 1.0, 0.2

DESCRIPTIONS = TableSchema.of_units(
    "descriptions",
    {
        "rank": "int",
        "description": "str",
        "score": "float",
        "log_given": "float",
        "log_prior": "float",
        "captioner": "str",
    },
    ("rank",),
    shown=Shown("texts", why_not=BEHIND),
)


class Describe(Detector):
    """Describes a unit by a phrase, or a sentence, for the images that it fires on most.

    A unit's exemplars are the 15 images in which its map peaks highest, one of each group of images. The
    description is that of the highest `log p(d | exemplars) - lam log p(d)`.

    The p-value asks whether the best description fits the unit's exemplars better than the best ones of
    random images fit these.

    Args:
        captioner: `phrases`, which ranks the run's concepts and pairs of an attribute and a thing by its
            encoder, `coca:NAME` or `hf:NAME`.
        lam: weight of the prior; `None` for what suits the captioner.
        top: descriptions to keep per unit.
    """

    name: ClassVar[str] = "describe"
    summary: ClassVar[str] = "a phrase, or a sentence, for the images in which it peaks"
    paper: ClassVar[str] = "Hernandez et al., ICLR 2022"
    labels: ClassVar[LabelKind] = "sentences"
    tables: ClassVar[tuple[TableSchema, ...]] = (DESCRIPTIONS,)
    needs_encoder: bool = True

    def __init__(self, captioner: str = PHRASES, lam: float | None = None, top: int = 5) -> None:
        self.captioner = captioner
        self.lam = (PHRASES_LAM if captioner == PHRASES else CAPTION_LAM) if lam is None else lam
        self.top = top
        self.needs_encoder = captioner == PHRASES

    @classmethod
    def from_options(cls, options: DissectOptions) -> Describe:
        """See `Detector`."""
        return cls(options.captioner, options.prior_weight, options.top_concepts)

    def settings(self) -> dict[str, Any]:
        """See `Detector`."""
        return {
            "captioner": self.captioner,
            "lam": self.lam,
            "exemplars": EXEMPLARS,
            "draws": DRAWS,
            "top_concepts": self.top,
            **(
                {}
                if self.captioner == PHRASES
                else {"beams": BEAMS, "tokens": TOKENS, "background": BACKGROUND}
            ),
        }

    def check(self, probe: ProbeSet, layers: Sequence[LayerInfo]) -> None:
        """See `Detector`.

        Raises:
            InputError: there is no such captioner, or its weights are not on this machine.
        """
        if self.captioner != PHRASES:
            load_captioner(self.captioner)

    def depends_on(self, context: Context) -> dict[str, str]:
        """See `Detector`."""
        if self.captioner == PHRASES:
            return context.digests
        return {
            "images": context.probe.digest,
            "groups": context.groups_digest,
            "captioner": load_captioner(self.captioner).digest,
        }

    def recording(self, context: Context) -> Recording:
        """See `Detector`."""
        return Exemplars()

    def find(
        self, entry: Entry, context: Context, *, untrained: Sequence[Entry] = (), matrix: bool = False
    ) -> Findings:
        """See `Detector`. The score matrix has a column for every phrase.

        `more` holds `descriptions`: for every description of a live unit `unit`, `rank`, `description`,
        `score`, `log_given`, `log_prior`, `captioner`.
        """
        teller = self._teller(context)
        places, live, sparse = _exemplars(entry, context)
        units = torch.nonzero(live)[:, 0]
        told = teller.tell(entry, units, places[units], matrix=matrix) if len(units) else Told([])
        p, effect = torch.full((2, len(live)), torch.nan, dtype=torch.float64)
        if len(units):
            p[units], effect[units] = self._tested(
                teller, told.best, (places[units] >= 0).sum(1), entry, untrained, context
            )
        interpretable = benjamini_hochberg(p, context.fdr)
        concepts, categories, scores = _columns(told, units.numpy(), len(live), self.top)
        return Findings(
            concepts=concepts,
            categories=categories,
            scores=scores,
            p_values=p.numpy(),
            interpretable=interpretable.numpy(),
            live=live.numpy(),
            sparse=sparse.numpy(),
            effect=effect.numpy(),
            notes=(*teller.notes, *_sparse_note(sparse)),
            calibration={
                "null": context.null,
                "draws": DRAWS,
                "fdr": context.fdr,
                "interpretable": int(interpretable.sum()),
                "sparse": int(sparse.sum()),
            },
            matrix=_matrix(told, units, len(live)),
            matrix_concepts=told.names,
            more={DESCRIPTIONS.name: self._table(told, units.numpy())},
        )

    def halves(self, entry: Entry, context: Context) -> Halves | None:
        """See `Detector`: how well what the encoder sees of a text tells active images of the other half.

        The prior is that of all images; it knows nothing of a unit. A captioner's texts can be asked only
        where the run has an encoder.
        """
        _, live, _ = _exemplars(entry, context)
        units = asked_units(live.numpy())
        if context.encoder is None or context.groups.n_groups < 2 * LEAST_GROUPS or not len(units):
            return None
        teller, chosen = self._teller(context), torch.from_numpy(units)
        first = torch.from_numpy(halves(context.groups, seed=context.seed))
        texts = []
        for half in (first, ~first):
            own, _, _ = _exemplars(entry, context, half)
            told = teller.tell(entry, chosen, own[chosen])
            texts.append(np.array([each[0].text if each else "" for each in told.units], dtype=object))
        words = sorted({text for own in texts for text in own if text})
        vectors = context.embed_words(words) if words else context.image_embeddings[:0]
        number = {word: row for row, word in enumerate(words)} | {"": -1}
        labels = [torch.tensor([number[text] for text in own]) for own in texts]
        presence = (context.image_embeddings @ vectors.T).cpu()
        pooled = torch.from_numpy(entry.read("pooled"))[:, chosen]
        asked = [
            held_out_auc(pooled[half], presence[half], own)
            for own, half in zip(labels, (~first, first), strict=True)
        ]
        held_out, chance = (torch.stack(pair).nanmean(0).numpy() for pair in zip(*asked, strict=True))
        distance = np.full(len(units), np.nan)
        both = (labels[0] >= 0) & (labels[1] >= 0)
        if bool(both.any()):
            distance[both.numpy()] = cosine_distance(*(vectors[own[both]] for own in labels)).cpu().numpy()
        return Halves(units, texts[0], texts[1], distance, held_out, chance)

    def _teller(self, context: Context) -> Teller:
        if self.captioner == PHRASES:
            return PhraseTeller(context, self.lam, self.top)
        captioner = load_captioner(self.captioner)
        captioner.device = context.device
        return CaptionTeller(context, captioner, self.lam, self.top)

    def _tested(
        self,
        teller: Teller,
        best: Tensor,
        sizes: Tensor,
        entry: Entry,
        untrained: Sequence[Entry],
        context: Context,
    ) -> tuple[Tensor, Tensor]:
        """p-values and effects of the live units."""
        if untrained:
            found = []
            for other in untrained:
                places, live, _ = _exemplars(other, context)
                units = torch.nonzero(live)[:, 0]
                if len(units):
                    found.append(teller.tell(other, units, places[units]).best)
            if not found:
                return torch.ones_like(best), torch.full_like(best, torch.nan)
            null = torch.cat(found)
            return p_values(best, null), above_null(best, null)
        p, effect = torch.empty_like(best), torch.empty_like(best)
        # The mean over fewer images varies more, so each number of exemplars has its own null.
        for size, null in teller.chance(entry, sorted(set(sizes.tolist()))).items():
            own = sizes == size
            p[own], effect[own] = p_values(best[own], null), above_null(best[own], null)
        return p, effect

    def _table(self, told: Told, units: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        rows = [
            (unit, rank, each)
            for unit, own in zip(units.tolist(), told.units, strict=True)
            for rank, each in enumerate(own, start=1)
        ]
        return {
            "unit": np.array([unit for unit, _, _ in rows], dtype=np.int64),
            "rank": np.array([rank for _, rank, _ in rows], dtype=np.int64),
            "description": np.array([each.text for *_, each in rows], dtype=object),
            "score": np.array([each.score for *_, each in rows], dtype=np.float64),
            "log_given": np.array([each.given for *_, each in rows], dtype=np.float64),
            "log_prior": np.array([each.prior for *_, each in rows], dtype=np.float64),
            "captioner": np.full(len(rows), self.captioner, dtype=object),
        }


def _exemplars(entry: Entry, context: Context, images: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Places of the exemplars among the top images `(C, E)`, live units that can be named, sparse ones.

    Of some of the images, `(N,)` bool, or of all.
    """
    alive = torch.from_numpy(entry.read("live").astype(bool))
    top = torch.from_numpy(entry.read("top_images")).long()
    if images is not None:
        top = torch.where((top >= 0) & images[top.clamp_min(0)], top, -1)
    values, lowest = (torch.from_numpy(entry.read(name)) for name in ("top_values", "lowest"))
    places = chosen_exemplars(top, values, lowest, context.groups)
    # In a set of few groups, all but the one with the lowest value.
    least = max(1, min(MIN_GROUPS, context.groups.n_groups - 1))
    sparse = alive & ((places >= 0).sum(1) < least)
    return places, alive & ~sparse, sparse


def _columns(
    told: Told, units: NDArray[np.int64], count: int, top: int
) -> tuple[NDArray[np.object_], NDArray[np.object_], NDArray[np.float32]]:
    """Descriptions, categories and scores of all units, `(C, top)`."""
    concepts, categories = (np.full((count, top), "", dtype=object) for _ in range(2))
    scores = np.full((count, top), np.nan, dtype=np.float32)
    for unit, own in zip(units, told.units, strict=True):
        for rank, each in enumerate(own):
            concepts[unit, rank], categories[unit, rank] = each.text, each.category
            scores[unit, rank] = each.score
    return concepts, categories, scores


def _matrix(told: Told, units: Tensor, count: int) -> NDArray[np.float32] | None:
    if told.matrix is None:
        return None
    whole = torch.full((count, told.matrix.shape[1]), torch.nan)
    whole[units] = told.matrix
    matrix: NDArray[np.float32] = whole.numpy()
    return matrix


def _sparse_note(sparse: Tensor) -> tuple[str, ...]:
    count = int(sparse.sum())
    if not count:
        return ()
    return (
        f"{counted(count, 'units')} peak above their lowest value in fewer than {MIN_GROUPS} images, or "
        "groups of images: `sparse`, without a description",
    )
