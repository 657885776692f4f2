"""Greys of more than 8 bits: one scale for a whole set, from its own values."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from natural_order import load_probe
from PIL import Image
from probe_help import Told, picture, save

from concept_monitor_cli.probe import Geometry, decode_probe
from concept_monitor_cli.probe.greys import own_scale
from concept_monitor_cli.store import Store


def _set(folder, arrays, ending="png"):
    for number, array in enumerate(arrays):
        save(folder / f"{number}.{ending}", array)
    return folder


def _pixels(folder, **options):
    told = Told()
    probe = load_probe(str(folder), progress=told, **options)
    return np.stack([np.asarray(probe.image(index))[..., 0] for index in range(len(probe))]), told


GREYS = np.stack([picture(32, 32, seed)[..., 0] for seed in range(4)])


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_bits_in_a_file_of_sixteen(tmp_path, bits):
    top = 2**bits - 1
    values = (GREYS / 255 * top).round().astype(np.uint16)
    pixels, told = _pixels(_set(tmp_path, values))
    np.testing.assert_allclose(pixels, GREYS, atol=1)
    assert f"0 is shown black, {top} white" in told.notices[0].replace("e+", "")


def test_one_scale_for_a_dark_and_a_light_image(tmp_path):
    """An image by itself would fill 0..255; the set says that it is dark."""
    dark = (GREYS[:1] * 4095.0 / 255 / 8).astype(np.uint16)
    light = (GREYS[1:] * 4095.0 / 255).astype(np.uint16)
    pixels, _ = _pixels(_set(tmp_path, [*dark, *light]))
    np.testing.assert_allclose(pixels[0], GREYS[0] / 8, atol=1.5)
    np.testing.assert_allclose(pixels[1:], GREYS[1:], atol=1.5)


def test_ct_values_below_zero(tmp_path):
    values = [Image.fromarray(grey.astype(np.int32) * 12 - 1024) for grey in GREYS]
    for number, image in enumerate(values):
        image.save(tmp_path / f"{number}.tif")
    pixels, told = _pixels(tmp_path)
    low, high = np.percentile(GREYS.astype(float) * 12 - 1024, [0.1, 99.9])
    expected = np.clip((GREYS.astype(float) * 12 - 1024 - low) / (high - low), 0, 1) * 255
    np.testing.assert_allclose(pixels, expected, atol=1)
    assert "4 images have greys of more than 8 bits" in told.notices[0]
    pixels, told = _pixels(tmp_path, grey_range=(-1024.0, 2036.0))
    np.testing.assert_allclose(pixels, GREYS, atol=1)
    assert "-1024 is shown black, 2036 white (as --grey-range says)" in told.notices[0]


@pytest.mark.parametrize("top", [1, 255, 3000.5])
def test_floats(tmp_path, top):
    values = (GREYS / 255 * top).astype(np.float32)
    pixels, _ = _pixels(_set(tmp_path, values, "tif"))
    np.testing.assert_allclose(pixels, GREYS, atol=2)


def test_floats_that_are_no_numbers(tmp_path):
    values = GREYS.astype(np.float32)
    values[1, 0, 0] = np.nan
    folder = _set(tmp_path / "set", values, "tif")
    probe = load_probe(str(folder))
    readable, _ = decode_probe(Store(tmp_path / "store"), probe, [Geometry(16)])
    assert [each.id for each in readable.skipped] == ["1.tif"]


def test_a_hot_pixel_does_not_darken_the_rest(tmp_path):
    values = GREYS.astype(np.uint16) * 16
    values[0, 0, 0] = 65535
    pixels, _ = _pixels(_set(tmp_path, values))
    np.testing.assert_allclose(pixels[1:], GREYS[1:], atol=2)


def test_the_scale_does_not_depend_on_names(tmp_path):
    a, b = _set(tmp_path / "a", GREYS * np.uint16(9)), _set(tmp_path / "b", GREYS[::-1] * np.uint16(9))
    assert _pixels(a)[1].notices == _pixels(b)[1].notices


def test_digests_depend_on_the_scale_and_only_where_it_counts(tmp_path):
    plain = _set(tmp_path, GREYS)
    before = load_probe(str(plain)).digests
    assert load_probe(str(plain), grey_range=(0.0, 9.0)).digests == before
    save(tmp_path / "4.png", GREYS[0].astype(np.uint16) * 16)
    scales = [load_probe(str(plain), grey_range=scale).digests for scale in (None, (0.0, 9.0), (0.0, 10.0))]
    assert all(digests[:4] == before for digests in scales)
    assert len({digests[4] for digests in scales}) == 3


def test_a_range_without_deep_greys_is_said(tmp_path):
    _, told = _pixels(_set(tmp_path, GREYS), grey_range=(0.0, 9.0))
    assert "--grey-range changes nothing" in told.notices[0]


def test_decoding_takes_the_scale(tmp_path):
    folder = _set(tmp_path / "set", GREYS.astype(np.uint16) * 16)
    store = Store(tmp_path / "store")
    seen = []
    for scale in (None, (0.0, 65535.0)):
        probe = load_probe(str(folder), grey_range=scale)
        _, (pixels,) = decode_probe(store, probe, [Geometry(32, mode="squash")])
        seen.append(pixels.rows(0, 4)[..., 0].astype(int))
    np.testing.assert_allclose(seen[0], GREYS, atol=1)
    assert seen[1].max() <= 16


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 1.0], (0, 1)),
        ([0.0, 200.0], (0, 255)),
        ([0.0, 4000.0], (0, 4095)),
        ([0.0, 300.0], (0.0, 300.0)),
        ([0.0, 60000.0], (0, 65535)),
        ([30000.0, 34000.0], (30000.0, 34000.0)),
        ([7.0, 7.0], (7.0, 8.0)),
    ],
)
def test_own_scale(values, expected):
    """Half of the values each: percentiles are the two themselves."""
    found, _ = own_scale(np.repeat(values, 1000))
    assert found == expected


def _png_of_16_bits(pixels: np.ndarray) -> bytes:
    """RGB of 16 bits, which Pillow reads and does not write."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    packed = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + packed


@pytest.mark.parametrize(("bits", "said"), [(12, True), (16, False)])
def test_colours_of_twelve_bits_are_dark_and_that_is_said(tmp_path, bits, said):
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 2**bits, (9, 8, 3))
        (tmp_path / f"{number}.png").write_bytes(_png_of_16_bits(pixels))
    told = Told()
    probe = load_probe(str(tmp_path), progress=told)
    assert len(probe) == 3
    assert [warning for warning in told.warnings if "3 images have colours of 16 bits" in warning] == (
        told.warnings if said else []
    )
    assert bool(told.warnings) == said
