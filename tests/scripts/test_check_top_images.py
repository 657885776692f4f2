"""`scripts/check_top_images.py`: planted classes, and a choice that is judged where it was not made."""

from __future__ import annotations

import numpy as np
import torch

from concept_monitor_cli.functional.similarity.registry import RankSimilarity, similarity_named
from scripts.check_top_images import Classes, choose


def _planted(per_class: int, classes: int = 12) -> Classes:
    """Photos that show their class alone, and units that answer to their class alone."""
    rng = np.random.default_rng(0)
    words = torch.eye(classes + 5)
    of_image = np.repeat(np.arange(classes), per_class)
    images = words[torch.from_numpy(of_image)]
    pooled = torch.from_numpy(rng.random((len(of_image), classes)))
    pooled[torch.arange(len(of_image)), torch.from_numpy(of_image)] += 2
    return Classes(pooled.float(), images, words, of_image, np.arange(classes))


def _soft_wpmi() -> RankSimilarity:
    similarity = similarity_named("soft-wpmi")
    assert isinstance(similarity, RankSimilarity)
    return similarity


def test_planted_units_are_named_right_and_spoilt_names_are_not() -> None:
    planted = _planted(per_class=6)
    assert planted.right(_soft_wpmi(), 6).all()
    unknown = Classes(planted.pooled, planted.images, planted.words, planted.of_image, planted.names[::-1])
    assert not unknown.right(_soft_wpmi(), 6).any()


def test_some_classes_keep_their_photos_and_units() -> None:
    planted = _planted(per_class=3)
    chosen = np.array([1, 4, 9])
    few = planted.some(chosen)
    assert few.pooled.shape == (9, 3)
    assert few.of_image.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert few.names.tolist() == chosen.tolist()
    assert (few.pooled.argmax(1).numpy() == few.of_image).all()
    assert torch.equal(few.images, planted.images[np.isin(planted.of_image, chosen)])


def test_a_choice_is_judged_on_the_other_half() -> None:
    # By 3 the first six classes of twelve are right, by 5 all but one, by 9 none.
    right = {3: np.arange(12) < 6, 5: np.arange(12) > 0, 9: np.zeros(12, dtype=bool)}
    found = choose([right], default=3, halvings=200)
    assert set(found.ks) <= {3, 5}
    assert found.ks.count(5) > 150
    assert 0.4 < found.default < 0.6
    assert found.default < found.chosen <= found.best <= 1


def test_choosing_among_equals_gains_nothing_on_the_other_half() -> None:
    rng = np.random.default_rng(1)
    right = {k: rng.random(400) < 0.5 for k in range(1, 12)}
    found = choose([right], default=1, halvings=300)
    everywhere = np.mean([share.mean() for share in right.values()])
    assert abs(found.chosen - everywhere) < 0.02
    assert found.best > found.chosen + 0.02
