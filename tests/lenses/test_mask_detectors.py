"""Network Dissection and compositional explanations: what is printed is tested, chance is called chance."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional import dissection as nd
from concept_monitor_cli.functional.calibration import p_values, pooled_p_values
from concept_monitor_cli.functional.compositional import Formula
from concept_monitor_cli.functional.groups import ImageGroups
from concept_monitor_cli.lenses.base import Findings
from concept_monitor_cli.lenses.names.compositional import Compositional
from concept_monitor_cli.lenses.names.masked import MaskDetector
from concept_monitor_cli.lenses.names.network_dissection import NetworkDissection
from concept_monitor_cli.probe import load_probe
from concept_monitor_cli.store import Store
from concept_monitor_cli.study import Context
from tests.lenses.worlds import COLORS, OBJECTS, SIDE, Dense, World, blind_masks, make_world

RULES = [
    pytest.param(NetworkDissection(), id="supported"),
    pytest.param(NetworkDissection(rule="iou"), id="iou"),
    pytest.param(NetworkDissection("none", rule="iou"), id="iou-none"),
]
ALL = [*RULES, pytest.param(Compositional(length=2, beam=4), id="compositional")]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"), 40)


def planted_masks(world: World, *, seed: int = 1) -> Dense:
    """Units 0 to 4 fire on parts of objects 0 to 4, 5 to 7 on a colour, 8 to 15 know nothing."""
    rng = np.random.default_rng(seed)
    masks = blind_masks(len(world.objects), 16, seed=seed)
    for unit in range(8):
        where = world.objects == unit if unit < 5 else world.colors == unit - 5
        masks[:, unit] = where & (rng.random(where.shape) < 0.8)
    return masks


def label_masks(context: Context) -> Dense:
    """Where each label is, from the annotations themselves: (N, M, h, w)."""
    labels = context.labels
    planes = np.zeros((len(labels), len(labels.names), *labels.size), dtype=bool)
    for i in range(len(labels)):
        for label in labels[i].scalars:
            planes[i, label] = True
        for label_map in labels[i].maps:
            for label in np.unique(label_map[label_map >= 0]):
                planes[i, label] |= label_map == label
    return planes


def support(unit: Dense, concept: Dense, groups: ImageGroups) -> float:
    """The supported IoU of a unit and a concept, from their masks (N, h, w)."""
    both = (unit & concept).sum((1, 2))
    of_group = np.bincount(groups.of, weights=both)
    union = unit.sum() + concept.sum() - both.sum()
    return float((both.sum() - of_group.max()) / union) if union else 0.0


def parsed(text: str, names: tuple[str, ...], kinds: tuple[str, ...], planes: Dense) -> Dense:
    """The mask of a formula as it is printed."""
    operands = {name: planes[:, k] for k, name in enumerate(names)}
    pairs = enumerate(zip(names, kinds, strict=True))
    operands |= {f"{name} [{kind}]": planes[:, k] for k, (name, kind) in pairs}
    signs = {" AND NOT ": "& ~", " AND ": "&", " OR ": "|", "(": "(", ")": ")", "": ""}
    code = "".join(
        signs.get(token, f"operands[{token!r}]") for token in re.split(r"( AND NOT | AND | OR |[()])", text)
    )
    found: Dense = eval(code, {"operands": operands})
    return found


def random_maps(images: int, units: int, *, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(images, units, 4, 4, generator=generator)
    return F.interpolate(noise, (7, 7), mode="bicubic").relu()


# -- The concept in the table is the concept that was tested -------------------------------------------------


@pytest.fixture(scope="module")
def photos(minibroden: Path, tmp_path_factory: pytest.TempPathFactory) -> Context:
    """60 real photos with all their labels."""
    probe = load_probe(str(minibroden), limit=60)
    store = Store(tmp_path_factory.mktemp("store"))
    return Context(store, probe, None, None, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("detector", ALL)
def test_the_printed_concept_is_the_tested_one_on_real_photos(
    detector: MaskDetector, photos: Context
) -> None:
    """The p-value is that of the printed concept's own supported IoU, read off the table and the photos."""
    size, planes = photos.labels.size, label_masks(photos)
    maps = random_maps(len(photos.probe), 12, seed=3)
    masks = nd.unit_masks(maps, nd.activation_threshold(maps, 0.02), size)
    dense = masks.dense()
    often = np.argsort(-planes.any((2, 3)).sum(0))[:4]
    for unit, label in enumerate(often):  # four that know something
        dense[:, unit] = planes[:, label] & (dense[:, unit] | (np.arange(size[1]) % 3 == 0))
    masks = nd.UnitMasks.from_dense(dense)
    arrays = {name: getattr(masks, name) for name in ("image", "unit", "offsets", "edges")}
    arrays["live"] = np.ones(12, dtype=bool)
    meta = {"n_images": len(photos.probe), "n_units": 12, "size": list(size), "notes": []}
    entry = photos.store.put(photos.store.key("masks", photos=1), arrays, meta)
    found = detector.find(entry, photos)

    names, kinds = photos.labels.names, photos.labels.categories
    tested = torch.zeros(12, dtype=torch.float64)
    for unit in range(12):
        if not found.concepts[unit, 0]:
            continue
        if isinstance(detector, NetworkDissection):
            # Two labels may share a name: they are told apart by their categories.
            label = next(
                k
                for k, pair in enumerate(zip(names, kinds, strict=True))
                if pair == (found.concepts[unit, 0], found.categories[unit, 0])
            )
            concept = planes[:, label]
        else:
            concept = parsed(found.concepts[unit, 0], names, kinds, planes)
        tested[unit] = support(dense[:, unit], concept, photos.groups)
    if isinstance(detector, NetworkDissection):
        null = nd.shuffled_support(
            photos.labels,
            masks,
            detector.count(masks, photos),
            detector.normaliser,
            rule=detector.rule,
            groups=photos.groups,
            seed=photos.seed,
        )
        expected = nd.chance_p_values(tested, null)
    else:
        shuffled = [nd.shuffled_masks(masks, groups=photos.groups, seed=seed) for seed in range(20)]
        null = torch.from_numpy(np.stack([detector.raw_scores(each, photos) for each in shuffled]))
        expected = pooled_p_values(tested, null, studentised=False)
    np.testing.assert_allclose(found.p_values, expected, rtol=1e-9)
    np.testing.assert_allclose(detector.raw_scores(masks, photos), tested, rtol=1e-9)
    assert found.interpretable[:4].sum() >= 2  # not a test of nothing

    # The same where untrained networks are what is compared with.
    other = photos.store.put(photos.store.key("masks", photos=2), arrays, meta)
    found = detector.find(entry, photos, untrained=[other])
    np.testing.assert_allclose(found.p_values, p_values(tested, tested), rtol=1e-9)


