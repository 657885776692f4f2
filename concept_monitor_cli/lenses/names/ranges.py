"""Ranges: what a unit says at each height of its activation (La Rosa, Gilpin & Capobianco 2023).

Above 500 lines, because a detector is one file, and this one looks for and judges five labels of every unit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from concept_monitor_cli.functional.calibration import benjamini_hochberg, p_values
from concept_monitor_cli.functional.compositional import (
    LENGTH,
    MOST_LOOKS,
    CellPixels,
    CutImages,
    Formula,
    SearchKind,
    SearchResult,
    formula_group_counts,
    search_formulas,
)
from concept_monitor_cli.functional.dissection import (
    UnitMasks,
    candidate_ious,
    chance_effects,
    shuffled_rows,
)
from concept_monitor_cli.functional.groups import halves
from concept_monitor_cli.functional.unit_ranges import RANGES, Cut, cut_ranges, range_masks
from concept_monitor_cli.lenses.base import Findings
from concept_monitor_cli.lenses.halves import LEAST_GROUPS, Halves, asked_units
from concept_monitor_cli.lenses.names.compositional import FormulaWords
from concept_monitor_cli.lenses.names.mask_halves import asked_of_other_half, on_images
from concept_monitor_cli.lenses.names.masked import FEWEST_GROUPS, PixelDetector
from concept_monitor_cli.record.requests import Recording
from concept_monitor_cli.record.whole_maps import PackedMaps, WholeMaps
from concept_monitor_cli.run import TableSchema
from concept_monitor_cli.run.kinds import Shown
from concept_monitor_cli.run.traits import LabelKind
from concept_monitor_cli.wording import sum_text

if TYPE_CHECKING:
    from concept_monitor_cli.options import DissectOptions
    from concept_monitor_cli.store import Entry, Writer
    from concept_monitor_cli.study.context import Context

# Formulas kept at each length: the publication's. Every unit has five searches.
BEAM = 5
# As for `compositional`, a draw costs a search of each range of each unit. With `R` draws, `20 / R` units
# beyond all of them are the fewest that can be called at a share of 0.05.
FEWEST_DRAWS, MOST_DRAWS = 3, 20
SEARCHES = 6000
# Bytes that the masks of some units and their counts may take: so many units are looked at together.
_MEMORY = 1 << 27
# Cells of an image that a range meets, about: what blocks are measured by.
_CELLS = 8

# What is known of every range of every unit.
TABLE = TableSchema.of_units(
    "ranges",
    {
        "range": "int",
        "low": "float",
        "high": "float",
        "weight": "float",
        "share": "float",
        "concept": "str",
        "category": "str",
        "score": "float",
        "gap": "float",
        "proved": "bool",
        "precision": "float",
        "coverage": "float",
        "samples": "float",
        "effect": "float",
        "p_value": "float",
        "interpretable": "bool",
        "specialised": "str",
    },
    ("range",),
    shown=Shown("names", "range_figures.ranges_over_epochs", "ranges"),
)
_OWN = set(list(TABLE.columns)[5:])


@dataclass(frozen=True)
class _Examined:
    """What is found of the ranges of some units, `(n, RANGES)` each; empty where there is no range.

    Attributes:
        found: the search of each; `None` for a unit without ranges.
        supported: the part of the IoU that does not hang on one image.
        area: pixels of each range.
        samples: of the images that show its formula, the share in which the range meets it.
        margin: by how much that exceeds the IoU of a formula and a range that have nothing to do with each
            other; what decides which range is a unit's strongest.
        effect: beyond chance, in standard deviations of the range's own draws.
        drawn: `(R, n, RANGES)`, the effects of the draws.
        drawn_most: `(R, n)`, that of the strongest range of each draw.
    """

    found: list[list[SearchResult]]
    supported: NDArray[np.float64]
    area: NDArray[np.int64]
    samples: NDArray[np.float64]
    margin: NDArray[np.float64]
    effect: Tensor
    drawn: Tensor
    drawn_most: Tensor

    def formula(self, unit: int, place: int) -> Formula | None:
        """The best formula of a range."""
        best = self.found[unit][place].best
        return best[-1].formula if best else None

    @property
    def strongest(self) -> NDArray[np.int64]:
        """`(n,)`: the range of each unit with the largest margin; 0 where there is none."""
        return _strongest(self.margin)

    @property
    def most(self) -> Tensor:
        """`(n,)`: its effect; NaN where there is none."""
        return self.effect.gather(1, torch.from_numpy(self.strongest)[:, None])[:, 0]


def _strongest(margin: NDArray[np.float64]) -> NDArray[np.int64]:
    found: NDArray[np.int64] = margin.argmax(axis=-1)
    return found


class Ranges(PixelDetector):
    """Names a unit by what it says at each of five ranges of its activation.

    The values of a unit's maps are divided into five ranges by exact k-means (the zeros of a rectified unit
    are in none), and of each range the formula of labels is searched that has the highest IoU with the
    pixels where the unit is in that range, as for `compositional`. The label of a unit is what it says at its
    strongest range, such as `3.1 (dog OR cat)`: the weight is how far the mean of the range is from that of
    all values, in the unit's standard deviations, and the score is the IoU. The strongest range is that with
    the highest supported IoU beyond what a formula and a range of their sizes have by chance.

    What a range is compared with is what the same search finds for the same range laid over the wrong images,
    as wide ranges overlap anything better. A unit's p-value compares its strongest range with those of draws.

    Args:
        length: most labels in a formula.
        beam: formulas kept at each length.
        search: see `search_formulas`.
    """

    name: ClassVar[str] = "ranges"
    summary: ClassVar[str] = "what it says at five heights of its activation, by masks"
    paper: ClassVar[str] = "La Rosa et al., NeurIPS 2023"
    labels: ClassVar[LabelKind] = "ranges"
    tables: ClassVar[tuple[TableSchema, ...]] = (TABLE,)

    def __init__(self, length: int = LENGTH, beam: int = BEAM, search: SearchKind = "auto") -> None:
        self.length, self.beam = length, beam
        self.search: SearchKind = search

    @classmethod
    def from_options(cls, options: DissectOptions) -> Ranges:
        """See `Detector`."""
        return cls(options.length, min(BEAM, options.beam), options.search)

    def settings(self) -> dict[str, Any]:
        """See `Detector`."""
        return {
            "ranges": RANGES,
            "length": self.length,
            "beam": self.beam,
            "search": self.search,
            "most_looks": MOST_LOOKS,
            "draws": [FEWEST_DRAWS, MOST_DRAWS, SEARCHES],
            "fewest_groups": FEWEST_GROUPS,
            "memory": _MEMORY,
        }

    def recording(self, context: Context) -> Recording:
        """See `Detector`."""
        return WholeMaps()

    def find(
        self, entry: Entry, context: Context, *, untrained: Sequence[Entry] = (), matrix: bool = False
    ) -> Findings:
        """See `Detector`. There is no score matrix.

        `more` holds `ranges`: for every range of a live unit `unit`, `range` (1 has the lowest values),
        `low` (inclusive), `high`, `weight`, `share` (of all pixels), `concept`, `category`, `score` (IoU),
        `gap`, `proved` (as for `compositional`), `precision` (of the formula's pixels, inside the range),
        `coverage` (of the range's pixels, inside the formula), `samples` (of the images that show the
        formula, those in which the range meets it), `effect`, `p_value`, `interpretable`, and, with `--null
        untrained`, `specialised`: `yes` where the range is called and no unit of the untrained networks has
        that formula at that range.
        """
        self.check_groups(context)
        maps = PackedMaps.read(entry)
        alive = entry.read("live").astype(bool)
        cuts, firing = _cuts(maps, alive, context)
        known = np.array([cut is not None for cut in cuts])
        sparse = alive & known & (firing < FEWEST_GROUPS)
        live = alive & known & ~sparse
        units = np.flatnonzero(live)
        seen = self._examine(maps, units, [cuts[unit] for unit in units], context)
        p_of_range, p_of_unit, default = self._tested(seen, untrained, context)
        called = benjamini_hochberg(p_of_range.flatten(), context.fdr).view_as(p_of_range).numpy()
        count = len(live)
        p = np.full(count, np.nan)
        p[units] = p_of_unit.numpy()
        interpretable = benjamini_hochberg(torch.from_numpy(p), context.fdr).numpy()
        words = FormulaWords(context.labels)
        concepts, categories = (np.full((count, 1), "", dtype=object) for _ in range(2))
        scores, effect = np.full((count, 1), np.nan, dtype=np.float32), np.full(count, np.nan)
        rows: list[dict[str, Any]] = []
        strongest, most = seen.strongest.tolist(), _finite(seen.most, len(seen.drawn)).numpy()
        for row, unit in enumerate(units):
            cut = cuts[unit]
            assert cut is not None
            own = strongest[row]
            best = seen.found[row][own].best
            if best:
                concepts[unit, 0] = _label(seen, row, cut, words)
                categories[unit, 0] = _category(best[-1].formula, words, context)
                scores[unit, 0], effect[unit] = best[-1].iou, most[row]
            rows += [
                {
                    "unit": unit,
                    **_range_row(cut, place, seen, row, len(maps) * int(np.prod(context.labels.size))),
                    **_formula_row(seen.found[row][place], words, context),
                    "p_value": float(p_of_range[row, place]),
                    "interpretable": bool(called[row, place]),
                    "specialised": ""
                    if default is None
                    else "yes"
                    if called[row, place] and (place, _text(seen, row, place, words)) not in default
                    else "no",
                }
                for place in range(len(cut.means))
            ]
        return Findings(
            concepts=concepts,
            categories=categories,
            scores=scores,
            p_values=p,
            interpretable=interpretable,
            live=live,
            sparse=sparse,
            effect=effect,
            calibration={
                "sparse": int(sparse.sum()),
                "null": context.null,
                "draws": int(seen.drawn.shape[0]) * len(units),
                "fdr": context.fdr,
                "interpretable": int(interpretable.sum()),
                "ranges_called": int(called.sum()),
            },
            more={TABLE.name: _columns(rows)},
        )

    def _examine(
        self,
        maps: PackedMaps,
        units: NDArray[np.int64],
        cuts: Sequence[Cut | None],
        context: Context,
        draws: int | None = None,
    ) -> _Examined:
        """Search the ranges of some units, and those of masks laid over the wrong images.

        Args:
            maps: of the layer.
            units: which of them.
            cuts: of these.
            context: see `find`.
            draws: of chance; as many as `find` takes by default. Without any there are no effects.
        """
        if draws is None:
            draws = max(FEWEST_DRAWS, min(MOST_DRAWS, SEARCHES // max(1, RANGES * len(cuts))))
        labels = context.labels
        images = CutImages.of(labels, len(labels.names), labels.size)
        found: list[list[SearchResult]] = []
        area, samples = [], []
        support: list[list[NDArray[np.float64]]] = [[] for _ in range(draws + 1)]
        margins: list[list[NDArray[np.float64]]] = [[] for _ in range(draws + 1)]
        for block, some in self._blocks(len(cuts), maps, draws, context):
            masks = range_masks(torch.from_numpy(maps.of(units[block])), cuts[block], labels.size)
            laid = [(masks.image, np.arange(len(masks)))] + [
                shuffled_rows(masks, groups=context.groups, seed=(context.seed * 1009 + draw) * 8191 + some)
                for draw in range(draws)
            ]
            pixels = CellPixels.count(images, masks, laid)
            results = search_formulas(
                pixels.cells,
                pixels.counts(labels.category_numbers),
                length=self.length,
                beam=self.beam,
                search=self.search,
            )
            best = [each.best[-1] if each.best else None for each in results]
            supported = pixels.supported(best, context.groups)
            count = masks.n_units
            shown, met = pixels.images_met([None if each is None else each.formula for each in best[:count]])
            found += [results[first : first + RANGES] for first in range(0, count, RANGES)]
            samples.append(np.divide(met, shown, out=np.full(len(met), np.nan), where=shown > 0))
            area.append(pixels.area[:count])
            margin = supported - _independent(results, len(maps) * int(np.prod(masks.size)))
            for part in range(draws + 1):
                own = slice(part * count, (part + 1) * count)
                support[part].append(supported[own])
                margins[part].append(margin[own])
        of_parts, margin = (
            np.stack([np.concatenate([np.zeros(0), *each]).reshape(-1, RANGES) for each in some])
            for some in (support, margins)
        )
        areas = np.concatenate([np.zeros(0, dtype=np.int64), *area]).reshape(-1, RANGES)
        tested, drawn = (
            torch.from_numpy(np.where(areas > 0, of_parts[0], np.nan)),
            torch.from_numpy(of_parts[1:]),
        )
        effect, beyond = torch.full_like(tested, torch.nan), torch.full_like(drawn, torch.nan)
        if draws:
            effects = [chance_effects(tested[:, r], drawn[:, :, r]) for r in range(RANGES)]
            effect = torch.stack([each for each, _ in effects], 1)
            beyond = torch.stack([each for _, each in effects], 2).masked_fill(tested.isnan(), torch.nan)
        strongest = torch.from_numpy(_strongest(margin[1:]))[..., None]
        return _Examined(
            found,
            of_parts[0],
            areas,
            np.concatenate([np.zeros(0), *samples]).reshape(-1, RANGES),
            margin[0],
            effect,
            beyond,
            beyond.gather(2, strongest)[..., 0],
        )

    def _blocks(
        self, count: int, maps: PackedMaps, draws: int, context: Context
    ) -> Iterator[tuple[slice, int]]:
        """Units that are looked at together, and the number of the first."""
        height, width = context.labels.size
        # A row of a mask has at most about two runs for each column of the map, and each range some entries
        # for each image that it is laid over.
        runs, entries = height * min(width, 2 * maps.codes.shape[3]) * 4, RANGES * _CELLS * (draws + 1) * 16
        step = max(1, _MEMORY // (max(1, len(maps)) * (runs + entries)))
        for first in range(0, count, step):
            yield slice(first, first + step), first

    def _tested(
        self, seen: _Examined, untrained: Sequence[Entry], context: Context
    ) -> tuple[Tensor, Tensor, set[tuple[int, str]] | None]:
        """p-values of ranges and of units, and what ranges of untrained networks are called."""
        if not untrained:
            p = _p_values(seen.effect.flatten(), seen.drawn).view_as(seen.effect)
            return p, _p_values(seen.most, seen.drawn_most), None
        kept = [self._untrained(entry, context) for entry in untrained]
        null, most = (torch.from_numpy(np.concatenate(each)) for each in list(zip(*kept, strict=True))[:2])
        p = torch.stack([_p_values(seen.effect[:, r], null[:, r]) for r in range(RANGES)], 1)
        default = {(place, text) for *_, texts in kept for own in texts for place, text in enumerate(own)}
        return p, _p_values(seen.most, most), default

    def _untrained(
        self, entry: Entry, context: Context
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.object_]]:
        """What the ranges of a network with random weights say; kept.

        Returns:
            their effects `(n, RANGES)`, that of each unit's strongest `(n,)`, and formulas `(n, RANGES)`.
        """
        key = context.store.key(
            "null",
            detector=self.name,
            settings=self.settings(),
            recording=entry.key.digest,
            seed=context.seed,
            **self.depends_on(context),
        )

        def make(writer: Writer) -> None:
            maps, alive = PackedMaps.read(entry), entry.read("live").astype(bool)
            cuts, _ = _cuts(maps, alive, context)
            units = np.flatnonzero([cut is not None for cut in cuts])
            seen = self._examine(maps, units, [cuts[unit] for unit in units], context)
            words = FormulaWords(context.labels)
            texts = [[_text(seen, row, place, words) for place in range(RANGES)] for row in range(len(units))]
            writer.put("effects", seen.effect.numpy())
            writer.put("most", seen.most.numpy())
            writer.put("texts", np.array(texts, dtype=object).reshape(-1, RANGES))

        with context.store.get_or_make(key, make) as kept:
            return kept.read("effects"), kept.read("most"), kept.read("texts").astype(object)

    def halves(self, entry: Entry, context: Context) -> Halves | None:
        """See `Detector`: the IoU of the strongest range with its formula on the other half.

        Ranges are those of all images.
        """
        self.check_groups(context)
        maps = PackedMaps.read(entry)
        alive = entry.read("live").astype(bool)
        cuts, firing = _cuts(maps, alive, context)
        known = np.array([cut is not None for cut in cuts])
        units = asked_units(alive & known & (firing >= FEWEST_GROUPS))
        if context.groups.n_groups < 2 * LEAST_GROUPS or not len(units):
            return None
        own_cuts = [cuts[unit] for unit in units]
        first = halves(context.groups, seed=context.seed)
        rows = [np.flatnonzero(half) for half in (first, ~first)]
        contexts = [on_images(context, own) for own in rows]
        sides = [maps.part(own, units) for own in rows]
        every = np.arange(len(units))
        named = [
            self._examine(side, every, own_cuts, some, 0) for side, some in zip(sides, contexts, strict=True)
        ]
        found = [
            self._on_other_half(named[here], sides[1 - here], own_cuts, contexts[1 - here]) for here in (0, 1)
        ]
        own, chance = (torch.stack(pair).nanmean(0).numpy() for pair in zip(*found, strict=True))
        words = FormulaWords(context.labels)
        texts = [
            np.array([_label(seen, row, cut, words) for row, cut in enumerate(own_cuts)], dtype=object)
            for seen in named
        ]
        return Halves(units, texts[0], texts[1], np.full(len(units), np.nan), own, chance, measure="iou")

    def _on_other_half(
        self, seen: _Examined, maps: PackedMaps, cuts: Sequence[Cut | None], context: Context
    ) -> tuple[Tensor, Tensor]:
        """The IoU of every unit's strongest range with its formula, and with those of other units."""
        strongest = seen.strongest
        parts = []
        for block, _ in self._blocks(len(cuts), maps, 0, context):
            masks = range_masks(torch.from_numpy(maps.of(block)), cuts[block], context.labels.size)
            chosen = np.arange(len(cuts[block])) * RANGES + strongest[block]
            parts.append(masks.part(np.arange(masks.n_images), chosen))
        masks = UnitMasks.side_by_side(parts)
        labels = [seen.formula(row, int(place)) for row, place in enumerate(strongest)]
        return asked_of_other_half(self, labels, masks, context, context.seed)

    def ious_of(
        self, masks: UnitMasks, candidates: Sequence[Sequence[Any]], context: Context
    ) -> NDArray[np.float64]:
        """The IoU of each of some masks with each of its formulas, `(n, L)`."""
        numbers = context.labels.category_numbers
        return candidate_ious(
            formula_group_counts(context.labels, masks, candidates, numbers, context.groups)
        )


def _cuts(
    maps: PackedMaps, alive: NDArray[np.bool_], context: Context
) -> tuple[list[Cut | None], NDArray[np.int64]]:
    """How the values of every unit are divided, `None` for a dead one, and on how many groups of images each
    is in a range at all."""
    cuts: list[Cut | None] = []
    groups = np.zeros(len(alive), dtype=np.int64)
    for unit in np.flatnonzero(alive):
        values = maps.of(slice(unit, unit + 1))[:, 0]
        # A map with NaN is in no range.
        whole = values[~np.isnan(values).any(axis=(1, 2))]
        cuts += [None] * (unit - len(cuts)) + [cut_ranges(whole.ravel())]
        cut = cuts[-1]
        if cut is not None:
            highest = values.max(axis=(1, 2))  # NaN is passed on
            fires = highest > (0 if cut.rectified else -np.inf)
            groups[unit] = len(np.unique(context.groups.of[fires]))
    return cuts + [None] * (len(alive) - len(cuts)), groups


def _p_values(values: Tensor, null: Tensor) -> Tensor:
    """Of those that are known, against the known draws."""
    drawn = null.flatten()
    drawn = drawn[~drawn.isnan()]
    if not len(drawn):
        return torch.where(values.isnan(), torch.nan, 1.0).double()
    return p_values(values, drawn)


def _finite(effect: Tensor, draws: int) -> Tensor:
    """Effects of which no draw differs from another, as in `chance_effect`."""
    most = (draws + 1) / draws**0.5
    return torch.where(effect.isinf(), effect.sign() * most, effect)


def _category(formula: Formula, words: FormulaWords, context: Context) -> str:
    return words.category(formula, np.zeros(len(context.labels.names)))


def _text(seen: _Examined, row: int, place: int, words: FormulaWords) -> str:
    formula = seen.formula(row, place)
    return "" if formula is None else words.text(formula)


def _label(seen: _Examined, row: int, cut: Cut | None, words: FormulaWords) -> str:
    """What a unit says at its strongest range; nothing where no label is there."""
    place = int(seen.strongest[row])
    formula = seen.formula(row, place)
    if formula is None or cut is None:
        return ""
    text = words.text(formula)
    return sum_text([(float(cut.weights[place]), f"({text})" if formula.length > 1 else text)])


def _independent(found: Sequence[SearchResult], pixels: int) -> NDArray[np.float64]:
    """The IoU that each range and its formula would have if they had nothing to do with each other.

    Infinite where there is no formula, which is no unit's strongest.
    """
    ious = np.full(len(found), np.inf)
    for place, each in enumerate(found):
        if each.best:
            best = each.best[-1]
            shared = best.unit_area * best.formula_area / pixels
            ious[place] = shared / (best.unit_area + best.formula_area - shared)
    return ious


def _range_row(cut: Cut, place: int, seen: _Examined, row: int, pixels: int) -> dict[str, Any]:
    """A range, and how well its formula tells it."""
    best = seen.found[row][place].best
    area = int(seen.area[row, place])
    shared = best[-1].intersection if best else 0
    return {
        "range": place + 1,
        "low": cut.low if place == 0 else float(cut.edges[place]),
        "high": cut.high if place == len(cut.means) - 1 else float(cut.edges[place + 1]),
        "weight": float(cut.weights[place]),
        "share": area / pixels,
        "precision": shared / best[-1].formula_area if best else np.nan,
        "coverage": shared / area if best else np.nan,
        "samples": float(seen.samples[row, place]),
        "effect": float(_finite(seen.effect[row, place], len(seen.drawn))),
    }


def _formula_row(found: SearchResult, words: FormulaWords, context: Context) -> dict[str, Any]:
    """A formula."""
    if not found.best:
        return {"concept": "", "category": "", "score": np.nan, "gap": np.nan, "proved": False}
    best, gap = found.best[-1], found.gaps[-1]
    return {
        "concept": words.text(best.formula),
        "category": _category(best.formula, words, context),
        "score": best.iou,
        "gap": gap,
        "proved": gap == 0,
    }


def _columns(rows: Sequence[dict[str, Any]]) -> dict[str, NDArray[Any]]:
    kinds: dict[str, Any] = {"int": np.int64, "float": np.float64, "str": object, "bool": np.bool_}
    own = {name: kind for name, kind in TABLE.columns.items() if name == "unit" or name in _OWN}
    return {name: np.array([row[name] for row in rows], dtype=kinds[kind]) for name, kind in own.items()}
