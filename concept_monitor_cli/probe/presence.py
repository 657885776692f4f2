"""On which images is a concept? What the labels say where they know it, what the encoder sees elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from concept_monitor_cli.concepts.class_names import FOLDERS, image_folders, load_class_names, spelling
from concept_monitor_cli.functional.evaluation.simulation import ACTIVE_SHARE, top_of
from concept_monitor_cli.probe.labelled import LabelledImages
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.store import Store, Writer

#: Images in fewer folders than this (`train` and `val`) do not lie in folders of what they show.
LEAST_FOLDERS = 3
# Masks lie in files of their own; reading them waits more than it works.
_THREADS = 4


@dataclass(frozen=True)
class Presence:
    """On which of `n` images each of some concepts is.

    Attributes:
        present: `(n, B)` float32: 1, 0, or NaN where nobody looked for it.
        similarity: `(n, B)` float32, what the encoder sees, where the labels do not know it; else NaN.
        labelled: `(B,)`, whether the labels know the concept.
        source: `(B,)`: `labels` (of the probing set), `folders` (that the images lie in) or `encoder`; `""`
            where nobody knows the concept.
    """

    present: Tensor
    similarity: Tensor
    labelled: NDArray[np.bool_]
    source: NDArray[np.str_]


@dataclass(frozen=True)
class LabelTable:
    """Which labels are in which images.

    Attributes:
        present: `(n, L)`.
        known: `(n, L)`: whether the image carries any label of that label's category. A photo whose textures
            nobody named may show any.
        names: of the `L` labels.
        source: `labels` or `folders`.
    """

    present: NDArray[np.bool_]
    known: NDArray[np.bool_]
    names: tuple[str, ...]
    source: str


def label_table(
    store: Store,
    ids: Sequence[str],
    labels: LabelledImages | None,
    progress: Progress = SILENT,
    *,
    area: float = 0.0,
) -> LabelTable | None:
    """What the probing set says of its images, else the folders that they lie in; `None` without either.

    Args:
        store: where what is read of the masks is kept.
        ids: what the images are called.
        labels: their labels; `None` where the set has none.
        progress: told of the reading.
        area: the share of an image that a label in its mask must cover. On less of it the label is neither
            there nor known to be absent.
    """
    if labels is not None:
        return _read_labels(store, labels, progress, area)
    folders = image_folders(ids)
    if len(folders) < LEAST_FOLDERS:
        return None
    own = np.array([folders.index(name.split("/")[-2]) for name in ids])
    present = own[:, None] == np.arange(len(folders))
    names = load_class_names(FOLDERS, ids).names
    return LabelTable(present, np.ones_like(present), names, "folders")


def _read_labels(store: Store, labels: LabelledImages, progress: Progress, area: float = 0.0) -> LabelTable:
    """Every mask once; the outcome is kept in the store."""
    key = store.key("presence", labels=labels.digest, **({"area": area} if area else {}))

    def make(writer: Writer) -> None:
        present = np.zeros((len(labels), len(labels.names)), dtype=np.uint8)
        categories = sorted(set(labels.categories))
        named = np.zeros((len(labels), len(categories)), dtype=np.uint8)
        small = np.zeros((len(labels), len(labels.names)), dtype=bool)
        column = {category: place for place, category in enumerate(categories)}

        def one(row: int) -> None:
            image = labels[row]
            present[row, list(image.scalars)] = 1
            for label_map in image.maps:
                found = np.bincount(label_map[label_map >= 0], minlength=len(labels.names))
                enough = found >= max(1.0, area * label_map.size)
                present[row] |= enough
                small[row] |= (found > 0) & ~enough
            named[row, [column[category] for category in image.categories if category in column]] = 1

        with (
            progress.task("reading labels", len(labels)) as advance,
            ThreadPoolExecutor(_THREADS) as pool,
        ):
            for _ in pool.map(one, range(len(labels))):
                advance(1)
        writer.put("present", present)
        known = named[:, [column[category] for category in labels.categories]]
        writer.put("known", known & ~(small & (present == 0)))

    with store.get_or_make(key, make) as entry:
        present, known = entry.read("present").astype(bool), entry.read("known").astype(bool)
    return LabelTable(present, known, tuple(labels.names), "labels")


def presence_of(
    table: LabelTable | None,
    concepts: Sequence[str],
    n_images: int,
    *,
    embeddings: Tensor | None = None,
    embed_words: Callable[[Sequence[str]], Tensor] | None = None,
    share: float = ACTIVE_SHARE,
    least: int = 0,
) -> Presence:
    """On which images some concepts are.

    A concept that a label (or a folder) is called is present where any label of that name is. It is absent
    where none is and the image was labelled in the category of one. Another concept is present on the share
    of the images where the encoder sees it most; so is one that the labels show on too few images, or on all
    but too few. Without an encoder nobody knows where these are.

    Args:
        table: what labels or folders say (`label_table`).
        concepts: `B` words; `""` for none: NaN everywhere.
        n_images: `n`.
        embeddings: `(n, D)`, of the images, rows of unit length; `None` without an encoder.
        embed_words: embeds words in the same space; needed with `embeddings`.
        share: of the images, for concepts that have no label.
        least: fewer images than this are too few.
    """
    distinct = list(dict.fromkeys(concepts))
    count, n = len(distinct), n_images
    present = torch.full((n, count), torch.nan)
    similarity = torch.full((n, count), torch.nan)
    labelled = np.zeros(count, dtype=bool)
    if table is not None:
        places: dict[str, list[int]] = {}
        for place, name in enumerate(table.names):
            places.setdefault(spelling(name), []).append(place)
        for column, concept in enumerate(distinct):
            own = places.get(spelling(concept))
            if concept and own is not None:
                there = _merged(table, own)
                if min((there == 1).sum(), (there == 0).sum()) >= least:
                    labelled[column] = True
                    present[:, column] = torch.from_numpy(there)
    others = [column for column, concept in enumerate(distinct) if concept and not labelled[column]]
    if others and embeddings is not None and embed_words is not None:
        words = embed_words([distinct[column] for column in others])
        seen = (embeddings @ words.to(embeddings.device).T).cpu()
        similarity[:, others] = seen
        present[:, others] = top_of(seen, share)
    number = {concept: column for column, concept in enumerate(distinct)}
    index = np.array([number[concept] for concept in concepts], dtype=np.int64)
    other = "" if embeddings is None else "encoder"
    source = np.where(labelled, "" if table is None else table.source, other)
    return Presence(present[:, index], similarity[:, index], labelled[index], source[index])


def prevalence(presence: Presence) -> NDArray[np.float64]:
    """The share of the images that count on which each concept is, `(B,)`; NaN where none counts."""
    return presence.present.double().nanmean(0).numpy()


def _merged(table: LabelTable, columns: Sequence[int]) -> NDArray[np.float32]:
    """`(n,)` of all labels of one name, such as orange the fruit and orange the colour."""
    there = table.present[:, columns].any(1)
    known = there | table.known[:, columns].any(1)
    values: NDArray[Any] = np.where(known, there, np.nan).astype(np.float32)
    return values
