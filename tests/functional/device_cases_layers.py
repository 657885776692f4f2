"""Cases for a simulated device: layers, networks, factors, directions and texts."""

from __future__ import annotations

import torch
from torch import Tensor

from concept_monitor_cli.functional import (
    concept_vectors,
    coupled,
    descriptions,
    diversity,
    dynamics,
    evolutions,
    factor_matching,
    factor_measures,
    factors,
    failures,
    input_evidence,
    invert,
    linear,
    set_means,
)
from tests.functional.on_device import Case, World


def _gradients(w: World) -> concept_vectors.ClassGradients:
    return concept_vectors.ClassGradients.of(w.Q, w.classes, w.K + 1)


def _blocks(w: World) -> list[Tensor]:
    return [w.Q.abs(), w.Z.abs()]


def _phrases(w: World) -> descriptions.PhraseModel:
    return descriptions.PhraseModel.fit(w.I, w.T, 10.0, w.pairs)


def _captioner(w: World) -> descriptions.NextTokens:
    """Six tokens: how probable each is depends on the one before."""
    table = w.put(torch.randn(6, 6, generator=w.numbers)).log_softmax(1)
    return lambda rows: table[rows.to(w.device)]


def _prior(w: World) -> Tensor:
    return w.scores.nan_to_num(0.0).logsumexp(0)


def _factors(w: World) -> Tensor:
    return w.Q[:, :4].abs()


def _moments(w: World) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return w.Q, w.Q.square() + 0.5, w.Q.mean(0), w.Q.var(0) + 0.5


def _contrast(w: World) -> input_evidence.Contrast | None:
    means, squares, mean, variance = _moments(w)
    return input_evidence.layer_contrast((means, squares), (means + 1, squares + 3), mean, variance, eps=1e-5)


def _sums(w: World) -> linear.Sums:
    parts = w.put(linear.three_parts(w.groups))
    P, Q = (linear.standardise(each, parts == 0) for each in (w.P, w.P[:, : w.C] + 0.1 * w.Q))
    return linear.sparse_sums(P, Q, parts, most=3)


_DRAWN = "random sets are drawn for concepts that are known on the same images"

