"""How many top images should `soft-wpmi` and `wpmi` look at? Chosen on half of the classes, judged on others.

    cmon dissect CHECKPOINT --layer classifier --probe photos --concepts names.txt --out run
    python scripts/check_top_images.py run --layer classifier

The run is of a network's classifier, its probing photos lie in a folder per class, and the classes' names are
among its concepts: the label of a class's unit is right where it is the class's name. The outputs are in the
alphabetical order of the folders.

For every number of images the first line has the share of right labels over all classes, by the number of top
images `K`. The second line says what choosing gives: the classes are halved at random, the best `K` of one is
taken, and the labels of the other half are judged by this `K`, by the default, and by the `K` that is best
there. Sets smaller than the run are random classes with their photos; the layer then has their units only.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from concept_monitor_cli.concepts.class_names import (
    FOLDERS,
    image_folders,
    load_class_names,
    spelling,
)
from concept_monitor_cli.functional import ConceptActivations, top_images
from concept_monitor_cli.functional.similarity.registry import RankSimilarity, similarity_named
from concept_monitor_cli.options import ReadingOptions
from concept_monitor_cli.progress import SILENT
from concept_monitor_cli.stories.opened import OpenRun

TRIED = (3, 5, 7, 10, 14, 20, 28, 33, 40, 60, 100)
BY_IMAGES = ("soft-wpmi", "wpmi")


@dataclass(frozen=True)
class Classes:
    """A classifier's units and the photos of their classes.

    Attributes:
        pooled: `(N, C)`, activations.
        images: `(N, D)`, embeddings, rows of unit length.
        words: `(M, D)`, likewise.
        of_image: `(N,)`, the class of each photo, below `C`.
        names: `(C,)`, the place of each class's name among the words; -1 where it is none of them.
    """

    pooled: Tensor
    images: Tensor
    words: Tensor
    of_image: NDArray[np.int64]
    names: NDArray[np.int64]

    def some(self, classes: NDArray[np.int64]) -> Classes:
        """These classes alone, with their photos; all words stay."""
        kept = np.flatnonzero(np.isin(self.of_image, classes))
        new = np.full(len(self.names), -1)
        new[classes] = np.arange(len(classes))
        rows = torch.from_numpy(kept)
        pooled = self.pooled[rows][:, torch.from_numpy(classes)]
        return Classes(pooled, self.images[rows], self.words, new[self.of_image[kept]], self.names[classes])

    def right(self, similarity: RankSimilarity, k: int) -> NDArray[np.bool_]:
        """Whether each class's unit is called by its name, `(C,)`."""
        activations = ConceptActivations.from_embeddings(self.images, self.words)
        top, _ = top_images(self.pooled, k)
        labels = similarity.evidence(activations, top, a=similarity.a).order(similarity.lam).argmax(1)
        return labels.cpu().numpy() == self.names


@dataclass(frozen=True)
class Choice:
    """What choosing on one half of the classes gives on the other half, means over the halvings.

    Attributes:
        chosen: share of right labels by the `K` that was best on the first half.
        default: by the default.
        best: by the `K` that is best on the second half itself: more than anyone can choose.
        ks: the `K` that was chosen, per halving.
    """

    chosen: float
    default: float
    best: float
    ks: tuple[int, ...]


def choose(
    right: Sequence[Mapping[int, NDArray[np.bool_]]], default: int, halvings: int, seed: int = 0
) -> Choice:
    """Choose `K` on a random half of the classes, judge it on the other.

    Args:
        right: for every set of classes, by `K`, whether the units are named right, `(C,)`; `default` is one.
        default: the number of top images by default.
        halvings: of each set.
        seed: of the halves.
    """
    rng = np.random.default_rng(seed)
    rows, ks = [], []
    for found in right:
        order = list(found)
        share = np.array([found[k] for k in order], dtype=float)
        for _ in range(halvings):
            mixed = rng.permutation(share.shape[1])
            first, second = np.array_split(mixed, 2)
            there = share[:, second].mean(1)
            pick = int(share[:, first].mean(1).argmax())
            rows.append((there[pick], there[order.index(default)], there.max()))
            ks.append(order[pick])
    chosen, by_default, best = np.mean(rows, axis=0)
    return Choice(float(chosen), float(by_default), float(best), tuple(ks))


def read(run: Path, layer: str, cache: Path | None) -> Classes:
    """The classifier of a run at its last epoch.

    Raises:
        SystemExit: photos that are not in a folder per class, or another number of units.
    """
    opened = OpenRun(run, ReadingOptions(out=run, cache_dir=cache, layers=(layer,)), SILENT)
    (history,) = [each for each in opened.histories if each.detector == "clip-dissect"]
    context = opened.context
    ids = context.probe.ids
    folders = image_folders(ids)
    number = {name: place for place, name in enumerate(folders)}
    with opened.recording(history, len(history.epochs) - 1) as entry:
        pooled = torch.from_numpy(entry.read("pooled"))
    if len(folders) != pooled.shape[1]:
        raise SystemExit(
            f"{pooled.shape[1]} units of {layer} and {len(folders)} folders of photos: not the same"
        )
    place = {spelling(word): at for at, word in reversed(list(enumerate(context.concepts.concepts)))}
    names = load_class_names(FOLDERS, ids).names
    return Classes(
        pooled=pooled,
        images=context.image_embeddings.float().cpu(),
        words=context.text_embeddings.float().cpu(),
        of_image=np.array([number[path.split("/")[-2]] for path in ids]),
        names=np.array([place.get(spelling(name), -1) for name in names]),
    )


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--layer", default="classifier")
    parser.add_argument("--classes", default="1000,500,250,100", help="how many; a comma list")
    parser.add_argument("--sets", type=int, default=3, help="random sets of classes, of less than all")
    parser.add_argument("--halvings", type=int, default=20, help="of each set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache-dir", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    every = read(options.run, options.layer, options.cache_dir)
    total = len(every.names)
    print(
        f"{len(every.pooled)} photos, {total} classes, {int((every.names >= 0).sum())} of their names known"
    )
    rng = np.random.default_rng(options.seed)
    for name in BY_IMAGES:
        similarity = similarity_named(name)
        assert isinstance(similarity, RankSimilarity)
        for size in (min(int(part), total) for part in options.classes.split(",")):
            sets = (
                [every]
                if size == total
                else [every.some(np.sort(rng.permutation(total)[:size])) for _ in range(options.sets)]
            )
            n_images = [len(each.pooled) for each in sets]
            default = similarity.images(min(n_images))
            tried = sorted({k for k in (*TRIED, default) if k <= min(n_images)})
            right = [{k: each.right(similarity, k) for k in tried} for each in sets]
            shares = {k: float(np.mean([found[k].mean() for found in right])) for k in tried}
            print(f"{name}, {min(n_images)} images, default {default}:")
            print("   " + ", ".join(f"{k}: {share:.3f}" for k, share in shares.items()))
            found = choose(right, default, options.halvings, options.seed)
            common = ", ".join(f"{k} ({found.ks.count(k)})" for k in sorted(set(found.ks)))
            print(
                f"   on the other half: chosen {found.chosen:.3f}, default {found.default:.3f}, "
                f"best there {found.best:.3f}; chosen K: {common}",
                flush=True,
            )


if __name__ == "__main__":
    main()
