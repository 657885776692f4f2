"""`cmon picture`: planted units whose best image is known, in tables, files and the cache."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from picture_help import STEPS, Counting, contents, options, table
from PIL import Image
from planted_training import DEAD, SIDE, UNITS, patch

from concept_monitor_cli.cli.app import run
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.options import DissectOptions, EpochFilter
from concept_monitor_cli.progress import SILENT
from concept_monitor_cli.stories.dissect import dissect
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.stories.picture import picture
from concept_monitor_cli.stories.picture_making import Maker
from concept_monitor_cli.stories.picture_tables import Shown, strengths
from concept_monitor_cli.stories.picture_wishes import Picture, Scale, Task, Wish
from concept_monitor_cli.stories.recorder import Recorder

World = tuple[Path, Path]


def test_a_picture_is_bright_where_its_unit_looks(world_of: tuple[Path, Path]) -> None:
    result = picture(options(world_of), SILENT)
    rows = table(result)
    assert len(rows) == 6
    assert (rows["ratio"] > 1).all()
    assert (rows["ratio_chance"] < rows["ratio"]).all()
    for _, row in rows.iterrows():
        pixels = np.asarray(Image.open(world_of[0] / row["file"]), dtype=float)
        assert pixels.shape == (SIDE, SIDE, 3)
        inside = (patch(row["unit"] % 6).reshape(3, SIDE, SIDE)[0] > 0).numpy()
        assert pixels[inside].mean() > 200
        assert pixels[inside].mean() > pixels[~inside].mean() + 60


def test_the_numbers_are_those_of_the_network_itself(world_of: tuple[Path, Path]) -> None:
    result = picture(options(world_of, epochs=EpochFilter.parse("5"), warps=False), SILENT)
    rows = table(result).set_index("unit")
    opened = OpenRun(world_of[0], options(world_of), SILENT)
    record = opened.run.checkpoints()[-1]
    state = torch.load(record.path, weights_only=True)["state_dict"]
    photos = np.stack([opened.probe.image(n) for n in range(len(opened.probe))]).astype(float) / 255
    images = torch.from_numpy((photos - 0.5) / 0.25).permute(0, 3, 1, 2).flatten(1)
    said = images @ state["1.weight"].double().T
    for unit in (1, 4, 5):
        row = rows.loc[unit]
        assert row["probe_mean"] == pytest.approx(said[:, unit].mean().item(), rel=1e-4)
        assert row["probe_max"] == pytest.approx(said[:, unit].max().item(), rel=1e-4)
        ratio = (row["activation"] - row["probe_mean"]) / (row["probe_max"] - row["probe_mean"])
        assert row["ratio"] == pytest.approx(ratio, rel=1e-4)
        written = np.asarray(Image.open(world_of[0] / row["file"]), dtype=float) / 255
        picked = torch.from_numpy((written - 0.5) / 0.25).permute(2, 0, 1).flatten()
        # The file is rounded to 255 steps.
        assert row["activation"] == pytest.approx(
            (picked @ state["1.weight"][unit].double()).item(), abs=0.02
        )


def test_a_stopped_run_goes_on_where_it_was_and_ends_with_the_same_bytes(
    world_of: tuple[Path, Path], tmp_path: Path
) -> None:
    asked = options(world_of, units=(0, 1, 2, 4, 5), at_once=2)
    with pytest.raises(KeyboardInterrupt):
        picture(asked, Counting(stop=3 * 2 * STEPS - 1))
    rest = Counting()
    picture(asked, rest)
    # Of 15 pictures (5 units, 2 epochs, a second seed) those of the first epoch had been made: 2, 2 and 1.
    assert rest.steps == (15 - 5) * STEPS
    resumed = contents(world_of[0])
    again = Counting()
    picture(asked, again)
    assert again.steps == 0
    assert contents(world_of[0]) == resumed
    other = (world_of[0], tmp_path / "other-cache")
    shutil.copytree(world_of[1], other[1], ignore=shutil.ignore_patterns("picture"))
    picture(replace(asked, cache_dir=other[1]), SILENT)
    assert contents(world_of[0]) == resumed


def test_other_companions_and_another_process_give_the_same_bytes(world_of: World, tmp_path: Path) -> None:
    picture(options(world_of, units=(5, 1)), SILENT)
    picture(options(world_of, units=(5,), diverse=2), SILENT)
    first = contents(world_of[0])
    shutil.rmtree(world_of[0] / "pictures")
    other = tmp_path / "other-cache"
    shutil.copytree(world_of[1], other, ignore=shutil.ignore_patterns("picture"))
    given = options((world_of[0], other))
    script = (
        "from pathlib import Path\n"
        "from concept_monitor_cli.options import EpochFilter, PictureOptions\n"
        "from concept_monitor_cli.stories.picture import picture\n"
        "for units, count in ((7, 4, 1, 0, 5), 1), ((1, 4, 5), 2):\n"
        f"    picture(PictureOptions(out=Path({str(given.out)!r}), cache_dir=Path({str(other)!r}),\n"
        f"        device='cpu', model={given.model!r}, steps={STEPS}, units=units, diverse=count,\n"
        "        at_once=4, epochs=EpochFilter.parse('0,5'), plot_formats=()))\n"
    )
    # On as many threads: sums in another order are rounded otherwise.
    env = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    subprocess.run([sys.executable, "-c", script], check=True, env=env)
    second = contents(world_of[0])
    shared = [name for name in first if name.endswith(".png")]
    # Of two units at two epochs, and two more of one of them.
    assert len(shared) == 8
    assert all(first[name] == second[name] for name in shared)


def test_objectives_differ_and_down_goes_down(world_of: tuple[Path, Path]) -> None:
    last = EpochFilter.parse("5")
    up = table(picture(options(world_of, epochs=last), SILENT))
    down = table(picture(options(world_of, epochs=last, objective="unit-"), SILENT))
    # Photos are dark around their patches, so black is not far below the mean.
    assert (down["ratio"] < -0.15).all()
    assert down["objective"].unique().tolist() == ["unit-"]
    assert set(down["file"]) & set(up["file"]) == set()
    # One position only: its middle is all of it.
    middle = table(picture(options(world_of, epochs=last, objective="neuron"), SILENT))
    assert middle["activation"].tolist() == up["activation"].tolist()


def test_a_pair_is_a_way_from_one_unit_to_the_other(world_of: tuple[Path, Path]) -> None:
    rows = table(picture(options(world_of, units=(), pair=(1, 4), epochs=EpochFilter.parse("5")), SILENT))
    assert rows["share"].tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert rows["other_unit"].tolist() == [4] * 5
    # At the far end it is the other unit that is excited.
    assert rows["ratio"].iloc[0] > 1 > rows["ratio"].iloc[-1]
    assert rows["file"].nunique() == 5


@pytest.mark.parametrize("kind", ["maco", "pixel"])
def test_other_parameterisations(world_of: tuple[Path, Path], kind: str) -> None:
    # Phases alone cannot make a patch as bright as a photo's in 12 pixels; they climb all the same.
    rows = table(picture(options(world_of, parameters=kind, epochs=EpochFilter.parse("5")), SILENT))
    assert rows["parameterisation"].unique().tolist() == [kind]
    assert (rows["ratio"] > rows["ratio_chance"]).all()


def test_a_dead_unit_has_no_ratio(world_of: tuple[Path, Path]) -> None:
    rows = table(picture(options(world_of, units=(DEAD, 4), epochs=EpochFilter.parse("5")), SILENT))
    dead = rows[rows["unit"] == DEAD].iloc[0]
    assert np.isnan(dead["ratio"])
    assert dead["silent_start"]
    assert not rows[rows["unit"] == 4]["silent_start"].any()


def test_top_takes_the_surest_units_of_the_last_epoch(world_of: tuple[Path, Path]) -> None:
    result = picture(options(world_of, units=(), top=5, epochs=EpochFilter.parse("5")), SILENT)
    opened = OpenRun(world_of[0], options(world_of), SILENT)
    own = opened.table[(opened.table["epoch"] == 5) & (opened.table["rank"] == 1)]
    sure = own[own["interpretable"]].nlargest(5, "effect")["effect"].min()
    taken = own[own["unit"].isin([row["unit"] for row in result.pictures])]
    assert len(taken) == 5
    assert (taken["effect"] >= sure).all()


def test_a_dry_run_counts_and_writes_nothing(world_of: tuple[Path, Path]) -> None:
    asked = options(world_of, units=(1, 4))
    dry = picture(replace(asked, dry_run=True), SILENT)
    assert (dry.wanted, dry.found) == (6, 0)  # two epochs, and the last one from a second seed
    # Four are made at once: a layer at one epoch from one seed is a batch, of whatever many units.
    assert dry.passes == 3 * 4 * STEPS * 3
    assert picture(replace(asked, dry_run=True, units=(1, 2, 4, 5, 0)), SILENT).passes == 3 * 8 * STEPS * 3
    assert picture(replace(asked, dry_run=True, at_once=1), SILENT).passes == 6 * STEPS * 3
    assert not (world_of[0] / "pictures").exists()
    assert not list(world_of[1].glob("picture/*"))
    picture(replace(asked, units=(1,)), SILENT)
    assert picture(replace(asked, dry_run=True), SILENT).found == 3
    assert picture(replace(asked, dry_run=True, floor=False), SILENT).wanted == 4


def test_what_is_wrong_is_said(world_of: tuple[Path, Path]) -> None:
    with pytest.raises(InputError, match=f"has no unit {UNITS}") as caught:
        picture(options(world_of, units=(UNITS,)), SILENT)
    assert f"0 to {UNITS - 1}" in str(caught.value.hint)
    with pytest.raises(InputError, match="no layer 'nine'"):
        picture(options(world_of, layers=("nine",)), SILENT)
    with pytest.raises(InputError, match="takes no images of 32 pixels"):
        picture(options(world_of, size=32), SILENT)
    with pytest.raises(InputError, match="did not dissect 0"):
        picture(options(world_of, units=(), layers=("0",)), SILENT)
    with pytest.raises(InputError, match="two different units"):
        options(world_of, units=(), pair=(3, 3))
    with pytest.raises(InputError, match="code is in"):
        picture(options(world_of, model=None), SILENT)


def test_a_layer_that_was_not_dissected_can_be_looked_at(world_of: tuple[Path, Path]) -> None:
    rows = table(picture(options(world_of, layers=("0",), units=(7,), epochs=EpochFilter.parse("5")), SILENT))
    assert rows["layer"].tolist() == ["0"]
    assert rows["concept"].tolist() == [""]
    # A pixel of the picture itself, before anything was learnt.
    assert rows["ratio"].iloc[0] > 0.9


def test_plots_are_drawn(world_of: tuple[Path, Path]) -> None:
    result = picture(options(world_of, plot_formats=("png",)), SILENT)
    assert sorted(path.name for path in result.plots) == [
        "picture_ratios.png",
        "pictures.1.epoch_0000.png",
        "pictures.1.epoch_0005.png",
        "pictures.1.png",
    ]
    assert all(path.stat().st_size > 3000 for path in result.plots)


def test_the_command_prints_and_says_all_in_json(
    world_of: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = options(world_of)
    line = [
        *("picture", str(world_of[0]), "--cache-dir", str(world_of[1]), "--device", "cpu"),
        *("--model", str(asked.model), "--units", "1,4", "--steps", "5", "--at-once", "4", "--epochs", "0,5"),
    ]
    assert run([*line, "--dry-run"]) == 0
    assert "6 pictures of 12 pixels, 0 of them in the cache" in capsys.readouterr().out
    assert run(line) == 0
    said = capsys.readouterr().out
    assert "how strongly pictures excite their units" in said
    assert "pictures.1.epoch_0005.png" in said
    assert run([*line, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["wanted"], found["found"], found["steps"]) == (6, 6, 5)
    assert [row["unit"] for row in found["pictures"]] == [1, 4, 1, 4]


# -- what the encoder sees -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_eyes(world: Path) -> Path:
    """The planted networks of two epochs once more, seen by an encoder that can look at new images."""
    dissect(
        DissectOptions(
            checkpoints=(str(world / "training-ckpts"),),
            layers=("1",),
            model=f"{world / 'network.py'}:network",
            input_size=SIDE,
            crop=1.0,
            mean=(0.5,) * 3,
            std=(0.25,) * 3,
            probe=str(world / "photos"),
            concepts=str(world / "words.csv"),
            encoder="builtin",
            epochs=EpochFilter.parse("0,5"),
            out=world / "eyes",
            cache_dir=world / "cache",
            device="cpu",
        )
    )
    return world / "eyes"


def test_what_the_encoder_sees_stands_beside_chance(training: Path, with_eyes: Path, cache: Path) -> None:
    rows = table(picture(options((with_eyes, cache), units=(0, 4, 5, 7)), SILENT))
    first, last = rows[rows["epoch"] == 0], rows[rows["epoch"] == 5]
    assert first["drift"].isna().all()
    assert ((last["drift"] >= -1e-6) & (last["drift"] <= 2)).all()
    assert (last["drift_floor"] > 0).all()
    assert (rows["photo_cos"].abs() <= 1).all()
    assert (rows["other_cos"].abs() <= 1).all()
    named = rows[rows["concept_rank"].notna()]
    assert len(named)
    assert ((named["concept_rank"] >= 1) & (named["concept_rank"] <= named["concepts"])).all()
    assert (named["concepts"] == 6).all()
    assert ((named["concept_p"] > 0) & (named["concept_p"] <= 1)).all()


class Flat:
    """An encoder whose embedding of an image is its mean colour."""

    class preprocessing:
        class geometry:
            size = 4

    device = torch.device("cpu")

    def image(self, batch: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(batch.float().mean((1, 2)), dim=1)


def test_ranks_and_cosines_by_hand() -> None:
    from concept_monitor_cli.stories.picture_tables import Eyes

    photos = torch.eye(3)
    words = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0.8, 0.6, 0]])
    eyes = Eyes(Flat(), photos, words, {"red": 0, "green": 1, "orange": 2})  # type: ignore[arg-type]
    red, green = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)
    red[..., 0], green[..., 1] = 255, 255
    vectors = eyes.look_at([red, green])
    assert torch.allclose(vectors, torch.eye(3)[:2])
    made = [
        Picture(Wish(unit), np.zeros((3, 8, 8), np.float32), np.zeros(2, np.float32), 0, False)
        for unit in (0, 1)
    ]
    scale = Scale(torch.zeros(2), torch.ones(2), torch.tensor([[0], [1]]))
    shown = Shown(
        0, "c", "l", made, scale, [red, green], vectors, ["orange", "green"], ["green", "orange", "red"]
    )
    first, second = shown.cosines(eyes)
    assert (first["photo_cos"], first["other_cos"]) == (1, 0)
    # Red is nearer to the picture than orange; of the two other concepts red beats it.
    assert (first["concept_rank"], first["concepts"]) == (2, 3)
    assert first["concept_p"] == pytest.approx(2 / 3)
    assert (second["concept_rank"], second["concept_p"]) == (1, pytest.approx(1 / 3))


def test_strengths_by_hand() -> None:
    scale = Scale.of(torch.tensor([[0.0, 5.0, 1.0], [2.0, 7.0, 1.0], [1.0, 9.0, 1.0]]), 2)
    assert scale.best.tolist() == [[1, 2], [2, 1], [0, 1]]
    image = np.zeros((3, 8, 8), np.float32)
    made = [
        Picture(Wish(0), image, np.array([3.0, 5.0, 1.0], np.float32), 2.5, False),
        Picture(Wish(1), image, np.array([0.5, 11.0, 1.0], np.float32), 9.0, False),
        Picture(Wish(2), image, np.array([1.5, 7.0, 1.0], np.float32), 1.0, True),
    ]
    first, second, constant = strengths(made, scale)
    assert (first["ratio"], first["robust_ratio"]) == (2, 1.5)
    assert first["ratio_chance"] == pytest.approx((-0.5 + 0.5) / 2)
    assert (second["ratio"], second["robust_ratio"]) == (2, 1)
    assert np.isnan(constant["ratio"])


def test_keys_tell_pictures_apart(world_of: tuple[Path, Path]) -> None:
    asked = options(world_of)
    opened = OpenRun(world_of[0], asked, SILENT)
    recorder = Recorder(opened, asked, look_only=True)
    record = opened.run.checkpoints()[0]
    network = recorder.network(record)

    def key(seed: int = 0, wish: Wish | int = 1, film: bool = False, **more: object) -> str:
        own = wish if isinstance(wish, Wish) else Wish(wish)
        task = Task(record, network, network.looks[0], (own,), seed, film=film)
        return Maker(recorder, replace(asked, **more), SILENT).key(task, own).digest

    different = [
        key(),
        key(seed=1),
        key(wish=2),
        key(wish=Wish(1, other=2)),
        key(wish=Wish(1, other=2, share=0.5)),
        key(wish=Wish(1, member=0), diverse=2),
        key(wish=Wish(1, member=1), diverse=2),
        key(wish=Wish(1, member=0), diverse=3),
        key(wish=Wish(1, member=0), diverse=2, diversity=2.0),
        key(film=True),
        key(steps=21),
        key(parameters="maco"),
        key(objective="neuron"),
        key(warps=False),
        key(crops=2),
        key(objective="layer", units=()),
        key(tv=0.5),
        key(at_once=8),
    ]
    assert len(set(different)) == len(different)
    assert key() == key(units=(9,), top=3)
