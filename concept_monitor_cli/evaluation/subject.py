"""What a measure looks at: the labels of one layer at one epoch, and what they were made from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.evaluation.scoring import Scored, nameable, similarity_scores
from concept_monitor_cli.functional.groups import halves
from concept_monitor_cli.functional.similarity import ConceptActivations
from concept_monitor_cli.functional.topk import top_rows
from concept_monitor_cli.probe import LabelledImages
from concept_monitor_cli.run.traits import LabelKind
from concept_monitor_cli.study.context import Context

if TYPE_CHECKING:
    from concept_monitor_cli.concepts import ConceptSet
    from concept_monitor_cli.concepts.class_names import ClassNames
    from concept_monitor_cli.evaluation.classifier import Classifier
    from concept_monitor_cli.lenses.halves import Halves
    from concept_monitor_cli.progress import Progress
    from concept_monitor_cli.store import Store

# Fewer held-out images say nothing: a correlation over 20 has a standard error of 0.23.
LEAST_HELD_OUT = 20

Embed = Callable[[Sequence[str]], Tensor]


class TextSpace:
    """A space of texts; each word is embedded once.

    Args:
        embed: words to vectors, `(n, D)`, rows of unit length.
    """

    def __init__(self, embed: Embed) -> None:
        self._embed = embed
        self._known: dict[str, Tensor] = {}

    def learn(self, words: Sequence[str]) -> None:
        """Embed a whole list in one piece, as the store keeps it."""
        self._known.update(zip(words, self._embed(words).cpu(), strict=True))

    def __call__(self, words: Sequence[str]) -> Tensor:
        """`(n, D)` float32 on the CPU, rows of unit length."""
        missing = [word for word in dict.fromkeys(words) if word not in self._known]
        if missing:
            self._known.update(zip(missing, self._embed(missing).cpu(), strict=True))
        return torch.stack([self._known[word] for word in words])


@dataclass(frozen=True)
class Labels:
    """What the `C` units of a layer are called.

    Attributes:
        concepts: `(C,)`, the best concept of each; `""` where it has none.
        scores: `(C,)` float64, of that concept; NaN where there is none.
        p_values: `(C,)` float64; NaN where not known.
        interpretable: `(C,)`; False where not known.
        live: `(C,)`; a dead unit has no concept.
    """

    concepts: NDArray[np.object_]
    scores: NDArray[np.float64]
    p_values: NDArray[np.float64]
    interpretable: NDArray[np.bool_]
    live: NDArray[np.bool_]

    @property
    def named(self) -> NDArray[np.bool_]:
        """`(C,)`: whether a unit has a concept."""
        named: NDArray[np.bool_] = self.live & (self.concepts != "")
        return named

    @classmethod
    def best_of(cls, scored: Scored, concepts: Sequence[str], live: Tensor) -> Labels:
        """Each unit's best concept; nothing is known of chance."""
        index, _ = top_rows(scored.order.float(), 1)
        best = scored.scores.gather(1, index)
        alive = live.cpu().numpy().astype(bool)
        names = np.asarray(concepts, dtype=object)[index[:, 0].cpu().numpy()]
        return cls(
            concepts=np.where(alive, names, ""),
            scores=np.where(alive, best[:, 0].cpu().double().numpy(), np.nan),
            p_values=np.full(len(alive), np.nan),
            interpretable=np.zeros(len(alive), dtype=bool),
            live=alive,
        )


@dataclass(frozen=True)
class Images:
    """Some images as the network, the encoder and the annotators see them.

    Attributes:
        pooled: `Q`, `(n, C)` float32.
        embeddings: `I`, `(n, D)` float32, rows of unit length; `None` without an encoder.
        ids: what each is called.
        labels: where their concepts are; `None` where that is not known.
    """

    pooled: Tensor
    embeddings: Tensor | None
    ids: tuple[str, ...]
    labels: LabelledImages | None = None

    def __len__(self) -> int:
        return len(self.pooled)


@dataclass(frozen=True)
class Generated:
    """Images that a generator made of concepts, as the network sees them.

    Attributes:
        pooled: `(n, C)` float32.
        folders: in which folder each is: what it shows; `""` for none.
    """

    pooled: Tensor
    folders: tuple[str, ...]


