"""Decoding into the store: once, in blocks, for all networks, whatever happens on the way."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from natural_order import load_probe
from PIL import Image
from probe_help import Told, picture, png, tiny_broden

from concept_monitor_cli.errors import CmonError, InputError
from concept_monitor_cli.probe import Geometry, decode_probe, pixels, plan_probe
from concept_monitor_cli.probe.decode import shape_image
from concept_monitor_cli.probe.images import FileImages
from concept_monitor_cli.store import Store

SMALL, WIDE = Geometry(12), Geometry(16, None, "squash", "bicubic")
BROKEN = (2, 7, 8, 9, 11)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """14 images in blocks of 4, five of which cannot be read: one block has none that can."""
    monkeypatch.setattr(pixels, "BLOCK", 4)
    path = tmp_path / "images"
    path.mkdir()
    for number in range(14):
        data = png(picture(20, 16, number))
        (path / f"{number}.png").write_bytes(data[:100] if number in BROKEN or number == 10 else data)
    return path


@pytest.fixture
def decoded(monkeypatch):
    """Counts the decoded images."""
    count = []
    decode = FileImages.decode
    monkeypatch.setattr(FileImages, "decode", lambda self, data: (count.append(1), decode(self, data))[1])
    return count


GOOD = [0, 1, 3, 4, 5, 6, 12, 13]


def _expected(geometry):
    return np.stack([shape_image(Image.fromarray(picture(20, 16, number)), geometry) for number in GOOD])


def test_pixels_are_those_of_the_images_that_can_be_read(folder, tmp_store, decoded):
    told = Told()
    probe, (small, wide) = decode_probe(tmp_store, load_probe(str(folder)), [SMALL, WIDE], progress=told)
    assert len(decoded) == 14  # once for both
    assert probe.ids == tuple(f"{number}.png" for number in GOOD)
    assert [each.id for each in probe.skipped] == [f"{number}.png" for number in (2, 7, 8, 9, 10, 11)]
    assert all("damaged" in each.reason for each in probe.skipped)
    assert "6 images cannot be read and are left out, the first: 2.png" in told.warnings[0]
    for result, geometry in ((small, SMALL), (wide, WIDE)):
        assert (len(result), result.geometry) == (8, geometry)
        np.testing.assert_array_equal(result.rows(0, 8), _expected(geometry))
        assert result.rows(0, 8).dtype == np.uint8


def test_any_rows(folder, tmp_store):
    _, (small,) = decode_probe(tmp_store, load_probe(str(folder)), [SMALL])
    expected = _expected(SMALL)
    for start in range(9):
        for stop in range(start, 9):
            np.testing.assert_array_equal(small.rows(start, stop), expected[start:stop])
    for start, stop in [(-1, 2), (0, 9), (5, 4)]:
        with pytest.raises(IndexError):
            small.rows(start, stop)
    small.close()
    np.testing.assert_array_equal(small.rows(6, 8), expected[6:])


def test_the_second_time_nothing_is_decoded(folder, tmp_store, decoded):
    first, _ = decode_probe(tmp_store, load_probe(str(folder)), [SMALL, WIDE])
    decoded.clear()
    told = Told()
    again, (wide,) = decode_probe(Store(tmp_store.root), load_probe(str(folder)), [WIDE], progress=told)
    assert decoded == []
    assert (again.ids, again.skipped) == (first.ids, first.skipped)
    np.testing.assert_array_equal(wide.rows(0, 8), _expected(WIDE))
    assert decoded == []
    assert "6 images cannot be read" in told.warnings[0]  # said every time


def test_only_what_is_missing_is_decoded(folder, tmp_store, decoded):
    decode_probe(tmp_store, load_probe(str(folder)), [SMALL])
    decoded.clear()
    (folder / "14.png").write_bytes(png(picture(20, 16, 14)))
    probe, _ = decode_probe(tmp_store, load_probe(str(folder)), [SMALL])
    assert len(probe) == 9
    assert len(decoded) == 3  # the last block; full ones stay


def test_what_is_looked_at_once_leaves_the_disk_and_is_not_decoded_again(folder, tmp_store, decoded):
    looked_at: set[str] = set()
    once = {WIDE: looked_at.__contains__}

    def on_disk():
        return len(list((tmp_store.root / "pixels").rglob("*.h5")))

    probe, (small, wide) = decode_probe(tmp_store, load_probe(str(folder)), [SMALL, WIDE], once=once)
    assert (len(decoded), on_disk()) == (14, 8)
    (start, stop, first), *_ = blocks = list(wide.blocks())
    np.testing.assert_array_equal(wide.rows(start, stop), _expected(WIDE)[start:stop])
    looked_at.add(first)
    wide.done(first)
    small.done(next(small.blocks())[2])  # that of a geometry that is to stay does
    assert on_disk() == 7
    assert plan_probe(tmp_store, load_probe(str(folder)), [SMALL, WIDE], once=once)[2].images == 0

    def again():
        decoded.clear()
        found, both = decode_probe(Store(tmp_store.root), load_probe(str(folder)), [SMALL, WIDE], once=once)
        assert (found.ids, [each.digest for each in both]) == (probe.ids, [small.digest, wide.digest])
        return both[1]

    again()
    assert (len(decoded), on_disk()) == (0, 7)
    for *_, digest in blocks[1:]:
        looked_at.add(digest)
        wide.done(digest)
    # A probing set that grew: its last block alone is decoded, and planned to be.
    (folder / "14.png").write_bytes(png(picture(20, 16, 14)))
    planned = plan_probe(tmp_store, load_probe(str(folder)), [SMALL, WIDE], once=once)[2]
    decoded.clear()
    decode_probe(tmp_store, load_probe(str(folder)), [SMALL, WIDE], once=once)
    assert planned.images == len(decoded) == 3
    assert planned.bytes == 3 * 3 * SMALL.size**2
    (folder / "14.png").unlink()
    # Whoever wants them once more, as another encoder does, gets them.
    np.testing.assert_array_equal(again().rows(0, 8), _expected(WIDE))


def test_digests_follow_content_order_and_geometry(folder, tmp_store):
    def digest(geometry=SMALL):
        _, (result,) = decode_probe(tmp_store, load_probe(str(folder)), [geometry])
        blocks = list(result.blocks())
        assert [block[:2] for block in blocks] == [(0, 3), (3, 6), (6, 8)]
        return result.digest, [block[2] for block in blocks]

    whole, blocks = digest()
    assert (whole, blocks) == digest()
    assert digest(WIDE)[0] != whole
    (folder / "13.png").write_bytes(png(picture(20, 16, 99)))
    changed, changed_blocks = digest()
    assert changed != whole
    assert changed_blocks[:2] == blocks[:2]
    assert changed_blocks[2] != blocks[2]


def test_labels_stay_with_their_images(tmp_path, tmp_store):
    broden = tiny_broden(tmp_path / "broden")
    (broden / "images" / "set" / "b.png").write_bytes(b"no image")
    listed = load_probe(str(broden))
    probe, (wide,) = decode_probe(tmp_store, listed, [WIDE])
    assert probe.ids == ("set/a.png", "set/c.png")
    assert len(wide) == len(probe.annotations) == 2
    assert probe.annotations.image(0).categories == ("color", "object", "part")
    assert len(listed) == 3


def test_equal_images_under_two_names(tmp_path, tmp_store):
    for name in ("1.png", "2.png"):
        (tmp_path / name).write_bytes(png(picture()))
    probe, (small,) = decode_probe(tmp_store, load_probe(str(tmp_path)), [SMALL, SMALL][:1])
    assert len(probe) == 2
    np.testing.assert_array_equal(small.rows(0, 1), small.rows(1, 2))


def test_a_geometry_asked_for_twice(folder, tmp_store):
    _, results = decode_probe(tmp_store, load_probe(str(folder)), [SMALL, WIDE, SMALL])
    assert [result.geometry for result in results] == [SMALL, WIDE, SMALL]


def test_no_image_can_be_read(tmp_path, tmp_store):
    (tmp_path / "a.png").write_bytes(b"hello")
    with pytest.raises(InputError, match="no image can be read") as caught:
        decode_probe(tmp_store, load_probe(str(tmp_path)), [SMALL])
    assert "a.png: not an image" in str(caught.value.hint)


def test_an_image_that_changes_meanwhile_is_not_mixed_in(folder, tmp_store):
    listed = load_probe(str(folder))
    (folder / "3.png").write_bytes(png(picture(20, 16, 77)))
    with pytest.raises(InputError, match="changed while it was in use"):
        decode_probe(tmp_store, listed, [SMALL])
    (folder / "3.png").unlink()
    with pytest.raises(InputError, match="cannot be read any more"):
        decode_probe(tmp_store, listed, [SMALL])


@pytest.mark.parametrize("loss", ["pruned", "damaged", "damaged block list"])
def test_what_the_store_loses_is_decoded_again(folder, tmp_store, loss, decoded):
    decode_probe(tmp_store, load_probe(str(folder)), [SMALL])
    paths = [path for path in tmp_store.root.rglob("*.h5") if ("block" in path.parts[-3]) == ("list" in loss)]
    for path in paths:
        if loss == "pruned":
            path.unlink()
        else:
            data = bytearray(path.read_bytes())
            data[-1] ^= 4
            path.write_bytes(data)
    decoded.clear()
    store = Store(tmp_store.root)
    fresh, (again,) = decode_probe(store, load_probe(str(folder)), [SMALL])
    np.testing.assert_array_equal(again.rows(0, 8), _expected(SMALL))
    assert len(fresh) == 8
    assert 0 < len(decoded) <= 14
    # of the block without readable images nobody reads a pixel
    assert len(store.verify().damaged) == (loss == "damaged")


def test_blocks_that_vanish_while_in_use(folder, tmp_store):
    _, (small,) = decode_probe(tmp_store, load_probe(str(folder)), [SMALL])
    tmp_store.prune(max_bytes=0)
    np.testing.assert_array_equal(small.rows(0, 8), _expected(SMALL))


def test_a_store_that_cannot_be_written(folder, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CmonError) as caught:
        decode_probe(Store(tmp_path / "file"), load_probe(str(folder)), [SMALL])
    assert caught.value.exit_code == 1


_DECODE = """
import sys
from concept_monitor_cli.probe import Geometry, decode_probe, load_probe, pixels
from concept_monitor_cli.probe.images import FileImages
from concept_monitor_cli.store import Store
pixels.BLOCK = 4
decode = FileImages.decode
def counting(self, data):
    print("decoded")
    return decode(self, data)
