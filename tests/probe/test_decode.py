"""Image files of all kinds: read right, or named with a reason."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from probe_help import picture, png

from concept_monitor_cli.probe.decode import UnreadableImageError, decode_image

RED, GREEN = (200, 10, 20), (10, 200, 30)


def _bytes(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _decoded(data: bytes) -> np.ndarray:
    image = decode_image(data)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP", "GIF"])
def test_lossless_files_keep_their_pixels(kind):
    array = picture()
    if kind == "GIF":
        array[:] = RED
    data = _bytes(Image.fromarray(array), kind, **({"lossless": True} if kind == "WEBP" else {}))
    np.testing.assert_array_equal(_decoded(data), array)


def test_what_convert_gives_for_plain_files(imagenet_samples):
    for path in sorted(imagenet_samples.glob("*.jpg"))[:40]:
        with Image.open(path) as image:
            expected = np.asarray(image.convert("RGB"))
        np.testing.assert_array_equal(_decoded(path.read_bytes()), expected)


def test_grey():
    grey = picture()[..., 0]
    np.testing.assert_array_equal(_decoded(png(grey)), np.repeat(grey[..., None], 3, axis=2))


def test_black_and_white():
    bits = picture()[..., 0] > 127
    data = _bytes(Image.fromarray(bits))
    np.testing.assert_array_equal(_decoded(data)[..., 1], bits * 255)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_greys_are_scaled_not_cut_off(kind):
    values = np.array([[0, 128, 257, 32768, 65535]], dtype=np.uint16)
    data = _bytes(Image.fromarray(values), kind)
    assert _decoded(data)[0, :, 0].tolist() == [0, 0, 1, 128, 255]


def test_sixteen_bit_pgm():
    data = b"P5 3 1 65535\n" + np.array([0, 32768, 65535], dtype=">u2").tobytes()
    assert _decoded(data)[0, :, 0].tolist() == [0, 128, 255]


def test_float_greys():
    fine = np.array([[0.0, 0.5, 1.0]], dtype=np.float32)
    assert _decoded(_bytes(Image.fromarray(fine), "TIFF"))[0, :, 0].tolist() == [0, 128, 255]
    for bad in (fine * 300, fine - 1, fine * np.nan):
        with pytest.raises(UnreadableImageError, match=r"outside 0\.\.1"):
            decode_image(_bytes(Image.fromarray(bad), "TIFF"))


def test_transparent_pixels_show_white():
    array = np.zeros((1, 3, 4), dtype=np.uint8)
    array[0, :, :3] = RED  # also where nothing of it can be seen
    array[0, :, 3] = 255, 0, 51
    pixels = _decoded(png(array))[0]
    assert pixels[0].tolist() == list(RED)
    assert pixels[1].tolist() == [255, 255, 255]
    np.testing.assert_allclose(pixels[2], 0.2 * np.array(RED) + 0.8 * 255, atol=1)


def test_opaque_rgba_is_what_convert_gives():
    array = np.dstack([picture(), np.full((16, 20), 255, np.uint8)])
    np.testing.assert_array_equal(_decoded(png(array)), array[..., :3])


def test_grey_with_transparency():
    array = np.array([[[100, 255], [100, 0]]], dtype=np.uint8)
    data = _bytes(Image.fromarray(array))
    assert _decoded(data)[0, :, 0].tolist() == [100, 255]


@pytest.mark.parametrize("transparent", [None, 1])
def test_palette(transparent):
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8))
    image.putpalette([*RED, *GREEN])
    data = _bytes(image, **({} if transparent is None else {"transparency": transparent}))
    expected = [list(RED), list(GREEN) if transparent is None else [255, 255, 255]]
    assert _decoded(data)[0].tolist() == expected


def test_a_colour_declared_transparent():
    array = np.array([[RED, GREEN]], dtype=np.uint8)
    assert _decoded(png(array, transparency=GREEN))[0].tolist() == [list(RED), [255, 255, 255]]


def test_cmyk():
    image = Image.new("CMYK", (8, 8), (255, 0, 0, 0))  # all cyan
    np.testing.assert_allclose(_decoded(_bytes(image, "JPEG", quality=100))[4, 4], [0, 255, 255], atol=3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_upright(orientation, kind):
    # A large black corner, then what cameras do to it.
    upright = np.full((16, 32, 3), 255, dtype=np.uint8)
    upright[:8, :8] = 0
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    stored = Image.fromarray(np.ascontiguousarray(undo[orientation](upright)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = _decoded(_bytes(stored, kind, exif=exif))
    assert pixels.shape == upright.shape
    assert np.abs(pixels.astype(int) - upright).mean() < 4


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_camera_notes_do_not_cost_the_picture():
    array = picture()
    good = _bytes(Image.fromarray(array), "JPEG", quality=95)
    notes = b"Exif\0\0II*\0\xff\xff\xff\xff" + bytes(range(200))
    broken = good[:2] + b"\xff\xe1" + (len(notes) + 2).to_bytes(2, "big") + notes + good[2:]
    np.testing.assert_array_equal(_decoded(broken), _decoded(good))


def test_the_first_frame_of_moving_pictures():
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, GREEN)]
    data = _bytes(frames[0], "TIFF", save_all=True, append_images=frames[1:])
    assert _decoded(data)[0, 0].tolist() == list(RED)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_cut_off_files_are_refused(kind, share):
    data = _bytes(Image.fromarray(picture(200, 200)), kind)
    with pytest.raises(UnreadableImageError):
        decode_image(data[: int(share * len(data))])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"hello", "not an image"),
        (bytes(5000), "not an image"),
        (b"\xff\xd8\xff", "not an image|damaged"),
    ],
)
def test_what_is_no_image_is_refused(data, reason):
    with pytest.raises(UnreadableImageError, match=reason):
        decode_image(data)


def test_postscript_is_refused():
    """Pillow would start another program on it."""
    data = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n"
    with pytest.raises(UnreadableImageError, match="not an image"):
        decode_image(data)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [9_500, 14_000, 60_000])
def test_a_small_file_that_unpacks_into_gigabytes_is_refused(side):
    stream = io.BytesIO()
    Image.new("1", (64, 64)).save(stream, "PNG")
    data = bytearray(stream.getvalue())
    data[16:24] = side.to_bytes(4, "big") * 2  # the size in PNG's header ...
    import zlib

    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")  # ... and its checksum
    with pytest.raises(UnreadableImageError, match="safety limit"):
        decode_image(bytes(data))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_random_damage_is_an_answer_not_a_crash():
    chance = np.random.default_rng(0)
    originals = [
        _bytes(Image.fromarray(picture(40, 30)), kind)
        for kind in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP")
    ]
    reasons = []
    for number in range(600):
        data = bytearray(originals[number % len(originals)])
        for offset in chance.integers(0, len(data), 1 + number % 8):
            data[offset] = chance.integers(0, 256)
        try:
            image = decode_image(bytes(data))
        except UnreadableImageError as error:
            reasons.append(str(error))
        else:
            assert image.mode == "RGB"
    assert all(reason and "\n" not in reason for reason in reasons)
    assert 100 < len(reasons) < 600
