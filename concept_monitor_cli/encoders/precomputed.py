"""Embeddings from a file: an encoder of the user's own, run elsewhere."""

from __future__ import annotations

import os
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import torch

from concept_monitor_cli.concepts import plain_names
from concept_monitor_cli.concepts.tidy import tidy
from concept_monitor_cli.encoders.base import Encoder, EncoderRequest, refuse_files, register_encoder
from concept_monitor_cli.encoders.digests import file_digest
from concept_monitor_cli.encoders.image_names import ImageNames
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.models.geometry import Preprocessing
from concept_monitor_cli.probe.hdf5 import own_dataset
from concept_monitor_cli.wording import counted

_NAMED = 5
# Datasets that name the images; the first that is there counts.
_NAMES = (
    *("ids", "paths", "filenames", "files", "image_ids", "image_paths", "image_names"),
    *("file_names", "filename", "file_name", "image_id", "image_path"),
)


class PrecomputedEncoder:
    """The embeddings of one probe set and one list of words: `images` `N x D`, `texts` `M x D`, `concepts`.

    Rows need not be normalised. Where the file has a dataset of image names (`ids`, `paths`, `filenames`,
    `files`, `image_ids` or `image_paths`), rows belong to images by name; else row `i` is image `i` of the
    probe set, in the order of `ProbeSet.ids`. Words are told by name.
    """

    preprocessing: Preprocessing | None = None
    device = torch.device("cpu")

    def __init__(self, path: Path):
        self.path = path
        self.name = f"embeddings:{path}"
        where = str(path)
        hint = "datasets: images (N x D), texts (M x D), concepts (M strings)"
        try:
            with h5py.File(path, "r", locking=False) as file:
                found = {name: own_dataset(file, name, path) for name in ("images", "texts", "concepts")}
                missing = [name for name, dataset in found.items() if dataset is None]
                if missing:
                    raise InputError(
                        f"the embeddings have no dataset {', '.join(missing)}", where=where, hint=hint
                    )
                self._images = _unit_rows(found["images"], "images", where)
                texts = _unit_rows(found["texts"], "texts", where)
                concepts = _strings(found["concepts"], "concepts", where)
                named_by = next((name for name in _NAMES if own_dataset(file, name, path) is not None), None)
                names = (
                    None if named_by is None else _names(own_dataset(file, named_by, path), named_by, where)
                )
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise InputError(
                f"the embeddings cannot be read as HDF5: {error}",
                where=where,
                hint=f"write them with h5py; {hint}",
            ) from error
        if self._images.shape[1] != texts.shape[1]:
            raise InputError(
                f"images have {self._images.shape[1]} dimensions and texts {texts.shape[1]}: not one space",
                where=where,
            )
        if len(concepts) != len(texts):
            raise InputError(
                f"{counted(len(texts), 'texts')} but {counted(len(concepts), 'concepts')}", where=where
            )
        self._names = None if names is None else ImageNames(names, str(named_by), where, len(self._images))
        self._texts = texts
        self._rows: dict[str, int] = {}
        for row, concept in enumerate(concepts):
            if self._rows.setdefault(tidy(concept), row) != row:
                raise InputError(f"the concept {concept!r} stands twice in the embeddings", where=where)
        # As the words of a concept set are read: `great_white_shark` is the great white shark.
        for row, plain in enumerate(plain_names(concepts)):
            self._rows.setdefault(plain, row)
        self.digest = file_digest(path)
        self.dim = int(texts.shape[1])

    def order(self, ids: Sequence[str]) -> tuple[str, str]:
        """How rows belong to the images of a probe set: a sentence for the user, and a digest of it for keys.

        Args:
            ids: of the probe set's images, in its order.

        Raises:
            InputError: the file's names contradict the images, or the numbers of rows and images differ.
        """
        self.images(len(ids), ids)
        if self._names is None:
            return (
                f"{self.path.name} has no dataset of image names (`ids` or `paths`): row i is taken for the "
                f"i-th probing image in natural order, {', '.join(ids[:3])} ...",
                "",
            )
        rows = self._names.rows(ids)
        return (
            f"the embeddings are matched to the images by their `{self._names.dataset}`",
            sha256(repr(rows).encode()).hexdigest(),
        )

    @property
    def by_name(self) -> bool:
        """Whether the file says which row is which image."""
        return self._names is not None

    def images(self, n_images: int, ids: Sequence[str] | None = None) -> npt.NDArray[np.float32]:
        """All image rows, `(N, D)`, normalised, in the probe set's order.

        Args:
            n_images: of the probe set.
            ids: their names; where they and those of the file are known, rows are matched by name.

        Raises:
            InputError: where the file has another number of rows than the probe set has images, or lacks one.
        """
        if self._names is not None and ids is not None:
            return self._images[self._names.rows(ids)]
        if len(self._images) != n_images:
            raise InputError(
                f"the embeddings have {counted(len(self._images), 'images')}, the probe set has {n_images}",
                where=str(self.path),
                hint="embed this probe set in its order, or write the images' names beside them as `ids`",
            )
        return self._images

    def image(self, batch: torch.Tensor) -> torch.Tensor:
        """Not possible: there is no network behind a file.

        Raises:
            InputError: always.
        """
        raise InputError("embeddings from a file cannot embed other images", where=str(self.path))

    def knows(self, texts: Sequence[str]) -> list[bool]:
        """Whether it has the embedding of each of these texts."""
        return [tidy(text) in self._rows for text in texts]

    def text(self, texts: Sequence[str]) -> torch.Tensor:
        """The rows of these words, `(M, D)`.

        Raises:
            InputError: names the words that the file does not have.
        """
        rows = [self._rows.get(tidy(text), -1) for text in texts]
        missing = list(dict.fromkeys(text for text, row in zip(texts, rows, strict=True) if row < 0))
        if missing:
            names = ", ".join(missing[:_NAMED])
            more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
            raise InputError(
                f"the embeddings lack {len(missing)} of the words asked for: {names}{more}",
                where=str(self.path),
                hint="add them to `texts` and `concepts`, or give --concepts a file without them",
            )
        return torch.from_numpy(self._texts[rows])


