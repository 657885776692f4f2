"""Where the labels of a subject are, on the images that it is judged by: concepts, formulas and sums."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from concept_monitor_cli.evaluation.expressions import Expression, Reader
from concept_monitor_cli.evaluation.subject import Common, Images, Subject
from concept_monitor_cli.functional.compositional import ImageCells, label_cells
from concept_monitor_cli.functional.evaluation.simulation import ACTIVE_SHARE, top_of
from concept_monitor_cli.functional.linear import standardise
from concept_monitor_cli.probe import LabelledImages, presence
from concept_monitor_cli.probe.presence import LabelTable, Presence


def label_table(common: Common, images: Images) -> LabelTable | None:
    """What the probing set says of the images; see `probe.presence.label_table`."""
    return presence.label_table(common.store, images.ids, images.labels, common.progress)


def presence_of(
    common: Common,
    images: Images,
    concepts: Sequence[str],
    *,
    share: float = ACTIVE_SHARE,
    least: int = 0,
) -> Presence:
    """On which of the images some concepts are; see `probe.presence.presence_of`."""
    return presence.presence_of(
        label_table(common, images),
        concepts,
        len(images),
        embeddings=images.embeddings,
        embed_words=None if images.embeddings is None else common.context.embed_words,
        share=share,
        least=least,
    )


def presence_of_labels(
    subject: Subject, images: Images, *, share: float = ACTIVE_SHARE, least: int = 0
) -> Presence:
    """On which of the images the labels of a subject hold, whatever they are.

    A formula holds where its concepts make it hold; an image on which nobody looked for one of them does not
    count. One that was found by pixels holds on an image where it holds at a pixel, if the masks of the
    images are known. A sum says how active the unit is, and holds on the share of the images where it says
    most; so does what a unit says at a range, the weight of the formula times the share of the pixels where
    it holds. A label counts as known by labels where all of its concepts are.

    Args:
        subject: whose labels, those of its trial.
        images: which images.
        share: of the images, for concepts that have no label and for sums.
        least: fewer images than this are too few to know a concept by its label.
    """
    texts = [str(text) for text in subject.trial.labels.concepts]
    if subject.labels_are == "ranges":
        return _of_ranges(subject, images, texts, share)
    if subject.labels_are == "sums":
        return _of_sums(subject, images, texts, share)
    if subject.labels_are == "formulas":
        if subject.by_pixels and images.labels is not None:
            return _of_pixels(subject.common, images, images.labels, texts)
        return _of_formulas(subject, images, texts, share)
    return presence_of(subject.common, images, texts, share=share, least=least)


class _Known:
    """Where each of some concepts is, looked up once."""

    def __init__(self, common: Common, images: Images, names: Sequence[str], share: float) -> None:
        self._number = {name: column for column, name in enumerate(dict.fromkeys(names))}
        self._found = presence_of(common, images, list(self._number), share=share) if self._number else None

    def of(self, name: str) -> Tensor:
        """`(n,)`: 1, 0 or NaN."""
        assert self._found is not None
        return self._found.present[:, self._number[name]]

    def amount(self, name: str) -> Tensor:
        """`(n,)`: what the encoder sees of a concept that no label knows, else its presence."""
        assert self._found is not None
        seen = self._found.similarity[:, self._number[name]]
        return self.of(name) if bool(seen.isnan().all()) else seen

    def source(self, names: Sequence[str]) -> str:
        """Who knows all of them; `""` where nobody knows one."""
        assert self._found is not None
        sources = {str(self._found.source[self._number[name]]) for name in names}
        return "" if "" in sources else "encoder" if "encoder" in sources else sources.pop()


def _gathered(columns: Sequence[tuple[Tensor, Tensor, str]]) -> Presence:
    """Presence and amount of every label, and who knows it."""
    sources = np.array([source for _, _, source in columns])
    return Presence(
        torch.stack([present for present, _, _ in columns], 1).float(),
        torch.stack([amount for _, amount, _ in columns], 1).float(),
        (sources != "") & (sources != "encoder"),
        sources,
    )


def _of_sums(subject: Subject, images: Images, texts: Sequence[str], share: float) -> Presence:
    reader = Reader(subject.candidates)
    sums = [reader.sum(text) for text in texts]
    known = _Known(subject.common, images, [name for each in sums if each for _, name in each], share)
    unknown = torch.full((len(images),), torch.nan)
    everything = torch.ones(len(images), dtype=torch.bool)
    columns = []
    for each in sums:
        source = "" if each is None else known.source([name for _, name in each])
        if each is None or not source:
            columns.append((unknown, unknown, ""))
            continue
        # Weights are for one standard deviation of a concept; where nobody looked for it, its mean counts.
        amounts = standardise(torch.stack([known.amount(name) for _, name in each], 1), everything)
        says = (amounts @ torch.tensor([weight for weight, _ in each], dtype=torch.float64)).float()
        columns.append((top_of(says[:, None], share)[:, 0], says, source))
    return _gathered(columns)


def _of_formulas(subject: Subject, images: Images, texts: Sequence[str], share: float) -> Presence:
    reader = Reader(subject.candidates)
    formulas = [reader.formula(text) for text in texts]
    known = _Known(subject.common, images, [name for each in formulas if each for name in each.names], share)
    unknown = torch.full((len(images),), torch.nan)
    columns = []
    for each in formulas:
        source = "" if each is None else known.source(each.names)
        holds = unknown if each is None or not source else each.holds(known.of)
        columns.append((holds, unknown, source))
    return _gathered(columns)


def _of_pixels(common: Common, images: Images, labels: LabelledImages, texts: Sequence[str]) -> Presence:
    """Formulas of labels that are looked for in the masks."""
    places = _places(labels)
    reader = Reader(list(places))
    formulas = [reader.formula(text) for text in texts]
    shares = _shares(common, images, labels, places, {each for each in formulas if each is not None})
    unknown = torch.full((len(images),), torch.nan)
    columns = []
    for each in formulas:
        there = unknown if each is None else (shares[each] > 0).float().where(~shares[each].isnan(), unknown)
        columns.append((there, unknown, "" if each is None else "labels"))
    return _gathered(columns)


def _of_ranges(subject: Subject, images: Images, texts: Sequence[str], share: float) -> Presence:
    """What units say at ranges of their activation: formulas of labels that are looked for in the masks."""
    unknown = torch.full((len(images),), torch.nan)
    if images.labels is None:
        return _gathered([(unknown, unknown, "") for _ in texts])
    places = _places(images.labels)
    reader = Reader(list(places))
    sums = [reader.sum_of_formulas(text) for text in texts]
    distinct = {formula for each in sums if each is not None for _, formula in each}
    shares = _shares(subject.common, images, images.labels, places, distinct)
    columns = []
    for each in sums:
        if each is None:
            columns.append((unknown, unknown, ""))
            continue
        says = torch.stack([weight * shares[formula] for weight, formula in each]).sum(0)
        columns.append((top_of(says[:, None], share)[:, 0], says, "labels"))
    return _gathered(columns)


def _places(labels: LabelledImages) -> dict[str, list[int]]:
    """The labels that a name may mean, with its category where several have it."""
    places: dict[str, list[int]] = {}
    often = Counter(labels.names)
    for place, (name, category) in enumerate(zip(labels.names, labels.categories, strict=True)):
        places.setdefault(name, []).append(place)
        if often[name] > 1:
            places.setdefault(f"{name} [{category}]", []).append(place)
    return places


def _shares(
    common: Common,
    images: Images,
    labels: LabelledImages,
    places: dict[str, list[int]],
    formulas: Collection[Expression],
) -> dict[Expression, Tensor]:
    """On which share of the pixels of each image formulas hold; NaN where nobody looked for a concept."""
    table = label_table(common, images)
    assert table is not None
    shares = {each: np.full(len(images), np.nan, dtype=np.float32) for each in formulas}
    known = table.known | table.present
    for row in range(len(images)):
        cells = label_cells(labels[row], labels.size)
        asked = [each for each in formulas if all(known[row, places[name]].any() for name in each.names)]
        for each in asked:
            holds = each.holds(_in_cells(cells, places)).numpy() > 0
            shares[each][row] = cells.sizes[holds].sum() / cells.sizes.sum()
    return {each: torch.from_numpy(own) for each, own in shares.items()}


def _in_cells(cells: ImageCells, places: dict[str, list[int]]) -> Callable[[str], Tensor]:
    """Of each name, in which cells of an image it is."""

    def of(name: str) -> Tensor:
        there: NDArray[np.bool_] = np.any([cells.mask(place) for place in places[name]], axis=0)
        return torch.from_numpy(there.astype(np.float32))

    return of
