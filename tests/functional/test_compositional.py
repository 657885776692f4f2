"""Compositional explanations against a brute-force beam, and formulas against the masks that they stand
for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from concept_monitor_cli.functional import compositional as comp
from concept_monitor_cli.functional import dissection as nd
from concept_monitor_cli.functional.compositional import Formula
from tests.functional import twins_dissection as twins
from tests.functional.test_dissection import random_labels, read_minibroden, smooth_maps
from tests.functional.twins_dissection import Labels

SIZE = (8, 8)


def counted(
    images: list[Labels], masks: nd.UnitMasks, categories: list[int]
) -> tuple[comp.LabelCells, nd.IoUCounts]:
    counter = comp.CellCounter(masks.n_units, len(categories))
    counter.update(images, masks)
    return counter.cells(), nd.iou_counts(images, masks, categories)


def areas(counts: nd.IoUCounts, categories: list[int], unit: int, normaliser: nd.Normaliser):
    def area(names: frozenset[int]) -> int:
        bits = 0
        for c in names:
            bits |= 0 if categories[c] < 0 else 1 << categories[c]
        return int(counts.area_for(bits, normaliser)[unit])

    return area


# -- Formulas ------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from(comp.OPERATORS), st.integers(0, 5)), max_size=5))
def test_a_formula_means_what_it_was_built_from(steps: list[tuple[comp.Operator, int]]) -> None:
    masks = np.random.default_rng(0).random((6, 64)) < 0.5
    formula, holds, used = Formula.of(2), masks[2], {2}
    for operator, c in steps:
        if c in used:
            with pytest.raises(ValueError, match="already"):
                formula.extended(operator, c)
            continue
        used.add(c)
        formula = formula.extended(operator, c)
        holds = {"OR": holds | masks[c], "AND": holds & masks[c], "AND NOT": holds & ~masks[c]}[operator]
    assert np.array_equal(formula.evaluate(lambda c: masks[c]), holds)
    assert formula.names == used
    assert formula.length == len(used)
    # Its text is Python, but for the operators' case.
    text = formula.text([f"x[{c}]" for c in range(6)]).replace("AND", "and").replace("OR", "or")
    for column in range(0, 64, 7):
        assert bool(eval(text.replace("NOT", "not"), {"x": masks[:, column]})) == holds[column]


def test_formulas_are_canonical() -> None:
    a, b = Formula.of(0), Formula.of(1)
    assert a.extended("OR", 1) == b.extended("OR", 0)
    assert a.extended("AND NOT", 1) != b.extended("AND NOT", 0)
    left = a.extended("AND NOT", 1).extended("AND", 2)
    assert left == a.extended("AND", 2).extended("AND NOT", 1)
    assert (
        len({left, a.extended("OR", 1).extended("OR", 2), Formula.of(2).extended("OR", 1).extended("OR", 0)})
        == 2
    )
    assert str(left) == "c0 AND c2 AND NOT c1"


def test_a_formula_in_words() -> None:
    names = ["water", "river", "blue"]
    formula = Formula.of(1).extended("OR", 0).extended("AND NOT", 2)
    assert formula.text(names) == "(water OR river) AND NOT blue"


# -- Cells ---------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_cells_partition_the_labelled_pixels(seed: int) -> None:
    generator = np.random.default_rng(seed)
    m = int(generator.choice([3, 9, 70]))  # 70 labels do not fit one word
    scalars = tuple(range(0, m, 2)) if seed % 2 else ()
    images = [Labels(image.maps, image.scalars + scalars) for image in random_labels(generator, 3, m, SIZE)]
    for image in images:
        cut = comp.label_cells(image, SIZE)
        cell, signatures, sizes = cut.cell, cut.signatures, cut.sizes
        assert len(set(signatures)) == len(signatures) == len(sizes)
        assert signatures[0] == ()
        for pixel in range(SIZE[0] * SIZE[1]):
            y, x = divmod(pixel, SIZE[1])
            assert set(signatures[cell[pixel]]) == twins.labels_at(image, y, x)
        assert np.array_equal(np.bincount(cell, minlength=len(sizes)), sizes)


def test_cells_add_up_over_batches_and_shards() -> None:
    generator = np.random.default_rng(1)
    images = random_labels(generator, 10, 6, SIZE)
    dense = generator.random((10, 4, *SIZE)) < 0.2

    def masks(part: slice) -> nd.UnitMasks:
        return nd.UnitMasks.from_dense(dense[part])

    categories = [0] * 6
    whole = counted(images, masks(slice(None)), categories)[0]
    first, second = slice(0, 4), slice(4, 10)
    both = (
        counted(images[second], masks(second), categories)[0]
        + counted(images[first], masks(first), categories)[0]
    )
    assert set(both.signatures) == set(whole.signatures)
    order = [both.signatures.index(each) for each in whole.signatures]
    assert np.array_equal(both.sizes[order], whole.sizes)
    assert np.array_equal(both.inside.toarray()[:, order], whole.inside.toarray())
    # As many of a unit's pixels in each label as Network Dissection counts.
    counts = nd.iou_counts(images, masks(slice(None)), categories)
    assert np.array_equal((whole.inside @ whole.members).toarray(), counts.intersection)
    assert np.array_equal(whole.sizes @ whole.members.toarray(), counts.label_area)


def test_several_sets_of_masks_are_counted_as_each_alone() -> None:
    generator = np.random.default_rng(3)
    images = random_labels(generator, 6, 6, SIZE)
    parts = [nd.UnitMasks.from_dense(generator.random((6, 4, *SIZE)) < share) for share in (0.1, 0.4)]
    counters = [comp.CellCounter(4, 6) for _ in parts]
    comp.count_cells(images, list(zip(counters, parts, strict=True)))
    for counter, masks in zip(counters, parts, strict=True):
        together, alone = counter.cells(), counted(images, masks, [0] * 6)[0]
        assert together.signatures == alone.signatures
        assert np.array_equal(together.sizes, alone.sizes)
        assert np.array_equal(together.inside.toarray(), alone.inside.toarray())
    other = nd.UnitMasks.from_dense(np.ones((6, 4, 2, 2), dtype=bool))
    with pytest.raises(ValueError, match="different sizes"):
        comp.count_cells(images, [(counters[0], parts[0]), (counters[1], other)])


# -- Search --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normaliser", nd.NORMALISERS)
@pytest.mark.parametrize("beam", [1, 3, 10])
def test_the_search_equals_brute_force(normaliser: nd.Normaliser, beam: int) -> None:
    generator = np.random.default_rng(beam)
    categories = [0, 0, 1, 1, 2, -1, 2]
    images = random_labels(generator, 6, 7, SIZE)
    dense = generator.random((6, 5, *SIZE)) < generator.choice([0.0, 0.1, 0.5], size=(6, 5, 1, 1))
    masks = nd.UnitMasks.from_dense(dense)
    cells, counts = counted(images, masks, categories)
    found = comp.compositional(cells, counts, length=4, beam=beam, normaliser=normaliser, search="beam")
    planes = twins.planes(images, 7, SIZE)
    for unit in range(5):
        pixels = dense[:, unit].reshape(-1)
        expected = twins.beam_search(
            planes, pixels, areas(counts, categories, unit, normaliser), length=4, beam=beam
        )
        assert [each.formula for each in found[unit]] == [each.formula for each in expected]
        for mine, literal in zip(found[unit], expected, strict=True):
            assert mine.iou == pytest.approx(literal.iou, abs=1e-12)
            assert mine.intersection == (literal.holds & pixels).sum()
            assert mine.formula_area == literal.holds.sum()
            holds = mine.formula.evaluate(lambda c: planes[c])
            assert np.array_equal(holds, literal.holds)


def test_supported_formulas_leave_out_the_luckiest_image() -> None:
    generator = np.random.default_rng(8)
    categories = [0, 0, 1, 1, 2, -1, 2]
    images = random_labels(generator, 6, 7, SIZE)
    dense = generator.random((6, 5, *SIZE)) < generator.choice([0.0, 0.1, 0.5], size=(6, 5, 1, 1))
    dense[:, 4] = False
    masks = nd.UnitMasks.from_dense(dense)
    found = comp.compositional(*counted(images, masks, categories), length=3)
    best = [each[-1] if each else None for each in found]
    (supported,) = comp.supported_formulas(images, [(masks, best)])
    planes = twins.planes(images, 7, SIZE)
    for unit, each in enumerate(best):
        if each is None:
            assert supported[unit] == 0
            continue
        holds = each.formula.evaluate(lambda c: planes[c]).reshape(6, *SIZE)
        parts = [int((holds[i] & dense[i, unit]).sum()) for i in range(6)]
        union = dense[:, unit].sum() + holds.sum() - sum(parts)
        assert supported[unit] == pytest.approx((sum(parts) - max(parts)) / union, abs=1e-12)
    assert best[4] is None
    # A single label has the support that Network Dissection gives it.
    single = [each[0] if each else None for each in found]
    counts = nd.iou_counts(images, masks, categories)
    support = nd.supported_iou(counts, "none").numpy()
    _, alone = comp.supported_formulas(images, [(masks, best), (masks, single)])
    for unit, each in enumerate(single):
        if each is not None:
            (label,) = each.formula.concepts
            assert alone[unit] == pytest.approx(support[unit, label])
    with pytest.raises(ValueError, match="labels of 5"):
        comp.supported_formulas(images[:5], [(masks, best)])
    with pytest.raises(ValueError, match="formulas of 2 units"):
        comp.supported_formulas(images, [(masks, best[:2])])


def test_the_search_equals_brute_force_on_photos(minibroden: Path) -> None:
    images, categories = read_minibroden(minibroden)
    images = images[:20]
    maps = smooth_maps(20, 10, 7, seed=3)
    masks = nd.unit_masks(maps, nd.activation_threshold(maps, 0.02), (112, 112))
    cells, counts = counted(images, masks, categories)
    found = comp.compositional(cells, counts, length=3, beam=10, search="beam")
    present = np.flatnonzero(counts.label_area)
    # To be done in time: labels that no image carries are left out, and pixels that agree in their labels and
    # the unit's mask are looked at once, with their number as a weight.
    planes = twins.planes(images, len(categories), (112, 112))[present]
    dense = masks.dense()
    for unit in range(10):
        pixels = dense[:, unit].reshape(-1)
        columns = np.packbits(np.vstack([planes, pixels]), axis=0)
        _, first, weight = np.unique(columns, axis=1, return_index=True, return_counts=True)
        best = _weighted_beam(planes[:, first], pixels[first], weight, counts, unit, present)
        assert [str(each.formula) for each in found[unit]] == [text for text, _ in best]
        assert [each.iou for each in found[unit]] == pytest.approx([iou for _, iou in best], abs=1e-12)


def _weighted_beam(planes, pixels, weight, counts, unit, present):
    """Brute force over merged pixels, every formula as a mask."""
    area = int(counts.area[unit])

    def score(holds):
        both = int(weight[holds & pixels].sum())
        return both / (area + int(weight[holds].sum()) - both)

    label = [int(c) for c in present]

    def cut(pool):
        scored = [(-score(holds), formula.key, formula, holds) for formula, holds in pool.items()]
        return sorted((each for each in scored if each[0] < 0), key=lambda each: each[:2])[:10]

    kept = cut({Formula.of(c): planes[i] for i, c in enumerate(label)})
    best = [(str(kept[0][2]), -kept[0][0])]
    for _ in range(2):
        pool = {formula: holds for _, _, formula, holds in kept}
        for _, _, formula, holds in kept:
            for i, c in enumerate(label):
                if c in formula.names:
                    continue
                for operator, mask in (
                    ("OR", holds | planes[i]),
                    ("AND", holds & planes[i]),
                    ("AND NOT", holds & ~planes[i]),
                ):
                    if not np.array_equal(mask, holds):
                        pool.setdefault(formula.extended(operator, c), mask)
        kept = cut(pool)
        best.append((str(kept[0][2]), -kept[0][0]))
    return best


@pytest.mark.parametrize("normaliser", nd.NORMALISERS)
def test_length_one_is_network_dissection_and_iou_never_falls(
    minibroden: Path, normaliser: nd.Normaliser
) -> None:
    images, categories = read_minibroden(minibroden)
    maps = smooth_maps(len(images), 12, 7, seed=4, coarse=7)
    masks = nd.unit_masks(maps, nd.activation_threshold(maps), (112, 112))
    cells, counts = counted(images, masks, categories)
    best = nd.iou(counts, normaliser).max(dim=1)
    found = comp.compositional(cells, counts, length=5, normaliser=normaliser)
    single = comp.compositional(cells, counts, length=1, normaliser=normaliser)
    for unit in range(12):
        assert [each.formula for each in single[unit]] == [Formula.of(int(best.indices[unit]))]
        assert single[unit][0].iou == best.values[unit].item()
        assert found[unit][0] == single[unit][0]
        ious = [each.iou for each in found[unit]]
        assert ious == sorted(ious)
        assert all(each.formula.length <= n for n, each in enumerate(found[unit], start=1))


def test_a_planted_formula_is_found(minibroden: Path) -> None:
    images, categories = read_minibroden(minibroden)
    images = images[:80]
    planes = twins.planes(images, len(categories), (112, 112))
    sizes = planes.sum(axis=1)
    a, b = (int(c) for c in np.argsort(-np.where(np.array(categories) == 1, sizes, 0))[:2])
    colours = np.where(np.array(categories) == 0, (planes & (planes[a] | planes[b])).sum(axis=1), 0)
    formula = Formula.of(a).extended("OR", b).extended("AND NOT", int(colours.argmax()))
    dense = formula.evaluate(lambda c: planes[c]).reshape(len(images), 1, 112, 112)
    cells, counts = counted(images, nd.UnitMasks.from_dense(dense), categories)
    ((one, two, three),) = comp.compositional(cells, counts)
    assert three.formula == formula
    assert three.iou == 1.0
    assert one.iou < two.iou < 1.0


def test_a_silent_unit_has_no_explanation_and_a_concept_without_rival_stays_alone() -> None:
    images = [Labels((np.zeros((4, 4), np.int32),)), Labels(())]
    dense = np.zeros((2, 3, 4, 4), dtype=bool)
    dense[0, 1] = True  # exactly the concept
    dense[1, 2] = True  # only where nothing is labelled
    cells, counts = counted(images, nd.UnitMasks.from_dense(dense), [0, 0])
    silent, exact, elsewhere = comp.compositional(cells, counts)
    assert silent == elsewhere == []
    assert [str(each.formula) for each in exact] == ["c0", "c0", "c0"]
    assert comp.compositional(cells, counts, units=[1]) == [exact]


def test_the_search_refuses_what_does_not_belong_together() -> None:
    images = [Labels((np.zeros((4, 4), np.int32),))] * 2
    masks = nd.UnitMasks.from_dense(np.ones((2, 1, 4, 4), dtype=bool))
    cells, counts = counted(images, masks, [0])
    other = nd.iou_counts(images[:1], nd.UnitMasks.from_dense(np.ones((1, 1, 4, 4), dtype=bool)), [0])
    with pytest.raises(ValueError, match="not of the same images"):
        comp.compositional(cells, other)
    with pytest.raises(ValueError, match="at least 1"):
        comp.compositional(cells, counts, length=0)
    with pytest.raises(ValueError, match="unknown IoU normaliser"):
        comp.compositional(cells, counts, normaliser="some")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="only 0 labels"):
        comp.CellCounter(1, 0).update(images, masks)
    with pytest.raises(ValueError, match="labels of 1"):
        comp.CellCounter(1, 1).update(images[:1], masks)


def test_torch_maps_of_any_precision_lead_to_the_same_formulas() -> None:
    generator = np.random.default_rng(9)
    images = random_labels(generator, 12, 6, SIZE)
    maps = smooth_maps(12, 3, 4, seed=9)
    found = []
    for dtype in (torch.float32, torch.float16, torch.float64):
        masks = nd.unit_masks(maps.to(dtype), nd.activation_threshold(maps, 0.1), SIZE)
        found.append(comp.compositional(*counted(images, masks, [0] * 6)))
    assert found[0] == found[1] == found[2]
