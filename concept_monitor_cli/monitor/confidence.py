"""Which changes of label are more than the luck of the probing images?

A unit whose two best concepts are nearly level changes its label at every epoch without having learned
anything. So a change counts only where drawing the probing images again would not undo it: in at least 98 %
of the resamples the new concept beats the old one after the change, and the old one beat the new one before.
Both epochs see the same resample. Scores follow the rules by which labels were given: through images on which
a unit fires, one of each group, with the prior of the units beside it.

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
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from concept_monitor_cli.functional.calibration import DRAWS, beyond_chance, random_top_images
from concept_monitor_cli.functional.firing import Company, companies, firing
from concept_monitor_cli.functional.groups import ImageGroups
from concept_monitor_cli.functional.resampling import RESAMPLES, image_counts, reach, resampled_top_images
from concept_monitor_cli.functional.self_similarity import UNCHANGED
from concept_monitor_cli.functional.similarity import ConceptActivations, Evidence
from concept_monitor_cli.functional.similarity.registry import (
    RankSimilarity,
    ValueSimilarity,
    similarity_named,
)
from concept_monitor_cli.functional.topk import dead_units, top_images_of_groups
from concept_monitor_cli.lenses.names.clip_ranks import FEW_UNITS
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
# waits for all threads, and sums long enough to be compiled (`worth_compiling`). Larger batches take no less
# time, and leave holes in the memory that no other fills.
_BATCH = 1 << 21


class Rescorer(Protocol):
    """Scores some concepts anew for every unit of a layer at one epoch, on resampled images.

    Attributes:
        n_images: `N`.
        n_concepts: `m`.
        batch: how many resamples to ask for at a time.
    """

    n_images: int
    n_concepts: int
    batch: int

    def scores(self, counts: Tensor) -> Tensor:
        """Scores `(R, C, m)` of the `m` concepts, float64, where image `i` is drawn `counts[r, i]` times."""


class _Sized:
    """The units that similarities of ranks look at through equally many of their top images.

    Args:
        company: which units, and through how many images; see `companies`.
        pooled: `(N, C)`, the layer.
        groups: of the images.
    """

    def __init__(self, company: Company, pooled: Tensor, fires: Tensor, groups: ImageGroups) -> None:
        self.company = company
        order = top_images_of_groups(pooled[:, company.units], reach(company.size), groups)[0]
        # Images on which a unit does not fire say nothing about it: in their places stands one past the last.
        place = torch.arange(len(order), device=order.device)[:, None]
        self.order = torch.where(place < fires[company.units].to(order.device), order, groups.n_images)


class _ByRank:
    """For similarities that look at the top images only, as `RankedLayer` scores: the named units of a layer.

    Evidence minus the prior of the units beside it; in a layer of few units, in standard deviations of random
    sets of images. A unit that fires on fewer groups of images than `top_k` is looked at through those. In a
    resample these may be fewer still; then what they say beyond an image that knows nothing is scaled to the
    full number.

    Args:
        similarity: of the registry.
        activations: of the concepts in question, which knows the normaliser of its softmax over all of them.
        pooled: `(N, C)`, the layer.
        groups: of the images.
        top_k: `K`.
        a: temperature.
        lam: weight of the prior.
    """

    def __init__(
        self,
        similarity: RankSimilarity,
        activations: ConceptActivations,
        pooled: Tensor,
        groups: ImageGroups,
        *,
        top_k: int,
        a: float,
        lam: float,
    ) -> None:
        self.n_images, self._units = pooled.shape
        self.n_concepts = activations.n_concepts
        self._evidence, self._a, self._lam = similarity.evidence, a, lam
        fired = firing(pooled, groups)
        named = (~dead_units(pooled) & ~fired.sparse(groups.n_groups)).nonzero()[:, 0].cpu()
        self._few = len(named) < FEW_UNITS
        fires = torch.zeros(self._units, dtype=torch.int64)
        fires[named] = fired.groups.cpu()[named]
        self._sized = [
            _Sized(Company(each.size, named[each.units], each.own), pooled, fires, groups)
            for each in companies(fires[named], top_k, 1 if self._few else FEW_UNITS)
        ]
        self._random = (
            {each.company.size: self._chance(activations, groups, each.company.size) for each in self._sized}
            if self._few
            else {}
        )
        # Only the images in some unit's list are ever looked at: their part of P is made once.
        listed = [each.order.flatten() for each in self._sized]
        images = torch.unique(torch.cat([*listed, torch.empty(0, dtype=torch.int64, device=pooled.device)]))
        self._images = images[images < self.n_images]
        for each in self._sized:
            each.order = torch.searchsorted(self._images, each.order)
        self._activations = _with_ignorant(activations, self._images, a)
        longest = max([len(each.order) for each in self._sized], default=1)
        self.batch = max(1, _BATCH // (self._units * max(longest, activations.n_concepts)))

    def _chance(self, activations: ConceptActivations, groups: ImageGroups, size: int) -> Evidence:
        """Evidence of random sets of that many images."""
        sets = random_top_images(groups, size, DRAWS, device=activations.device)
        return self._evidence(activations, sets, a=self._a)

    def scores(self, counts: Tensor) -> Tensor:
        drawn = counts.to(self._images.device)[:, self._images]
        shape = (len(counts), self._units, self._activations.n_concepts)
        scores = torch.zeros(shape, dtype=torch.float64, device=drawn.device)
        for each in self._sized:
            scores[:, each.company.rows] = self._scored(each, drawn)
        return scores

    def _scored(self, part: _Sized, drawn: Tensor) -> Tensor:
        """`(R, rows, m)`."""
        size, nothing = part.company.size, len(self._images)
        # What knows nothing of the concepts fills the ranks that a resample leaves empty.
        counts = torch.cat([drawn, drawn.new_full((len(drawn), 1), size)], 1)
        order = torch.cat([part.order, part.order.new_full((1, part.order.shape[1]), nothing)])
        top = resampled_top_images(order, counts, size)  # (size, R, units)
        filled = (top < nothing).sum(0).clamp_min(1)
        evidence = self._evidence(self._activations, top.flatten(1), a=self._a)
        # In double: where a unit is by far the best of its layer at a concept, what is left of the score
        # above the prior is a tiny number.
        values = evidence.values.double().view(*top.shape[1:], -1)
        if bool((filled < size).any()):
            values *= (size / filled)[:, :, None]
        own = part.company.own.to(values.device)
        if self._few:
            return beyond_chance(Evidence(values[:, own], 0.0), self._random[size])
        prior = torch.logsumexp(values, 1, keepdim=True) - math.log(values.shape[1])
        return values[:, own] - self._lam * prior


def _with_ignorant(activations: ConceptActivations, images: Tensor, a: float) -> ConceptActivations:
    """Some images, and after them one that knows nothing: every concept has `1 / m` of its softmax."""
    m = activations.n_concepts
    known = activations.select(images).block(slice(0, m))
    of_known = activations.log_normaliser(a)[images]
    return ConceptActivations(
        torch.cat([known, known.new_zeros(1, m)]),
        None,
        None,
        {a: torch.cat([of_known, of_known.new_full((1,), math.log(m))])},
    )


class _ByValue:
    """For similarities of the activations themselves."""

    batch = 1

    def __init__(
        self, similarity: ValueSimilarity, images: Tensor, texts: Tensor, pooled: Tensor, groups: ImageGroups
    ) -> None:
        self.n_images, self.n_concepts = pooled.shape[0], len(texts)
        self._similarity, self._groups = similarity, torch.from_numpy(groups.of)
        self._images, self._texts, self._pooled = images, texts, pooled

    def scores(self, counts: Tensor) -> Tensor:
        return torch.stack([self._score(row) for row in counts])

    def _score(self, counts: Tensor) -> Tensor:
        drawn = torch.repeat_interleave(counts)
        # A group that is drawn twice is two groups of the resample.
        first = counts.cumsum(0) - counts
        time = torch.arange(len(drawn)) - first[drawn]
        groups = ImageGroups.read(self._groups[drawn] * (int(counts.max()) + 1) + time)
        drawn = drawn.to(self._pooled.device)
        activations = ConceptActivations.from_embeddings(self._images[drawn], self._texts)
        return self._similarity.function(activations, self._pooled[drawn], groups).double()


@dataclass(frozen=True)
class Words:
    """The images and concepts of a run in the encoder's space.

    Attributes:
        images: `I`, `(N, D)`, rows of unit length.
        texts: `T`, `(M, D)`, rows of unit length.
        activations: `P`, which knows the normaliser of its softmax over all `M` concepts.
        groups: of the images.
    """

    images: Tensor
    texts: Tensor
    activations: ConceptActivations
    groups: ImageGroups

    @classmethod
    def of(cls, images: Tensor, texts: Tensor, groups: ImageGroups | None = None) -> Words:
        """From the embeddings; every image for itself by default."""
        groups = ImageGroups.single(len(images)) if groups is None else groups
        return cls(images, texts, ConceptActivations.from_embeddings(images, texts), groups)

    def rescorer(self, settings: Mapping[str, Any], pooled: Tensor, concepts: Tensor) -> Rescorer:
        """Scores of some concepts as CLIP-Dissect gives them.

        Args:
            settings: of the detector, as `run.json` has them: `similarity` and its constants.
            pooled: `Q`, `(N, C)`, the layer at one epoch.
            concepts: `(m,)`, which concepts.
        """
        similarity, texts = similarity_named(settings["similarity"]), self.texts[concepts]
        if isinstance(similarity, ValueSimilarity):
            return _ByValue(similarity, self.images, texts, pooled, self.groups)
        a = float(settings["a"])
        # The softmax is over all concepts, whichever of them are asked for.
        some = ConceptActivations.from_embeddings(
            self.images, texts, log_normalisers={a: self.activations.log_normaliser(a)}
        )
        top_k = similarity.images(self.groups.n_groups, settings["top_k"])
        return _ByRank(similarity, some, pooled, self.groups, top_k=top_k, a=a, lam=float(settings["lam"]))


@torch.no_grad()
def wins(
    rescorer: Rescorer,
    units: Tensor,
    better: Tensor,
    worse: Tensor,
    *,
    groups: ImageGroups | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> NDArray[np.uint8]:
    """In which resamples one concept beats another, for some units.

    The resamples depend on the seed and the groups alone: all epochs see the same ones.

    Args:
        rescorer: the layer at one epoch.
        units: `(n,)`, rows of the layer.
        better: `(n,)`, columns of the rescorer's concepts.
        worse: `(n,)`, likewise.
        groups: of the images, which are drawn as a whole; every image for itself by default.
        resamples: how many.
        seed: of the resamples.

    Returns:
        `(n, ceil(resamples / 8))` uint8, a bit for each resample, the first one highest; level scores beat
        nothing.
    """
    found = np.empty((len(units), resamples), dtype=bool)
    places = [(units * rescorer.n_concepts + concepts).cpu() for concepts in (better, worse)]
    # Batches of one size: a short last one would be too little to be compiled.
    batches = -(-resamples // rescorer.batch)
    for drawn in np.array_split(np.arange(resamples), batches):
        numbers = range(int(drawn[0]), int(drawn[-1]) + 1)
        counts = image_counts(rescorer.n_images if groups is None else groups, numbers, seed=seed)
        scores = rescorer.scores(counts).cpu().flatten(1)
        one, other = (scores.index_select(1, place) for place in places)
        found[:, numbers.start : numbers.stop] = (one > other).T.numpy()
    return np.packbits(found, axis=1)


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
        self_similarity: `(C, T)`: there, the correlation of the unit's activations with those at that column;
            NaN where it is not known.
    """

    labels: NDArray[np.int64]
    taken: NDArray[np.bool_]
    agreement: NDArray[np.float64]
    since: NDArray[np.int64]
    self_similarity: NDArray[np.float64]

    @classmethod
    def together(cls, parts: Sequence[Held]) -> Held:
        """Of a whole layer, from those of its units in blocks."""
        return cls(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(cls)))


