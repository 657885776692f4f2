"""Probing sets with masks of one's own: one mask for each image, of any size.

The masks are brought to 112 x 112 (Broden's size for 224-pixel images) by taking the nearest pixel; the
images are shown to networks as whole frames, so that both line up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.probe.annotations import MASK_SIDE, UNLABELLED, ImageLabels, Label, LabelMap
from concept_monitor_cli.probe.classes import ClassList
from concept_monitor_cli.probe.maskfiles import (
    class_numbers,
    nearest_rows,
    open_mask,
    read_mask_file,
    require_same_frame,
    rgb_numbers,
)
from concept_monitor_cli.probe.survey import MaskFacts, Meaning, mask_facts, meaning

_SIZE = (MASK_SIDE, MASK_SIDE)

MASK_ENDINGS = (".png", ".tif", ".tiff", ".bmp", ".gif")
"""Endings of index masks: formats that keep numbers as they are."""

_MASK_FORMATS = ("PNG", "TIFF", "BMP", "GIF", "JPEG")


@dataclass(frozen=True)
class MaskedImage:
    """An image and its mask. `segments`: for COCO, the number in the mask -> the label's index."""

    name: str
    image: Path
    mask: Path
    segments: Mapping[int, int] | None = None


class MaskLabels:
    """Reads one mask per image.

    Args:
        images: the images and their masks.
        labels: the labels.
        indices: for index masks, number -> the label's index or `UNLABELLED`.
        colours: for index masks, the colours of a class list.
    """

    mask_size = _SIZE

    def __init__(
        self,
        images: Sequence[MaskedImage],
        labels: tuple[Label, ...],
        indices: Mapping[int, int] | None = None,
        colours: Mapping[int, int] | None = None,
    ) -> None:
        self.labels = labels
        self._images = tuple(images)
        self._indices = dict(indices or {})
        self._colours = dict(colours or {})

    def read(self, index: int) -> ImageLabels:
        """See `LabelSource`."""
        image = self._images[index]
        if image.segments is not None:
            mask = open_mask(image.mask)
            require_same_frame((mask.height, mask.width), _frame(image.image), image.mask)
            label_map = _relabelled(
                rgb_numbers(mask, image.mask), {0: UNLABELLED, **image.segments}, image.mask, "segment"
            )
        else:
            label_map = _relabelled(
                index_numbers(image, self._colours), self._indices, image.mask, "label number"
            )
        small: LabelMap = np.ascontiguousarray(nearest_rows(label_map, _SIZE))
        present = [self.labels[i].category for i in np.unique(small) if i != UNLABELLED]
        return ImageLabels((small,) if present else (), (), tuple(sorted(set(present))))

    def content(self, index: int) -> bytes:
        """See `LabelSource`."""
        image = self._images[index]
        known = sorted((self._indices if image.segments is None else image.segments).items())
        return repr((known, sorted(self._colours.items()))).encode() + read_mask_file(image.mask)


@dataclass(frozen=True)
class IndexMasks:
    """Index masks, of which it is not known yet what their numbers mean.

    Attributes:
        images: the images and their masks.
        classes: the class list.
        folder: of the masks, for messages.
    """

    images: Sequence[MaskedImage]
    classes: ClassList
    folder: Path

    def facts(self, index: int) -> MaskFacts:
        """What is in an image's mask.

        Raises:
            InputError: it cannot be used.
        """
        return mask_facts(index_numbers(self.images[index], self.classes.colours), self.classes)

    def content(self, index: int) -> bytes:
        """All that `facts` depends on, besides the class list and the image, for a digest."""
        return read_mask_file(self.images[index].mask)

    def settled(self, facts: Sequence[MaskFacts]) -> tuple[MaskLabels, Meaning]:
        """The masks with the meaning that the numbers have in all of them."""
        found = meaning(facts, self.classes, str(self.folder))
        return MaskLabels(self.images, self.classes.labels, found.indices, self.classes.colours), found


def index_numbers(image: MaskedImage, colours: Mapping[int, int]) -> npt.NDArray[np.int64]:
    """The numbers in an image's index mask, `(h, w)`.

    Raises:
        InputError: missing, damaged, of another frame than its image, or no numbers.
    """
    mask = open_mask(image.mask, formats=_MASK_FORMATS)
    numbers = class_numbers(mask, image.mask, colours)
    require_same_frame((mask.height, mask.width), _frame(image.image), image.mask)
    return numbers


def _relabelled(numbers: npt.NDArray[np.int64], known: Mapping[int, int], path: Path, what: str) -> LabelMap:
    values, places = np.unique(numbers, return_inverse=True)
    indices = np.empty(len(values), dtype=np.int32)
    for place, value in enumerate(values.tolist()):
        if value not in known:
            raise InputError(f"a mask holds {what} {value}, which the list of them does not have", where=path)
        indices[place] = known[value]
    return indices[places.reshape(numbers.shape)]


def _frame(path: Path) -> tuple[int, int]:
    """Height and width of an image as it is shown, upright."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    except Exception as error:
        raise InputError(f"an image cannot be read: {error}", where=path) from error
    return (width, height) if turned else (height, width)


def as_plain(images: Sequence[MaskedImage]) -> tuple[list[Path], list[str]]:
    """Paths and names, for `FileImages`."""
    return [image.image for image in images], [image.name for image in images]
