"""Small pictures, many to a sheet."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from PIL import Image, ImageOps, features

from concept_monitor_cli.errors import CmonError
from concept_monitor_cli.progress import SILENT, Progress

# Pixels a side: sharp at 40 CSS pixels on a phone's screen, and about 2 kB each.
THUMBNAIL = 80
# Images a sheet; 20 x 20 thumbnails are a picture of 1,600 pixels, which every phone can hold.
SHEET_COLUMNS = 20
PER_SHEET = SHEET_COLUMNS * SHEET_COLUMNS
_QUALITY = 70


def thumbnail(image: Image.Image, size: int = THUMBNAIL) -> Image.Image:
    """The middle square of an image, `size` pixels a side."""
    return ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.LANCZOS)


def sheet(images: Sequence[Image.Image], columns: int = SHEET_COLUMNS, size: int = THUMBNAIL) -> Image.Image:
    """Thumbnails side by side, row by row; the rest of the last row is grey."""
    rows = -(-len(images) // columns)
    picture = Image.new("RGB", (columns * size, rows * size), (128, 128, 128))
    for place, image in enumerate(images):
        picture.paste(image, (place % columns * size, place // columns * size))
    return picture


def data_uri(picture: Image.Image) -> str:
    """A picture as a `data:` address: WebP where this Pillow can write it, else JPEG."""
    kind = "webp" if features.check("webp") else "jpeg"
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, quality=_QUALITY)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


@dataclass
class Sheets:
    """Small pictures for a page.

    Attributes:
        numbers: the images' numbers in the order of their places.
        uris: `data:` addresses of sheets of `PER_SHEET` images each.
        unreadable: how many images could not be read any more; their places are grey.
        left_out: how many images were asked for and did not fit.
    """

    numbers: list[int] = field(default_factory=list)
    uris: list[str] = field(default_factory=list)
    unreadable: int = 0
    left_out: int = 0

    @property
    def places(self) -> dict[int, int]:
        """Number of an image -> place."""
        return {number: place for place, number in enumerate(self.numbers)}


def make_sheets(
    image_of: Callable[[int], Image.Image],
    wanted: Iterable[int],
    *,
    max_bytes: int,
    progress: Progress = SILENT,
) -> Sheets:
    """Draw thumbnails until they fill `max_bytes` of page.

    Args:
        image_of: an image by its number; raises `CmonError` where it cannot be read.
        wanted: numbers of images, the most important first; repetitions are drawn once.
        max_bytes: most bytes of all addresses together. A sheet that would go beyond is left out.
        progress: told of the drawing.
    """
    order = list(dict.fromkeys(int(number) for number in wanted if number >= 0))
    result, used = Sheets(), 0
    with progress.task("drawing thumbnails", len(order)) as advance:
        for numbers in _pieces(order, PER_SHEET):
            pictures, unreadable = [], 0
            for number in numbers:
                try:
                    pictures.append(thumbnail(image_of(number)))
                except CmonError:
                    unreadable += 1
                    pictures.append(Image.new("RGB", (THUMBNAIL, THUMBNAIL), (128, 128, 128)))
            uri = data_uri(sheet(pictures))
            # A half-filled budget takes half a sheet: cut it once to what should fit.
            if used + len(uri) > max_bytes:
                fitting = int(len(pictures) * (max_bytes - used) / len(uri))
                fitting -= fitting % SHEET_COLUMNS
                uri = data_uri(sheet(pictures[:fitting])) if fitting else ""
                if not uri or used + len(uri) > max_bytes:
                    break
                numbers = numbers[:fitting]
            used += len(uri)
            result.uris.append(uri)
            result.numbers.extend(numbers)
            result.unreadable += unreadable
            advance(len(numbers))
            if len(numbers) < len(pictures):
                break
    result.left_out = len(order) - len(result.numbers)
    return result


def _pieces(numbers: list[int], size: int) -> Iterator[list[int]]:
    for first in range(0, len(numbers), size):
        yield numbers[first : first + size]
