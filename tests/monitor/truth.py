"""Are sentences about a run true? Asked of its tables alone, with counts of our own.

Nothing here knows how sentences are made: each is read as a reader would, and every number in it is counted
again from the files of the run. A sentence that cannot be read is an error.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd

Row = dict[str, Any]


class RunFiles:
    """The files of a run, read plainly."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.info = json.loads((root / "run.json").read_text(encoding="utf-8"))
        concepts = pd.read_parquet(root / "tables" / "concepts.parquet")
        self.best = concepts[concepts["rank"] == 1].to_dict("records")

    def csv(self, name: str) -> list[Row]:
        path = self.root / "tables" / f"{name}.csv"
        if not path.is_file():
            return []
        frame = pd.read_csv(path, keep_default_na=False, na_values=[""], dtype={"layer": str})
        rows: list[Row] = frame.to_dict("records")
        return rows

    def findings(self) -> list[Row]:
        return self.csv("findings")

    def of(self, where: str, rows: list[Row]) -> list[Row]:
        layer, detector = place(where)
        return [
            row
            for row in rows
            if row["layer"] == layer and (detector is None or row.get("detector") == detector)
        ]

    def units(self, where: str, epoch: int) -> list[Row]:
        return [row for row in self.of(where, self.best) if row["epoch"] == epoch]

    def epochs(self, where: str) -> list[int]:
        return sorted({int(row["epoch"]) for row in self.of(where, self.best)})

    def named(self, where: str, epoch: int, category: str | None = None) -> int:
        return sum(
            bool(row["interpretable"])
            and row["state"] == "live"
            and (category is None or row["category"] == category)
            for row in self.units(where, epoch)
        )

    def random(self, where: str) -> int | None:
        layer, detector = place(where)
        files = sorted((self.root / "untrained").glob(f"*.{detector or '*'}.csv"))
        rows = [row for file in files for row in read(file).to_dict("records")]
        own = [row for row in rows if row["layer"] == layer and row["rank"] == 1]
        return sum(row["interpretable"] and row["state"] == "live" for row in own) if own else None

    def whole(self, where: str, epoch: int) -> Row:
        (row,) = (
            row
            for row in self.of(where, self.csv("statistics"))
            if row["category"] == "all" and row["epoch"] == epoch
        )
        return row


def read(file: Path) -> pd.DataFrame:
    return pd.read_csv(file, keep_default_na=False, dtype={"layer": str})


def place(where: str) -> tuple[str, str | None]:
    match = re.fullmatch(r"(\S+)(?: \((\S+)\))?", where)
    assert match, where
    return match[1], match[2]


def mean(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known)


def same(said: str, value: float | int | None) -> bool:
    """Whether a number as it is written is this number, rounded."""
    if value is None:
        return False
    if said.endswith("%"):
        return abs(float(said[:-1]) - 100 * value) <= 0.5 * (1 + 1e-9)
    digits = len(said.partition(".")[2])
    return abs(float(said) - value) <= 0.5 * 10**-digits * (1 + 1e-6)


N = r"-?\d+(?:\.\d+)?"
READINGS: list[tuple[str, Callable[..., list[bool]]]] = []


def reads(pattern: str) -> Callable[[Callable[..., list[bool]]], Callable[..., list[bool]]]:
    def keep(check: Callable[..., list[bool]]) -> Callable[..., list[bool]]:
        READINGS.append((pattern.replace("#", f"({N}%?)"), check))
        return check

    return keep


def luck_and_random(run: RunFiles, where: str, count: int, luck: str, random: str | None) -> list[bool]:
    fdr = run.info.get("options", {}).get("fdr", 0.05)
    at_most = int(luck) >= fdr * count > int(luck) - 1 or (count == 0 and int(luck) == 0)
    known = run.random(where)
    return [at_most, known is None if random is None else same(random, known)]


@reads(
    r"(.+?): # of # units name a concept beyond chance at epoch # \(luck: at most # of them(?:; "
    r"random weights: #)?\)"
)
def _(run, where, count, units, epoch, luck, random):
    real = run.named(where, int(epoch))
    return [
        same(count, real),
        same(units, len(run.units(where, int(epoch)))),
        int(epoch) == run.epochs(where)[-1],
        *luck_and_random(run, where, real, luck, random),
    ]


