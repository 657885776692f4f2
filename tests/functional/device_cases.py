"""Cases for a simulated device: units, their labels, and how good these are."""

from __future__ import annotations

import numpy as np
import torch

from concept_monitor_cli.functional import (
    ablation,
    calibration,
    circuits,
    embedding,
    firing,
    groups,
    held_out,
    pairs,
    ranks,
    redundancy,
    resampling,
    stability,
    topk,
)
from concept_monitor_cli.functional._blocks import Workspace
from concept_monitor_cli.functional.evaluation import (
    contributions,
    cosy,
    cutoff,
    labels,
    layers,
    ranges,
    sanity,
    simulation,
    weights,
)
from concept_monitor_cli.functional.evaluation import groups as image_groups
from concept_monitor_cli.functional.similarity import (
    activations,
    cosine,
    pmi,
    registry,
    reorder,
    reorder_chance,
)
from tests.functional.on_device import Case, World


def _concepts(w: World) -> activations.ConceptActivations:
    return activations.ConceptActivations.from_embeddings(w.I, w.T)


def _stretches(w: World) -> list[torch.Tensor]:
    whole, space = activations.ConceptActivations.from_matrix(w.P), Workspace(w.device)
    made = [_concepts(w), whole]
    assert whole.is_whole
    return [
        each.source[:, each.first : each.first + 5][each.rows]
        for own in made
        for each in own.stretches(slice(3, 8), slice(0, w.N), space)
    ]


def _evidence(w: World) -> pmi.Evidence:
    return pmi.Evidence(w.new(w.C, w.M), -3.0)


def _chance(w: World) -> pmi.Evidence:
    return pmi.Evidence(w.new(2 * w.C, w.M), -3.0)


def _live(w: World) -> torch.Tensor:
    return torch.arange(w.C) != 4


def _counts(w: World) -> torch.Tensor:
    return resampling.image_counts(w.N, range(6))


def _rank_stability(w: World) -> stability.Stability:
    similarity = registry.similarity_named("soft-wpmi")
    assert isinstance(similarity, registry.RankSimilarity)
    top, _ = topk.top_images(w.R, w.N)
    fires = firing.firing(w.R).groups
    return stability.rank_stability(
        similarity, _concepts(w), top, fires, 8, w.best, w.scores.gather(1, w.best), _counts(w)
    )


def _value_stability(name: str, w: World) -> stability.Stability:
    similarity = registry.similarity_named(name)
    assert isinstance(similarity, registry.ValueSimilarity)
    return stability.value_stability(similarity, _concepts(w), w.R, w.best, _counts(w), w.groups)


def _random_sets(w: World) -> reorder_chance.RandomSets:
    return reorder_chance.RandomSets.draw(w.groups, 6, w.C, 3)


def _pairs(w: World) -> pairs.BestPairs:
    found = pairs.BestPairs(w.best, w.M, 3)
    both = pairs.distinct_pairs(w.best, w.M)
    found.update(both, w.put(w.randn(w.C, len(both))))
    return found


def _ranked(w: World) -> dict[str, torch.Tensor]:
    units = simulation.RankedUnits(w.Q[:, : w.K])
    return units.scores(w.labels, w.Z)


