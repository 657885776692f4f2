"""How well a label predicts a unit: against literal twins, scikit-learn, chance and the truth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from late import Late

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.evaluation import simulation as sim
from tests.functional import twins_simulation as twins

sk = Late("sklearn.metrics")

NAN = float("nan")


def pairs(
    seed: int, n: int, b: int, *, unknown: float = 0.2, levels: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations, tied where there are few `levels`, half of them silent; presence with unknown images."""
    generator = torch.Generator().manual_seed(seed)
    activations = torch.randn(n, b, generator=generator)
    activations[:, ::2] = activations[:, ::2].relu()
    if levels is not None:
        activations = (activations * levels).round() / levels
    presence = (torch.rand(n, b, generator=generator) < 0.3).float()
    presence[torch.rand(n, b, generator=generator) < unknown] = NAN
    return activations, presence


def close(found: torch.Tensor, wanted: list[float]) -> None:
    np.testing.assert_allclose(found.numpy(), np.array(wanted), atol=1e-6, rtol=0)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 30),
    levels=st.sampled_from([None, 1, 2]),
    share=st.sampled_from([0.05, 0.2, 0.5]),
    graded=st.booleans(),
)
def test_all_measures_equal_their_twins(
    seed: int, n: int, levels: int | None, share: float, graded: bool
) -> None:
    activations, presence = pairs(seed, n, 5, levels=levels)
    activations[:, 1] = 0.5  # a dead unit
    presence[:, 2] = 0.0  # an absent concept
    presence[:, 3] = torch.where(presence[:, 3].isnan(), NAN, 1.0)  # one on every image
    similarity = None
    if graded:
        similarity = (torch.rand(n, 5, generator=torch.Generator().manual_seed(seed)) * 4).round() / 4
        similarity[:, 4] = NAN  # labels say it all
    found = sim.simulation_scores(activations, presence, similarity, active_share=share)
    assert tuple(found) == sim.METRICS
    for b in range(5):
        column = None if similarity is None else similarity[:, b].double().numpy()
        wanted = twins.simulation_scores(
            activations[:, b].double().numpy(), presence[:, b].double().numpy(), column, share
        )
        for name in sim.METRICS:
            close(found[name][b : b + 1], [wanted[name]])


def test_measures_equal_those_of_scikit_learn() -> None:
    activations, presence = pairs(1, 200, 40, unknown=0, levels=3)
    active = sim.active_images(activations, 0.1)
    found = {
        "auprc": sim.average_precision(activations, presence),
        "auc": sim.roc_auc(activations, presence),
        "f1": sim.f1(active, presence),
        "iou": sim.iou(active, presence),
        "r": sim.pearson(activations, presence),
    }
    for b in range(40):
        a, c, f = activations[:, b].double().numpy(), presence[:, b].numpy(), active[:, b].numpy()
        wanted = {
            "auprc": sk.average_precision_score(c, a),
            "auc": sk.roc_auc_score(c, a),
            "f1": sk.f1_score(c, f),
            "iou": sk.jaccard_score(c, f),
            "r": np.corrcoef(a, c)[0, 1],
        }
        for name, value in wanted.items():
            assert found[name][b].item() == pytest.approx(value, abs=1e-6)


def test_no_result_depends_on_the_other_pairs_or_on_how_they_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    activations, presence = pairs(2, 50, 12)
    together = sim.simulation_scores(activations, presence)
    monkeypatch.setattr(sim, "_BLOCK", 150)  # three pairs at a time
    cut = sim.simulation_scores(activations, presence)
    alone = sim.simulation_scores(activations[:, 7:8], presence[:, 7:8])
    for name in sim.METRICS:
        assert torch.equal(together[name], cut[name])
        assert together[name][7].item() == pytest.approx(alone[name][0].item(), abs=1e-12)


def test_an_image_that_is_not_known_might_as_well_not_be_there() -> None:
    activations, presence = pairs(3, 60, 4, unknown=0)
    gone = torch.arange(60) % 3 == 0
    fewer = sim.simulation_scores(activations[~gone], presence[~gone])
    presence[gone] = NAN
    for name, values in sim.simulation_scores(activations, presence).items():
        torch.testing.assert_close(values, fewer[name], atol=1e-12, rtol=0)