@reads(
    r"(.+?): no single unit names a concept beyond chance at epoch #, but # of # have a p-value of 0.05 or "
    r"less \(luck: #\)"
)
def _(run, where, epoch, count, tested, luck):
    p = [row["p_value"] for row in run.units(where, int(epoch)) if row["state"] == "live" and row["concept"]]
    p = [value for value in p if value != "" and not math.isnan(value)]
    return [
        run.named(where, int(epoch)) == 0,
        int(epoch) == run.epochs(where)[-1],
        same(count, sum(value <= 0.05 for value in p)),
        same(tested, len(p)),
        same(luck, 0.05 * len(p)),
    ]


@reads(
    r"(.+?): units that name a concept beyond chance (rise|fall) from # to # of # between epochs # and # "
    r"\(luck: at most # of them(?:; random weights: #)?\)"
)
def _(run, where, way, before, after, units, first, last, luck, random):
    real = run.named(where, int(first)), run.named(where, int(last))
    return [
        same(before, real[0]),
        same(after, real[1]),
        way == ("rise" if real[1] > real[0] else "fall"),
        same(units, len(run.units(where, int(last)))),
        [int(first), int(last)] == [run.epochs(where)[0], run.epochs(where)[-1]],
        *luck_and_random(run, where, real[1], luck, random),
    ]


@reads(
    r"(.+?): units that name a concept beyond chance fall from # at epoch #, the best one, to # at epoch #"
)
def _(run, where, before, best, after, last):
    counts = {epoch: run.named(where, epoch) for epoch in run.epochs(where)}
    return [
        same(before, counts[int(best)]),
        counts[int(best)] == max(counts.values()),
        same(after, counts[int(last)]),
        int(last) == max(counts),
    ]


@reads(
    r"(.+?): the category (\w+) (rises|falls) from # to # units between epochs # and #(?:, ([+-]\d+) "
    r"between # and #)?"
)
def _(run, where, category, way, before, after, first, last, step, start, stop):
    counts = {epoch: run.named(where, epoch, category) for epoch in run.epochs(where)}
    epochs = sorted(counts)
    found = [
        same(before, counts[epochs[0]]),
        same(after, counts[epochs[-1]]),
        way == ("rises" if counts[epochs[-1]] > counts[epochs[0]] else "falls"),
        [int(first), int(last)] == [epochs[0], epochs[-1]],
    ]
    if step is not None:
        change = counts[int(stop)] - counts[int(start)]
        steps = [counts[b] - counts[a] for a, b in pairwise(epochs)]
        most = max(steps) if way == "rises" else min(steps)
        found += [int(step) == change == most, epochs.index(int(stop)) == epochs.index(int(start)) + 1]
    return found


HELD = {
    "well": "they hold well",
    "somewhat": "they hold somewhat",
    "weakly": "they hold weakly, more photos would help",
}


@reads(
    r"(.+?): on images that had no part in choosing them, labels tell a unit's active images from "
    r"others with AUC #, "
    r"labels of other units #, at epoch #: (.+)"
)
def _(run, where, auc, chance, epoch, word):
    row = run.whole(where, int(epoch))
    return [
        same(auc, row["held_out"]),
        same(chance, row["held_out_chance"]),
        row["held_out"] > row["held_out_chance"],
        row["held_out_measure"] == "auc",
        HELD[row["held_out_word"]] == word,
        int(epoch) == run.epochs(where)[-1],
    ]


@reads(
    r"(.+?): on images that had no part in choosing them, labels overlap their units with IoU #, "
    r"labels of other units #, at epoch #: (.+)"
)
def _(run, where, iou, chance, epoch, word):
    row = run.whole(where, int(epoch))
    return [
        same(iou, row["held_out"]),
        same(chance, row["held_out_chance"]),
        row["held_out"] > row["held_out_chance"],
        row["held_out_measure"] == "iou",
        HELD[row["held_out_word"]] == word,
        int(epoch) == run.epochs(where)[-1],
    ]


def label_changes(run: RunFiles, where: str) -> tuple[int, int]:
    """All changes of label, and how often a unit could have changed."""
    changed = could = 0
    held: dict[Any, tuple[str, str]] = {}
    for epoch in run.epochs(where):
        for row in run.units(where, epoch):
            if row["state"] != "live" or not row["concept"]:
                continue
            label = (row["concept"], row["category"])
            if row["unit"] in held:
                could += 1
                changed += held[row["unit"]] != label
            held[row["unit"]] = label
    return changed, could