@dataclass(frozen=True)
class Trial:
    """Labels, and images that had no part in making them.

    Attributes:
        labels: of every unit.
        scored: every concept, `(C, M)`; `None` where the detector has no scores.
        unseen: the images to judge by.
    """

    labels: Labels
    scored: Scored | None
    unseen: Images


@dataclass
class Common:
    """What is the same for all labels that are judged together.

    Attributes:
        context: probing set, concepts and encoder that the labels were made with.
        text: words to the space of texts in which labels are compared, rows of unit length on the CPU;
            `None` without an encoder.
        sentence: the same in a space of sentences; `None` where there is no sentence model.
        classes: the names of the network's classes, or why they are not known.
        seed: of every random choice.
        top_k: `--top-k` of the run; `None` for what suits the number of images.
    """

    context: Context
    text: Embed | None
    sentence: Embed | None = None
    classes: ClassNames | InputError = field(default_factory=lambda: InputError("no class names"))
    seed: int = 0
    top_k: int | None = None
    # What a set of labels depends on is hashed once.
    _labelled: dict[tuple[int, ...], LabelledImages] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def concepts(self) -> ConceptSet:
        """The concept set that the labels were chosen from, `M` concepts."""
        return self.context.concepts

    @property
    def activations(self) -> ConceptActivations:
        """`P` of all images."""
        return self.context.activations

    @property
    def store(self) -> Store:
        """The cache."""
        return self.context.store

    @property
    def progress(self) -> Progress:
        """Told about long work."""
        return self.context.progress

    @property
    def device(self) -> torch.device:
        """Where scores are computed."""
        return self.context.device

    def spaces(self) -> dict[str, Embed]:
        """The spaces in which texts can be compared, by what their cosine is called."""
        spaces = {"CLIP": self.text, "mpnet": self.sentence}
        return {name: embed for name, embed in spaces.items() if embed is not None}

    def labelled(self, rows: Sequence[int]) -> LabelledImages | None:
        """Where the concepts of some images are, read once; `None` where that is not known."""
        annotations = self.context.probe.annotations
        if annotations is None:
            return None
        key = tuple(rows)
        if key not in self._labelled:
            self._labelled[key] = LabelledImages(annotations.subset(rows))
        return self._labelled[key]


