"""What a page shows: the tables of a run, gathered and turned into columns.

All numbers are counted anew from the concept table, by the same functions as `cmon stats` and `cmon units`,
so that a page never shows statistics of another state of the run. What takes the encoder (spread, drift) or
the recordings (changes with confidence) is taken over from their tables where they agree with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from concept_monitor_cli import __version__
from concept_monitor_cli.monitor.findings import caption
from concept_monitor_cli.monitor.history import UNCATEGORISED, History, category_order
from concept_monitor_cli.monitor.lives import unit_lives
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.report.images import PER_SHEET, SHEET_COLUMNS, THUMBNAIL
from concept_monitor_cli.report.page.made import UnitPictures
from concept_monitor_cli.report.page.pack import floats, integers, number, short_info
from concept_monitor_cli.report.page.pictures import Pictures
from concept_monitor_cli.report.page.statistics import record_notes, series_statistics
from concept_monitor_cli.report.page.structure import (
    Structure,
    circuits_json,
    dynamics_json,
    factors_json,
    ranges_json,
    uses_json,
)
from concept_monitor_cli.report.page.tables import Tables
from concept_monitor_cli.report.style import FOLLOWED_COLOURS, TRACK_COLOURS, category_colour
from concept_monitor_cli.run import RunFolder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from concept_monitor_cli.monitor.findings import Finding

PRESENT, LIVE, INTERPRETABLE = 1, 2, 4
# Above this, ranks beyond the first are left out: a page of 60 MB opens slowly and travels badly.
MAX_TABLE_BYTES = 30_000_000
# What a unit takes at one epoch, in bytes of base64, with its first concept and place; and each more concept.
_UNIT_BYTES, _RANK_BYTES = 19, 5.4


def affordable_ranks(tables: Tables) -> int:
    """How many concepts per unit a page can carry: all of the table, or one where that is too much."""
    ranks = int(tables.concepts["rank"].max())
    moments = int((tables.concepts["rank"] == 1).sum())
    return ranks if moments * (_UNIT_BYTES + _RANK_BYTES * (ranks - 1)) <= MAX_TABLE_BYTES else 1


@dataclass(frozen=True)
class Beside:
    """Another run, whose charts stand beside those of a page.

    Attributes:
        name: of the run.
        histories: for each layer of the page the same one of the other run; `None` where it has none.
        tables: of the other run.
        notes: (layer, detector) -> what its table records say.
        findings: what sets the runs apart; the page's is A, the other is B.
    """

    name: str
    histories: Sequence[History | None]
    tables: Tables
    notes: Mapping[tuple[str, str], Any]
    findings: Sequence[Finding] = ()


@dataclass
class Vocabulary:
    """The labels of all layers: a concept with its category, written into the page once.

    Attributes:
        labels: pairs of concept and category; their place is their number.
        categories: in the order of charts.
    """

    labels: pd.MultiIndex
    categories: list[str]

    @classmethod
    def of(cls, table: pd.DataFrame) -> Vocabulary:
        """The labels that a concept table has, sorted."""
        named = table[table["concept"] != ""]
        pairs = named[["concept", "category"]].drop_duplicates().sort_values(["concept", "category"])
        return cls(pd.MultiIndex.from_frame(pairs), category_order(pairs["category"]))

    def add_categories(self, table: pd.DataFrame) -> None:
        """Categories that another concept table has as well."""
        named = table.loc[table["concept"] != "", "category"]
        self.categories = category_order([*self.categories, *named.unique()])

    def to_json(self) -> dict[str, Any]:
        """Columns: names, and the number of each one's category."""
        place = {name: number for number, name in enumerate(self.categories)}
        return {
            "name": [str(concept) for concept, _ in self.labels],
            "category": [place[category or UNCATEGORISED] for _, category in self.labels],
        }


