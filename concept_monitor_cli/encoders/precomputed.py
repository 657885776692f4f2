"""Embeddings from a file: an encoder of the user's own, run elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import torch

from concept_monitor_cli.concepts.tidy import tidy
from concept_monitor_cli.encoders.base import Encoder, EncoderRequest, refuse_files, register_encoder
from concept_monitor_cli.encoders.digests import file_digest
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.models.geometry import Preprocessing
from concept_monitor_cli.probe.hdf5 import own_dataset

_NAMED = 5


class PrecomputedEncoder:
    """The embeddings of one probe set and one list of words: `images` `N x D`, `texts` `M x D`, `concepts`.

    Rows need not be normalised. Images are told by position: row `i` is image `i` of the probe set, in the
    order of `ProbeSet.ids`. Words are told by name.
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
                concepts = _strings(found["concepts"], where)
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise InputError(
                f"the embeddings cannot be read as HDF5: {error}", where=where, hint=hint
            ) from error
        if self._images.shape[1] != texts.shape[1]:
            raise InputError(
                f"images have {self._images.shape[1]} dimensions and texts {texts.shape[1]}: not one space",
                where=where,
            )
        if len(concepts) != len(texts):
            raise InputError(f"{len(texts)} texts but {len(concepts)} concepts", where=where)
        self._texts = texts
        self._rows: dict[str, int] = {}
        for row, concept in enumerate(concepts):
            if self._rows.setdefault(tidy(concept), row) != row:
                raise InputError(f"the concept {concept!r} stands twice in the embeddings", where=where)
        self.digest = file_digest(path)
        self.dim = int(texts.shape[1])

    def images(self, n_images: int) -> npt.NDArray[np.float32]:
        """All image rows, `(N, D)`, normalised.

        Raises:
            InputError: where the file has another number of rows than the probe set has images.
        """
        if len(self._images) != n_images:
            raise InputError(
                f"the embeddings have {len(self._images)} images, the probe set has {n_images}",
                where=str(self.path),
                hint="embed this probe set in its order, with the same --probe-limit and --seed",
            )
        return self._images

    def image(self, batch: torch.Tensor) -> torch.Tensor:
        """Not possible: there is no network behind a file.

        Raises:
            InputError: always.
        """
        raise InputError("embeddings from a file cannot embed other images", where=str(self.path))

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
            f"`{name}` has {len(bad)} rows that are not finite or zero, the first is row {bad[0]}",
            where=where,
        )
    unit: npt.NDArray[np.float32] = (values / norms).astype(np.float32)
    return unit


def _strings(dataset: Any, where: str) -> list[str]:
    if dataset.ndim != 1 or dataset.dtype.kind not in "OS":
        raise InputError("`concepts` must be a list of strings", where=where)
    try:
        return [v.decode("utf-8") if isinstance(v, bytes) else str(v) for v in dataset[()]]
    except UnicodeDecodeError as error:
        raise InputError("`concepts` is not UTF-8", where=where) from error