def test_the_rules_differ_where_a_label_hangs_on_one_image(world: World) -> None:
    """A unit that covers a rare label in one photo and meets a common one in many."""
    planes = label_masks(world.context)
    rare = int(
        np.flatnonzero(planes.any((2, 3)).sum(0) > 0)[
            planes.any((2, 3)).sum(0)[planes.any((2, 3)).sum(0) > 0].argmin()
        ]
    )
    image = int(np.flatnonzero(planes[:, rare].any((1, 2)))[0])
    common = world.colors[world.photo] == 0
    dense = np.zeros((len(world.photo), 2, SIDE, SIDE), dtype=bool)
    dense[:, 0] = common & (np.arange(SIDE) % 7 == 0)
    dense[image, 0] = planes[image, rare]
    by_photo = np.zeros_like(dense)
    by_photo[world.photo] = dense
    entry = world.entry(by_photo)
    supported = NetworkDissection("none").find(entry, world.context)
    literature = NetworkDissection("none", rule="iou").find(entry, world.context)
    counts = NetworkDissection().count(nd.UnitMasks.from_dense(dense), world.context)
    plain, kept = nd.iou(counts, "none")[0], nd.supported_iou(counts, "none")[0]
    names = world.context.labels.names
    assert supported.concepts[0, 0] == names[int(kept.argmax())]
    assert supported.scores[0, 0] == pytest.approx(float(plain[kept.argmax()]))
    assert literature.concepts[0, 0] == names[int(plain.argmax())]


# -- What stands in the rows ---------------------------------------------------------------------------------


@pytest.mark.parametrize("detector", ALL)
def test_every_rank_has_its_own_category(detector: MaskDetector, world: World) -> None:
    found = detector.find(world.entry(planted_masks(world)), world.context)
    kind_of = dict(zip(world.context.labels.names, world.context.labels.categories, strict=True))
    several = 0
    for concepts, categories in zip(found.concepts, found.categories, strict=True):
        for concept, category in zip(concepts, categories, strict=True):
            meant = [kind for name, kind in kind_of.items() if _means(concept, name)]
            assert category in meant if concept else category == ""
            assert len(meant) > 1 or not concept or [category] == meant
        several += len({category for category in categories if category}) > 1
    assert several > 0  # categories of one unit do differ