def series_json(
    history: History, tables: Tables, vocabulary: Vocabulary, ranks: int, notes: Mapping[tuple[str, str], Any]
) -> dict[str, Any]:
    """One layer as one detector sees it. Arrays are epochs x units, with ranks outermost.

    Args:
        history: the layer.
        tables: of the run.
        vocabulary: numbers the labels.
        ranks: concepts per unit to keep.
        notes: (layer, detector) -> what its table records say.
    """
    shape = (len(history.epochs), len(history.units))
    rows = history.rows(tables.concepts)
    rows = rows[rows["rank"] <= ranks]
    at = _places(rows, history)
    label = vocabulary.labels.get_indexer(pd.MultiIndex.from_frame(rows[["concept", "category"]])) + 1
    rank = rows["rank"].to_numpy(dtype=np.int64) - 1
    concept = np.zeros((ranks, *shape), dtype=np.int64)
    concept[rank, at[0], at[1]] = label
    score = np.full((ranks, *shape), np.nan)
    score[rank, at[0], at[1]] = rows["score"].to_numpy(dtype=float)
    first = rank == 0
    effect = np.full(shape, np.nan)
    effect[at[0][first], at[1][first]] = rows["effect"].to_numpy(dtype=float)[first]
    p_value = np.full(shape, np.nan)
    p_value[at[0][first], at[1][first]] = rows["p_value"].to_numpy(dtype=float)[first]
    flags = np.zeros(shape, dtype=np.int64)
    flags[at[0][first], at[1][first]] = PRESENT
    flags |= np.where(history.live.T, LIVE, 0) | np.where(history.interpretable.T, INTERPRETABLE, 0)
    return {
        "layer": history.layer,
        "detector": history.detector,
        "epochs": history.epochs.tolist(),
        "checkpoints": list(history.checkpoints),
        "units": integers(history.units),
        "size": len(history.units),
        "ranks": ranks,
        "concept": integers(concept),
        "score": floats(score),
        "p": floats(p_value, log=True),
        "effect": floats(effect),
        "flags": integers(flags),
        "place": _place_json(history, tables, shape),
        "lives": _lives_json(history, tables),
        "statistics": series_statistics(history, tables, vocabulary.categories, notes),
        **notes.get((history.layer, history.detector), {}),
    }


def other_json(beside: Beside, categories: Sequence[str]) -> dict[str, Any]:
    """Another run: its numbers per layer of the page and epoch, and what sets the two apart."""
    return {
        "title": beside.name,
        "findings": [each.sentence for each in beside.findings],
        "series": [
            None
            if history is None
            else {
                "layer": history.layer,
                "detector": history.detector,
                "epochs": history.epochs.tolist(),
                "size": len(history.units),
                "statistics": series_statistics(history, beside.tables, categories, beside.notes),
            }
            for history in beside.histories
        ],
    }


