"""Pixels in cells image by image: the same counts as adding up over images, and as looking at every pixel."""

from __future__ import annotations

import numpy as np
import pytest

from concept_monitor_cli.functional import compositional as comp
from concept_monitor_cli.functional import dissection as nd
from concept_monitor_cli.functional.compositional import CellPixels, CutImages, Formula
from concept_monitor_cli.functional.groups import ImageGroups
from tests.functional import twins_dissection as twins
from tests.functional.test_dissection import random_labels
from tests.functional.twins_dissection import Labels

SIZE = (5, 7)
CATEGORIES = [0, 0, 1, 1, 2, -1, 2]
PHOTOS, UNITS = 9, 4


def case(seed: int) -> tuple[list[Labels], nd.UnitMasks, ImageGroups]:
    generator = np.random.default_rng(seed)
    images = random_labels(generator, PHOTOS, len(CATEGORIES), SIZE)
    images[3] = Labels(())  # an image without a label
    dense = generator.random((PHOTOS, UNITS, *SIZE)) < generator.choice(
        [0.0, 0.2, 0.8], (PHOTOS, UNITS, 1, 1)
    )
    dense[:, 3] = False
    dense[:5, 2] = False
    groups = (
        ImageGroups.read(np.array([0, 1, 1, 2, 3, 4, 1, 5, 6])) if seed % 2 else ImageGroups.single(PHOTOS)
    )
    return images, nd.UnitMasks.from_dense(dense), groups


@pytest.mark.parametrize("seed", range(4))
def test_counts_and_support_are_those_of_the_passes_over_the_pixels(seed: int) -> None:
    images, masks, groups = case(seed)
    cut = CutImages.of(images, len(CATEGORIES), SIZE)
    laid = [(masks.image, np.arange(len(masks)))]
    laid += [nd.shuffled_rows(masks, groups=groups, seed=each) for each in range(3)]
    pixels = CellPixels.count(cut, masks, laid)
    parts = [masks, *(nd.shuffled_masks(masks, groups=groups, seed=each) for each in range(3))]
    together = comp.search_formulas(pixels.cells, pixels.counts(CATEGORIES))
    best = [each.best[-1] if each.best else None for each in together]
    supported = pixels.supported(best, groups)
    for number, part in enumerate(parts):
        own = slice(number * UNITS, (number + 1) * UNITS)
        counter = comp.CellCounter(UNITS, len(CATEGORIES))
        counter.update(images, part)
        cells, counts = counter.cells(), nd.iou_counts(images, part, CATEGORIES)
        assert pixels.cells.signatures == cells.signatures
        assert np.array_equal(pixels.cells.sizes, cells.sizes)
        assert np.array_equal(pixels.cells.inside.toarray()[own], cells.inside.toarray())
        found = pixels.counts(CATEGORIES)
        assert np.array_equal(found.intersection[own], counts.intersection)
        assert np.array_equal(found.area[own], counts.area)
        assert np.array_equal(found.label_area, counts.label_area)
        assert found.n_images == counts.n_images
        alone = comp.search_formulas(cells, counts)
        assert together[own] == alone
        (expected,) = comp.supported_formulas(images, [(part, best[own])], groups)
        assert np.array_equal(supported[own], expected)
    assert best[3] is None
    assert supported[3] == 0


def test_images_that_show_a_formula_and_those_where_it_is_met() -> None:
    images, masks, groups = case(1)
    cut = CutImages.of(images, len(CATEGORIES), SIZE)
    laid = [(masks.image, np.arange(len(masks))), nd.shuffled_rows(masks, groups=groups, seed=5)]
    pixels = CellPixels.count(cut, masks, laid)
    one = Formula.of(0).extended("AND NOT", 1)
    formulas = [one, None, Formula.of(4), Formula.of(4)]
    shown, met = pixels.images_met(formulas)
    planes, dense = twins.planes(images, len(CATEGORIES), SIZE), masks.dense()
    for unit, formula in enumerate(formulas):
        if formula is None:
            assert shown[unit] == met[unit] == 0
            continue
        holds = formula.evaluate(lambda c: planes[c]).reshape(PHOTOS, *SIZE)
        assert shown[unit] == holds.any(axis=(1, 2)).sum() > 0
        assert met[unit] == (holds & dense[:, unit]).any(axis=(1, 2)).sum()
    assert 0 < met[2] < shown[2]
    assert met[3] == 0


def test_what_does_not_belong_together_is_refused() -> None:
    images, masks, groups = case(0)
    with pytest.raises(ValueError, match="there are only 3 labels"):
        CutImages.of(images, 3, SIZE)
    with pytest.raises(ValueError, match="labels of 8"):
        CellPixels.count(CutImages.of(images[:8], len(CATEGORIES), SIZE), masks, [])
    cut = CutImages.of(images, len(CATEGORIES), SIZE)
    pixels = CellPixels.count(cut, masks, [(masks.image, np.arange(len(masks)))])
    with pytest.raises(ValueError, match="formulas of 1 masks, expected 4"):
        pixels.supported([None], groups)


def test_masks_that_fire_nowhere_are_counted_as_nothing() -> None:
    images, _, groups = case(0)
    masks = nd.UnitMasks.from_dense(np.zeros((PHOTOS, 2, *SIZE), dtype=bool))
    pixels = CellPixels.count(
        CutImages.of(images, len(CATEGORIES), SIZE), masks, [(masks.image, np.arange(0))]
    )
    assert pixels.area.tolist() == [0, 0]
    assert all(not each.best for each in comp.search_formulas(pixels.cells, pixels.counts(CATEGORIES)))
    assert pixels.supported([None, None], groups).tolist() == [0, 0]
    assert [each.tolist() for each in pixels.images_met([None, None])] == [[0, 0], [0, 0]]