@register_encoder("embeddings")
def open_precomputed(request: EncoderRequest) -> Encoder:
    """`embeddings:FILE.h5`."""
    refuse_files(request, "embeddings from a file need no network")
    path = Path(request.spec.partition(":")[2]).expanduser()
    if not path.is_file():
        raise InputError("there is no such file of embeddings", where=f"--encoder {request.spec}")
    return PrecomputedEncoder(path)


def _unit_rows(dataset: Any, name: str, where: str) -> npt.NDArray[np.float32]:
    if dataset.ndim != 2 or dataset.dtype.kind not in "fiu" or 0 in dataset.shape:
        raise InputError(
            f"`{name}` must be a matrix of numbers with a row each, not {dataset.dtype} {dataset.shape}",
            where=where,
        )
    values = np.asarray(dataset[()], dtype=np.float64)
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    bad = np.flatnonzero(~np.isfinite(norms[:, 0]) | (norms[:, 0] == 0))
    if len(bad):
        raise InputError(
            f"`{name}` has {counted(len(bad), 'rows that are')} not finite or zero, the first is row "
            f"{bad[0]}",
            where=where,
        )
    unit: npt.NDArray[np.float32] = (values / norms).astype(np.float32)
    return unit


def _strings(dataset: Any, name: str, where: str) -> list[str]:
    if dataset.ndim != 1 or dataset.dtype.kind not in "OS":
        raise InputError(f"`{name}` must be a list of strings", where=where)
    try:
        return [v.decode("utf-8") if isinstance(v, bytes) else str(v) for v in dataset[()]]
    except UnicodeDecodeError as error:
        raise InputError(f"`{name}` is not UTF-8", where=where) from error


def _names(dataset: Any, name: str, where: str) -> list[str]:
    if dataset.ndim == 1 and dataset.dtype.kind in "iu":
        return [str(int(number)) for number in dataset[()]]
    if dataset.ndim == 1 and dataset.dtype.kind in "OS":
        # File names may be no UTF-8; they then keep their bytes, as Python's paths do.
        return [os.fsdecode(v) if isinstance(v, bytes) else str(v) for v in dataset[()]]
    raise InputError(f"`{name}` must be a list of the images' names", where=where)
