"""What detectors may look at besides a recording: the same for every checkpoint of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import overload

import torch
from torch import Tensor

from concept_monitor_cli.concepts import ConceptSet
from concept_monitor_cli.encoders import Encoder, PrecomputedEncoder, embed_images, embed_texts
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.similarity.activations import ConceptActivations
from concept_monitor_cli.probe import Annotations, ImageLabels, Pixels, ProbeSet
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.store import Store

# Labels of a set of up to so many images stay in memory, some 200 KB each; larger sets are read again and
# again, as an image would have left the memory before its turn comes again.
KEPT_LABELS = 1024

NO_ENCODER = "there is no encoder: none of the run's detectors needs one, and none was named"


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


@dataclass
class Context:
    """Probing set, concept set and encoder of a run. Embeddings are made when first asked for.

    Attributes:
        store: where embeddings and null distributions are kept.
        probe: the `N` readable probing images.
        pixels: the same images as the encoder sees them; `None` for an encoder of precomputed embeddings.
        concepts: the `M` concepts.
        encoder: the image-text encoder; `None` where no detector needs one and none was asked for.
        templates: prompts around each concept.
        device: where scores are computed.
        batch_size: images per forward pass of the encoder.
        seed: of the null distributions.
        null: `shuffled` or `untrained`.
        fdr: share of false discoveries allowed.
        progress: told about long work.
    """

    store: Store
    probe: ProbeSet
    pixels: Pixels | None
    concepts: ConceptSet
    encoder: Encoder | None
    templates: Sequence[str] = ()
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    batch_size: int = 64
    seed: int = 0
    null: str = "shuffled"
    fdr: float = 0.05
    progress: Progress = SILENT

    @cached_property
    def labels(self) -> LabelledImages:
        """The labels of every probing image, for detectors that count pixels.

        Raises:
            ValueError: the probing set has no masks; detectors that need them refuse it before.
        """
        if self.probe.annotations is None:
            raise ValueError(f"{self.probe.name} has no masks")
        return LabelledImages(self.probe.annotations)

    @cached_property
    def image_embeddings(self) -> Tensor:
        """`I`: `N x D`, float32, rows of unit length."""
        images = embed_images(
            self.store,
            self.required_encoder,
            self.probe if self.pixels is None else self.pixels,
            batch_size=self.batch_size,
            progress=self.progress,
        )
        return torch.from_numpy(images).to(self.device)

    @cached_property
    def text_embeddings(self) -> Tensor:
        """`T`: `M x D`, float32, rows of unit length."""
        return self.embed_words(self.concepts.concepts)

    def embed_words(self, words: Sequence[str], progress: Progress | None = None) -> Tensor:
        """Text embeddings of any words, `len(words) x D`, float32, rows of unit length.

        Args:
            words: which.
            progress: in place of the context's own.

        Raises:
            InputError: there is no encoder.
        """
        vectors = embed_texts(
            self.store,
            self.required_encoder,
            list(words),
            template=self.templates or None,
            progress=progress or self.progress,
        )
        return torch.from_numpy(vectors).to(self.device)

    @cached_property
    def activations(self) -> ConceptActivations:
        """`P`, in blocks, with the normaliser of its softmax computed once for all layers and epochs."""
        return ConceptActivations.from_embeddings(self.image_embeddings, self.text_embeddings)

    @property
    def required_encoder(self) -> Encoder:
        """The encoder.

        Raises:
            InputError: there is none.
        """
        if self.encoder is None:
            raise InputError(NO_ENCODER, hint="name one with --encoder")
        return self.encoder

    @property
    def digests(self) -> dict[str, str]:
        """Content of everything that scores against words depend on, for keys."""
        images = self.pixels.digest if self.pixels is not None else self.probe.digest
        if isinstance(self.encoder, PrecomputedEncoder):
            # Which row belongs to which image is a matter of the images' names.
            images += self.encoder.order(self.probe.ids)[1]
        return {
            "images": images,
            "concepts": self.concepts.digest,
            "encoder": self.required_encoder.digest,
            "templates": "\n".join(self.templates),
        }
