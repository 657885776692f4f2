"""CLIP-Dissect by the top images alone: `wpmi` and `soft-wpmi`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from concept_monitor_cli.functional.calibration import (
    DRAWS,
    above_chance,
    best_beyond_chance,
    beyond_chance,
    evidence_of,
    label_beside_chance,
    p_values,
    random_top_images,
)
from concept_monitor_cli.functional.firing import Company, companies, firing
from concept_monitor_cli.functional.pairs import joined
from concept_monitor_cli.functional.resampling import reach
from concept_monitor_cli.functional.similarity.activations import ConceptActivations
from concept_monitor_cli.functional.similarity.pmi import Evidence
from concept_monitor_cli.functional.similarity.registry import RankSimilarity
from concept_monitor_cli.functional.stability import Stability, rank_stability
from concept_monitor_cli.functional.topk import dead_units, top_images_of_groups, top_rows
from concept_monitor_cli.lenses.names.clip_named import Named, joined_stability

if TYPE_CHECKING:
    from concept_monitor_cli.store import Entry
    from concept_monitor_cli.study.context import Context

#: A layer of fewer units has no prior worth the name; see docs/calibration.md.
FEW_UNITS = 8
#: How far down bootstrap draws reach (`reach`). One of some ten thousand draws of a unit is short of an image
#: or two, and is scaled to its full number.
STABILITY_REACH = 4.0


class RankedLayer:
    """The named units of a layer, by their top images.

    Args:
        similarity: of the registry.
        pooled: `(N, U)`, activations of the units that are to be named.
        context: images, concepts, groups.
        top_k: `K`, no more than there are groups of images.
    """

    def __init__(self, similarity: RankSimilarity, pooled: Tensor, context: Context, top_k: int) -> None:
        self.similarity, self.context = similarity, context
        self.units = pooled.shape[1]
        self.top_k = top_k
        # A group of images is one piece of evidence: it has one place, that of the image that excites most.
        self.fires = firing(pooled, context.groups).groups.cpu()
        self.top = top_images_of_groups(pooled, reach(top_k, STABILITY_REACH), context.groups)[0]
        self.few = self.units < FEW_UNITS
        self.sized = companies(self.fires, top_k, 1 if self.few else FEW_UNITS)

    def name(self, untrained: Sequence[Entry]) -> Named:
        """Scores, order, p-values and effect.

        Args:
            untrained: recordings of networks with random weights, which labels must beat.
        """
        concepts = self.context.activations.n_concepts
        device = self.top.device
        scores = torch.empty(self.units, concepts, device=device)
        order = torch.empty_like(scores)
        p = torch.full((self.units,), torch.nan, dtype=torch.float64)
        effect = torch.full((self.units,), torch.nan)
        draws = 0
        for part in self.sized:
            rows = part.rows
            p[rows], effect[rows], chances = self._name(part, untrained, scores, order)
            draws = max(draws, chances)
        return Named(scores, order, p, effect, draws, self.notes())

    def _name(
        self, part: Company, untrained: Sequence[Entry], scores: Tensor, order: Tensor
    ) -> tuple[Tensor, Tensor, int]:
        """See `name`: p-values, effect and draws of some units; fills their rows of scores and order.

        A part at a time, so that tables of units by concepts of one are gone before those of the next come.
        """
        layer = self._evidence(self.context.activations, part)
        random = self.random_sets(part.size)
        null = self._untrained(untrained, part.size) or random
        rows = part.rows
        # Where all of them are looked at through this size, as most are, no table is copied.
        some = None if bool(part.own.all()) else part.own.to(self.top.device)
        own = slice(None) if some is None else some
        if self.few:
            scores[rows] = order[rows] = beyond_chance(layer, random)[own]
            chance = beyond_chance(null, random).amax(1) if null is not random else best_beyond_chance(null)
        else:
            scores[rows] = layer.scores(self.similarity.lam, own=some)
            beside = label_beside_chance(layer, null, lam=self.similarity.lam)
            order[rows], chance = beside.order[own], beside.chance
            del beside  # as large as the evidence
        evidence = Evidence(layer.values[own], 0.0)
        # Of the concepts that are printed, read from the order that sorts the table.
        labels = top_rows(order[rows], 1)[0][:, 0]
        found = order[rows].amax(1) if self.few else evidence_of(evidence, null, labels)
        found, chance = found.cpu(), chance.cpu()
        return p_values(found, chance), above_chance(found, chance), len(chance)

    def scored(self) -> tuple[Tensor, Tensor]:
        """Scores and order alone, `(U, M)` each, as `name` has them."""
        scores = torch.empty(self.units, self.context.activations.n_concepts, device=self.top.device)
        order = torch.empty_like(scores)
        for part in self.sized:
            layer = self._evidence(self.context.activations, part)
            own, rows = part.own.to(self.top.device), part.rows
            if self.few:
                scores[rows] = order[rows] = beyond_chance(layer, self.random_sets(part.size))[own]
            else:
                scores[rows] = layer.scores(self.similarity.lam, own=own)
                order[rows] = layer.order(self.similarity.lam, own)
        return scores, order

    def notes(self) -> tuple[str, ...]:
        """What was done otherwise than usual."""
        notes = []
        if self.few:
            notes.append(
                f"a layer with fewer than {FEW_UNITS} live units has no prior: its units are named by what "
                "speaks for a concept beyond random sets of images, and scores are in standard deviations of "
                "that"
            )
        fewer = sum(len(part.rows) for part in self.sized if part.size < self.top_k)
        if fewer:
            what = "images" if self.context.groups.are_single else "groups of images"
            notes.append(
                f"{fewer} units fire on fewer than {self.top_k} {what}, and are named by those on which they "
                "fire"
            )
        return tuple(notes)

    def pair_scores(self, texts: Tensor) -> Tensor:
        """Scores of further concepts, as if each alone joined the concept set: `(U, n)`."""
        joining = joined(self.context.activations, texts, self.similarity.a)
        scores = torch.empty(self.units, len(texts), device=self.top.device)
        for part in self.sized:
            layer = self._evidence(joining, part)
            if self.few:
                scores[part.rows] = beyond_chance(layer, self._random(joining, part.size))[part.own]
            else:
                scores[part.rows] = layer.scores(self.similarity.lam, own=part.own.to(self.top.device))
        return scores

    def stability(self, candidates: Tensor, values: Tensor, counts: Tensor) -> Stability:
        """How often each of the concepts that compete is first in bootstrap draws.

        Args:
            candidates: `(U, S)`, see `Named.candidates`.
            values: `(U, S)`, what sorts them.
            counts: `(R, N)`, how often each image is drawn.
        """
        spread = torch.ones_like(values)
        parts = []
        for part in self.sized:
            rows = part.rows
            if self.few:  # the order is in standard deviations, draws are counted in evidence
                random = self.random_sets(part.size).values
                spread[rows] = random.std(0, correction=0)[candidates[rows]]
            parts.append(
                (
                    rows,
                    rank_stability(
                        self.similarity,
                        self.context.activations,
                        self.top[: reach(part.size, STABILITY_REACH), rows],
                        self.fires[rows],
                        part.size,
                        candidates[rows],
                        values[rows],
                        counts,
                        spread=spread[rows],
                    ),
                )
            )
        return joined_stability(parts, self.units)

    def random_sets(self, size: int) -> Evidence:
        """Evidence of random sets of images: the same for all layers and epochs.

        Not kept in the store: to read the megabytes takes a good part of the time that it takes to make them.
        """
        context, similarity = self.context, self.similarity
        return context.recent.get_or_make(
            ("random sets", similarity.name, similarity.a, size),
            lambda: self._random(context.activations, size),
            nbytes=4 * DRAWS * context.activations.n_concepts,
            # Those of few units must not drive out what all layers ask for.
            displaces=size == self.top_k,
        )

    def _random(self, activations: ConceptActivations, size: int) -> Evidence:
        context = self.context
        sets = random_top_images(context.groups, size, DRAWS, seed=context.seed, device=context.device)
        return self.similarity.evidence(activations, sets, a=self.similarity.a)

    def _untrained(self, untrained: Sequence[Entry], size: int) -> Evidence | None:
        """Evidence of the units of untrained networks that fire on `size` groups of images."""
        parts = []
        for entry in untrained:
            pooled = torch.from_numpy(entry.read("pooled")).to(self.context.device)
            fires = firing(pooled, self.context.groups)
            enough = (
                (fires.groups >= size) & ~fires.sparse(self.context.groups.n_groups) & ~dead_units(pooled)
            )
            if bool(enough.any()):
                top = top_images_of_groups(pooled[:, enough], size, self.context.groups)[0]
                parts.append(self.similarity.evidence(self.context.activations, top, a=self.similarity.a))
        return Evidence(torch.cat([part.values for part in parts]), parts[0].constant) if parts else None

    def _evidence(self, activations: ConceptActivations, part: Company) -> Evidence:
        top = self.top[: part.size, part.units]
        return self.similarity.evidence(activations, top, a=self.similarity.a)