def _places(rows: pd.DataFrame, history: History) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row by row, the places of its epoch and its unit in a history."""
    epoch = np.searchsorted(history.epochs, rows["epoch"].to_numpy(dtype=np.int64))
    unit = np.searchsorted(history.units, rows["unit"].to_numpy(dtype=np.int64))
    return epoch.astype(np.int64), unit.astype(np.int64)


def _place_json(history: History, tables: Tables, shape: tuple[int, int]) -> dict[str, Any] | None:
    """Where the units are in the picture of concept space; `None` where this layer is not in it."""
    if tables.embedding is None or tables.anchors is None:
        return None
    rows = history.rows(tables.embedding)
    rows = rows[rows["epoch"].isin(history.epochs) & rows["unit"].isin(history.units)]
    if rows.empty:
        return None
    at = _places(rows, history)
    x, y, distance = (np.full(shape, np.nan) for _ in range(3))
    anchor = np.zeros(shape, dtype=np.int64)
    for array, column in ((x, "x"), (y, "y"), (distance, "anchor_distance")):
        array[at] = rows[column].to_numpy(dtype=float)
    names = {str(name): number for number, name in enumerate(tables.anchors["anchor"], start=1)}
    anchor[at] = [names.get(str(name), 0) for name in rows["nearest_anchor"]]
    return {"x": floats(x), "y": floats(y), "anchor": integers(anchor), "distance": floats(distance)}


def _lives_json(history: History, tables: Tables) -> dict[str, Any]:
    """What `units.csv` says. -1 stands for "never"."""
    lives = unit_lives(history)
    keys = ["unit", "final_concept", "final_category", "first_epoch", "label_changes"]
    extra = ["drift", "path_length", "confident_changes"]
    floors = ["drift_floor_random", "drift_floor_halves"]
    known = None
    if tables.units is not None:
        own = history.rows(tables.units)
        # Of runs of earlier versions all changes of label counted.
        own = own.assign(label_changes=own["label_changes"].fillna(own["changes"]))
        kept = ["stable_from", "changes", *extra, *floors]
        known = lives[keys].merge(own[[*keys, *kept]], how="left", on=keys)
        agree = known["changes"].notna()
        for name in ("stable_from", "changes"):
            lives[name] = lives[name].where(~agree, known[name])
    result: dict[str, Any] = {
        # One more than the value, so that 0 can stand for none.
        name: integers(lives[name].fillna(-1).to_numpy(dtype=np.int64) + 1)
        for name in ("first_epoch", "stable_from", "changes", "born", "died")
    }
    if known is None:
        return result
    result["floors"] = {name: number(known[name].max()) for name in floors}
    if known[extra].notna().any().any():
        result["drift"] = floats(known["drift"])
        result["path"] = floats(known["path_length"])
        result["confident"] = integers(known["confident_changes"].fillna(-1).to_numpy(dtype=np.int64) + 1)
    return result


def anchors_json(tables: Tables) -> dict[str, Any] | None:
    """Names and places of the anchors."""
    if tables.anchors is None:
        return None
    return {
        "name": [str(name) for name in tables.anchors["anchor"]],
        "x": [number(value) for value in tables.anchors["x"]],
        "y": [number(value) for value in tables.anchors["y"]],
    }


def page_content(
    run: RunFolder,
    histories: Sequence[History],
    tables: Tables,
    pictures: Pictures,
    *,
    findings: Sequence[Finding] = (),
    tracked: Sequence[int] = (),
    structure: Structure | None = None,
    beside: Beside | None = None,
    made: UnitPictures | None = None,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Everything that a page shows, as plain JSON values.

    Args:
        run: whose.
        histories: its layers, in the order of the page.
        tables: its tables.
        pictures: which units show which images.
        findings: what the run says, in sentences.
        tracked: units that are followed from the start.
        structure: what `dynamics`, `factors`, `vectors`, `evolutions`, `circuits` and `ablate` found.
        beside: another run.
        made: the pictures that were made of units.
        progress: told of the packing.
    """
    concepts, left_out = tables.concepts, [*pictures.left_out, *(made.left_out if made else ())]
    most, ranks = int(concepts["rank"].max()), affordable_ranks(tables)
    if ranks < most:
        left_out.append(
            f"Only the best of {most} concepts per unit is shown, to keep this page small; the others are in "
            "tables/concepts.parquet. With --layer or --epochs there is room for them."
        )
    vocabulary, notes = Vocabulary.of(concepts), record_notes(run)
    if beside is not None:
        vocabulary.add_categories(beside.tables.concepts)
    series = []
    with progress.task("packing tables", len(histories), "layers") as advance:
        for history, images in zip(histories, pictures.series, strict=True):
            series.append({**series_json(history, tables, vocabulary, ranks, notes), "images": images})
            advance(1)
    content = {
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cmon": __version__,
        "title": run.root.resolve().name,
        "run": short_info(run.info()),
        "caption": caption(run.info()),
        "findings": [
            {**each.as_dict(), "caution": each.is_caution, "command": each.command} for each in findings
        ],
        "epochs": sorted(int(epoch) for epoch in concepts["epoch"].unique()),
        "categories": [{"name": name, "colour": category_colour(name)} for name in vocabulary.categories],
        "labels": vocabulary.to_json(),
        "series": series,
        "beside": None if beside is None else other_json(beside, vocabulary.categories),
        "anchors": anchors_json(tables),
        "tracked": list(tracked),
        "dynamics": None if structure is None else dynamics_json(structure, [h.layer for h in histories]),
        "factors": None
        if structure is None
        else factors_json(structure, {name: place for place, name in enumerate(pictures.names)}),
        "atlas": None if structure is None else structure.atlas,
        "uses": None if structure is None else uses_json(structure.uses, histories),
        "circuits": None if structure is None else circuits_json(structure),
        "ranges": None if structure is None else ranges_json(structure, histories),
        "trackColours": list(TRACK_COLOURS),
        "followedColours": list(FOLLOWED_COLOURS),
        "remarks": tables.remarks,
        "leftOut": left_out,
        "images": {
            "size": THUMBNAIL,
            "columns": SHEET_COLUMNS,
            "perSheet": PER_SHEET,
            "names": pictures.names,
            "sheets": len(pictures.sheets.uris),
            "missing": pictures.missing,
        },
    }

    if made is None or not any(made.units):
        return content
    return {
        **content,
        "pictures": made.to_json(PER_SHEET * len(pictures.sheets.uris)),
    }