@dataclass
class Subject:
    """The labels of one layer at one epoch.

    Attributes:
        epoch: of the checkpoint.
        checkpoint: its name.
        layer: the layer.
        detector: who made the labels.
        labels_are: what its labels are, concepts, formulas or sums; see `Traits`.
        similarity: by which of its similarities; `""` for a detector without.
        common: what all subjects share.
        given: the labels in the run's tables; `None` where this similarity is not the run's.
        candidates: the concepts that a label could have been.
        read_pooled: gives `Q`, `(N, C)`, of all images of the run.
        read_unseen: gives the held-out images where they are a set of their own; `None` where they are a half
            of the run's.
        read_classifier: gives the classifier of the checkpoint.
        read_logits: gives what the classifier put out, `(N, K)`; `None` where the run did not record it.
        by_pixels: whether the labels were found by pixels of masks.
        read_halves: gives the labels that the detector finds on one half of the images, for a detector
            without a similarity; `None` where it cannot be asked.
        read_generated: gives generated images of concepts; `None` where there are none.
    """

    epoch: int
    checkpoint: str
    layer: str
    detector: str
    labels_are: LabelKind
    similarity: str
    common: Common
    given: Labels | None
    candidates: tuple[str, ...]
    read_pooled: Callable[[], Tensor]
    read_unseen: Callable[[], Images] | None = None
    read_classifier: Callable[[], Classifier | InputError] = lambda: InputError("no classifier")
    read_logits: Callable[[], Tensor | None] = lambda: None
    by_pixels: bool = False
    read_halves: Callable[[], Halves | None] = lambda: None
    read_generated: Callable[[], Generated] | None = None

    @cached_property
    def pooled(self) -> Tensor:
        """`Q`, `(N, C)`, of all images of the run."""
        return self.read_pooled().to(self.common.device)

    @cached_property
    def live(self) -> Tensor:
        """`(C,)` bool."""
        if self.given is not None:
            return torch.from_numpy(self.given.live)
        return nameable(self.pooled, self.common.context)

    @cached_property
    def scored(self) -> Scored:
        """Of every concept on all images, `(C, M)`.

        Raises:
            InputError: the detector has no similarity.
        """
        if not self.similarity:
            raise InputError(f"{self.detector} scores no concept by its similarity", where=self.layer)
        return similarity_scores(
            self.similarity, self.common.context, self.pooled, self.live, self.common.top_k
        )

    @cached_property
    def labels(self) -> Labels:
        """The labels, made from all images of the run."""
        if self.given is not None:
            return self.given
        return Labels.best_of(self.scored, self.common.concepts.concepts, self.live)

    @cached_property
    def images(self) -> Images:
        """All images of the run."""
        context = self.common.context
        rows = range(len(context.probe))
        embeddings = None if context.encoder is None else context.image_embeddings
        return Images(self.pooled, embeddings, context.probe.ids, self.common.labelled(rows))

    @cached_property
    def classifier(self) -> Classifier | InputError:
        """The classifier of the checkpoint, or why it is not known."""
        return self.read_classifier()

    @cached_property
    def logits(self) -> Tensor | None:
        """What the classifier put out for all images, `(N, K)`; `None` where the run did not record it."""
        logits = self.read_logits()
        return None if logits is None else logits.to(self.common.device)

    @cached_property
    def trial(self) -> Trial:
        """Labels, and images that had no part in making them.

        The held-out images are another set, or a random half of the run's own, cut by groups of images; then
        the labels are made again from the other half.

        Raises:
            InputError: too few images; or the labels cannot be made again from half of them.
        """
        if self.read_unseen is not None:
            unseen = self.read_unseen()
            _check_enough(len(unseen), "held-out images", "--held-out", "give more images")
            return Trial(self.labels, self.scored if self.similarity else None, unseen)
        context = self.common.context
        # A detector that is asked once more divides the images by the seed of the run.
        seed = self.common.seed if self.similarity else context.seed
        first = torch.from_numpy(halves(context.groups, seed=seed))
        seen, held = first.nonzero()[:, 0], (~first).nonzero()[:, 0]
        different = len(np.unique(context.groups.of[held.numpy()]))
        _check_enough(
            different,
            "held-out images" if context.groups.are_single else "groups of held-out images",
            context.probe.name,
            "dissect with more images, or judge by others: --held-out PROBE",
        )
        if not self.similarity:
            return Trial(self._named_on_half(), None, self._unseen(held))
        pooled = self.pooled[seen.to(self.pooled.device)]
        half = context.on_images(seen.to(context.device))
        live = nameable(pooled, half)
        scored = similarity_scores(self.similarity, half, pooled, live, self.common.top_k)
        labels = Labels.best_of(scored, self.common.concepts.concepts, live)
        return Trial(labels, scored, self._unseen(held))

    def _unseen(self, held: Tensor) -> Images:
        """Some images of the run."""
        context = self.common.context
        images = None if context.encoder is None else context.image_embeddings
        return Images(
            self.pooled[held.to(self.pooled.device)],
            None if images is None else images[held.to(images.device)],
            tuple(context.probe.ids[row] for row in held.tolist()),
            self.common.labelled(held.tolist()),
        )

    def _named_on_half(self) -> Labels:
        """The labels that the detector gives from the first half of the images; of units that were asked.

        Raises:
            InputError: it cannot be asked.
        """
        found = self.read_halves()
        if found is None:
            raise InputError(
                f"labels of {self.detector} cannot be made again from half of the images",
                where=self.layer,
                hint="judge them by other images: --held-out PROBE",
            )
        units = len(self.labels.live)
        concepts = np.full(units, "", dtype=object)
        concepts[found.unit] = found.concept_a
        unknown = np.full(units, np.nan)
        return Labels(concepts, unknown, unknown, np.zeros(units, dtype=bool), self.labels.live)


def _check_enough(count: int, what: str, where: str, hint: str) -> None:
    if count < LEAST_HELD_OUT:
        raise InputError(
            f"{count} {what} are too few to judge labels by: {LEAST_HELD_OUT} are the least",
            where=where,
            hint=hint,
        )
