"""The pointing game of `attribute --check` on a network whose answer comes from a known corner."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from corner_photos import COLOURS, SIDE, corner_photos
from PIL import Image
from test_attribute_story import NETWORK, state

from concept_monitor_cli.cli.attribute import _pointing
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.options import AttributeOptions, DissectOptions
from concept_monitor_cli.run import TABLES
from concept_monitor_cli.stories.attribute import attribute
from concept_monitor_cli.stories.dissect import dissect


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos with a mask of their class in the upper left corner; the answer comes from there at first."""
    root = tmp_path_factory.mktemp("pointing")
    (root / "network.py").write_text(NETWORK)
    corner_photos(root / "set/images")
    for photo in sorted((root / "set/images").rglob("*.png")):
        mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
        mask[:4, :4] = 1 + COLOURS.index(photo.parent.name)
        # One photo does not show its class.
        mask = mask if photo.name != "7.png" else mask[::-1, ::-1] * 0
        place = root / "set/masks" / photo.relative_to(root / "set/images")
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(place)
    (root / "set/classes.txt").write_text("\n".join(("background", *COLOURS)))
    (root / "ckpts").mkdir()
    for epoch, corner in ((0, 0), (1, 3)):
        torch.save({"state_dict": state(corner), "epoch": epoch}, root / "ckpts" / f"epoch_{epoch}.pth")
    dissect(
        DissectOptions(
            checkpoints=(str(root / "ckpts"),),
            layers=("1",),
            model=f"{root / 'network.py'}:network",
            input_size=SIDE,
            crop=1.0,
            mean=(0.4, 0.5, 0.6),
            std=(0.2, 0.25, 0.3),
            probe=str(root / "set"),
            encoder="builtin",
            floors=False,
            stability=False,
            out=root / "run",
            cache_dir=root / "cache",
            device="cpu",
        )
    )
    return root


def test_maps_hit_while_the_answer_comes_from_the_thing(
    masked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = attribute(
        AttributeOptions(
            out=masked / "run",
            cache_dir=masked / "cache",
            device="cpu",
            model=f"{masked / 'network.py'}:network",
            methods=("hires-cam",),
            class_names=str(_names(masked)),
            count=24,
            check=True,
            plot_formats=(),
        )
    )
    first, last = result.pointing
    assert (first["images"], first["hits"], last["hits"]) == (21, 1.0, 0.0)
    assert first["layer"] == "1"
    assert first["inside"] > 0.9 > 0.1 > last["inside"]
    assert first["inside_chance"] == pytest.approx(1 / 16)
    # A pixel beside the corner of four is near it, two pixels are not: 15 of 224 are 1.07 of 16.
    assert first["chance"] == pytest.approx((16 + 8) / 256)
    assert first["centre"] == 0
    # The class of another photo is looked for at the same place, in a map of that photo.
    assert first["others"] == pytest.approx(1.0)
    assert first["gain_low"] == pytest.approx(first["gain"]) == pytest.approx(1 - 24 / 256)
    written = TABLES["pointing"].read_csv(masked / "run/tables/pointing.csv")
    assert written["hits"].tolist() == [1.0, 0.0]
    Console(quiet=False).print(_pointing(result))
    assert "21 images with a mask" in capsys.readouterr().out


def test_masks_of_other_things_are_said(masked: Path) -> None:
    said: list[str] = []

    class Told:
        def __getattr__(self, name: str) -> object:
            from concept_monitor_cli.progress import SILENT

            return said.append if name == "notice" else getattr(SILENT, name)

    names = masked / "others.txt"
    names.write_text("airplane\nboat\ncar\n")
    result = attribute(
        AttributeOptions(
            out=masked / "run",
            cache_dir=masked / "cache",
            device="cpu",
            model=f"{masked / 'network.py'}:network",
            methods=("hires-cam",),
            class_names=str(names),
            target="boat",
            count=2,
            check=True,
            plot_formats=(),
        ),
        Told(),  # type: ignore[arg-type]
    )
    assert not result.pointing
    assert any("no mask of these images is called as their class" in each for each in said)


def _names(root: Path) -> Path:
    path = root / "names.txt"
    path.write_text("\n".join(sorted(COLOURS)))
    return path
