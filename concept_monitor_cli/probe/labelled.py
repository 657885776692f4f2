"""The labels of all images of a probing set, in their order, for whoever counts pixels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import overload

from concept_monitor_cli.probe.annotations import Annotations, ImageLabels

# Labels of a set of up to this many images stay in memory, some 200 KB each; larger sets are read again and
# again, as an image would have left the memory before its turn comes again.
KEPT_LABELS = 1024


class LabelledImages(Sequence[ImageLabels]):
    """The labels of all images in their order, and the categories of labels as numbers.

    Args:
        annotations: of the probing set.

    Attributes:
        names: of the `M` labels.
        categories: of the `M` labels, as words.
        category_numbers: the same, as numbers.
        size: height and width of the label maps.
    """

    def __init__(self, annotations: Annotations) -> None:
        count = len(annotations)
        self._annotations = annotations.keeping(count if count <= KEPT_LABELS else 0)
        kinds = {category: number for number, category in enumerate(annotations.categories)}
        self.names = tuple(label.name for label in annotations.labels)
        self.categories = tuple(label.category for label in annotations.labels)
        self.category_numbers = tuple(kinds[category] for category in self.categories)
        self.size = annotations.mask_size

    def __len__(self) -> int:
        return len(self._annotations)

    @overload
    def __getitem__(self, index: int) -> ImageLabels: ...

    @overload
    def __getitem__(self, index: slice) -> list[ImageLabels]: ...

    def __getitem__(self, index: int | slice) -> ImageLabels | list[ImageLabels]:
        if isinstance(index, slice):
            return [self._annotations.image(row) for row in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._annotations.image(index)

    @cached_property
    def digest(self) -> str:
        """Content of labels and masks."""
        return self._annotations.digest