FileImages.decode = counting
probe, (small,) = decode_probe(Store(sys.argv[1]), load_probe(sys.argv[2]), [Geometry(12)], workers=2)
print(len(probe), int(small.rows(0, 8).sum()), small.digest)
"""


def test_processes_at_once_share_the_decoding(folder, tmp_path):
    arguments = [sys.executable, "-c", _DECODE, str(tmp_path / "store"), str(folder)]
    running = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = [process.communicate(timeout=60)[0].split("\n") for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len({output[-2] for output in outputs}) == 1
    assert sum(output.count("decoded") for output in outputs) == 14


def test_workers_make_no_difference(folder, tmp_path):
    digests = set()
    for workers in (0, 1, 5, None):
        store = Store(tmp_path / f"store{workers}")
        _, (small,) = decode_probe(store, load_probe(str(folder)), [SMALL], workers=workers)
        assert np.array_equal(small.rows(0, 8), _expected(SMALL))
        digests.add(tuple(sorted(path.read_bytes() for path in store.root.rglob("*.h5"))))
    assert len(digests) == 1


def test_real_photos_through_the_store(minibroden, tmp_store):
    import concept_monitor_cli._torchvision  # noqa: F401 # isort: skip
    import torchvision.transforms as T

    listed = load_probe(str(minibroden), limit=40, seed=1)
    probe, (crop,) = decode_probe(tmp_store, listed, [Geometry(56, 64)])
    assert probe.skipped == ()
    transform = T.Compose([T.Resize(64), T.CenterCrop(56)])
    expected = np.stack([np.asarray(transform(probe.image(index))) for index in range(40)])
    np.testing.assert_array_equal(crop.rows(0, 40), expected)
