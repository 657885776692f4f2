"""`cmon picture` of more than units: several pictures of one, layers, images, classes, films, crops."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from picture_help import STEPS, Counting, contents, options, table
from PIL import Image
from planted_classifier import SORTED, asked
from planted_training import DEAD, SIDE

from concept_monitor_cli.cli.app import run
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.options import EpochFilter, PictureOptions
from concept_monitor_cli.progress import SILENT
from concept_monitor_cli.run import TABLES, RunFolder
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.stories.picture import picture
from concept_monitor_cli.stories.picture_groups import ImageGroup, image_groups, nearest_groups, unlikeness
from concept_monitor_cli.stories.picture_tasks import plan
from concept_monitor_cli.stories.picture_wishes import Picture, Scale, Wish

LAST = EpochFilter.parse("5")
World = tuple[Path, Path]


def pixels(world_of: World, file: str) -> np.ndarray:
    return np.asarray(Image.open(world_of[0] / file), dtype=float) / 255


def said(world_of: World, images: np.ndarray, epoch: int = -1) -> torch.Tensor:
    """What the planted network says of images, `(n, UNITS)`."""
    record = OpenRun(world_of[0], options(world_of), SILENT).run.checkpoints()[epoch]
    state = torch.load(record.path, weights_only=True)["state_dict"]
    shown = torch.from_numpy((images - 0.5) / 0.25).permute(0, 3, 1, 2).flatten(1)
    return shown @ state["1.weight"].double().T


def photos(world_of: World) -> np.ndarray:
    probe = OpenRun(world_of[0], options(world_of), SILENT).probe
    return np.stack([np.asarray(probe.image(n), dtype=float) / 255 for n in range(len(probe))])


def again(world_of: World, tmp_path: Path) -> World:
    """The same run with a cache without pictures."""
    other = tmp_path / "other-cache"
    shutil.copytree(world_of[1], other, ignore=shutil.ignore_patterns("picture", "layer-energy"))
    return world_of[0], other


# -- several pictures of a unit ------------------------------------------------------------------------------


def test_several_pictures_of_a_unit_are_unlike_each_other(world_of: World) -> None:
    given = options(world_of, units=(4, 5), diverse=3, epochs=LAST)
    rows = table(picture(given, SILENT))
    assert rows["member"].tolist() == [0, 1, 2] * 2
    assert rows["objective"].unique().tolist() == ["diverse"]
    assert rows["file"].nunique() == 6
    assert (rows["diversity"] > 3 * rows["diversity_floor"]).all()
    plain = table(picture(replace(given, diversity=0.0), SILENT))
    # Without the term they are what other seeds make, and stronger: these units look for one thing only.
    assert plain["diversity"].tolist() == pytest.approx(plain["diversity_floor"].tolist(), abs=0.01)
    assert (plain["ratio"] > 1.5 * rows["ratio"]).all()


def test_each_of_several_starts_from_a_seed_of_its_own(world_of: World) -> None:
    given = options(world_of, units=(4,), warps=False, epochs=LAST, floor=False, diversity=0.0)

    def made(**more: object) -> np.ndarray:
        own = replace(given, **more)
        picture(own, SILENT)
        planned = plan(OpenRun(world_of[0], own, SILENT), own, SILENT)
        return np.stack([each.image for each in planned.maker.load(planned.tasks[0])])

    several = made(diverse=2)
    alone = [made(seed=seed)[0] for seed in (0, 1)]
    # `u` has another scale than the activation, which Adam takes out but for rounding.
    away = [[np.abs(several[member] - alone[seed]).max() for seed in (0, 1)] for member in (0, 1)]
    assert max(away[0][0], away[1][1]) < 0.2 * min(away[0][1], away[1][0])


def test_pictures_that_belong_together_are_counted_and_made_together(world_of: World) -> None:
    given = options(world_of, units=(1, 4, 5), diverse=3, steps=4)
    dry = picture(replace(given, dry_run=True), SILENT)
    # Two epochs, the last from a second seed, and of each unit alone from three seeds.
    assert dry.wanted == 3 * 9 + 3 * 3
    # One group of three fits into four; alone, three in a batch of four.
    assert dry.passes == (3 * 9 + 3 * 4) * 4 * 3
    assert (dry.found, dry.at_once) == (0, 3)
    assert not list(world_of[1].glob("picture/*"))
    with pytest.raises(KeyboardInterrupt):
        picture(given, Counting(stop=3 * 4 + 1))
    # The group that was being made is lacking as a whole.
    assert picture(replace(given, dry_run=True), SILENT).found == 3
    picture(given, SILENT)
    resumed = contents(world_of[0])
    rest = Counting()
    picture(given, rest)
    assert rest.steps == 0
    assert contents(world_of[0]) == resumed


def test_a_dead_unit_and_a_copy_of_a_unit(world_of: World, classifier: Path) -> None:
    rows = table(picture(options(world_of, units=(DEAD,), diverse=2, epochs=LAST), SILENT))
    assert rows["ratio"].isna().all()
    assert np.isfinite([pixels(world_of, file) for file in rows["file"]]).all()
    last = {"steps": STEPS, "epochs": EpochFilter.parse("1"), "floor": False, "layers": ("stage1",)}
    made = picture(asked(PictureOptions, classifier, units=(2, 8), diverse=2, **last), SILENT)
    of_unit, of_copy = ([row for row in made.pictures if row["unit"] == unit] for unit in (2, 8))
    for one, other in zip(of_unit, of_copy, strict=True):
        files = [(classifier / "run" / row["file"]).read_bytes() for row in (one, other)]
        assert files[0] == files[1]
        # Nothing tells a unit's pictures from those of its copy: chance is as strong as the picture.
        assert one["ratio"] == pytest.approx(other["ratio"])
        assert other["ratio_chance"] == pytest.approx(np.mean([row["ratio"] for row in of_unit]))


def grouped(run_folder: Path, images: dict[int, list[str]]) -> None:
    """What `evaluate --measure groups` would write of unit 4 at epoch 5."""
    first = {
        "epoch": 5,
        "checkpoint": "c",
        "layer": "1",
        "detector": "clip-dissect",
        "similarity": "soft-wpmi",
    }
    lines = [(group, name) for group, names in images.items() for name in names]
    rows = [
        {**first, "unit": 4, "place": place, "group": group, "concept": f"thing {group}", "image": name}
        for place, (group, name) in enumerate(lines, 1)
    ]
    schema = TABLES["evaluation-group-images"]
    RunFolder.open(run_folder).write_csv(schema.name, pd.DataFrame(rows))


def test_several_pictures_stand_beside_the_groups_of_photos(world_of: World) -> None:
    ids = OpenRun(world_of[0], options(world_of), SILENT).probe.ids
    with_units = said(world_of, photos(world_of))
    # Photos of which the second group excites unit 5 most, the first unit 1.
    tops = {group: with_units[:, unit].topk(5).indices.tolist() for group, unit in ((1, 1), (2, 5))}
    grouped(world_of[0], {group: [ids[row] for row in rows] for group, rows in tops.items()})
    opened = OpenRun(world_of[0], options(world_of), SILENT)
    groups = image_groups(opened, "1", 5)
    assert groups == {4: [ImageGroup(1, "thing 1", tuple(tops[1])), ImageGroup(2, "thing 2", tuple(tops[2]))]}
    assert image_groups(opened, "1", 0) == {}
    given = options(world_of, units=(4, 5), diverse=2, epochs=LAST, plot_formats=("png",))
    result = picture(given, SILENT)
    rows = table(result)
    own = rows[rows["unit"] == 4]
    assert own["group"].isin([1, 2]).all()
    assert (own["group_cos"] > own["other_group_cos"]).all()
    assert rows[rows["unit"] == 5]["group"].isna().all()
    assert [path.name for path in result.plots] == ["pictures.1.epoch_0005.png"]
    assert result.plots[0].stat().st_size > 3000


def test_likeness_to_groups_by_hand() -> None:
    scale = Scale(torch.zeros(4), torch.tensor([1.0, 2.0, 1.0, 0.0]), torch.zeros(4, 1, dtype=torch.long))
    image = np.zeros((3, 4, 4), np.float32)
    made = [
        Picture(Wish(0, member=number), image, np.array(row, np.float32), 0, False)
        for number, row in enumerate([[9, 2, 0, 7], [9, 0, 1, 7], [9, 2, 1, 7]])
    ]
    # Unit 0 is what they are of, unit 3 is dead; unit 1 counts in units of its best photo.
    half = 1 - 1 / np.sqrt(2)
    assert unlikeness(made, scale) == pytest.approx([(1 + half) / 2, (1 + half) / 2, half])
    pooled = torch.tensor([[5.0, 4, 0, 3], [5, 0, 1, 3], [5, 0, 3, 3]])
    groups = [ImageGroup(1, "a", (0,)), ImageGroup(2, "b", (1, 2))]
    near = nearest_groups(made, groups, pooled, scale)
    assert [row[0] for row in near] == [1, 2, 1]
    assert near[0][1:] == pytest.approx((1, 0))
    assert near[2][1:] == pytest.approx((1 / np.sqrt(2), 1 / np.sqrt(2)))


# -- layers, images, classes ---------------------------------------------------------------------------------


def test_a_picture_of_a_whole_layer_is_louder_than_photos(world_of: World) -> None:
    given = options(world_of, units=(), objective="layer", steps=80, epochs=EpochFilter.parse("0,5"))
    assert picture(replace(given, dry_run=True), SILENT).passes == 3 * 80 * 3 + 2 * len(photos(world_of))
    rows = table(picture(given, SILENT))
    assert rows["unit"].isna().all()
    assert rows["objective"].unique().tolist() == ["layer"]
    assert (rows["ratio"] > 1).all()
    assert (rows["ratio_chance"] < 0).all()
    last = rows[rows["epoch"] == 5].iloc[0]
    energy = said(world_of, photos(world_of)).square().mean(1)
    assert last["probe_mean"] == pytest.approx(energy.mean().item(), rel=1e-4)
    assert last["probe_max"] == pytest.approx(energy.max().item(), rel=1e-4)
    own = said(world_of, pixels(world_of, last["file"])[None]).square().mean().item()
    assert last["activation"] == pytest.approx(own, rel=0.02)  # the file is rounded


def test_a_caricature_says_what_its_image_says(world_of: World) -> None:
    probe = OpenRun(world_of[0], options(world_of), SILENT).probe
    outside = world_of[0] / "mine.png"
    shown = np.asarray(probe.image(3))
    Image.fromarray(shown[::-1].copy()).save(outside)
    names = (probe.ids[3], str(outside))
    rows = table(picture(options(world_of, units=(), caricature=names), SILENT))
    assert rows["image"].tolist() == sorted(names, key=str) * 2
    assert rows["unit"].isna().all()
    assert rows["ratio"].isna().all()
    assert (rows["layer_cos"] > rows["layer_cos_chance"] + 0.3).all()
    assert (rows["layer_cos"] > 0.8).all()
    last = rows[(rows["epoch"] == 5) & (rows["image"] == names[0])].iloc[0]
    both = said(world_of, np.stack([pixels(world_of, last["file"]), shown / 255.0]))
    expected = torch.nn.functional.cosine_similarity(both[0], both[1], dim=0).item()
    assert last["layer_cos"] == pytest.approx(expected, abs=0.01)


def test_an_image_does_not_stand_for_chance_in_its_own_caricature(world_of: World) -> None:
    probe = OpenRun(world_of[0], options(world_of), SILENT).probe
    compared = np.linspace(0, len(probe) - 1, 9).round().astype(int)
    name = probe.ids[compared[4]]
    row = table(picture(options(world_of, units=(), caricature=(name,), epochs=LAST), SILENT)).iloc[0]
    others = [np.asarray(probe.image(int(n))) / 255.0 for n in compared if probe.ids[n] != name]
    both = said(world_of, np.stack([pixels(world_of, row["file"]), *others]))
    expected = torch.nn.functional.cosine_similarity(both[:1], both[1:], dim=1).mean().item()
    assert row["layer_cos_chance"] == pytest.approx(expected, abs=0.01)


def test_classes_by_name_are_recognised_once_they_were_learnt(
    classifier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = asked(PictureOptions, classifier, steps=STEPS, target=("wheel", "0"), floor=False)
    rows = {(row["epoch"], row["class"]): row for row in picture(given, SILENT).pictures}
    assert {row["layer"] for row in rows.values()} == {"head"}
    assert {row["objective"] for row in rows.values()} == {"class"}
    assert {row["unit"] for row in rows.values()} == {SORTED.index("wheel"), 0}
    assert rows[1, "wheel"]["class_place"] == rows[1, SORTED[0]]["class_place"] == 1
    # A class is a unit of the classifier, and its picture the same.
    units = replace(given, target=(), layers=("head",), units=(SORTED.index("wheel"), 0), dry_run=True)
    assert picture(units, SILENT).found == 4
    line = ["picture", str(classifier / "run"), "--cache-dir", str(classifier / "cache"), "--device", "cpu"]
    line += ["--model", str(given.model), "--target", "wheel", "--steps", str(STEPS), "--no-floor"]
    assert run([*line, "--epochs", "last"]) == 0
    assert "1 of 1" in capsys.readouterr().out
    with pytest.raises(InputError, match="no class 'wheell'"):
        picture(replace(given, target=("wheell",)), SILENT)


# -- films ---------------------------------------------------------------------------------------------------


def test_a_film_goes_on_from_epoch_to_epoch(world_of: World, tmp_path: Path) -> None:
    epochs = EpochFilter.parse("0,2,5")
    given = options(world_of, units=(0, 4), warm=True, epochs=epochs)
    result = picture(given, SILENT)
    rows = table(result)
    assert rows.groupby("epoch")["steps"].first().tolist() == [STEPS, STEPS // 2, STEPS // 2]
    assert [path.name for path in result.films] == [
        f"unit_{unit:04d}.warm.{ending}" for unit in (0, 4) for ending in ("gif", "webp")
    ]
    for path in result.films:
        with Image.open(path) as film:
            assert film.n_frames == 3
            assert film.size[0] >= 96
    cold = table(picture(options(world_of, units=(0, 4), epochs=epochs), SILENT))

    def picture_of(rows: pd.DataFrame, epoch: int, unit: int) -> np.ndarray:
        (file,) = rows[(rows["epoch"] == epoch) & (rows["unit"] == unit)]["file"]
        return pixels(world_of, file)

    assert np.array_equal(picture_of(rows, 0, 4), picture_of(cold, 0, 4))
    # Unit 0 looks elsewhere from epoch 3 on, and what it had found before stays to be seen.
    was, now = (np.abs(picture_of(each, 5, 0) - picture_of(each, 2, 0)).mean() for each in (rows, cold))
    assert was < now
    # Half the steps are enough, since they do not begin at the start.
    short = table(picture(options(world_of, units=(4,), steps=STEPS // 2, epochs=LAST), SILENT))
    film = rows[(rows["epoch"] == 5) & (rows["unit"] == 4)]
    assert film["ratio"].item() > 1.2 * short["ratio"].item()
    before = contents(world_of[0])
    with pytest.raises(KeyboardInterrupt):
        picture(replace(given, cache_dir=again(world_of, tmp_path)[1]), Counting(stop=2 * STEPS + 1))
    rest = Counting()
    picture(replace(given, cache_dir=tmp_path / "other-cache"), rest)
    # The second and third epoch, the last once more as it is, and from a second seed.
    assert rest.steps == 2 * (3 * STEPS // 2 + STEPS)
    assert contents(world_of[0])[rows["file"].iloc[-1]] == before[rows["file"].iloc[-1]]


def test_a_film_of_one_epoch_is_refused(world_of: World) -> None:
    with pytest.raises(InputError, match="several epochs"):
        picture(options(world_of, warm=True, epochs=LAST), SILENT)


# -- crops, and what is refused ------------------------------------------------------------------------------


def test_crops_stand_in_place_of_warps(world_of: World) -> None:
    given = options(world_of, parameters="maco", crops=4, epochs=LAST, floor=False)
    assert picture(replace(given, dry_run=True), SILENT).passes == 4 * STEPS * 3 * 4
    rows = table(picture(given, SILENT))
    # Nothing is cut off: crops leave no frame.
    assert pixels(world_of, rows["file"].iloc[0]).shape == (SIDE, SIDE, 3)
    warped = table(picture(replace(given, crops=0), SILENT))
    assert set(rows["file"]) & set(warped["file"]) == set()


def test_a_pair_is_counted_beforehand(world_of: World) -> None:
    given = options(world_of, units=(), pair=(1, 4))
    dry = picture(replace(given, dry_run=True), SILENT)
    assert (dry.wanted, dry.found) == (15, 0)
    picture(given, SILENT)
    assert picture(replace(given, dry_run=True), SILENT).found == 15
    with pytest.raises(InputError, match=f"unit {DEAD} of 1 is dead at epoch 0"):
        picture(options(world_of, units=(), pair=(1, DEAD)), SILENT)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"pair": (1, 2), "caricature": ("a.png",)}, "says itself"),
        ({"target": ("a",), "objective": "neuron"}, "objective of its own"),
        ({"objective": "layer", "units": (1,)}, "no units to choose"),
        ({"caricature": ("a.png",), "diverse": 2}, "unlike each other"),
        ({"objective": "neuron", "diverse": 2}, "unlike each other"),
        ({"caricature": ("a.png",), "crops": 4}, "whole image"),
        ({"crops": 4, "warps": False}, "in place of warps"),
    ],
)
def test_what_does_not_go_together(world_of: World, given: dict[str, object], match: str) -> None:
    with pytest.raises(InputError, match=match):
        options(world_of, **{"units": (), **given})


def test_an_image_that_is_not_there(world_of: World) -> None:
    with pytest.raises(InputError, match=r"no image 'nowhere.png'"):
        picture(options(world_of, units=(), caricature=("nowhere.png",)), SILENT)
