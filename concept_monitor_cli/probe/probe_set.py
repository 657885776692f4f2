"""A probing set: images in an order of their content, and known by it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from PIL import Image

from concept_monitor_cli.concepts import ConceptSet
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.probe.annotations import Annotations
from concept_monitor_cli.probe.decode import UnreadableImageError, quiet_pillow
from concept_monitor_cli.probe.images import ImageSource
from concept_monitor_cli.probe.skipped import Skipped


@dataclass(frozen=True)
class ProbeSet:
    """The `N` images that networks are probed with (`D_probe` in CLIP-Dissect).

    Attributes:
        name: what to call the set in messages and in `run.json`.
        ids: what each image is called, unique.
        digests: hex SHA-256 of each image's content.
        concepts: the set's own labels as concepts; `None` where it has none.
        annotations: where these labels are, in the order of the images; `None` where it has none.
        skipped: what was left out so far, and why.
        source: where the images come from.
        rows: for each image, its number in `source`, which has them in the natural order of the files.
        masks_problem: why the masks that lie there are not used; `None` where they are, or there are none.
    """

    name: str
    ids: tuple[str, ...]
    digests: tuple[str, ...]
    concepts: ConceptSet | None
    annotations: Annotations | None
    skipped: tuple[Skipped, ...]
    source: ImageSource
    rows: tuple[int, ...]
    masks_problem: InputError | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def digest(self) -> str:
        """Hex SHA-256 over the content of all images, in order. Names do not enter."""
        return hashlib.sha256("".join(self.digests).encode("ascii")).hexdigest()

    @property
    def natural_places(self) -> npt.NDArray[np.int64]:
        """`(N,)`: which of these images, from 0, each one is in the natural order of the source's files."""
        return np.argsort(np.argsort(np.array(self.rows, dtype=np.int64))).astype(np.int64)

    @property
    def has_masks(self) -> bool:
        """Whether it is known where in the images its concepts are."""
        return self.annotations is not None

    def image(self, index: int) -> Image.Image:
        """An image's RGB pixels, upright, at full size.

        Raises:
            InputError: it cannot be read (any more).
        """
        try:
            with quiet_pillow():
                return self.source.decode(self.source.read(self.rows[index]))
        except (OSError, UnreadableImageError) as error:
            raise InputError(f"an image cannot be read: {error}", where=self.ids[index]) from error

    def subset(self, indices: Sequence[int], skipped: Sequence[Skipped] = ()) -> ProbeSet:
        """Some of the images, in this order; `skipped` is added to what was left out already."""
        return ProbeSet(
            name=self.name,
            ids=tuple(self.ids[index] for index in indices),
            digests=tuple(self.digests[index] for index in indices),
            concepts=self.concepts,
            annotations=None if self.annotations is None else self.annotations.subset(indices),
            skipped=(*self.skipped, *skipped),
            source=self.source,
            rows=tuple(self.rows[index] for index in indices),
            masks_problem=self.masks_problem,
        )