@reads(r"(.+?): # of # changes of label between epochs are more than luck \(luck: #\)")
def _(run, where, sure, labels, luck):
    changed, could = label_changes(run, where)
    return [
        same(sure, len(run.of(where, run.csv("changes")))),
        same(labels, changed),
        same(luck, 0.031 * could),
        int(sure) > float(luck),
    ]


@reads(
    r"(.+?): of # changes of label between epochs # withstand other images, luck gives up to #: read "
    r"no single change"
)
def _(run, where, labels, sure, luck):
    changed, could = label_changes(run, where)
    real = len(run.of(where, run.csv("changes")))
    return [same(sure, real), same(labels, changed), same(luck, 0.031 * could)]


@reads(
    r"(.+?): units (settle|move more): with itself a unit correlates # between epochs # and #, # "
    r"between # and # "
    r"\(unrelated: 0\)"
)
def _(run, where, way, early, a, b, late, c, d):
    rows = run.of(where, run.csv("self_similarity"))
    at = {
        epoch: {row["unit"]: row["self_similarity"] for row in rows if row["epoch"] == epoch}
        for epoch in (int(b), int(d))
    }
    both = [
        unit
        for unit in at[int(b)]
        if not (math.isnan(at[int(b)][unit]) or math.isnan(at[int(d)].get(unit, math.nan)))
    ]
    values = [mean([at[epoch][unit] for unit in both]) for epoch in (int(b), int(d))]
    epochs = run.epochs(where)
    return [
        same(early, values[0]),
        same(late, values[1]),
        way == ("settle" if values[1] > values[0] else "move more"),
        [int(a), int(b)] == epochs[:2],
        [int(c), int(d)] == epochs[-2:],
    ]


@reads(
    r"(.+?): from epoch # to # units move # among the words, luck alone #(?:; unrelated units lie # apart)?"
)
def _(run, where, first, last, moved, luck, unrelated):
    rows = run.of(where, run.csv("units"))
    floor = max(row["drift_floor_random"] for row in rows)
    return [
        same(moved, mean([row["drift"] for row in rows])),
        same(luck, max(row["drift_floor_halves"] for row in rows)),
        math.isnan(floor) if unrelated is None else same(unrelated, floor),
        [int(first), int(last)] == [run.epochs(where)[0], run.epochs(where)[-1]],
        float(moved) >= float(luck),
    ]


@reads(r"(.+?): units move # among the words, luck alone #: read no single path on the map")
def _(run, where, moved, luck):
    rows = run.of(where, run.csv("units"))
    return [
        same(moved, mean([row["drift"] for row in rows])),
        same(luck, max(row["drift_floor_halves"] for row in rows)),
    ]


@reads(r"(.+?): (\S+) and (\S+) give # of # units the same concept at epoch # \(luck: #\)")
def _(run, layer, one, other, share, units, epoch, luck):
    labels = []
    for detector in (one, other):
        rows = run.units(f"{layer} ({detector})", int(epoch))
        labels.append({r["unit"]: r["concept"] for r in rows if r["state"] == "live" and r["concept"]})
    both = sorted(set(labels[0]) & set(labels[1]))
    counts = [Counter(label[unit] for unit in both) for label in labels]
    chance = sum(counts[0][word] * counts[1][word] for word in counts[0]) / len(both) ** 2
    agree = sum(labels[0][unit] == labels[1][unit] for unit in both) / len(both)
    return [same(share, agree), same(units, len(both)), same(luck, chance)]


@reads(
    r"the images are cmon's own renderings, for trying only: names of renderings say little about a "
    r"network trained on "
    r"photos\. Name photos: --probe photos/"
)
def _(run):
    return [run.info["probe"]["name"] == "builtin", run.info["options"]["probe"] is None]


@reads(
    r"# independent images are few: a label hangs on one or two of them, and chance is known only "
    r"coarsely\. Take # or "
    r"more, better some thousands: --probe"
)
def _(run, groups, wanted):
    return [same(groups, run.info["probe"]["groups"]), int(groups) < 500, wanted == "500"]


@reads(
    r"(.+?): # of # live units have the concept '(.+)' at epoch #: these images or words do not tell "
    r"units apart\. More "
    r"varied photos or other words do: --probe, --concepts"
)
def _(run, where, count, live, concept, epoch):
    words = [row["concept"] for row in run.units(where, int(epoch)) if row["state"] == "live"]
    words = [word for word in words if word]
    return [same(count, words.count(concept)), same(live, len(words)), 2 * words.count(concept) > len(words)]


