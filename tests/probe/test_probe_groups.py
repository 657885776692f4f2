"""Groups of probing images: named by the user, or copies that are found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.probe import decode_probe, load_probe
from concept_monitor_cli.probe.groups import FINGERPRINT, copies, named_groups
from concept_monitor_cli.store import Store
from tests.functional.test_copies import scenes

IDS = ("a/1.png", "a/2.png", "b/3.png", "4.png")


def test_the_parent_folder() -> None:
    named = named_groups("parent", IDS)
    assert named.groups.of.tolist() == [0, 0, 1, 2]
    assert named.digest != named_groups("parent", ("a/1.png", "b/2.png", "b/3.png", "4.png")).digest
    with pytest.raises(InputError, match="one group"):
        named_groups("parent", ("1.png", "2.png"))


def test_a_table(tmp_path: Path) -> None:
    table = tmp_path / "groups.csv"
    table.write_text("group,image,more\nx,a/1.png,1\ny,2.png,1\nx,3.png,1\nz,4.png,\nq,unused.png,\n")
    assert named_groups(str(table), IDS).groups.of.tolist() == [0, 1, 0, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,kind\n1.png,x\n", "columns"),
        ("image,group\na/1.png,x\n", "lacks the image a/2.png"),
        ("image,group\na/1.png,x\na/1.png,y\n", "two groups"),
        ("image,group\na/1.png,\n", "no image or no group"),
        ("image,group\n" + "".join(f"{name},x\n" for name in IDS), "one group"),
    ],
)
def test_bad_tables(tmp_path: Path, text: str, message: str) -> None:
    table = tmp_path / "groups.csv"
    table.write_text(text)
    with pytest.raises(InputError, match=message):
        named_groups(str(table), IDS)
    with pytest.raises(InputError, match="cannot be read"):
        named_groups(str(tmp_path / "none.csv"), IDS)


def test_copies_of_files(tmp_path: Path) -> None:
    """The same bytes, and another JPEG quality; different photos stay apart."""
    folder = tmp_path / "photos"
    folder.mkdir()
    photos = scenes(20)
    for number, photo in enumerate(photos):
        photo.save(folder / f"{number:02d}.jpg", quality=95)
    (folder / "again.jpg").write_bytes((folder / "03.jpg").read_bytes())
    photos[7].save(folder / "packed.jpg", quality=40)
    probe = load_probe(str(folder))
    probe, (pixels,) = decode_probe(Store(tmp_path / "cache"), probe, [FINGERPRINT])
    groups = dict(zip(probe.ids, copies(probe.digests, pixels).tolist(), strict=True))
    assert groups["again.jpg"] == groups["03.jpg"]
    assert groups["packed.jpg"] == groups["07.jpg"]
    assert len(set(groups.values())) == 20
    exact = copies(probe.digests, None)
    assert len(np.unique(exact)) == 21
