"""What detectors may look at besides a recording: the same for every checkpoint of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from concept_monitor_cli.concepts import ConceptSet
from concept_monitor_cli.encoders import (
    ClipEncoder,
    Encoder,
    PrecomputedEncoder,
    embed_image_blocks,
    embed_images,
    embed_texts,
)
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.evaluation.simulation import ACTIVE_SHARE
from concept_monitor_cli.functional.groups import ImageGroups, halves
from concept_monitor_cli.functional.resampling import RESAMPLES, image_counts
from concept_monitor_cli.functional.similarity.activations import ConceptActivations
from concept_monitor_cli.models.allocator import give_back_freed_memory
from concept_monitor_cli.models.clock import Clock
from concept_monitor_cli.options import Shard
from concept_monitor_cli.probe import LabelledImages, Pixels, ProbeSet
from concept_monitor_cli.probe.groups import NamedGroups, copies, named_groups
from concept_monitor_cli.probe.presence import LabelTable, Presence, label_table, presence_of
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.store import Key, Store, Writer
from concept_monitor_cli.study.recent import Recent
from concept_monitor_cli.wording import counted

#: Bytes of a `P` that stays in memory: of 1,600 images and 20,000 concepts, or of 30,000 and 1,000.
KEPT_BYTES = 128 << 20

NO_ENCODER = "there is no encoder: none of the run's detectors needs one, and none was named"


@dataclass
class Context:
    """Probing set, concept set and encoder of a run. Embeddings are made when first asked for.

    Attributes:
        store: where embeddings and null distributions are kept.
        probe: the `N` readable probing images.
        pixels: the same images as the encoder sees them; `None` for an encoder of precomputed embeddings.
        grouping: groups of images that the user names (`--groups`); `None` to find copies.
        fingerprints: the same images in `FINGERPRINT`, where copies are to be found.
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
    grouping: str | None = None
    fingerprints: Pixels | None = None

    @cached_property
    def recent(self) -> Recent:
        """Large results for these images and concepts, as long as there is room in memory."""
        return Recent()

    @cached_property
    def clock(self) -> Clock:
        """Runs while the encoder's networks do."""
        return Clock(self.device)

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
    def named_groups(self) -> NamedGroups | None:
        """The groups that the user names.

        Raises:
            InputError: see `probe.groups.named_groups`.
        """
        return None if self.grouping is None else named_groups(self.grouping, self.probe.ids)

    @cached_property
    def groups(self) -> ImageGroups:
        """The groups of images that are permuted, drawn and held out as a whole: named ones, else copies."""
        if self.named_groups is not None:
            return self.named_groups.groups

        def make(writer: Writer) -> None:
            writer.put("groups", copies(self.probe.digests, self.fingerprints, self.progress))

        with self.store.get_or_make(self._copies_key, make) as entry:
            return ImageGroups(entry.read("groups"))

    def about_groups(self) -> str | None:
        """A sentence where some images count as one."""
        count, groups, named = len(self.probe), self.groups.n_groups, self.named_groups
        images = counted(count, "images")
        if named is not None:
            return f"{images} in {groups:,} groups by {named.source}: each counts as one photo"
        if groups < count:
            return (
                f"{images}, of which {count - groups:,} are copies of others or nearly so: "
                f"{groups:,} groups count as one photo each. Name groups of your own with --groups"
            )
        return None

    @cached_property
    def bootstrap(self) -> Tensor:
        """How often each image is in each of `RESAMPLES` draws of the groups: `(R, N)` int64."""
        return image_counts(self.groups, range(RESAMPLES), seed=self.seed)

    @property
    def groups_digest(self) -> str:
        """What the groups depend on, for keys. Known without looking for copies."""
        return self._copies_key.digest if self.named_groups is None else self.named_groups.digest

    @property
    def _copies_key(self) -> Key:
        return self.store.key("image_groups", images=self.probe.digest, near=self.fingerprints is not None)

    @cached_property
    def image_embeddings(self) -> Tensor:
        """`I`: `N x D`, float32, rows of unit length."""
        images = embed_images(
            self.store,
            self.required_encoder,
            self.probe if self.pixels is None else self.pixels,
            batch_size=self.batch_size,
            progress=self.progress,
            clock=self.clock,
        )
        return torch.from_numpy(images).to(self.device)

    def embed_part(self, part: Shard) -> None:
        """Send some of the images through the encoder, where there is one to look at them with.

        Args:
            part: which of several tasks this is; the others take the other images.
        """
        if self.pixels is not None:
            embed_image_blocks(
                self.store,
                self.required_encoder,
                self.pixels,
                list(self.pixels.blocks())[part.index - 1 :: part.count],
                batch_size=self.batch_size,
                progress=self.progress,
                clock=self.clock,
            )

    @cached_property
    def text_embeddings(self) -> Tensor:
        """`T`: `M x D`, float32, rows of unit length."""
        return self.embed_words(self.concepts.concepts)

    @cached_property
    def label_table(self) -> LabelTable | None:
        """Which labels are on which image: from masks, else from folders; `None` without either."""
        labels = self.labels if self.probe.has_masks else None
        return label_table(self.store, self.probe.ids, labels, self.progress)

    def presence(self, concepts: Sequence[str], *, share: float = ACTIVE_SHARE) -> Presence:
        """On which of the `N` images some concepts are: what labels say, and else what the encoder sees.

        Args:
            concepts: which.
            share: of the images on which a concept is taken to be that the labels do not know.
        """
        return presence_of(
            self.label_table,
            concepts,
            len(self.probe),
            embeddings=None if self.encoder is None else self.image_embeddings.cpu(),
            embed_words=None if self.encoder is None else self.embed_words,
            share=share,
        )

    @cached_property
    def halves(self) -> tuple[tuple[Tensor, Context], tuple[Tensor, Context]]:
        """Two halves of the groups of images: which images, ascending, and the context of these alone."""
        first = torch.from_numpy(halves(self.groups, seed=self.seed)).to(self.device)
        one, other = (torch.nonzero(half)[:, 0] for half in (first, ~first))
        return (one, self.on_images(one)), (other, self.on_images(other))

    def on_images(self, rows: Tensor) -> Context:
        """The context of some of the images, `(n,)` ascending, alone."""
        some = replace(self, probe=self.probe.subset(rows.tolist()), pixels=None, fingerprints=None)
        images = self.image_embeddings[rows]
        some.__dict__.update(
            digests={**self.digests, "images": f"{self.digests['images']} {some.probe.digest}"},
            image_embeddings=images,
            text_embeddings=self.text_embeddings,
            activations=self.activations.select(rows),
            groups=ImageGroups.read(self.groups.of[rows.cpu().numpy()]),
            recent=self.recent.part(some.probe.digest),
            clock=self.clock,
        )
        return some

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
            clock=self.clock,
        )
        return torch.from_numpy(vectors).to(self.device)

    @cached_property
    def activations(self) -> ConceptActivations:
        """`P`, in blocks, with the normaliser of its softmax computed once for all layers and epochs."""
        images, words = self.image_embeddings, self.text_embeddings
        # Seldom asked for more, and as large as what the scores of a layer need.
        if isinstance(self.encoder, ClipEncoder) and self.encoder.release():
            give_back_freed_memory()
        return ConceptActivations.from_embeddings(images, words, keep=KEPT_BYTES)

    @property
    def required_encoder(self) -> Encoder:
        """The encoder.

        Raises:
            InputError: there is none.
        """
        if self.encoder is None:
            raise InputError(NO_ENCODER, hint="name one with --encoder")
        return self.encoder

    @cached_property
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
            "groups": self.groups_digest,
        }
