"""Which changes of label are more than the luck of the probing images?

A unit whose two best concepts are nearly level changes its label at every epoch without having learned
anything. So a change counts only where drawing the probing images again would not undo it: in at least 98 %
of the resamples the new concept beats the old one after the change, and the old one beat the new one before.
Both epochs see the same resample. The prior of the similarity is taken over all live units of the layer each
time.

Why 98 % and not 95: a label is the winner among hundreds of concepts, and a winner looks surer of itself
than it is. On one checkpoint seen through two disjoint halves of a set of photos, where 86 to 96 % of the
labels differ by chance alone, 95 % calls up to 5.7 % of the units changed and 98 % at most 3.1 %. To ask
instead that no concept at all be plausible at both epochs finds fewer of the true changes at an equal rate of
false ones.

A unit *holds* a concept until another one takes its place with confidence. Its label is compared with the one
held, at the last epoch at which it had it, and not with that of the epoch before: so a change that takes
several unsure epochs is found, and a unit that trembles between concepts never counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from concept_monitor_cli.functional.groups import ImageGroups
from concept_monitor_cli.functional.resampling import RESAMPLES, image_counts, resampled_top_images
from concept_monitor_cli.functional.similarity import ConceptActivations, Evidence
from concept_monitor_cli.functional.similarity.registry import ValueSimilarity, similarity_named
from concept_monitor_cli.functional.topk import dead_units, top_images
from concept_monitor_cli.monitor.history import History
from concept_monitor_cli.monitor.own import SelfSimilarity

if TYPE_CHECKING:
    import pandas as pd

#: Share of the resamples that must agree.
CONFIDENCE = 0.98
#: Share of the units that are called changed at that where only luck is at work: the most that was seen when
#: one checkpoint was looked at through two disjoint halves of a set of photos.
FALSE_CHANGES = 0.031


# Numbers that one batch of resamples holds: few large operations instead of many small ones, each of which
# waits for all threads.
_BATCH = 1 << 22


class Rescorer(Protocol):
    """Scores some concepts anew for every unit of a layer at one epoch, on resampled images.

    Attributes:
        n_images: `N`.
        batch: how many resamples to ask for at a time.
    """

    n_images: int
    batch: int

    def scores(self, counts: Tensor) -> Tensor:
        """Scores `(R, C, m)` of the `m` concepts, float64, where image `i` is drawn `counts[r, i]` times."""


class _ByRank:
    """For similarities that look at the top images only: evidence minus the layer's prior."""

    def __init__(
        self,
        evidence: Callable[..., Evidence],
        activations: ConceptActivations,
        pooled: Tensor,
        *,
        top_k: int,
        a: float,
        lam: float,
    ) -> None:
        self.n_images, units = pooled.shape
        self._evidence = evidence
        self._top_k, self._a, self._lam = min(top_k, self.n_images), a, lam
        self._live = ~dead_units(pooled)
        # A resample reaches further down than K where the first images were drawn less often than once: by
        # about sqrt(K). Ten times that is never too short; if it is all the same, that is an error and no
        # wrong number.
        order = top_images(pooled, top_k + 10 * math.ceil(math.sqrt(top_k)))[0]
        # Only the images in some unit's list are ever looked at: their part of P is made once.
        self._images, place = torch.unique(order, return_inverse=True)
        self._order = place
        self._activations = ConceptActivations(
            activations.select(self._images).block(slice(0, activations.n_concepts)),
            None,
            None,
            {a: activations.log_normaliser(a)[self._images]},
        )
        self.batch = max(1, _BATCH // (units * max(len(order), activations.n_concepts)))

    def scores(self, counts: Tensor) -> Tensor:
        chosen = counts.to(self._images.device)[:, self._images]
        # Every resample sees the same number of images, though not all of them are in `chosen`.
        top = resampled_top_images(self._order, chosen, self._top_k)
        evidence = self._evidence(self._activations, top.flatten(1), a=self._a)
        # In double: where a unit is by far the best of its layer at a concept, what is left of the score
        # above the prior is a tiny number.
        values = evidence.values.double().view(*top.shape[1:], -1)
        live = values[:, self._live]
        prior = torch.logsumexp(live, 1, keepdim=True) - math.log(live.shape[1])
        return values - self._lam * prior


class _ByValue:
    """For similarities of the activations themselves."""

    batch = 1

    def __init__(
        self, similarity: Callable[..., Tensor], images: Tensor, texts: Tensor, pooled: Tensor
    ) -> None:
        self.n_images = pooled.shape[0]
        self._similarity = similarity
        self._images, self._texts, self._pooled = images, texts, pooled

    def scores(self, counts: Tensor) -> Tensor:
        return torch.stack([self._score(row) for row in counts])

    def _score(self, counts: Tensor) -> Tensor:
        drawn = torch.repeat_interleave(counts).to(self._pooled.device)
        activations = ConceptActivations.from_embeddings(self._images[drawn], self._texts)
        return self._similarity(activations, self._pooled[drawn]).double()


@dataclass(frozen=True)
class Words:
    """The images and concepts of a run in the encoder's space.

    Attributes:
        images: `I`, `(N, D)`, rows of unit length.
        texts: `T`, `(M, D)`, rows of unit length.
        activations: `P`, which knows the normaliser of its softmax over all `M` concepts.
    """

    images: Tensor
    texts: Tensor
    activations: ConceptActivations

    @classmethod
    def of(cls, images: Tensor, texts: Tensor) -> Words:
        """From the embeddings."""
        return cls(images, texts, ConceptActivations.from_embeddings(images, texts))

    def rescorer(self, settings: Mapping[str, Any], pooled: Tensor, concepts: Tensor) -> Rescorer:
        """Scores of some concepts as CLIP-Dissect gives them.

        Args:
            settings: of the detector, as `run.json` has them: `similarity` and its constants.
            pooled: `Q`, `(N, C)`, the layer at one epoch.
            concepts: `(m,)`, which concepts.
        """
        similarity, texts = similarity_named(settings["similarity"]), self.texts[concepts]
        if isinstance(similarity, ValueSimilarity):
            return _ByValue(similarity.function, self.images, texts, pooled)
        a = float(settings["a"])
        # The softmax is over all concepts, whichever of them are asked for.
        some = ConceptActivations.from_embeddings(
            self.images, texts, log_normalisers={a: self.activations.log_normaliser(a)}
        )
        top_k = similarity.images(pooled.shape[0], settings["top_k"])
        return _ByRank(similarity.evidence, some, pooled, top_k=top_k, a=a, lam=float(settings["lam"]))


@torch.no_grad()
def beats(rescorer: Rescorer, counts: Tensor, units: Tensor, better: Tensor, worse: Tensor) -> Tensor:
    """Whether one concept beats another in some resamples, for some units.

    Args:
        rescorer: the layer at one epoch.
        counts: `(R, N)`, the resamples.
        units: `(n,)`, rows of the layer.
        better: `(n,)`, columns of the rescorer's concepts.
        worse: `(n,)`, likewise.

    Returns:
        `(R, n)` bool; level scores beat nothing.
    """
    scores = rescorer.scores(counts).cpu()
    return scores[:, units, better] > scores[:, units, worse]


def agreement(
    before: Rescorer,
    after: Rescorer,
    units: Tensor,
    old: Tensor,
    new: Tensor,
    *,
    groups: ImageGroups | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Share of the resamples in which units change from an old to a new concept.

    Args:
        before: the layer at the earlier epoch.
        after: the layer at the later epoch, with the same images and concepts.
        units: `(n,)`, rows of the layer.
        old: `(n,)`, columns of the rescorers' concepts.
        new: `(n,)`, likewise.
        groups: of the images, which are drawn as a whole; every image for itself by default.
        resamples: how many.
        seed: of the resamples.

    Returns:
        `(n,)`, between 0 and 1.
    """
    agreeing = torch.zeros(len(units), dtype=torch.int64)
    batch = min(before.batch, after.batch)
    for start in range(0, resamples, batch):
        numbers = range(start, min(resamples, start + batch))
        counts = image_counts(before.n_images if groups is None else groups, numbers, seed=seed)
        changed = beats(before, counts, units, old, new) & beats(after, counts, units, new, old)
        agreeing += changed.sum(0)
    share: NDArray[np.float64] = agreeing.double().numpy() / resamples
    return share


# (column before, column after, rows of the units, old labels, new labels) -> share of resamples that agree.
Compare = Callable[[int, int, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]], NDArray[np.float64]]


@dataclass(frozen=True)
class Held:
    """The concepts that units hold.

    Attributes:
        labels: `(C, T)`, index into the history's names; -1 before a unit was live for the first time.
        taken: `(C, T)`: a unit takes another concept than it held, with confidence.
        agreement: `(C, T)`: share of resamples that agree, where the label is not the one held; else NaN.
        since: `(C, T)`: there, the column that the label was compared with: the last one at which the unit
            had the concept that it held; else -1.
    """

    labels: NDArray[np.int64]
    taken: NDArray[np.bool_]
    agreement: NDArray[np.float64]
    since: NDArray[np.int64]


def held_labels(history: History, compare: Compare, *, confidence: float = CONFIDENCE) -> Held:
    """Follow the concepts that units hold over the epochs.

    Args:
        history: the labels.
        compare: how sure is the change of some units from one epoch to another?
        confidence: share of the resamples that must agree.
    """
    labels = history.labels
    held = np.full_like(labels, -1)
    taken = np.zeros(labels.shape, dtype=bool)
    sure = np.full(labels.shape, np.nan)
    compared = np.full_like(labels, -1)
    holds = np.full(len(labels), -1, dtype=np.int64)
    since = np.full(len(labels), -1, dtype=np.int64)
    for t in range(labels.shape[1]):
        now = labels[:, t]
        for earlier in np.unique(since[(now >= 0) & (holds >= 0) & (now != holds)]).tolist():
            rows = np.flatnonzero((since == earlier) & (now >= 0) & (holds >= 0) & (now != holds))
            share = compare(earlier, t, rows, holds[rows], now[rows])
            sure[rows, t] = share
            compared[rows, t] = earlier
            taken[rows[share >= confidence], t] = True
        fresh = taken[:, t] | ((holds < 0) & (now >= 0))
        holds = np.where(fresh, now, holds)
        # The last epoch at which the label was the one held is what later ones are compared with.
        since = np.where((now >= 0) & (now == holds), t, since)
        held[:, t] = holds
    return Held(held, taken, sure, compared)


def confident_changes(history: History, held: Held, similarity: SelfSimilarity | None = None) -> pd.DataFrame:
    """A row for every change with confidence.

    Args:
        history: the labels.
        held: what the units hold (`held_labels` of that history).
        similarity: of every unit with itself at two epochs, where known.

    Returns:
        the rows of `changes.csv`: at `epoch` the unit took `to_concept`; it held `from_concept`, and had it
        last at `from_epoch`; `confidence` is the share of resamples that agree, `self_similarity` the
        correlation of its activations at the two epochs.
    """
    import pandas as pd

    rows, columns = np.nonzero(held.taken)
    since = held.since[rows, columns]
    before, categories_before = history.concepts(history.labels[rows, since])
    after, categories_after = history.concepts(history.labels[rows, columns])
    return pd.DataFrame(
        {
            "epoch": history.epochs[columns],
            "checkpoint": [history.checkpoints[column] for column in columns],
            "layer": history.layer,
            "unit": history.units[rows],
            "detector": history.detector,
            "from_concept": before,
            "from_category": categories_before,
            "from_epoch": history.epochs[since],
            "to_concept": after,
            "to_category": categories_after,
            "confidence": held.agreement[rows, columns],
            "self_similarity": (
                np.nan
                if similarity is None
                else [similarity(int(s), int(c))[r] for r, c, s in zip(rows, columns, since, strict=True)]
            ),
        }
    )


def concept_columns(
    labels: Sequence[NDArray[np.int64]],
) -> tuple[NDArray[np.int64], list[NDArray[np.int64]]]:
    """The distinct values of some index arrays, and the arrays as indices into those."""
    distinct, inverse = np.unique(np.concatenate(labels), return_inverse=True)
    parts = np.split(inverse.reshape(-1), np.cumsum([len(part) for part in labels])[:-1])
    return distinct, parts