def _means(formula: str, name: str) -> bool:
    """Whether a formula names a label other than after NOT."""
    padded = f" {formula.replace('(', ' ').replace(')', ' ')} "
    return f" {name} " in padded.replace(f"NOT {name} ", "")


@pytest.mark.parametrize("detector", ALL)
def test_a_unit_without_a_label_has_none_and_counts_for_nothing(detector: MaskDetector, world: World) -> None:
    masks = planted_masks(world)
    labelled = label_masks(world.context)[:, : OBJECTS + COLORS].any(1)
    nowhere = np.zeros_like(labelled)
    nowhere[world.photo] = ~labelled
    assert not nowhere.any()  # colours cover everything, so nothing is without a label
    masks[:, 15] = False
    masks[:2, 14] = False
    masks[0, 13], masks[1:, 13] = True, False  # fires on one photo
    alone = detector.find(world.entry(masks), world.context)
    live = np.ones(16, dtype=bool)
    live[12] = False
    found = detector.find(world.entry(masks, live=live), world.context)
    for each in (alone, found):
        assert each.concepts[15].tolist() == [""] * each.concepts.shape[1]
        assert np.isnan(each.scores[15]).all()
        assert not each.live[[13, 15]].any()
        assert each.sparse is not None
        assert each.sparse[[13, 15]].all()
        assert each.sparse.sum() == 2
        assert not each.interpretable[[13, 15]].any()
        assert np.isnan(each.p_values[[13, 15]]).all()
    rows = found.rows(epoch=0, checkpoint="c", layer="l", detector=detector.name)
    first = np.asarray(rows["rank"]) == 1
    assert np.asarray(rows["state"])[first].tolist() == [
        {12: "dead", 13: "sparse", 15: "sparse"}.get(unit, "live") for unit in range(16)
    ]
    assert found.calibration["unique_detectors"] == len(
        set(found.concepts[found.live & (np.nan_to_num(found.scores[:, 0]) > 0.04), 0])
    )
    assert found.calibration["above_constant"] == int(
        (np.nan_to_num(found.scores[found.live, 0]) > 0.04).sum()
    )
    for table in found.more.values():
        assert not set(table["unit"]) & {12, 13, 15}


def test_a_live_unit_that_meets_no_label_counts_as_unlabelled(tmp_path: Path) -> None:
    world = make_world(tmp_path, 12)
    bare = world.context.labels
    empty = [dataclasses.replace(bare[i], maps=(), scalars=()) for i in range(len(bare))]
    masks = blind_masks(12, 3, seed=0)
    entry = world.entry(masks)
    world.context.__dict__["labels"] = _Labels(bare, empty)
    for detector in (NetworkDissection(), NetworkDissection(rule="iou"), Compositional(length=2)):
        found = detector.find(entry, world.context)
        assert found.live.all()
        assert (found.concepts == "").all()
        assert (found.categories == "").all()
        assert np.isnan(found.scores).all()
        assert found.calibration["unique_detectors"] == found.calibration["above_constant"] == 0
        assert not found.interpretable.any()
        assert found.effect is not None
        assert np.isnan(found.effect).all()
        assert found.stability is not None
        assert np.isnan(found.stability).all()
        assert found.concept_set is not None
        assert found.concept_set.tolist() == [""] * 3
        assert all(len(table["unit"]) == 0 for table in found.more.values())


class _Labels(list):  # type: ignore[type-arg]
    """Labels of images in place of those of a probing set."""

    def __init__(self, like, images) -> None:
        super().__init__(images)
        self.names, self.categories, self.size = like.names, like.categories, like.size
        self.category_numbers, self.digest = like.category_numbers, "bare"


def test_findings_come_back_from_the_store(world: World) -> None:
    for number, detector in enumerate((NetworkDissection(), Compositional(length=2, beam=4))):
        found = detector.find(world.entry(planted_masks(world)), world.context)
        key = world.context.store.key("findings", test=number)
        with world.context.store.writer(key) as writer:
            found.save(writer)
        entry = world.context.store.get(key)
        assert entry is not None
        again = Findings.load(entry)
        for name in ("concepts", "scores", "p_values", "sparse", "effect", "stability", "concept_set"):
            np.testing.assert_array_equal(getattr(found, name), getattr(again, name))


