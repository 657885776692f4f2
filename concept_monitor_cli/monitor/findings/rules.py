"""What a run shows: every statement that its tables allow, each with the probability of so much by luck.

A rule tries all of its statements, whether they turn out strong or weak: which of them are said is decided
over all together (`base.choose`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from concept_monitor_cli.functional.luck import change_by_luck, count_by_luck, mean_by_luck
from concept_monitor_cli.monitor.confidence import FALSE_CHANGES
from concept_monitor_cli.monitor.findings.base import Finding
from concept_monitor_cli.monitor.findings.tables import Layer, RunTables, fdr_of
from concept_monitor_cli.monitor.history import UNCATEGORISED

#: A unit's p-value that luck reaches in this share of units.
_REACHED = 0.05

_HELD = {
    "well": "they hold well",
    "somewhat": "they hold somewhat",
    "weakly": "they hold weakly, more photos would help",
}


def statements(tables: RunTables) -> list[Finding]:
    """Every statement that the tables of a run allow.

    Args:
        tables: of the run.
    """
    per_layer: tuple[Callable[[Layer], Iterator[Finding]], ...] = (
        named,
        growth,
        fall,
        categories,
        held_out,
        changes,
        settling,
        drift,
    )
    tried = [each for layer in tables.layers() for rule in per_layer for each in rule(layer)]
    return [*tried, *agreement(tables)]


def units_beyond_chance(layer: Layer, epoch: int) -> tuple[int, int]:
    """How many live units have a p-value that luck reaches in `_REACHED` of them, and how many live units.

    Both 0 where the detector gives no p-values.
    """
    rows = layer.at(layer.tables.first, epoch)
    if rows is None:
        return 0, 0
    p = rows.loc[(rows["state"] == "live") & (rows["concept"] != ""), "p_value"].dropna()
    return int((p <= _REACHED).sum()), len(p)


def is_named(layer: Layer, epoch: int) -> float:
    """Probability of so many units beyond chance by luck; 1 where it cannot be asked."""
    count, total = units_beyond_chance(layer, epoch)
    return count_by_luck(count, total, _REACHED, design=layer.design(epoch)) if total else 1.0


def named_with_random_weights(layer: Layer) -> float:
    """Interpretable units of the layer with random weights; NaN where it was not asked."""
    rows = layer.rows(layer.tables.untrained)
    return math.nan if rows is None else float((rows["interpretable"] & (rows["state"] == "live")).sum())


def _beside(layer: Layer, count: float) -> str:
    """What luck and random weights give for a number of interpretable units."""
    random = named_with_random_weights(layer)
    said = f"luck: at most {math.ceil(fdr_of(layer.tables.info) * count)} of them"
    return f"({said})" if math.isnan(random) else f"({said}; random weights: {random:.0f})"


def _stats(layer: Layer) -> str:
    return f"tables/statistics.csv (cmon stats --layer {layer.name})"


def _units(layer: Layer, table: str = "units") -> str:
    return f"tables/{table}.csv (cmon units --layer {layer.name})"


# -- how many units name a concept --------------------------------------------------------------


def named(layer: Layer) -> Iterator[Finding]:
    """How many units name a concept at the last epoch; where none does by itself, whether all do together."""
    epoch = layer.epochs[-1]
    reaching, tested = units_beyond_chance(layer, epoch)
    if not tested:
        return
    value = layer.number("interpretable", epoch)
    if not value:
        yield Finding(
            f"{layer.where}: no single unit names a concept beyond chance at epoch {epoch}, but {reaching} "
            f"of {tested} have a p-value of {_REACHED} or less (luck: {_REACHED * tested:.0f})",
            "together",
            epoch,
            layer.name,
            reaching,
            _REACHED * tested,
            _stats(layer),
            layer.detector,
            p_value=is_named(layer, epoch),
        )
        return
    units = layer.number("units", epoch)
    yield Finding(
        f"{layer.where}: {value:.0f} of {units:.0f} units name a concept beyond chance at epoch {epoch} "
        f"{_beside(layer, value)}",
        "named",
        epoch,
        layer.name,
        value,
        fdr_of(layer.tables.info) * value,
        _stats(layer),
        layer.detector,
        floor=named_with_random_weights(layer),
        p_value=is_named(layer, epoch),
    )


def growth(layer: Layer) -> Iterator[Finding]:
    """Do more or fewer units name a concept at the last epoch than at the first?"""
    if len(layer.epochs) < 2:
        return
    first, last = layer.epochs[0], layer.epochs[-1]
    sure = layer.history.interpretable
    before, value = layer.number("interpretable", first), layer.number("interpretable", last)
    way = "rise" if value > before else "fall"
    yield Finding(
        f"{layer.where}: units that name a concept beyond chance {way} from {before:.0f} to {value:.0f} of "
        f"{layer.number('units', last):.0f} between epochs {first} and {last} "
        f"{_beside(layer, value)}",
        "growth",
        last,
        layer.name,
        value,
        fdr_of(layer.tables.info) * value,
        _stats(layer),
        layer.detector,
        from_epoch=first,
        before=before,
        floor=named_with_random_weights(layer),
        p_value=_change(sure[:, 0], sure[:, -1], layer.design(first, last)),
    )


def fall(layer: Layer) -> Iterator[Finding]:
    """Do fewer units name a concept at the last epoch than at the best one?"""
    sure = layer.history.interpretable
    best = int(sure.sum(axis=0).argmax())
    if not 0 < best < len(layer.epochs) - 1:
        return
    epoch, last = layer.epochs[best], layer.epochs[-1]
    before, value = layer.number("interpretable", epoch), layer.number("interpretable", last)
    # The best of several epochs was chosen by the very numbers that are compared.
    p = min(1.0, len(layer.epochs) * _change(sure[:, best], sure[:, -1], layer.design(epoch, last)))
    yield Finding(
        f"{layer.where}: units that name a concept beyond chance fall from {before:.0f} at epoch {epoch}, "
        f"the best one, to {value:.0f} at epoch {last}",
        "fall",
        last,
        layer.name,
        value,
        before,
        _stats(layer),
        layer.detector,
        from_epoch=epoch,
        before=before,
        p_value=p,
    )


def _change(before: NDArray[np.bool_], after: NDArray[np.bool_], design: float) -> float:
    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    return change_by_luck(gained, lost, design=design)


def categories(layer: Layer) -> Iterator[Finding]:
    """Which kinds of concepts come and go between the first and the last epoch?"""
    history = layer.history
    kinds = np.array([name.category or UNCATEGORISED for name in history.names], dtype=object)
    known = sorted(set(kinds) - {UNCATEGORISED})
    if len(layer.epochs) < 2 or len(known) < 2:
        return
    first, last = layer.epochs[0], layer.epochs[-1]
    of_unit = np.where(history.labels >= 0, kinds[history.labels.clip(0)], "")
    for kind in known:
        sure = (of_unit == kind) & history.interpretable
        counts = sure.sum(axis=0).tolist()
        change = counts[-1] - counts[0]
        way = "rises" if change > 0 else "falls"
        said = (
            f"{layer.where}: the category {kind} {way} from {counts[0]} to {counts[-1]} units between epochs "
            f"{first} and {last}"
        )
        steps = [b - a for a, b in pairwise(counts)]
        if len(steps) > 1 and change:
            most = max(range(len(steps)), key=lambda t: steps[t] * math.copysign(1, change))
            said += f", {steps[most]:+d} between {layer.epochs[most]} and {layer.epochs[most + 1]}"
        yield Finding(
            said,
            "category",
            last,
            layer.name,
            counts[-1],
            counts[0],
            _stats(layer),
            layer.detector,
            from_epoch=first,
            before=counts[0],
            p_value=_change(sure[:, 0], sure[:, -1], layer.design(first, last)),
        )


# -- what labels are worth ----------------------------------------------------------------------


def held_out(layer: Layer) -> Iterator[Finding]:
    """Do labels predict what units do on images that had no part in choosing them?"""
    epoch = layer.epochs[-1]
    names = ("held_out", "held_out_chance", "held_out_error")
    value, chance, error = (layer.number(name, epoch) for name in names)
    if math.isnan(value) or math.isnan(chance) or math.isnan(error):
        return
    p = mean_by_luck(value - chance, error, layer.number("effective_units", epoch))
    word = str(layer.whole.loc[epoch, "held_out_word"])
    by_masks = layer.whole.loc[epoch, "held_out_measure"] == "iou"
    what = (
        f"labels overlap their units with IoU {value:.3f}, labels of other units {chance:.3f}"
        if by_masks
        else f"labels tell a unit's active images from others with AUC {value:.2f}, labels of other units "
        f"{chance:.2f}"
    )
    yield Finding(
        f"{layer.where}: on images that had no part in choosing them, {what}, at epoch {epoch}: "
        f"{_HELD.get(word, word)}",
        "held-out",
        epoch,
        layer.name,
        value,
        chance,
        _stats(layer),
        layer.detector,
        p_value=p if value > chance and word in _HELD else 1.0,
    )


def changes(layer: Layer) -> Iterator[Finding]:
    """How many changes of label are more than luck?"""
    found = changes_beside_luck(layer)
    if found is None:
        return
    sure, labels, steps = found
    chance = FALSE_CHANGES * steps
    yield Finding(
        f"{layer.where}: {sure} of {labels} changes of label between epochs are more than luck (luck: "
        f"{chance:.0f})",
        "changes",
        layer.epochs[-1],
        layer.name,
        sure,
        chance,
        _units(layer, "changes"),
        layer.detector,
        from_epoch=layer.epochs[0],
        p_value=count_by_luck(sure, steps, FALSE_CHANGES, design=layer.design(*layer.epochs)),
    )


def changes_beside_luck(layer: Layer) -> tuple[int, int, int] | None:
    """Confident changes, all changes of label, how often a unit could have changed; `None` if not known."""
    units = layer.rows(layer.tables.units)
    if units is None or layer.tables.changes is None or units["confident_changes"].isna().any():
        return None
    steps = int(layer.history.could_change.sum())
    if not steps:
        return None
    return int(units["confident_changes"].sum()), int(units["label_changes"].sum()), steps


# -- how units move -----------------------------------------------------------------------------


def settling(layer: Layer) -> Iterator[Finding]:
    """Do units change less from epoch to epoch in the end than in the beginning, by their activations?"""
    own = layer.rows(layer.tables.self_similarity)
    if own is None:
        return
    table = own.pivot(index="unit", columns="epoch", values="self_similarity")
    epochs = [int(epoch) for epoch in table.columns]
    if len(epochs) < 2:
        return
    both = table[[epochs[0], epochs[-1]]].dropna().to_numpy(dtype=float)
    if len(both) < 2:
        return
    before, value = both.mean(axis=0).tolist()
    difference = both[:, 1] - both[:, 0]
    count = len(both) * layer.design(layer.epochs[0], layer.epochs[-1])
    way = "settle" if value > before else "move more"
    place = {epoch: layer.epochs[number - 1] for number, epoch in enumerate(layer.epochs) if number}
    yield Finding(
        f"{layer.where}: units {way}: with itself a unit correlates {before:.2f} between epochs "
        f"{place[epochs[0]]} and {epochs[0]}, {value:.2f} between {place[epochs[-1]]} and {epochs[-1]} "
        "(unrelated: 0)",
        "settling",
        epochs[-1],
        layer.name,
        value,
        0.0,
        _units(layer, "self_similarity"),
        layer.detector,
        from_epoch=epochs[0],
        before=before,
        p_value=mean_by_luck(float(difference.mean()), _error(difference, count), count),
    )


def drift(layer: Layer) -> Iterator[Finding]:
    """Do units move further among the words than luck moves them?"""
    found = drift_beside_luck(layer)
    if found is None:
        return
    value, luck, unrelated, p = found
    apart = "" if math.isnan(unrelated) else f"; unrelated units lie {unrelated:.2f} apart"
    first, last = layer.epochs[0], layer.epochs[-1]
    yield Finding(
        f"{layer.where}: from epoch {first} to {last} units move {value:.2f} among the words, luck alone "
        f"{luck:.2f}{apart}",
        "drift",
        last,
        layer.name,
        value,
        luck,
        _units(layer),
        layer.detector,
        from_epoch=first,
        floor=unrelated,
        p_value=p if value > luck else 1.0,
    )


def drift_beside_luck(layer: Layer) -> tuple[float, float, float, float] | None:
    """Mean drift, what luck and unrelated units have, and the probability of the difference by luck."""
    units = layer.rows(layer.tables.units)
    if units is None or len(layer.epochs) < 2:
        return None
    values = units["drift"].dropna().to_numpy(dtype=float)
    luck, unrelated = float(units["drift_floor_halves"].max()), float(units["drift_floor_random"].max())
    if len(values) < 2 or math.isnan(luck):
        return None
    count = len(values) * layer.design(layer.epochs[-1])
    mean = float(values.mean())
    # What luck gives is a mean over as many units, with an error of its own.
    error = math.sqrt(2) * _error(values, count)
    return mean, luck, unrelated, mean_by_luck(mean - luck, error, count)


def _error(values: NDArray[np.float64], count: float) -> float:
    return float(values.std(ddof=1)) / math.sqrt(count) if count > 0 else math.nan


# -- what detectors say of each other -----------------------------------------------------------


def agreement(tables: RunTables) -> Iterator[Finding]:
    """Do two detectors give units the same concept more often than luck would, with the same words?"""
    if tables.agreement is None:
        return
    by_place = {(layer.name, layer.detector): layer for layer in tables.layers()}
    for row in tables.agreement.to_dict("records"):
        pair = [by_place.get((row["layer"], row[side])) for side in ("detector_a", "detector_b")]
        a, b = pair
        if a is None or b is None or row["epoch"] != a.epochs[-1] or not row["units"]:
            continue
        epoch, units, same = int(row["epoch"]), int(row["units"]), float(row["same"])
        known = float(row.get("same_chance", math.nan))
        chance = same_by_luck(a, b, epoch) if math.isnan(known) else known
        yield Finding(
            f"{a.name}: {a.detector} and {b.detector} give {same:.0%} of {units} units the same concept at "
            f"epoch {epoch} (luck: {chance:.0%})",
            "agreement",
            epoch,
            a.name,
            same,
            chance,
            "tables/agreement.csv (cmon dissect)",
            p_value=count_by_luck(round(same * units), units, chance, design=a.design(epoch)),
        )


def same_by_luck(a: Layer, b: Layer, epoch: int) -> float:
    """Share of units that two detectors name alike, were their labels dealt out to the units at random.

    Over the units that both name, with as many of each concept as they have there.
    """
    rows = [each.at(each.tables.first, epoch) for each in (a, b)]
    named_units = [
        dict(zip(own["unit"], own["concept"], strict=True))
        for each in rows
        if each is not None
        for own in [each[(each["state"] == "live") & (each["concept"] != "")]]
    ]
    if len(named_units) < 2:
        return 0.0
    both = sorted(set(named_units[0]) & set(named_units[1]))
    counts = [Counter(concepts[unit] for unit in both) for concepts in named_units]
    return sum(counts[0][word] * counts[1][word] for word in counts[0]) / max(len(both), 1) ** 2
