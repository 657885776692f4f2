"""Groups of images, against what they are by definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional import groups as groups_module
from concept_monitor_cli.functional.calibration import random_top_images, shuffled
from concept_monitor_cli.functional.groups import (
    ImageGroups,
    Rotations,
    canonical_groups,
    halves,
    permuted_images,
)
from concept_monitor_cli.functional.resampling import image_counts

GROUPS = [3, 1, 3, 0, 0, 3, 9]


def test_numbers_follow_the_first_images() -> None:
    assert canonical_groups(torch.tensor(GROUPS)).tolist() == [0, 1, 0, 2, 2, 0, 3]
    with pytest.raises(InputError):
        ImageGroups.read([])
    with pytest.raises(InputError):
        ImageGroups.read(np.array([0.5]))


def test_members_and_places() -> None:
    groups = ImageGroups.read(GROUPS)
    assert groups.sizes.tolist() == [3, 1, 2, 1]
    assert groups.members.tolist() == [0, 2, 5, 1, 3, 4, 6]
    assert groups.place.tolist() == [0, 0, 1, 0, 1, 2, 0]
    assert not groups.are_single
    assert ImageGroups.single(4).are_single


def permuted_twin(groups: list[int], order: list[int]) -> list[int]:
    """Group by group: member j of a group gets member j (mod size) of the one that comes."""
    members = {g: [i for i, h in enumerate(groups) if h == g] for g in set(groups)}
    result = [-1] * len(groups)
    for g, own in members.items():
        coming = members[order[g]]
        for j, image in enumerate(own):
            result[image] = coming[j % len(coming)]
    return result


@pytest.mark.parametrize("seed", range(5))
def test_whole_groups_change_places(seed: int) -> None:
    generator = np.random.default_rng(seed)
    groups = ImageGroups.read(generator.integers(0, 6, 20))
    order = generator.permutation(groups.n_groups)
    assert permuted_images(groups, order).tolist() == permuted_twin(groups.of.tolist(), order.tolist())


def test_groups_of_one_size_are_permuted_exactly() -> None:
    groups = ImageGroups.read([0, 1, 2, 0, 1, 2])
    Q = torch.rand(6, 40)
    mixed = shuffled(Q, groups=groups, seed=3)
    assert torch.equal(mixed.sort(0).values, Q.sort(0).values)
    for unit in range(40):
        pairs = {tuple(Q[[g, g + 3], unit].tolist()) for g in range(3)}
        assert {tuple(mixed[[g, g + 3], unit].tolist()) for g in range(3)} == pairs


def test_rotations_agree_image_by_image() -> None:
    groups = ImageGroups.read(GROUPS)
    rotations = Rotations.draw(groups, 9, 3, np.random.default_rng(0))
    whole = np.stack([rotations.sources(r, slice(0, 9)) for r in range(3)])
    for image in range(len(GROUPS)):
        assert np.array_equal(rotations.source_of(image), whole[:, image])
    assert np.array_equal(rotations.part(1, 3).sources(0, slice(2, 4)), whole[1][:, 2:4])
    # A unit is as likely to get any group in any place.
    many = Rotations.draw(groups, 4, 4000, np.random.default_rng(1))
    got = groups.of[many.source_of(3)[:, 1]]
    assert np.allclose(np.bincount(got, minlength=4) / 4000, 0.25, atol=0.03)


@pytest.mark.parametrize("units", [1, 5, 70])
@pytest.mark.parametrize(
    "numbers", [[0], [0, 0, 0], list(range(30)), GROUPS, [*range(20), 3, 7, 7], [0, 0, 1, 1, 1] * 9]
)
@pytest.mark.parametrize("room", [1, 1 << 21])
def test_permuted_activations_are_those_of_the_sources(
    numbers: list[int], units: int, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups_module, "_PLACES", room)
    groups = ImageGroups.read(numbers)
    rotations = Rotations.draw(groups, units, 2, np.random.default_rng(0))
    Q = torch.randn(len(numbers), units, generator=torch.Generator().manual_seed(0))
    for values in (Q, Q.T.contiguous().T, Q.bfloat16()):
        for number in range(2):
            rows = [permuted_twin(groups.of.tolist(), np.roll(rotations.order[number], -shift).tolist())
                    for shift in rotations.shift[number]]  # fmt: skip
            expected = torch.stack([values[own, unit] for unit, own in enumerate(rows)], 1)
            assert torch.equal(rotations.permuted(number, values), expected)


def test_a_resample_draws_whole_groups() -> None:
    groups = ImageGroups.read(GROUPS)
    counts = image_counts(groups, range(200), seed=1).numpy()
    for row in counts:
        by_group = [set(row[groups.of == g]) for g in range(4)]
        assert all(len(each) == 1 for each in by_group)
        assert sum(each.pop() for each in by_group) == 4
    assert abs(counts.mean() - 1) < 0.1
    assert torch.equal(image_counts(ImageGroups.single(7), [0, 5]), image_counts(7, [0, 5]))


def test_halves_share_no_group() -> None:
    generator = np.random.default_rng(4)
    for seed in range(20):
        groups = ImageGroups.read(generator.integers(0, 30, 100))
        first = halves(groups, seed=seed)
        assert not set(groups.of[first]) & set(groups.of[~first])
        assert abs(int(first.sum()) - 50) <= 3
    single = ImageGroups.single(11)
    assert {int(halves(single, seed=seed).sum()) for seed in range(20)} == {5, 6}
    # Every image is in the first half about as often as not.
    share = np.mean([halves(single, seed=seed) for seed in range(400)], axis=0)
    assert np.all(np.abs(share - 0.5) < 0.1)


def test_random_sets_have_one_image_of_each_group() -> None:
    groups = ImageGroups.read([0, 1, 1, 2, 2, 2, 3, 4, 4, 4, 4, 0])
    sets = random_top_images(groups, 3, 4000, seed=2).T
    of = groups.of[sets.numpy()]
    assert all(len(set(each)) == 3 for each in of.tolist())
    # Groups come equally often, however many images they have, and so do the images of a group.
    share = np.bincount(of.ravel(), minlength=5) / of.size
    assert np.allclose(share, 1 / 5, atol=0.02)
    images = np.bincount(sets.numpy().ravel(), minlength=12) / of.size
    assert np.allclose(images, (share / groups.sizes)[groups.of], atol=0.01)
    assert torch.equal(sets[:10], random_top_images(groups, 3, 10, seed=2).T)
    assert torch.equal(random_top_images(ImageGroups.single(30), 5, 6), random_top_images(30, 5, 6))
    assert random_top_images(groups, 10, 4).shape == (5, 4)  # there are five groups