# -- Chance --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("detector", ALL)
@pytest.mark.parametrize("copies", [1, 2, 5])
@pytest.mark.parametrize(("units", "fires_on"), [(48, None), (48, 3), (1, None)])
def test_blind_units_are_not_called(
    detector: MaskDetector, copies: int, units: int, fires_on: int | None, tmp_path: Path
) -> None:
    """At most 5 % and 2 more of the units that know nothing, with copies of every photo too."""
    world = make_world(tmp_path, 30, copies=copies, seed=copies)
    assert world.context.groups.n_groups == 30
    entry = world.entry(blind_masks(30, units, seed=7, fires_on=fires_on))
    assert detector.find(entry, world.context).interpretable.sum() <= 0.05 * units + 2


@pytest.mark.parametrize("detector", [pytest.param(NetworkDissection(), id="supported")])
def test_without_groups_copies_would_be_called(detector: MaskDetector, tmp_path: Path) -> None:
    """The test above can fail: five copies of every photo, each taken for a photo of its own."""
    world = make_world(tmp_path, 30, copies=5, seed=5)
    entry = world.entry(blind_masks(30, 48, seed=7))
    world.context.__dict__["groups"] = ImageGroups.single(150)
    assert detector.find(entry, world.context).interpretable.sum() > 0.05 * 48 + 2


@pytest.mark.parametrize("detector", ALL)
def test_copies_change_nothing(detector: MaskDetector, tmp_path: Path) -> None:
    """A photo that is there three times counts once, in labels, p-values, effects and draws alike."""
    once = make_world(tmp_path / "once", 30, seed=2)
    often = make_world(tmp_path / "often", 30, copies=3, seed=2)
    single, copied = (detector.find(each.entry(planted_masks(each)), each.context) for each in (once, often))
    for name in ("concepts", "scores", "p_values", "effect", "stability", "concept_set"):
        np.testing.assert_array_equal(getattr(single, name), getattr(copied, name), err_msg=name)


@pytest.mark.parametrize("detector", ALL)
def test_planted_units_are_called(detector: MaskDetector, world: World) -> None:
    found = detector.find(world.entry(planted_masks(world)), world.context)
    named = [f"object {k}" for k in range(5)] + [f"color {k}" for k in range(3)]
    assert found.interpretable[:8].sum() >= 7
    assert found.interpretable[8:].sum() <= 2
    right = [name in concept for name, concept in zip(named, found.concepts[:8, 0], strict=True)]
    assert np.mean(right) >= 7 / 8
    # What ranks and what says how sure: planted units stand out.
    assert found.effect is not None
    assert found.effect[:8].min() > np.median(found.effect[8:])
    assert np.isfinite(found.effect).all()
    assert found.stability is not None
    assert found.concept_set is not None
    for concept, sure, concepts in zip(found.concepts[:, 0], found.stability, found.concept_set, strict=True):
        assert 0 <= sure <= 1
        if sure >= 0.9:
            assert concepts == concept
        if sure > 0.5:
            assert concepts.split("; ")[0] == concept


@pytest.mark.parametrize(
    "detector", [NetworkDissection(stability=False), Compositional(length=1, stability=False)]
)
def test_draws_can_be_left_out(detector: MaskDetector, world: World) -> None:
    found = detector.find(world.entry(planted_masks(world)), world.context)
    assert found.stability is None
    assert found.concept_set is None
    assert detector.settings()["stability"] is False


def test_one_group_of_images_is_refused(tmp_path: Path) -> None:
    world = make_world(tmp_path, 1, copies=4)
    entry = world.entry(np.ones((1, 2, SIDE, SIDE), dtype=bool))
    with pytest.raises(InputError, match="copies or one group"):
        NetworkDissection().find(entry, world.context)


def test_compositional_prints_formulas_that_parse() -> None:
    """The tests above read formulas back from the table; this is their reader."""
    planes = np.random.default_rng(0).random((3, 4, 2, 2)) < 0.5
    names, kinds = ("a", "b", "c", "a"), ("x", "x", "x", "y")
    formula = Formula.of(0).extended("OR", 1).extended("AND NOT", 2)
    expected = (planes[:, 0] | planes[:, 1]) & ~planes[:, 2]
    text = formula.text(["a [x]", "b", "c", "a [y]"])
    assert np.array_equal(parsed(text, names, kinds, planes), expected)