def held_labels(
    history: History,
    compare: Compare,
    similarity: SelfSimilarity | None = None,
    *,
    confidence: float = CONFIDENCE,
) -> Held:
    """Follow the concepts that units hold over the epochs.

    Args:
        history: the labels.
        compare: how sure is the change of some units from one epoch to another?
        similarity: of every unit with itself at two epochs, where known: a unit that does the same as before
            (`UNCHANGED`) has not changed, whatever the images say of its label.
        confidence: share of the resamples that must agree.
    """
    labels = history.labels
    held = np.full_like(labels, -1)
    taken = np.zeros(labels.shape, dtype=bool)
    sure, same = np.full(labels.shape, np.nan), np.full(labels.shape, np.nan)
    compared = np.full_like(labels, -1)
    holds = np.full(len(labels), -1, dtype=np.int64)
    since = np.full(len(labels), -1, dtype=np.int64)
    for t in range(labels.shape[1]):
        now = labels[:, t]
        for earlier in np.unique(since[(now >= 0) & (holds >= 0) & (now != holds)]).tolist():
            rows = np.flatnonzero((since == earlier) & (now >= 0) & (holds >= 0) & (now != holds))
            share = compare(earlier, t, rows, holds[rows], now[rows])
            if similarity is not None:
                same[rows, t] = similarity(earlier, t, rows)
                share = np.where(same[rows, t] >= UNCHANGED, 0.0, share)
            sure[rows, t] = share
            compared[rows, t] = earlier
            taken[rows[share >= confidence], t] = True
        fresh = taken[:, t] | ((holds < 0) & (now >= 0))
        holds = np.where(fresh, now, holds)
        # The last epoch at which the label was the one held is what later ones are compared with.
        since = np.where((now >= 0) & (now == holds), t, since)
        held[:, t] = holds
    return Held(held, taken, sure, compared, same)


def confident_changes(history: History, held: Held) -> pd.DataFrame:
    """A row for every change with confidence.

    Args:
        history: the labels.
        held: what the units hold (`held_labels` of that history).

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
            "self_similarity": held.self_similarity[rows, columns],
        }
    )


def concept_columns(
    labels: Sequence[NDArray[np.int64]],
) -> tuple[NDArray[np.int64], list[NDArray[np.int64]]]:
    """The distinct values of some index arrays, and the arrays as indices into those."""
    distinct, inverse = np.unique(np.concatenate(labels), return_inverse=True)
    parts = np.split(inverse.reshape(-1), np.cumsum([len(part) for part in labels])[:-1])
    return distinct, parts