# -- chance and truth ----------------------------------------------------------------------------------------


def test_random_labels_score_at_chance_in_every_measure() -> None:
    """Chance: r 0, both AUCs 0.5, difference 0, AUPRC the share of active images, inverse AUPRC the
    prevalence (with the small-sample term), F1 and IoU those of independent images."""
    n, b, share = 300, 4000, 0.1
    generator = torch.Generator().manual_seed(4)
    activations = torch.randn(n, b, generator=generator)
    presence = torch.zeros(n, b)
    presence[:60] = 1  # prevalence 0.2, the same images for every unit: the units are what is random
    found = sim.simulation_scores(activations, presence, active_share=share)
    chance = sim.chance_levels(presence, active_share=share)
    assert chance["correlation"][0] == 0
    assert chance["auc"][0] == chance["inverse_auc"][0] == 0.5
    assert chance["activation_difference"][0] == 0
    assert chance["auprc"][0].item() == pytest.approx(0.1)
    assert chance["f1"][0].item() == pytest.approx(2 * 0.1 * 0.2 / 0.3)
    assert chance["iou"][0].item() == pytest.approx(0.02 / 0.28)
    assert chance["inverse_auprc"][0].item() == pytest.approx(0.2, abs=0.02)
    for name in sim.METRICS:
        error = (found[name] - chance[name]).mean().abs().item()
        # Three standard errors, and what the closed forms leave out (of the order 1 / n).
        assert error < 3 * found[name].std().item() / b**0.5 + 1.5 / n, name


def test_a_similarity_that_is_random_scores_at_chance_too() -> None:
    n, b = 300, 2000
    generator = torch.Generator().manual_seed(5)
    activations, similarity = torch.randn(n, b, generator=generator), torch.randn(n, b, generator=generator)
    presence = sim.top_of(similarity, 0.05)
    found = sim.simulation_scores(activations, presence, similarity)
    assert found["correlation"].mean().item() == pytest.approx(0, abs=0.005)
    assert found["auc"].mean().item() == pytest.approx(0.5, abs=0.005)
    expected = sim.expected_average_precision(torch.tensor([15]), torch.tensor([300])).item()
    assert found["auprc"].mean().item() == pytest.approx(expected, abs=0.004)


def test_true_labels_are_at_the_top_of_every_measure() -> None:
    n, units = 400, 20
    generator = torch.Generator().manual_seed(6)
    presence = (torch.rand(n, units, generator=generator) < 0.05).float()
    presence[0] = 1
    activations = presence * 5 + torch.rand(n, units, generator=generator)
    share = presence.mean().item()
    true = sim.simulation_scores(activations, presence, active_share=share)
    other = sim.simulation_scores(activations, presence.roll(1, 1), active_share=share)
    for name in ("auc", "auprc", "inverse_auc", "inverse_auprc", "f1", "iou", "correlation"):
        assert true[name].mean() > 0.8, name
        assert bool((true[name] > other[name]).all()), name
    assert torch.equal(true["inverse_auc"], torch.ones(units, dtype=torch.float64))
    assert torch.equal(true["inverse_auprc"], torch.ones(units, dtype=torch.float64))
    assert bool((true["activation_difference"] > 10).all())


@pytest.mark.parametrize(("n", "p"), [(5, 1), (6, 3), (7, 7), (1, 1)])
def test_expected_average_precision_is_the_mean_over_all_orders(n: int, p: int) -> None:
    from itertools import combinations

    values = []
    for places in combinations(range(n), p):
        target = np.zeros(n)
        target[list(places)] = 1
        values.append(twins.average_precision(-np.arange(n, dtype=float), target))
    expected = sim.expected_average_precision(torch.tensor([p]), torch.tensor([n]))
    assert expected.item() == pytest.approx(np.mean(values), abs=1e-9)


# -- what is not defined -------------------------------------------------------------------------------------


