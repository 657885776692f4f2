"""Images and words that are at hand, written into the run: who reads it later must find them there."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.store import atomic_write, write_text_atomic

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    Images = (
        str
        | PathLike[str]
        | NDArray[np.uint8]
        | torch.Tensor
        | Sequence[Image.Image]
        | Sequence[NDArray[np.uint8]]
    )
    Words = str | PathLike[str] | Sequence[str] | Mapping[str, str]

FOLDER = "inputs"
_HINT = "give a folder, uint8 pixels (N, H, W, 3), or a list of PIL images, before any normalisation"


def images_of(images: Images, out: Path) -> str:
    """What `--probe` would be for some images.

    Args:
        images: what may follow `--probe`; or uint8 pixels `(N, H, W, 3)` or `(N, H, W)`; or a list of PIL
            images or of such arrays of one image each.
        out: the run folder, which gets what is not on the disk yet.

    Raises:
        InputError: these are no images, or already normalised.
    """
    if isinstance(images, str | PathLike):
        return str(images)
    if not hasattr(images, "shape") and isinstance(images, Sequence):
        return _list(images, out)
    pixels = np.asarray(images.cpu() if hasattr(images, "cpu") else images)
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or (pixels.ndim == 4 and pixels.shape[3] != 3):
        what = f"{pixels.dtype} of shape {tuple(pixels.shape)}"
        raise InputError(f"{what} are no images", where="images=", hint=_HINT)
    digest = hashlib.sha256(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).data)
    path = out / FOLDER / f"images-{digest.hexdigest()[:12]}.npz"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez(file, images=pixels)
    return str(path)


def _list(images: Sequence[Any], out: Path) -> str:
    """A folder of PNG files, which hold the pixels as they are."""
    pictures = [_picture(image, number) for number, image in enumerate(images)]
    if not pictures:
        raise InputError("there are no images", where="images=", hint=_HINT)
    digest = hashlib.sha256()
    for picture in pictures:
        digest.update(f"{picture.mode} {picture.size}".encode() + picture.tobytes())
    folder = out / FOLDER / f"images-{digest.hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(pictures):
        path = folder / f"{number:06d}.png"
        if not path.is_file():
            with atomic_write(path) as temporary, temporary.open("wb") as file:
                picture.save(file, format="PNG")
    return str(folder)


def _picture(image: Any, number: int) -> Image.Image:
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    fits = isinstance(image, np.ndarray) and image.dtype == np.uint8
    if fits and (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
        return Image.fromarray(image).convert("RGB")
    raise InputError(f"image {number} is a {type(image).__name__}", where="images=", hint=_HINT)


def concepts_of(concepts: Words | None, out: Path) -> str | None:
    """What `--concepts` would be for some words.

    Args:
        concepts: what may follow `--concepts`; or a list of words; or words with their categories,
            `{"dog": "object"}`. `None` for the default that belongs to the images.
        out: the run folder, which gets a list that is not on the disk yet.
    """
    if concepts is None or isinstance(concepts, str | PathLike):
        return None if concepts is None else str(concepts)
    pairs = list(concepts.items()) if isinstance(concepts, Mapping) else [(word, "") for word in concepts]
    for word, category in pairs:
        if not isinstance(word, str) or not isinstance(category, str):
            raise InputError(f"{word!r} is no word", where="concepts=", hint="give a list of words")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([("concept", "category"), *pairs])
    digest = hashlib.sha256(text.getvalue().encode()).hexdigest()
    path = out / FOLDER / f"concepts-{digest[:12]}.csv"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomic(path, text.getvalue())
    return str(path)
