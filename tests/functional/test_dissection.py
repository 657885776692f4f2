"""Network Dissection against its literal twin, by hand, split and merged, and against chance."""

from __future__ import annotations

import csv
import re
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from concept_monitor_cli.functional import dissection as nd
from concept_monitor_cli.functional.calibration import benjamini_hochberg, pooled_p_values
from concept_monitor_cli.functional.groups import ImageGroups, Rotations
from tests.functional import twins_dissection as twins
from tests.functional.twins_dissection import Labels

CATEGORIES = ("color", "object", "part", "material", "scene", "texture")


def random_labels(generator: np.random.Generator, n: int, m: int, size: tuple[int, int]) -> list[Labels]:
    """Blocky label maps, several per image, some with the same label twice, some images with nothing."""
    images = []
    for _ in range(n):
        maps = []
        for _ in range(generator.integers(0, 4)):
            blocks = generator.integers(-1, m, size=(2, 2)).astype(np.int32)
            maps.append(np.kron(blocks, np.ones((4, 4), dtype=np.int32))[: size[0], : size[1]])
        scalars = tuple(int(c) for c in generator.choice(m, generator.integers(0, 3), replace=False))
        images.append(Labels(tuple(maps), scalars))
    return images


def smooth_maps(n: int, units: int, side: int, *, seed: int, coarse: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(n, units, coarse, coarse, generator=generator)
    return F.interpolate(noise, (side, side), mode="bicubic").relu()


@cache
def read_minibroden(folder: Path) -> tuple[list[Labels], list[int]]:
    """Labels of all images and the category of each label, read without the package's help."""
    with (folder / "label.csv").open() as file:
        rows = list(csv.DictReader(file))
    index = {int(row["number"]): i for i, row in enumerate(rows)}
    categories = []
    for row in rows:
        found = re.findall(r"(\w+)\((\d+)\)", row["category"])
        best = max(found, key=lambda pair: int(pair[1]))[0] if found else None
        categories.append(-1 if best is None else CATEGORIES.index(best))
    images = []
    with (folder / "index.csv").open() as file:
        for row in csv.DictReader(file):
            maps, scalars = [], []
            for cell in (cell for category in CATEGORIES for cell in row[category].split(";") if cell):
                if cell.isdigit():
                    scalars.append(index[int(cell)])
                    continue
                pixels = np.asarray(Image.open(folder / "images" / cell).convert("RGB")).astype(np.int64)
                number = pixels[..., 0] + 256 * pixels[..., 1]
                table = np.full(number.max() + 1, -1, dtype=np.int32)
                for each in np.unique(number):
                    table[each] = index[int(each)] if each else -1
                maps.append(table[number])
            images.append(Labels(tuple(maps), tuple(scalars)))
    return images, categories


# -- Thresholds ----------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=60),
    st.sampled_from(["0.005", "0.1", "0.25", "0.5", "0.9"]),
)
def test_threshold_equals_its_definition(values: list[float], fraction: str) -> None:
    maps = torch.tensor(values, dtype=torch.float32).view(-1, 1, 1, 1)
    expected = twins.threshold(values, Fraction(fraction))
    assert nd.activation_threshold(maps, float(fraction)).item() == expected


@pytest.mark.parametrize(
    ("offset", "spread"), [(0.0, 1.0), (100.0, 0.05), (-300.0, 0.1), (2e5, 1e4), (0.0, 1e-9)]
)
def test_offset_and_scale_change_nothing(offset: float, spread: float) -> None:
    """Half precision has steps of 1/16 at 100, ends at 65,504 and knows nothing below 3e-8."""
    maps = offset + spread * smooth_maps(80, 3, 7, seed=11)
    threshold = nd.activation_threshold(maps)
    above = (maps > threshold.view(1, -1, 1, 1)).double().mean((0, 2, 3))
    assert ((above > 0.0045) & (above <= 0.005)).all()
    for i, k in zip(*np.nonzero((maps.amax((2, 3)) > threshold).numpy()), strict=True):
        fires = nd.unit_masks(maps[[i]][:, [k]], threshold[[k]], (7, 7)).dense()[0, 0]
        assert np.array_equal(fires, (maps[i, k] > threshold[k]).numpy())