CASES: dict[str, Case] = {
    "concept_vectors.concept_vectors": Case(
        lambda w: [concept_vectors.concept_vectors(w.Q, w.gaps, kind) for kind in ("fast", "ridge", "sgd")],
        waits=4,
    ),
    "concept_vectors.cosines": Case(lambda w: concept_vectors.cosines(w.Q, w.R)),
    "set_means.mean_test": Case(
        lambda w: set_means.mean_test(w.Q, w.gaps, draws=50),
        waits=7,
        sends=_DRAWN,
    ),
    "set_means.counted_p_values": Case(
        lambda w: set_means.counted_p_values(w.Q, w.Q[:2].T * 0.1, [(3, False), (2, True)], 50, 0)
    ),
    "set_means.check_images": Case(lambda w: set_means.check_images(w.Q, w.gaps)),
    "set_means.too_uneven": Case(lambda w: set_means.too_uneven(w.Q[0], w.Q[1], w.Q[2])),
    "concept_vectors.decodability": Case(
        lambda w: concept_vectors.decodability(w.R[:, : w.K], w.gaps, draws=50), waits=3
    ),
    "concept_vectors.decodable_from": Case(
        lambda w: concept_vectors.decodable_from(w.labels * 0.4 + 0.5, w.labels > 0)
    ),
    "concept_vectors.ClassGradients.of": Case(_gradients),
    "concept_vectors.sign_shares": Case(lambda w: concept_vectors.sign_shares(_gradients(w), w.Q.T)),
    "concept_vectors.chance_of_shares": Case(
        lambda w: concept_vectors.chance_of_shares(
            _gradients(w), w.Q, concept_vectors.sign_shares(_gradients(w), w.Q.T), 5, "fast", draws=7
        )
    ),
    "concept_vectors.class_effects": Case(
        lambda w: concept_vectors.class_effects(_gradients(w), w.Q, w.gaps),
        waits=11,
        sends=_DRAWN,
    ),
    "concept_vectors.unit_effects": Case(
        lambda w: concept_vectors.unit_effects(_gradients(w), w.Q), waits=11
    ),
    "coupled.balanced": Case(lambda w: coupled.balanced(_blocks(w)), waits=2),
    "coupled.coupled_factors coupled.Factorisation.strength": Case(
        lambda w: [
            coupled.coupled_factors(_blocks(w), 3, sweeps=4).strength,
            coupled.coupled_factors(_blocks(w), 3, sweeps=4, seed=1, ridge=(0.1, 0.2), ridge_images=0.1),
        ],
        waits=57,
    ),
    "coupled.published_factors": Case(
        lambda w: coupled.published_factors(_blocks(w)[:1], _blocks(w)[1:], 2, iterations=4), waits=25
    ),
    "coupled.group_sparse_factors": Case(
        lambda w: coupled.group_sparse_factors(_blocks(w), 3, w.classes, sweeps=3, steps=3), waits=30
    ),
    "coupled.nonnegative_loadings": Case(
        lambda w: coupled.nonnegative_loadings(w.Q.abs(), _factors(w), tolerance=0.1), waits=10
    ),
    "coupled.residual": Case(lambda w: coupled.residual(w.Q.abs(), _factors(w), w.Q[: w.C, :4]), waits=2),
    "descriptions.description_scores": Case(
        lambda w: descriptions.description_scores(w.scores, _prior(w), 0.5)
    ),
    "descriptions.PhraseModel.fit": Case(_phrases),
    "descriptions.PhraseModel.given": Case(lambda w: _phrases(w).given(w.best - 1)),
    "descriptions.PhraseModel.best_of_chance": Case(
        lambda w: _phrases(w).best_of_chance(w.pairs, [3, 5], 0.5, draws=9)
    ),
    "descriptions.chosen_exemplars": Case(
        lambda w: descriptions.chosen_exemplars(w.best - 1, w.scores[:, :4], w.p, w.pairs, 3), waits=1
    ),
    "descriptions.beam_search": Case(
        lambda w: descriptions.beam_search(_captioner(w), 0, 1, beams=3, tokens=4, never=(2,)),
        host=True,
        waits=5,
    ),
    "descriptions.forced": Case(
        lambda w: descriptions.forced(_captioner(w), 0, 1, [[3, 4], [5]]), host=True, waits=1
    ),
    "descriptions.best_of_subsets": Case(
        lambda w: descriptions.best_of_subsets(-w.Q.abs(), w.Q > -0.5, 3, 0.5, draws=6)
    ),
    "descriptions.log_mean": Case(lambda w: descriptions.log_mean(w.Q)),
    "diversity.rank_test": Case(lambda w: diversity.rank_test(w.Q[:9, 0], w.Q[:9, 1], w.Q[:9, 2]), waits=7),
    "dynamics.finite": Case(lambda w: dynamics.finite(w.Q), waits=1),
    "dynamics.turned": Case(lambda w: dynamics.turned(w.Q.T)),
    "dynamics.CenteredGrams: of joined images": Case(
        lambda w: (
            dynamics.CenteredGrams.joined([dynamics.CenteredGrams.of(w.Q, 20)] * 2),
            dynamics.CenteredGrams.of(w.Q, 20).images,
        ),
        waits=2,
    ),
    "dynamics.CenteredGrams.in_orders": Case(
        lambda w: dynamics.CenteredGrams.in_orders(w.Q, [None, w.classes]), waits=1
    ),
    "dynamics.cka_matrix": Case(
        lambda w: dynamics.cka_matrix([dynamics.CenteredGrams.of(each) for each in (w.Q, w.R, w.P)]),
        waits=5,
        host=True,
    ),
    "dynamics.cka": Case(lambda w: dynamics.cka(w.Q, w.R), waits=7),
    "dynamics.Centred: __init__ permuted products": Case(
        lambda w: dynamics.Centred(w.Q).permuted(w.classes).products(slice(0, 5)), waits=1
    ),
    "dynamics.Centred.norm": Case(lambda w: dynamics.Centred(w.Q).norm, waits=2),
    "dynamics.Centred.powers": Case(lambda w: dynamics.Centred(w.Q).powers(), waits=2),
    "dynamics.Centred.principal": Case(lambda w: dynamics.Centred(w.Q).principal(0.9).abs(), waits=5),
    "dynamics.svcca": Case(lambda w: dynamics.svcca(w.Q, w.R), waits=12),
    "dynamics.pwcca": Case(lambda w: dynamics.pwcca(w.Q, w.R), waits=12),
    "dynamics.procrustes": Case(lambda w: dynamics.procrustes(w.Q, w.R), waits=6),
    "dynamics.singular_values": Case(lambda w: dynamics.singular_values(w.Q), waits=2),
    "dynamics.effective_rank": Case(lambda w: dynamics.effective_rank(w.Q), waits=4),
    "dynamics.participation_ratio": Case(lambda w: dynamics.participation_ratio(w.Q), waits=4),
    "dynamics.two_nearest_neighbours": Case(lambda w: dynamics.two_nearest_neighbours(w.Q), waits=6),
    "evolutions.head_effects": Case(lambda w: evolutions.head_effects(w.W, w.classes, w.Q)),
    "evolutions.elsewhere": Case(lambda w: evolutions.elsewhere(w.Q[: w.C])),
    "evolutions.class_gain": Case(lambda w: evolutions.class_gain(w.R), waits=1),
    "evolutions.rank_correlation": Case(lambda w: evolutions.rank_correlation(w.Q[0], w.Q[1]), waits=2),
    "evolutions.parts_by_effect": Case(lambda w: evolutions.parts_by_effect(w.p, 3), waits=1),
    "factor_matching.cosines": Case(lambda w: factor_matching.cosines(w.Q, w.R)),
    "factor_matching.matched": Case(
        lambda w: factor_matching.matched(_factors(w), _factors(w).flip(1)), waits=1
    ),
    "factor_matching.factor_stability": Case(
        lambda w: factor_matching.factor_stability(_factors(w), [_factors(w).flip(1)]), waits=1
    ),
    "factor_matching.rank_agreement": Case(
        lambda w: factor_matching.rank_agreement([_factors(w), _factors(w) ** 2, w.R[:, 2:6]]), waits=6
    ),
    "factor_measures.class_weights": Case(
        lambda w: factor_measures.class_weights(_factors(w), w.classes - 1, w.K), waits=2
    ),
    "factor_measures.purity": Case(lambda w: factor_measures.purity(w.Q)),
    "factor_measures.entropy": Case(lambda w: factor_measures.entropy(w.Q.softmax(1))),
    "factor_measures.chance_purity": Case(
        lambda w: factor_measures.chance_purity(_factors(w), w.classes, w.K, draws=4), waits=8
    ),
    "factor_measures.neighbourhoods factor_measures.Neighbourhoods.expected": Case(
        lambda w: [
            factor_measures.neighbourhoods(_factors(w), neighbours=5),
            factor_measures.neighbourhoods(_factors(w), neighbours=5).expected(3),
        ],
        waits=2,
    ),
    "factor_measures.similarity": Case(lambda w: factor_measures.similarity(w.R)),
    "factor_measures.spectrum": Case(lambda w: factor_measures.spectrum(w.R), waits=5),
    "factor_measures.chance_spectrum": Case(lambda w: factor_measures.chance_spectrum(w.R, draws=3), waits=1),
    "factors.principal_directions": Case(lambda w: factors.principal_directions(w.Q, 3), waits=1),
    "factors.nonnegative_factors": Case(lambda w: factors.nonnegative_factors(w.R, 3, sweeps=4), waits=28),
    "factors.nonnegative_coefficients": Case(
        lambda w: factors.nonnegative_coefficients(w.R, w.R[:3].T, sweeps=4), waits=1
    ),
    "failures.compared": Case(lambda w: failures.compared(w.labels[:, 0] > 0, w.classes - 1), waits=1),
    "failures.separation": Case(
        lambda w: failures.separation(w.R, w.labels[:, 0] > 0, w.classes - 1, w.pairs),
        waits=10,
        sends="permutations of each class are drawn on the host",
    ),
    "input_evidence.gaussian_divergence": Case(
        lambda w: input_evidence.gaussian_divergence(w.Q, w.Q.square() + 0.1, w.Q[0], w.Q[1].square() + 0.1)
    ),
    "input_evidence.layer_divergence": Case(
        lambda w: input_evidence.layer_divergence(*_moments(w), eps=1e-5, counts=w.labels.T)
    ),
    "input_evidence.network_divergence": Case(lambda w: input_evidence.network_divergence(list(w.null))),
    "input_evidence.share_of_wins": Case(
        lambda w: input_evidence.share_of_wins(w.null[0], w.null[1]), waits=1
    ),
    "input_evidence.layer_contrast": Case(_contrast, waits=6),
    "invert.PresenceFormula.holds": Case(
        lambda w: [
            invert.PresenceFormula(0, 1, operator, True).holds(w.gaps)
            for operator in (invert.OR, invert.AND, invert.AND_NOT)
        ]
    ),
    "invert.FormulaTable: __init__ best n_formulas": Case(
        lambda w: [
            invert.FormulaTable(w.gaps[:, :3], fewest=2).best(w.R),
            invert.FormulaTable(w.gaps[:, :3], fewest=2).n_formulas,
        ],
        waits=61,
        grows="a block of formulas, one for each set of images, is asked where one of them is a best one",
    ),
    "invert.FormulaTable.singles": Case(
        lambda w: invert.FormulaTable(w.gaps[:, :3], fewest=2, pairs=False).singles(w.R), waits=7
    ),
    "invert.mann_whitney": Case(lambda w: invert.mann_whitney(w.p, 3)),
    "linear.Sums.lengths linear.sparse_sums": Case(lambda w: (_sums(w), _sums(w).lengths), waits=28),
    "linear.standardise": Case(lambda w: linear.standardise(w.gaps, w.classes > 0), waits=2),
    "linear.forward_selection": Case(
        lambda w: linear.forward_selection(w.Q.double(), w.Q.double() @ w.W[0].double(), 3), waits=2
    ),
    "linear.predicted": Case(lambda w: linear.predicted(_sums(w), w.P.double()), waits=15),
    "linear.correlations": Case(lambda w: linear.correlations(w.Q, w.R)),
}
