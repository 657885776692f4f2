"""The rows of the tables of `cmon factors`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from concept_monitor_cli.functional.factor_matching import cosines
from concept_monitor_cli.functional.factor_measures import (
    Neighbourhoods,
    chance_purity,
    chance_spectrum,
    class_weights,
    entropy,
    purity,
    similarity,
    spectrum,
)
from concept_monitor_cli.options import FactorsOptions, split_name
from concept_monitor_cli.stories.factor_fits import EpochFactors, Part
from concept_monitor_cli.stories.opened import OpenRun

if TYPE_CHECKING:
    import pandas as pd

#: Classes and superclasses of a factor that are listed (the paper's table 1).
BEST = {"class": 4, "superclass": 2}
#: A member of a basis is the same direction as a factor from this cosine on.
SAME_DIRECTION = 0.7


@dataclass(frozen=True)
class ImageClasses:
    """Which class each image is of.

    Attributes:
        names: `K`; none where classes are not known.
        of_images: `(N,)` int64, -1 where not known.
        above: the superclass of every class; empty without the user's file.
    """

    names: tuple[str, ...]
    of_images: Tensor
    above: dict[str, str]

    def name(self, image: int) -> str:
        """The class of an image; `""` where it is not known."""
        number = int(self.of_images[image])
        return self.names[number] if number >= 0 else ""

    def kinds(self) -> dict[str, tuple[tuple[str, ...], Tensor]]:
        """Classes, and superclasses where they are known: their names, and that of every image."""
        if not self.names:
            return {}
        found = {"class": (self.names, self.of_images)}
        if self.above:
            names = tuple(dict.fromkeys(self.above[name] for name in self.names))
            number = torch.tensor([names.index(self.above[name]) for name in self.names])
            known = self.of_images >= 0
            found["superclass"] = (names, torch.where(known, number[self.of_images.clamp_min(0)], -1))
        return found


@dataclass(frozen=True)
class Predictions:
    """What the network takes each image for.

    Attributes:
        named: `(N,)` the number of the class.
        correct: `(N,)` bool.
    """

    named: Tensor
    correct: Tensor


class Tables:
    """Collects the rows, epoch by epoch.

    Args:
        opened: the run, for the concepts of its units and bases.
        classes: of the images.
        options: how much to list.
    """

    def __init__(self, opened: OpenRun, classes: ImageClasses, options: FactorsOptions) -> None:
        self._opened, self._classes, self._options = opened, classes, options
        self._rows: dict[str, list[dict[str, Any]]] = {}
        self._pure: tuple[int, dict[str, NDArray[np.float64]]] | None = None
        self._bases = _bases(opened)
        # Of all layers, whichever were asked for: a basis is a layer of its own.
        first = opened.first
        self._concepts: dict[tuple[str, int], dict[int, tuple[str, bool]]] = {}
        columns = (first[name].tolist() for name in ("layer", "epoch", "unit", "concept", "interpretable"))
        for layer, epoch, unit, concept, interpretable in zip(*columns, strict=True):
            known = self._concepts.setdefault((str(layer), int(epoch)), {})
            known.setdefault(int(unit), (str(concept), bool(interpretable)))  # the first detector's

    def add(self, table: str, rows: list[dict[str, Any]]) -> None:
        """Add rows to a table."""
        self._rows.setdefault(table, []).extend(rows)

    def frames(self) -> dict[str, pd.DataFrame]:
        """The tables that have rows."""
        import pandas as pd

        return {name: pd.DataFrame(rows) for name, rows in self._rows.items() if rows}

    def at(self, each: EpochFactors) -> None:
        """What there is to say of the factors at one epoch."""
        place = {"epoch": each.epoch, "checkpoint": each.checkpoint}
        pure = self._purity(each.F)
        for part in each.parts:
            here = {**place, "layer": part.name}
            strength = (part.W.norm(dim=0) * each.F.norm(dim=0)).numpy()
            share = strength / strength.sum() if strength.sum() > 0 else np.full(len(strength), np.nan)
            named = self._named(part, each.epoch)
            self.add(
                "factors",
                [
                    {
                        **here,
                        "factor": k,
                        "strength": strength[k],
                        "share": share[k],
                        "matched_from": int(each.matched_from[k]),
                        "cosine": float(each.cosine[k]),
                        "chance_cosine": each.chance_cosine,
                        "stability": float(each.stability[k]),
                        **{name: values[k] for name, values in pure.items()},
                        **named[k],
                    }
                    for k in range(len(strength))
                ],
            )
            residual = {
                "norm": part.norm,
                "residual": part.residual,
                "own_residual": part.own_residual,
                "chance": part.chance,
            }
            self.add("factor-residual", [{**here, **residual}])
            if part in each.layers:
                self._layer(here, part)

    def _layer(self, here: dict[str, Any], part: Part) -> None:
        table = similarity(part.W)
        members = len(table)
        self.add(
            "factor-similarity",
            [
                {**here, "factor": i, "other_factor": j, "cosine": float(table[i, j])}
                for i in range(members)
                for j in range(i + 1, members)
            ],
        )
        found = spectrum(part.W)
        leading, three, rank = chance_spectrum(part.W, seed=self._options.seed)
        self.add(
            "factor-spectrum",
            [
                {
                    **here,
                    "place": number,
                    "eigenvalue": float(value),
                    "leading": found.leading,
                    "mean_of_three": found.mean_of_three,
                    "effective_rank": found.effective_rank,
                    "chance_leading": leading,
                    "chance_mean_of_three": three,
                    "chance_effective_rank": rank,
                }
                for number, value in enumerate(found.eigenvalues.tolist())
            ],
        )
        concepts = self._concepts.get((part.name, here["epoch"]), {})
        units, W = part.by_unit()
        rows = []
        for k in range(members):
            loadings = W[:, k]
            order = torch.argsort(loadings, descending=True, stable=True)[: self._options.top]
            for number, row in enumerate(order.tolist()):
                if float(loadings[row]) <= 0:
                    break
                unit = int(units[row])
                concept, interpretable = concepts.get(unit, ("", False))
                rows.append(
                    {
                        **here,
                        "factor": k,
                        "place": number,
                        "unit": unit,
                        "loading": float(loadings[row]) * (part.norm if self._options.balance else 1),
                        "concept": concept,
                        "interpretable": interpretable,
                    }
                )
        self.add("factor-units", rows)

    def _purity(self, F: Tensor) -> dict[str, NDArray[np.float64]]:
        """Purity, its chance value and entropy of each factor; of one `F` once."""
        if self._pure is not None and self._pure[0] == id(F):
            return self._pure[1]
        count, classes = len(self._classes.names), self._classes.of_images
        if count:
            weights = class_weights(F, classes, count)
            found = {
                "purity": purity(weights).numpy(),
                "chance_purity": chance_purity(F, classes, count, seed=self._options.seed).numpy(),
                "entropy": entropy(weights).numpy(),
            }
        else:
            nothing = np.full(F.shape[1], np.nan)
            found = {"purity": nothing, "chance_purity": nothing, "entropy": nothing}
        self._pure = (id(F), found)
        return found

    def _named(self, part: Part, epoch: int) -> list[dict[str, Any]]:
        """For each factor the member of a basis of this layer that is the same direction, and its concept."""
        members = part.W.shape[1]
        concepts, found, best = [""] * members, [-1] * members, [0.0] * members
        units, W = part.by_unit()
        for name, matrix in self._bases.get(part.name, ()):
            table = cosines(W, torch.from_numpy(matrix[units]))
            known = self._concepts.get((name, epoch), {})
            for k in range(members):
                cosine, member = float(table[k].max()), int(table[k].argmax())
                if cosine > best[k]:
                    best[k], found[k] = cosine, member
                    concepts[k] = known.get(member, ("", False))[0] if cosine >= SAME_DIRECTION else ""
        return [
            {
                "concept": concept,
                "basis_member": None if member < 0 else member,
                "basis_cosine": float("nan") if member < 0 else cosine,
            }
            for concept, member, cosine in zip(concepts, found, best, strict=True)
        ]

    def of_images(self, each: EpochFactors, near: Neighbourhoods, predictions: Predictions | None) -> None:
        """What there is to say of the images at one epoch."""
        place = {"epoch": each.epoch, "checkpoint": each.checkpoint}
        ids, classes = self._opened.probe.ids, self._classes
        for k in range(each.F.shape[1]):
            weights = each.F[:, k]
            order = torch.argsort(weights, descending=True, stable=True)[: self._options.top].tolist()
            self.add(
                "factor-images",
                [
                    {
                        **place,
                        "factor": k,
                        "place": number,
                        "image": ids[image],
                        "weight": float(weights[image]),
                        "class": classes.name(image),
                    }
                    for number, image in enumerate(order)
                    if float(weights[image]) > 0
                ],
            )
        for kind, (names, of_images) in classes.kinds().items():
            found = class_weights(each.F, of_images, len(names))
            prior = torch.bincount(of_images[of_images >= 0], minlength=len(names)) / int(
                (of_images >= 0).sum()
            )
            for k in range(len(found)):
                if bool(found[k].isnan().any()):
                    continue
                order = torch.argsort(found[k], descending=True, stable=True)[: BEST[kind]].tolist()
                self.add(
                    "factor-classes",
                    [
                        {
                            **place,
                            "factor": k,
                            "kind": kind,
                            "place": number,
                            "name": names[which],
                            "weight": float(found[k, which]),
                            "chance": float(prior[which]),
                        }
                        for number, which in enumerate(order)
                    ],
                )
        self.add(
            "factor-neighbours",
            [
                {
                    **place,
                    "image": ids[image],
                    "class": classes.name(image),
                    "factor": int(near.factor[image]) if int(near.factor[image]) >= 0 else None,
                    "impurity": float(near.impurity[image]),
                    "chance": near.chance,
                    "neighbours": _counts(near.counts[image]),
                    "predicted": "" if predictions is None else classes.names[int(predictions.named[image])],
                    "correct": None if predictions is None else int(predictions.correct[image]),
                }
                for image in range(len(ids))
            ],
        )


def _counts(counts: Tensor) -> str:
    """`2:14;7:9`: how many neighbours have which factor, the most frequent first."""
    order = torch.argsort(counts, descending=True, stable=True).tolist()
    return ";".join(f"{k}:{int(counts[k])}" for k in order if int(counts[k]))


def _bases(opened: OpenRun) -> dict[str, list[tuple[str, NDArray[np.float32]]]]:
    """The non-negative bases that the run keeps: layer -> their names in the tables and matrices."""
    found: dict[str, list[tuple[str, NDArray[np.float32]]]] = {}
    for name, path in opened.run.bases().items():
        with np.load(path, allow_pickle=False) as file:
            if str(file["encoding"]) == "nonnegative":
                found.setdefault(split_name(name)[0], []).append((name, file["matrix"]))
    return found