def test_infinity_fires_and_minus_infinity_does_not() -> None:
    maps = torch.zeros(4, 2, 4, 4)
    maps[0, 0, 1, 1], maps[1, 1] = torch.inf, -torch.inf
    maps[2, 1, 2, 2] = 1.0
    masks = nd.unit_masks(maps, nd.activation_threshold(maps, 0.02), (4, 4))
    assert [masks.dense()[:, k].sum() for k in range(2)] == [1, 1]
    assert masks.image.tolist() == [0, 2]


def test_one_in_200_is_allowed_and_two_are_not() -> None:
    maps = torch.zeros(2, 2, 10, 10)
    maps[0, :, 0, 0] = 1.0
    maps[1, 1, 0, 0] = 1.0
    assert nd.activation_threshold(maps).tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("source", "fraction", "message"),
    [
        (torch.zeros(2, 3), 0.005, "expected maps"),
        (torch.zeros(0, 3, 2, 2), 0.005, "no positions"),
        (torch.full((2, 1, 2, 2), torch.nan), 0.005, "NaN"),
        (torch.zeros(2, 1, 2, 2), 0.0, "between 0 and 1"),
        (torch.zeros(2, 1, 2, 2), 1.0, "between 0 and 1"),
    ],
)
def test_no_threshold_of_nonsense(source: torch.Tensor, fraction: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nd.activation_threshold(source, fraction)


# -- Masks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "size"), [((3, 4), (7, 9)), ((7, 7), (14, 14)), ((5, 2), (4, 13))])
def test_masks_equal_exact_interpolation(shape: tuple[int, int], size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    # Few distinct values: many plateaus, and many pixels exactly at the threshold.
    maps = torch.randint(0, 4, (5, 4, *shape), generator=generator) / 3
    thresholds = torch.tensor([0.0, 1 / 3, 2 / 3, 0.9])
    dense = nd.unit_masks(maps, thresholds, size).dense()
    for i, k in np.ndindex(5, 4):
        exact = twins.bilinear(maps[i, k].numpy(), size)
        limit = Fraction(float(thresholds[k]))
        assert dense[i, k].tolist() == [[value > limit for value in row] for row in exact]


@pytest.mark.parametrize("side", [5, 6, 7, 11, 13])
def test_a_plateau_at_the_threshold_does_not_fire(side: int) -> None:
    for value in (0.1, 1 / 3, 0.7, 6.0, 1e-3):
        maps = torch.full((1, 1, side, side), value)
        maps[0, 0, 0, 0] = 0.0  # not constant
        threshold = nd.activation_threshold(maps)
        assert threshold.item() == torch.tensor(value).item()
        assert len(nd.unit_masks(maps, threshold, (112, 112))) == 0
        # With the peak above it, the mask is the peak's surroundings and nothing of the plateau.
        maps[0, 0, 0, 0] = 2 * value
        fires = nd.unit_masks(maps, threshold, (112, 112)).dense()[0, 0]
        assert fires[0, 0]
        assert not fires[-(112 // side) :, -(112 // side) :].any()


def test_masks_do_not_depend_on_the_batch() -> None:
    maps = smooth_maps(9, 6, 7, seed=2)
    thresholds = nd.activation_threshold(maps, 0.1)
    whole = nd.unit_masks(maps, thresholds, (30, 31))
    split = nd.UnitMasks.join([nd.unit_masks(part, thresholds, (30, 31), block=1) for part in maps.split(2)])
    alone = np.stack(
        [nd.unit_masks(maps[:, [k]], thresholds[[k]], (30, 31)).dense()[:, 0] for k in range(6)], axis=1
    )
    beside = nd.UnitMasks.side_by_side(
        [
            nd.unit_masks(maps[:, part], thresholds[part], (30, 31))
            for part in (slice(2), slice(2, 3), slice(3, 6))
        ]
    )
    for other in (split, beside, nd.UnitMasks.from_dense(alone)):
        for name in ("image", "unit", "offsets", "edges"):
            assert np.array_equal(getattr(whole, name), getattr(other, name)), name
            assert getattr(whole, name).dtype == getattr(other, name).dtype
    assert np.array_equal(whole.areas(), whole.dense()[whole.image, whole.unit].sum((1, 2)))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_runs_hold_any_mask(seed: int) -> None:
    generator = np.random.default_rng(seed)
    masks = generator.random((3, 2, 3, 5)) < generator.choice([0.0, 0.1, 0.5, 1.0])
    runs = nd.UnitMasks.from_dense(masks)
    assert np.array_equal(runs.dense(), masks)
    assert len(runs) == masks.any((2, 3)).sum()


def test_large_masks_have_wider_edges() -> None:
    masks = np.zeros((1, 1, 300, 300), dtype=bool)
    masks[0, 0, -1, -1] = True
    runs = nd.UnitMasks.from_dense(masks)
    assert runs.edges.tolist() == [300 * 300 - 1, 300 * 300]
    assert runs.dense()[0, 0, -1, -1]


def test_what_is_not_a_number_fires_nowhere() -> None:
    maps = torch.ones(2, 3, 2, 2)
    maps[0, 0, 0, 0] = torch.nan
    masks = nd.unit_masks(maps, torch.tensor([0.5, -torch.inf, torch.nan]), (4, 4))
    assert list(zip(masks.image.tolist(), masks.unit.tolist(), strict=True)) == [(1, 0)]
    assert masks.dense()[1, 0].all()


def test_masks_need_a_threshold_for_every_unit_and_one_layer() -> None:
    with pytest.raises(ValueError, match="expected maps"):
        nd.unit_masks(torch.zeros(1, 2, 3, 3), torch.zeros(3), (4, 4))
    empty = nd.unit_masks(torch.zeros(1, 2, 3, 3), torch.zeros(2), (4, 4))
    assert len(empty) == 0
    with pytest.raises(ValueError, match="different"):
        nd.UnitMasks.join([empty, nd.unit_masks(torch.zeros(1, 2, 3, 3), torch.zeros(2), (4, 5))])
    with pytest.raises(ValueError, match="no masks"):
        nd.UnitMasks.join([])
    with pytest.raises(ValueError, match="one set of images"):
        nd.UnitMasks.side_by_side([empty, nd.unit_masks(torch.zeros(3, 2, 3, 3), torch.zeros(2), (4, 4))])


# -- Counts --------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_counts_equal_the_literal_twin(seed: int) -> None:
    generator = np.random.default_rng(seed)
    size, m = (6, 7), 9
    categories = generator.integers(-1, 4, size=m).tolist()
    images = random_labels(generator, 5, m, size)
    dense = generator.random((5, 3, *size)) < generator.choice([0.0, 0.2, 0.9], size=(5, 3, 1, 1))
    counts = nd.iou_counts(images, nd.UnitMasks.from_dense(dense), categories)
    for twin in (twins.count_by_pixel, twins.count_by_mask):
        shared, size_of, area = twin(images, dense, categories)
        assert np.array_equal(counts.intersection, shared)
        assert np.array_equal(counts.label_area, size_of)
        alone = [twin(images[i : i + 1], dense[i : i + 1], categories)[0] for i in range(5)]
        assert np.array_equal(counts.luckiest, np.max(alone, axis=0))
        for normaliser in nd.NORMALISERS:
            for category in set(categories):
                bits = 0 if category < 0 else 1 << category
                column = categories.index(category)
                assert np.array_equal(counts.area_for(bits, normaliser), area[normaliser][:, column])
            expected = twins.iou(shared, size_of, area[normaliser])
            assert np.array_equal(nd.iou(counts, normaliser).numpy(), expected)
            supported = twins.supported_iou(alone, size_of, area[normaliser])
            assert np.array_equal(nd.supported_iou(counts, normaliser).numpy(), supported)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_the_luckiest_group_equals_the_literal_twin(seed: int) -> None:
    generator = np.random.default_rng(seed)
    size, m = (6, 7), 9
    categories = generator.integers(-1, 4, size=m).tolist()
    images = random_labels(generator, 7, m, size)
    dense = generator.random((7, 3, *size)) < generator.choice([0.0, 0.2, 0.9], size=(7, 3, 1, 1))
    groups = ImageGroups.read(generator.integers(0, 4, size=7))
    masks = nd.UnitMasks.from_dense(dense)
    counts = nd.iou_counts(iter(images), masks, categories, groups)
    alone = nd.iou_counts(images, masks, categories)
    for name in ("intersection", "label_area", "area", "groups", "area_by_image", "area_by_mask"):
        assert np.array_equal(getattr(counts, name), getattr(alone, name)), name
    assert np.array_equal(counts.luckiest, twins.luckiest(images, dense, categories, groups.of))
    fires = [len({int(g) for i, g in enumerate(groups.of) if dense[i, k].any()}) for k in range(3)]
    assert masks.firing_groups(groups).tolist() == fires


def test_counts_by_hand() -> None:
    # Two images of 1 x 4. In the first, label 0 (category 0) on the left half, in two maps; label 1 (category
    # 1) everywhere. The second has label 2 (category 0) on its last pixel.
    images = [
        Labels((np.array([[0, 0, -1, -1]], np.int32), np.array([[0, -1, -1, -1]], np.int32)), (1,)),
        Labels((np.array([[-1, -1, -1, 2]], np.int32),)),
    ]
    dense = np.zeros((2, 1, 1, 4), dtype=bool)
    dense[0, 0, 0] = [False, True, True, False]
    dense[1, 0, 0] = [True, False, False, False]
    counts = nd.iou_counts(images, nd.UnitMasks.from_dense(dense), [0, 1, 0])
    assert counts.intersection.tolist() == [[1, 2, 0]]
    assert counts.label_area.tolist() == [2, 4, 1]
    # category: both images carry category 0, only the first category 1. mask: the unit meets category 0 only
    # in the first image.
    assert nd.iou(counts, "category").tolist() == [[1 / (3 + 2 - 1), 2 / (2 + 4 - 2), 0.0]]
    assert nd.iou(counts, "mask").tolist() == [[1 / (2 + 2 - 1), 2 / (2 + 4 - 2), 0.0]]
    assert nd.iou(counts, "none").tolist() == [[1 / (3 + 2 - 1), 2 / (3 + 4 - 2), 0.0]]


def test_counts_add_up_over_batches_and_shards() -> None:
    generator = np.random.default_rng(3)
    images = random_labels(generator, 12, 9, (8, 8))
    categories = generator.integers(-1, 4, size=9).tolist()
    maps = smooth_maps(12, 5, 4, seed=4)
    thresholds = nd.activation_threshold(maps, 0.2)
    whole = nd.iou_counts(images, nd.unit_masks(maps, thresholds, (8, 8)), categories)

    def masks(part: slice) -> nd.UnitMasks:
        return nd.unit_masks(maps[part], thresholds, (8, 8))

    batches = nd.IoUCounter(5, categories)
    for part in (slice(0, 5), slice(5, 6), slice(6, 12)):
        batches.update(images[part], masks(part))
    first, second = slice(0, 7), slice(7, 12)
    shards = nd.iou_counts(images[second], masks(second), categories) + nd.iou_counts(
        images[first], masks(first), categories
    )
    merged = nd.IoUCounter(5, categories)
    merged.merge(nd.iou_counts(images[second], masks(second), categories))
    merged.update(images[first], masks(first))
    for other in (batches.counts(), shards, merged.counts()):
        for name, value in vars(whole).items():
            assert np.array_equal(value, getattr(other, name)), name


def test_counts_refuse_what_does_not_belong_together() -> None:
    image = Labels((np.zeros((4, 4), np.int32),))
    masks = nd.UnitMasks.from_dense(np.ones((2, 3, 4, 4), dtype=bool))
    with pytest.raises(ValueError, match="labels of 1"):
        nd.iou_counts([image], masks, [0])
    with pytest.raises(ValueError, match="labels of more"):
        nd.iou_counts([image] * 3, masks, [0])
    with pytest.raises(ValueError, match="4 x 5"):
        nd.iou_counts([Labels((np.zeros((4, 5), np.int32),))] * 2, masks, [0])
    with pytest.raises(ValueError, match="only 1 labels"):
        nd.iou_counts([Labels((), (1,))] * 2, masks, [0])
    with pytest.raises(ValueError, match="from 0 to 61"):
        nd.iou_counts([image] * 2, masks, [62])
    with pytest.raises(ValueError, match="masks of 3 units"):
        nd.IoUCounter(2, [0]).update([image] * 2, masks)
    counts = nd.iou_counts([image] * 2, masks, [0])
    with pytest.raises(ValueError, match="add up"):
        counts + nd.iou_counts([image] * 2, masks, [1])
    with pytest.raises(ValueError, match="unknown IoU normaliser"):
        nd.iou(counts, "categories")  # type: ignore[arg-type]


def test_real_photos_give_the_twins_integers(minibroden: Path) -> None:
    images, categories = read_minibroden(minibroden)
    maps = smooth_maps(len(images), 20, 7, seed=5, coarse=7)
    masks = nd.unit_masks(maps, nd.activation_threshold(maps), (112, 112))
    counts = nd.iou_counts(images, masks, categories)
    shared, size, area = twins.count_by_mask(images, masks.dense(), categories)
    assert np.array_equal(counts.intersection, shared)
    assert np.array_equal(counts.label_area, size)
    for normaliser in nd.NORMALISERS:
        assert np.array_equal(nd.iou(counts, normaliser).numpy(), twins.iou(shared, size, area[normaliser]))


def test_planted_units_are_found(minibroden: Path) -> None:
    images, categories = read_minibroden(minibroden)
    images = images[:200]
    planes = twins.planes(images, len(categories), (112, 112))
    planted = np.argsort(-planes.sum(axis=1))[[0, 3, 10, 20, 40]]
    dense = planes[planted].reshape(5, -1, 112, 112).swapaxes(0, 1)
    counts = nd.iou_counts(images, nd.UnitMasks.from_dense(dense), categories)
    for normaliser in nd.NORMALISERS:
        best = nd.iou(counts, normaliser).max(dim=1)
        assert best.indices.tolist() == planted.tolist()
        assert (best.values > 0.5).all()


# -- Chance --------------------------------------------------------------------------------------------------


def probe(generator: np.random.Generator, n: int) -> tuple[list[Labels], list[int]]:
    """Images of 16 x 16 with one of 8 'objects' in a corner and one of 4 'scenes' all over."""
    images = []
    for _ in range(n):
        label_map = np.full((16, 16), -1, dtype=np.int32)
        y, x = 8 * generator.integers(0, 2, size=2)
        label_map[y : y + 8, x : x + 8] = generator.integers(0, 8)
        images.append(Labels((label_map,), (8 + int(generator.integers(0, 4)),)))
    return images, [0] * 8 + [1] * 4


def test_draws_are_recounts_with_wrong_images() -> None:
    generator = np.random.default_rng(6)
    images, categories = probe(generator, 11)
    dense = generator.random((11, 4, 16, 16)) < generator.choice([0.0, 0.3], size=(11, 4, 1, 1))
    masks = nd.UnitMasks.from_dense(dense)
    counts = nd.iou_counts(images, masks, categories)
    for of in (range(11), [0, 0, 1, 2, 1, 3, 4, 5, 5, 5, 6]):
        groups = ImageGroups.read(list(of))
        rotations = Rotations.draw(groups, 4, 3, np.random.default_rng(9))
        for normaliser, rule in [(n, r) for n in nd.NORMALISERS for r in nd.LABEL_RULES]:
            shuffled = nd.shuffled_support(
                images, masks, counts, normaliser, rule=rule, groups=groups, rounds=3, seed=9
            )
            for r in range(3):
                sources = np.stack([rotations.source_of(i)[r] for i in range(11)])  # (N, C)
                if groups.are_single:
                    assert all(sorted(sources[:, k]) == list(range(11)) for k in range(4))  # each mask once
                moved = np.stack([dense[sources[:, k], k] for k in range(4)], axis=1)
                expected = twins.tested_label(images, moved, categories, groups.of, normaliser, rule)
                assert np.array_equal(shuffled[r].numpy(), expected)
            # The same in several passes and from an iterator.
            again = nd.shuffled_support(
                iter(images), masks, counts, normaliser, rule=rule, groups=groups, rounds=3, seed=9, memory=1
            )
            assert torch.equal(shuffled, again)


def test_shuffled_masks_are_one_round() -> None:
    generator = np.random.default_rng(12)
    images, categories = probe(generator, 9)
    dense = generator.random((9, 5, 16, 16)) < generator.choice([0.0, 0.3], size=(9, 5, 1, 1))
    masks = nd.UnitMasks.from_dense(dense)
    groups = ImageGroups.read([0, 1, 2, 2, 3, 4, 4, 5, 6])
    moved = nd.shuffled_masks(masks, groups=groups, seed=4)
    again = nd.UnitMasks.from_dense(moved.dense())
    for name in ("image", "unit", "offsets", "edges"):
        assert np.array_equal(getattr(moved, name), getattr(again, name)), name
    counts = nd.iou_counts(images, masks, categories)
    (best,) = nd.shuffled_support(images, masks, counts, "mask", rule="iou", groups=groups, rounds=1, seed=4)
    recounted = nd.iou_counts(images, moved, categories, groups)
    assert torch.equal(nd.ranked_labels(recounted, "iou", "mask", 1).tested, best)


def test_chance_is_called_chance_and_planted_units_are_not() -> None:
    generator = np.random.default_rng(7)
    images, categories = probe(generator, 240)
    # Units as different as can be: few large blobs, many small ones; each of 60 in one of 4 kinds.
    gain = torch.from_numpy(generator.standard_normal((240, 60, 1, 1)))
    kind = torch.tensor([0.0, 1.0, 2.0, 4.0]).repeat_interleave(15).view(1, 60, 1, 1)
    maps = (smooth_maps(240, 60, 4, seed=8) * torch.exp(kind * gain)).float()
    masks = nd.unit_masks(maps, nd.activation_threshold(maps, 0.02), (16, 16))
    counts = nd.iou_counts(images, masks, categories)
    for normaliser, rule in [("none", "supported"), *((n, "iou") for n in nd.NORMALISERS)]:
        draws = nd.shuffled_support(images, masks, counts, normaliser, rule=rule, rounds=40, seed=1)
        p = torch.stack([pooled_p_values(each, draws[20:]) for each in draws[:20]])
        assert 0.03 < (p < 0.05).double().mean() < 0.07
        assert torch.stack([benjamini_hochberg(each) for each in p]).double().mean() < 0.01

    dense = masks.dense()
    for k in range(30):  # half of the units fire on an object instead, where they fire at all
        dense[:, k] = [image.maps[0] == k % 8 for image in images]
    masks = nd.UnitMasks.from_dense(dense)
    counts = nd.iou_counts(images, masks, categories)
    supported = nd.supported_iou(counts, "none").max(dim=1)
    called = benjamini_hochberg(pooled_p_values(supported.values, nd.shuffled_support(images, masks, counts)))
    assert called[:30].all()
    assert called[30:].sum() <= 3  # a false discovery rate of 5 % of about 30
    assert supported.indices[:30].tolist() == [k % 8 for k in range(30)]


def test_one_lucky_image_is_no_support() -> None:
    """A unit that covers the only image of a rare label has a perfect IoU and no support."""
    rare, common = np.full((4, 4), -1, np.int32), np.full((4, 4), -1, np.int32)
    rare[0, 0], common[1, 1] = 0, 1
    dense = np.zeros((4, 2, 4, 4), dtype=bool)
    dense[0, 0, 0, 0] = True
    dense[1:, 1, 1, 1] = True
    images = [Labels((rare,)), *[Labels((common,))] * 3]
    counts = nd.iou_counts(images, nd.UnitMasks.from_dense(dense), [0, 0])
    assert nd.iou(counts, "none").tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert nd.supported_iou(counts, "none").tolist() == [[0.0, 0.0], [0.0, 2 / 3]]


def test_chance_needs_images_to_exchange() -> None:
    image = Labels((np.zeros((4, 4), np.int32),))
    masks = nd.UnitMasks.from_dense(np.ones((1, 1, 4, 4), dtype=bool))
    with pytest.raises(ValueError, match="at least two images"):
        nd.shuffled_support([image], masks, nd.iou_counts([image], masks, [0]))
    two = nd.UnitMasks.from_dense(np.ones((2, 1, 4, 4), dtype=bool))
    with pytest.raises(ValueError, match="not of the same images"):
        nd.shuffled_support([image] * 2, two, nd.iou_counts([image], masks, [0]))
