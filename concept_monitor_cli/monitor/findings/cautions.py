"""What speaks against trusting a run: few images, images that do not fit, units that repeat each other, luck.

These are plain facts with fixed thresholds, not statements that luck could make.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from concept_monitor_cli.functional.luck import change_by_luck, count_by_luck
from concept_monitor_cli.lenses.responses import FEW, REDUNDANT
from concept_monitor_cli.monitor.alerts import Alert, Rules, alerts, relative_detectors
from concept_monitor_cli.monitor.confidence import FALSE_CHANGES
from concept_monitor_cli.monitor.crowded import FEWEST, SHARE
from concept_monitor_cli.monitor.findings.base import Finding, Kind
from concept_monitor_cli.monitor.findings.rules import (
    changes_beside_luck,
    drift_beside_luck,
    is_named,
    named_with_random_weights,
)
from concept_monitor_cli.monitor.findings.tables import Layer, RunTables
from concept_monitor_cli.study import FEW_IMAGES

#: From this share of units that cannot be named on.
SILENT = 0.25
#: A statement that luck makes this often is none.
_BY_LUCK = 0.05
_FROM_ALERTS: dict[str, Kind] = {"collapsing": "collapsing", "clumping": "clumping", "dying": "dying"}

#: What is said of a run whose images are renderings because no others were named.
RENDERINGS = (
    "the images are cmon's own renderings, for trying only: names of renderings say little about a network "
    "trained on photos. Name photos: --probe photos/"
)


def cautions(tables: RunTables) -> list[Finding]:
    """What a reader should know before trusting the other sentences, the weightiest first.

    Args:
        tables: of the run.
    """
    per_layer: tuple[Callable[[Layer], Iterator[Finding]], ...] = (
        crowded,
        not_held_out,
        training_goes_wrong,
        repeating,
        untrained,
        silent,
        luck,
        still,
    )
    found = [*renderings(tables), *few_images(tables)]
    for rule in per_layer:
        # Of several layers the worst one: the others say the same.
        own = [each for layer in tables.layers() for each in rule(layer)]
        found += {each.kind: each for each in sorted(own, key=lambda each: each.standard_errors)}.values()
    return [_plain(each) for each in found]


def _plain(found: Finding) -> Finding:
    """Without the weight that chose among layers: a caution is no statement about luck."""
    return replace(found, standard_errors=math.nan)


def without_probe(info: Mapping[str, Any]) -> bool:
    """Whether the images of a run are renderings because no others were named.

    Args:
        info: the content of `run.json`.
    """
    return "options" in info and info["options"].get("probe") is None


def caption(info: Mapping[str, Any]) -> str:
    """What stands below the table and the plots of a run: what names of renderings are worth; else `""`.

    Args:
        info: the content of `run.json`.
    """
    return f"{RENDERINGS[0].upper()}{RENDERINGS[1:]}" if without_probe(info) else ""


def renderings(tables: RunTables) -> Iterator[Finding]:
    """The images are the built-in ones, and nobody asked for them."""
    if without_probe(tables.info):
        images = float(tables.info["probe"]["images"])
        yield Finding(RENDERINGS, "renderings", None, "", images, math.nan, "run.json (probe)")


def few_images(tables: RunTables) -> Iterator[Finding]:
    """There are few independent photos."""
    probe = tables.info.get("probe", {})
    groups = probe.get("groups", probe.get("images"))
    if groups is None or groups >= FEW_IMAGES or without_probe(tables.info):
        return
    yield Finding(
        f"{groups} independent images are few: a label hangs on one or two of them, and chance is known only "
        f"coarsely. Take {FEW_IMAGES} or more, better some thousands: --probe",
        "few-images",
        None,
        "",
        float(groups),
        math.nan,
        "run.json (probe.groups)",
    )


def crowded(layer: Layer) -> Iterator[Finding]:
    """Most units have one and the same concept."""
    epoch = layer.epochs[-1]
    rows = layer.at(layer.tables.first, epoch)
    if rows is None:
        return
    best = rows.loc[(rows["state"] == "live") & (rows["concept"] != ""), "concept"].tolist()
    if len(best) < FEWEST:
        return
    concept, count = Counter(best).most_common(1)[0]
    if count <= SHARE * len(best):
        return
    yield _caution(
        layer,
        f"{count} of {len(best)} live units have the concept {concept!r} at epoch {epoch}: these images or "
        "words do not tell units apart. More varied photos or other words do: --probe, --concepts",
        "crowded",
        count,
        weight=count / len(best),
    )


def not_held_out(layer: Layer) -> Iterator[Finding]:
    """Labels do not hold on images that had no part in choosing them."""
    epoch = layer.epochs[-1]
    if epoch not in layer.whole.index or layer.whole.loc[epoch, "held_out_word"] != "no better than chance":
        return
    value, chance = layer.number("held_out", epoch), layer.number("held_out_chance", epoch)
    if math.isnan(value) or math.isnan(chance):
        return
    name = "IoU" if layer.whole.loc[epoch, "held_out_measure"] == "iou" else "AUC"
    yield _caution(
        layer,
        f"labels hold no better than chance on images that had no part in choosing them ({name} {value:.2f}, "
        f"labels of other units {chance:.2f}, epoch {epoch}): trust no single label. More photos, or photos "
        "and words that fit the network: --probe, --concepts",
        "not-held-out",
        value,
        chance=chance,
        weight=chance - value,
    )


def training_goes_wrong(layer: Layer) -> Iterator[Finding]:
    """Units collapse, clump or die, and do so still at the last epoch."""
    rows = layer.whole.reset_index().assign(layer=layer.name, detector=layer.detector)
    relative = relative_detectors(layer.tables.info)
    for alert in alerts(rows, Rules(), relative=relative, standing=True):
        if alert.rule in _FROM_ALERTS:
            yield _of_alert(layer, alert)


def _of_alert(layer: Layer, alert: Alert) -> Finding:
    return _caution(
        layer,
        f"at epoch {alert.epoch} {alert.message}",
        _FROM_ALERTS[alert.rule],
        alert.value,
        before=alert.before,
        weight=abs(alert.value - alert.before),
    )


def repeating(layer: Layer) -> Iterator[Finding]:
    """Units repeat each other."""
    epoch = layer.epochs[-1]
    names = ("redundant", "effective_units", "effective_units_chance")
    redundant, effective, chance = (layer.number(name, epoch) for name in names)
    if not (redundant >= REDUNDANT or effective <= FEW * chance):
        return
    advice = ". Units that are alike get wrong, different names: --similarity cos-cubed"
    yield _caution(
        layer,
        f"{redundant:.0%} of the units repeat another one at epoch {epoch}, and together they count as "
        f"{effective:.0f} different ones (independent units: {chance:.0f})"
        f"{advice if layer.detector in relative_detectors(layer.tables.info) else ''}",
        "repeating",
        redundant,
        chance=layer.number("redundant_chance", epoch),
        weight=redundant,
    )


def untrained(layer: Layer) -> Iterator[Finding]:
    """As many units name a concept with random weights: training did not bring that about."""
    epoch = layer.epochs[-1]
    random = named_with_random_weights(layer)
    value = layer.number("interpretable", epoch)
    if math.isnan(random) or not (value or random) or is_named(layer, epoch) > _BY_LUCK:
        return
    if value > random and change_by_luck(value, random, design=layer.design(epoch)) <= _BY_LUCK:
        return
    doubt = (
        "so few different units do not tell whether training made them name one"
        if value > random
        else "training is not what made them name one"
    )
    yield _caution(
        layer,
        f"{value:.0f} units name a concept at epoch {epoch}, with random weights {random:.0f}: {doubt}",
        "untrained",
        value,
        chance=random,
        weight=random - value,
    )


def silent(layer: Layer) -> Iterator[Finding]:
    """Many units are dead, or fire on too few images to be named."""
    epoch = layer.epochs[-1]
    rows = layer.at(layer.tables.first, epoch)
    if rows is None:
        return
    dead, sparse = (int((rows["state"] == state).sum()) for state in ("dead", "sparse"))
    if dead + sparse < SILENT * len(rows):
        return
    yield _caution(
        layer,
        f"{dead} of {len(rows)} units are dead at epoch {epoch}, {sparse} fire on too few images to be "
        "named: these images may not be what the network was trained on (--probe), or were shown otherwise "
        "(--input-size, --mean, --std)",
        "silent",
        dead + sparse,
        weight=(dead + sparse) / len(rows),
    )


def luck(layer: Layer) -> Iterator[Finding]:
    """Changes of label are no more than luck gives."""
    found = changes_beside_luck(layer)
    if found is None:
        return
    sure, labels, steps = found
    by_luck = count_by_luck(sure, steps, FALSE_CHANGES, design=layer.design(*layer.epochs))
    if not labels or by_luck <= _BY_LUCK:
        return
    yield _caution(
        layer,
        f"of {labels} changes of label between epochs {sure} withstand other images, luck gives up to "
        f"{FALSE_CHANGES * steps:.0f}: read no single change",
        "luck",
        sure,
        chance=FALSE_CHANGES * steps,
        weight=by_luck,
        table="changes.csv (cmon units",
    )


def still(layer: Layer) -> Iterator[Finding]:
    """Units move no further among the words than luck moves them."""
    found = drift_beside_luck(layer)
    if found is None:
        return
    value, by_luck, _, p = found
    if value > by_luck and p <= _BY_LUCK:
        return
    yield _caution(
        layer,
        f"units move {value:.2f} among the words, luck alone {by_luck:.2f}: read no single path on the map",
        "still",
        value,
        chance=by_luck,
        weight=by_luck - value,
        table="units.csv (cmon units",
    )


def _caution(
    layer: Layer,
    said: str,
    kind: Kind,
    value: float,
    *,
    chance: float = math.nan,
    before: float = math.nan,
    weight: float,
    table: str = "statistics.csv (cmon stats",
) -> Finding:
    return Finding(
        f"{layer.where}: {said}",
        kind,
        layer.epochs[-1],
        layer.name,
        float(value),
        chance,
        f"tables/{table} --layer {layer.name})",
        layer.detector,
        before=before,
        standard_errors=weight,
    )
