"""Who describes units: phrases of an image-text encoder, ranked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from itertools import compress
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from concept_monitor_cli.concepts.phrases import MOST_PHRASES, Phrases, phrases_of
from concept_monitor_cli.encoders import PrecomputedEncoder
from concept_monitor_cli.functional._blocks import spans
from concept_monitor_cli.functional.descriptions import DRAWS, PhraseModel, description_scores
from concept_monitor_cli.functional.topk import top_rows
from concept_monitor_cli.store import Writer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from concept_monitor_cli.store import Entry
    from concept_monitor_cli.study.context import Context

#: CLIP's logit scale at the end of its training, where it is capped (Radford et al. 2021, 2.5).
CLIP_SCALE = 100.0
_UNITS = 256


class Description(NamedTuple):
    """One text for one unit.

    Attributes:
        text: the description.
        category: of what it is about; `""` where unknown.
        score: `log p(d | E) - lam log p(d)`.
        given: `log p(d | E)`.
        prior: `log p(d)`.
    """

    text: str
    category: str
    score: float
    given: float
    prior: float


@dataclass(frozen=True)
class Told:
    """What some units are described by.

    Attributes:
        units: the descriptions of each of `U` units, best first.
        matrix: `(U, M)` scores of all of `names`, where asked for.
        names: of the matrix's columns.
    """

    units: list[list[Description]]
    matrix: Tensor | None = None
    names: tuple[str, ...] = ()

    @property
    def best(self) -> Tensor:
        """`(U,)` float64, the score of the first; NaN without one."""
        return torch.tensor([own[0].score if own else torch.nan for own in self.units], dtype=torch.float64)


class Teller(Protocol):
    """Describes the units of a layer.

    Attributes:
        notes: what the user should know, each one sentence.
    """

    notes: list[str]

    def tell(self, entry: Entry, units: Tensor, places: Tensor, *, matrix: bool = False) -> Told:
        """Describe units.

        Args:
            entry: their recording, of `Exemplars`.
            units: `(U,)`, which.
            places: `(U, E)`, the places of their exemplars among their top images, -1 for none.
            matrix: also the scores of everything that could have been said.
        """

    def chance(self, entry: Entry, sizes: Sequence[int]) -> dict[int, Tensor]:
        """The best scores of random exemplars.

        Args:
            entry: the layer's recording.
            sizes: of the sets.

        Returns:
            size -> `(R,)` float64.
        """


@dataclass
class PhraseTeller:
    """Ranks given phrases by what the run's image-text encoder says of whole images.

    Whole images, because the prior is that of whole images.

    Attributes:
        context: images, concepts and encoder.
        lam: weight of the prior.
        top: descriptions of a unit.
        notes: see `Teller`.
    """

    context: Context
    lam: float
    top: int
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.phrases = phrases_of(self.context.concepts)
        encoder = self.context.encoder
        if isinstance(encoder, PrecomputedEncoder):
            # It has the vectors of its own texts only; a concept that it lacks is refused where it is asked.
            known = encoder.knows(self.phrases.texts)
            kept = [known[m] or m < len(self.context.concepts) for m in range(len(known))]
            texts, kinds = (
                tuple(compress(each, kept)) for each in (self.phrases.texts, self.phrases.categories)
            )
            self.notes.append(
                f"describe ranks {len(texts)} phrases: {encoder.name} has no vectors of the other "
                f"{len(known) - len(texts) + self.phrases.left_out} pairs of an attribute and a thing"
            )
            self.phrases = Phrases(texts, kinds)
        elif self.phrases.left_out:
            self.notes.append(
                f"describe ranks {len(self.phrases.texts)} phrases; {self.phrases.left_out} more pairs of an "
                f"attribute and a thing are left out, as {MOST_PHRASES} are the most: a shorter --concepts "
                "has room for its pairs"
            )

    @cached_property
    def model(self) -> PhraseModel:
        """The encoder as a model of phrases; what takes all images is kept in the store."""
        context = self.context
        images = context.image_embeddings
        phrases = context.embed_words(self.phrases.texts)
        digest = hashlib.sha256("\n".join(self.phrases.texts).encode()).hexdigest()
        key = context.store.key("phrase_model", phrases=digest, **context.digests)

        def make(writer: Writer) -> None:
            scale = getattr(context.required_encoder, "logit_scale", None)
            writer.meta["known"] = scale is not None
            found = PhraseModel.fit(images, phrases, CLIP_SCALE if scale is None else scale, context.groups)
            writer.put("scale", np.array([found.scale]))
            writer.put("log_norm", found.log_norm.cpu().numpy())
            writer.put("log_prior", found.log_prior.cpu().numpy())

        with context.store.get_or_make(key, make) as kept:
            if not kept.meta["known"]:
                self.notes.append(
                    f"the encoder has no logit scale: {CLIP_SCALE:g}, that of CLIP, is taken for phrases"
                )
            norm, prior = (
                torch.from_numpy(kept.read(name)).to(images.device) for name in ("log_norm", "log_prior")
            )
            return PhraseModel(images, phrases, float(kept.read("scale")[0]), norm, prior)

    def tell(self, entry: Entry, units: Tensor, places: Tensor, *, matrix: bool = False) -> Told:
        """See `Teller`."""
        model, texts, kinds = self.model, self.phrases.texts, self.phrases.categories
        sets = exemplar_images(entry, units, places).to(model.images.device)
        found: list[list[Description]] = []
        parts = []
        for some in spans(len(sets), _UNITS):
            given = model.given(sets[some])
            scores = description_scores(given, model.log_prior, self.lam)
            best, values = top_rows(scores, self.top)
            rows = (best, values, given.gather(1, best), model.log_prior[best])
            found += [
                [Description(texts[m], kinds[m], *values) for m, *values in zip(*numbers, strict=True)]
                for numbers in zip(*(each.tolist() for each in rows), strict=True)
            ]
            if matrix:
                parts.append(scores.float().cpu())
        return Told(found, torch.cat(parts) if parts else None, texts)

    def chance(self, entry: Entry, sizes: Sequence[int]) -> dict[int, Tensor]:
        """See `Teller`."""
        found = self.model.best_of_chance(
            self.context.groups, sizes, self.lam, draws=DRAWS, seed=self.context.seed
        )
        return {size: values.cpu() for size, values in found.items()}


def exemplar_images(entry: Entry, units: Tensor, places: Tensor) -> Tensor:
    """The images at some places of units' top images, `(U, E)`; -1 for none."""
    top = torch.from_numpy(entry.read("top_images")).long()[units]
    return torch.where(places >= 0, top.gather(1, places.clamp_min(0)), -1)