def test_dead_units_absent_concepts_and_concepts_on_every_image_are_nan() -> None:
    activations, presence = pairs(7, 40, 3, unknown=0)
    activations[:, 0] = 1.0
    presence[:, 1] = 0.0
    presence[:, 2] = 1.0
    for name, values in sim.simulation_scores(activations, presence).items():
        assert bool(values.isnan().all()), name


def test_concepts_on_too_few_images_are_not_judged() -> None:
    activations, presence = torch.rand(30, 3), torch.zeros(30, 3)
    presence[:2, 0] = 1
    presence[:3, 1] = 1
    presence[:28, 2] = 1
    found = sim.simulation_scores(activations, presence, least=3)["correlation"]
    assert found.isnan().tolist() == [True, False, True]


def test_a_unit_that_is_silent_on_most_images_is_not_active_in_silence() -> None:
    activations = torch.zeros(100, 1)
    activations[:2, 0] = torch.tensor([3.0, 1.0])
    assert sim.active_images(activations, 0.05).sum().item() == 2
    activations[:8, 0] = 1.0  # a tie at the border: all of it
    assert sim.active_images(activations, 0.05).sum().item() == 8


def test_the_share_of_active_images_has_no_rounding_error() -> None:
    activations = torch.arange(100.0)[:, None]
    for share in (0.01, 0.05, 0.07, 0.29, 0.57):
        assert sim.active_images(activations, share).sum().item() == round(100 * share)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_no_share_no_active_images(share: float) -> None:
    with pytest.raises(InputError, match="share"):
        sim.active_images(torch.rand(10, 1), share)


def test_shapes_must_agree() -> None:
    with pytest.raises(InputError, match="same"):
        sim.pearson(torch.rand(3, 2), torch.rand(3, 1))
    with pytest.raises(InputError, match="same"):
        sim.simulation_scores(torch.rand(3, 2), torch.rand(4, 2))
    with pytest.raises(InputError, match="at least one"):
        sim.average_precision(torch.rand(0, 2), torch.rand(0, 2))


def test_top_of_a_similarity() -> None:
    similarity = torch.tensor([[0.9, NAN], [0.1, 0.2], [0.5, 0.3], [0.2, 0.1]])
    expected = torch.tensor([[1.0, NAN], [0.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    assert torch.equal(sim.top_of(similarity, 0.25).nan_to_num(9), expected.nan_to_num(9))


def test_how_many_of_the_top_images_show_the_concept() -> None:
    activations = torch.tensor([[5.0, 1.0], [4.0, 2.0], [3.0, 3.0], [2.0, 4.0]])
    presence = torch.tensor([[1.0, 1.0], [NAN, 0.0], [0.0, 0.0], [1.0, NAN]])
    assert sim.top_images_showing(activations, presence, 2).tolist() == [0.5, 0.0]
    # The last image counts for nobody: it is the unit's lowest.
    assert sim.top_images_showing(activations, presence, 9).tolist() == [0.5, 0.0]
    assert sim.top_images_showing(activations, presence * NAN, 2).isnan().all()


def test_images_are_looked_at_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same of every block of pairs as of each pair alone, with ties and images that do not count."""
    activations, presence = pairs(3, 40, 33, levels=3)
    blocks, whole = [], sim.ranked

    def measured(values: torch.Tensor) -> sim.Ranking:
        blocks.append(values.shape)
        return whole(values)

    monkeypatch.setattr(sim, "ranked", measured)
    monkeypatch.setattr(sim, "_BLOCK", 5 * 40)
    found = sim.top_images_showing(activations, presence, 10)
    assert sorted(blocks) == [(40, 3), *[(40, 5)] * 6]
    close(found, [literal_showing(activations[:, b].tolist(), presence[:, b].tolist()) for b in range(33)])


def literal_showing(activations: list[float], presence: list[float]) -> float:
    counting = [row for row, there in enumerate(presence) if there == there]
    lowest = min(activations[row] for row in counting)
    exciting = [row for row in counting if activations[row] > lowest]
    top = sorted(exciting, key=lambda row: (-activations[row], row))[:10]
    return sum(presence[row] for row in top) / len(top)