CASES: dict[str, Case] = {
    "ablation.linear_scores": Case(
        lambda w: ablation.linear_scores(w.Z, w.Q, w.W, [1, 3], w.Q.mean(0)[[1, 3]])
    ),
    "ablation.scores_along": Case(lambda w: ablation.scores_along(w.Z, w.Q, w.W, w.Q[: w.C, :2])),
    "ablation.matched_directions": Case(
        lambda w: ablation.matched_directions(w.Q, torch.linalg.qr(w.Q[: w.C, :2])[0], 4), waits=1
    ),
    "ablation.Outcome: of by_class": Case(
        lambda w: ablation.Outcome.of(w.Z, w.classes).by_class(w.classes, w.K)
    ),
    "ablation.matched_sets": Case(lambda w: ablation.matched_sets(w.Q.mean(0), [0, 3], 4), waits=1),
    "ablation.beside_controls": Case(lambda w: ablation.beside_controls(w.p, w.null)),
    "calibration.random_top_images": Case(
        lambda w: calibration.random_top_images(w.pairs, 5, 9, device=w.device)
    ),
    "calibration: label_evidence label_beside_chance": Case(
        lambda w: calibration.label_evidence(_evidence(w), _chance(w), lam=1.0), waits=1
    ),
    "calibration.evidence_of": Case(lambda w: calibration.evidence_of(_evidence(w), _chance(w), w.label)),
    "calibration.beyond_chance": Case(lambda w: calibration.beyond_chance(_evidence(w), _chance(w))),
    "calibration.best_beyond_chance": Case(lambda w: calibration.best_beyond_chance(_chance(w))),
    "calibration.shuffled": Case(lambda w: calibration.shuffled(w.Q, groups=w.pairs)),
    "calibration.best_of_permutations": Case(
        lambda w: calibration.best_of_permutations(
            lambda Q: (Q.T @ w.P).amax(1), w.Q, permutations=3, together=2
        )
    ),
    "calibration.permuted_best_scores": Case(
        lambda w: calibration.permuted_best_scores(lambda Q: Q.T @ w.P, w.Q, permutations=3)
    ),
    "calibration.p_values": Case(lambda w: calibration.p_values(w.Q[0], w.Q[:, 0]), waits=3),
    "calibration.pooled_p_values": Case(lambda w: calibration.pooled_p_values(w.Q[0], w.null), waits=2),
    "calibration.standardised": Case(lambda w: calibration.standardised(w.Q[0], w.null)),
    "calibration.above_chance": Case(lambda w: calibration.above_chance(w.Q[0], w.null[0])),
    "calibration.above_null": Case(lambda w: calibration.above_null(w.Q[0], w.null[0])),
    "calibration.benjamini_hochberg": Case(lambda w: calibration.benjamini_hochberg(w.p, 0.3)),
    "circuits.sampling_error": Case(
        lambda w: circuits.sampling_error(w.Q.double(), w.p.new_ones(w.N).double()), waits=1
    ),
    "circuits.conv_channels": Case(
        lambda w: circuits.conv_channels(w.maps[:, :, :3, :3], [circuits.tap_shares(6, 6, 3, padding=1)] * 2),
        waits=1,
        host=True,
    ),
    "circuits.standardised": Case(lambda w: circuits.standardised(w.scores.nan_to_num(0.0))),
    "circuits.edge_p_values": Case(lambda w: circuits.edge_p_values(w.W, w.W.flip(0) ** 2), waits=1),
    "circuits.agreement": Case(lambda w: circuits.agreement(w.scores, w.scores**3), waits=2),
    "circuits.concept_graph": Case(
        lambda w: circuits.concept_graph(w.W.T, w.label % 4 - 1, w.classes[: w.K] - 1, 1, draws=5), waits=2
    ),
    "circuits.fires": Case(lambda w: circuits.fires(w.R)),
    "circuits.unions": Case(
        lambda w: circuits.unions(
            w.Q[:, :4].abs() + 1, w.W.T[:, :2].repeat(1, 2), w.labels > 0, w.label % 3, least=0.3
        ),
        waits=4,
    ),
    "embedding.neuron_embedding": Case(lambda w: embedding.neuron_embedding(w.scores, w.T), waits=1),
    "embedding.neuron_embedding_from_top": Case(
        lambda w: embedding.neuron_embedding_from_top(w.scores.gather(1, w.best), w.best, w.T)
    ),
    "embedding.directions": Case(lambda w: embedding.directions(w.T)),
    "embedding.spread": Case(lambda w: embedding.spread(w.T), waits=2),
    "embedding.group_spreads": Case(
        lambda w: embedding.group_spreads(embedding.directions(w.T), w.labels.T[:, : w.M] > 0), waits=1
    ),
    "embedding.nearest_anchor": Case(lambda w: embedding.nearest_anchor(w.I, w.T)),
    "embedding.nearest": Case(lambda w: embedding.nearest(w.I, 4), waits=1),
    "embedding.interpolated": Case(lambda w: embedding.interpolated(w.I, w.T, w.T[:, :2], 4)),
    "firing.firing firing.Firing.sparse": Case(
        lambda w: firing.firing(w.R, w.pairs).sparse(w.pairs.n_groups)
    ),
    "firing.set_sizes": Case(
        lambda w: firing.set_sizes(firing.firing(w.R).groups, 12, 2), waits=1, host=True
    ),
    "firing.companies firing.Company.rows": Case(
        lambda w: [
            (each.size, each.units, each.own, each.rows)
            for each in firing.companies(firing.firing(w.R).groups, 12, 2)
        ],
        waits=1,
        host=True,
    ),
    "groups.ImageGroups.read": Case(lambda w: groups.ImageGroups.read(w.classes).n_groups, waits=1),
    "groups.Rotations.permuted": Case(
        lambda w: groups.Rotations.draw(w.pairs, w.Q.shape[1], 1, np.random.default_rng(0)).permuted(0, w.Q)
    ),
    "groups.canonical_groups": Case(lambda w: groups.canonical_groups(w.classes), waits=1, host=True),
    "held_out.held_out_auc": Case(lambda w: held_out.held_out_auc(w.R, w.P, w.label, share=0.1), waits=2),
    "held_out.held_out_summary": Case(
        lambda w: held_out.held_out_summary(w.p, w.null[0], effective=5.0), waits=8
    ),
    "pairs.distinct_pairs": Case(lambda w: pairs.distinct_pairs(w.best, w.M), waits=1, host=True),
    "pairs.joined": Case(lambda w: pairs.joined(_concepts(w), w.T[:4], 10.0).block(slice(0, 4)), waits=1),
    "pairs.BestPairs: __init__ update": Case(
        lambda w: (_pairs(w).pairs, _pairs(w).scores), waits=6, host=True
    ),
    "ranks.average_ranks": Case(lambda w: ranks.average_ranks(w.R)),
    "redundancy.effective_units": Case(lambda w: redundancy.effective_units(w.R), waits=6),
    "redundancy.nearest_correlation": Case(lambda w: redundancy.nearest_correlation(w.R), waits=4, host=True),
    "redundancy.redundancy": Case(lambda w: redundancy.redundancy(w.R), waits=11),
    "resampling.resampled_top_images": Case(
        lambda w: resampling.resampled_top_images(topk.top_images(w.Q, w.N)[0], w.put(_counts(w)), 5), waits=3
    ),
    # -- similarities --
    "similarity.activations.ConceptActivations: __init__ block from_embeddings tile n_images device": Case(
        lambda w: _concepts(w).block(slice(3, 8))
    ),
    "similarity.activations.ConceptActivations: n_concepts embeddings": Case(
        lambda w: (_concepts(w).n_concepts, _concepts(w).embeddings)
    ),
    "similarity.activations.ConceptActivations: from_matrix select": Case(
        lambda w: activations.ConceptActivations.from_matrix(w.P).select(w.classes[: w.K]).block(slice(3, 8))
    ),
    "similarity.activations.ConceptActivations: stretches is_whole": Case(_stretches),
    "similarity.activations.ConceptActivations.log_normaliser": Case(
        lambda w: _concepts(w).log_normaliser(10.0), waits=1
    ),
    "similarity.activations.ConceptActivations.softmax_range": Case(
        lambda w: _concepts(w).softmax_range(10.0), waits=3
    ),
    "similarity.activations.as_activations": Case(
        lambda w: activations.as_activations(w.P, w.N).log_normaliser(2.0), waits=1
    ),
    "similarity.cosine.cos": Case(lambda w: (cosine.cos(_concepts(w), w.R), cosine.cos(w.P, w.R))),
    "similarity.cosine.cos_cubed": Case(
        lambda w: (cosine.cos_cubed(_concepts(w), w.R), cosine.cos_cubed(w.P, w.R))
    ),
    "similarity.cosine.best_cos": Case(
        lambda w: (cosine.best_cos(_concepts(w), w.R.clone()), cosine.best_cos(w.P, w.R.clone()))
    ),
    "similarity.cosine.best_cos_cubed": Case(
        lambda w: (cosine.best_cos_cubed(_concepts(w), w.R.clone()), cosine.best_cos_cubed(w.P, w.R.clone()))
    ),
    "similarity.pmi.Evidence.log_prior": Case(lambda w: _evidence(w).log_prior()),
    "similarity.pmi.Evidence.scores": Case(lambda w: _evidence(w).scores(0.6)),
    "similarity.pmi.Evidence.order": Case(lambda w: _evidence(w).order(1.0)),
    "similarity.pmi.Evidence.among": Case(lambda w: _evidence(w).among(_live(w)).values, waits=1),
    "similarity.pmi.Evidence.scored": Case(
        lambda w: _evidence(w).scored(1.0, _live(w), _evidence(w).among(_live(w))), waits=2
    ),
    "similarity.pmi.log_sum_of_others": Case(lambda w: pmi.log_sum_of_others(w.new(w.C, w.M))),
    "similarity.pmi.soft_wpmi_evidence": Case(
        lambda w: pmi.soft_wpmi_evidence(_concepts(w), topk.top_images(w.R, 6)[0]), waits=7
    ),
    "similarity.pmi.wpmi_evidence": Case(
        lambda w: pmi.wpmi_evidence(w.P, topk.top_images(w.R, 6)[0]), waits=7
    ),
    "similarity.pmi.soft_wpmi": Case(lambda w: pmi.soft_wpmi(w.P, w.R, top_k=6), waits=7),
    "similarity.pmi.wpmi": Case(lambda w: pmi.wpmi(_concepts(w), w.R, top_k=6), waits=7),
    "similarity.registry.reordered": Case(
        lambda w: [(each.units, each.images, each.values) for each in registry.reordered(w.R, w.groups)],
        waits=2,
        sends="units of each number of top images are looked up",
    ),
    "similarity.reorder.random_order_error": Case(
        lambda w: (reorder.random_order_error(w.Q), reorder.random_order_error(w.Q[:, :3], power=2.0))
    ),
    "similarity.reorder.rank_reorder_from_top": Case(
        lambda w: reorder.rank_reorder_from_top(_concepts(w), *topk.top_images(w.R, 6)), waits=1
    ),
    "similarity.reorder.rank_reorder": Case(
        lambda w: reorder.rank_reorder(w.P, w.R, top_fraction=0.2), waits=1
    ),
    "similarity.reorder.rank_reorder_of": Case(
        lambda w: reorder.rank_reorder_of(_concepts(w), registry.reordered(w.R, w.groups)),
        waits=2,
        sends="units of each number of top images are looked up",
    ),
    "similarity.reorder.row_ranks": Case(lambda w: reorder.row_ranks(w.P.T.contiguous(), 64)),
    "similarity.reorder.top_means": Case(
        lambda w: reorder.top_means(topk.top_images(w.R, 6)[0].T.contiguous(), w.P, 1e-3), waits=1
    ),
    "similarity.reorder.UnitOrders: of scores": Case(
        lambda w: reorder.UnitOrders.of(topk.top_images(w.Q, 6)[1]).scores(w.new(w.C, w.M), w.new(w.C, w.M)),
        waits=1,
    ),
    "similarity.reorder_chance.rank_reorder_by_chance": Case(
        lambda w: reorder_chance.rank_reorder_by_chance(
            _concepts(w), topk.top_images(w.Q, 6)[1], _random_sets(w)
        ),
        waits=1,
    ),
    "similarity.reorder_chance.rank_reorder_of_sets similarity.reorder_chance.OnSets.check": Case(
        lambda w: reorder_chance.rank_reorder_of_sets(
            w.P,
            [reorder_chance.OnSets(torch.arange(w.C), topk.top_images(w.Q, 6)[1], _random_sets(w))],
        ),
        waits=1,
    ),
    "stability.Stability: first sets": Case(
        lambda w: (stability.Stability(w.labels).first, stability.Stability(w.labels).sets()), waits=2
    ),
    "stability.shares_of_first": Case(
        lambda w: stability.shares_of_first(w.new(6, w.C, 4)), waits=1, host=True
    ),
    "stability.rank_stability": Case(_rank_stability, waits=3, host=True),
    "stability.value_stability": Case(
        lambda w: [_value_stability(name, w) for name in ("cos", "cos-cubed", "rank-reorder")],
        waits=11,
        grows="units are compared in parts of 16",
        host=True,
        sends="units of each number of top images are looked up",
    ),
    "stability.concept_sets": Case(
        lambda w: stability.concept_sets(
            stability.Stability(w.labels[: w.C, :3] / 2), w.best, [f"c{m}" for m in range(w.M)]
        ),
        waits=3,
    ),
    "topk.check_images": Case(
        lambda w: (topk.check_images([w.best, w.label], w.M), w.best, w.label)[1:], waits=1
    ),
    "topk.top_rows": Case(lambda w: (topk.top_rows(w.R, 4), topk.top_rows(w.R.double(), 4)), waits=1),
    "topk.top_images": Case(lambda w: topk.top_images(w.R, 6), waits=1),
    "topk.top_images_of_groups": Case(lambda w: topk.top_images_of_groups(w.R, 6, w.pairs), waits=1),
    "topk: activation_range without_range": Case(lambda w: topk.without_range(*topk.activation_range(w.R))),
    "topk.exciting_images": Case(lambda w: topk.exciting_images(w.R, 6), waits=1),
    "topk.dead_units": Case(lambda w: topk.dead_units(w.R)),
    # -- how good labels are --
    "evaluation.contributions.most_contributing_unit": Case(
        lambda w: contributions.most_contributing_unit(w.Q, w.W, w.classes)
    ),
    "evaluation.contributions.described_class": Case(
        lambda w: contributions.described_class([w.I, w.I.flip(1)], [w.T, w.T])
    ),
    "evaluation.cosy.cosy_scores": Case(lambda w: cosy.cosy_scores(w.Q, w.R, w.classes, w.K), waits=1),
    "evaluation.cosy.of_labels": Case(lambda w: cosy.of_labels(w.scores.double(), w.label - 1), waits=2),
    "evaluation.cutoff.quality_curve": Case(
        lambda w: cutoff.quality_curve(w.p, w.null[0]), waits=2, host=True
    ),
    "evaluation.cutoff.quality_cutoff": Case(
        lambda w: cutoff.quality_cutoff(w.p, w.null[0], 0.1, least=2), waits=4
    ),
    "evaluation.cutoff.cut_at": Case(lambda w: cutoff.cut_at(w.p, w.null[0], 0.2), waits=2),
    "evaluation.groups.squared_distances": Case(
        lambda w: image_groups.squared_distances(w.I.view(-1, 10, w.D))
    ),
    "evaluation.groups.kmeans": Case(
        lambda w: image_groups.kmeans(image_groups.squared_distances(w.I.view(-1, 10, w.D)), 3), waits=1
    ),
    "evaluation.groups.group_silhouettes": Case(
        lambda w: image_groups.group_silhouettes(
            image_groups.squared_distances(w.I.view(-1, 10, w.D)), w.classes.view(-1, 10) % 2, 2
        )
    ),
    "evaluation.groups.division_clarity": Case(
        lambda w: image_groups.division_clarity(w.I, topk.top_images(w.Q, 10)[0].T),
        waits=7,
        grows="k-means asks after each round, of at most 30, whether anything moved",
    ),
    "evaluation.groups.single_meanings": Case(lambda w: image_groups.single_meanings(w.I, 10, draws=9)),
    "evaluation.groups.single_meaning_clarity": Case(
        lambda w: image_groups.single_meaning_clarity(w.I, 10, draws=9), waits=6, host=True
    ),
    "evaluation.groups.image_groups": Case(
        lambda w: image_groups.image_groups(w.I, topk.top_images(w.Q, 10)[0], -w.null.abs(), fdr=0.9),
        waits=30,
        host=True,
        grows="k-means asks after each round, of at most 30, whether anything moved",
    ),
    "evaluation.groups.several_by_chance": Case(
        lambda w: image_groups.several_by_chance(-w.null.abs(), 2, fdr=0.9), waits=1, host=True
    ),
    "evaluation.groups.name_groups": Case(
        lambda w: image_groups.name_groups(_concepts(w), topk.top_images(w.Q, 5)[0].T - 1), waits=3
    ),
    "evaluation.labels.cosines": Case(lambda w: labels.cosines(w.T, w.T.flip(0))),
    "evaluation.labels.expected_cosines": Case(lambda w: labels.expected_cosines(w.I, w.T)),
    "evaluation.labels.label_ranks": Case(lambda w: labels.label_ranks(w.scores, w.label)),
    "evaluation.layers.clarity": Case(lambda w: layers.clarity(w.I.view(-1, 10, w.D))),
    "evaluation.layers.nearest_units": Case(lambda w: layers.nearest_units(w.I), waits=1),
    "evaluation.ranges.range_mean": Case(lambda w: ranges.range_mean(w.Q, w.R, 0.2), waits=1),
    "evaluation.ranges.range_samples": Case(lambda w: ranges.range_samples(w.Q, 0.2, 3), waits=1),
    "evaluation.sanity.missing_labels": Case(lambda w: sanity.missing_labels(w.gaps)),
    "evaluation.sanity.extra_labels": Case(lambda w: sanity.extra_labels(w.gaps)),
    "evaluation.sanity.share_fallen": Case(lambda w: sanity.share_fallen(w.p, w.null), waits=2),
    "evaluation.simulation.ranked": Case(lambda w: simulation.ranked(w.R)),
    "evaluation.simulation.average_precision": Case(lambda w: simulation.average_precision(w.Z, w.gaps)),
    "evaluation.simulation.roc_auc": Case(lambda w: simulation.roc_auc(w.Z, w.gaps)),
    "evaluation.simulation.pearson": Case(lambda w: simulation.pearson(w.Z, w.gaps)),
    "evaluation.simulation.active_images": Case(lambda w: simulation.active_images(w.R)),
    "evaluation.simulation.f1": Case(lambda w: simulation.f1(w.Z > 0, w.gaps)),
    "evaluation.simulation.iou": Case(lambda w: simulation.iou(w.Z > 0, w.gaps)),
    "evaluation.simulation.activation_difference": Case(
        lambda w: simulation.activation_difference(w.Z, w.gaps)
    ),
    "evaluation.simulation.top_of": Case(lambda w: simulation.top_of(w.Z, 0.2)),
    "evaluation.simulation.RankedUnits: __init__ scores": Case(_ranked, waits=3, host=True),
    "evaluation.simulation.simulation_scores": Case(
        lambda w: simulation.simulation_scores(w.Z, w.gaps), waits=2, host=True
    ),
    "evaluation.simulation.expected_average_precision": Case(
        lambda w: simulation.expected_average_precision(w.labels.sum(0), w.labels.sum(0) + 5)
    ),
    "evaluation.simulation.chance_levels": Case(
        lambda w: simulation.chance_levels(w.gaps), waits=1, host=True
    ),
    "evaluation.simulation.top_images_showing": Case(lambda w: simulation.top_images_showing(w.Z, w.gaps, 5)),
    "evaluation.weights.correlation": Case(lambda w: weights.correlation(w.W, w.W**3), waits=3),
    "evaluation.weights.highest_weights": Case(lambda w: weights.highest_weights(w.W)),
    "evaluation.weights.cosine_of_highest": Case(lambda w: weights.cosine_of_highest(w.W, w.W**2, [1, 4])),
    "evaluation.weights.permuted_correlations": Case(
        lambda w: weights.permuted_correlations(w.W, w.W**3, permutations=7), waits=2, host=True
    ),
    "evaluation.weights.permutation_p_value": Case(lambda w: weights.permutation_p_value(0.3, w.p), waits=1),
}
