"""A data set's labels in plain words: `lfleg` is the left front leg, `wheel_1` and `wheel_2` are wheels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from concept_monitor_cli.concepts.plain import plain_names, spelling
from concept_monitor_cli.probe.annotations import UNLABELLED, ImageLabels, Label, LabelMap, LabelSource


@dataclass(frozen=True)
class PlainLabels:
    """Reads another source's labels under plain names; labels that get the same name become one.

    Attributes:
        source: the data set's own reader.
        labels: those under plain names; of several that became one, the first one's number.
        codes: (name, category) -> the name in the data set, where that is another one.
        table: the source's label index -> the index here.
    """

    source: LabelSource
    labels: tuple[Label, ...]
    codes: dict[tuple[str, str], str]
    table: npt.NDArray[np.int32]

    @property
    def mask_size(self) -> tuple[int, int]:
        """Height and width of every label map."""
        return self.source.mask_size

    def read(self, index: int) -> ImageLabels:
        """See `LabelSource`."""
        image = self.source.read(index)
        maps = tuple(self._renumbered(label_map) for label_map in image.maps)
        scalars = sorted({int(self.table[label]) for label in image.scalars})
        return ImageLabels(maps, tuple(scalars), image.categories)

    def content(self, index: int) -> bytes:
        """See `LabelSource`."""
        return self.table.tobytes() + self.source.content(index)

    def _renumbered(self, label_map: LabelMap) -> LabelMap:
        # The last row of the table is that of -1, unlabelled.
        renumbered: LabelMap = np.append(self.table, np.int32(UNLABELLED))[label_map]
        return renumbered


def in_plain_words(source: LabelSource) -> tuple[LabelSource, dict[tuple[str, str], str]]:
    """The source under plain names, and (name, category) -> the name in the data set where that differs.

    A source whose names are plain already comes back as it is.
    """
    old = source.labels
    names = plain_names([label.name for label in old], [label.category for label in old])
    first: dict[tuple[str, str], int] = {}
    labels: list[Label] = []
    codes: dict[tuple[str, str], str] = {}
    table = np.empty(len(old), dtype=np.int32)
    for label, name in zip(old, names, strict=True):
        pair = (spelling(name), label.category)
        if pair not in first:
            first[pair] = len(labels)
            labels.append(Label(len(labels), label.number, name, label.category, label.categories))
            if name != label.name:
                codes[name, label.category] = label.name
        table[label.index] = first[pair]
    if len(labels) == len(old) and not codes:
        return source, {}
    return PlainLabels(source, tuple(labels), codes, table), codes