@reads(
    r"(.+?): labels hold no better than chance on images that had no part in choosing them \((AUC|IoU) #, "
    r"labels of other units "
    r"#, epoch #\): trust no single label\. More photos, or photos and words that fit the network: "
    r"--probe, --concepts"
)
def _(run, where, measure, value, chance, epoch):
    row = run.whole(where, int(epoch))
    return [
        row["held_out_measure"] == measure.lower(),
        same(value, row["held_out"]),
        same(chance, row["held_out_chance"]),
        row["held_out_word"] == "no better than chance",
    ]


@reads(
    r"(.+?): # of the units repeat another one at epoch #, and together they count as # different "
    r"ones \(independent "
    r"units: #\)(?:\. Units that are alike get wrong, different names: --similarity cos-cubed)?"
)
def _(run, where, share, epoch, effective, chance):
    row = run.whole(where, int(epoch))
    return [
        same(share, row["redundant"]),
        same(effective, row["effective_units"]),
        same(chance, row["effective_units_chance"]),
    ]


@reads(r"(.+?): at epoch # units clump: they count as # as many as independent units would, after #(?:; .*)?")
def _(run, where, epoch, now, before):
    shares = [
        run.whole(where, e)["effective_units"] / run.whole(where, e)["effective_units_chance"]
        for e in run.epochs(where)
    ]
    return [int(epoch) == run.epochs(where)[-1], same(now, shares[-1]), same(before, max(shares[:-1]))]


@reads(
    r"(.+?): at epoch # units collapse: # of them are redundant, another unit repeats them, after #(?:; .*)?"
)
def _(run, where, epoch, now, before):
    shares = [run.whole(where, e)["redundant"] for e in run.epochs(where)]
    return [int(epoch) == run.epochs(where)[-1], same(now, shares[-1]), same(before, min(shares[:-1]))]


@reads(r"(.+?): at epoch # units die: # are dead, after #")
def _(run, where, epoch, now, before):
    shares = []
    for e in run.epochs(where):
        rows = run.units(where, e)
        shares.append(sum(row["state"] == "dead" for row in rows) / len(rows))
    return [
        int(epoch) == run.epochs(where)[-1],
        same_tenth(now, shares[-1]),
        same_tenth(before, min(shares[:-1])),
    ]


def same_tenth(said: str, value: float) -> bool:
    return abs(float(said.rstrip("%")) - 100 * value) <= 0.0501


@reads(
    r"(.+?): # units name a concept at epoch #, with random weights #: (training is not what made them name "
    r"one|so few different units do not tell whether training made them name one)"
)
def _(run, where, count, epoch, random, doubt):
    named = run.named(where, int(epoch))
    return [
        same(count, named),
        same(random, run.random(where)),
        (named > run.random(where)) == doubt.startswith("so few"),
    ]


@reads(
    r"(.+?): # of # units are dead at epoch #, # fire on too few images to be named: these images may "
    r"not be what the "
    r"network was trained on \(--probe\), or were shown otherwise \(--input-size, --mean, --std\)"
)
def _(run, where, dead, units, epoch, sparse):
    states = [row["state"] for row in run.units(where, int(epoch))]
    return [
        same(dead, states.count("dead")),
        same(sparse, states.count("sparse")),
        same(units, len(states)),
    ]


@reads(
    r"nothing beyond chance: of # statements about (?:# layers?|this run) none is more than luck gives"
    r"(?:; # units of (.+?) name a concept one by one, but all its units together are within luck, where "
    r"those that are alike count once)?"
)
def _(run, tried, layers, count, where):
    places = {(row["layer"], row["detector"]) for row in run.best}
    said = [int(tried) >= 1, int(layers) <= len(places)]
    if count is not None:
        last = max(row["epoch"] for row in run.best if row["layer"] == where)
        said.append(same(count, run.named(where, last)))
    return said


def untrue(run: RunFiles, sentence: str) -> str | None:
    """Why a sentence is not true; `None` where it is."""
    for pattern, check in READINGS:
        match = re.fullmatch(pattern, sentence)
        if match:
            try:
                found = check(run, *match.groups())
            except (KeyError, ValueError, ZeroDivisionError) as error:  # an epoch that is not there, say
                return f"{sentence!r}: {error!r}"
            return None if all(found) else f"{sentence!r}: {found}"
    return f"{sentence!r} cannot be read"
