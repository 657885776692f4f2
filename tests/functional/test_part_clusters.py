"""Parts of images that a layer sees alike: planted ones are found, those of few members are left out."""

from __future__ import annotations

import pytest
import torch

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.part_clusters import part_clusters


def planted(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps of 3 x 3 positions, each of one of four directions at any loudness, or silent."""
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.randint(-1, 4, (40, 9), generator=generator)
    directions = torch.linalg.qr(torch.randn(6, 6, generator=generator))[0][:4].abs()
    loud = 0.1 + 5 * torch.rand(40, 9, 1, generator=generator)
    seen = loud * (directions[kinds.clamp_min(0)] + 0.02 * torch.rand(40, 9, 6, generator=generator))
    seen[kinds < 0] = 0
    return seen.movedim(2, 1).reshape(40, 6, 3, 3), kinds


def test_planted_parts_are_clusters_however_loud() -> None:
    maps, kinds = planted()
    found = part_clusters(maps, 4)
    assert (found.cluster[kinds < 0] == -1).all()
    assert found.nearness[kinds < 0].isnan().all()
    # The same kinds under other numbers.
    pairs = {(int(a), int(b)) for a, b in zip(kinds.flatten(), found.cluster.flatten(), strict=True)}
    assert len(pairs) == 5
    assert float(found.nearness[kinds >= 0].min()) > 0.99
    names = dict(pairs)
    assert sorted(found.kept) == [0, 1, 2, 3]
    for place, cluster in enumerate(found.kept):
        kind = next(kind for kind, number in names.items() if number == cluster)
        for image in range(40):
            share = sum(int(each) == kind for each in kinds[image]) / 9
            assert float(found.share[image, place]) == pytest.approx(share)
    again = part_clusters(maps, 4)
    assert torch.equal(again.cluster, found.cluster)


def test_positions_without_anything_in_common_have_no_near_centres() -> None:
    maps = torch.randn(40, 60, 3, 3, generator=torch.Generator().manual_seed(1))
    assert float(part_clusters(maps, 4).nearness.median()) < 0.5


def test_clusters_of_few_members_are_left_out_and_the_most_frequent_is_first() -> None:
    maps = torch.zeros(30, 3, 2, 2)
    maps[:, 0] = 1.0
    maps[:24, 0, 0, 0], maps[:24, 1, 0, 0] = 0.0, 1.0
    maps[:5, 0, 1, :], maps[:5, 2, 1, :] = 0.0, 1.0
    found = part_clusters(maps, 3)
    first, second, third = (int(found.cluster[place]) for place in ((29, 0), (0, 0), (0, 2)))
    assert len({first, second, third}) == 3
    # On 30 and 24 images; ten members are too few.
    assert found.kept == (first, second)


def test_more_clusters_than_positions_are_refused() -> None:
    with pytest.raises(InputError, match="8 positions with any activation, and 9 clusters"):
        part_clusters(torch.ones(2, 3, 2, 2), 9)
